/* SPDX-License-Identifier: MIT */
/*
 * How often verdicts err: synthetic series of every shape (tests/unit/judge_shapes.h), judged by the
 * engine and by other methods, each over the whole range of its threshold.
 *
 *   build/bench/verdicts [-n SERIES] [-o FILE.svg]
 *
 * prints the tables of docs/verdicts.md. A false alarm is a leak verdict on a healthy series at any time
 * within 20 windows; a miss is a leak that was not found in them.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/util/units.h"
#include "tests/unit/judge_shapes.h"

#define POINTS    48 /* that the other methods look at, over one and a half windows */
#define LEVELS    12 /* of each threshold */
#define BINS      10

/* What the other methods see: the last one and a half windows as means of slots. */
struct recent {
	unsigned n;
	double at[POINTS], v[POINTS], floors[POINTS]; /* at: in windows */
};

/* ---- methods ------------------------------------------------------------------------------- */

/* Each gives a score at a moment; a leak is a score of at least the threshold. */
static double least_squares(const struct recent *r)
{
	double x = 0, y = 0, xx = 0, xy = 0, n = r->n, d;

	for (unsigned i = 0; i < r->n; i++) {
		x += r->at[i];
		y += r->v[i];
		xx += r->at[i] * r->at[i];
		xy += r->at[i] * r->v[i];
	}
	d = n * xx - x * x;
	return d > 0 ? (n * xy - x * y) / d * 1.5 / SHAPE_MIN : 0;
}

static void swap(double *a, double *b)
{
	double x = *a;

	*a = *b;
	*b = x;
}

/* The k-th smallest of v, which is reordered. */
static double kth_smallest(double *v, unsigned n, unsigned k)
{
	unsigned lo = 0, hi = n;

	while (hi - lo > 1) {
		double pivot = v[lo + (hi - lo) / 2];
		unsigned less = lo, equal;

		for (unsigned i = lo; i < hi; i++)
			if (v[i] < pivot)
				swap(&v[i], &v[less++]);
		if (k < less) {
			hi = less;
			continue;
		}
		equal = less;
		for (unsigned i = less; i < hi; i++)
			if (v[i] == pivot)
				swap(&v[i], &v[equal++]);
		if (k < equal)
			return pivot;
		lo = equal;
	}
	return v[k];
}

static double theil_sen(const struct recent *r)
{
	static double slopes[POINTS * POINTS];
	unsigned n = 0;

	for (unsigned i = 0; i < r->n; i++)
		for (unsigned k = i + 1; k < r->n; k++)
			slopes[n++] = (r->v[k] - r->v[i]) / (r->at[k] - r->at[i]);
	return n ? kth_smallest(slopes, n, n / 2) * 1.5 / SHAPE_MIN : 0;
}

/* Standard deviations from chance, of series that grow by min_objects at all. */
static double mann_kendall(const struct recent *r)
{
	double s = 0, n = r->n;

	for (unsigned i = 0; i < r->n; i++)
		for (unsigned k = i + 1; k < r->n; k++)
			s += (r->v[k] > r->v[i]) - (r->v[k] < r->v[i]);
	if (r->n < 8 || r->v[r->n - 1] - r->v[0] < SHAPE_MIN)
		return 0;
	return s / sqrt(n * (n - 1) * (2 * n + 5) / 18);
}

/* As growth over successive heap dumps is told (LeakCanary) and old objects of JFR are looked at: how
 * many floors in a row were above the one before, of all that fit. */
static double rising_floors(const struct recent *r)
{
	enum { DUMPS = LEVELS };
	double floor[DUMPS], last = -1;
	unsigned rising = 0;

	for (int i = 0; i < DUMPS; i++)
		floor[i] = HUGE_VAL;
	for (unsigned i = 0; i < r->n; i++) {
		unsigned d = MIN((unsigned)((r->at[i] - r->at[0]) / 1.5 * DUMPS), DUMPS - 1);

		floor[d] = MIN(floor[d], r->floors[i]);
	}
	if (!r->n || r->v[r->n - 1] - r->v[0] < SHAPE_MIN)
		return 0;
	for (int i = 0; i < DUMPS; i++) {
		if (floor[i] == HUGE_VAL)
			continue;
		rising = last >= 0 && floor[i] > last ? rising + 1 : 0;
		last = floor[i];
	}
	return rising;
}

static const struct method {
	const char *name, *unit, *colour;
	double (*score)(const struct recent *r);
	double from, to; /* thresholds */
	int usual;       /* the one that its users take */
} methods[] = {
	{"least squares", "growth, in min_objects", "#c44e52", least_squares, 0.5, 64, 2},
	{"Theil–Sen alone", "growth, in min_objects", "#dd8452", theil_sen, 0.5, 64, 2},
	{"Mann–Kendall", "standard deviations", "#8172b3", mann_kendall, 1.96, 9.5, 0},
	{"floors rise in a row", "floors", "#937860", rising_floors, 2, 11, 6},
};

static double threshold(const struct method *m, int level)
{
	double share = (double)level / (LEVELS - 1);

	return m->score == mann_kendall || m->score == rising_floors
		       ? m->from + (m->to - m->from) * share
		       : m->from * pow(m->to / m->from, share);
}

/* ---- running ------------------------------------------------------------------------------- */

static void recent_take(struct recent *r, const struct shape_series *s, unsigned last)
{
	int64_t to = s->p[last].at_ms, from = to - 3 * SHAPE_WINDOW_MS / 2;
	double slot_ms = 1.5 * SHAPE_WINDOW_MS / POINTS;
	int slot = -1;
	unsigned in_slot = 0, i = last;

	r->n = 0;
	while (i && s->p[i - 1].at_ms >= from)
		i--;
	if (!i) /* not that long yet */
		return;
	for (; i <= last; i++) {
		int now = MIN((int)((double)(s->p[i].at_ms - from) / slot_ms), POINTS - 1);
		double v = s->p[i].count == TRACK_UNKNOWN ? (double)s->p[i].births - (double)s->p[i].deaths
							  : (double)s->p[i].count;

		if (now < slot)
			continue;
		if (now != slot) {
			slot = now;
			in_slot = 0;
			r->at[r->n] = slot * 1.5 / POINTS;
			r->v[r->n] = 0;
			r->floors[r->n++] = v;
		}
		r->v[r->n - 1] = (r->v[r->n - 1] * in_slot + v) / (in_slot + 1);
		r->floors[r->n - 1] = MIN(r->floors[r->n - 1], v);
		in_slot++;
	}
}

struct rates {
	unsigned alarms, misses;
	double delay;
	unsigned found;
};

struct tally {
	unsigned healthy, leaking;
	struct rates other[ARRAY_SIZE(methods)][LEVELS], own[LEVELS];
	unsigned shape_n[SHAPES], shape_leaks[SHAPES], shape_watch[SHAPES], shape_late[SHAPES];
	double shape_delay[SHAPES];
	unsigned verdicts[BINS], truths[BINS];
};

static void count(struct rates *r, const struct shape_series *s, int64_t found)
{
	if (!s->onset_ms) {
		r->alarms += found >= 0;
		return;
	}
	if (found < 0) {
		r->misses++;
		return;
	}
	r->found++;
	r->delay += (double)(found - s->onset_ms) / SHAPE_WINDOW_MS;
}

static void run_others(struct tally *t, const struct shape_series *s)
{
	int64_t found[ARRAY_SIZE(methods)][LEVELS];
	struct recent r;

	memset(found, -1, sizeof(found));
	for (unsigned i = 12; i < s->n; i += 12) {
		recent_take(&r, s, i);
		if (r.n < 5)
			continue;
		for (size_t m = 0; m < ARRAY_SIZE(methods); m++) {
			double score = methods[m].score(&r);

			for (int k = 0; k < LEVELS && score >= threshold(&methods[m], k); k++)
				if (found[m][k] < 0)
					found[m][k] = s->p[i].at_ms;
		}
	}
	for (size_t m = 0; m < ARRAY_SIZE(methods); m++)
		for (int k = 0; k < LEVELS; k++)
			count(&t->other[m][k], s, found[m][k]);
}

/* Level 4 is min_objects as it is. */
static uint64_t own_threshold(int level)
{
	return (uint64_t)(SHAPE_MIN * pow(2, (level - 4) / 1.5));
}

static void run_own(struct tally *t, const struct shape_series *s, enum shape shape, int level)
{
	struct track_config c = {.interval_ms = SHAPE_STEP_MS,
		.window_ms = SHAPE_WINDOW_MS,
		.min_objects = own_threshold(level)};
	struct track *track;
	struct track_type *ty;
	bool watch = false;
	int64_t found = -1;

	if (track_new(&c, SHAPE_T0 - SHAPE_WINDOW_MS, &track))
		exit(1);
	ty = track_type_get(track, 1, "x");
	for (unsigned i = 0; ty && i < s->n && found < 0; i++) {
		const struct track_verdict *v = track_type_verdict(ty);

		track_gauges(track, s->p[i].at_ms, &s->g[i]);
		if (!track_sample(track, ty, &s->p[i]))
			continue;
		if (level == 4 && v->kind != TRACK_NONE) {
			int bin = MIN((int)(v->confidence * BINS), BINS - 1);

			t->verdicts[bin]++;
			t->truths[bin] += s->onset_ms && s->p[i].at_ms > s->onset_ms;
		}
		watch |= v->kind == TRACK_WATCH;
		if (v->kind == TRACK_LEAK)
			found = s->p[i].at_ms;
	}
	track_free(track);
	count(&t->own[level], s, found);
	if (level != 4)
		return;
	t->shape_n[shape]++;
	t->shape_leaks[shape] += found >= 0;
	t->shape_watch[shape] += watch;
	if (found >= 0 && s->onset_ms) {
		double delay = (double)(found - s->onset_ms) / SHAPE_WINDOW_MS;

		t->shape_delay[shape] += delay;
		t->shape_late[shape] += delay > 2.1;
	}
}

/* ---- what comes out ------------------------------------------------------------------------ */

static void print_tables(const struct tally *t)
{
	printf("| healthy series | called a leak | watched |\n|---|---|---|\n");
	for (int k = 0; k < SHAPE_FIRST_LEAK; k++)
		printf("| %s | %u of %u | %u |\n", shape_names[k], t->shape_leaks[k], t->shape_n[k],
			t->shape_watch[k]);
	printf("\n| leaking series | found in 20 windows | windows until then, mean | later than two |\n"
	       "|---|---|---|---|\n");
	for (int k = SHAPE_FIRST_LEAK; k < SHAPES; k++)
		printf("| %s | %u of %u | %.1f | %u |\n", shape_names[k], t->shape_leaks[k],
			t->shape_n[k], t->shape_delay[k] / MAX(t->shape_leaks[k], 1U), t->shape_late[k]);
	printf("\n| method | threshold | false alarms | misses | windows until found |\n|---|---|---|---|---|\n");
	for (size_t m = 0; m < ARRAY_SIZE(methods); m++) {
		const struct rates *usual = &t->other[m][methods[m].usual], *best = t->other[m];

		for (int k = 0; k < LEVELS; k++)
			if (t->other[m][k].alarms + t->other[m][k].misses < best->alarms + best->misses)
				best = &t->other[m][k];
		for (int i = 0; i < 2; i++) {
			const struct rates *r = i ? best : usual;

			printf("| %s, %s | %.1f %s | %.2f %% | %.2f %% | %.1f |\n", methods[m].name,
				i ? "at its best" : "as usual", threshold(&methods[m], (int)(r - t->other[m])),
				methods[m].unit, 100.0 * r->alarms / t->healthy,
				100.0 * r->misses / t->leaking, r->delay / MAX(r->found, 1U));
		}
	}
	printf("| **this engine** | growth.min_objects | %.2f %% | %.2f %% | %.1f |\n",
		100.0 * t->own[4].alarms / t->healthy, 100.0 * t->own[4].misses / t->leaking,
		t->own[4].delay / MAX(t->own[4].found, 1U));
	printf("\n| confidence | verdicts | true |\n|---|---|---|\n");
	for (int i = 0; i < BINS; i++)
		if (t->verdicts[i])
			printf("| %.1f to %.1f | %u | %.1f %% |\n", (double)i / BINS, (double)(i + 1) / BINS,
				t->verdicts[i], 100.0 * t->truths[i] / t->verdicts[i]);
}

#define LEFT   70
#define TOP    24
#define WIDTH  560
#define HEIGHT 380

/* Both axes are logarithmic from 0.01 %, which is also where 0 is drawn, to 100 %. */
static double axis(double share, double length)
{
	return length * (log10(MAX(share, 1e-4)) + 4) / 4;
}

static void curve(FILE *f, const struct rates *r, const struct tally *t, const char *name, const char *colour,
	int row, int width)
{
	fprintf(f, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%d\" points=\"", colour, width);
	for (int k = 0; k < LEVELS; k++)
		fprintf(f, "%.1f,%.1f ", LEFT + axis((double)r[k].alarms / t->healthy, WIDTH),
			TOP + HEIGHT - axis((double)r[k].misses / t->leaking, HEIGHT));
	fprintf(f, "\"/>\n");
	for (int k = 0; k < LEVELS; k++)
		fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%d\" fill=\"%s\"/>\n",
			LEFT + axis((double)r[k].alarms / t->healthy, WIDTH),
			TOP + HEIGHT - axis((double)r[k].misses / t->leaking, HEIGHT), width + 1, colour);
	fprintf(f, "<text x=\"%d\" y=\"%d\" fill=\"%s\">%s</text>\n", LEFT + 16, TOP + HEIGHT - 90 + 16 * row,
		colour, name);
}

static int write_svg(const char *path, const struct tally *t)
{
	static const char *const ticks[] = {"0.01 %", "0.1 %", "1 %", "10 %", "100 %"};
	FILE *f = fopen(path, "w");

	if (!f)
		return -errno;
	fprintf(f,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
		"font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
		LEFT + WIDTH + 30, TOP + HEIGHT + 50);
	for (int i = 0; i < 5; i++) {
		fprintf(f,
			"<line x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\" stroke=\"#ddd\"/>"
			"<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n",
			LEFT, LEFT + WIDTH, TOP + HEIGHT - i * HEIGHT / 4, TOP + HEIGHT - i * HEIGHT / 4,
			LEFT - 6, TOP + HEIGHT - i * HEIGHT / 4 + 4, ticks[i]);
		fprintf(f,
			"<line x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\" stroke=\"#ddd\"/>"
			"<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
			LEFT + i * WIDTH / 4, LEFT + i * WIDTH / 4, TOP, TOP + HEIGHT, LEFT + i * WIDTH / 4,
			TOP + HEIGHT + 16, ticks[i]);
	}
	fprintf(f,
		"<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">healthy series called a leak</text>\n"
		"<text x=\"%d\" y=\"14\">leaks not found in 20 windows</text>\n",
		LEFT + WIDTH / 2, TOP + HEIGHT + 38, LEFT);
	for (size_t m = 0; m < ARRAY_SIZE(methods); m++)
		curve(f, t->other[m], t, methods[m].name, methods[m].colour, (int)m, 1);
	curve(f, t->own, t, "this engine, by min_objects", "#1f77b4", ARRAY_SIZE(methods), 3);
	fprintf(f, "</svg>\n");
	if (fclose(f))
		return -errno;
	return 0;
}

int main(int argc, char **argv)
{
	static struct shape_series s;
	static struct tally t;
	const char *svg = NULL;
	long n = 10000;
	int opt, r;

	while ((opt = getopt(argc, argv, "n:o:")) != -1) {
		if (opt == 'n')
			n = strtol(optarg, NULL, 10);
		else if (opt == 'o')
			svg = optarg;
		else
			return 2;
	}
	for (long i = 0; i < n; i++) {
		enum shape k = shape_series((uint64_t)i, &s);

		t.healthy += !s.onset_ms;
		t.leaking += s.onset_ms != 0;
		run_others(&t, &s);
		for (int level = 0; level < LEVELS; level++)
			run_own(&t, &s, k, level);
	}
	print_tables(&t);
	r = svg ? write_svg(svg, &t) : 0;
	if (r) {
		fprintf(stderr, "%s: cannot be written: %s\n", svg, strerror(-r));
		return 1;
	}
	return 0;
}
