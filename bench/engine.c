/* SPDX-License-Identifier: MIT */
/*
 * What the growth model costs: many targets of many types, of which a tenth move and one in a hundred leaks.
 *
 *   build/bench/engine [TARGETS [TYPES [SAMPLES]]]        (200 2000 540: an hour and a half)
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "daemon/track/track.h"

#define T0 1800000000000LL

enum kind {
	STILL,
	MOVES,
	LEAKS,
	KINDS,
};
static const char *const names[KINDS] = {"stands still", "moves", "leaks"};

static enum kind kind_of(long type)
{
	return type % 100 == 7 ? LEAKS : type % 10 == 3 ? MOVES : STILL;
}

/* One of each type, as the daemon has them: found by name and address once, when it first sees them. */
struct target {
	struct track *track;
	struct track_type **types[KINDS];
	long n[KINDS];
};

static bool target_make(struct target *t, long types)
{
	struct track_config c = {.interval_ms = 10000, .window_ms = 1800000, .min_objects = 1000};

	if (track_new(&c, T0 - 86400000, &t->track))
		return false;
	for (int k = 0; k < KINDS; k++) {
		t->types[k] = calloc((size_t)types, sizeof(*t->types[k]));
		if (!t->types[k])
			return false;
	}
	for (long n = 0; n < types; n++) {
		struct track_type *ty = track_type_get(t->track, (uint64_t)n + 1, "package.module.SomeClass");
		enum kind k = kind_of(n);

		if (!ty)
			return false;
		t->types[k][t->n[k]++] = ty;
	}
	return true;
}

/* Of this process: what others do on the machine does not count. */
static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static long argument(int argc, char **argv, int i, long otherwise)
{
	return argc > i ? strtol(argv[i], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
	long targets = argument(argc, argv, 1, 200), types = argument(argc, argv, 2, 2000);
	long samples = argument(argc, argv, 3, 540);
	uint64_t spent[KINDS] = {0}, count[KINDS] = {0}, seed = 1, leaks = 0;
	struct target *t = calloc((size_t)targets, sizeof(*t));
	size_t before = mallinfo2().uordblks, after;

	for (long i = 0; t && i < targets; i++)
		if (!target_make(&t[i], types))
			return 1;
	/* Kind by kind, so that the clock is read once for many. */
	for (long s = 0; s < samples; s++) {
		for (long i = 0; i < targets; i++) {
			for (int k = 0; k < KINDS; k++) {
				uint64_t start = cpu_ns();

				for (long n = 0; n < t[i].n[k]; n++) {
					struct track_point p = {.at_ms = T0 + s * 10000, .count = 1000 + n};

					seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
					p.births = (uint64_t)s * 1000;
					if (k == MOVES)
						p.count += (int64_t)(seed >> 40) % 500;
					if (k == LEAKS)
						p.count += s * 8 + (int64_t)(seed >> 40) % 20;
					p.deaths = p.births - (uint64_t)p.count;
					if (k == STILL)
						p.births = p.deaths = 0;
					track_sample(t[i].track, t[i].types[k][n], &p);
				}
				spent[k] += cpu_ns() - start;
				count[k] += (uint64_t)t[i].n[k];
			}
		}
	}
	after = mallinfo2().uordblks + mallinfo2().hblkhd;
	for (long i = 0; i < targets; i++)
		for (struct track_type *ty = track_next(t[i].track, NULL); ty; ty = track_next(t[i].track, ty))
			leaks += track_type_verdict(ty)->kind == TRACK_LEAK;
	printf("%ld targets of %ld types, %ld samples of each\n", targets, types, samples);
	for (int k = 0; k < KINDS; k++)
		printf("  a type that %-13s %4.0f ns a sample\n", names[k],
			(double)spent[k] / (double)(count[k] ? count[k] : 1));
	printf("  %.0f bytes a type at the mean, %.0f MiB in all; %llu verdicts\n",
		(double)(after - before) / (double)(targets * types), (double)(after - before) / 1048576,
		(unsigned long long)leaks);
	for (long i = 0; i < targets; i++) {
		track_free(t[i].track);
		for (int k = 0; k < KINDS; k++)
			free(t[i].types[k]);
	}
	free(t);
	return 0;
}
