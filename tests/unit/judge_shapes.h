/* SPDX-License-Identifier: MIT */
/*
 * Synthetic series of levels as programs make them, leaking and healthy, with what goes wrong while they
 * are taken: noise, missing points, points once a minute only, restarts of the counters, jumps of the
 * clock. Drawn from a seed: the same everywhere. Used by tests/unit/test_judge_sim.c and bench/verdicts.c.
 */
#ifndef PYLEAK_TESTS_JUDGE_SHAPES_H
#define PYLEAK_TESTS_JUDGE_SHAPES_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/track/track.h"
#include "daemon/util/macros.h"

enum shape {
	/* healthy */
	SHAPE_CONSTANT,
	SHAPE_NOISE,
	SHAPE_SAWTOOTH,   /* garbage until the collector comes, a cache flushed by time */
	SHAPE_LRU,        /* fills, then swaps */
	SHAPE_SATURATING, /* memoisation over a finite set of keys */
	SHAPE_STAIRS_UP,  /* a pool that ramps in steps to its maximum */
	SHAPE_BURSTS,     /* queues that drain */
	SHAPE_JUMP,       /* an import, a new set of data */
	SHAPE_WAVE,       /* follows a load that goes up and down */
	SHAPE_WALK,       /* wanders around a mean */
	SHAPE_BATCH,      /* jobs load and release */
	SHAPE_SHRINKING,
	SHAPE_CONNECTIONS, /* rises with its connections, for up to four windows, and stays there */
	/* leaking */
	SHAPE_LINEAR,
	SHAPE_RANDOM, /* leaks at random moments, in random amounts */
	SHAPE_NOISY,
	SHAPE_STEPS,  /* a job now and then leaks many */
	SHAPE_UNDER_SAWTOOTH,
	SHAPE_AFTER_PLATEAU,
	SHAPE_SPIKES,
	SHAPE_UNDER_WAVE, /* its rate follows the load, and so does the level */
	SHAPE_SLOW,       /* a tenth to a half of min_objects a window */
	SHAPE_LEAKED_CONNECTIONS, /* of those that come and go some stay: the gauge rises with them */
	SHAPE_WHILE_LOAD_RISES,   /* leaks, while connections become more for another reason */
	SHAPES,
	SHAPE_FIRST_LEAK = SHAPE_LINEAR,
};

static const char *const shape_names[SHAPES] = {"constant", "noise", "saw-tooth", "LRU that fills",
	"finite key set", "pool that ramps", "bursts that drain", "one jump", "follows the load",
	"wanders", "batch jobs", "shrinking", "rises with its connections", "steady", "at random", "with noise", "in steps",
	"under a saw-tooth", "after a plateau", "with spikes", "with the load", "slow",
	"leaked connections", "while the load rises"};

#define SHAPE_WINDOW_MS  (30 * 60 * 1000LL)
#define SHAPE_STEP_MS    10000LL
#define SHAPE_WINDOWS    20
#define SHAPE_SAMPLES    (SHAPE_WINDOWS * SHAPE_WINDOW_MS / SHAPE_STEP_MS)
#define SHAPE_MIN        1000
#define SHAPE_T0         1800000000000LL

struct shape_series {
	struct track_point p[SHAPE_SAMPLES];
	struct track_gauges g[SHAPE_SAMPLES];
	unsigned n;
	int64_t onset_ms; /* of the leak; 0: there is none */
};

struct shape_rng {
	uint64_t state;
};

static double shape_uniform(struct shape_rng *r)
{
	r->state = r->state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (double)(r->state >> 11) / (double)(1ULL << 53);
}

static double shape_between(struct shape_rng *r, double a, double b)
{
	return a + (b - a) * shape_uniform(r);
}

/* Each order of magnitude is as likely. */
static double shape_log_between(struct shape_rng *r, double a, double b)
{
	return a * pow(b / a, shape_uniform(r));
}

static double shape_gauss(struct shape_rng *r)
{
	double v = 0;

	for (int i = 0; i < 12; i++)
		v += shape_uniform(r);
	return v - 6;
}

/* Levels at w windows after the begin, the parameters having been drawn. */
struct shape_state {
	double base, size, period, phase, rate, noise, onset, memory;
	double walk, total;
	double load, born; /* connections that are open, objects born since the level before */
};

static double shape_tooth(const struct shape_state *s, double w)
{
	return fmod(w / s->period + s->phase, 1);
}

/* Connections: they come at a rate that rises from a fifth of its height, at s->onset, within s->period, and
 * live for s->memory. */
static void shape_load(struct shape_state *s, struct shape_rng *r, double w, double dw, bool rises)
{
	double share = rises ? 0.2 + 0.8 * MIN(MAX(w - s->onset, 0) / s->period, 1) : 1;
	double come, go;

	if (!s->load)
		s->load = s->size * share;
	come = s->size * share * dw / s->memory;
	go = s->load * MIN(dw / s->memory, 1);
	come = floor(MAX(come + sqrt(come) * shape_gauss(r), 0) + 0.5);
	go = floor(MAX(go + sqrt(go) * shape_gauss(r), 0) + 0.5);
	s->born = come;
	s->load = MAX(s->load + come - go, 0);
}

static double shape_level(enum shape k, struct shape_state *s, struct shape_rng *r, double w, double dw)
{
	double leaked = s->rate * MAX(w - s->onset, 0), keep;

	switch (k) {
	case SHAPE_CONSTANT:
		return s->base;
	case SHAPE_NOISE:
		return s->base + s->noise * shape_gauss(r);
	case SHAPE_SAWTOOTH:
		return s->base + s->size * shape_tooth(s, w);
	case SHAPE_LRU:
		return s->base + s->size * MIN(w / s->period, 1) + s->noise / 20 * shape_gauss(r);
	case SHAPE_SATURATING:
		return s->base + s->size * (1 - exp(-w / (s->period / 2)));
	case SHAPE_STAIRS_UP:
		return s->base + s->size * floor(MIN(w / s->period, 1) * 8) / 8;
	case SHAPE_BURSTS:
		return s->base + (shape_tooth(s, w) < 0.3 ? s->size * (0.15 - fabs(shape_tooth(s, w) - 0.15)) : 0);
	case SHAPE_JUMP:
		return s->base + (w > s->onset ? s->size : 0);
	case SHAPE_WAVE:
		return s->base + s->size * (1 + sin(2 * M_PI * (w / s->period + s->phase))) +
		       s->noise / 10 * shape_gauss(r);
	case SHAPE_WALK:
		keep = exp(-dw / s->memory);
		s->walk = s->walk * keep + s->noise * sqrt(1 - keep * keep) * shape_gauss(r);
		return s->base + s->walk;
	case SHAPE_BATCH:
		return s->base + (shape_tooth(s, w) < 0.4 ? s->size * MIN(shape_tooth(s, w) * 5, 1) : 0);
	case SHAPE_SHRINKING:
		return s->base + s->size * (1 - w / SHAPE_WINDOWS) + s->noise / 10 * shape_gauss(r);
	case SHAPE_LINEAR:
	case SHAPE_SLOW:
	case SHAPE_AFTER_PLATEAU:
		return s->base + leaked;
	case SHAPE_RANDOM:
		if (w > s->onset && shape_uniform(r) < 0.2)
			s->total += 5 * s->rate * dw * 2 * shape_uniform(r);
		return s->base + s->total;
	case SHAPE_NOISY:
		return s->base + leaked + s->rate / 4 * shape_gauss(r);
	case SHAPE_STEPS:
		return s->base + s->rate * 0.2 * floor(MAX(w - s->onset, 0) / 0.2);
	case SHAPE_UNDER_SAWTOOTH:
		return s->base + leaked + s->rate * shape_tooth(s, w);
	case SHAPE_SPIKES:
		return s->base + leaked + (shape_tooth(s, w) < 0.1 ? s->size : 0);
	case SHAPE_UNDER_WAVE:
		keep = 1 + 0.5 * sin(2 * M_PI * (w / s->period + s->phase));
		if (w > s->onset)
			s->total += s->rate * dw * keep;
		return s->base + s->total + s->rate / 2 * keep;
	case SHAPE_CONNECTIONS:
		shape_load(s, r, w, dw, true);
		return s->load;
	case SHAPE_LEAKED_CONNECTIONS:
		shape_load(s, r, w, dw, false);
		s->total += s->rate * dw;
		s->born += s->rate * dw;
		return s->load + s->total;
	case SHAPE_WHILE_LOAD_RISES:
		shape_load(s, r, w, dw, true);
		s->born += s->rate * dw;
		return s->load + leaked;
	case SHAPES:
		break;
	}
	return 0;
}

static struct shape_state shape_draw(enum shape k, struct shape_rng *r)
{
	struct shape_state s = {
		.base = shape_log_between(r, 100, 1e6),
		.size = shape_log_between(r, 500, 100000),
		.period = shape_log_between(r, 0.03, 1.2),
		.phase = shape_uniform(r),
		.noise = shape_log_between(r, 50, 5000),
		.rate = shape_log_between(r, 1.2, 50) * SHAPE_MIN,
		.memory = shape_log_between(r, 0.03, 0.4),
	};

	if (k == SHAPE_CONNECTIONS || k == SHAPE_WHILE_LOAD_RISES || k == SHAPE_LEAKED_CONNECTIONS) {
		s.size = shape_log_between(r, 2000, 50000);
		s.period = shape_log_between(r, 0.5, 4);
		s.onset = shape_between(r, 0, 8);
		s.memory = shape_log_between(r, 0.02, 0.3);
	}
	if (k == SHAPE_WHILE_LOAD_RISES || k == SHAPE_LEAKED_CONNECTIONS)
		s.onset = 0;
	if (k == SHAPE_JUMP)
		s.onset = shape_between(r, 1, SHAPE_WINDOWS - 1);
	if (k == SHAPE_AFTER_PLATEAU)
		s.onset = shape_between(r, 2, 8);
	if (k == SHAPE_UNDER_SAWTOOTH || k == SHAPE_SPIKES)
		s.period = shape_log_between(r, 0.03, 0.3);
	if (k == SHAPE_UNDER_WAVE)
		s.period = shape_log_between(r, 0.1, 1);
	if (k == SHAPE_SLOW)
		s.rate = shape_log_between(r, 0.1, 0.5) * SHAPE_MIN;
	if (k == SHAPE_LRU || k == SHAPE_STAIRS_UP || k == SHAPE_SATURATING)
		s.period = shape_log_between(r, 0.1, 1.2);
	return s;
}

/* Series i of a simulation: its shape goes round, everything else is drawn. */
static enum shape shape_series(uint64_t i, struct shape_series *ret)
{
	enum shape k = (enum shape)(i % SHAPES);
	struct shape_rng r = {(i + 1) * 0x9e3779b97f4a7c15ULL};
	struct shape_state s = shape_draw(k, &r);
	bool missing = shape_uniform(&r) < 0.3, seldom = shape_uniform(&r) < 0.2;
	bool unknown = shape_uniform(&r) < 0.1, restarts = !unknown && shape_uniform(&r) < 0.2;
	double gap = shape_uniform(&r) < 0.1 ? shape_between(&r, 2, 15) : -1;
	int64_t at = SHAPE_T0, jump_at = shape_uniform(&r) < 0.1 ? (int64_t)shape_between(&r, 100, 3000) : -1;
	int64_t jump = (int64_t)shape_between(&r, -600, 3600) * 1000;
	uint64_t births = 0, deaths = 0;
	double before = 0, files = shape_between(&r, 10, 1000), threads = shape_between(&r, 1, 64);
	bool counted = true;

	ret->n = 0;
	ret->onset_ms = k >= SHAPE_FIRST_LEAK ? SHAPE_T0 + (int64_t)(s.onset * SHAPE_WINDOW_MS) : 0;
	for (int64_t t = 0; t < SHAPE_SAMPLES; t++, at += SHAPE_STEP_MS) {
		double w = (double)(t * SHAPE_STEP_MS) / SHAPE_WINDOW_MS;
		double level = floor(MAX(shape_level(k, &s, &r, w, (double)SHAPE_STEP_MS / SHAPE_WINDOW_MS), 0));
		uint64_t churn = (uint64_t)(1000 * shape_uniform(&r));
		struct track_gauges g = {.value = {[TRACK_THREADS] = (int64_t)threads,
			[TRACK_FILES] = (int64_t)(files + (s.load ? s.load + s.total : 0) + 2 * shape_uniform(&r))}};

		if (s.load)
			churn = (uint64_t)MAX(s.born - MAX(level - before, 0), 0);
		births += churn + (uint64_t)MAX(level - before, 0);
		deaths += churn + (uint64_t)MAX(before - level, 0);
		before = level;
		if (t == jump_at)
			at += jump;
		if (restarts && shape_uniform(&r) < 0.001)
			births = deaths = counted = 0;
		if ((missing && shape_uniform(&r) < 0.3) || (seldom && t % 6) || (w > gap && w < gap + 0.7))
			continue;
		g.counted = counted;
		counted = true;
		ret->g[ret->n] = g;
		ret->p[ret->n++] = (struct track_point){.at_ms = at,
			.count = unknown ? TRACK_UNKNOWN : (int64_t)level,
			.births = births,
			.deaths = deaths};
	}
	return k;
}

#endif
