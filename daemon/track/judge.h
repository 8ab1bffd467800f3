/* SPDX-License-Identifier: MIT */
/*
 * The verdict on one series.
 *
 * The window is cut into at most 60 slots; each slot's value is the lowest level in it, so that
 * short spikes do not count. Growth is judged by floors (lowest slot of a third of the window)
 * and ceilings (highest slot of a third):
 *
 *   leak    over a full window after the warm-up: the robust slope (Theil-Sen, the median over
 *           all pairs of slots) times the window is at least min_objects; floors and ceilings
 *           rise from third to third, the last rise being at least 0.4 of the one before, and the
 *           last sixth is above the fifth (a plateau fails here); pairs of slots are in rising
 *           order more often than chance would have it (Kendall's tau); and the floor of the last
 *           third is above everything that was held for a third of a window within the last 48
 *           windows (a cycle longer than the window fails here, its first rise excepted: nobody
 *           can tell that from a leak).
 *   watch   over the last half window: floors and ceilings rise, with half of min_objects or more.
 *
 * Both have hysteresis. A leak ends when its slope falls under half of min_objects a window, or
 * when half of what had grown since is gone again; a watch at half of its own threshold.
 */
#ifndef PYLEAK_TRACK_JUDGE_H
#define PYLEAK_TRACK_JUDGE_H

#include "daemon/track/series.h"

struct judge_state { /* what hysteresis needs to remember; zero is: nothing seen */
	int64_t base; /* floor the growth of a leak began at, and the highest floor since */
	int64_t top;
	uint32_t frame; /* of the series, in which they are */
};

/* usable_from_ms: end of the warm-up. *v is the verdict so far and becomes the new one. */
void judge(const struct track_config *c, int64_t usable_from_ms, const struct series *s,
	struct judge_state *state, struct track_verdict *v);

#endif
