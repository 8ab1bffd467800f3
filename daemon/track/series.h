/* SPDX-License-Identifier: MIT */
/*
 * The series of one type, for people: history, growth, what grows in step. At most SERIES_BYTES for
 * any length of time (2 000 types a target, 200 targets). Points are kept as differences from the
 * one before, in as many bytes as they need, mostly six to ten; runs of equal samples take one point.
 * When full, the older half is thinned to a spacing that grows with age, and the point before one
 * that goes takes over its extremes: neither a peak nor a floor is forgotten. (Dropping every second
 * one looks the same and is not: the points of yesterday are gone by today.)
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

#define SERIES_BYTES 1024

enum {
	SERIES_FLAT = 1 << 0,  /* every sample since the point before was equal to this one */
	SERIES_GAP = 1 << 1,   /* nothing is known of the time since the point before */
	SERIES_EPOCH = 1 << 2, /* what came before cannot be compared */
	SERIES_FELL = 1 << 3,  /* some sample since the point before was below the one before it */
};

struct series_point {
	struct track_point p;
	int64_t level;     /* in the frame of the epoch */
	int64_t low, peak; /* of this point and of those thinned away behind it */
	uint32_t flags;
};

struct series {
	uint8_t *bytes;           /* all points but the last, oldest first */
	uint16_t n_bytes, cap;
	uint16_t n;               /* points, the last one included */
	bool base_known;
	bool moved;               /* not all levels of the epoch are the same */
	uint32_t frame;           /* changes whenever levels kept elsewhere no longer compare */
	int64_t net;              /* births - deaths, going on over restarts of the counters */
	int64_t base;             /* level - net */
	struct series_point before; /* the last one in bytes */
	struct series_point last;
};

void series_release(struct series *s);

/* Adds a sample. A longer silence than three intervals is a gap. -ENOMEM only without any point. */
int series_add(struct series *s, const struct track_point *p, uint64_t interval_ms);

const struct series_point *series_last(const struct series *s); /* NULL: none */

/* All points, oldest first; returns how many. */
uint32_t series_points(const struct series *s, struct series_point points[TRACK_POINTS]);
/* Index of the first point whose level can be compared with the last. */
uint32_t series_epoch(const struct series_point *points, uint32_t n);

/* For keeping it elsewhere. series_load() checks what it is given: -EBADMSG; then s is empty. */
size_t series_save(const struct series *s, uint8_t *buf, size_t size);
int series_load(struct series *s, const uint8_t *buf, size_t n);

#endif
