/* SPDX-License-Identifier: MIT */
/*
 * When does a condition become an action? PURE: no clock, no I/O; state is exported and imported
 * so that cooldowns and quotas survive a restart.
 *
 * A rule fires for (service, rule, type) when its condition has been true without a break for
 * `hold`, its cooldown since the last firing of the same key is over, and the key has fired fewer
 * than per_day times in the last 24 h. After firing it must become false, or the cooldown pass,
 * before it fires again (a cooldown of 0: it must become false). A condition without a type (RSS,
 * cgroup) has type "".
 *
 * Conditions and types. A rule is asked once for each type, where `verdict` and `*_above` with a
 * type speak of that type, and once for the process without a type, where both are false:
 *   verdict and count_above in one `when`    both hold for the same type; fires for that type
 *   verdict and rss_above                    the type has the verdict and the process the memory
 *   any: [verdict, rss_above]                fires for each type with the verdict, and for "" when
 *                                            the memory is above; the one does not stop the other
 *   rss_above and cgroup_memory_above        fires for ""
 * A `leak` meets `verdict: watch` too. Several processes of one service share cooldown and quota,
 * not hold. A clock that goes back restarts holds, and firings in its future count as of now.
 */
#ifndef PYLEAK_TRIGGER_TRIGGER_H
#define PYLEAK_TRIGGER_TRIGGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/config/config.h"

struct trigger_engine;
struct trigger_record;

/* What is known of one target at one time. Types without a count (unknown level) have
 * count INT64_MIN and match no count_above. */
struct trigger_type_state {
	const char *type;
	int64_t count;
	double rate_per_hour; /* of its growth over the last window; < 0 or 0: none */
	double share;         /* of all live objects; < 0: not known */
	int verdict;          /* enum track_verdict_kind */
};
struct trigger_observation {
	const char *service; /* stable name over restarts: unit, or exe + cmdline */
	int32_t pid;
	int64_t at_ms;
	uint64_t rss_bytes;
	double cgroup_share; /* of the memory limit; < 0: no limit or unknown */
	const struct trigger_type_state *types;
	size_t n_types;
};

struct trigger_firing {
	const char *trigger; /* rule's name, valid until the engine is freed or reconfigured */
	const char *kind;    /* "verdict" or "threshold": the `trigger` of a dump's JSON */
	char type[256];      /* "" if the condition names none */
	unsigned actions;    /* enum config_action */
	int64_t at_ms;
	char reason[256]; /* "app.Session: verdict leak, held for 10 s" */
};

/* What is needed of the config is copied. */
int trigger_engine_new(const struct config *c, struct trigger_engine **ret);
void trigger_engine_free(struct trigger_engine *e);

/* Evaluates all rules; *ret (malloc'ed, NULL for none) holds those that fire now, in the order of
 * the rules, then of the types' names. A condition that was held back by cooldown or quota counts
 * as suppressed, once until it fires or becomes false. */
int trigger_engine_observe(struct trigger_engine *e, const struct trigger_observation *o,
	struct trigger_firing **ret, size_t *ret_n);

/* Nothing came of that firing of this process: it may fire again after retry_ms, or its cooldown if that is
 * less, and does not count among per_day. */
void trigger_engine_release(
	struct trigger_engine *e, const struct trigger_record *r, int32_t pid, int64_t retry_ms);

/* Goes on where the other one was, which is used no more: rules of one name and with the same conditions keep
 * what is true and for how long, and cooldowns that only it knows of are kept. -ENOMEM: as far as it got. */
int trigger_engine_take_over(struct trigger_engine *e, struct trigger_engine *old);

/* Forget a target's hold state (it is gone); cooldowns stay. */
void trigger_engine_forget(struct trigger_engine *e, const char *service, int32_t pid);

/* Persistent state: firings of the last 24 h or within their cooldown. */
struct trigger_record {
	char service[256], trigger[64], type[256];
	int64_t at_ms;
};
int trigger_engine_import(struct trigger_engine *e, const struct trigger_record *r);

/* For status: state of each rule in words. suppressed: would have fired but for cooldown/quota. */
uint64_t trigger_engine_suppressed(const struct trigger_engine *e);

#endif
