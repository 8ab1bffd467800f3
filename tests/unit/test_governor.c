/* SPDX-License-Identifier: MIT */
/*
 * The governor against a thousand simulated targets: what they do is made up by a random generator of
 * fixed seeds, how long it takes to attach and to let go is as measured (docs/probe.md). Held against
 * what is promised: no more than 1.5 times the budget over any ten seconds, 10 % over any one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "daemon/budget/governor.h"
#include "daemon/util/macros.h"

#define MS        UINT64_C(1000000)
#define SECOND    (1000 * MS)
#define HIT_NS    600
#define MOVE_NS   (300 * 1000)
#define LET_GO_NS (15 * MS)
#define STEPS_MAX (180 * 1000) /* of one millisecond */
#define SHARE     0.01

struct target {
	/* What it is like now: CPU it wants, hits a second of its CPU time. */
	double wants, rate[GOVERNOR_GROUPS];

	/* What is attached, and what will be. */
	enum governor_scope scope, next;
	uint64_t next_ns;

	struct governor g;
	struct governor_order o;
	bool others_first;
	uint64_t now_ns, cpu_ns, spent_ns, limit, look_ns, rest_ns;
	double hits[GOVERNOR_GROUPS];
	uint64_t lag_ns, lag_out_ns;

	/* By milliseconds. */
	unsigned n;
	uint32_t used[STEPS_MAX], spent[STEPS_MAX];
	uint8_t scopes[STEPS_MAX];
};

static struct target t;

static uint64_t total(void)
{
	double n = 0;

	for (int i = 0; i < GOVERNOR_GROUPS; i++)
		n += t.hits[i];
	return (uint64_t)n;
}

static struct governor_look seen(void)
{
	struct governor_look l = {.now_ns = t.now_ns,
		.cpu_ns = t.cpu_ns,
		.spent_ns = t.spent_ns,
		.rest_ns = t.rest_ns,
		.turn = !t.others_first};

	for (int i = 0; i < GOVERNOR_GROUPS; i++)
		l.hits[i] = (uint64_t)t.hits[i];
	return l;
}

static void look(void)
{
	struct governor_look l = seen();

	t.o = governor_decide(&t.g, &l);
	t.limit = t.o.hits == UINT64_MAX ? UINT64_MAX : total() + t.o.hits;
	t.look_ns = t.now_ns + t.o.look_ns;
	if (t.o.scope != t.next) {
		t.next = t.o.scope;
		t.next_ns = t.now_ns + (t.o.scope > t.scope ? t.lag_ns : t.lag_out_ns);
		t.spent_ns += MOVE_NS;
		t.cpu_ns += MOVE_NS;
		t.spent[t.n] += MOVE_NS;
	}
}

static void step(void)
{
	double rate = 0, cost, app;

	assert_true(t.n < STEPS_MAX);
	t.now_ns += MS;
	if (t.next != t.scope && t.now_ns >= t.next_ns) {
		struct governor_look l = seen();

		t.scope = t.next;
		governor_moved(&t.g, &l);
	}
	for (int i = 0; i < (int)t.scope; i++)
		rate += t.rate[i];
	cost = rate * HIT_NS / SECOND;
	app = MIN(t.wants, 1 / (1 + cost)) * (double)MS;
	for (int i = 0; i < (int)t.scope; i++)
		t.hits[i] += app * t.rate[i] / SECOND;
	t.used[t.n] += (uint32_t)app;
	t.spent[t.n] += (uint32_t)(app * cost);
	t.scopes[t.n] = (uint8_t)t.scope;
	t.cpu_ns += (uint64_t)(app * (1 + cost));
	t.spent_ns += (uint64_t)(app * cost);
	if (total() >= t.limit || t.now_ns >= t.look_ns)
		look();
	t.n++;
}

static void begin(double share)
{
	struct governor_config c = {
		.share = share, .hit_ns = HIT_NS, .move_ns = MOVE_NS, .let_go_ns = LET_GO_NS};

	memset(&t, 0, sizeof(t));
	governor_init(&t.g, &c);
	t.scope = t.next = GOVERNOR_EVERYTHING;
	t.limit = UINT64_MAX;
	t.now_ns = 1000 * SECOND;
	t.rest_ns = 10 * SECOND;
	t.lag_ns = 30 * MS;
	t.lag_out_ns = 10 * MS;
	look();
}

static void run(double wants, double instances, double containers, double deaths, double seconds)
{
	t.wants = wants;
	t.rate[0] = instances;
	t.rate[1] = containers;
	t.rate[2] = deaths;
	for (unsigned i = 0; i < (unsigned)(seconds * 1000); i++)
		step();
}

/* Of the first n milliseconds. */
static double used_until[STEPS_MAX + 1], spent_until[STEPS_MAX + 1];

static void add_up(void)
{
	for (unsigned i = 0; i < t.n; i++) {
		used_until[i + 1] = used_until[i] + t.used[i];
		spent_until[i + 1] = spent_until[i] + t.spent[i];
	}
}

static double sum_of(const double *until, int i, int ms)
{
	return until[MAX(MIN(i + ms, (int)t.n), 0)] - until[MAX(i, 0)];
}

/* Spent over `ms` from step i on; and used then, or in a stretch as long before: a target may stop to
 * work right after something was spent on what it did. */
static void over(unsigned at, unsigned length, double *ret_spent, double *ret_used)
{
	int i = (int)at, ms = (int)length;

	*ret_spent = sum_of(spent_until, i, ms);
	*ret_used = MAX(sum_of(used_until, i, ms),
		MAX(sum_of(used_until, i - ms / 2, ms), sum_of(used_until, i - ms, ms)));
}

/*
 * What is promised, over all stretches of the run. Beside the share there is what no governor can
 * know before: a target that was idle has let nothing be spent, and what it does in the first
 * milliseconds of a storm is paid until the last breakpoint is gone. That may happen `surprises`
 * times, and costs at most what may be spent before the event, and as long as it takes to let go.
 */
static void promises(double share, unsigned surprises)
{
	double once = (double)(t.lag_out_ns + 8 * MS + GOVERNOR_FLOOR_NS);

	add_up();
	for (unsigned i = 0; i + 1000 <= t.n; i += 50) {
		double spent, used;

		over(i, 1000, &spent, &used);
		if (spent > 0.1 * (spent + used) + MIN(surprises, 2u) * once +
				    (double)GOVERNOR_FLOOR_NS)
			fail_msg("lag out %.1f share %.2f: 1 s from %u ms on: %.2f ms spent, %.2f "
				 "used",
				(double)t.lag_out_ns / 1e6, share, i, spent / 1e6, used / 1e6);
		over(i, 10000, &spent, &used);
		if (i + 10000 <= t.n &&
			spent > 1.5 * share * used + (double)GOVERNOR_FLOOR_NS + surprises * once)
			fail_msg("10 s from %u ms on: %.2f ms spent, %.2f used", i, spent / 1e6,
				used / 1e6);
	}
}

static unsigned steps_at(enum governor_scope s, unsigned from)
{
	unsigned n = 0;

	for (unsigned i = from; i < t.n; i++)
		n += t.scopes[i] == s;
	return n;
}

static void test_quiet_is_left_attached(void **state)
{
	begin(SHARE);
	run(0.001, 50000, 50000, 100000, 60); /* 12 % of its CPU, which is next to nothing */
	run(0.3, 100, 2000, 2100, 60);        /* 0.25 % */
	assert_int_equal(steps_at(GOVERNOR_EVERYTHING, 0), t.n);
	promises(SHARE, 0);
}

static void test_storm(void **state)
{
	unsigned windows;

	begin(SHARE);
	run(0, 0, 0, 0, 15);
	run(1, 10e6, 0, 10e6, 60); /* A() in a loop: twelve times slower while it is attached */
	/* Back in scope within 200 ms, till the first window. */
	for (unsigned i = 15200; i < 16900; i++)
		assert_int_equal(t.scopes[i], GOVERNOR_NOTHING);
	promises(SHARE, 1);
	windows = (unsigned)t.g.windows;
	assert_in_range(windows, 6, 10); /* three soon, then every ten seconds */
	/* And attached again when it is over. */
	run(0.1, 10, 10, 20, 30);
	assert_int_equal(t.scope, GOVERNOR_EVERYTHING);
	assert_false(t.g.window);
	run(0.1, 10, 10, 20, 20);
	assert_int_equal(t.g.windows, windows + 1);
}

/* Others have waited longer: no window until their turn is over, unless somebody asks for one. */
static void test_others_first(void **state)
{
	struct governor_look l;
	uint64_t windows;

	begin(SHARE);
	run(1, 10e6, 0, 10e6, 60);
	windows = t.g.windows;
	t.others_first = true;
	run(1, 10e6, 0, 10e6, 60);
	assert_in_range(t.g.windows, windows, windows + 1); /* one was open */
	assert_int_equal(t.scope, GOVERNOR_NOTHING);
	assert_true(t.o.waits);
	l = seen();
	l.wanted = true;
	assert_true(governor_decide(&t.g, &l).window);
	t.others_first = false;
	run(1, 10e6, 0, 10e6, 60);
	assert_true(t.g.windows > windows + 2);
}

static void test_births_of_instances_fit(void **state)
{
	begin(SHARE);
	run(0.8, 5000, 400000, 405000, 60); /* instances 0.3 %, all 49 % */
	assert_true(steps_at(GOVERNOR_INSTANCES, 20000) > 38000);
	assert_true(steps_at(GOVERNOR_EVERYTHING, 20000) < 1000);
	promises(SHARE, 1);
	assert_true(governor_cost(&t.g, GOVERNOR_EVERYTHING) > 0.4);
	assert_true(governor_cost(&t.g, GOVERNOR_EVERYTHING) < 0.6);
	/* When even they are too many, they go as well. */
	run(0.8, 50000, 400000, 450000, 30);
	assert_int_equal(t.scope, GOVERNOR_NOTHING);
	promises(SHARE, 2);
}

static void test_births_fit(void **state)
{
	begin(SHARE);
	run(0.8, 1000, 9000, 10000, 60); /* births 0.6 %, with deaths 1.2 % */
	assert_true(steps_at(GOVERNOR_BIRTHS, 20000) > 30000);
	promises(SHARE, 1);
}

static void test_a_budget_of_five_percent(void **state)
{
	begin(0.05);
	run(1, 8000, 17000, 25000, 60); /* 3 % */
	assert_int_equal(steps_at(GOVERNOR_EVERYTHING, 8000), t.n - 8000);
	promises(0.05, 0);
}

/* Where letting go takes long, a storm has no windows, and what fits is attached all the same. */
static void test_slow_to_let_go(void **state)
{
	struct governor_config c = {
		.share = SHARE, .hit_ns = HIT_NS, .move_ns = MOVE_NS, .let_go_ns = 2500 * MS};

	begin(SHARE);
	t.lag_out_ns = 2000 * MS;
	governor_configure(&t.g, &c);
	run(1, 10e6, 0, 10e6, 60);
	assert_int_equal(t.g.windows, 0);
	run(0.5, 10, 1000, 1010, 110);
	assert_int_equal(t.scope, GOVERNOR_EVERYTHING);
}

static void test_unlimited(void **state)
{
	char buf[256];

	begin(0);
	run(1, 10e6, 10e6, 20e6, 20);
	assert_int_equal(steps_at(GOVERNOR_EVERYTHING, 0), t.n);
	assert_string_equal(governor_reason(&t.g, buf, sizeof(buf)), 
		"every birth and death is counted, budget.cpu is unlimited");
}

static void test_reasons(void **state)
{
	struct governor_config c = {.share = -1, .hit_ns = HIT_NS};
	char buf[256];

	begin(SHARE);
	run(1, 10e6, 0, 10e6, 5);
	governor_reason(&t.g, buf, sizeof(buf));
	assert_non_null(strstr(buf, "would cost more CPU time than it uses itself, budget.cpu is 1 %: all are "
				    "counted in short windows"));
	governor_configure(&t.g, &c); /* a reload */
	run(1, 10e6, 0, 10e6, 2);
	assert_int_equal(t.scope, GOVERNOR_EVERYTHING);
}

static double uniform(void)
{
	return (double)rand() / RAND_MAX;
}

/* From a few to ten million a second, evenly by magnitude. */
static double some_rate(void)
{
	double r = 10;

	for (double e = uniform() * 6; e > 0; e -= 0.1)
		r *= 1.2589;
	return r;
}

static void test_a_thousand_targets(void **state)
{
	for (unsigned seed = 1; seed <= 1000; seed++) {
		double share = seed % 5 ? SHARE : 0.05, busy = 0;
		unsigned changes = 0;

		srand(seed);
		begin(share);
		t.lag_ns = (uint64_t)(10 + 60 * uniform()) * MS;
		t.lag_out_ns = (uint64_t)(2 + 14 * uniform()) * MS;
		t.rest_ns = (uint64_t)(2 + 10 * uniform()) * SECOND;
		while (t.n < 60000) {
			double wants = uniform() < 0.3 ? 0.01 * uniform() : uniform();

			changes++;
			run(wants, some_rate(), some_rate(), some_rate(),
				MIN(0.2 + 15 * uniform() * uniform(),
					(double)(60000 - t.n) / 1000 + 0.002));
		}
		/* Each change may be a surprise, but at most a few fall into ten seconds. */
		promises(share, MIN(changes, 3u));
		for (unsigned i = 0; i < t.n; i++)
			busy += t.spent[i];
		assert_true(busy > 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_quiet_is_left_attached),
		cmocka_unit_test(test_storm),
		cmocka_unit_test(test_others_first),
		cmocka_unit_test(test_births_of_instances_fit),
		cmocka_unit_test(test_births_fit),
		cmocka_unit_test(test_a_budget_of_five_percent),
		cmocka_unit_test(test_slow_to_let_go),
		cmocka_unit_test(test_unlimited),
		cmocka_unit_test(test_reasons),
		cmocka_unit_test(test_a_thousand_targets),
	};

	return cmocka_run_group_tests_name("governor", tests, NULL, NULL);
}
