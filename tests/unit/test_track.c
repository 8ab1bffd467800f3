/* SPDX-License-Identifier: MIT */
/* The growth model over synthetic series: what must be called a leak, and what must not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/track/track.h"
#include "daemon/util/macros.h"
#include "daemon/util/units.h"

#define S    1000LL
#define MIN_ (60 * S)
#define H    (60 * MIN_)
#define T0   1800000000000LL /* some day in 2027 */

static const struct track_config defaults = {
	.interval_ms = 10 * S,
	.warmup_ms = 10 * MIN_,
	.window_ms = 30 * MIN_,
	.min_objects = 1000,
};

static void track_freep(struct track **t)
{
	track_free(*t);
}

/* A small generator of our own: the same series everywhere. */
static uint64_t rng_state;

static double uniform(void) /* 0..1 */
{
	rng_state = rng_state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (double)(rng_state >> 11) / (double)(1ULL << 53);
}

static double gauss(void)
{
	double v = 0;

	for (int i = 0; i < 12; i++)
		v += uniform();
	return v - 6;
}

struct outcome {
	int64_t first_watch, first_leak, leak_end; /* ms after attaching, -1: never */
	int changes;
	double confidence; /* when the leak was found */
	char reason[256];
	struct track_verdict end;
};

typedef double (*level_fn)(int64_t ms);

/* Runs a level over time through the model, the target having started long before unless
 * started_now; as known counts, or as births and deaths alone. */
static struct outcome run(
	const struct track_config *c, level_fn f, int64_t length, bool unknown, bool started_now)
{
	_cleanup_(track_freep) struct track *t = NULL;
	struct outcome o = {.first_watch = -1, .first_leak = -1, .leak_end = -1};
	uint64_t births = 0, deaths = 0;
	struct track_type *ty;
	double before = 0;

	assert_int_equal(track_new(c, started_now ? T0 : T0 - 24 * H, &t), 0);
	ty = track_type_get(t, 7, "app.Session");
	assert_non_null(ty);
	for (int64_t ms = 0; ms <= length; ms += (int64_t)c->interval_ms) {
		double level = floor(f(ms));
		struct track_point p = {.at_ms = T0 + ms};
		const struct track_verdict *v;

		if (level > before)
			births += (uint64_t)(level - before);
		else
			deaths += (uint64_t)(before - level);
		births += 100; /* churn */
		deaths += 100;
		before = level;
		p.count = unknown ? TRACK_UNKNOWN : (int64_t)level;
		p.births = births;
		p.deaths = deaths;
		o.changes += track_sample(t, ty, &p);
		v = track_type_verdict(ty);
		assert_true(v->confidence >= 0 && v->confidence <= 1);
		if (v->kind == TRACK_WATCH && o.first_watch < 0)
			o.first_watch = ms;
		if (v->kind == TRACK_LEAK && o.first_leak < 0) {
			o.first_leak = ms;
			o.confidence = v->confidence;
			snprintf(o.reason, sizeof(o.reason), "%s", v->reason);
		}
		if (v->kind != TRACK_LEAK && o.first_leak >= 0 && o.leak_end < 0)
			o.leak_end = ms;
		o.end = *v;
	}
	return o;
}

/* ---- what leaks ---------------------------------------------------------------------------- */

static double slow_leak(int64_t ms)
{
	return 5000 + 1500.0 * ms / (30 * MIN_);
}

static double fast_leak(int64_t ms)
{
	return 1e6 + 413.5 * ms / S;
}

static double noisy_leak(int64_t ms)
{
	return 20000 + 4000.0 * ms / (30 * MIN_) + 600 * gauss();
}

static double step_leak(int64_t ms) /* 700 every 7 minutes */
{
	return 3000 + 700 * floor((double)ms / (7 * MIN_));
}

static double sawtooth_leak(int64_t ms) /* garbage up to 8 000 until the collector comes */
{
	return 1000 + 5000.0 * ms / (30 * MIN_) + 8000 * fmod((double)ms / (4 * MIN_), 1);
}

static double leak_after_plateau(int64_t ms)
{
	return ms < 3 * H ? 8000 + 50 * gauss() : 8000 + 2500.0 * (ms - 3 * H) / (30 * MIN_);
}

static double leak_with_spikes(int64_t ms) /* a burst of 20 s every five minutes */
{
	return 5000 + 3000.0 * ms / (30 * MIN_) + (ms % (5 * MIN_) < 20 * S ? 30000 : 0);
}

static double leak_after_burst(int64_t ms) /* a job of five minutes, then a leak below its peak */
{
	if (ms > H && ms < H + 5 * MIN_)
		return 500000;
	return 2000 + (ms > 2 * H ? 3000.0 * (ms - 2 * H) / (30 * MIN_) : 0);
}

static void test_leaks(void **state)
{
	static const struct {
		const char *name;
		level_fn f;
		int64_t length, latest; /* the verdict comes by then */
	} cases[] = {
		{"slow", slow_leak, 3 * H, 49 * MIN_},
		{"fast", fast_leak, 3 * H, 49 * MIN_},
		{"noisy", noisy_leak, 6 * H, 60 * MIN_},
		{"steps", step_leak, 6 * H, 60 * MIN_},
		{"sawtooth", sawtooth_leak, 6 * H, 120 * MIN_},
		{"after plateau", leak_after_plateau, 8 * H, 3 * H + 60 * MIN_},
		{"spikes", leak_with_spikes, 6 * H, 60 * MIN_},
		{"after burst", leak_after_burst, 6 * H, 2 * H + 60 * MIN_},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		for (int unknown = 0; unknown < 2; unknown++) {
			struct outcome o;

			rng_state = 42;
			o = run(&defaults, cases[i].f, cases[i].length, unknown, false);
			print_message("%-14s %-7s watch %5.1f min, leak %5.1f min, %2.0f %%: %s\n",
				cases[i].name, unknown ? "unknown" : "known",
				(double)o.first_watch / MIN_, (double)o.first_leak / MIN_,
				o.confidence * 100, o.reason);
			assert_true(o.first_leak >= 45 * MIN_);
			assert_true(o.first_leak <= cases[i].latest);
			assert_true(o.first_watch < o.first_leak); /* steps may need no watching */
			assert_int_equal(o.leak_end, -1);
			assert_int_equal(o.end.kind, TRACK_LEAK);
			assert_true(o.end.delta >= 1000);
			assert_int_equal(o.end.count == TRACK_UNKNOWN, unknown);
			assert_true(o.confidence > 0.3);
		}
	}
}

static void test_figures(void **state)
{
	struct outcome o = run(&defaults, slow_leak, 3 * H, false, false);

	assert_int_equal(o.first_leak, 45 * MIN_);
	assert_int_equal(o.first_watch, 30 * MIN_);
	assert_int_equal(o.end.first_seen_ms, T0 + 30 * MIN_);
	assert_int_equal(o.end.delta, 2250);
	assert_true(fabs(o.end.rate_per_hour - 3000) < 30);
	assert_true(o.confidence > 0.95);
	assert_int_equal(o.end.count, 5000 + 6 * 1500);
	assert_string_equal(o.reason,
		"grew by 2 250 in 45 min (3 000 an hour) without once falling "
		"back, 100 % of steps upward");
	assert_int_equal(o.changes, 2);

	/* An hour of it is worth more than a noisy one. */
	rng_state = 42;
	assert_true(run(&defaults, noisy_leak, 6 * H, false, false).confidence < 0.95);
}

/* ---- what does not ------------------------------------------------------------------------- */

static double constant(int64_t ms)
{
	return 123456;
}

static double noise(int64_t ms)
{
	return 50000 + 5000 * gauss();
}

static double sawtooth(int64_t ms)
{
	return 1000 + 90000 * fmod((double)ms / (7 * MIN_), 1);
}

static double long_sawtooth(int64_t ms) /* nearly as long as the window */
{
	return 1000 + 90000 * fmod((double)ms / (28 * MIN_), 1);
}

static double lru(int64_t ms) /* full after 20 minutes */
{
	return MIN(50000.0, 50000.0 * ms / (20 * MIN_));
}

static double saturating(int64_t ms) /* hits become more frequent as a cache fills */
{
	return 80000 * (1 - exp(-(double)ms / (15 * MIN_)));
}

static double burst(int64_t ms) /* up for ten minutes, drained in the next ten, every hour */
{
	double m = fmod((double)ms / MIN_, 60);

	return 300 + (m < 10 ? 4000 * m : m < 20 ? 4000 * (20 - m) : 0);
}

static double one_jump(int64_t ms)
{
	return ms < 2 * H ? 1000 : 61000;
}

static double below_minimum(int64_t ms)
{
	return 1000 + 900.0 * ms / (12 * H);
}

static double shrinking(int64_t ms)
{
	return 1e6 - 10.0 * ms / S;
}

static double wave(int64_t ms) /* load going up and down within the hour */
{
	return 40000 + 20000 * sin((double)ms / (40 * MIN_) * 2 * M_PI) + 500 * gauss();
}

static double slow_walk(int64_t ms) /* wanders by 2 000, with a memory of ten minutes */
{
	static int64_t before;
	static double v;
	double keep = exp(-(double)(ms - before) / (10 * MIN_));

	v = ms ? v * keep + 2000 * sqrt(1 - keep * keep) * gauss() : 0;
	before = ms;
	return 30000 + v;
}

static void test_no_leaks(void **state)
{
	static const struct {
		const char *name;
		level_fn f;
	} cases[] = {
		{"constant", constant},
		{"noise", noise},
		{"sawtooth", sawtooth},
		{"long sawtooth", long_sawtooth},
		{"lru", lru},
		{"saturating", saturating},
		{"burst", burst},
		{"one jump", one_jump},
		{"below minimum", below_minimum},
		{"shrinking", shrinking},
		{"wave", wave},
		{"slow walk", slow_walk},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		for (int unknown = 0; unknown < 2; unknown++) {
			struct outcome o;

			rng_state = 4711;
			o = run(&defaults, cases[i].f, 12 * H, unknown, false);
			print_message("%-14s %-7s watch %5.1f min, %d changes\n", cases[i].name,
				unknown ? "unknown" : "known", (double)o.first_watch / MIN_,
				o.changes);
			assert_int_equal(o.first_leak, -1);
		}
	}
	assert_int_equal(run(&defaults, constant, 12 * H, false, false).changes, 0);
	assert_int_equal(run(&defaults, noise, 12 * H, false, false).changes, 0);
	assert_int_equal(run(&defaults, shrinking, 12 * H, false, false).changes, 0);
}

/* Thirty seeds each: nothing fires by luck, nothing is missed by it. */
static void test_seeds(void **state)
{
	struct track_config quick = defaults;
	int leaks = 0, found = 0;

	quick.interval_ms = 30 * S; /* sixty samples a window: the least favourable full grid */
	for (unsigned seed = 1; seed <= 30; seed++) {
		rng_state = seed * 7919;
		leaks += run(&quick, noise, 12 * H, false, false).first_leak >= 0;
		leaks += run(&quick, slow_walk, 12 * H, false, false).first_leak >= 0;
		found += run(&quick, noisy_leak, 3 * H, false, false).first_leak >= 0;
	}
	print_message("noise and walks called leaks: %d of 60; noisy leaks found: %d of 30\n",
		leaks, found);
	assert_int_equal(leaks, 0);
	assert_int_equal(found, 30);
}

static double ramp_in_warmup(int64_t ms)
{
	return MIN(100000.0, 100000.0 * ms / (9 * MIN_));
}

static void test_warmup(void **state)
{
	struct track_config c = defaults;
	struct outcome o = run(&c, ramp_in_warmup, 3 * H, false, true);

	assert_int_equal(o.changes, 0);

	/* A window begins when the warm-up ends. */
	o = run(&c, slow_leak, 3 * H, false, true);
	assert_in_range(o.first_watch, 40 * MIN_, 42 * MIN_);
	assert_in_range(o.first_leak, 55 * MIN_, 57 * MIN_);

	/* Without one, the ramp is growth in a window and a half; with one it is not even that. */
	c.warmup_ms = 0;
	c.window_ms = 5 * MIN_;
	o = run(&c, ramp_in_warmup, H, false, true);
	assert_in_range(o.first_leak, 7 * MIN_, 8 * MIN_);
}

static double daily(int64_t ms) /* sessions follow the day, up for six hours */
{
	return 30000 - 25000 * cos((double)ms / (24 * H) * 2 * M_PI);
}

static void test_daily_cycle(void **state)
{
	_cleanup_(track_freep) struct track *t = NULL;
	struct track_type *ty;

	assert_int_equal(track_new(&defaults, T0 - H, &t), 0);
	ty = track_type_get(t, 1, "app.Session");
	/* The first morning looks like a leak to anybody; the second is compared with it. */
	for (int64_t ms = 0; ms < 46 * H; ms += 10 * S) {
		struct track_point p = {.at_ms = T0 + ms, .count = (int64_t)daily(ms)};

		track_sample(t, ty, &p);
		if (ms > 18 * H)
			assert_int_not_equal(track_type_verdict(ty)->kind, TRACK_LEAK);
	}
}

/* ---- load ----------------------------------------------------------------------------------- */

/* A server: connections, of which so many come a minute and live for three; what leaks beside; and what it
 * shows of that. */
struct server {
	const char *type;
	double (*come)(int64_t ms); /* connections a minute */
	double leak;                /* an hour, of connections; they stay open */
	double leak_inside;         /* an hour, of objects without a connection */
	bool no_gauges, uncounted, unseen; /* unseen: births of the type itself */
	enum track_gauge gauge;
};

static double steady_load(int64_t ms)
{
	return 2000;
}

static double rising_load(int64_t ms) /* for three windows, then it stays */
{
	return 400 + 1600 * MIN((double)ms / (90 * MIN_), 1);
}

static double endless_load(int64_t ms)
{
	return 400 + 1600 * (double)ms / (90 * MIN_);
}

static struct outcome serve(const struct server *s, int64_t length)
{
	_cleanup_(track_freep) struct track *t = NULL;
	struct outcome o = {.first_watch = -1, .first_leak = -1, .leak_end = -1};
	double level = 3 * s->come(0), leaked = 0, inside = 0, born = 0;
	struct track_type *ty, *other;

	rng_state = 42;
	assert_int_equal(track_new(&defaults, T0 - 24 * H, &t), 0);
	ty = track_type_get(t, 7, s->type);
	other = track_type_get(t, 8, "app.Request");
	for (int64_t ms = 0; ms <= length; ms += 10 * S) {
		double come = s->come(ms) / 6, stay = s->leak / 360;
		struct track_gauges g = {.value = {5, 5}, .counted = !s->uncounted};
		struct track_point p = {.at_ms = T0 + ms};
		const struct track_verdict *v;

		come = floor(MAX(come + sqrt(come) * gauss(), 0));
		level += come - floor(level / 18);
		leaked += stay;
		inside += s->leak_inside / 360;
		born += come + stay + s->leak_inside / 360;
		g.value[s->gauge] = (int64_t)(10 + level + leaked);
		p.count = (int64_t)(level + leaked + inside);
		p.births = (uint64_t)(s->unseen ? 0 : born);
		p.deaths = (uint64_t)(s->unseen ? 0 : born - level - leaked - inside + 3 * s->come(0));
		if (!s->no_gauges)
			track_gauges(t, p.at_ms, &g);
		track_sample(t, ty, &p);
		v = track_type_verdict(ty);
		if (v->kind == TRACK_WATCH && o.first_watch < 0)
			o.first_watch = ms;
		if (strstr(v->reason, "it follows the load"))
			snprintf(o.reason, sizeof(o.reason), "%s", v->reason);
		if (v->kind == TRACK_LEAK && o.first_leak < 0)
			o.first_leak = ms;
		p = (struct track_point){.at_ms = T0 + ms, .count = 10, .births = (uint64_t)born,
			.deaths = (uint64_t)born - 10};
		track_sample(t, other, &p);
	}
	return o;
}

static void test_load(void **state)
{
	static const struct {
		const char *name;
		struct server s;
		int64_t earliest, latest; /* of the leak; 0: there is none */
	} cases[] = {
		{"rises", {"app.Session", rising_load, .gauge = TRACK_FILES}, 0, 0},
		{"rises, threads", {"app.Session", rising_load, .gauge = TRACK_THREADS}, 0, 0},
		{"rises, dict", {"dict", rising_load, .unseen = true, .gauge = TRACK_FILES}, 0, 0},
		/* What is not known excuses nothing. */
		{"no gauges", {"app.Session", rising_load, .no_gauges = true}, 45 * MIN_, 50 * MIN_},
		{"uncounted", {"app.Session", rising_load, .uncounted = true, .gauge = TRACK_FILES}, 45 * MIN_,
			50 * MIN_},
		{"unseen", {"app.Session", rising_load, .unseen = true, .gauge = TRACK_FILES}, 45 * MIN_,
			50 * MIN_},
		/* The gauge rises because of the leak: as many are born as before. */
		{"connections leak", {"app.Session", steady_load, .leak = 4000, .gauge = TRACK_FILES},
			45 * MIN_, 60 * MIN_},
		{"threads leak", {"app.Session", steady_load, .leak = 4000, .gauge = TRACK_THREADS}, 45 * MIN_,
			60 * MIN_},
		{"dicts leak", {"dict", steady_load, .leak = 4000, .unseen = true, .gauge = TRACK_FILES},
			45 * MIN_, 60 * MIN_},
		/* A leak beside rising load: when that has risen. */
		{"leak beside", {"app.Session", rising_load, .leak_inside = 4000, .gauge = TRACK_FILES}, 45 * MIN_,
			150 * MIN_},
		{"both", {"app.Session", rising_load, .leak = 4000, .gauge = TRACK_FILES}, 45 * MIN_, 150 * MIN_},
		/* No load rises for ever. */
		{"endless", {"app.Session", endless_load, .gauge = TRACK_FILES}, 3 * H, 5 * H},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct outcome o = serve(&cases[i].s, 10 * H);

		print_message("%-16s watch %5.1f min, leak %5.1f min: %s\n", cases[i].name,
			(double)o.first_watch / MIN_, (double)o.first_leak / MIN_, o.reason);
		if (!cases[i].latest) {
			assert_int_equal(o.first_leak, -1);
			assert_non_null(strstr(o.reason, track_gauge_name(cases[i].s.gauge)));
		} else {
			assert_true(o.first_leak >= cases[i].earliest && o.first_leak <= cases[i].latest);
		}
	}
}

/* ---- the end of a leak ---------------------------------------------------------------------- */

static double leak_that_stops(int64_t ms)
{
	return 5000 + 4000.0 * MIN(ms, 2 * H) / (30 * MIN_);
}

static double leak_that_drains(int64_t ms)
{
	return ms < 2 * H ? 5000 + 4000.0 * ms / (30 * MIN_) : 5000;
}

static double leak_that_slows(int64_t ms) /* to six tenths of min_objects a window */
{
	double v = 4000.0 * MIN(ms, 2 * H) / (30 * MIN_);

	return 5000 + v + (ms > 2 * H ? 600.0 * (ms - 2 * H) / (30 * MIN_) : 0);
}

static void test_hysteresis(void **state)
{
	struct outcome o = run(&defaults, leak_that_stops, 6 * H, false, false);

	assert_int_equal(o.first_leak, 45 * MIN_);
	assert_in_range(o.leak_end, 2 * H + 5 * MIN_, 2 * H + 35 * MIN_);
	assert_int_equal(o.end.kind, TRACK_NONE);
	assert_int_equal(o.end.first_seen_ms, 0);

	o = run(&defaults, leak_that_drains, 6 * H, false, false);
	assert_in_range(o.leak_end, 2 * H, 2 * H + 4 * MIN_);
	assert_int_equal(o.end.kind, TRACK_NONE);
	assert_int_equal(o.changes, 3);

	o = run(&defaults, leak_that_slows, 6 * H, false, false);
	assert_int_equal(o.leak_end, -1);
}

/* ---- hard input ----------------------------------------------------------------------------- */

static void sample(struct track *t, struct track_type *ty, int64_t at, int64_t count,
	uint64_t births, uint64_t deaths)
{
	struct track_point p = {.at_ms = at, .count = count, .births = births, .deaths = deaths};

	track_sample(t, ty, &p);
}

/* The daemon attaches anew and counts from zero. */
static void test_counter_restart(void **state)
{
	_cleanup_(track_freep) struct track *t = NULL;
	struct track_type *known, *unknown, *found;
	struct track_growth g;
	uint64_t births = 0;

	assert_int_equal(track_new(&defaults, T0 - 24 * H, &t), 0);
	known = track_type_get(t, 1, "a.Known");
	unknown = track_type_get(t, 2, "a.Unknown");
	for (int64_t ms = 0; ms <= 2 * H; ms += 10 * S, births += 10) {
		if (ms == 50 * MIN_)
			births = 0;
		sample(t, known, T0 + ms, 1000 + ms / S, births, 0);
		sample(t, unknown, T0 + ms, TRACK_UNKNOWN, births, 0);
		if (ms == 49 * MIN_) {
			assert_int_equal(track_type_verdict(known)->kind, TRACK_LEAK);
			assert_int_equal(track_type_verdict(unknown)->kind, TRACK_LEAK);
		}
		if (ms == 51 * MIN_) {
			/* Growth of the unknown one is counted from the restart on. */
			assert_true(track_type_growth(unknown, T0, &g));
			assert_int_equal(g.since_ms, T0 + 50 * MIN_);
			assert_int_equal(g.delta, 60);
			assert_int_equal(g.count, TRACK_UNKNOWN);
			assert_true(track_type_growth(known, T0, &g));
			assert_int_equal(g.since_ms, T0);
			assert_int_equal(g.delta, 51 * 60);
		}
		if (ms > 50 * MIN_) /* nothing was refuted */
			assert_int_equal(track_type_verdict(unknown)->kind, TRACK_LEAK);
	}
	assert_int_equal(track_type_verdict(known)->kind, TRACK_LEAK);

	/* Only a restart in the middle of a window, and no level: no verdict until a full one. */
	found = track_type_get(t, 3, "a.Late");
	for (int64_t ms = 0, b = 0; ms <= 55 * MIN_; ms += 10 * S, b += 10) {
		if (ms == 28 * MIN_)
			b = 0;
		sample(t, found, T0 + ms, TRACK_UNKNOWN, (uint64_t)b, 0);
		assert_int_not_equal(track_type_verdict(found)->kind, TRACK_LEAK);
	}
}

/* The first census gives the level of everything counted before. */
static void test_level_becomes_known(void **state)
{
	_cleanup_(track_freep) struct track *t = NULL;
	struct track_growth g;
	struct track_type *ty;

	assert_int_equal(track_new(&defaults, T0 - 24 * H, &t), 0);
	ty = track_type_get(t, 1, "dict");
	for (int64_t ms = 0; ms <= 2 * H; ms += 10 * S) {
		bool known = ms >= 40 * MIN_ && ms < 90 * MIN_;

		sample(t, ty, T0 + ms, known ? 700000 + ms / S : TRACK_UNKNOWN,
			(uint64_t)(ms / S) + 500, 500);
		if (ms == 35 * MIN_)
			assert_int_equal(track_type_verdict(ty)->kind, TRACK_WATCH);
	}
	assert_int_equal(track_type_verdict(ty)->kind, TRACK_LEAK);
	assert_int_equal(track_type_verdict(ty)->count, TRACK_UNKNOWN);
	assert_true(track_type_growth(ty, T0, &g));
	assert_int_equal(g.delta, 7200);
	assert_int_equal(g.since_ms, T0);

	sample(t, ty, T0 + 2 * H + 10 * S, 707210, 7710, 500);
	assert_true(track_type_growth(ty, T0, &g));
	assert_int_equal(g.delta, 7210);
	assert_int_equal(g.count, 707210);
}

static double plateau_after_ramp(int64_t ms) /* up for two windows, then still */
{
	return 5000 + 40000.0 * MIN(ms, H) / H;
}

/* What an earlier life has shown: a ramp to the usual level is none, above it is; a known leak needs less. */
static void test_expectation(void **state)
{
	static const struct {
		struct track_expectation e;
		level_fn f;
		int64_t leak_from, leak_to; /* minutes; 0: never */
	} cases[] = {
		{{0, false}, plateau_after_ramp, 45, 47},
		{{45000, false}, plateau_after_ramp, 0, 0},
		{{20000, false}, plateau_after_ramp, 45, 47},
		{{0, true}, slow_leak, 30, 32},
	};
	struct track_expectation learned;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(track_freep) struct track *t = NULL;
		struct track_type *ty;
		int64_t found = 0;

		assert_int_equal(track_new(&defaults, T0 - 24 * H, &t), 0);
		ty = track_type_get(t, 1, "a.B");
		track_type_expect(ty, &cases[i].e);
		for (int64_t ms = 0; ms <= 6 * H; ms += 10 * S) {
			sample(t, ty, T0 + ms, (int64_t)cases[i].f(ms), 0, 0);
			if (!found && track_type_verdict(ty)->kind == TRACK_LEAK)
				found = ms / MIN_;
			if (ms == H) /* it has not come to rest */
				assert_true(!track_type_learned(ty, &learned) || learned.leaked);
		}
		assert_in_range(found, cases[i].leak_from, cases[i].leak_to);
		assert_true(track_type_learned(ty, &learned));
		assert_int_equal(learned.leaked, cases[i].f == slow_leak);
		assert_int_equal(learned.plateau, learned.leaked ? 0 : 45000);
	}
}

/* The daemon ends and comes back: the series goes on where it was, and the verdict with it. */
static void test_kept(void **state)
{
	_cleanup_(track_freep) struct track *a = NULL, *b = NULL;
	struct track_type *before, *after, *fresh;
	uint8_t buf[TRACK_SAVED_MAX];
	struct track_growth g;
	size_t n;

	assert_int_equal(track_new(&defaults, T0 - 24 * H, &a), 0);
	assert_int_equal(track_new(&defaults, T0 - 24 * H, &b), 0);
	before = track_type_get(a, 1, "a.B");
	after = track_type_get(b, 1, "a.B");
	fresh = track_type_get(b, 2, "a.B");
	assert_int_equal(track_type_save(before, buf, sizeof(buf)), 0);
	for (int64_t ms = 0; ms < 40 * MIN_; ms += 10 * S)
		sample(a, before, T0 + ms, 1000 + ms / S, (uint64_t)(ms / S) + 7, 7);
	assert_true(track_type_moved(before));
	n = track_type_save(before, buf, sizeof(buf));
	assert_true(n > 0);
	assert_int_equal(track_type_save(before, buf, n - 1), 0);
	n = track_type_save(before, buf, sizeof(buf));
	for (size_t cut = 0; cut < n; cut++)
		assert_int_equal(track_type_load(fresh, buf, cut), -EBADMSG);
	assert_int_equal(track_type_load(after, buf, n), 0);
	assert_int_equal(track_type_load(after, buf, n), -EBADMSG); /* it has samples */
	assert_int_equal(track_type_verdict(after)->kind, TRACK_WATCH);
	/* Counters begin anew; the level is known. */
	for (int64_t ms = 41 * MIN_; ms < 50 * MIN_; ms += 10 * S)
		sample(b, after, T0 + ms, 1000 + ms / S, (uint64_t)(ms / S) - 41 * 60, 0);
	assert_int_equal(track_type_verdict(after)->kind, TRACK_LEAK);
	assert_int_equal(track_type_verdict(after)->first_seen_ms, T0 + 30 * MIN_);
	assert_true(track_type_growth(after, T0, &g));
	assert_int_equal(g.since_ms, T0);
	assert_int_equal(g.delta, 50 * 60 - 10);
}

/* When the process started is worked out from two clocks, and off by a little each time: what was kept of its
 * series is not judged anew for that. */
static void test_kept_start(void **state)
{
	struct track *t[3];
	struct track_type *ty[3];
	static uint8_t buf[3][TRACK_SAVED_MAX];
	size_t n[3];

	for (int i = 0; i < 3; i++) {
		assert_int_equal(track_new(&defaults, T0 - 24 * H + (i == 2) * 3, &t[i]), 0);
		ty[i] = track_type_get(t[i], 1, "a.B");
	}
	for (int64_t ms = 0; ms < 10 * H; ms += 10 * S)
		sample(t[0], ty[0], T0 + ms, 1000 + ms / S + ms / S % 60 * 100, 0, 0);
	n[0] = track_type_save(ty[0], buf[0], sizeof(buf[0]));
	for (int i = 1; i < 3; i++) {
		assert_int_equal(track_type_load(ty[i], buf[0], n[0]), 0);
		sample(t[i], ty[i], T0 + 10 * H, 37000, 0, 0);
		n[i] = track_type_save(ty[i], buf[i], sizeof(buf[i]));
	}
	assert_int_equal(n[1], n[2]);
	assert_memory_equal(buf[1], buf[2], n[1]);
	for (int i = 0; i < 3; i++)
		track_free(t[i]);
}

/* Where deaths are not seen, the level rises by births and is known by as much less: no growth. */
static void test_bounds(void **state)
{
	_cleanup_(track_freep) struct track *t = NULL;
	struct track_type *drifts, *known, *doubtful;

	assert_int_equal(track_new(&defaults, T0 - 24 * H, &t), 0);
	drifts = track_type_get(t, 1, "tuple");
	known = track_type_get(t, 2, "tuple");
	doubtful = track_type_get(t, 3, "str");
	for (int64_t ms = 0; ms <= 6 * H; ms += 10 * S) {
		struct track_point p = {.at_ms = T0 + ms, .count = 100000 + ms / S, .births = (uint64_t)(ms / S)};

		track_sample(t, known, &p);
		p.bound = 20 + ms * 19 / 20 / S; /* a little less than it has grown */
		track_sample(t, drifts, &p);
		assert_int_equal(track_type_verdict(drifts)->kind, TRACK_NONE);
		p.bound = 30000; /* all of it may be an error */
		track_sample(t, doubtful, &p);
		assert_int_equal(track_type_verdict(doubtful)->kind, TRACK_NONE);
	}
	assert_int_equal(track_type_verdict(known)->kind, TRACK_LEAK);
}

static void test_time(void **state)
{
	_cleanup_(track_freep) struct track *t = NULL;
	_cleanup_free_ struct track_point *points = NULL;
	struct track_type *ty;
	int64_t at = T0;
	size_t n;

	assert_int_equal(track_new(&defaults, T0 - 24 * H, &t), 0);
	ty = track_type_get(t, 1, "a.B");
	/* The clock goes back by an hour in the middle of growth, and goes on from there. */
	for (int i = 0; i < 2000; i++) {
		at += i == 500 ? -1 * H : 10 * S;
		sample(t, ty, at, 1000 + i * 10, 0, 0);
	}
	assert_int_equal(track_type_history(ty, INT64_MIN, 0, &points, &n), 0);
	for (size_t i = 1; i < n; i++)
		assert_true(points[i].at_ms > points[i - 1].at_ms);
	assert_int_equal(points[n - 1].at_ms, at);
	assert_int_equal(points[n - 1].count, 1000 + 1999 * 10);
	assert_int_equal(track_type_verdict(ty)->kind, TRACK_LEAK);

	/* Times no clock has. */
	sample(t, ty, INT64_MIN, 5, 0, 0);
	sample(t, ty, -1, 5, 0, 0);
	sample(t, ty, INT64_MAX, 5, 0, 0);
	sample(t, ty, INT64_MAX, 500000, 0, 0);
	sample(t, ty, 0, TRACK_UNKNOWN, 0, 0);
}

/* Nothing is known of a gap: no leak is seen across one, and none is forgotten. */
static void test_gaps(void **state)
{
	_cleanup_(track_freep) struct track *t = NULL;
	struct track_type *a, *b;

	assert_int_equal(track_new(&defaults, T0 - 24 * H, &t), 0);
	a = track_type_get(t, 1, "a.A");
	b = track_type_get(t, 2, "a.B");
	for (int64_t ms = 0; ms <= 105 * MIN_; ms += 10 * S) {
		if (ms < 20 * MIN_ || ms >= 35 * MIN_) /* a third of what is looked at */
			sample(t, a, T0 + ms, ms / S, 0, 0);
		if (ms < 80 * MIN_ || ms > 92 * MIN_)
			sample(t, b, T0 + ms, ms / S, 0, 0);
		if (ms > 35 * MIN_ && ms < 60 * MIN_)
			assert_int_not_equal(track_type_verdict(a)->kind, TRACK_LEAK);
		if (ms > 46 * MIN_)
			assert_int_equal(track_type_verdict(b)->kind, TRACK_LEAK);
	}
	assert_int_equal(track_type_verdict(a)->kind, TRACK_LEAK);
}

static void test_huge_values(void **state)
{
	static const int64_t counts[] = {INT64_MAX, INT64_MIN + 1, -1, 0, INT64_MAX, TRACK_UNKNOWN,
		INT64_MIN + 1, TRACK_UNKNOWN, TRACK_UNKNOWN, INT64_MAX};
	static const uint64_t counters[] = {
		0, UINT64_MAX, 1, UINT64_MAX / 2, UINT64_MAX - 1, 0, UINT64_MAX};
	struct track_config c = {1, 0, 1, UINT64_MAX};
	struct track_growth g;

	for (int round = 0; round < 3; round++) {
		_cleanup_(track_freep) struct track *t = NULL;
		_cleanup_free_ struct track_point *points = NULL;
		struct track_type *ty;
		size_t n;

		if (round == 1)
			c = (struct track_config){UINT64_MAX, UINT64_MAX, UINT64_MAX, 0};
		if (round == 2)
			c = (struct track_config){0, 0, 60, 0};
		assert_int_equal(track_new(&c, round ? INT64_MAX : INT64_MIN, &t), 0);
		if (round == 2) {
			track_free(t);
			assert_int_equal(track_new(&c, 0, &t), 0);
		}
		ty = track_type_get(t, 1, "x");
		for (int i = 0; i < 3000; i++) {
			sample(t, ty, T0 + i * (i % 7), counts[i % ARRAY_SIZE(counts)],
				counters[i % ARRAY_SIZE(counters)],
				counters[(i / 3) % ARRAY_SIZE(counters)]);
			track_type_growth(ty, T0 + i, &g);
		}
		for (int i = 0; i < 200; i++) /* as steep as it gets */
			sample(t, ty, T0 + 30000 + i,
				(int64_t)(((uint64_t)1 << 63) + 1 +
					  (uint64_t)i * (UINT64_MAX / 200)),
				0, 0);
		track_type_growth(ty, INT64_MIN, &g);
		track_type_growth(ty, INT64_MAX, &g);
		assert_int_equal(track_type_history(ty, INT64_MIN, UINT64_MAX, &points, &n), 0);
		assert_int_equal(n, 1);
	}
}

/* ---- growth, history, table ------------------------------------------------------------------ */

static void test_growth(void **state)
{
	_cleanup_(track_freep) struct track *t = NULL;
	struct track_growth g = {0};
	struct track_type *ty;

	assert_int_equal(track_new(&defaults, T0, &t), 0);
	ty = track_type_get(t, 1, "a.B");
	assert_false(track_type_growth(ty, T0, &g));
	sample(t, ty, T0 + 10 * S, 100, 0, 0);
	assert_false(track_type_growth(ty, T0, &g)); /* one point grows against nothing */
	sample(t, ty, T0 + 20 * S, 500, 0, 0);
	sample(t, ty, T0 + 30 * S, 200, 0, 0);
	sample(t, ty, T0 + 40 * S, 600, 0, 0);

	/* Before the first point: the first point counts. */
	assert_true(track_type_growth(ty, T0, &g));
	assert_int_equal(g.delta, 500);
	assert_int_equal(g.since_ms, T0 + 10 * S);
	assert_int_equal(g.count, 600);
	assert_true(fabs(g.rate_per_hour - 500 * 120) < 1e-6);
	/* Above the peak of 500, not above the 200 that was there at that time. */
	assert_true(track_type_growth(ty, T0 + 35 * S, &g));
	assert_int_equal(g.delta, 100);
	assert_int_equal(g.since_ms, T0 + 20 * S);
	assert_false(track_type_growth(ty, T0 + 40 * S, &g));
	/* Asking changed nothing. */
	assert_true(track_type_growth(ty, T0 + 35 * S, &g));
	assert_int_equal(g.delta, 100);

	/* Inside a run of equal samples. */
	for (int64_t s = 50; s <= 500; s += 10)
		sample(t, ty, T0 + s * S, 600, 0, 0);
	sample(t, ty, T0 + 510 * S, 1600, 0, 0);
	assert_true(track_type_growth(ty, T0 + 300 * S, &g));
	assert_int_equal(g.delta, 1000);
	assert_int_equal(g.since_ms, T0 + 300 * S);
	sample(t, ty, T0 + 520 * S, 599, 0, 0);
	assert_false(track_type_growth(ty, T0 + 300 * S, &g));
}

/* A peak is not forgotten when points are thinned, nor is the first point. */
static void test_thinning(void **state)
{
	_cleanup_(track_freep) struct track *t = NULL;
	_cleanup_free_ struct track_point *points = NULL;
	struct track_growth g;
	struct track_type *ty;
	size_t n;

	assert_int_equal(track_new(&defaults, T0, &t), 0);
	ty = track_type_get(t, 1, "a.B");
	for (int i = 0; i < 100000; i++) /* 11 days */
		sample(t, ty, T0 + i * 10 * S, i == 777 ? 1000000 : 1000 + i % 17, 0, 0);
	assert_int_equal(track_type_history(ty, INT64_MIN, 0, &points, &n), 0);
	assert_in_range(n, TRACK_POINTS / 2, TRACK_POINTS);
	assert_int_equal(points[0].at_ms, T0);
	assert_int_equal(points[n - 1].at_ms, T0 + 99999 * 10 * S);
	/* The last quarter is whole. */
	for (size_t i = n - TRACK_POINTS / 4; i < n; i++)
		assert_int_equal(points[i].at_ms - points[i - 1].at_ms, 10 * S);

	sample(t, ty, T0 + 100000 * 10 * S, 1000005, 0, 0);
	assert_true(track_type_growth(ty, T0 + 99999 * 10 * S, &g));
	assert_int_equal(g.delta, 5);
	sample(t, ty, T0 + 100001 * 10 * S, 999999, 0, 0);
	assert_false(track_type_growth(ty, T0 + 99999 * 10 * S, &g));
}

static void test_history(void **state)
{
	_cleanup_(track_freep) struct track *t = NULL;
	struct track_point *points;
	struct track_type *ty;
	size_t n;

	assert_int_equal(track_new(&defaults, T0, &t), 0);
	ty = track_type_get(t, 1, "a.B");
	assert_int_equal(track_type_history(ty, 0, 0, &points, &n), 0);
	assert_int_equal(n, 0);
	free(points);

	/* Ten samples rising, fifty standing still, ten rising: all seventy are there. */
	for (int i = 0; i < 70; i++)
		sample(t, ty, T0 + i * 10 * S, i < 10 ? i : i < 60 ? 10 : i - 49, i, 0);
	for (int i = 70; i < 200; i++)
		sample(t, ty, T0 + i * 10 * S, 20, 69, 0);
	assert_int_equal(track_type_history(ty, T0, 0, &points, &n), 0);
	assert_int_equal(n, 200);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(points[i].at_ms, T0 + (int64_t)i * 10 * S);
	assert_int_equal(points[3].count, 3);
	assert_int_equal(points[3].births, 3);
	assert_int_equal(points[150].count, 20);
	free(points);

	assert_int_equal(track_type_history(ty, T0 + 100 * S, 60 * S, &points, &n), 0);
	assert_in_range(n, 30, 32);
	assert_int_equal(points[n - 1].at_ms, T0 + 1990 * S);
	assert_true(points[0].at_ms >= T0 + 100 * S);
	for (size_t i = 1; i < n; i++)
		assert_true(points[i].at_ms - points[i - 1].at_ms >= 60 * S);
	free(points);

	assert_int_equal(track_type_history(ty, INT64_MAX, 1, &points, &n), 0);
	assert_int_equal(n, 0);
	free(points);
}

static void test_table(void **state)
{
	_cleanup_(track_freep) struct track *t = NULL;
	struct track_type *ty, *one;
	char long_name[400];
	size_t n = 0;

	assert_int_equal(track_new(&defaults, T0, &t), 0);
	assert_null(track_next(t, NULL));
	assert_null(track_type_get(t, 0, "no key"));
	one = track_type_get(t, 1, "a.B");
	assert_ptr_equal(track_type_get(t, 1, "another name"), one);
	assert_string_equal(track_type_name(one), "a.B");
	memset(long_name, 'x', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = '\0';
	assert_int_equal(strlen(track_type_name(track_type_get(t, UINT64_MAX, long_name))), 255);
	for (uint64_t key = 2; key <= 1000; key++)
		assert_non_null(track_type_get(t, key, "x"));
	for (uint64_t key = 2; key <= 1000; key += 2)
		track_forget(t, key);
	track_forget(t, 2);
	track_forget(t, 0);
	for (ty = track_next(t, NULL); ty; ty = track_next(t, ty))
		n++;
	assert_int_equal(n, 1001 - 500);
	assert_ptr_equal(track_type_get(t, 1, ""), one);
	assert_int_equal(track_type_verdict(one)->kind, TRACK_NONE);
	assert_int_equal(track_type_verdict(one)->count, TRACK_UNKNOWN);

	for (uint64_t key = 5000; n < TRACK_TYPES; key++, n++)
		assert_non_null(track_type_get(t, key, ""));
	assert_null(track_type_get(t, 1 << 30, ""));
	track_forget(t, 5000);
	assert_non_null(track_type_get(t, 1 << 30, ""));

	assert_string_equal(track_quality_name(TRACK_EXACT), "exact");
	assert_string_equal(track_quality_name(TRACK_ESTIMATE), "estimate");
	assert_string_equal(track_quality_name(TRACK_BLIND), "blind");
	assert_string_equal(track_verdict_name(TRACK_NONE), "none");
	assert_string_equal(track_verdict_name(TRACK_WATCH), "watch");
	assert_string_equal(track_verdict_name(TRACK_LEAK), "leak");
}

static void test_reconfigure(void **state)
{
	struct track_config c = defaults;
	_cleanup_(track_freep) struct track *t = NULL;
	struct track_type *ty;

	assert_int_equal(track_new(&c, T0 - 24 * H, &t), 0);
	ty = track_type_get(t, 1, "a.B");
	for (int64_t ms = 0; ms <= 10 * MIN_; ms += 10 * S)
		sample(t, ty, T0 + ms, ms / 100, 0, 0);
	assert_int_equal(track_type_verdict(ty)->kind, TRACK_NONE);
	c.window_ms = 5 * MIN_;
	assert_int_equal(track_type_verdict(ty)->kind, TRACK_NONE);
	track_configure(t, &c);
	sample(t, ty, T0 + 10 * MIN_ + 10 * S, 6100, 0, 0);
	assert_int_equal(track_type_verdict(ty)->kind, TRACK_LEAK);
	assert_true(labs(track_type_verdict(ty)->delta - 4500) < 50);
}

/* The demo's scale: a second a sample, half a minute a window. */
static double demo_leak(int64_t ms)
{
	return 40.0 * ms / S;
}

static void test_short_window(void **state)
{
	struct track_config c = {1 * S, 5 * S, 30 * S, 100};
	struct outcome o = run(&c, demo_leak, 120 * S, false, true);

	assert_in_range(o.first_watch, 35 * S, 37 * S);
	assert_in_range(o.first_leak, 50 * S, 52 * S);
	assert_int_equal(o.leak_end, -1);
	assert_true(o.confidence > 0.9);
}

static void test_history_of_one_name(void **state)
{
	static const struct track_point a[] = {{.at_ms = 10, .count = 1, .births = 1},
		{.at_ms = 20, .count = 2, .births = 3, .deaths = 1},
		{.at_ms = 40, .count = TRACK_UNKNOWN, .births = 4}};
	static const struct track_point b[] = {{.at_ms = 20, .count = 100, .births = 100},
		{.at_ms = 30, .count = 200, .births = 200}};
	static const struct track_point both[] = {{.at_ms = 10, .count = 1, .births = 1},
		{.at_ms = 20, .count = 102, .births = 103, .deaths = 1},
		{.at_ms = 30, .count = 202, .births = 203, .deaths = 1},
		{.at_ms = 40, .count = TRACK_UNKNOWN, .births = 204}};
	_cleanup_free_ struct track_point *sum = NULL;
	size_t n = 0;

	assert_int_equal(track_history_add(&sum, &n, a, 0), 0);
	assert_int_equal(n, 0);
	assert_int_equal(track_history_add(&sum, &n, a, ARRAY_SIZE(a)), 0);
	assert_int_equal(n, ARRAY_SIZE(a));
	assert_int_equal(track_history_add(&sum, &n, b, ARRAY_SIZE(b)), 0);
	assert_int_equal(n, ARRAY_SIZE(both));
	assert_memory_equal(sum, both, sizeof(both));
}

/* What judging costs: printed, since a shared machine makes no promises. */
static void test_cost(void **state)
{
	_cleanup_(track_freep) struct track *t = NULL;
	uint64_t start, quiet, leaking;
	struct track_type *ty;

	assert_int_equal(track_new(&defaults, T0 - 24 * H, &t), 0);
	ty = track_type_get(t, 1, "quiet");
	start = now_monotonic_ns();
	for (int i = 0; i < 20000; i++)
		sample(t, ty, T0 + i * 10 * S, 1000 + i % 3, 0, 0);
	quiet = now_monotonic_ns() - start;
	ty = track_type_get(t, 2, "leaking");
	start = now_monotonic_ns();
	for (int i = 0; i < 2000; i++)
		sample(t, ty, T0 + i * 10 * S, 1000 + 10 * i, 0, 0);
	leaking = now_monotonic_ns() - start;
	print_message("cost of a sample: %.1f us of a steady type, %.1f us of a leaking one\n",
		quiet / 20000 / 1e3, leaking / 2000 / 1e3);
	assert_int_equal(track_type_verdict(ty)->kind, TRACK_LEAK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_leaks),
		cmocka_unit_test(test_history_of_one_name),
		cmocka_unit_test(test_figures),
		cmocka_unit_test(test_no_leaks),
		cmocka_unit_test(test_seeds),
		cmocka_unit_test(test_warmup),
		cmocka_unit_test(test_daily_cycle),
		cmocka_unit_test(test_load),
		cmocka_unit_test(test_hysteresis),
		cmocka_unit_test(test_counter_restart),
		cmocka_unit_test(test_level_becomes_known),
		cmocka_unit_test(test_expectation),
		cmocka_unit_test(test_kept),
		cmocka_unit_test(test_kept_start),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_time),
		cmocka_unit_test(test_gaps),
		cmocka_unit_test(test_huge_values),
		cmocka_unit_test(test_growth),
		cmocka_unit_test(test_thinning),
		cmocka_unit_test(test_history),
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_reconfigure),
		cmocka_unit_test(test_short_window),
		cmocka_unit_test(test_cost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
