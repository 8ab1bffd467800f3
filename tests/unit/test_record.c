/* SPDX-License-Identifier: MIT */
/* Recordings: what is written is what is read, and what is not one does no harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/record/replay.h"
#include "daemon/util/macros.h"

#define T0 1800000000000LL

static const struct track_config config = {1000, 0, 60000, 100};
static const struct replay_settings as_recorded = {.warmup_ms = -1};

static char folder[] = "/tmp/test_record.XXXXXX", path[64];

static int setup(void **state)
{
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/a.rec", folder);
	return 0;
}

static int teardown(void **state)
{
	unlink(path);
	return rmdir(folder);
}

/* Two minutes of a target: one type that leaks, one that comes and goes, one that stands still. */
static void write_one(void)
{
	struct record_writer *w;
	struct err err = {{0}};
	unsigned t;

	assert_int_equal(record_create(path, &w, &err), 0);
	record_config(w, &config);
	t = record_target(w, 4711, T0 - 1000, "/usr/bin/python3 100% \n odd.py");
	assert_int_equal(t, 1);
	for (int i = 0; i < 120; i++) {
		struct track_point p = {.at_ms = T0 + i * 1000, .count = 100 + 20 * i, .births = 1000ULL * i,
			.deaths = 980ULL * i, .bound = 2};
		struct track_gauges g = {{i / 10, i % 2 ? 7 : -1}, i > 5};

		record_gauges(w, t, &g);
		record_point(w, t, 1, "app.Session", true, &p);
		p.count = i % 2 ? TRACK_UNKNOWN : 50 - i;
		if (i % 10)
			record_point(w, t, 2, "a b%", i > 50, &p);
		p = (struct track_point){.at_ms = T0 + i * 1000, .count = 7};
		record_point(w, t, 3, "", true, &p);
		record_sample(w, t, T0 + i * 1000);
	}
	record_target_gone(w, t);
	assert_int_equal(record_target(w, 4712, T0, "other"), 2);
	record_close(w);
}

struct seen {
	unsigned samples, gone, gauges, points[4], unknown, judged;
	int64_t last_count;
};

static int on_target(void *arg, unsigned target, pid_t pid, int64_t start_ms, const char *service)
{
	if (target == 1) {
		assert_int_equal(pid, 4711);
		assert_int_equal(start_ms, T0 - 1000);
		assert_string_equal(service, "/usr/bin/python3 100% \n odd.py");
	}
	return 0;
}

static int on_type(void *arg, unsigned target, uint64_t key, const char *name)
{
	static const char *const names[] = {"", "app.Session", "a b%", ""};

	assert_string_equal(name, names[key]);
	return 0;
}

static int on_judged(void *arg, unsigned target, uint64_t key)
{
	((struct seen *)arg)->judged++;
	return 0;
}

static int on_gauges(void *arg, unsigned target, int64_t at_ms, const struct track_gauges *g)
{
	struct seen *s = arg;
	int i = (int)s->samples;

	assert_int_equal(at_ms, T0 + i * 1000);
	assert_int_equal(g->value[TRACK_THREADS], i / 10);
	assert_int_equal(g->value[TRACK_FILES], i % 2 ? 7 : -1);
	assert_int_equal(g->counted, i > 5);
	s->gauges++;
	return 0;
}

static int on_point(void *arg, unsigned target, uint64_t key, const struct track_point *p)
{
	struct seen *s = arg;
	int i = (int)s->samples;

	assert_int_equal(p->at_ms, T0 + i * 1000);
	s->points[key]++;
	if (key == 1) {
		assert_int_equal(p->count, 100 + 20 * i);
		assert_int_equal(p->births, 1000 * i);
		assert_int_equal(p->deaths, 980 * i);
		assert_int_equal(p->bound, 2);
	} else if (key == 2) {
		assert_true(i % 10);
		assert_true(p->count == (i % 2 ? TRACK_UNKNOWN : 50 - i));
	} else {
		assert_int_equal(p->count, 7);
	}
	return 0;
}

static int on_sample(void *arg, unsigned target, int64_t at_ms)
{
	((struct seen *)arg)->samples++;
	return 0;
}

static int on_gone(void *arg, unsigned target)
{
	((struct seen *)arg)->gone++;
	return 0;
}

static void test_round(void **state)
{
	struct seen seen = {0};
	struct record_handler h = {.arg = &seen, .target = on_target, .type = on_type, .judged = on_judged,
		.gauges = on_gauges, .point = on_point, .sample = on_sample, .gone = on_gone};
	struct record_writer *w;
	struct err err = {{0}};
	struct stat st;
	FILE *f;

	write_one();
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	f = fopen(path, "re");
	assert_int_equal(record_read(f, &h, &err), 0);
	fclose(f);
	assert_int_equal(seen.samples, 120);
	assert_int_equal(seen.gauges, 120);
	assert_int_equal(seen.points[1], 120);
	assert_int_equal(seen.points[2], 108);
	assert_int_equal(seen.points[3], 120);
	assert_int_equal(seen.judged, 3);
	assert_int_equal(seen.gone, 1);
	assert_int_equal(record_create(path, &w, &err), -EEXIST); /* not written over */
}

static void test_replay(void **state)
{
	struct replay_settings s = as_recorded;
	FILE *f = fopen(path, "re");
	struct err err = {{0}};
	struct replay r;

	assert_int_equal(replay_run(f, &s, &r, &err), 0);
	assert_int_equal(r.n_events, 2);
	assert_string_equal(track_type_name(r.events[1].type), "app.Session");
	assert_int_equal(r.events[0].kind, TRACK_WATCH);
	assert_int_equal(r.events[1].kind, TRACK_LEAK);
	assert_in_range(r.events[1].at_ms, T0 + 90000, T0 + 100000);
	assert_int_equal(r.targets[0].samples, 120);
	assert_int_equal(r.targets[0].gauge_min[TRACK_THREADS], 0);
	assert_int_equal(r.targets[0].gauge_max[TRACK_THREADS], 11);
	assert_int_equal(r.targets[0].gauge_min[TRACK_FILES], 7);
	replay_release(&r);

	/* With other settings: sooner, or not at all. */
	rewind(f);
	s.window_ms = 20000;
	assert_int_equal(replay_run(f, &s, &r, &err), 0);
	assert_in_range(r.events[1].at_ms, T0 + 30000, T0 + 34000);
	replay_release(&r);
	rewind(f);
	s.min_objects = 100000;
	assert_int_equal(replay_run(f, &s, &r, &err), 0);
	assert_int_equal(r.n_events, 0);
	replay_release(&r);
	fclose(f);
}

static int replay_text(const char *text, struct replay *r, struct err *err)
{
	FILE *f = fmemopen((void *)text, strlen(text), "r");
	int rc = replay_run(f, &as_recorded, r, err);

	fclose(f);
	return rc;
}

static void test_no_recordings(void **state)
{
	static const struct {
		const char *text, *why;
	} cases[] = {
		{"\n", "no recording of this version"},
		{"pyleak-recording 2\n", "line 1: no recording of this version"},
		{"pyleak-recording 1", "line 1: the line is not whole"},
		{"pyleak-recording 1\nC 1 2 3\n", "line 2: C needs four numbers"},
		{"pyleak-recording 1\nC 1 2 3 -4\n", "line 2: C needs four numbers"},
		{"pyleak-recording 1\nT 2 1 1 x\n", "line 2: targets are numbered"},
		{"pyleak-recording 1\nT 1 1 1 %2\n", "line 2: T needs"},
		{"pyleak-recording 1\nT 1 1 1 %00\n", "line 2: T needs"},
		{"pyleak-recording 1\nN 1 1 x\n", "line 2: no such target"},
		{"pyleak-recording 1\nT 1 1 1 s\nN 1 0 x\n", "line 3: this type is there already"},
		{"pyleak-recording 1\nT 1 1 1 s\nN 1 5 x\nN 1 5 x\n", "line 4: this type is there already"},
		{"pyleak-recording 1\nT 1 1 1 s\nJ 1 5\n", "line 3: no such type"},
		{"pyleak-recording 1\nT 1 1 1 s\np 5 1 1 1 1\nS 1 5\n", "line 4: a point of no such type"},
		{"pyleak-recording 1\nT 1 1 1 s\nE 1\nS 1 5\n", "line 4: no such target"},
		{"pyleak-recording 1\nG 1 1 1 1\n", "line 2: no such target"},
		{"pyleak-recording 1\nT 1 1 1 s\nG 1 2 1 1\n", "line 3: G needs a target"},
		{"pyleak-recording 1\nT 1 1 1 s\nG 1 1 1\n", "line 3: G needs the numbers"},
		{"pyleak-recording 1\nT 1 1 1 s\nG 1 1 -1 1\n", "line 3: G needs the numbers"},
		{"pyleak-recording 1\nT 1 1 1 s\nG 1 1 1 18446744073709551615\n", "line 3: G needs the numbers"},
		{"pyleak-recording 1\nq\n", "line 2: it begins with none of"},
		{"pyleak-recording 1\nT 1 99999999999 1 s\n", "line 2: T needs"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err err = {{0}};
		struct replay r;

		assert_int_equal(replay_text(cases[i].text, &r, &err), -EBADMSG);
		if (!strstr(err.msg, cases[i].why))
			fail_msg("%s: not about: %s", err.msg, cases[i].why);
	}
}

/* Cut off in the middle: what was before is there. And numbers that overflow. */
static void test_hostile(void **state)
{
	struct err err = {{0}};
	struct replay r;

	assert_int_equal(replay_text("pyleak-recording 1\nC 1 0 1 1\nT 1 1 -9223372036854775808 s\nN 1 5 x\nJ 1 5\n"
				     "p 5 9223372036854775807 -1 9223372036854775807 -5\n"
				     "G 1 1 9223372036854775807 -\nS 1 5\n"
				     "p 5 9223372036854775807 -1 9223372036854775807 1\n"
				     "S 1 9223372036854775807\nS 1 -9223372036854775808\nS 1 7\nS 1",
				 &r, &err),
		0);
	assert_true(r.cut);
	assert_int_equal(r.targets[0].samples, 4);
	replay_release(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round),
		cmocka_unit_test(test_replay),
		cmocka_unit_test(test_no_recordings),
		cmocka_unit_test(test_hostile),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
