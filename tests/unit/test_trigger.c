/* SPDX-License-Identifier: MIT */
/* When a condition becomes an action: scenarios over hours, played in no time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "daemon/config/config.h"
#include "daemon/track/track.h"
#include "daemon/trigger/trigger.h"
#include "daemon/util/macros.h"

#define MIN_ms (60 * INT64_C(1000))
#define HOUR   (60 * MIN_ms)
#define T0     INT64_C(1800000000000)

static void engine_freep(struct trigger_engine **e)
{
	trigger_engine_free(*e);
}

/* An engine over `triggers:` written as in the file. The config is gone when it runs. */
static struct trigger_engine *engine(const char *triggers)
{
	_cleanup_(config_freep) struct config *c = NULL;
	int fd = memfd_create("config", MFD_CLOEXEC);
	struct trigger_engine *e;
	char path[64];

	assert_true(fd >= 0);
	assert_true(dprintf(fd, "triggers:\n%s", triggers) > 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (config_load(path, stderr, &c, NULL))
		fail_msg("bad triggers:\n%s", triggers);
	close(fd);
	assert_int_equal(trigger_engine_new(c, &e), 0);
	return e;
}

/* What is seen of process 1 of service "app". */
static struct trigger_observation seen(
	int64_t at_ms, const struct trigger_type_state *types, size_t n)
{
	return (struct trigger_observation){.service = "app",
		.pid = 1,
		.at_ms = at_ms,
		.cgroup_share = -1,
		.types = types,
		.n_types = n};
}

/* Number of firings; the first of them goes to *first (may be NULL). */
static size_t observe(
	struct trigger_engine *e, const struct trigger_observation *o, struct trigger_firing *first)
{
	_cleanup_free_ struct trigger_firing *f = NULL;
	size_t n = 99;

	assert_int_equal(trigger_engine_observe(e, o, &f, &n), 0);
	assert_true((n == 0) == (f == NULL));
	if (n && first)
		*first = f[0];
	return n;
}

/* ---- scenarios over time ------------------------------------------------------------------------ */

/* A level of memory (in MiB) from a minute on, and when it must fire. Sampled every 10 s. */
struct scenario {
	const char *name, *trigger;
	struct {
		int minute, rss;
	} levels[8];
	int until;     /* minute */
	int fires[12]; /* minutes; ends at 0 (a firing at the first sample is minute 1) */
	int suppressed;
	int imported[4]; /* minutes (below 0: before the start) of earlier firings; ends at 0 */
};

#define RSS "  - {name: mem, when: {rss_above: 100MiB}, "

static const struct scenario scenarios[] = {
	{"at once", RSS "hold: 0s, cooldown: 6h}\n", {{1, 50}, {5, 200}}, 60, {5}, 0, {0}},
	{"exactly at the limit is not above", RSS "hold: 0s}\n", {{1, 100}}, 60, {0}, 0, {0}},
	{"held", RSS "hold: 10m, cooldown: 6h}\n", {{1, 50}, {5, 200}}, 60, {15}, 0, {0}},
	{"hold interrupted", RSS "hold: 10m, cooldown: 6h}\n",
		{{1, 50}, {5, 200}, {14, 50}, {16, 200}}, 60, {26}, 0, {0}},
	{"never held long enough", RSS "hold: 10m, cooldown: 6h}\n",
		{{1, 200}, {9, 50}, {10, 200}, {19, 50}, {20, 200}, {29, 50}}, 120, {0}, 0, {0}},
	{"still true when the cooldown is over", RSS "hold: 5m, cooldown: 1h, per_day: 10}\n",
		{{1, 200}}, 200, {6, 66, 126, 186}, 0, {0}},
	{"again within the cooldown", RSS "cooldown: 1h, per_day: 10}\n",
		{{1, 200}, {10, 50}, {20, 200}, {30, 50}}, 120, {1}, 1, {0}},
	{"again within the cooldown, and still true after it", RSS "cooldown: 1h, per_day: 10}\n",
		{{1, 200}, {10, 50}, {20, 200}}, 100, {1, 61}, 1, {0}},
	{"again after the cooldown", RSS "cooldown: 1h, per_day: 10}\n",
		{{1, 200}, {10, 50}, {90, 200}}, 100, {1, 90}, 0, {0}},
	{"no cooldown: only after it was false", RSS "cooldown: 0s, per_day: 10}\n",
		{{1, 200}, {10, 50}, {20, 200}, {30, 50}, {40, 200}}, 2000, {1, 20, 40}, 0, {0}},
	{"quota of a day", RSS "cooldown: 1h, per_day: 3}\n", {{1, 200}}, 1600,
		{1, 61, 121, 1441, 1501, 1561}, 0, {0}},
	{"quota counts the last 24 hours, not the day", RSS "cooldown: 10h, per_day: 2}\n",
		{{1, 200}}, 3000, {1, 601, 1441, 2041, 2881}, 0, {0}},
	{"cooldown goes on over a restart", RSS "cooldown: 6h}\n", {{1, 200}}, 400, {240}, 1,
		{-120}},
	{"quota goes on over a restart", RSS "cooldown: 1h, per_day: 3}\n", {{1, 200}}, 1400,
		{1, 740, 1040}, 0, {-700, -400}},
	{"old firings matter no more", RSS "cooldown: 6h, per_day: 1}\n", {{1, 200}}, 60, {1}, 0,
		{-1500}},
	{"a firing in the future counts as of now", RSS "cooldown: 1h}\n", {{1, 200}}, 120, {61}, 1,
		{100000}},
};

static void test_scenarios(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++) {
		_cleanup_(engine_freep) struct trigger_engine *e = engine(scenarios[i].trigger);
		const struct scenario *s = &scenarios[i];
		size_t level = 0, fired = 0;

		for (size_t k = 0; s->imported[k]; k++) {
			struct trigger_record r = {.service = "app",
				.trigger = "mem",
				.at_ms = T0 + s->imported[k] * MIN_ms};

			assert_int_equal(trigger_engine_import(e, &r), 0);
		}
		for (int64_t ms = MIN_ms; ms <= s->until * MIN_ms; ms += 10000) {
			struct trigger_observation o = seen(T0 + ms, NULL, 0);
			struct trigger_firing f = {0};

			while (level + 1 < ARRAY_SIZE(s->levels) && s->levels[level + 1].minute &&
				s->levels[level + 1].minute * MIN_ms <= ms)
				level++;
			o.rss_bytes = (uint64_t)s->levels[level].rss << 20;
			if (!observe(e, &o, &f))
				continue;
			if (fired >= ARRAY_SIZE(s->fires) || ms != s->fires[fired] * MIN_ms)
				fail_msg("%s: fires after %d s, expected after %d min", s->name,
					(int)(ms / 1000), s->fires[fired]);
			fired++;
			assert_string_equal(f.trigger, "mem");
			assert_string_equal(f.kind, "threshold");
			assert_string_equal(f.type, "");
			assert_int_equal(f.actions, ACTION_DUMP);
			assert_int_equal(f.at_ms, T0 + ms);
		}
		if (s->fires[fired])
			fail_msg("%s: does not fire at minute %d", s->name, s->fires[fired]);
		if (trigger_engine_suppressed(e) != (uint64_t)s->suppressed)
			fail_msg("%s: %d suppressed, expected %d", s->name,
				(int)trigger_engine_suppressed(e), s->suppressed);
	}
}

static void test_clock_goes_back(void **state)
{
	_cleanup_(engine_freep) struct trigger_engine *e =
		engine("  - {name: mem, when: {rss_above: 1MiB}, hold: 10m, cooldown: 1h}\n");
	struct trigger_observation o = seen(T0, NULL, 0);
	int64_t fired_at = 0;

	o.rss_bytes = 2 << 20;
	assert_int_equal(observe(e, &o, NULL), 0);
	o.at_ms = T0 + 9 * MIN_ms;
	assert_int_equal(observe(e, &o, NULL), 0);
	/* Two hours back: the hold begins anew, and ends. */
	for (int64_t ms = -2 * HOUR; !fired_at; ms += MIN_ms) {
		o.at_ms = T0 + ms;
		if (observe(e, &o, NULL))
			fired_at = o.at_ms;
	}
	assert_int_equal(fired_at, T0 - 2 * HOUR + 10 * MIN_ms);
	/* A year back: the cooldown is an hour from then on, not a year. */
	for (int64_t ms = 0; ms <= 2 * HOUR; ms += MIN_ms) {
		o.at_ms = T0 - 365 * 24 * HOUR + ms;
		assert_int_equal(observe(e, &o, NULL), ms == HOUR || ms == 2 * HOUR);
	}
	/* Times no clock has. */
	o.at_ms = INT64_MIN;
	observe(e, &o, NULL);
	o.at_ms = INT64_MAX;
	observe(e, &o, NULL);
	o.at_ms = INT64_MIN;
	observe(e, &o, NULL);
}

/* ---- which conditions -------------------------------------------------------------------------- */

static const struct trigger_type_state types[] = {
	{"app.Session", 50001, 2000, 0.45, TRACK_LEAK},
	{"app.Cache", 7, 0, 0.001, TRACK_WATCH},
	{"app.Request", 60000, 0, 0.54, TRACK_NONE},
	{"dict", INT64_MIN, 0, -1, TRACK_NONE},
	{"lib.Pool", 100, 50, 0.009, TRACK_LEAK},
};

static void test_conditions(void **state)
{
	static const struct {
		const char *when;
		const char *fires; /* type(kind), in order; "-" is no type */
	} cases[] = {
		{"{verdict: leak}", "app.Session(verdict) lib.Pool(verdict) "},
		{"{verdict: watch}", "app.Cache(verdict) app.Session(verdict) lib.Pool(verdict) "},
		{"{verdict: leak, type: 'app.*'}", "app.Session(verdict) "},
		{"{verdict: leak, type: Session}", ""},
		{"{count_above: {type: app.Session, count: 50000}}", "app.Session(threshold) "},
		{"{count_above: {type: app.Session, count: 50001}}", ""},
		{"{count_above: {type: '*', count: 50}}",
			"app.Request(threshold) app.Session(threshold) lib.Pool(threshold) "},
		{"{count_above: {type: dict, count: 0}}", ""}, /* its level is not known */
		{"{growth_above: {type: '*', per_hour: 49}}", "app.Session(threshold) lib.Pool(threshold) "},
		{"{growth_above: {type: '*', per_hour: 50}}", "app.Session(threshold) "},
		{"{growth_above: {type: lib.*, per_hour: 50}}", ""},
		{"{growth_above: {type: '*', per_hour: 0}}", "app.Session(threshold) lib.Pool(threshold) "},
		{"{share_above: {type: '*', share: 40%}}", "app.Request(threshold) app.Session(threshold) "},
		{"{share_above: {type: app.Session, share: 45%}}", ""},
		{"{verdict: leak, share_above: {type: '*', share: 40%}}", "app.Session(verdict) "},
		{"{rss_above: 2GiB}", "-(threshold) "},
		{"{rss_above: 3GiB}", ""},
		{"{cgroup_memory_above: 70%}", "-(threshold) "},
		{"{cgroup_memory_above: 75%}", ""},
		/* and: of the same type */
		{"{verdict: leak, count_above: {type: '*', count: 1000}}", "app.Session(verdict) "},
		{"{verdict: leak, count_above: {type: app.Request, count: 1000}}", ""},
		{"{verdict: leak, rss_above: 2GiB}", "app.Session(verdict) lib.Pool(verdict) "},
		{"{verdict: leak, rss_above: 3GiB}", ""},
		{"{rss_above: 2GiB, cgroup_memory_above: 70%}", "-(threshold) "},
		{"{rss_above: 2GiB, cgroup_memory_above: 80%}", ""},
		/* or */
		{"{any: [{verdict: leak, type: lib.*}, {rss_above: 2GiB}]}",
			"-(threshold) lib.Pool(verdict) "},
		{"{any: [{verdict: leak, type: lib.*}, {rss_above: 3GiB}]}", "lib.Pool(verdict) "},
		{"{any: [{verdict: leak}, {count_above: {type: '*', count: 1000}}]}",
			"app.Request(threshold) app.Session(verdict) lib.Pool(verdict) "},
		{"{verdict: watch, any: [{rss_above: 3GiB}, {count_above: {type: '*', count: "
		 "90}}]}",
			"app.Session(verdict) lib.Pool(verdict) "},
		{"{rss_above: 2GiB, any: [{cgroup_memory_above: 99%}, {verdict: leak, type: "
		 "'*.Pool'}]}",
			"lib.Pool(verdict) "},
		{"{any: [{any: [{any: [{rss_above: 2GiB}]}]}, {rss_above: 3GiB}]}",
			"-(threshold) "},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(engine_freep) struct trigger_engine *e = NULL;
		_cleanup_free_ struct trigger_firing *f = NULL;
		struct trigger_observation o = seen(T0, types, ARRAY_SIZE(types));
		char text[512], got[512] = "";
		size_t n;

		snprintf(text, sizeof(text), "  - name: t\n    when: %s\n", cases[i].when);
		e = engine(text);
		o.rss_bytes = (2ULL << 30) + 1;
		o.cgroup_share = 0.75;
		assert_int_equal(trigger_engine_observe(e, &o, &f, &n), 0);
		for (size_t k = 0; k < n; k++)
			sprintf(got + strlen(got), "%s(%s) ", f[k].type[0] ? f[k].type : "-",
				f[k].kind);
		if (strcmp(got, cases[i].fires))
			fail_msg("%s\nfires: %s\nexpected: %s", cases[i].when, got, cases[i].fires);

		/* Without a limit, memory or types nothing is true. */
		f = (free(f), NULL);
		o = seen(T0 + 24 * HOUR, NULL, 0);
		assert_int_equal(trigger_engine_observe(e, &o, &f, &n), 0);
		assert_int_equal(n, 0);
	}
}

static void test_reasons(void **state)
{
	_cleanup_(engine_freep) struct trigger_engine *e =
		engine("  - name: t\n    hold: 10s\n    when:\n      verdict: watch\n"
		       "      count_above: {type: app.Session, count: 50000}\n"
		       "      any: [{rss_above: 2GiB}, {cgroup_memory_above: 70%}]\n");
	struct trigger_observation o = seen(T0, types, ARRAY_SIZE(types));
	struct trigger_firing f;

	o.cgroup_share = 0.752;
	assert_int_equal(observe(e, &o, &f), 0);
	o.at_ms += 10000;
	assert_int_equal(observe(e, &o, &f), 1);
	assert_string_equal(f.reason,
		"app.Session: verdict leak and 50001 objects, above 50000 and "
		"75.2 % of the memory limit, above 70.0 %, held for 10 s");
}

/* Types, services and processes do not stand in each other's way, except where they shall. */
static void test_keys(void **state)
{
	_cleanup_(engine_freep) struct trigger_engine *e =
		engine("  - {name: leak, when: {verdict: leak}, hold: 1m, cooldown: 1h}\n"
		       "  - {name: mem, when: {rss_above: 1GiB}, cooldown: 1h}\n");
	struct trigger_type_state one = {"a.B", 1, 0, -1, TRACK_LEAK},
				  two[2] = {one, {"a.C", 1, 0, -1, TRACK_LEAK}};
	struct trigger_observation o = seen(T0, &one, 1);
	struct trigger_firing f;

	assert_int_equal(observe(e, &o, NULL), 0);
	o.at_ms += MIN_ms;
	assert_int_equal(observe(e, &o, &f), 1);
	assert_string_equal(f.type, "a.B");
	assert_int_equal(trigger_engine_suppressed(e), 0);

	/* A second type has its own hold and its own cooldown. */
	o = seen(T0 + 2 * MIN_ms, two, 2);
	assert_int_equal(observe(e, &o, NULL), 0);
	o.at_ms += MIN_ms;
	assert_int_equal(observe(e, &o, &f), 1);
	assert_string_equal(f.type, "a.C");

	/* A second rule has its own. */
	o.rss_bytes = 2ULL << 30;
	assert_int_equal(observe(e, &o, &f), 1);
	assert_string_equal(f.trigger, "mem");

	/* Another process of the service: own hold, shared cooldown. */
	o = seen(T0 + 4 * MIN_ms, &one, 1);
	o.pid = 2;
	assert_int_equal(observe(e, &o, NULL), 0);
	o.at_ms += MIN_ms;
	assert_int_equal(observe(e, &o, NULL), 0);
	assert_int_equal(trigger_engine_suppressed(e), 1);
	o.at_ms += MIN_ms;
	assert_int_equal(observe(e, &o, NULL), 0);
	assert_int_equal(trigger_engine_suppressed(e), 1); /* once, not at every sample */

	/* Another service: everything its own. */
	o = seen(T0 + 4 * MIN_ms, &one, 1);
	o.service = "web";
	assert_int_equal(observe(e, &o, NULL), 0);
	o.at_ms += MIN_ms;
	assert_int_equal(observe(e, &o, NULL), 1);

	/* A process that is gone: its hold is forgotten, the cooldown is not. */
	o = seen(T0 + 2 * HOUR, &one, 1);
	o.pid = 3;
	assert_int_equal(observe(e, &o, NULL), 0);
	trigger_engine_forget(e, "app", 3);
	trigger_engine_forget(e, "app", 99);
	trigger_engine_forget(e, "nobody", 3);
	o.at_ms += MIN_ms;
	assert_int_equal(observe(e, &o, NULL), 0);
	o.at_ms += MIN_ms;
	assert_int_equal(observe(e, &o, NULL), 1);
	trigger_engine_forget(e, "app", 3);
	o.at_ms += MIN_ms;
	assert_int_equal(observe(e, &o, NULL), 0);
	o.at_ms += MIN_ms;
	assert_int_equal(observe(e, &o, NULL), 0);
	assert_int_equal(trigger_engine_suppressed(e), 2);
}

/* A verdict that lapses for one sample starts its hold again. */
static void test_hold_of_a_type(void **state)
{
	_cleanup_(engine_freep) struct trigger_engine *e =
		engine("  - {name: leak, when: {verdict: leak}, hold: 5m}\n");
	struct trigger_type_state list[3] = {
		{"a.A", 1, 0, -1, TRACK_LEAK}, {"a.B", 1, 0, -1, TRACK_LEAK}, {"a.C", 1, 0, -1, TRACK_LEAK}};
	size_t fired[3] = {0};

	for (int minute = 0; minute <= 12; minute++) {
		_cleanup_free_ struct trigger_firing *f = NULL;
		struct trigger_observation o = seen(T0 + minute * MIN_ms, list, 3);
		size_t n;

		list[1].verdict = minute == 4 ? TRACK_WATCH : TRACK_LEAK;
		o.n_types = minute == 3 ? 2 : 3; /* a.C is not there at all */
		assert_int_equal(trigger_engine_observe(e, &o, &f, &n), 0);
		for (size_t i = 0; i < n; i++)
			fired[f[i].type[2] - 'A'] = (size_t)minute;
	}
	assert_int_equal(fired[0], 5);
	assert_int_equal(fired[1], 10);
	assert_int_equal(fired[2], 9);
}

static void test_many(void **state)
{
	_cleanup_(engine_freep) struct trigger_engine *e =
		engine("  - {name: leak, when: {verdict: leak}, cooldown: 1h, per_day: 2}\n");
	static struct trigger_type_state list[2000];
	static char names[2000][300];
	_cleanup_free_ struct trigger_firing *f = NULL;
	struct trigger_observation o = seen(T0, list, 2000);
	size_t n;

	for (int i = 0; i < 2000; i++) {
		/* every second name twice; and some longer than is kept */
		snprintf(names[i], sizeof(names[i]), "m.T%04d%*s", i / 2, i % 50 ? 0 : 280, "");
		list[i] = (struct trigger_type_state){names[i], i, 0, -1, TRACK_LEAK};
	}
	assert_int_equal(trigger_engine_observe(e, &o, &f, &n), 0);
	assert_int_equal(n, 1040); /* a thousand names, and the forty long ones */
	for (size_t i = 1; i < n; i++)
		assert_true(strcmp(f[i - 1].type, f[i].type) < 0);
	o.at_ms += MIN_ms;
	assert_int_equal(observe(e, &o, NULL), 0);
	o.at_ms += HOUR;
	assert_int_equal(observe(e, &o, NULL), 1040);
	o.at_ms += HOUR;
	assert_int_equal(observe(e, &o, NULL), 0);
	o.at_ms = T0 + 24 * HOUR;
	assert_int_equal(observe(e, &o, NULL), 1040);

	/* No rules, no firings; many processes that come and go. */
	trigger_engine_free(e);
	e = engine("  []\n");
	assert_int_equal(observe(e, &o, NULL), 0);
	for (int pid = 1; pid < 6000; pid++) {
		o.pid = pid;
		o.n_types = 3;
		assert_int_equal(observe(e, &o, NULL), 0);
	}
	trigger_engine_free(NULL);
}

/* The configuration is read anew: what was true still is, under whatever number its rule has. */
static void test_take_over(void **state)
{
	static const char big[] = "  - {name: big, when: {rss_above: 1GiB}, hold: 1h}\n";
	static const char leak[] = "  - {name: leak, when: {verdict: leak}, hold: 1h, cooldown: 0s}\n";
	static const char none[] = "  - {name: none, when: {rss_above: 9GiB}}\n";
	static const char more[] = "  - {name: big, when: {rss_above: 2GiB}, hold: 1h}\n";
	struct trigger_type_state one = {"a.B", 1, 0, -1, TRACK_LEAK};
	struct trigger_engine *e = NULL;
	size_t fired[2] = {0};

	/* Every half hour, in one order and in the other; and one whose condition is another each time. */
	for (int minute = 0; minute <= 200; minute++) {
		_cleanup_free_ struct trigger_firing *f = NULL;
		struct trigger_observation o = seen(T0 + minute * MIN_ms, &one, 1);
		struct trigger_engine *old = e;
		char rules[512];
		size_t n;

		if (minute % 30 == 0) {
			snprintf(rules, sizeof(rules), "%s%s%s", minute % 60 ? none : leak, minute % 60 ? leak : "",
				minute % 60 ? more : big);
			e = engine(rules);
			if (old)
				assert_int_equal(trigger_engine_take_over(e, old), 0);
			trigger_engine_free(old);
		}
		o.rss_bytes = UINT64_C(3) << 30;
		assert_int_equal(trigger_engine_observe(e, &o, &f, &n), 0);
		for (size_t i = 0; i < n; i++) {
			assert_string_equal(f[i].trigger, "leak");
			fired[0]++;
			fired[1] = (size_t)minute;
		}
	}
	/* Once, and a cooldown of 0 means until it was false. */
	assert_int_equal(fired[0], 1);
	assert_int_equal(fired[1], 60);
	trigger_engine_free(e);
}

/* A firing that nobody could write down holds back all the same; one that is known twice counts once. */
static void test_take_over_firings(void **state)
{
	static const char rule[] = "  - {name: leak, when: {verdict: leak}, cooldown: 1h, per_day: 2}\n";
	struct trigger_engine *a = engine(rule), *b = engine(rule);
	struct trigger_type_state one = {"a.B", 1, 0, -1, TRACK_LEAK};
	struct trigger_observation o = seen(T0, &one, 1);
	struct trigger_record r = {.service = "app", .trigger = "leak", .type = "a.B", .at_ms = T0};

	assert_int_equal(observe(a, &o, NULL), 1);
	assert_int_equal(trigger_engine_take_over(b, a), 0);
	trigger_engine_free(a);
	o.at_ms += 30 * MIN_ms;
	assert_int_equal(observe(b, &o, NULL), 0);
	a = engine(rule);
	assert_int_equal(trigger_engine_import(a, &r), 0);
	assert_int_equal(trigger_engine_take_over(a, b), 0);
	trigger_engine_free(b);
	o.at_ms += HOUR;
	assert_int_equal(observe(a, &o, NULL), 1);
	trigger_engine_free(a);
}

/* No dump came of it: no cooldown, no quota; but not with every sample either. */
static void test_release(void **state)
{
	static const char *const rules[] = {
		"  - {name: leak, when: {verdict: leak}, cooldown: 6h, per_day: 1}\n",
		"  - {name: leak, when: {verdict: leak}, cooldown: 0s, per_day: 1}\n",
		"  - {name: leak, when: {verdict: leak}, cooldown: 2m, per_day: 1}\n"};
	static const int retry[] = {10, 10, 2};

	for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
		struct trigger_engine *e = engine(rules[i]), *next;
		struct trigger_type_state one = {"a.B", 1, 0, -1, TRACK_LEAK};
		struct trigger_observation o = seen(T0, &one, 1);
		struct trigger_record r = {.service = "app", .trigger = "leak", .type = "a.B", .at_ms = T0};

		assert_int_equal(observe(e, &o, NULL), 1);
		trigger_engine_release(e, &r, 1, 10 * MIN_ms);
		for (int minute = 1; minute < retry[i]; minute++) {
			o.at_ms = T0 + minute * MIN_ms;
			assert_int_equal(observe(e, &o, NULL), 0);
		}
		next = engine(rules[i]);
		assert_int_equal(trigger_engine_take_over(next, e), 0);
		trigger_engine_free(e);
		o.at_ms = T0 + retry[i] * MIN_ms - 1;
		assert_int_equal(observe(next, &o, NULL), 0);
		o.at_ms += 1;
		assert_int_equal(observe(next, &o, NULL), 1);
		o.at_ms = T0 + 7 * HOUR; /* this one came to something */
		assert_int_equal(observe(next, &o, NULL), 0);
		strcpy(r.trigger, "another"); /* it is in the configuration no more */
		trigger_engine_release(next, &r, 1, 10 * MIN_ms);
		trigger_engine_free(next);
	}
}

/* Records as they might lie in a damaged database. */
static void test_import(void **state)
{
	_cleanup_(engine_freep) struct trigger_engine *e =
		engine("  - {name: leak, when: {verdict: leak}, cooldown: 1h}\n");
	struct trigger_type_state one = {"a.B", 1, 0, -1, TRACK_LEAK};
	struct trigger_observation o = seen(T0, &one, 1);
	struct trigger_record r;

	memset(&r, 'x', sizeof(r)); /* no end to any text */
	r.at_ms = INT64_MIN;
	assert_int_equal(trigger_engine_import(e, &r), 0);
	r.at_ms = INT64_MAX;
	assert_int_equal(trigger_engine_import(e, &r), 0);
	r = (struct trigger_record){
		.service = "app", .trigger = "leak", .type = "a.Other", .at_ms = T0};
	assert_int_equal(trigger_engine_import(e, &r), 0);
	r = (struct trigger_record){
		.service = "app", .trigger = "leak", .type = "a.B", .at_ms = T0 - 30 * MIN_ms};
	for (int i = 0; i < 1500; i++)
		assert_int_equal(trigger_engine_import(e, &r), 0);
	r.at_ms = T0 - 5 * HOUR; /* out of order */
	assert_int_equal(trigger_engine_import(e, &r), 0);
	assert_int_equal(observe(e, &o, NULL), 0);
	assert_int_equal(trigger_engine_suppressed(e), 1);
	o.at_ms = T0 + 26 * HOUR;
	assert_int_equal(observe(e, &o, NULL), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_scenarios),
		cmocka_unit_test(test_clock_goes_back),
		cmocka_unit_test(test_conditions),
		cmocka_unit_test(test_reasons),
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_hold_of_a_type),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_import),
		cmocka_unit_test(test_release),
		cmocka_unit_test(test_take_over),
		cmocka_unit_test(test_take_over_firings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
