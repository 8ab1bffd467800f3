/* SPDX-License-Identifier: MIT */
#include "daemon/track/judge.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "daemon/util/macros.h"
#include "daemon/util/units.h"

#define WINDOW_SLOTS  16 /* of the first tier in a growth.window */
#define HELD_TIER     1  /* its floors were held: they are the ceilings of all longer tiers */
#define TIER_SHIFT    2  /* four slots make one of the next tier */
#define TIER_LEAST    8  /* slots that a longer tier must have: two windows of the second */
#define PAIRS_MAX     (JUDGE_SLOTS * (JUDGE_SLOTS - 1) / 2)
#define SAMPLED_LEAST 4  /* slots with samples; of fewer than SAMPLED_FEW the growth must be twice as clear */
#define SAMPLED_FEW   6
#define HOLE          4  /* no longer time without samples than a quarter, or twice the usual one */
#define PEAK_WINDOWS  48 /* a day at the default window: a daily cycle meets yesterday's peak */
#define LEVELLING     0.6 /* a rise below this share of the one before is levelling off */
#define CHANCE_SIGMA  3.5 /* how far from chance the order of the slots must be */
#define LAST_LEAST    0.25 /* of its due must the last eighth have grown */
#define STANDING      0.1 /* a third that grows less, as a share of its due, stands still */
#define REST_SLOTS    12  /* three windows, in which a level */
#define REST          0.1 /* varies less, as a share of itself: it has come to rest */
#define BOUND_FADE    0.95
#define FROM_MS       1000 /* that the end of the warm-up may be off from one life of the daemon to the next */
#define PLATEAU_ROOM  1.1 /* above what the service always grew to, by so much, is news */
#define LOAD_TIERS    2   /* of six windows: what grows for longer is no load but leaks itself */
#define LOAD_RISE     1.1 /* so much must a gauge rise, from the first third to the last, */
#define LOAD_LEAST    8   /* and by so many */
#define LOAD_SEEN     0.5  /* of the time must births have been counted */
#define LOAD_BIRTHS   0.5  /* of how the gauge rises must births rise */
/* How many times the usual swing the growth must be. */
#define CLEAR_LEAK  3.0
#define CLEAR_WATCH 2.0

#define WORDS        256
#define MS_PER_HOUR  3600000.0

void judge_release(struct judge *j)
{
	free(j->tiers);
	free(j->words);
	memset(j, 0, sizeof(*j));
}

/* ---- slots --------------------------------------------------------------------------------- */

/* The upper half of a float, rounded up: one part in 128. */
static uint16_t spread_pack(double v)
{
	float f = (float)v;
	uint32_t bits;

	memcpy(&bits, &f, sizeof(bits));
	return (uint16_t)((bits + 0xffff) >> 16);
}

static double spread_unpack(uint16_t packed)
{
	uint32_t bits = (uint32_t)packed << 16;
	float f;

	memcpy(&f, &bits, sizeof(f));
	return (double)f;
}

static uint32_t bit(int64_t slot)
{
	return UINT32_C(1) << (uint64_t)slot % JUDGE_SLOTS;
}

struct slot {
	int64_t i;
	double low, high;
	bool fell;
	bool part; /* nothing is known of its begin */
};

static void tier_open(struct judge_tier *t, const struct slot *s)
{
	t->open = s->i;
	t->low = s->low;
	t->high = s->high;
	t->open_fell = s->fell;
}

/* Puts a sample, or a slot of the tier before, where it belongs. The tiers of which a slot ended are
 * set in the result. */
static unsigned tiers_put(struct judge *j, unsigned k, struct slot s)
{
	unsigned ended = 0;

	for (; k < JUDGE_TIERS; k++) {
		struct judge_tier *t;
		struct slot done;

		if (k >= j->n_tiers) {
			t = reallocarray(j->tiers, k + 1, sizeof(*t));
			if (!t)
				return ended; /* what is slow will not be seen */
			j->tiers = t;
			memset(&t[k], 0, sizeof(*t));
			j->n_tiers = (uint8_t)(k + 1);
		}
		t = &j->tiers[k];
		if (!t->any) {
			t->any = true;
			t->first = s.i + s.part;
			tier_open(t, &s);
			return ended;
		}
		if (s.i <= t->open) {
			t->low = MIN(t->low, s.low);
			t->high = MAX(t->high, s.high);
			t->open_fell |= s.fell;
			return ended;
		}
		done = (struct slot){t->open, t->low, t->high, t->open_fell, t->open < t->first};
		t->lows[(uint64_t)done.i % JUDGE_SLOTS] = (float)done.low;
		t->spreads[(uint64_t)done.i % JUDGE_SLOTS] = spread_pack(done.high - done.low);
		t->sampled |= bit(done.i);
		t->fell = done.fell ? t->fell | bit(done.i) : t->fell & ~bit(done.i);
		for (int64_t i = done.i + 1; i < s.i && i <= done.i + JUDGE_SLOTS; i++)
			t->sampled &= ~bit(i);
		tier_open(t, &s);
		ended |= 1U << k;
		s = done;
		s.part |= s.i % (1 << TIER_SHIFT) != 0;
		s.i >>= TIER_SHIFT;
		if (k == HELD_TIER)
			s.high = s.low;
	}
	return ended;
}

static unsigned put_point(struct judge *j, const struct series_point *p)
{
	/* A level that is surely there: where only births are seen until the next census, it stands still. */
	struct slot s = {p->p.at_ms / j->slot_ms,
		(double)(p->low - j->origin) - (double)MAX(p->p.bound, 0),
		(double)(p->peak - j->origin), p->flags & SERIES_FELL, p->p.at_ms % j->slot_ms};

	return tiers_put(j, 0, s);
}

/* From what the series still has. */
static void rebuild(struct judge *j, const struct series *s)
{
	struct series_point points[TRACK_POINTS];
	uint32_t n = series_points(s, points), i = series_epoch(points, n);

	free(j->tiers);
	j->tiers = NULL;
	j->n_tiers = 0;
	j->rebuilt = true;
	j->frame = s->frame;
	j->origin = n ? points[i].level : 0;
	for (; i < n; i++) {
		struct series_point p = points[i];

		if (p.flags & SERIES_FLAT && i) {
			int64_t from = MAX(points[i - 1].p.at_ms, j->from_ms);

			/* It stood still: as many samples as there are slots, of those that are kept. */
			from = MAX(from, p.p.at_ms - (j->slot_ms << (TIER_SHIFT * (JUDGE_TIERS - 1))) *
							    JUDGE_SLOTS);
			for (int64_t at = from, step = j->slot_ms; at < p.p.at_ms; at += step) {
				struct series_point q = p;

				q.p.at_ms = at;
				put_point(j, &q);
			}
		}
		if (p.p.at_ms >= j->from_ms)
			put_point(j, &p);
	}
}

/* ---- what a stretch of time looks like ------------------------------------------------------- */

struct view {
	double slot_ms, from_ms;
	unsigned n;      /* slots with samples, of n_slots */
	unsigned n_slots;
	double at[JUDGE_SLOTS], low[JUDGE_SLOTS], high[JUDGE_SLOTS]; /* at: in slots */
	double floor[3], ceil[3]; /* of thirds */
	bool whole; /* enough is known of it */
	bool fell;

	/* by view_slope() */
	double slope; /* per slot */
	double order; /* pairs in rising order minus pairs in falling order, of both: -1..1 */
	double up;    /* share of the steps from slot to slot that go up */
	double swing; /* how far four of five slots are from the line, together */
	double noise; /* how far a step from slot to slot is from the slope, usually */
};

static int64_t tier_slot_ms(const struct judge *j, unsigned k)
{
	return j->slot_ms << (TIER_SHIFT * k);
}

/* How many slots have ended, of those that the tier keeps. */
static unsigned tier_slots(const struct judge *j, unsigned k)
{
	const struct judge_tier *t;

	if (k >= j->n_tiers)
		return 0;
	t = &j->tiers[k];
	return (unsigned)MAX(MIN(t->open - t->first, JUDGE_SLOTS), 0);
}

static void view_fill(struct view *v, const struct judge *j, unsigned k, unsigned n_slots)
{
	const struct judge_tier *t = &j->tiers[k];
	int64_t from = t->open - n_slots;
	double last = -1;
	unsigned seen = 0, hole;

	memset(v, 0, sizeof(*v));
	for (unsigned i = 0; i < n_slots; i++)
		v->n += (t->sampled & bit(from + i)) != 0;
	hole = MAX(n_slots / HOLE, 2 * n_slots / MAX(v->n, SAMPLED_LEAST));
	v->n = 0;
	v->n_slots = n_slots;
	v->slot_ms = (double)tier_slot_ms(j, k);
	v->from_ms = (double)from * v->slot_ms;
	v->whole = true;
	for (unsigned i = 0; i < n_slots; i++) {
		unsigned at = (unsigned)((uint64_t)(from + i) % JUDGE_SLOTS);
		unsigned third = i * 3 / n_slots;

		if (!(t->sampled & bit(from + i)))
			continue;
		if (i - last > hole)
			v->whole = false;
		last = i;
		v->at[v->n] = i + 0.5;
		v->low[v->n] = (double)t->lows[at];
		v->high[v->n] = v->low[v->n] + spread_unpack(t->spreads[at]);
		if (!(seen & 1U << third) || v->low[v->n] < v->floor[third])
			v->floor[third] = v->low[v->n];
		if (!(seen & 1U << third) || v->high[v->n] > v->ceil[third])
			v->ceil[third] = v->high[v->n];
		seen |= 1U << third;
		v->fell |= i && t->fell & bit(from + i);
		v->n++;
	}
	if (v->n < SAMPLED_LEAST || seen != 7 || n_slots - last > hole)
		v->whole = false;
}

/* Moves what is less than the pivot (or equal, with `equal`) to the front of v[from..n-1]; where that ends.
 * Without a branch on what is in there, for which a processor could only guess: three times as fast. */
static int partition(double *v, int from, int n, double pivot, bool equal)
{
	int end = from;

	for (int i = from; i < n; i++) {
		double x = v[i];

		v[i] = v[end];
		v[end] = x;
		end += equal ? x <= pivot : x < pivot;
	}
	return end;
}

static double middle(double a, double b, double c)
{
	return MAX(MIN(a, b), MIN(MAX(a, b), c));
}

/* The k-th smallest of v, which is reordered: none before it is larger. */
static double kth_smallest(double *v, int n, int k)
{
	int lo = 0, hi = n;

	while (hi - lo > 1) {
		double pivot = middle(v[lo], v[lo + (hi - lo) / 2], v[hi - 1]);
		int end = partition(v, lo, hi, pivot, false);

		if (k < end) {
			hi = end;
			continue;
		}
		/* Nothing is less: out of the way with all that are equal, of which there may be many. */
		if (end == lo)
			end = partition(v, lo, hi, pivot, true);
		if (k < end)
			return pivot;
		lo = end;
	}
	return v[k];
}

static double median(double *v, int n)
{
	double above, below = -HUGE_VAL;

	if (!n)
		return 0;
	above = kth_smallest(v, n, n / 2);
	if (n & 1)
		return above;
	for (int i = 0; i < n / 2; i++) /* what is before it is none larger */
		below = MAX(below, v[i]);
	return (above + below) / 2;
}

/* Theil-Sen over slots from..to-1: the median of the slopes of all pairs. */
static double theil_sen(const struct view *v, unsigned from, unsigned to)
{
	double slopes[PAIRS_MAX];
	int n = 0;

	for (unsigned i = from; i < to; i++)
		for (unsigned k = i + 1; k < to; k++)
			slopes[n++] = (v->low[k] - v->low[i]) / (v->at[k] - v->at[i]);
	return median(slopes, n);
}

/* The slope, Goodman and Kruskal's gamma, and what remains. */
static void view_slope(struct view *v)
{
	unsigned rising = 0, falling = 0, up = 0, ten = v->n / 10;
	double rest[JUDGE_SLOTS], steps[JUDGE_SLOTS];

	v->slope = theil_sen(v, 0, v->n);
	for (unsigned i = 0; i < v->n; i++) {
		for (unsigned k = i + 1; k < v->n; k++) {
			rising += v->low[k] > v->low[i];
			falling += v->low[k] < v->low[i];
		}
		up += i && v->low[i] > v->low[i - 1];
		rest[i] = v->low[i] - v->slope * v->at[i];
		steps[i] = i ? fabs(rest[i] - rest[i - 1]) : 0;
	}
	v->order = rising + falling ? ((double)rising - falling) / (rising + falling) : 0;
	v->up = v->n > 1 ? (double)up / (v->n - 1) : 0;
	if (v->n)
		v->swing = kth_smallest(rest, (int)v->n, (int)(v->n - 1 - ten)) -
			   kth_smallest(rest, (int)v->n, (int)ten);
	v->noise = v->n > 1 ? median(steps + 1, (int)v->n - 1) : 0;
}

/* Robust growth over all of it. */
static double view_growth(const struct view *v)
{
	return v->slope * v->n_slots;
}

static bool view_rises(const struct view *v, double least)
{
	for (int i = 1; i < 3; i++)
		if (v->floor[i] - v->floor[i - 1] <= least || v->ceil[i] - v->ceil[i - 1] <= least)
			return false;
	return true;
}

/* The first slot with samples at or after a share of the time. */
static unsigned view_find(const struct view *v, double share)
{
	unsigned i = 0;

	while (i < v->n && v->at[i] < v->n_slots * share)
		i++;
	return i;
}

/* Mean of the floors of slots from..to-1. */
static double view_mean(const struct view *v, unsigned from, unsigned to)
{
	double sum = 0;

	for (unsigned i = from; i < to; i++)
		sum += v->low[i];
	return sum / (to - from);
}

static bool view_levels_off(const struct view *v)
{
	unsigned half = view_find(v, 1 / 2.0), from = view_find(v, 6 / 8.0), last = view_find(v, 7 / 8.0);

	if (theil_sen(v, half, v->n) < LEVELLING * theil_sen(v, 0, half) ||
		v->ceil[2] - v->ceil[1] < LEVELLING / 2 * (v->ceil[1] - v->ceil[0]))
		return true;
	return from < last && last < v->n &&
	       view_mean(v, last, v->n) - view_mean(v, from, last) <
		       MAX(LAST_LEAST * view_growth(v) / 8 - v->noise, 1);
}

/* The order of n random values has a standard deviation of sqrt(2(2n + 5) / 9n(n - 1)). */
static bool view_by_chance(const struct view *v)
{
	double n = v->n;
	double sigma = n > 1 ? sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))) : 1;

	return v->order < MIN(MAX(CHANCE_SIGMA * sigma, 0.3), 0.95);
}

/* The highest level that was held for a quarter of a window before the view. */
static double held_before(const struct judge *j, unsigned k, const struct view *v)
{
	double oldest = v->from_ms - (double)j->slot_ms * WINDOW_SLOTS * PEAK_WINDOWS;
	double highest = -HUGE_VAL;

	for (unsigned m = MAX(k, (unsigned)HELD_TIER); m < j->n_tiers; m++) {
		const struct judge_tier *t = &j->tiers[m];
		double len = (double)tier_slot_ms(j, m);

		for (int64_t i = t->open - tier_slots(j, m); i < t->open; i++) {
			unsigned at = (unsigned)((uint64_t)i % JUDGE_SLOTS);
			double held = (double)t->lows[at];

			if (m > HELD_TIER)
				held += spread_unpack(t->spreads[at]);
			if (t->sampled & bit(i) && (double)(i + 1) * len <= v->from_ms &&
				(double)i * len >= oldest)
				highest = MAX(highest, held);
		}
	}
	return highest;
}

/* The lowest level of late: a longer tier hears of it only when its slot ends. */
static double latest_floor(const struct judge *j)
{
	const struct judge_tier *t = j->tiers;

	return t->sampled & bit(t->open - 1) ? (double)t->lows[(uint64_t)(t->open - 1) % JUDGE_SLOTS] : t->low;
}

/* ---- load ---------------------------------------------------------------------------------- */

/* The levels of a gauge in the slots of a view; false: not all are known. */
static bool view_gauge(struct view *g, const struct judge *gauge, unsigned k, const struct view *v)
{
	const struct judge_tier *t;
	int64_t from = (int64_t)(v->from_ms / v->slot_ms), oldest;

	if (k >= gauge->n_tiers || tier_slot_ms(gauge, k) != (int64_t)v->slot_ms)
		return false;
	t = &gauge->tiers[k];
	oldest = t->open - tier_slots(gauge, k);
	*g = *v;
	for (unsigned i = 0; i < v->n; i++) {
		int64_t slot = from + (int64_t)v->at[i];

		if (slot < oldest || slot >= t->open || !(t->sampled & bit(slot)))
			return false;
		g->low[i] = (double)t->lows[(uint64_t)slot % JUDGE_SLOTS] + (double)gauge->origin;
	}
	view_slope(g);
	return true;
}

/* By how much a counter of a series rose in the first half of a view and in the second; where it began anew
 * from zero, what it said until the next point is not known and left out. */
static bool rise_in_halves(const struct series *s, size_t counter, const struct view *v, double ret[2])
{
	struct series_point points[TRACK_POINTS];
	uint32_t n = series_points(s, points);
	double at[3], value[3] = {0}, sum = 0;
	int k = 0;

	for (int half = 0; half < 3; half++)
		at[half] = v->from_ms + half * v->n_slots * v->slot_ms / 2;
	for (uint32_t i = 0; i + 1 < n && k < 3; i++) {
		const struct track_point *a = &points[i].p, *b = &points[i + 1].p;
		uint64_t from = *(const uint64_t *)((const char *)a + counter);
		uint64_t to = *(const uint64_t *)((const char *)b + counter);
		double rise = to > from ? (double)(to - from) : 0;

		for (; k < 3 && (double)b->at_ms >= at[k]; k++)
			value[k] = sum + rise * MAX(at[k] - (double)a->at_ms, 0) /
						 (double)MAX(b->at_ms - a->at_ms, (int64_t)1);
		sum += rise;
	}
	ret[0] = value[1] - value[0];
	ret[1] = value[2] - value[1];
	return k == 3;
}

/* Births a ms in the halves of a view, from the time in which none was missed. */
static bool birth_rates(const struct judge_load *load, const struct view *v, double ret[2])
{
	double seen[2], least = LOAD_SEEN * v->n_slots * v->slot_ms / 2;

	if (!rise_in_halves(load->births, offsetof(struct track_point, births), v, ret) ||
		!rise_in_halves(load->seen_ms, offsetof(struct track_point, deaths), v, seen) ||
		seen[0] < least || seen[1] < least || ret[0] <= 0)
		return false;
	ret[0] /= seen[0];
	ret[1] /= seen[1];
	return true;
}

/*
 * Why the growth in a view is that of the load; NULL: it is not. What comes and goes with it lives as long as before:
 * there are more because more are born (Little's law). Of a leak as many are born as before, and they
 * stay; so it is none though it may open a file each. Births alone would say that of copies of what
 * leaks, a gauge alone of leaked threads and connections.
 */
static const char *follows_load(const struct judge_load *load, unsigned k, const struct view *v)
{
	static const char *const words[TRACK_GAUGES] = {
		[TRACK_THREADS] = "it follows the load: threads and births rise with it",
		[TRACK_FILES] = "it follows the load: open files and births rise with it",
	};
	double births[2];

	if (k >= LOAD_TIERS || !birth_rates(load, v, births) ||
		(births[0] + births[1]) * v->n_slots * v->slot_ms / 2 < 2 * view_growth(v))
		return NULL;
	for (int i = 0; i < TRACK_GAUGES; i++) {
		struct view g, rest = *v;
		unsigned third = view_find(v, 1 / 3.0), half = view_find(v, 1 / 2.0), last = view_find(v, 2 / 3.0);
		double before, after;

		if (!view_gauge(&g, load->gauges[i], k, v))
			continue;
		before = view_mean(&g, 0, third);
		after = view_mean(&g, last, g.n);
		if (g.slope <= 0 || after < LOAD_RISE * before || after < before + LOAD_LEAST)
			continue;
		for (unsigned n = 0; n < v->n; n++)
			rest.low[n] -= v->slope / g.slope * g.low[n];
		view_slope(&rest);
		if (CLEAR_LEAK * rest.swing > view_growth(v))
			continue; /* it did not grow as the gauge did */
		before = view_mean(&g, 0, half);
		after = view_mean(&g, half, g.n);
		if (births[1] / births[0] - 1 >= LOAD_BIRTHS * (after / before - 1))
			return words[i];
	}
	return NULL;
}

/* ---- what is growth ------------------------------------------------------------------------ */

/* Why the growth in a view is nothing; NULL: it is growth without an end in sight. */
static const char *refused(const struct judge *j, unsigned k, struct view *v, double least, double clear)
{
	if (!v->whole)
		return "samples are missing";
	if (!view_rises(v, 0))
		return "no steady growth";
	view_slope(v);
	if (view_growth(v) < MAX(least, 1))
		return "less than growth.min_objects";
	if (view_growth(v) <= (double)j->bound)
		return "no more than the levels may be off";
	if (!view_rises(v, view_growth(v) / 20))
		return "no steady growth";
	if (view_levels_off(v))
		return "levelling off";
	if (view_by_chance(v) || view_growth(v) < clear * (v->n < SAMPLED_FEW ? 2 : 1) * v->swing)
		return "not clear of the usual ups and downs yet";
	if (v->floor[2] <= held_before(j, k, v) + view_growth(v) / 3)
		return "it has been as high before";
	if (latest_floor(j) < v->floor[1])
		return "it has gone back";
	if (j->plateau && v->ceil[2] + (double)j->origin <= PLATEAU_ROOM * (double)j->plateau)
		return "as it grew after earlier starts of this service";
	return NULL;
}

/* ---- words ------------------------------------------------------------------------------- */

#define NUMBER_MAX 32

/* 1234567 -> "1 234 567". By hand: printf's way with doubles takes longer than the judgement. */
static const char *number(char buf[NUMBER_MAX], double v)
{
	char *to = &buf[NUMBER_MAX - 1];
	int64_t n = llrint(MAX(MIN(v, 9e15), -9e15));
	uint64_t rest = (uint64_t)(n < 0 ? -n : n);

	*to = '\0';
	for (int digits = 0; rest || !digits; digits++) {
		if (digits && digits % 3 == 0)
			*--to = ' ';
		*--to = (char)('0' + rest % 10);
		rest /= 10;
	}
	if (n < 0)
		*--to = '-';
	return to;
}

static const char *duration(char buf[NUMBER_MAX], double ms)
{
	return format_duration(buf, NUMBER_MAX, (uint64_t)MIN(ms, 1e12) * 1000000);
}

static void set_none(struct track_verdict *v, const char *reason)
{
	v->kind = TRACK_NONE;
	v->first_seen_ms = 0;
	v->delta = 0;
	v->rate_per_hour = v->confidence = 0;
	v->reason = reason;
}

/* doubted: what would be a leak by its growth is refused for a reason. */
static double confidence(const struct view *v, bool leak, bool doubted)
{
	double clear = view_growth(v) / MAX(v->swing, view_growth(v) / 100);
	double c = MAX(v->order, 0) * (1 - 0.8 / (1 + clear));

	return (leak ? 1 : doubted ? 0.25 : 0.5) * c * MIN(1, 0.5 + v->n / 24.0);
}

/* What the view says goes into the verdict, with the sentence. */
static void set_growth(struct judge *j, struct track_verdict *v, enum track_verdict_kind kind,
	const struct view *w, int64_t now, const char *more, bool doubted)
{
	char delta[NUMBER_MAX], rate[NUMBER_MAX], len[NUMBER_MAX], up[NUMBER_MAX] = "";
	double growth = MAX(MIN(view_growth(w), (double)SERIES_LEVEL_MAX), -(double)SERIES_LEVEL_MAX);

	if (!j->words)
		j->words = malloc(WORDS);
	if (v->kind == TRACK_NONE)
		v->first_seen_ms = now;
	v->kind = kind;
	v->delta = llround(growth);
	v->rate_per_hour = w->slope / w->slot_ms * MS_PER_HOUR;
	v->confidence = confidence(w, kind == TRACK_LEAK, doubted);
	v->reason = j->words ? j->words : "it grows";
	if (!j->words)
		return;
	if (w->up >= 0.5) /* leaks in few big steps stand still most of the time */
		snprintf(up, sizeof(up), ", %d %% of steps upward", (int)(w->up * 100));
	snprintf(j->words, WORDS, "grew by %s in %s (%s an hour)%s%s%s%s%s", number(delta, growth),
		duration(len, w->n_slots * w->slot_ms), number(rate, v->rate_per_hour),
		w->fell ? "" : " without once falling back", up,
		j->known_leak ? "; it leaked before the last restart as well" : "", more ? "; " : "",
		more ? more : "");
}

/* ---- the verdict ------------------------------------------------------------------------- */

static double min_objects(const struct track_config *c)
{
	return (double)MAX(c->min_objects, 1);
}

/* A leak that was seen goes on. */
static bool leak_goes_on(struct judge *j, const struct track_config *c, const struct view *v)
{
	double growth = view_growth(v);

	j->top = MAX(j->top, v->floor[2]);
	return growth >= min_objects(c) / 2 &&
	       MIN(v->floor[2], latest_floor(j)) >= j->base + (j->top - j->base) / 2 &&
	       MAX(v->floor[2] - v->floor[1], v->ceil[2] - v->ceil[1]) >= STANDING * growth / 3;
}

static void start_leak(struct judge *j, unsigned tier, const struct view *v)
{
	j->tier = (uint8_t)tier;
	j->base = v->floor[0];
	j->top = v->floor[2];
}

/* What a verdict is made from, beside the tiers. */
struct look {
	const struct track_config *c;
	const struct judge_load *load;
	unsigned ended; /* tiers of which a slot has */
	int64_t now;
};

/* Looks for a leak in the tiers below `to` of which a slot has ended. Why not, of the shortest, goes to
 * *ret_refused; NULL: it is too early to say. */
static bool find_leak(const struct judge *j, const struct look *l, unsigned to, struct view *v,
	unsigned *ret_tier, const char **ret_refused)
{
	*ret_refused = NULL;
	for (unsigned k = 0; k < MIN(to, j->n_tiers); k++) {
		unsigned have = tier_slots(j, k);
		/* What leaked in an earlier life needs no more than the window. */
		unsigned least = k ? TIER_LEAST : j->known_leak ? WINDOW_SLOTS : JUDGE_SLOTS;
		const char *why;

		if (!(l->ended & 1U << k) || have < least)
			continue;
		for (unsigned n = have; n >= least; n = n > least ? least : 0) {
			view_fill(v, j, k, n);
			why = refused(j, k, v, min_objects(l->c), CLEAR_LEAK);
			if (!why && l->load)
				why = follows_load(l->load, k, v);
			if (!why) {
				*ret_tier = k;
				return true;
			}
		}
		if (!k)
			*ret_refused = why;
	}
	return false;
}

static bool is_watch(struct judge *j, const struct track_config *c, struct view *v, bool already,
	const char **ret_refused)
{
	view_fill(v, j, 0, WINDOW_SLOTS);
	if (!already) {
		*ret_refused = refused(j, 0, v, min_objects(c) / 2, CLEAR_WATCH);
		return !*ret_refused;
	}
	*ret_refused = v->whole ? "no steady growth" : NULL;
	if (!v->whole)
		return true;
	view_slope(v);
	return view_growth(v) >= min_objects(c) / 4 && v->floor[2] > v->floor[0];
}

static void judge_slots(struct judge *j, const struct look *l, struct track_verdict *v)
{
	const char *why, *why_no_leak;
	char buf[NUMBER_MAX], more[64];
	unsigned tier;
	struct view w;

	if (v->kind == TRACK_LEAK) {
		unsigned n = MIN(tier_slots(j, j->tier), JUDGE_SLOTS);
		struct view part;

		if (n < TIER_LEAST)
			return; /* after a restart of the counters what was found stays until refuted */
		view_fill(&w, j, j->tier, n);
		if (!w.whole)
			return;
		view_slope(&w);
		if (j->rebuilt)
			start_leak(j, j->tier, &w);
		j->rebuilt = false;
		if (leak_goes_on(j, l->c, &w)) {
			/* What a longer tier found shows in a shorter one later, and ends there. */
			if (j->tier && find_leak(j, l, j->tier, &part, &tier, &why)) {
				start_leak(j, tier, &part);
				w = part;
			}
			set_growth(j, v, TRACK_LEAK, &w, l->now, NULL, false);
			return;
		}
		set_none(v, "no longer growing");
	}
	if (find_leak(j, l, JUDGE_TIERS, &w, &tier, &why_no_leak)) {
		start_leak(j, tier, &w);
		j->rebuilt = false;
		set_growth(j, v, TRACK_LEAK, &w, l->now, NULL, false);
		return;
	}
	if (tier_slots(j, 0) < WINDOW_SLOTS) {
		if (v->kind == TRACK_NONE)
			set_none(v, "not observed for a window yet");
		return;
	}
	if (!is_watch(j, l->c, &w, v->kind == TRACK_WATCH, &why)) {
		set_none(v, why);
		return;
	}
	if (!w.whole)
		return;
	if (!why_no_leak)
		snprintf(more, sizeof(more), "a leak if it goes on for %s more",
			duration(buf, (double)j->slot_ms * (JUDGE_SLOTS - WINDOW_SLOTS)));
	set_growth(j, v, TRACK_WATCH, &w, l->now, why_no_leak ? why_no_leak : more, why_no_leak != NULL);
}

/* The settings have changed, or when the process started is another time: by more than it is off whenever
 * somebody works it out from two clocks. */
static bool begins_anew(const struct judge *j, const struct series *s, int64_t slot_ms, int64_t from_ms)
{
	return j->slot_ms != slot_ms || llabs(j->from_ms - from_ms) > FROM_MS || j->frame != s->frame || !j->tiers;
}

void judge(struct judge *j, const struct track_config *c, int64_t usable_from_ms, const struct series *s,
	double bound, const struct judge_load *load, struct track_verdict *v)
{
	const struct series_point *last = series_last(s);
	struct look l = {.c = c, .load = load};
	int64_t window = (int64_t)MIN(c->window_ms, (uint64_t)SERIES_TIME_MAX >> 12);
	int64_t slot_ms = MAX(window / WINDOW_SLOTS, 1);

	if (!last)
		return;
	v->count = last->p.count;
	j->bound = (float)MAX(bound, (double)j->bound * BOUND_FADE);
	if (last->p.at_ms < usable_from_ms) {
		set_none(v, "warming up");
		return;
	}
	if (!s->moved && !j->tiers) {
		if (v->kind == TRACK_NONE)
			v->reason = "steady";
		return;
	}
	if (begins_anew(j, s, slot_ms, usable_from_ms)) {
		j->slot_ms = slot_ms;
		j->from_ms = usable_from_ms;
		rebuild(j, s);
		l.ended = (1U << JUDGE_TIERS) - 1;
	} else {
		l.ended = put_point(j, last);
	}
	l.now = last->p.at_ms;
	if (l.ended)
		judge_slots(j, &l, v);
}

/* ---- kept elsewhere ------------------------------------------------------------------------ */

struct saved {
	uint8_t version, n_tiers, tier, kind;
	uint32_t tier_size;
	int64_t origin, slot_ms, from_ms, first_seen_ms;
	double base, top;
};
#define SAVED_VERSION 2

size_t judge_save(const struct judge *j, const struct track_verdict *v, uint8_t *buf, size_t size)
{
	struct saved head = {SAVED_VERSION, j->n_tiers, j->tier, (uint8_t)v->kind,
		sizeof(struct judge_tier), j->origin, j->slot_ms, j->from_ms, v->first_seen_ms, j->base,
		j->top};
	size_t n = j->n_tiers * sizeof(struct judge_tier);

	if (size < sizeof(head) + n)
		return 0;
	memcpy(buf, &head, sizeof(head));
	if (n)
		memcpy(buf + sizeof(head), j->tiers, n);
	return sizeof(head) + n;
}

static bool tier_sane(const struct judge_tier *t, int64_t newest)
{
	bool sane = t->first >= 0 && t->first <= t->open + 1 && t->open <= newest && isfinite(t->low) &&
		    isfinite(t->high);

	for (unsigned i = 0; i < JUDGE_SLOTS; i++)
		sane &= isfinite(t->lows[i]) && isfinite(spread_unpack(t->spreads[i]));
	return sane;
}

int judge_load(struct judge *j, const struct series *s, struct track_verdict *v, const uint8_t *buf, size_t n)
{
	const struct series_point *last = series_last(s);
	_cleanup_free_ struct judge_tier *tiers = NULL;
	struct saved head;
	bool sane;

	if (n < sizeof(head) || !last)
		return -EBADMSG;
	memcpy(&head, buf, sizeof(head));
	sane = head.version == SAVED_VERSION && head.tier_size == sizeof(*tiers) &&
	       head.n_tiers <= JUDGE_TIERS && n == sizeof(head) + head.n_tiers * sizeof(*tiers) &&
	       head.tier < JUDGE_TIERS && head.kind <= TRACK_LEAK && isfinite(head.base) &&
	       isfinite(head.top) && (!head.n_tiers || head.slot_ms > 0) &&
	       head.origin <= SERIES_LEVEL_MAX && head.origin >= -SERIES_LEVEL_MAX;
	if (!sane)
		return -EBADMSG;
	if (head.n_tiers) {
		tiers = calloc(head.n_tiers, sizeof(*tiers));
		if (!tiers)
			return -ENOMEM;
		memcpy(tiers, buf + sizeof(head), head.n_tiers * sizeof(*tiers));
	}
	for (unsigned k = 0; k < head.n_tiers; k++) {
		/* A bool may only be read when it is one. */
		memset(&tiers[k].any, 0, sizeof(tiers[k].any) + sizeof(tiers[k].open_fell));
		tiers[k].any = true;
		if (!tier_sane(&tiers[k], last->p.at_ms / head.slot_ms >> (TIER_SHIFT * k)))
			return -EBADMSG;
	}
	j->n_tiers = head.n_tiers;
	j->tier = head.tier;
	j->frame = s->frame;
	j->origin = head.origin;
	j->slot_ms = head.slot_ms;
	j->from_ms = head.from_ms;
	j->base = head.base;
	j->top = head.top;
	j->tiers = TAKE_PTR(tiers);
	if (head.kind != TRACK_NONE) {
		v->kind = (enum track_verdict_kind)head.kind;
		v->first_seen_ms = head.first_seen_ms;
		v->reason = "found before the daemon was restarted";
	}
	return 0;
}

int64_t judge_plateau(const struct judge *j)
{
	const struct judge_tier *t = j->tiers;
	double highest = -HUGE_VAL, lowest = HUGE_VAL;

	if (!t || tier_slots(j, HELD_TIER) < REST_SLOTS)
		return TRACK_UNKNOWN;
	t = &j->tiers[HELD_TIER];
	for (int64_t i = t->open - REST_SLOTS; i < t->open; i++) {
		double low = (double)t->lows[(uint64_t)i % JUDGE_SLOTS] + (double)j->origin;

		if (!(t->sampled & bit(i)))
			continue;
		highest = MAX(highest, low);
		lowest = MIN(lowest, low);
	}
	/* What still went up or down has come to no rest. */
	return isfinite(highest) && highest - lowest <= REST * highest ? (int64_t)highest : TRACK_UNKNOWN;
}
