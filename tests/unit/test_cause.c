/* SPDX-License-Identifier: MIT */
/* Which suspects are one: fed with series as programs make them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "daemon/track/cause.h"
#include "daemon/util/macros.h"

#define START   INT64_C(1700000000000)
#define SAMPLES 400
#define WINDOW  (INT64_C(30) * 60 * 1000)

static struct track *track;
static uint64_t keys;

static int setup(void **state)
{
	struct track_config c = {.interval_ms = 10000, .window_ms = WINDOW, .min_objects = 100};

	srand(1);
	keys = 0;
	return track_new(&c, START, &track);
}

static int teardown(void **state)
{
	track_free(track);
	return 0;
}

/* A type whose level at each sample is f(sample). */
static struct cause_suspect grows(const char *name, int64_t (*f)(int i))
{
	struct track_type *ty = track_type_get(track, ++keys, name);

	assert_non_null(ty);
	for (int i = 0; i < SAMPLES; i++) {
		struct track_point p = {.at_ms = START + i * 10000, .count = f(i)};

		track_sample(track, ty, &p);
	}
	return (struct cause_suspect){.ty = ty};
}

static void group(struct cause_suspect *v, size_t n)
{
	assert_int_equal(cause_group(v, n, START + SAMPLES * 10000 - WINDOW), 0);
}

static int64_t steady(int i)
{
	return 1000 + 7 * i;
}

static int64_t twice_as_many(int i)
{
	return 90000 + 14 * i + i % 3;
}

/* Requests come in bursts. */
static int64_t sessions(int i)
{
	return 500 + 10 * i + 150 * (i / 40) + (i % 7) * 3;
}

static int64_t items(int i)
{
	return 3 * sessions(i) + 12;
}

static int64_t late(int i)
{
	return 100 + (i > 330 ? 50 * (i - 330) : 0);
}

static int64_t other_bursts(int i)
{
	return 500 + 10 * i + 150 * ((i + 17) / 31);
}

static void test_built_ins_follow_a_class(void **state)
{
	struct cause_suspect v[] = {grows("dict", twice_as_many), grows("shop.Session", steady),
		grows("str", steady), grows("int", late)};

	group(v, ARRAY_SIZE(v));
	assert_int_equal(track_type_verdict(v[1].ty)->kind, TRACK_LEAK);
	assert_int_equal(v[0].leader, 1);
	assert_int_equal(v[1].leader, 1);
	assert_int_equal(v[2].leader, 1);
	assert_int_equal(v[3].leader, 3); /* something else */
}

static void test_built_ins_alone(void **state)
{
	struct cause_suspect v[] = {grows("str", steady), grows("dict", twice_as_many), grows("int", late),
		grows("list", steady)};
	struct cause_suspect parts[] = {grows("_thread.RLock", steady), grows("logging.StreamHandler", steady),
		grows("dict", steady)};
	struct cause_suspect made[] = {grows("list", steady), grows("generator", steady), grows("str", steady)};

	group(v, ARRAY_SIZE(v));
	assert_int_equal(v[0].leader, 1); /* plain values with what holds them */
	assert_int_equal(v[1].leader, 1);
	assert_int_equal(v[2].leader, 2); /* in another way */
	assert_int_equal(v[3].leader, 3);
	group(parts, ARRAY_SIZE(parts));
	for (int i = 0; i < 3; i++)
		assert_int_equal(parts[i].leader, 1);
	group(made, ARRAY_SIZE(made));
	for (int i = 0; i < 3; i++)
		assert_int_equal(made[i].leader, 1);
}

static void test_classes_in_step(void **state)
{
	struct cause_suspect v[] = {grows("shop.Item", items), grows("shop.Session", sessions),
		grows("dict", items), grows("shop.Other", other_bursts)};

	group(v, ARRAY_SIZE(v));
	assert_int_equal(v[0].leader, 1);
	assert_int_equal(v[1].leader, 1);
	assert_int_equal(v[2].leader, 1);
	assert_int_equal(v[3].leader, 3);
}

/* Nothing but that both grow evenly: two leaks, perhaps. */
static void test_even_growth_is_no_proof(void **state)
{
	struct cause_suspect v[] = {grows("shop.Session", steady), grows("shop.Job", twice_as_many)};

	group(v, ARRAY_SIZE(v));
	assert_int_equal(v[0].leader, 0);
	assert_int_equal(v[1].leader, 1);
}

static int64_t nothing(int i)
{
	return 5;
}

static int64_t unknown(int i)
{
	return TRACK_UNKNOWN;
}

static void test_nothing_to_see(void **state)
{
	struct cause_suspect v[] = {grows("a.A", nothing), grows("dict", nothing),
		grows("b.B", unknown), grows("str", unknown)};

	group(v, ARRAY_SIZE(v));
	for (size_t i = 0; i < ARRAY_SIZE(v); i++)
		assert_int_equal(v[i].leader, i);
	assert_int_equal(cause_group(v, 0, START), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_built_ins_follow_a_class),
		TEST(test_built_ins_alone),
		TEST(test_classes_in_step),
		TEST(test_even_growth_is_no_proof),
		TEST(test_nothing_to_see),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
