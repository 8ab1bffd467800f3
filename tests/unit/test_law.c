/* SPDX-License-Identifier: MIT */
/* The conservation law: fed with what builds of CPython were seen to do. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "daemon/track/law.h"
#include "daemon/util/macros.h"

/* A type as it is, and what is seen of it: every window so many are born and die, and of those
 * so many are counted. */
struct world {
	struct law l;
	uint64_t live, births, deaths, true_births, true_deaths;
};

static void window(
	struct world *w, uint64_t born, uint64_t died, uint64_t saw_born, uint64_t saw_died)
{
	w->live += born - died;
	w->true_births += born;
	w->true_deaths += died;
	w->births += saw_born;
	w->deaths += saw_died;
}

static void census(struct world *w, uint64_t width)
{
	law_census(&w->l, w->live - MIN(width / 2, w->live), w->live + width - width / 2, w->births,
		w->deaths);
}

static int64_t level(const struct world *w)
{
	int64_t bound;

	return law_level(&w->l, w->births, w->deaths, &bound);
}

static int64_t bound(const struct world *w)
{
	int64_t b;

	law_level(&w->l, w->births, w->deaths, &b);
	return b;
}

static bool truth_within(const struct world *w)
{
	return llabs(level(w) - (int64_t)w->live) <= bound(w);
}

static void test_proof(void **state)
{
	struct world w = {.live = 500};

	census(&w, 0);
	assert_false(law_proven(&w.l));
	window(&w, 900, 900, 900, 900);
	census(&w, 0);
	window(&w, 200, 90, 200, 90); /* births suffice, deaths do not */
	census(&w, 0);
	window(&w, 0, 9, 0, 9);
	census(&w, 0);
	assert_false(law_proven(&w.l));
	window(&w, 0, 1, 0, 1); /* 1000 of both now; a window with deaths only confirms nothing */
	census(&w, 0);
	window(&w, 0, 5, 0, 5);
	census(&w, 0);
	assert_false(law_proven(&w.l));
	window(&w, 1, 1, 1, 1);
	census(&w, 0);
	assert_true(law_proven(&w.l));
	/* From now on the counters are believed. */
	window(&w, 12345, 345, 12345, 345);
	assert_int_equal(level(&w), w.live);
	assert_int_equal(bound(&w), 0);
}

static void test_quiet_is_no_proof(void **state)
{
	struct world w = {.live = 7};

	for (int i = 0; i < 10000; i++)
		census(&w, 0);
	assert_false(law_proven(&w.l));
	/* What was never tried may be wrong in all it says: here every birth is missed. */
	window(&w, 30, 20, 0, 20);
	assert_true(truth_within(&w) || bound(&w) >= 20);
	assert_int_equal(bound(&w), 20);
}

/* Counted to the last one, often enough. */
static void prove(struct world *w)
{
	census(w, 0);
	for (int i = 0; i < 3; i++) {
		window(w, 2000, 2000, 2000, 2000);
		census(w, 0);
	}
	assert_true(law_proven(&w->l));
}

static void test_broken(void **state)
{
	struct world w = {.live = 100};

	prove(&w);
	window(&w, 1000, 1000, 1000, 995);
	census(&w, 0);
	assert_false(law_proven(&w.l));
	window(&w, 900, 900, 900, 900);
	assert_int_equal(bound(&w), 5);
	/* Time is no proof … */
	for (int i = 0; i < 100; i++)
		census(&w, 0);
	assert_false(law_proven(&w.l));
	window(&w, 10, 10, 10, 10);
	assert_int_equal(bound(&w), 5);
	/* … 1000 of both and a window more is. */
	window(&w, 90, 90, 90, 90);
	census(&w, 0);
	assert_false(law_proven(&w.l));
	window(&w, 1, 1, 1, 1);
	census(&w, 0);
	assert_true(law_proven(&w.l));
	window(&w, 3, 0, 3, 0);
	assert_int_equal(bound(&w), 0);
	assert_int_equal(level(&w), w.live);
}

/* For some time nothing is counted: no conclusion from that, and none is lost. */
static void test_gap(void **state)
{
	struct world w = {.live = 100};

	prove(&w);
	law_gap(&w.l);
	assert_false(law_proven(&w.l));
	window(&w, 5000, 4000, 0, 0);
	assert_int_equal(level(&w), 100); /* the last census is all that is known */
	census(&w, 0);
	assert_true(law_proven(&w.l));
	assert_int_equal(level(&w), w.live);
	window(&w, 12, 10, 12, 10);
	assert_int_equal(level(&w), w.live);
	assert_int_equal(bound(&w), 0);
	/* How much it moved from one to the next is how far it may be off in the next gap. */
	law_gap(&w.l);
	window(&w, 900, 0, 0, 0);
	assert_true(bound(&w) >= 900);
	assert_true(truth_within(&w));
	assert_int_equal(law_blind(&w.l), LAW_SEES_BOTH);
}

/* What is counted in a gap proves nothing. */
static void test_no_proof_across_a_gap(void **state)
{
	struct world w = {.live = 100};

	census(&w, 0);
	for (int i = 0; i < 5; i++) {
		window(&w, 2000, 2000, 2000, 2000);
		law_gap(&w.l);
		census(&w, 0);
	}
	assert_false(law_proven(&w.l));
}

/* Debian 12's static python3.11: no birth of a function is ever seen. */
static void test_births_never_seen(void **state)
{
	struct world w = {.live = 1676};

	census(&w, 0);
	window(&w, 603, 603, 0, 603);
	census(&w, 0);
	assert_int_equal(law_blind(&w.l), LAW_BLIND_BIRTHS);
	assert_int_equal(law_births(&w.l, w.births), 603);
	assert_int_equal(law_deaths(&w.l, w.deaths), 603);
	for (int i = 0; i < 50; i++) {
		window(&w, 650, 640, 0, 640);
		assert_true(truth_within(&w) || i == 0);
		census(&w, 0);
		assert_int_equal(law_births(&w.l, w.births), w.true_births);
		assert_int_equal(law_deaths(&w.l, w.deaths), w.true_deaths);
		assert_false(law_proven(&w.l));
	}
	/* The counters know nothing of the level, the census does. */
	window(&w, 650, 640, 0, 640);
	assert_int_equal(bound(&w), 10);
}

/* One in ten births goes past the site, from an inlined copy. */
static void test_births_seen_in_part(void **state)
{
	struct world w = {.live = 10000};

	census(&w, 0);
	for (int i = 0; i < 20; i++) {
		window(&w, 3000, 2990, 2700, 2990);
		census(&w, 0);
	}
	assert_int_equal(law_blind(&w.l), LAW_BLIND_BIRTHS);
	assert_int_equal(law_births(&w.l, w.births), w.true_births);
	window(&w, 3000, 2990, 2700, 2990);
	assert_true(truth_within(&w));
	/* From now on all of them are seen: proven after a while, and no longer derived. */
	census(&w, 0);
	for (int i = 0; i < 3; i++) {
		window(&w, 3000, 2990, 3000, 2990);
		census(&w, 0);
	}
	assert_true(law_proven(&w.l));
	assert_int_equal(law_blind(&w.l), LAW_SEES_BOTH);
	assert_int_equal(law_births(&w.l, w.births), w.true_births);
	/* And when it stops holding again, that shows. */
	window(&w, 3000, 2990, 0, 2990);
	census(&w, 0);
	assert_false(law_proven(&w.l));
}

static void test_deaths_never_seen(void **state)
{
	struct world w = {.live = 50};

	census(&w, 0);
	for (int i = 0; i < 5; i++) {
		window(&w, 400, 390, 400, 0);
		census(&w, 0);
	}
	assert_int_equal(law_blind(&w.l), LAW_BLIND_DEATHS);
	assert_int_equal(law_deaths(&w.l, w.deaths), w.true_deaths);
	window(&w, 400, 390, 400, 0);
	assert_true(truth_within(&w));
}

/* 80 lists come from the free list and go back to it: neither side is blind, and the bound is
 * what the free list can hide. */
static void test_free_list(void **state)
{
	struct world w = {.live = 5000};

	census(&w, 0);
	for (int i = 0; i < 40; i++) {
		if (i & 1)
			window(&w, 4080, 4000, 4000, 4000);
		else
			window(&w, 4000, 4080, 4000, 4000);
		if (i > 2)
			assert_true(truth_within(&w));
		census(&w, 0);
		assert_int_equal(law_blind(&w.l), LAW_SEES_BOTH);
	}
	window(&w, 100000, 90000, 100000, 90000);
	assert_int_equal(bound(&w), 80);
	assert_int_equal(level(&w), w.live);
	/* At least what went through the free list one way was not seen. */
	assert_int_equal(law_births(&w.l, w.births), w.births + 20 * 80);
}

/* A bound that was once large shrinks by evidence at half of it, not by waiting. */
static void test_bound_shrinks(void **state)
{
	struct world w = {.live = 5000};

	census(&w, 0);
	window(&w, 2000, 2000, 1400, 2000);
	census(&w, 0);
	window(&w, 1, 0, 1, 0);
	assert_int_equal(bound(&w), 600);
	for (int i = 0; i < 10; i++) {
		window(&w, 600, 600, 590 + 20 * (i & 1), 600);
		census(&w, 0);
	}
	window(&w, 1, 0, 1, 0);
	assert_in_range(bound(&w), 10, 40);
}

static void test_intervals(void **state)
{
	struct world w = {.live = 1000};

	/* Wide censuses narrow each other … */
	law_census(&w.l, 990, 1010, 0, 0);
	law_census(&w.l, 1000, 1010, 0, 0);
	law_census(&w.l, 985, 1000, 0, 0);
	assert_int_equal(level(&w), 1000);
	assert_int_equal(bound(&w), 0);
	/* … but prove nothing, however many there are. */
	for (int i = 0; i < 50; i++) {
		window(&w, 1000, 990, 1000, 990);
		census(&w, 4);
		assert_int_equal(level(&w), w.live);
	}
	assert_false(law_proven(&w.l));
	/* Sharp ones do, with wide ones in between. */
	for (int i = 0; i < 6; i++) {
		window(&w, 1000, 990, 1000, 990);
		census(&w, i & 1 ? 0 : 10);
	}
	assert_true(law_proven(&w.l));
	/* Broken is it only by what lies between. */
	window(&w, 100, 90, 100, 95);
	census(&w, 20);
	assert_true(law_proven(&w.l));
	window(&w, 100, 90, 100, 110);
	census(&w, 20);
	assert_false(law_proven(&w.l));
	assert_int_equal(w.l.bound, 15);
	/* A fresh one speaks for itself. */
	int64_t b;
	assert_int_equal(law_census_level(&w.l, &b), w.live);
	assert_int_equal(b, 10);
}

/* Censuses of many widths, of which each speaks for those after it. *ret_width: of the last one. */
static void narrow(struct world *w, unsigned hidden, uint64_t *ret_width)
{
	uint64_t in_list = 0, min, max;

	srand(1);
	for (int i = 0; i < 300; i++) {
		uint64_t born = 100 + (uint64_t)rand() % 400, died = (uint64_t)rand() % 500;
		uint64_t give = (uint64_t)rand() % 50, take = (uint64_t)rand() % 50;
		uint64_t under = (uint64_t)rand() % 2000, over = (uint64_t)rand() % 2000;

		died = MIN(died, w->live);
		/* A free list hides deaths until it is full and births until it is empty. */
		take = MIN(take, in_list);
		in_list -= take;
		give = MIN(give, MIN(hidden - in_list, died));
		in_list += give;
		window(w, born, died, born - take, died - give);
		under = MIN(under, w->live);
		law_census(&w->l, w->live - under, w->live + over, w->births, w->deaths);
		law_census_range(&w->l, &min, &max);
		assert_true(min <= w->live && w->live <= max);
		assert_true(min >= w->live - under && max <= w->live + over);
	}
	*ret_width = max - min;
}

/* An estimate that has not found those that never move says little: no rule is broken when the next census has. */
static void test_unseen(void **state)
{
	struct law l = {0};
	int64_t bound;

	assert_int_equal(law_unseen(&l, 64), 0);
	law_census(&l, 50, 50, 0, 0);
	law_census(&l, 0, law_unseen(&l, 64), 0, 0);
	assert_true(law_level(&l, 0, 0, &bound) + bound >= 50);
	assert_int_equal(law_unseen(&l, 20), 20);
	law_census(&l, 50, 50, 0, 0);
	assert_int_equal(l.bound, 0);
	assert_int_equal(law_level(&l, 0, 0, &bound), 50);
	assert_int_equal(bound, 0);
	assert_int_equal(law_unseen(&l, 64), 50);
	/* What was never there is not there now. */
	law_census(&l, 0, 0, 0, 50);
	assert_int_equal(law_unseen(&l, 64), 0);
}

static void test_narrowed(void **state)
{
	struct world w = {.live = 100000}, listed = {.live = 100000}, open = {.live = 100000};
	uint64_t width, min, max;

	w.l.closed = true;
	narrow(&w, 0, &width);
	assert_in_range(width, 0, 60);
	listed.l.closed = true;
	listed.l.slack = 80;
	narrow(&listed, 80, &width);
	assert_in_range(width, 1, 80 + 60);
	assert_false(law_proven(&listed.l));

	/* Of another type nobody can say that all is counted. */
	narrow(&open, 0, &width);
	law_census(&open.l, 1000, 9000, open.births, open.deaths);
	law_census_range(&open.l, &min, &max);
	assert_int_equal(min, 1000);
	assert_int_equal(max, 9000);

	/* When the law is broken only the last census speaks. */
	law_census(&w.l, 1000, 9000, w.births, w.deaths);
	law_census_range(&w.l, &min, &max);
	assert_int_equal(min, 1000);
	assert_int_equal(max, 9000);
	/* Nor does what was before a gap. */
	law_gap(&listed.l);
	law_census(&listed.l, 90000, 200000, listed.births, listed.deaths);
	law_census_range(&listed.l, &min, &max);
	assert_int_equal(min, 90000);
	assert_int_equal(max, 200000);
}

/* Numbers out of a target that lies. */
static void test_absurd(void **state)
{
	static const uint64_t v[] = {
		0, 1, 1000, INT64_MAX, UINT64_MAX, (uint64_t)1 << 63, UINT64_MAX - 7};
	struct law l = {0};
	int64_t b;

	for (size_t i = 0; i < ARRAY_SIZE(v); i++)
		for (size_t j = 0; j < ARRAY_SIZE(v); j++)
			for (size_t k = 0; k < ARRAY_SIZE(v); k++) {
				law_census(&l, v[i], v[j], v[k], v[(i + k) % ARRAY_SIZE(v)]);
				assert_true(law_level(&l, v[k], v[j], &b) >= 0);
				assert_true(b >= 0);
				law_census_level(&l, &b);
				assert_true(b >= 0);
				l.closed = true;
				l.slack = v[k];
			}
	/* Counters that went back: another type, of which nothing is known yet. */
	l = (struct law){0};
	law_census(&l, 10, 10, 5000, 5000);
	law_census(&l, 10, 10, 9000, 9000);
	law_census(&l, 10, 10, 3, 3);
	assert_int_equal(l.proof_births, 0);
	assert_int_equal(law_births(&l, 3), 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_proof),
		cmocka_unit_test(test_quiet_is_no_proof),
		cmocka_unit_test(test_broken),
		cmocka_unit_test(test_gap),
		cmocka_unit_test(test_no_proof_across_a_gap),
		cmocka_unit_test(test_births_never_seen),
		cmocka_unit_test(test_births_seen_in_part),
		cmocka_unit_test(test_deaths_never_seen),
		cmocka_unit_test(test_free_list),
		cmocka_unit_test(test_bound_shrinks),
		cmocka_unit_test(test_intervals),
		cmocka_unit_test(test_unseen),
		cmocka_unit_test(test_narrowed),
		cmocka_unit_test(test_absurd),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
