/* SPDX-License-Identifier: MIT */
/*
 * When does a condition become an action? PURE: no clock, no I/O; state is exported and imported
 * so that cooldowns and quotas survive a restart.
 *
 * A rule fires for (service, rule, type) when its condition has been true without a break for
 * `hold`, its cooldown since the last firing of the same key is over, and the key has fired fewer
 * than per_day times in the last 24 h. After firing it must become false, or the cooldown pass,
 * before it fires again. A condition without a type (RSS, cgroup) has type "".
 */
#ifndef PYLEAK_TRIGGER_TRIGGER_H
#define PYLEAK_TRIGGER_TRIGGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/config/config.h"

struct trigger_engine;

/* What is known of one target at one time. Types without a count (unknown level) have
 * count INT64_MIN and match no count_above. */
struct trigger_type_state {
	const char *type;
	int64_t count;
	int verdict; /* enum track_verdict_kind */
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
	char type[256];	     /* "" if the condition names none */
	unsigned actions;    /* enum config_action */
	int64_t at_ms;
	char reason[256];    /* "app.Session: verdict leak, held for 10 s" */
};

int trigger_engine_new(const struct config *c, struct trigger_engine **ret);
void trigger_engine_free(struct trigger_engine *e);

/* Evaluates all rules; *ret (malloc'ed) holds those that fire now. Rules that would have fired but for
 * cooldown or quota are counted. */
int trigger_engine_observe(struct trigger_engine *e, const struct trigger_observation *o,
	struct trigger_firing **ret, size_t *ret_n);

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
