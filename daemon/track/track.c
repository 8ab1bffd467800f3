/* SPDX-License-Identifier: MIT */
#include "daemon/track/track.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/track/cause.h"
#include "daemon/track/judge.h"
#include "daemon/track/series.h"
#include "daemon/util/macros.h"
#include "daemon/util/u64map.h"

#define NAME_MAX_BYTES     255
#define HISTORY_POINTS_MAX 65536 /* of one answer, runs of equal samples written out */

struct track_type {
	struct track_type *prev, *next;
	uint64_t key;
	char *name;
	struct series series;
	struct judge judge;
	struct track_verdict verdict;
	uint64_t interval_ms; /* for writing out runs of equal samples */
	bool builtin;         /* see cause_is_builtin() */
};

/* Kept as a type is, but for its verdict: of that the types speak. With births and seen_ms below as births
 * and deaths. */
struct gauge {
	struct series series;
	struct judge judge;
	struct track_verdict verdict;
};

struct track {
	struct track_config config;
	int64_t start_ms;
	struct gauge gauges[TRACK_GAUGES];
	struct judge_load load; /* as the type sees it that is judged */
	uint64_t births, seen_ms; /* of all types, and for how long none was missed */
	int64_t gauged_ms;
	struct u64map types; /* key -> struct track_type * */
	struct track_type *first;
	size_t n_types;
};

const char *track_quality_name(enum track_quality q)
{
	switch (q) {
	case TRACK_EXACT:
		return "exact";
	case TRACK_ESTIMATE:
		return "estimate";
	case TRACK_BLIND:
		break;
	}
	return "blind";
}

const char *track_verdict_name(enum track_verdict_kind k)
{
	switch (k) {
	case TRACK_LEAK:
		return "leak";
	case TRACK_WATCH:
		return "watch";
	case TRACK_NONE:
		break;
	}
	return "none";
}

const char *track_gauge_name(enum track_gauge g)
{
	return g == TRACK_THREADS ? "threads" : "open files";
}

int track_new(const struct track_config *c, int64_t target_start_ms, struct track **ret)
{
	struct track *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->config = *c;
	t->start_ms = target_start_ms;
	for (int i = 0; i < TRACK_GAUGES; i++)
		t->load.gauges[i] = &t->gauges[i].judge;
	t->load.seen_ms = &t->gauges[TRACK_THREADS].series;
	*ret = t;
	return 0;
}

static void type_free(struct track_type *ty)
{
	if (!ty)
		return;
	series_release(&ty->series);
	judge_release(&ty->judge);
	free(ty->name);
	free(ty);
}

void track_free(struct track *t)
{
	struct track_type *ty, *next;

	if (!t)
		return;
	for (ty = t->first; ty; ty = next) {
		next = ty->next;
		type_free(ty);
	}
	for (int i = 0; i < TRACK_GAUGES; i++) {
		series_release(&t->gauges[i].series);
		judge_release(&t->gauges[i].judge);
	}
	u64map_release(&t->types);
	free(t);
}

void track_configure(struct track *t, const struct track_config *c)
{
	t->config = *c;
}

struct track_type *track_type_get(struct track *t, uint64_t key, const char *name)
{
	uint64_t *slot = u64map_get(&t->types, key);
	struct track_type *ty;

	if (slot)
		return (struct track_type *)(uintptr_t)*slot;
	if (t->n_types >= TRACK_TYPES)
		return NULL;
	ty = calloc(1, sizeof(*ty));
	if (!ty)
		return NULL;
	ty->key = key;
	ty->name = strndup(name, NAME_MAX_BYTES);
	if (!ty->name || u64map_put(&t->types, key, (uintptr_t)ty)) {
		type_free(ty);
		return NULL;
	}
	ty->builtin = cause_is_builtin(ty);
	ty->verdict.count = TRACK_UNKNOWN;
	ty->verdict.reason = "";
	ty->next = t->first;
	if (t->first)
		t->first->prev = ty;
	t->first = ty;
	t->n_types++;
	return ty;
}

void track_forget(struct track *t, uint64_t key)
{
	uint64_t *slot = u64map_get(&t->types, key);
	struct track_type *ty;

	if (!slot)
		return;
	ty = (struct track_type *)(uintptr_t)*slot;
	if (ty->prev)
		ty->prev->next = ty->next;
	else
		t->first = ty->next;
	if (ty->next)
		ty->next->prev = ty->prev;
	t->n_types--;
	u64map_remove(&t->types, key);
	type_free(ty);
}

const char *track_type_name(const struct track_type *ty)
{
	return ty->name;
}

struct track_type *track_next(struct track *t, struct track_type *prev)
{
	return prev ? prev->next : t->first;
}

/* End of the warm-up, in the bounds of a series' times. */
static int64_t usable_from(const struct track *t)
{
	int64_t start = MAX(MIN(t->start_ms, SERIES_TIME_MAX), 0);

	return start + (int64_t)MIN(t->config.warmup_ms, (uint64_t)SERIES_TIME_MAX);
}

void track_gauges(struct track *t, int64_t at_ms, const struct track_gauges *v)
{
	at_ms = MAX(MIN(at_ms, SERIES_TIME_MAX), 0);
	if (v->counted && t->gauged_ms && at_ms > t->gauged_ms)
		t->seen_ms += (uint64_t)(at_ms - t->gauged_ms);
	t->gauged_ms = at_ms;
	for (int i = 0; i < TRACK_GAUGES; i++) {
		struct track_point p = {.at_ms = at_ms, .count = v->value[i], .births = t->births, .deaths = t->seen_ms};
		struct gauge *g = &t->gauges[i];

		if (v->value[i] >= 0 && !series_add(&g->series, &p, MAX(t->config.interval_ms, 1)))
			judge(&g->judge, &t->config, usable_from(t), &g->series, 0, NULL, &g->verdict);
	}
}

bool track_sample(struct track *t, struct track_type *ty, const struct track_point *p)
{
	enum track_verdict_kind was = ty->verdict.kind;
	const struct series_point *last = series_last(&ty->series);

	if (last && p->births > last->p.births)
		t->births += p->births - last->p.births;
	/* Births of built-in types are mostly taken from free lists, which nobody sees. */
	t->load.births = ty->builtin ? t->load.seen_ms : &ty->series;
	ty->interval_ms = MAX(t->config.interval_ms, 1);
	if (series_add(&ty->series, p, ty->interval_ms))
		return false; /* no memory for a first point: the type stays unjudged */
	judge(&ty->judge, &t->config, usable_from(t), &ty->series, (double)MAX(p->bound, 0), &t->load,
		&ty->verdict);
	return ty->verdict.kind != was;
}

const struct track_verdict *track_type_verdict(const struct track_type *ty)
{
	return &ty->verdict;
}

bool track_type_growth(const struct track_type *ty, int64_t since_ms, struct track_growth *ret)
{
	struct series_point points[TRACK_POINTS];
	uint32_t n = series_points(&ty->series, points), epoch = series_epoch(points, n);
	const struct series_point *last = series_last(&ty->series), *p;
	int64_t peak = 0, at = 0;

	if (n - epoch < 2)
		return false;
	for (uint32_t i = epoch; i < n; i++) {
		int64_t point_at, level;

		p = &points[i];
		point_at = p->p.at_ms;
		if (i > epoch && point_at > since_ms) {
			/* A run of equal samples that began before: its level was there at `since`. */
			if (!(p->flags & SERIES_FLAT) || p[-1].p.at_ms >= since_ms)
				break;
			point_at = since_ms;
		}
		/* A thinned point's peak lies anywhere up to the next one: not surely before `since`. */
		level = i + 1 < n && p[1].p.at_ms <= since_ms ? p->peak : p->level;
		if (i == epoch || level >= peak) {
			peak = level;
			at = point_at;
		}
	}
	if (last->level <= peak)
		return false;
	ret->count = last->p.count;
	ret->delta = last->level - peak;
	ret->since_ms = at;
	ret->rate_per_hour = last->p.at_ms > at
				     ? (double)ret->delta * 3600000.0 / (double)(last->p.at_ms - at)
				     : 0;
	return true;
}

void track_type_expect(struct track_type *ty, const struct track_expectation *e)
{
	ty->judge.plateau = MAX(MIN(e->plateau, SERIES_LEVEL_MAX), 0);
	ty->judge.known_leak = e->leaked;
}

bool track_type_learned(const struct track_type *ty, struct track_expectation *ret)
{
	int64_t plateau;

	*ret = (struct track_expectation){.leaked = ty->verdict.kind == TRACK_LEAK};
	if (ret->leaked)
		return true;
	plateau = judge_plateau(&ty->judge);
	if (plateau == TRACK_UNKNOWN || !ty->series.base_known || ty->verdict.kind != TRACK_NONE)
		return false;
	ret->plateau = MAX(plateau, 0);
	return true;
}

bool track_type_moved(const struct track_type *ty)
{
	return ty->judge.tiers || ty->series.moved;
}

size_t track_type_save(const struct track_type *ty, uint8_t *buf, size_t size)
{
	uint32_t head[2]; /* bytes of the series, of the judge */

	if (size < sizeof(head) || !ty->series.n)
		return 0;
	head[0] = (uint32_t)series_save(&ty->series, buf + sizeof(head), size - sizeof(head));
	head[1] = (uint32_t)judge_save(&ty->judge, &ty->verdict, buf + sizeof(head) + head[0],
		size - sizeof(head) - head[0]);
	memcpy(buf, head, sizeof(head));
	return head[0] && head[1] ? sizeof(head) + head[0] + head[1] : 0;
}

int track_type_load(struct track_type *ty, const uint8_t *buf, size_t n)
{
	uint32_t head[2];
	int r;

	if (ty->series.n || n < sizeof(head))
		return -EBADMSG;
	memcpy(head, buf, sizeof(head));
	if (head[0] > n - sizeof(head) || head[1] != n - sizeof(head) - head[0])
		return -EBADMSG;
	r = series_load(&ty->series, buf + sizeof(head), head[0]);
	if (!r)
		r = judge_load(&ty->judge, &ty->series, &ty->verdict, buf + sizeof(head) + head[0], head[1]);
	if (r)
		series_release(&ty->series);
	return r;
}

struct history {
	struct track_point *points; /* newest first while it is being made */
	size_t n, cap;
	int64_t since_ms;
	uint64_t step_ms;
};

static int history_add(struct history *h, const struct track_point *p, int64_t at_ms)
{
	if (at_ms < h->since_ms || h->n >= HISTORY_POINTS_MAX)
		return 0;
	if (h->n && (uint64_t)(h->points[h->n - 1].at_ms - at_ms) < h->step_ms)
		return 0;
	if (h->n == h->cap) {
		size_t cap = MAX(h->cap * 2, 64);
		struct track_point *points = reallocarray(h->points, cap, sizeof(*points));

		if (!points)
			return -ENOMEM;
		h->points = points;
		h->cap = cap;
	}
	h->points[h->n] = *p;
	h->points[h->n++].at_ms = at_ms;
	return 0;
}

int track_type_history(const struct track_type *ty, int64_t since_ms, uint64_t step_ms,
	struct track_point **ret, size_t *ret_n)
{
	struct series_point points[TRACK_POINTS];
	uint32_t n = series_points(&ty->series, points);
	struct history h = {.since_ms = since_ms, .step_ms = step_ms};
	/* Equal samples came at this distance; only where they stand in the series was left out. */
	int64_t every =
		(int64_t)MIN(MAX(ty->interval_ms, MAX(step_ms, 1)), (uint64_t)SERIES_TIME_MAX);
	int r = 0;

	/* From the newest back, so that the newest is always there. */
	for (uint32_t i = n; i-- > 0 && !r && h.n < HISTORY_POINTS_MAX;) {
		const struct series_point *p = &points[i];
		int64_t at = p->p.at_ms;

		r = history_add(&h, &p->p, at);
		if (!(p->flags & SERIES_FLAT) || !i)
			continue;
		for (at -= every; !r && at > p[-1].p.at_ms && at >= since_ms; at -= every) {
			if (h.n >= HISTORY_POINTS_MAX)
				break;
			r = history_add(&h, &p->p, at);
		}
	}
	if (r) {
		free(h.points);
		return r;
	}
	for (size_t i = 0; i < h.n / 2; i++) {
		struct track_point t = h.points[i];

		h.points[i] = h.points[h.n - 1 - i];
		h.points[h.n - 1 - i] = t;
	}
	*ret = h.points;
	*ret_n = h.n;
	return 0;
}

static void add_point(struct track_point *to, const struct track_point *p)
{
	to->count = to->count == TRACK_UNKNOWN || p->count == TRACK_UNKNOWN ? TRACK_UNKNOWN
									    : to->count + p->count;
	to->births += p->births;
	to->deaths += p->deaths;
}

int track_history_add(
	struct track_point **sum, size_t *sum_n, const struct track_point *points, size_t n)
{
	const struct track_point *a = *sum, *b = points;
	struct track_point *out = calloc(*sum_n + n + 1, sizeof(*out));
	size_t i = 0, j = 0, k = 0;

	if (!out)
		return -ENOMEM;
	while (i < *sum_n || j < n) {
		bool of_a = j == n || (i < *sum_n && a[i].at_ms <= b[j].at_ms);
		struct track_point *p = &out[k++];

		p->at_ms = of_a ? a[i].at_ms : b[j].at_ms;
		i += i < *sum_n && a[i].at_ms == p->at_ms;
		j += j < n && b[j].at_ms == p->at_ms;
		if (i)
			add_point(p, &a[i - 1]);
		if (j)
			add_point(p, &b[j - 1]);
	}
	free(*sum);
	*sum = out;
	*sum_n = k;
	return 0;
}
