/* SPDX-License-Identifier: MIT */
/*
 * The verdict engine over a recording: what would have fired with other settings. Grouping by cause and
 * suppression are the daemon's own.
 */
#ifndef PYLEAK_RECORD_REPLAY_H
#define PYLEAK_RECORD_REPLAY_H

#include "daemon/record/record.h"
#include "daemon/util/u64map.h"

struct replay_settings { /* 0: as recorded */
	uint64_t interval_ms, window_ms, min_objects;
	int64_t warmup_ms; /* < 0: as recorded */
	/* Whether verdicts on the type in this service, of which so many live, are suppressed, and why; NULL:
	 * none are. */
	const char *(*suppressed)(
		void *arg, const char *service, const char *type, int64_t count, int64_t at_ms);
	void *arg;
};

/* A verdict came, changed or went, or is not suppressed any more. */
struct replay_event {
	int64_t at_ms;
	unsigned target;
	struct track_type *type;
	enum track_verdict_kind kind;
	const char *leader;     /* the type it grows with, NULL: it leads itself */
	const char *suppressed; /* why, or NULL */
	int64_t count, delta;
	double rate_per_hour, confidence;
	char *reason;
};

struct replay_target {
	struct track *track;
	pid_t pid;
	char *service;
	int64_t start_ms, first_ms, last_ms;
	uint64_t samples;
	int64_t gauge_min[TRACK_GAUGES], gauge_max[TRACK_GAUGES]; /* < 0: not known */
	struct replay_type {
		struct track_type *ty;
		bool judged;
		bool silent; /* its verdict is suppressed */
	} *types;
	size_t n_types;
	struct u64map *keys; /* -> index in types, and one */
};

struct replay {
	struct replay_settings settings;
	struct track_config config; /* the last one in force */
	struct replay_target *targets;
	unsigned n_targets;
	struct replay_event *events;
	size_t n_events;
	bool cut; /* the recording ended in the middle of a line: err says where */
};

#define REPLAY_EVENTS 65536 /* kept at the most */

/* -EBADMSG: no recording at all; what ends in the middle is replayed up to there. */
int replay_run(FILE *f, const struct replay_settings *s, struct replay *ret, struct err *err);
void replay_release(struct replay *r);

#endif
