/* SPDX-License-Identifier: MIT */
/*
 * The series of one type: at most TRACK_POINTS points for any length of time. Runs of equal
 * samples take two points (most types stand still, and 2 000 types of 512 points would be 64 MB a
 * target). When full, the older half is thinned to a spacing that grows with age, and the point
 * before one that goes takes over its extremes: neither a peak nor a floor is forgotten. (Dropping
 * every second one looks the same and is not: the points of yesterday are gone by today.)
 *
 * Levels are put into one frame: a count where it is known, else the last known count plus births
 * minus deaths since, else (nothing was ever known) births minus deaths alone. When the first
 * count comes, the points before it are moved into its frame. When the counters start again from
 * zero and there is no count to bridge that, what came before cannot be compared: a new epoch.
 */
#ifndef PYLEAK_TRACK_SERIES_H
#define PYLEAK_TRACK_SERIES_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/track/track.h"

/* Levels and times beyond these are clamped: no sum of a few of them overflows. */
#define SERIES_LEVEL_MAX (INT64_C(1) << 60)
#define SERIES_TIME_MAX  (INT64_C(1) << 53)

enum {
	SERIES_FLAT = 1 << 0, /* every sample since the point before was equal to this one */
	SERIES_GAP = 1 << 1,  /* nothing is known of the time since the point before */
};

struct series_point {
	struct track_point p;
	int64_t level;     /* in the frame of the epoch */
	int64_t low, peak; /* of this point and of those thinned away behind it */
	uint32_t flags;
};

struct series {
	struct series_point *points; /* oldest first */
	uint32_t n, cap;
	uint32_t epoch; /* index of the first point whose level can be compared with the last */
	int64_t net;    /* births - deaths, going on over restarts of the counters */
	int64_t base;   /* level - net */
	bool base_known;
	uint32_t frame; /* changes whenever levels kept elsewhere no longer compare */
};

void series_release(struct series *s);

/* Adds a sample. A longer silence than three intervals is a gap. -ENOMEM only without any point. */
int series_add(struct series *s, const struct track_point *p, uint64_t interval_ms);

const struct series_point *series_last(const struct series *s); /* NULL: none */

/* Index of the first point at or after at_ms in the epoch of the last one; n if there is none. */
uint32_t series_find(const struct series *s, int64_t at_ms);

#endif
