/* SPDX-License-Identifier: MIT */
#include "daemon/track/cause.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/util/macros.h"

#define MOMENTS     24   /* looked at, evenly spaced */
#define STEADY      0.05 /* growth that varies less, as a share of itself, cannot be told apart */
#define CORRELATION 0.95

/* Levels at the moments, or nothing. */
struct curve {
	bool known;
	double level[MOMENTS];
};

/* Made of C, and parts of everything: a lock, a reference, a context. */
static bool is_part(const char *name)
{
	static const char *const modules[] = {"weakref.", "collections.", "functools.", "itertools.", "types."};

	if (name[0] == '_' && strncmp(name, "__", 2) != 0)
		return true; /* _thread, _io, _contextvars; not __main__ */
	for (size_t i = 0; i < ARRAY_SIZE(modules); i++)
		if (!strncmp(name, modules[i], strlen(modules[i])))
			return true;
	return false;
}

bool cause_is_builtin(const struct track_type *ty)
{
	const char *name = track_type_name(ty);

	return strchr(name, '.') == NULL || is_part(name);
}

/* How much a built-in type tells: plain values least, then what holds them, then everything that is made
 * for a purpose (generator, coroutine, frame). */
static int tells(const struct track_type *ty)
{
	static const char *const values[] = {"str", "bytes", "int", "float", "bytearray", "complex", "cell"},
				 *const holders[] = {"dict", "list", "tuple", "set", "frozenset"};
	const char *name = track_type_name(ty);

	for (size_t i = 0; i < ARRAY_SIZE(values); i++)
		if (!strcmp(name, values[i]))
			return 0;
	for (size_t i = 0; i < ARRAY_SIZE(holders); i++)
		if (!strcmp(name, holders[i]))
			return 1;
	return is_part(name) ? 2 : 3;
}

/* Between two points as if it had gone straight from one to the other. */
static double level_at(const struct track_point *p, size_t n, double at)
{
	size_t i = 0;

	while (i + 1 < n && (double)p[i + 1].at_ms < at)
		i++;
	if (i + 1 == n || (double)p[i].at_ms >= at)
		return (double)p[i].count;
	return (double)p[i].count + (double)(p[i + 1].count - p[i].count) *
					    (at - (double)p[i].at_ms) /
					    (double)MAX(p[i + 1].at_ms - p[i].at_ms, (int64_t)1);
}

static int curve_of(const struct track_type *ty, int64_t from, int64_t to, struct curve *c)
{
	_cleanup_free_ struct track_point *p = NULL;
	size_t n, known = 0;
	/* From further back: old points stand apart, and before the first one all would look flat. */
	int r = track_type_history(ty, from - (to - from) / 2, 0, &p, &n);

	if (r)
		return r;
	for (size_t i = 0; i < n; i++)
		if (p[i].count != TRACK_UNKNOWN)
			p[known++] = p[i];
	c->known = known >= 3;
	for (int i = 0; c->known && i < MOMENTS; i++)
		c->level[i] = level_at(p, known,
			(double)from + (double)(to - from) * (double)i / (MOMENTS - 1));
	return 0;
}

static double growth(const struct curve *c)
{
	return c->level[MOMENTS - 1] - c->level[0];
}

static bool same_shape(const struct curve *a, const struct curve *b)
{
	if (!a->known || !b->known || growth(a) <= 0 || growth(b) <= 0)
		return false;
	for (int i = 0; i < MOMENTS; i++)
		if (fabs((a->level[i] - a->level[0]) / growth(a) -
			    (b->level[i] - b->level[0]) / growth(b)) > CAUSE_SHAPE)
			return false;
	return true;
}

/* From one moment to the next; false: it hardly varies. */
static bool steps_of(const struct curve *c, double *steps)
{
	double mean = growth(c) / (MOMENTS - 1), squares = 0;

	for (int i = 0; i + 1 < MOMENTS; i++) {
		steps[i] = c->level[i + 1] - c->level[i] - mean;
		squares += steps[i] * steps[i];
	}
	return sqrt(squares / (MOMENTS - 1)) > STEADY * fabs(mean);
}

static bool in_step(const struct curve *a, const struct curve *b)
{
	double x[MOMENTS], y[MOMENTS], xx = 0, yy = 0, xy = 0;

	if (!same_shape(a, b) || !steps_of(a, x) || !steps_of(b, y))
		return false;
	for (int i = 0; i + 1 < MOMENTS; i++) {
		xx += x[i] * x[i];
		yy += y[i] * y[i];
		xy += x[i] * y[i];
	}
	return xy > CORRELATION * sqrt(xx * yy);
}

static int64_t last_ms(const struct track_type *ty, int64_t since_ms)
{
	_cleanup_free_ struct track_point *p = NULL;
	size_t n = 0;

	if (track_type_history(ty, since_ms, 0, &p, &n) || !n)
		return since_ms;
	return p[n - 1].at_ms;
}

/* Whether class k leads rather than class old: the one of which there are fewer. */
static bool leads(const struct curve *c, size_t k, size_t old)
{
	double a = growth(&c[k]), b = growth(&c[old]);

	return a < b || (a == b && k < old);
}

static void lead(struct cause_suspect *v, const struct curve *c, size_t n)
{
	/* Classes among themselves: to the one that grows least of those in step. */
	for (size_t i = 0; i < n; i++) {
		if (cause_is_builtin(v[i].ty))
			continue;
		for (size_t k = 0; k < n; k++)
			if (k != i && !cause_is_builtin(v[k].ty) && in_step(&c[i], &c[k]) &&
				leads(c, k, v[i].leader) &&
				track_type_verdict(v[k].ty)->kind >= track_type_verdict(v[i].ty)->kind)
				v[i].leader = k;
	}
	/* What leads has no leader itself. */
	for (size_t i = 0; i < n; i++)
		for (size_t hops = 0; hops < n && v[v[i].leader].leader != v[i].leader; hops++)
			v[i].leader = v[v[i].leader].leader;
	for (size_t i = 0; i < n; i++) {
		if (!cause_is_builtin(v[i].ty))
			continue;
		for (size_t k = 0; k < n && v[i].leader == i; k++)
			if (!cause_is_builtin(v[k].ty) && same_shape(&c[i], &c[k]) &&
				track_type_verdict(v[k].ty)->kind >= track_type_verdict(v[i].ty)->kind)
				v[i].leader = v[k].leader;
	}
	/* Nothing but built-in ones: what tells least follows. */
	for (size_t i = 0; i < n; i++) {
		if (!cause_is_builtin(v[i].ty) || v[i].leader != i)
			continue;
		for (size_t k = 0; k < n; k++)
			if (v[k].leader == k && cause_is_builtin(v[k].ty) && same_shape(&c[i], &c[k]) &&
				tells(v[k].ty) > tells(v[v[i].leader].ty) &&
				track_type_verdict(v[k].ty)->kind >= track_type_verdict(v[i].ty)->kind)
				v[i].leader = k;
	}
	for (size_t i = 0; i < n; i++)
		v[i].leader = v[v[i].leader].leader;
}

int cause_group(struct cause_suspect *v, size_t n, int64_t since_ms)
{
	_cleanup_free_ struct curve *c = calloc(n + 1, sizeof(*c));
	int r = c ? 0 : -ENOMEM;

	for (size_t i = 0; i < n; i++)
		v[i].leader = i;
	for (size_t i = 0; i < n && !r; i++)
		r = curve_of(v[i].ty, since_ms, last_ms(v[i].ty, since_ms), &c[i]);
	if (!r)
		lead(v, c, n);
	return r;
}
