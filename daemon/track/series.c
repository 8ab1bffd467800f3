/* SPDX-License-Identifier: MIT */
#include "daemon/track/series.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/util/macros.h"

#define FIRST_CAP 3 /* most types stand still, which takes two */

static int64_t clamp_level(int64_t v)
{
	return MAX(MIN(v, SERIES_LEVEL_MAX), -SERIES_LEVEL_MAX);
}

/* a - b of two counters, within the bounds of a level. */
static int64_t counter_diff(uint64_t a, uint64_t b)
{
	uint64_t d = a > b ? a - b : b - a;
	int64_t v = d > (uint64_t)SERIES_LEVEL_MAX ? SERIES_LEVEL_MAX : (int64_t)d;

	return a > b ? v : -v;
}

void series_release(struct series *s)
{
	free(s->points);
	memset(s, 0, sizeof(*s));
}

const struct series_point *series_last(const struct series *s)
{
	return s->n ? &s->points[s->n - 1] : NULL;
}

struct thin_candidate {
	double spacing; /* how far its neighbours would be apart, as a share of its age */
	uint32_t i;
};

static int cmp_candidate(const void *a, const void *b)
{
	const struct thin_candidate *x = a, *y = b;

	return x->spacing != y->spacing ? (x->spacing > y->spacing) - (x->spacing < y->spacing)
					: (x->i > y->i) - (x->i < y->i);
}

/* Drops an eighth of the points, all out of the older half and no two neighbours: those that stand
 * densest for their age. What is left is spaced in proportion to its age (with 256 points: two per
 * cent of it a fortnight back), and the first point always stays. */
static void thin(struct series *s)
{
	struct thin_candidate candidates[TRACK_POINTS / 2];
	bool drop[TRACK_POINTS / 2 + 1] = {false};
	uint32_t half = s->n / 2, want = MAX(s->n / 8, 1), n = 0, out = 0, epoch = s->epoch;
	int64_t now = s->points[s->n - 1].p.at_ms;

	for (uint32_t i = 1; i < half; i++) {
		const struct series_point *p = &s->points[i];
		double apart = (double)(p[1].p.at_ms - p[-1].p.at_ms);

		if (i != s->epoch)
			candidates[n++] = (struct thin_candidate){
				apart / ((double)(now - p->p.at_ms) + 1), i};
	}
	qsort(candidates, n, sizeof(*candidates), cmp_candidate);
	for (uint32_t k = 0; k < n && want; k++) {
		uint32_t i = candidates[k].i;

		if (drop[i - 1] || drop[i + 1])
			continue;
		drop[i] = true;
		want--;
	}
	for (uint32_t i = 0; i < s->n; i++) {
		struct series_point *p = &s->points[i], *kept, *next;

		if (i >= half || !drop[i]) {
			s->points[out++] = *p;
			continue;
		}
		kept = &s->points[out - 1];
		next = &s->points[i + 1];
		kept->low = MIN(kept->low, p->low);
		kept->peak = MAX(kept->peak, p->peak);
		next->flags |= p->flags & SERIES_GAP;
		if (!(p->flags & SERIES_FLAT))
			next->flags &= ~SERIES_FLAT;
		epoch -= i < s->epoch;
	}
	s->n = out;
	s->epoch = epoch;
}

static int make_room(struct series *s)
{
	uint32_t cap = s->cap ? MIN(s->cap * 2, TRACK_POINTS) : FIRST_CAP;
	struct series_point *p;

	if (s->n < s->cap)
		return 0;
	if (s->cap < TRACK_POINTS) {
		p = realloc(s->points, cap * sizeof(*p));
		if (p) {
			s->points = p;
			s->cap = cap;
			return 0;
		}
		if (!s->cap)
			return -ENOMEM;
	}
	thin(s);
	return 0;
}

/* The level of a sample, which moves the frame along; *ret_break: nothing before compares. */
static int64_t next_level(struct series *s, const struct track_point *p, bool *ret_break)
{
	const struct series_point *last = series_last(s);
	bool reset = last && (p->births < last->p.births || p->deaths < last->p.deaths);
	uint64_t births = p->births, deaths = p->deaths;

	*ret_break = false;
	if (last && !reset) {
		births -= last->p.births;
		deaths -= last->p.deaths;
	}
	s->net = clamp_level(s->net + counter_diff(births, deaths));
	if (p->count != TRACK_UNKNOWN) {
		int64_t count = clamp_level(p->count), base = clamp_level(count - s->net);

		if (!s->base_known) {
			for (uint32_t i = s->epoch; i < s->n; i++) {
				struct series_point *q = &s->points[i];

				q->level = clamp_level(q->level + base);
				q->low = clamp_level(q->low + base);
				q->peak = clamp_level(q->peak + base);
			}
			s->base_known = true;
			s->frame++;
		}
		s->base = base;
		return count;
	}
	if (reset) {
		*ret_break = true;
		s->net = counter_diff(births, deaths);
		s->base = 0;
		s->base_known = false;
		s->frame++;
	}
	return clamp_level(s->base + s->net);
}

int series_add(struct series *s, const struct track_point *p, uint64_t interval_ms)
{
	struct series_point *last, new = {.p = *p};
	bool brk, equal;
	int r;

	r = make_room(s);
	if (r)
		return r;
	last = s->n ? &s->points[s->n - 1] : NULL;
	new.p.at_ms = MAX(MIN(p->at_ms, SERIES_TIME_MAX), last ? last->p.at_ms : 0);
	new.level = new.low = new.peak = next_level(s, p, &brk);
	if (last && (uint64_t)(new.p.at_ms - last->p.at_ms) / 3 > MAX(interval_ms, 1))
		new.flags |= SERIES_GAP;
	equal = last && !brk && last->p.count == p->count && last->p.births == p->births &&
		last->p.deaths == p->deaths;
	if (equal && !(new.flags &SERIES_GAP)) {
		if (last->p.at_ms == new.p.at_ms)
			return 0;
		if (last->flags & SERIES_FLAT) {
			last->p.at_ms = new.p.at_ms;
			return 0;
		}
		new.flags |= SERIES_FLAT;
	} else if (last && last->p.at_ms == new.p.at_ms && !(last->flags & SERIES_FLAT)) {
		/* The clock stands (or went back): one point, that remembers the extremes. */
		if (!brk) {
			new.low = MIN(new.low, last->low);
			new.peak = MAX(new.peak, last->peak);
		} else {
			s->epoch = s->n - 1;
		}
		new.flags = last->flags;
		*last = new;
		return 0;
	}
	if (brk)
		s->epoch = s->n;
	s->points[s->n++] = new;
	return 0;
}

uint32_t series_find(const struct series *s, int64_t at_ms)
{
	uint32_t lo = s->epoch, hi = s->n;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (s->points[mid].p.at_ms < at_ms)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}
