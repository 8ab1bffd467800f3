/* SPDX-License-Identifier: MIT */
/*
 * Configuration: YAML, one file and a pyleakd.d folder, as config/pyleakd.yaml documents it.
 * The only place that knows libyaml. All mistakes are found, not only the first; each has a place.
 */
#ifndef PYLEAK_CONFIG_CONFIG_H
#define PYLEAK_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/util/err.h"

#define CONFIG_DEFAULT_PATH "/etc/pyleak/pyleakd.yaml"

struct config_rule { /* of `targets`; NULL: not asked for. Values are globs (fnmatch). */
	char *comm, *exe, *cmdline, *user, *unit;
	bool watch;
};

enum config_action {
	ACTION_DUMP = 1 << 0,
	ACTION_EXEC = 1 << 1,
	ACTION_WEBHOOK = 1 << 2,
	ACTION_ALERTMANAGER = 1 << 3,
};

/* One condition of a trigger; the keys of a `when` are AND, `any:` is OR over nested ones. */
enum config_when_kind {
	WHEN_VERDICT,	 /* verdict: leak | watch (watch is met by leak too) */
	WHEN_COUNT,	 /* count_above: {type: GLOB, count: N} */
	WHEN_RATE,	 /* growth_above: {type: GLOB, per_hour: N} */
	WHEN_SHARE,	 /* share_above: {type: GLOB, share: SHARE of all live objects} */
	WHEN_RSS,	 /* rss_above: SIZE */
	WHEN_CGROUP,	 /* cgroup_memory_above: SHARE of the limit */
	WHEN_ALL,	 /* children, AND */
	WHEN_ANY,	 /* children, OR */
};
struct config_when {
	enum config_when_kind kind;
	int verdict;	   /* enum track_verdict_kind */
	char *type;	   /* glob; of COUNT, RATE, SHARE, and of WHEN_VERDICT or NULL (every type) */
	uint64_t count;	   /* or objects an hour */
	uint64_t bytes;
	double share;
	struct config_when *children;
	size_t n_children;
};

struct config_trigger {
	char *name;
	struct config_when when;
	uint64_t hold_ns;
	unsigned actions; /* enum config_action */
	uint64_t cooldown_ns;
	unsigned per_day;
};

/* Verdicts that nobody wants to hear of: of types, in services, until a day, up to so many. */
struct config_suppress {
	char *type, *service; /* globs; service NULL: all */
	char *reason;
	int64_t until_ms; /* since the epoch; 0: for good */
	uint64_t up_to;   /* live objects; 0: however many */
	bool benign;      /* out of benign.yaml, not the configuration itself */
};

struct config {
	struct config_rule *rules; /* none: every Python */
	size_t n_rules;
	bool rules_given; /* `targets` was in the file */
	double budget_cpu; /* share; 0: unlimited */
	uint64_t budget_pause_ns;
	uint64_t growth_interval_ns, growth_warmup_ns, growth_window_ns;
	uint64_t growth_min_objects;
	struct config_suppress *suppress; /* growth.suppress */
	size_t n_suppress;
	struct config_trigger *triggers;
	size_t n_triggers;
	uint64_t dump_pause_ns, dump_deadline_ns;
	int dump_keys; /* enum capture_keys */
	double dump_headroom;
	char *metrics_listen; /* outputs.metrics: "127.0.0.1:9477"; NULL: no metrics */
	uint64_t storage_history_ns, storage_dumps_bytes;
};

/* Built-in defaults (no rules, no triggers). */
int config_new(struct config **ret);
void config_free(struct config *c);
void config_freep(struct config **c);

/*
 * Reads path and path's folder + "pyleakd.d", files *.yaml (sorted) over the defaults, and then path's folder +
 * "benign.yaml", if that is there: growth that is known to end, each with the count up to which it is. A later
 * file's values win, its rules and triggers are appended, a trigger replaces an earlier file's
 * trigger of the same name. Every mistake is written to `diag` (may be NULL) as
 * "file:line:col: what is wrong, what is allowed", a line with the source and one with a caret
 * below it. Warnings begin "file:line:col: warning: ". -EINVAL if there was an error (then *ret is
 * untouched, and err holds the first mistake and how many more there are), -ENOENT and friends with
 * err for an unreadable file, -EFBIG above 1 MiB.
 */
int config_load(const char *path, FILE *diag, struct config **ret, struct err *err);

/* The reason why verdicts on the type in the service, of which so many live (< 0: not known), are suppressed
 * at that time, or NULL. */
const char *config_suppressed(
	const struct config *c, const char *service, const char *type, int64_t count, int64_t at_ms);

/* The effective configuration as YAML with comments, what --print-config prints; loading it gives
 * the same configuration. */
int config_print(const struct config *c, FILE *f);

#endif
