/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/budget/pace.h"
#include "daemon/util/macros.h"

#define MS       UINT64_C(1000000)
#define SECOND   (1000 * MS)
#define PATIENCE (30 * SECOND)
#define N_MAX    200

/* n targets that begin in the same instant and ask every ten seconds, each at moments of its own, for ten
 * hours; a look of the i-th takes 5 ms + i % 3. */
static void share(size_t n)
{
	struct pace p = {.share = 0.001};
	struct pace_turn turns[N_MAX] = {0};
	unsigned looks[N_MAX] = {0}, fewest = UINT32_MAX, most = 0;
	uint64_t minute = 0, sum = 0;

	for (uint64_t s = 0; s < 36000; s++) {
		if (s % 60 == 0)
			minute = 0;
		for (size_t i = 0; i < n; i++) {
			uint64_t now = s * SECOND + i * MS, took = (5 + i % 3) * MS;

			if (i % 10 != s % 10 || !pace_turn_come(&p, &turns[i], now, PATIENCE))
				continue;
			pace_turn_end(&p, &turns[i]);
			pace_spend(&p, now, took);
			looks[i]++;
			minute += took;
			sum += took;
			/* The share, and the look that goes over it. */
			assert_in_range(minute / MS, 0, 60 + 7);
		}
	}
	assert_in_range(sum / MS, 0, 36000 + 7);
	for (size_t i = 0; i < n; i++) {
		fewest = MIN(fewest, looks[i]);
		most = MAX(most, looks[i]);
	}
	assert_true(fewest > 0 && most <= fewest + 1);
	if (n >= 50) /* there is somebody to look at most of the time */
		assert_true(sum / MS > 36000 / 2);
}

static void test_share(void **state)
{
	static const size_t ns[] = {1, 2, 3, 7, 50, 200};

	for (size_t i = 0; i < ARRAY_SIZE(ns); i++)
		share(ns[i]);
}

static void test_turns(void **state)
{
	struct pace p = {.share = 0.01};
	struct pace_turn a = {0}, b = {0}, c = {0};

	assert_true(pace_turn_come(&p, &a, 0, PATIENCE));
	assert_true(pace_turn_come(&p, &a, 1, PATIENCE)); /* until it ends it */
	assert_false(pace_turn_come(&p, &b, 1, PATIENCE));
	assert_false(pace_turn_come(&p, &c, 1, PATIENCE));
	pace_turn_end(&p, &a);
	pace_turn_end(&p, &a);
	pace_spend(&p, SECOND, 10 * MS);
	assert_false(pace_turn_come(&p, &b, 2 * SECOND - 1, PATIENCE));
	assert_true(pace_turn_come(&p, &b, 2 * SECOND, PATIENCE));
	/* Somebody who did not wait is paid for all the same. */
	pace_spend(&p, 2 * SECOND, 10 * MS);
	assert_false(pace_turn_come(&p, &b, 3 * SECOND - 1, PATIENCE));
	assert_false(pace_turn_come(&p, &a, 3 * SECOND - 1, PATIENCE));
	for (int i = 0; i < 1000; i++)
		pace_spend(&p, 2 * SECOND, 10 * MS);
	assert_int_equal(p.next_ns, 62 * SECOND);
	p.next_ns = 3 * SECOND;
	/* One in the middle goes, and the last. */
	pace_turn_end(&p, &c);
	pace_turn_end(&p, &a);
	assert_ptr_equal(p.last, &b);
	assert_false(pace_turn_come(&p, &c, 3 * SECOND, PATIENCE));
	assert_true(pace_turn_come(&p, &b, 3 * SECOND, PATIENCE));
	/* Who is first and never asks again holds nobody up for long. */
	assert_false(pace_turn_come(&p, &c, 33 * SECOND, PATIENCE));
	assert_true(pace_turn_come(&p, &c, 33 * SECOND + 1, PATIENCE));
	assert_int_equal(b.asked_ns, 0);
	pace_turn_end(&p, &c);
	assert_null(p.first);
	assert_null(p.last);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_share),
		cmocka_unit_test(test_turns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
