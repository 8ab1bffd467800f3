/* SPDX-License-Identifier: MIT */
#include "daemon/track/judge.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "daemon/util/macros.h"
#include "daemon/util/units.h"

#define SLOTS_MAX    60
#define PARTS        6 /* sixths; two make a third */
#define PAIRS_MAX    (SLOTS_MAX * (SLOTS_MAX - 1) / 2)
#define PEAK_WINDOWS 48  /* a day at the default window: a daily cycle meets yesterday's peak */
#define LEVELLING    0.5 /* a rise below this share of the one before is levelling off */
#define CHANCE_SIGMA 3.5 /* how far from chance the order of the slots must be */
/* How many times the usual swing the growth must be. Levels that wander around a mean (simulated,
 * window 30 min): at 4, none of 60 half days with a memory of up to 10 min was taken for a leak, at
 * 3 five were; with a memory of a whole window it is two of 20, at 4. */
#define CLEAR_LEAK  4.0
#define CLEAR_WATCH 2.0

#define MS_PER_HOUR 3600000.0

/* What a stretch of time looks like. Levels are relative to `origin`, so that doubles hold their
 * differences exactly whatever the absolute level is. */
struct span {
	int64_t from_ms, to_ms;
	int64_t origin;
	unsigned n; /* slots filled, of n_slots */
	unsigned n_slots;
	double at[SLOTS_MAX], v[SLOTS_MAX]; /* ms after from_ms, level */
	double floor[PARTS], ceil[PARTS];
	double last; /* the last sample's level */
	bool whole;  /* something is known of every sixth */
	bool fell;   /* some sample was below the one before */

	/* by span_slope() */
	double slope; /* per ms */
	double order; /* pairs in rising order minus pairs in falling order, of both: -1..1 */
	double up;    /* share of the steps from slot to slot that go up */
	double swing; /* how far four of five slots are from the line, together */
};

static int64_t duration_ms(uint64_t ms)
{
	return (int64_t)MIN(ms, (uint64_t)SERIES_TIME_MAX);
}

static double third_floor(const struct span *sp, int third)
{
	return MIN(sp->floor[2 * third], sp->floor[2 * third + 1]);
}

static double third_ceil(const struct span *sp, int third)
{
	return MAX(sp->ceil[2 * third], sp->ceil[2 * third + 1]);
}

struct slots {
	double at[SLOTS_MAX], v[SLOTS_MAX];
	bool filled[SLOTS_MAX];
};

static void slot_put(struct slots *slots, unsigned i, double at, double v)
{
	if (slots->filled[i] && slots->v[i] <= v)
		return;
	slots->filled[i] = true;
	slots->at[i] = at;
	slots->v[i] = v;
}

static void span_fill(struct span *sp, const struct track_config *c, const struct series *s,
	int64_t from_ms, int64_t to_ms)
{
	uint32_t first = series_find(s, from_ms);
	int64_t len = MAX(to_ms - from_ms, 1);
	uint64_t expected = (uint64_t)len / MAX(c->interval_ms, 1);
	unsigned n_slots = MAX(MIN(expected, SLOTS_MAX) / PARTS, 1) * PARTS;
	int64_t next_empty = 0;
	struct slots slots;

	memset(sp, 0, sizeof(*sp));
	sp->from_ms = from_ms;
	sp->to_ms = to_ms;
	sp->n_slots = n_slots;
	memset(&slots, 0, sizeof(slots));
	if (first >= s->n)
		return;
	sp->origin = s->points[first].level;
	for (uint32_t i = first; i < s->n; i++) {
		const struct series_point *p = &s->points[i], *prev = i > s->epoch ? p - 1 : NULL;
		int64_t slot = MIN((p->p.at_ms - from_ms) * n_slots / len, n_slots - 1);

		/* Between two samples that follow each other the level is known well enough. */
		if (prev && !(p->flags & SERIES_GAP)) {
			double v0 = (double)(prev->level - sp->origin);
			double dv = (double)(p->level - prev->level);
			double t0 = (double)(prev->p.at_ms - from_ms);
			double dt = (double)(p->p.at_ms - prev->p.at_ms);

			for (int64_t e = next_empty; e < slot && dt > 0; e++) {
				double at = (e + 0.5) * len / n_slots;

				if (at >= t0)
					slot_put(&slots, e, at, v0 + dv * (at - t0) / dt);
			}
			if (i > first && (p->level < prev->level || p->low < prev->level))
				sp->fell = true;
		}
		slot_put(&slots, slot, (double)(p->p.at_ms - from_ms),
			(double)(p->low - sp->origin));
		next_empty = slot + 1;
		sp->last = (double)(p->level - sp->origin);
	}

	sp->whole = expected >= PARTS; /* fewer samples are no trend, only their interpolation */
	for (unsigned part = 0; part < PARTS; part++) {
		unsigned per = n_slots / PARTS, n = 0;

		for (unsigned i = part * per; i < (part + 1) * per; i++) {
			if (!slots.filled[i])
				continue;
			if (!n || slots.v[i] < sp->floor[part])
				sp->floor[part] = slots.v[i];
			if (!n || slots.v[i] > sp->ceil[part])
				sp->ceil[part] = slots.v[i];
			sp->at[sp->n] = slots.at[i];
			sp->v[sp->n++] = slots.v[i];
			n++;
		}
		sp->whole &= n > 0;
	}
}

static double span_len(const struct span *sp)
{
	return (double)(sp->to_ms - sp->from_ms);
}

/* The k-th smallest of v, which is reordered (Hoare's FIND). Sorting all 1 770 pairs would be
 * most of the cost of a verdict. */
static double kth_smallest(double *v, int n, int k)
{
	int lo = 0, hi = n - 1;

	while (lo < hi) {
		double pivot = v[lo + (hi - lo) / 2];
		int i = lo, j = hi;

		while (i <= j) {
			while (i < hi && v[i] < pivot)
				i++;
			while (j > lo && v[j] > pivot)
				j--;
			if (i <= j) {
				double t = v[i];

				v[i++] = v[j];
				v[j--] = t;
			}
		}
		if (k <= j)
			hi = j;
		else if (k >= i)
			lo = i;
		else
			break;
	}
	return v[k];
}

/* Theil-Sen: the median of the slopes of all pairs; and Goodman and Kruskal's gamma. */
static void span_slope(struct span *sp)
{
	unsigned rising = 0, falling = 0, up = 0;
	double slopes[PAIRS_MAX], rest[SLOTS_MAX];
	int n = 0;

	for (unsigned i = 0; i < sp->n; i++) {
		for (unsigned j = i + 1; j < sp->n; j++) {
			double dv = sp->v[j] - sp->v[i], dt = sp->at[j] - sp->at[i];

			rising += dv > 0;
			falling += dv < 0;
			up += dv > 0 && j == i + 1;
			if (dt > 0)
				slopes[n++] = dv / dt;
		}
	}
	sp->slope = n ? kth_smallest(slopes, n, n / 2) : 0;
	if (n && !(n & 1)) /* an even number: the mean of the two in the middle */
		sp->slope = (sp->slope + kth_smallest(slopes, n, n / 2 - 1)) / 2;
	sp->order = rising + falling ? ((double)rising - falling) / (rising + falling) : 0;
	sp->up = sp->n > 1 ? (double)up / (sp->n - 1) : 0;

	for (unsigned i = 0; i < sp->n; i++)
		rest[i] = sp->v[i] - sp->slope * sp->at[i];
	if (sp->n)
		sp->swing = kth_smallest(rest, (int)sp->n, (int)(sp->n - 1 - sp->n / 10)) -
			    kth_smallest(rest, (int)sp->n, (int)(sp->n / 10));
}

/* Robust growth over the span. */
static double span_growth(const struct span *sp)
{
	return sp->slope * span_len(sp);
}

/* Floors and ceilings rise from third to third by more than `least`. */
static bool floors_rise(const struct span *sp, double least)
{
	for (int i = 1; i < 3; i++)
		if (third_floor(sp, i) - third_floor(sp, i - 1) <= least ||
			third_ceil(sp, i) - third_ceil(sp, i - 1) <= least)
			return false;
	return true;
}

static bool span_levels_off(const struct span *sp)
{
	double c1 = third_ceil(sp, 0), c2 = third_ceil(sp, 1), c3 = third_ceil(sp, 2);

	return sp->floor[5] - sp->floor[3] < LEVELLING * (sp->floor[2] - sp->floor[0]) ||
	       c3 - c2 < LEVELLING * (c2 - c1) || sp->ceil[5] <= sp->ceil[4];
}

/* The order of n random values has a standard deviation of sqrt(2(2n + 5) / 9n(n - 1)). */
static bool span_by_chance(const struct span *sp)
{
	double n = sp->n;
	double sigma = n > 1 ? sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))) : 1;

	return sp->order < MIN(MAX(CHANCE_SIGMA * sigma, 0.3), 0.9);
}

/* The highest level that was held for a third of a window before the window: the floor of a
 * stretch that long, at its highest. -HUGE_VAL if there was no such stretch. */
static double held_before(const struct track_config *c, int64_t usable_from_ms,
	const struct series *s, const struct span *sp)
{
	int64_t window = duration_ms(c->window_ms), third = MAX(window / 3, 1);
	int64_t oldest = sp->to_ms - MIN(window, SERIES_TIME_MAX / PEAK_WINDOWS) * PEAK_WINDOWS;
	uint32_t end = series_find(s, sp->from_ms);
	double highest = -HUGE_VAL;

	for (uint32_t i = series_find(s, MAX(oldest, usable_from_ms)); i < end; i++) {
		const struct series_point *p = &s->points[i];
		int64_t low = p->low, till = p->p.at_ms + third;
		bool held = false;

		for (uint32_t j = i + 1; j < end && !held; j++) {
			if (s->points[j].flags & SERIES_GAP)
				break;
			low = MIN(low, s->points[j].low);
			held = s->points[j].p.at_ms >= till;
		}
		if (held)
			highest = MAX(highest, (double)(low - sp->origin));
	}
	return highest;
}

/* Growth over one growth.window, which is what min_objects speaks of, whatever the span. */
static double window_growth(const struct track_config *c, const struct span *sp)
{
	return sp->slope * (double)duration_ms(c->window_ms);
}

/* Why the growth in a span is not a leak; NULL: it is one. */
static const char *leak_refused(const struct track_config *c, int64_t usable_from_ms,
	const struct series *s, struct span *sp)
{
	if (!floors_rise(sp, 0))
		return "not in every third of the window";
	span_slope(sp);
	if (window_growth(c, sp) < (double)MAX(c->min_objects, 1))
		return "less than growth.min_objects in a window";
	if (!floors_rise(sp, span_growth(sp) / 20))
		return "not in every third of the window";
	if (span_levels_off(sp))
		return "levelling off";
	if (span_by_chance(sp) || span_growth(sp) < CLEAR_LEAK * sp->swing)
		return "not clear of the usual ups and downs yet";
	if (third_floor(sp, 2) <= held_before(c, usable_from_ms, s, sp) + span_growth(sp) / 3)
		return "it has been as high before";
	return NULL;
}

static double confidence(const struct span *sp)
{
	double order = MAX(sp->order, 0), rising = 0;

	for (unsigned i = 1; i < PARTS; i++)
		rising += sp->floor[i] > sp->floor[i - 1];
	rising /= PARTS - 1;
	return order * (0.5 + 0.5 * rising) * sp->n / sp->n_slots;
}

/* ---- words ------------------------------------------------------------------------------- */

#define NUMBER_MAX 32

/* 1234567 -> "1 234 567" */
static const char *number(char buf[NUMBER_MAX], double v)
{
	char digits[NUMBER_MAX];
	int n, out = 0;

	v = MAX(MIN(v, 9e15), -9e15);
	n = snprintf(digits, sizeof(digits), "%.0f", fabs(v));
	if (v <= -0.5)
		buf[out++] = '-';
	for (int i = 0; i < n; i++) {
		if (i && (n - i) % 3 == 0)
			buf[out++] = ' ';
		buf[out++] = digits[i];
	}
	buf[out] = '\0';
	return buf;
}

static const char *duration(char buf[NUMBER_MAX], int64_t ms)
{
	return format_duration(
		buf, NUMBER_MAX, (uint64_t)MIN(ms, SERIES_TIME_MAX / 1000) * 1000000);
}

static void set_none(struct track_verdict *v, const char *reason)
{
	v->kind = TRACK_NONE;
	v->first_seen_ms = 0;
	v->delta = 0;
	v->rate_per_hour = v->confidence = 0;
	snprintf(v->reason, sizeof(v->reason), "%s", reason);
}

/* What the span says goes into the verdict; the sentence so far into *v->reason. */
static void set_growth(struct track_verdict *v, const struct span *sp)
{
	char delta[NUMBER_MAX], rate[NUMBER_MAX], len[NUMBER_MAX], up[NUMBER_MAX] = "";
	double growth = sp->fell ? span_growth(sp) : sp->last - sp->v[0];

	growth = MAX(MIN(growth, (double)SERIES_LEVEL_MAX), -(double)SERIES_LEVEL_MAX);
	v->delta = llround(growth);
	v->rate_per_hour = sp->slope * MS_PER_HOUR;
	v->confidence = confidence(sp);
	if (sp->up >= 0.5) /* leaks in few big steps stand still most of the time */
		snprintf(up, sizeof(up), ", %.0f %% of steps upward", floor(sp->up * 100));
	snprintf(v->reason, sizeof(v->reason), "grew by %s in %s (%s an hour)%s%s",
		number(delta, growth), duration(len, sp->to_ms - sp->from_ms),
		number(rate, v->rate_per_hour), sp->fell ? "" : " without once falling back", up);
}

static void add_reason(struct track_verdict *v, const char *more)
{
	size_t n = strlen(v->reason);

	snprintf(v->reason + n, sizeof(v->reason) - n, "; %s", more);
}

/* ---- the verdict ------------------------------------------------------------------------- */

static int64_t scale_len(const struct track_config *c, unsigned scale)
{
	return MAX(MIN(duration_ms(c->window_ms), SERIES_TIME_MAX >> JUDGE_SCALES), 2) << scale;
}

/* A leak that was seen goes on: the slope is above half of what it takes, and less than half of
 * what has grown since is gone. */
static bool leak_goes_on(const struct track_config *c, const struct series *s,
	const struct span *sp, struct judge_state *state)
{
	int64_t floor1 = sp->origin + (int64_t)third_floor(sp, 0);
	int64_t floor3 = sp->origin + (int64_t)third_floor(sp, 2);

	if (state->frame != s->frame) { /* what was kept speaks of other levels */
		state->frame = s->frame;
		state->base = floor1;
		state->top = floor3;
	}
	state->top = MAX(state->top, floor3);
	return window_growth(c, sp) >= (double)MAX(c->min_objects, 1) / 2 &&
	       floor3 >= state->base + (state->top - state->base) / 2;
}

/* sp is half a window, or a whole one that is no leak (yet). */
static bool is_watch(const struct track_config *c, struct span *sp, bool already)
{
	double min = (double)MAX(c->min_objects, 1) / 2;

	if (already) {
		span_slope(sp);
		return span_growth(sp) >= min / 2 && sp->last > sp->v[0];
	}
	if (!floors_rise(sp, 0))
		return false;
	span_slope(sp);
	return span_growth(sp) >= min && floors_rise(sp, span_growth(sp) / 20) &&
	       !span_by_chance(sp) && span_growth(sp) >= CLEAR_WATCH * sp->swing;
}

static void set_kind(struct track_verdict *v, enum track_verdict_kind kind, int64_t now)
{
	if (v->kind == TRACK_NONE)
		v->first_seen_ms = now;
	v->kind = kind;
}

static void set_watch(struct track_verdict *v, const struct span *sp, const char *why)
{
	set_kind(v, TRACK_WATCH, sp->to_ms);
	set_growth(v, sp);
	v->confidence /= 2;
	add_reason(v, why);
}

/* Looks for a leak in windows of scales from..to-1, the shortest first. True: found, in *sp. The
 * reason why it is none in the shortest goes to *ret_refused (NULL: too early to say). */
static bool find_leak(const struct track_config *c, int64_t usable_from_ms, int64_t seen_ms,
	const struct series *s, struct judge_state *state, unsigned to, struct span *sp,
	unsigned *ret_scale, const char **ret_refused)
{
	int64_t now = series_last(s)->p.at_ms;

	*ret_refused = NULL;
	for (unsigned scale = 0; scale < to; scale++) {
		int64_t len = scale_len(c, scale);
		const char *refused;

		if (now - seen_ms < len)
			break;
		/* A long window changes slowly: looking once a slot is enough. */
		if (scale > 0 && now - state->looked_ms[scale] < len / SLOTS_MAX)
			continue;
		state->looked_ms[scale] = now;
		span_fill(sp, c, s, now - len, now);
		refused =
			sp->whole ? leak_refused(c, usable_from_ms, s, sp) : "samples are missing";
		if (!refused) {
			*ret_scale = scale;
			return true;
		}
		if (scale == 0)
			*ret_refused = refused;
	}
	return false;
}

static void start_leak(
	struct judge_state *state, const struct series *s, const struct span *sp, unsigned scale)
{
	state->base = sp->origin + (int64_t)third_floor(sp, 0);
	state->top = sp->origin + (int64_t)third_floor(sp, 2);
	state->frame = s->frame;
	state->scale = scale;
}

void judge(const struct track_config *c, int64_t usable_from_ms, const struct series *s,
	struct judge_state *state, struct track_verdict *v)
{
	const struct series_point *last = series_last(s);
	int64_t window = scale_len(c, 0), now, seen;
	const char *refused = NULL;
	char buf[NUMBER_MAX], more[64];
	struct span sp, part;
	unsigned scale;

	if (!last)
		return;
	v->count = last->p.count;
	now = last->p.at_ms;
	if (now < usable_from_ms) {
		set_none(v, "warming up");
		return;
	}
	seen = MAX(usable_from_ms, s->points[s->epoch].p.at_ms);
	if (now - seen < window / 2) {
		/* After a restart of the counters what was found stays until it is refuted. */
		if (v->kind == TRACK_NONE)
			set_none(v, "not observed for half a window yet");
		return;
	}

	if (v->kind == TRACK_LEAK) {
		int64_t len = scale_len(c, state->scale);

		if (now - seen < len)
			return;
		span_fill(&sp, c, s, now - len, now);
		if (!sp.whole)
			return;
		span_slope(&sp);
		if (leak_goes_on(c, s, &sp, state)) {
			/* What a longer window found shows in a shorter one later, and ends there. */
			if (state->scale && find_leak(c, usable_from_ms, seen, s, state,
						    state->scale, &part, &scale, &refused)) {
				start_leak(state, s, &part, scale);
				sp = part;
			}
			set_growth(v, &sp);
			return;
		}
		set_none(v, "");
	} else if (find_leak(c, usable_from_ms, seen, s, state, JUDGE_SCALES, &sp, &scale,
			   &refused)) {
		set_kind(v, TRACK_LEAK, now);
		set_growth(v, &sp);
		start_leak(state, s, &sp, scale);
		return;
	}

	span_fill(&part, c, s, now - window / 2, now);
	if (!part.whole) {
		if (v->kind == TRACK_NONE)
			set_none(v, "samples are missing");
		return;
	}
	if (is_watch(c, &part, v->kind == TRACK_WATCH)) {
		if (!refused) {
			snprintf(more, sizeof(more), "a leak if it goes on for %s",
				duration(buf, window));
			refused = more;
		}
		set_watch(v, &part, refused);
		return;
	}
	/* Half a window may be too little of something slow. */
	if (now - seen >= window) {
		span_fill(&sp, c, s, now - window, now);
		if (sp.whole && is_watch(c, &sp, v->kind == TRACK_WATCH)) {
			set_watch(v, &sp, refused ? refused : "not yet confirmed");
			return;
		}
	}
	set_none(v, part.floor[0] == part.ceil[PARTS - 1] ? "steady" : "no steady growth");
	v->delta = (int64_t)(part.last - part.v[0]);
	v->rate_per_hour = part.slope * MS_PER_HOUR;
}
