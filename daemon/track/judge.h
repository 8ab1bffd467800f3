/* SPDX-License-Identifier: MIT */
/*
 * The verdict on one type, streaming, in memory of a fixed size.
 *
 * Time is cut into slots of a sixteenth of growth.window, of each the lowest and the highest level are
 * kept; four slots make one of the next tier, whose slots are four times as long, and so on: five
 * tiers of 24 slots look back over 1.5, 6, 24, 96 and 384 windows. (Of slots longer than a quarter of
 * a window the highest level that was held for so long is kept, in place of the highest.) Growth is judged by floors (the
 * lowest level of a slot, so that short spikes and what waits for the collector do not count) and
 * ceilings. When a slot ends, that tier is looked at:
 *
 *   leak    over one and a half windows (8 to 24 slots of the longer tiers): floors and ceilings
 *           rise from third to third; the robust slope (Theil-Sen, the median over all pairs of slots)
 *           comes to growth.min_objects or more in that time, and to more than the levels may be off; the slope of the second half is at least six tenths of that of the first, and
 *           the last eighth has grown as well (a plateau fails here); the order of the slots is not
 *           chance (Mann-Kendall); the growth is three times the swing around the line or more
 *           (saw-teeth, waves and wandering levels fail here); and the floor of the last third is above
 *           everything that was held within the last 48 windows (a cycle longer than that fails here,
 *           its first rise excepted: nobody can tell that from a leak).
 *           So a type that swings, or that grows slowly, takes longer: until growth.min_objects have
 *           come, clear of the noise, in one of the tiers.
 *   watch   the same over one window, by half of min_objects and twice the swing.
 *
 * What follows the load is no leak while that grows: see follows_load() in judge.c. It takes a gauge
 * outside of the heap (threads, open files) that rises in the same shape, and births that rise with it
 * and come to twice the growth: what leaks is born as often as before and stays. So leaked connections
 * or threads, with which the gauge rises too, are found; and what leaks while the load grows is found
 * when that has ended, or has lasted for longer than six windows.
 *
 * Both have hysteresis. A leak ends when its slope falls under half of what it takes, when the last
 * third of the time it is judged by did not grow, or when half of what had grown since is gone
 * again; a watch at half of its own threshold.
 *
 * Floors are of what is surely there, the level less what it may be off: that of which only births are seen
 * from one reading of the target's memory to the next does not grow by that.
 *
 * Only slots in which there were samples are looked at. Where these come seldom and irregularly (a busy
 * target within its budget), four of them and no hole longer than a quarter of the time, or twice as long as
 * is usual, are enough, if they say it clearly; else nothing is said.
 */
#ifndef PYLEAK_TRACK_JUDGE_H
#define PYLEAK_TRACK_JUDGE_H

#include "daemon/track/series.h"

#define JUDGE_SLOTS 24
#define JUDGE_TIERS 5

struct judge_tier {
	/* What every sample touches, in one cache line. */
	int64_t first, open; /* slot of the first sample, and of the last: time / length of a slot */
	double low, high;    /* of the open one */
	bool any, open_fell;
	uint32_t sampled, fell;  /* of slot i bit i % JUDGE_SLOTS: there were samples; a level fell */
	float lows[JUDGE_SLOTS]; /* of slot i at i % JUDGE_SLOTS, relative to `origin` */
	uint16_t spreads[JUDGE_SLOTS]; /* high - low, see spread_pack() */
};

struct judge {       /* zero is: nothing seen */
	struct judge_tier *tiers; /* NULL: nothing has ever moved */
	uint8_t n_tiers;
	uint8_t tier;     /* in which the leak was found */
	bool rebuilt;
	uint32_t frame;   /* of the series, in which levels are */
	int64_t origin;
	int64_t slot_ms;  /* of the first tier */
	int64_t from_ms;  /* what came before is not looked at */
	double base, top; /* floor the growth of a leak began at, and the highest floor since */
	float bound;      /* how far levels may be off, of late */
	char *words;      /* of a verdict */
	int64_t plateau;  /* expected: below this is what the service always grew to */
	bool known_leak;  /* expected: it leaked in an earlier life */
};

/* What the load of the target shows in. */
struct judge_load {
	const struct judge *gauges[TRACK_GAUGES]; /* judged at the same times */
	const struct series *births;  /* where births show: of the type, or of all */
	const struct series *seen_ms; /* its `deaths`: for how long none was missed */
};

void judge_release(struct judge *j);

/* After a sample has been added to the series. usable_from_ms: end of the warm-up; bound: how far the
 * level may be off; load: NULL if no growth is load. *v is the verdict so far and becomes the new one. */
void judge(struct judge *j, const struct track_config *c, int64_t usable_from_ms, const struct series *s,
	double bound, const struct judge_load *load, struct track_verdict *v);

/* The tiers and the verdict as bytes; judge_load() is for the same series: -EBADMSG where they cannot be its. */
size_t judge_save(const struct judge *j, const struct track_verdict *v, uint8_t *buf, size_t size);
int judge_load(struct judge *j, const struct series *s, struct track_verdict *v, const uint8_t *buf, size_t n);

/* The level that a type has come to rest at, of the last three windows, or TRACK_UNKNOWN. */
int64_t judge_plateau(const struct judge *j);

#endif
