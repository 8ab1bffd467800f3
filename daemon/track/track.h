/* SPDX-License-Identifier: MIT */
/*
 * The growth model: a time series per type of one target, growth against the previous peak, and
 * the verdict. PURE: no I/O, no clock; time comes in with every call (ms since the epoch, never
 * going back: an older time than the last one is taken as the last one).
 *
 * Levels. A sample's `count` is the live count at that time, or TRACK_UNKNOWN where the level
 * before attaching is unknown; then births - deaths since attach stands in for it in growth and
 * verdicts (a delta needs no base), and `count` stays unknown in what is shown.
 */
#ifndef PYLEAK_TRACK_TRACK_H
#define PYLEAK_TRACK_TRACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACK_UNKNOWN INT64_MIN
#define TRACK_POINTS  160 /* kept per type at the most; the newer half whole, the older thinner with age */

struct track_config {
	uint64_t interval_ms; /* how often samples come */
	uint64_t warmup_ms;   /* after the target's start: nothing is judged */
	uint64_t window_ms;   /* growth must last this long to be a verdict */
	uint64_t min_objects; /* less growth in all, however long it took: no verdict */
};

enum track_quality {
	TRACK_EXACT,
	TRACK_ESTIMATE,
	TRACK_BLIND,
};
const char *track_quality_name(enum track_quality q); /* "exact", "estimate", "blind" */

enum track_verdict_kind {
	TRACK_NONE,
	TRACK_WATCH,
	TRACK_LEAK,
};
const char *track_verdict_name(enum track_verdict_kind k); /* "none", "watch", "leak" */

struct track_point {
	int64_t at_ms;
	int64_t count;           /* or TRACK_UNKNOWN */
	uint64_t births, deaths; /* since attach */
	int64_t bound;           /* how far count may be off; 0: not at all, or not known */
};

struct track_verdict {
	enum track_verdict_kind kind;
	int64_t first_seen_ms; /* when it last left TRACK_NONE */
	int64_t count;         /* level at the last sample, or TRACK_UNKNOWN */
	int64_t delta;         /* growth over the time that `reason` names: a window, or several */
	double rate_per_hour;  /* robust slope; 0 where nothing moves */
	double confidence;     /* 0..1 */
	const char *reason;    /* one sentence a person believes; valid until the next sample */
};

/* What a target's load shows in outside of its heap. */
enum track_gauge {
	TRACK_THREADS,
	TRACK_FILES, /* open ones: connections */
	TRACK_GAUGES,
};
const char *track_gauge_name(enum track_gauge g); /* "threads", "open files" */

struct track_gauges {
	int64_t value[TRACK_GAUGES]; /* < 0: not known */
	bool counted;                /* no birth since the sample before was missed */
};

struct track;      /* one target */
struct track_type; /* one type of it */

int track_new(const struct track_config *c, int64_t target_start_ms, struct track **ret);
void track_free(struct track *t);
void track_configure(struct track *t, const struct track_config *c);

#define TRACK_TYPES 65536 /* of one target */

/* The type with this key (the caller's, e.g. the incarnation; not 0), made if it is not there;
 * NULL when out of memory or above TRACK_TYPES. name is copied (its first 255 bytes). Pointers stay valid until track_forget(). */
struct track_type *track_type_get(struct track *t, uint64_t key, const char *name);
void track_forget(struct track *t, uint64_t key);
const char *track_type_name(const struct track_type *ty);

/* The gauges at the time of the samples of types that follow. Without them no growth is load. */
void track_gauges(struct track *t, int64_t at_ms, const struct track_gauges *g);

/* A sample; judges the type anew. Returns true if the verdict's kind changed. */
bool track_sample(struct track *t, struct track_type *ty, const struct track_point *p);

const struct track_verdict *track_type_verdict(const struct track_type *ty);

/* Growth as objgraph's: what is there now above the highest level up to since_ms. False if it is
 * not above, or there is no point that old and none before `since` (then the first point counts). */
struct track_growth {
	int64_t count; /* or TRACK_UNKNOWN */
	int64_t delta;
	double rate_per_hour; /* delta over the time since that point */
	int64_t since_ms;     /* the time actually compared with */
};
bool track_type_growth(const struct track_type *ty, int64_t since_ms, struct track_growth *ret);

/* The points from since_ms on, thinned to at most one every step_ms (0: all), oldest first.
 * *ret is malloc'ed. -ENOMEM. */
int track_type_history(const struct track_type *ty, int64_t since_ms, uint64_t step_ms,
	struct track_point **ret, size_t *ret_n);

/* Adds n points to those in *sum, that is to the history of types of one name: at each time of either, what
 * was last known of both; one counts for nothing before its first point. *sum is malloc'ed, or NULL. -ENOMEM. */
int track_history_add(
	struct track_point **sum, size_t *sum_n, const struct track_point *points, size_t n);

/* What earlier lives of the service have shown of the type: the level it came to rest at (0: none
 * known), up to which growth is no news; and that it leaked. */
struct track_expectation {
	int64_t plateau;
	bool leaked;
};
void track_type_expect(struct track_type *ty, const struct track_expectation *e);
/* What this life has shown; false: too little. */
bool track_type_learned(const struct track_type *ty, struct track_expectation *ret);

/* Its level has changed since the first sample. */
bool track_type_moved(const struct track_type *ty);

/* All that is known of a type, so that it outlives the daemon: at most TRACK_SAVED_MAX bytes; their
 * number, 0: nothing. track_type_load() is for a type without samples; what it is given may be
 * anything: -EBADMSG, and the type is as new. */
#define TRACK_SAVED_MAX 4096
size_t track_type_save(const struct track_type *ty, uint8_t *buf, size_t size);
int track_type_load(struct track_type *ty, const uint8_t *buf, size_t n);

/* Iterates: start with NULL, in no special order. */
struct track_type *track_next(struct track *t, struct track_type *prev);

#endif
