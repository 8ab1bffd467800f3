/* SPDX-License-Identifier: MIT */
#include "daemon/track/series.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/util/macros.h"

#define FIRST_CAP 16 /* most types stand still, which takes two points */
#define POINT_MAX 64 /* bytes of one at the most: a flag byte and six numbers of ten */

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
	free(s->bytes);
	memset(s, 0, sizeof(*s));
}

const struct series_point *series_last(const struct series *s)
{
	return s->n ? &s->last : NULL;
}

/* ---- points as bytes ----------------------------------------------------------------------- */

enum { /* beside SERIES_* in the flag byte */
	KNOWN = 1 << 4,  /* the count is the level */
	SPREAD = 1 << 5, /* low and peak differ from the level */
	COUNTS = 1 << 6, /* births or deaths differ from those of the point before */
	POINT_FLAGS = SERIES_FLAT | SERIES_GAP | SERIES_EPOCH | SERIES_FELL,
};

static uint8_t *put(uint8_t *to, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		*to++ = (uint8_t)(v | 0x80);
	*to++ = (uint8_t)v;
	return to;
}

/* Small numbers of either sign take one byte. */
static uint8_t *put_signed(uint8_t *to, int64_t v)
{
	return put(to, v < 0 ? ~((uint64_t)v << 1) : (uint64_t)v << 1);
}

static size_t point_put(uint8_t *buf, const struct series_point *p, const struct series_point *before)
{
	uint64_t births = p->p.births - before->p.births, deaths = p->p.deaths - before->p.deaths;
	int64_t level = p->level - before->level;
	bool spread = p->low != p->level || p->peak != p->level;
	uint8_t *to = buf;

	*to++ = (uint8_t)((p->flags & POINT_FLAGS) | (p->p.count != TRACK_UNKNOWN ? KNOWN : 0) |
			  (spread ? SPREAD : 0) | (births || deaths ? COUNTS : 0));
	to = put(to, (uint64_t)(p->p.at_ms - before->p.at_ms));
	to = put_signed(to, level);
	if (spread) {
		to = put(to, (uint64_t)(p->level - p->low));
		to = put(to, (uint64_t)(p->peak - p->level));
	}
	if (births || deaths) { /* the law makes the second one small */
		to = put_signed(to, (int64_t)births);
		to = put_signed(to, (int64_t)(deaths - (births - (uint64_t)level)));
	}
	return (size_t)(to - buf);
}

static bool get(const uint8_t **from, const uint8_t *end, uint64_t *ret)
{
	*ret = 0;
	for (unsigned shift = 0; shift < 64 && *from < end; shift += 7) {
		uint8_t b = *(*from)++;

		*ret |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80))
			return true;
	}
	return false;
}

static bool get_signed(const uint8_t **from, const uint8_t *end, int64_t *ret)
{
	uint64_t v;
	bool ok = get(from, end, &v);

	*ret = (int64_t)((v >> 1) ^ -(v & 1));
	return ok;
}

/* In whatever bytes: times and levels come out within their bounds. */
static bool point_get(const uint8_t **from, const uint8_t *end, struct series_point *p)
{
	uint64_t at, low = 0, peak = 0;
	int64_t level, births = 0, deaths = 0;
	uint8_t flags;

	if (*from == end)
		return false;
	flags = *(*from)++;
	if (!get(from, end, &at) || !get_signed(from, end, &level))
		return false;
	if (flags & SPREAD && (!get(from, end, &low) || !get(from, end, &peak)))
		return false;
	if (flags & COUNTS && (!get_signed(from, end, &births) || !get_signed(from, end, &deaths)))
		return false;
	if (at > (uint64_t)(SERIES_TIME_MAX - p->p.at_ms) || low > (uint64_t)SERIES_LEVEL_MAX * 2 ||
		peak > (uint64_t)SERIES_LEVEL_MAX * 2 || level > SERIES_LEVEL_MAX * 2 ||
		level < -SERIES_LEVEL_MAX * 2)
		return false;
	p->p.at_ms += (int64_t)at;
	p->level = clamp_level(p->level + level);
	p->low = clamp_level(p->level - (int64_t)low);
	p->peak = clamp_level(p->level + (int64_t)peak);
	if (flags & COUNTS) {
		p->p.births += (uint64_t)births;
		p->p.deaths += (uint64_t)births - (uint64_t)level + (uint64_t)deaths;
	}
	p->p.count = flags & KNOWN ? p->level : TRACK_UNKNOWN;
	p->flags = flags & POINT_FLAGS;
	return true;
}

uint32_t series_points(const struct series *s, struct series_point points[TRACK_POINTS])
{
	const uint8_t *from = s->bytes, *end = s->n_bytes ? s->bytes + s->n_bytes : from;
	struct series_point p = {.p = {.at_ms = 0}};
	uint32_t n = 0;

	while (n + 1 < s->n && point_get(&from, end, &p))
		points[n++] = p;
	if (s->n)
		points[n++] = s->last;
	return n;
}

uint32_t series_epoch(const struct series_point *points, uint32_t n)
{
	uint32_t i = n ? n - 1 : 0;

	while (i && !(points[i].flags & SERIES_EPOCH))
		i--;
	return i;
}

/* Appends a point to the bytes; false: it does not fit. */
static bool append(struct series *s, const struct series_point *p)
{
	uint8_t buf[POINT_MAX];
	size_t n = point_put(buf, p, &s->before);
	uint8_t *bytes;
	size_t cap = s->cap;

	while (s->n_bytes + n > cap)
		cap = cap ? cap * 2 : FIRST_CAP;
	if (cap > SERIES_BYTES || s->n + 1 >= TRACK_POINTS)
		return false;
	if (cap != s->cap) {
		bytes = realloc(s->bytes, cap);
		if (!bytes)
			return false;
		s->bytes = bytes;
		s->cap = (uint16_t)cap;
	}
	memcpy(s->bytes + s->n_bytes, buf, n);
	s->n_bytes = (uint16_t)(s->n_bytes + n);
	s->before = *p;
	return true;
}

/* Writes all points but the last anew; they need no more bytes than there are, or not all fit. */
static void rewrite(struct series *s, const struct series_point *points, uint32_t n)
{
	s->n_bytes = 0;
	s->before = (struct series_point){.p = {.at_ms = 0}};
	s->n = 0;
	for (uint32_t i = 0; i + 1 < n; i++)
		s->n += append(s, &points[i]);
	s->n++;
	s->last = points[n - 1];
}

/* ---- thinning ------------------------------------------------------------------------------ */

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

/* Drops a fifth of the points, all out of the older half and no two neighbours: those that stand
 * densest for their age. What is left is spaced in proportion to its age, and the first point
 * always stays. */
static uint32_t thin_points(struct series_point *points, uint32_t n_points)
{
	struct thin_candidate candidates[TRACK_POINTS / 2];
	bool drop[TRACK_POINTS / 2 + 1] = {false};
	uint32_t half = n_points / 2, want = MAX(n_points / 5, 1), n = 0, out = 0;
	uint32_t epoch = series_epoch(points, n_points);
	int64_t now = points[n_points - 1].p.at_ms;

	for (uint32_t i = 1; i < half; i++) {
		const struct series_point *p = &points[i];
		double apart = (double)(p[1].p.at_ms - p[-1].p.at_ms);

		if (i != epoch)
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
	for (uint32_t i = 0; i < n_points; i++) {
		struct series_point *p = &points[i], *kept, *next;

		if (i >= half || !drop[i]) {
			points[out++] = *p;
			continue;
		}
		kept = &points[out - 1];
		next = &points[i + 1];
		kept->low = MIN(kept->low, p->low);
		kept->peak = MAX(kept->peak, p->peak);
		next->flags |= p->flags & (SERIES_GAP | SERIES_FELL);
		if (!(p->flags & SERIES_FLAT) || p->level != next->level)
			next->flags &= ~SERIES_FLAT;
	}
	return out;
}

/* Makes the last point one of the others, so that a new one can take its place. */
static void make_room(struct series *s)
{
	struct series_point points[TRACK_POINTS];

	if (!s->n || append(s, &s->last))
		return;
	for (uint32_t n = series_points(s, points); n > 1; n = series_points(s, points)) {
		uint32_t left = n > 4 ? thin_points(points, n) : n;

		if (left == n) /* no two neighbours that could stand for each other */
			memmove(points, points + 1, --left * sizeof(*points));
		rewrite(s, points, left);
		if (append(s, &s->last))
			return;
	}
	s->n = s->n_bytes = 0; /* no memory for a second point */
	s->before = (struct series_point){.p = {.at_ms = 0}};
}

/* ---- samples ------------------------------------------------------------------------------- */

/* All levels of the epoch move by `by`: the first count has come. */
static void shift(struct series *s, int64_t by)
{
	struct series_point points[TRACK_POINTS];
	uint32_t n = series_points(s, points);

	for (uint32_t i = series_epoch(points, n); i < n; i++) {
		struct series_point *q = &points[i];

		q->level = clamp_level(q->level + by);
		q->low = clamp_level(q->low + by);
		q->peak = clamp_level(q->peak + by);
	}
	rewrite(s, points, n);
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
			if (s->n)
				shift(s, base);
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
	struct series_point *last = s->n ? &s->last : NULL, new = {.p = *p};
	bool brk, equal;

	new.p.at_ms = MAX(MIN(p->at_ms, SERIES_TIME_MAX), last ? last->p.at_ms : 0);
	new.level = new.low = new.peak = next_level(s, p, &brk);
	if (last && (uint64_t)(new.p.at_ms - last->p.at_ms) / 3 > MAX(interval_ms, 1))
		new.flags |= SERIES_GAP;
	if (brk)
		new.flags |= SERIES_EPOCH;
	if (last && !brk && new.level < last->level)
		new.flags |= SERIES_FELL;
	s->moved = last && !brk && (s->moved || new.level != last->level);
	equal = last && !brk && last->p.count == p->count && last->p.births == p->births &&
		last->p.deaths == p->deaths;
	if (equal && !(new.flags & SERIES_GAP)) {
		last->p.bound = p->bound;
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
		}
		new.flags |= last->flags;
		*last = new;
		return 0;
	}
	make_room(s);
	s->last = new;
	s->n++;
	return 0;
}

/* ---- kept elsewhere ------------------------------------------------------------------------ */

struct saved {
	uint8_t version, base_known, moved, unused;
	uint16_t n, n_bytes;
	int64_t net, base;
};
#define SAVED_VERSION 1

size_t series_save(const struct series *s, uint8_t *buf, size_t size)
{
	struct saved head = {SAVED_VERSION, s->base_known, s->moved, 0, s->n, s->n_bytes, s->net, s->base};
	uint8_t last[POINT_MAX];
	size_t n = s->n ? point_put(last, &s->last, &s->before) : 0;

	if (size < sizeof(head) + s->n_bytes + n)
		return 0;
	memcpy(buf, &head, sizeof(head));
	if (s->n_bytes)
		memcpy(buf + sizeof(head), s->bytes, s->n_bytes);
	memcpy(buf + sizeof(head) + s->n_bytes, last, n);
	return sizeof(head) + s->n_bytes + n;
}

int series_load(struct series *s, const uint8_t *buf, size_t n)
{
	const uint8_t *from = buf + sizeof(struct saved), *end = buf + n;
	struct series_point p = {.p = {.at_ms = 0}};
	struct saved head;

	memset(s, 0, sizeof(*s));
	if (n < sizeof(head))
		return -EBADMSG;
	memcpy(&head, buf, sizeof(head));
	if (head.version != SAVED_VERSION || head.n > TRACK_POINTS)
		return -EBADMSG;
	for (unsigned i = 0; i < head.n; i++) {
		if (!point_get(&from, end, &p)) {
			series_release(s);
			return -EBADMSG;
		}
		make_room(s);
		s->last = p;
		s->n++;
	}
	s->base_known = head.base_known;
	s->moved = head.moved;
	s->net = clamp_level(head.net);
	s->base = clamp_level(head.base);
	return 0;
}
