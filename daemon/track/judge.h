/* SPDX-License-Identifier: MIT */
/*
 * The verdict on one series.
 *
 * A stretch of time is cut into at most 60 slots; each slot's value is the lowest level in it, so
 * that short spikes do not count. Growth is judged by floors (lowest slot of a third) and ceilings
 * (highest slot of a third):
 *
 *   leak    after the warm-up, over a full window: floors and ceilings rise from third to third;
 *           the robust slope (Theil-Sen, the median over all pairs of slots) times growth.window is
 *           at least min_objects; the second half rises at least half as much as the first, and the
 *           last sixth is above the fifth (a plateau fails here); the growth is four times the
 *           swing around the line or more (saw-teeth, waves and wandering levels fail here); and
 *           the floor of the last third is above everything that was held for a third of a window
 *           within the last 48 windows (a cycle longer than the window fails here, its first rise
 *           excepted: nobody can tell that from a leak).
 *           Where the swing hides the growth, the same is asked of two, four, eight and sixteen
 *           windows: the more a type swings, the longer it takes to be sure.
 *   watch   over the last half window, or a whole one: floors and ceilings rise, by half of
 *           min_objects and twice the swing or more.
 *
 * Both have hysteresis. A leak ends when its slope falls under half of min_objects a window, or
 * when half of what had grown since is gone again; a watch at half of its own threshold.
 */
#ifndef PYLEAK_TRACK_JUDGE_H
#define PYLEAK_TRACK_JUDGE_H

#include "daemon/track/series.h"

#define JUDGE_SCALES 5 /* one, two, four, eight, sixteen windows */

struct judge_state {  /* what hysteresis needs to remember; zero is: nothing seen */
	int64_t base; /* floor the growth of a leak began at, and the highest floor since */
	int64_t top;
	uint32_t frame; /* of the series, in which they are */
	unsigned scale; /* of the window the leak was found in */
	int64_t looked_ms[JUDGE_SCALES];
};

/* usable_from_ms: end of the warm-up. *v is the verdict so far and becomes the new one. */
void judge(const struct track_config *c, int64_t usable_from_ms, const struct series *s,
	struct judge_state *state, struct track_verdict *v);

#endif
