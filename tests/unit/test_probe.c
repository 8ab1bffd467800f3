/* SPDX-License-Identifier: MIT */
/*
 * The kernel side on real interpreters, which tell the truth about themselves: what the programs
 * count and what the census finds must equal gc.get_objects(), not be near it. Needs root.
 *
 * Interpreters: /usr/bin/python3, those of pyenv, and the paths in PYLEAK_TEST_PYTHONS (by colons).
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "daemon/probe/probe.h"
#include "daemon/util/u64map.h"
#include "daemon/util/units.h"

static const char script[] =
	"import sys, gc, os, time, collections, threading\n"
	"class User:\n"
	"    def __init__(s, n): s.n = n; s.tags = [n]; s.m = {'a': [n]}\n"
	"class Plain:\n"
	"    __slots__ = ('x',)\n"
	"    def __init__(s, x=1): s.x = x\n"
	"class Slots:\n"
	"    __slots__ = ('x', 'y', '__dict__', '__weakref__')\n"
	"    def __init__(s): s.x = []; s.y = ()\n"
	"class Sub(User): pass\n"
	"class MyList(list): pass\n"
	"class MyDict(dict): pass\n"
	"class MySet(set): pass\n"
	"class MyInt(int): pass\n"
	"class Err(Exception): pass\n"
	"class Cycle:\n"
	"    def __init__(s): s.me = s\n"
	"class Lazarus:\n"
	"    kept = []\n"
	"    def __del__(s):\n"
	"        if len(Lazarus.kept) < 50: Lazarus.kept.append(s)\n"
	"TYPES = [User, Plain, Slots, Sub, MyList, MyDict, MySet, MyInt, Err, Cycle, Lazarus,\n"
	"         list, dict, set]\n"
	"keep = []; r = 0; classes = []\n"
	"def work():\n"
	"    global r\n"
	"    r += 1\n"
	"    for i in range(30):\n"
	"        User(i); Plain(); Slots(); Sub(i); MyList([i]); MyDict(a=[i]); MySet([i]); "
	"MyInt(i)\n"
	"        Cycle(); Lazarus(); [[i]]; {i: [i]}; {1, i}; dict(a=[i])\n"
	"    try: raise Err('x')\n"
	"    except Err: pass\n"
	"    live = [User(i) for i in range(100)]; nest = None\n"
	"    for i in range(200): nest = [nest]\n"
	"    keep.append((User(r), MyList([r]), [r], {'k': [r]}, {r, r + 1}, MyInt(r), Plain(), "
	"dict(a=[r])))\n"
	"    if r % 3 == 0: keep.append((Slots(), Cycle(), Sub(r), MyDict(a=[r]), MySet([r])))\n"
	"    if r % 7 == 0: del keep[:len(keep) // 50]\n"
	"def make(n, stay):\n"
	"    for i in range(n):\n"
	"        c = type('C%d' % i, (object,), {'__slots__': ('a',)})\n"
	"        x = [c() for _ in range(i % 5)]\n"
	"        if stay: classes.append((c, x))\n"
	"def tell(types):\n"
	"    gc.collect(); gc.collect()\n"
	"    c = collections.Counter(map(type, gc.get_objects()))\n"
	"    return [(t, c[t]) for t in types]\n"
	"tell(TYPES); print('up', flush=True)\n" /* the first time fills caches with sets */
	"for line in sys.stdin:\n"
	"    w = line.split(); out = []\n"
	"    if w[0] == 'work':\n"
	"        for _ in range(int(w[1])): work()\n"
	"    elif w[0] in ('quiet', 'on'):\n" /* births and deaths, and no full collection */
	"        if w[0] == 'quiet': gc.collect()\n"
	"        for _ in range(int(w[1])):\n"
	"            [MySet() for _ in range(100)]; time.sleep(0.01)\n"
	"    elif w[0] == 'tell': out = tell(TYPES)\n"
	"    elif w[0] == 'busy':\n"
	"        end = time.time() + float(w[1])\n"
	"        while time.time() < end: work()\n"
	"    elif w[0] == 'plain':\n"
	"        keep.append([Plain() for _ in range(int(w[1]))])\n"
	"    elif w[0] == 'classes': make(int(w[1]), False); gc.collect()\n"
	"    elif w[0] == 'stay':\n"
	"        make(int(w[1]), True)\n"
	"        gc.collect(); out = [(c, len(x)) for c, x in classes]\n"
	"    elif w[0] == 'freeze': gc.freeze()\n"
	"    elif w[0] == 'threads':\n"
	"        t = [threading.Thread(target=lambda: [work() for _ in range(int(w[1]))])\n"
	"             for _ in range(4)]\n"
	"        for x in t: x.start()\n"
	"        for x in t: x.join()\n"
	"        del t, x\n"
	"    elif w[0] == 'fork':\n"
	"        pid = os.fork()\n"
	"        if not pid:\n"
	"            for _ in range(50): work()\n"
	"            os._exit(0)\n"
	"        os.waitpid(pid, 0)\n"
	"    for t, n in out: print(t.__name__, id(t), n)\n"
	"    del out\n"
	"    print('.', flush=True)\n";

/* ---- targets ---- */

struct target {
	int limits;
	pid_t pid;
	FILE *to, *from;
	struct python *py;
	struct probe_target *t;
	/* last census */
	int answers;
	struct census_result result;
	struct census_type types[8192];
};

struct truth {
	char name[32];
	uint64_t type;
	int64_t n;
};

static struct probe *probe;
static char *pythons[32];
static size_t n_pythons;

static void on_census(struct probe_target *t, const struct census_result *r, void *userdata)
{
	struct target *x = userdata;

	assert_true(r->n_types <= ARRAY_SIZE(x->types));
	x->answers++;
	x->result = *r;
	if (r->n_types)
		memcpy(x->types, r->types, r->n_types * sizeof(*r->types));
}

static void on_limit(struct probe_target *t, void *userdata)
{
	struct target *x = userdata;

	x->limits++;
}

/* With pid_namespace it is process 1 of a new one. */
static struct target *start_in(const char *python, bool pid_namespace)
{
	struct target *x = calloc(1, sizeof(*x));
	char line[64];
	int in[2], out[2];

	assert_non_null(x);
	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	if (pid_namespace)
		assert_int_equal(unshare(CLONE_NEWPID), 0);
	x->pid = fork();
	assert_true(x->pid >= 0);
	if (x->pid && pid_namespace) {
		int own = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);

		assert_int_equal(setns(own, CLONE_NEWPID), 0);
		close(own);
	}
	if (x->pid == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		for (int fd = 3; fd < 64; fd++)
			close(fd);
		/* The sanitizers' preloads are ours, not the interpreter's. */
		execl(python, python, "-c", script, (char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	x->to = fdopen(in[1], "w");
	x->from = fdopen(out[0], "r");
	assert_non_null(fgets(line, sizeof(line), x->from));
	return x;
}

static struct target *start(const char *python)
{
	return start_in(python, false);
}

static void attach(struct target *x)
{
	struct probe_target_options o = {
		.userdata = x, .on_census = on_census, .on_limit = on_limit};
	struct err err = {""};

	if (python_open(x->pid, &x->py, &err))
		fail_msg("python_open: %s", err.msg);
	if (probe_attach(probe, x->py, &o, &x->t, &err))
		fail_msg("probe_attach: %s", err.msg);
}

static void end(struct target *x)
{
	probe_target_free(x->t);
	python_free(x->py);
	fclose(x->to);
	fclose(x->from);
	waitpid(x->pid, NULL, 0);
	free(x);
}

static void say(struct target *x, const char *command)
{
	fprintf(x->to, "%s\n", command);
	fflush(x->to);
}

static size_t hear(struct target *x, struct truth *ret, size_t max)
{
	char line[256];
	size_t n = 0;

	while (fgets(line, sizeof(line), x->from) && line[0] != '.') {
		assert_true(n < max);
		assert_int_equal(sscanf(line, "%31s %" SCNu64 " %" SCNd64, ret[n].name,
					 &ret[n].type, &ret[n].n),
			3);
		n++;
	}
	return n;
}

static size_t ask(struct target *x, const char *command, struct truth *ret, size_t max)
{
	say(x, command);
	return hear(x, ret, max);
}

static const struct probe_count *find(const struct probe_count *c, size_t n, uint64_t type)
{
	const struct probe_count *found = NULL;

	for (size_t i = 0; i < n; i++) {
		if (c[i].type != type || c[i].gone)
			continue;
		assert_null(found); /* one living type at an address */
		found = &c[i];
	}
	return found;
}

static const struct census_type *find_census(const struct target *x, uint64_t type)
{
	for (size_t i = 0; i < x->result.n_types; i++)
		if (x->types[i].type == type)
			return &x->types[i];
	return NULL;
}

/* births - deaths of each type asked for. */
static void levels(struct target *x, const struct truth *t, size_t n, int64_t *ret)
{
	_cleanup_free_ struct probe_count *c = NULL;
	struct probe_totals totals;
	size_t n_c;

	assert_int_equal(probe_target_read(x->t, &c, &n_c, &totals), 0);
	assert_int_equal(totals.dropped, 0);
	assert_true(totals.hits > 0);
	for (size_t i = 0; i < n; i++) {
		const struct probe_count *k = find(c, n_c, t[i].type);

		ret[i] = k ? (int64_t)(k->births - k->deaths) : 0;
	}
}

static void wait_census(struct target *x, int answers)
{
	struct pollfd p = {.fd = probe_fd(probe), .events = POLLIN};

	for (int i = 0; x->answers < answers && i < 50; i++) {
		poll(&p, 1, 200);
		assert_int_equal(probe_dispatch(probe), 0);
	}
	assert_int_equal(x->answers, answers);
}

/* The same while the target makes and drops a little, for as long as that takes. */
static void quiet_census(struct target *x, int answers)
{
	ask(x, "quiet 50", NULL, 0);
	for (int i = 0; i < 50; i++) {
		assert_int_equal(probe_dispatch(probe), 0);
		if (x->answers == answers)
			return;
		ask(x, "on 50", NULL, 0);
	}
	wait_census(x, answers);
}

/* ---- tests ---- */

static void each(void (*test)(const char *python))
{
	for (size_t i = 0; i < n_pythons; i++)
		test(pythons[i]);
}

static int wrong; /* counts of types that differed */

static void counts(const char *python)
{
	struct target *x = start(python);
	struct truth a[32], b[32];
	int64_t at_a[32], at_b[32];
	char text[512];
	size_t n;

	ask(x, "work 5", NULL, 0);
	ask(x, "threads 1", NULL, 0);
	attach(x);
	print_message("%s\n", python_describe(x->py, text, sizeof(text)));
	print_message("  %s\n", probe_target_describe(x->t, text, sizeof(text)));
	ask(x, "work 5", NULL, 0);
	n = ask(x, "tell", a, ARRAY_SIZE(a));
	assert_true(n >= 14);
	levels(x, a, n, at_a);
	ask(x, "work 200", NULL, 0);
	ask(x, "threads 25", NULL, 0);
	assert_int_equal(ask(x, "tell", b, ARRAY_SIZE(b)), n);
	levels(x, b, n, at_b);
	for (size_t i = 0; i < n; i++) {
		int64_t want = b[i].n - a[i].n, have = at_b[i] - at_a[i];

		if (want != have)
			print_message("  %s: gc.get_objects() %" PRId64 " %+" PRId64
				      ", births - deaths %+" PRId64 "\n",
				b[i].name, a[i].n, want, have);
		wrong += want != have;
	}
	assert_true(at_b[0] - at_a[0] > 100);
	end(x);
}

static void test_counts(void **state)
{
	wrong = 0;
	each(counts);
	assert_int_equal(wrong, 0);
}

/* What the census finds, and what the counters were at that instant. */
static void census(const char *python)
{
	static const char *const quiet[] = {"User", "Plain", "Slots", "Sub", "MyList", "MyDict",
		"MySet", "MyInt", "Err", "Cycle", "Lazarus", "set"};
	struct target *x = start(python);
	struct truth a[32];
	struct census_type plain = {0};
	uint64_t pause_max = 0, objects = 0;
	size_t n;

	ask(x, "work 50", NULL, 0);
	attach(x);
	for (int round = 1; round <= 5; round++) {
		ask(x, "work 20", NULL, 0);
		ask(x, "tell", a, ARRAY_SIZE(a)); /* collects what is in cycles */
		assert_int_equal(probe_census_arm(x->t, 1000000000), 0);
		assert_int_equal(probe_census_arm(x->t, 1000000000), -EBUSY);
		n = ask(x, "tell", a, ARRAY_SIZE(a));
		wait_census(x, round);
		assert_int_equal(x->result.status, CENSUS_OK);
		for (size_t i = 0; i < n; i++)
			for (size_t k = 0; k < ARRAY_SIZE(quiet); k++) {
				const struct census_type *c = find_census(x, a[i].type);

				if (strcmp(a[i].name, quiet[k]))
					continue;
				if ((c ? (int64_t)c->live : 0) != a[i].n)
					fail_msg("%s: %s: census %" PRIu64 ", truth %" PRId64,
						python, a[i].name, c ? c->live : 0, a[i].n);
			}
	}
	/* Under churn: the law. Plain has no moment in which it lives and is not tracked. */
	say(x, "busy 1");
	for (int round = 6; round <= 40; round++) {
		const struct census_type *c;

		assert_int_equal(probe_census_arm(x->t, 1000000000), 0);
		wait_census(x, round);
		assert_int_equal(x->result.status, CENSUS_OK);
		pause_max = MAX(pause_max, x->result.pause_ns);
		objects = x->result.objects;
		c = find_census(x, a[1].type);
		assert_non_null(c);
		if (plain.type && (int64_t)(c->live - plain.live) !=
					  (int64_t)(c->births - c->deaths) -
						  (int64_t)(plain.births - plain.deaths))
			fail_msg("%s: live %" PRIu64 " to %" PRIu64 ", births %" PRIu64
				 " to %" PRIu64 ", deaths %" PRIu64 " to %" PRIu64,
				python, plain.live, c->live, plain.births, c->births, plain.deaths,
				c->deaths);
		plain = *c;
		usleep(10000);
	}
	hear(x, NULL, 0);
	assert_true(plain.births > 1000);
	print_message("  %s: %" PRIu64 " objects, longest pause %.2f ms\n", python, objects,
		(double)pause_max / 1e6);
	end(x);
}

static void test_census(void **state)
{
	each(census);
}

static void print_census(const struct target *x)
{
	const struct census_result *r = &x->result;

	print_message("  %s, %" PRIu64 " objects: %u steps, longest %.2f ms, closing %.2f ms, all "
		      "%.1f ms in %.0f ms; width %" PRIu64 "\n",
		census_way_name(r->way), r->objects, r->steps, (double)r->pause_ns / 1e6,
		(double)r->close_ns / 1e6, (double)r->cost_ns / 1e6, (double)r->wall_ns / 1e6,
		r->width);
	for (unsigned i = 0; i < CENSUS_REASONS; i++)
		if (r->restarts[i])
			print_message("    began anew %u x: %s\n", r->restarts[i], census_reason(i));
}

/* The same heap in many steps and in one. */
static void census_stepwise(const char *python)
{
	struct target *x = start(python);
	struct truth a[32];

	ask(x, "plain 400000", NULL, 0);
	attach(x);
	ask(x, "tell", a, ARRAY_SIZE(a));
	for (int round = 1; round <= 3; round++) {
		const struct census_type *c;

		assert_int_equal(probe_census_arm(x->t, 1000000), 0);
		quiet_census(x, round);
		print_census(x);
		assert_int_equal(x->result.status, CENSUS_OK);
		assert_int_equal(x->result.way, CENSUS_STEPWISE);
		assert_true(x->result.steps > 4);
		assert_false(x->result.estimate);
		c = find_census(x, a[1].type);
		assert_int_equal(c->live_min, a[1].n);
		assert_int_equal(c->live_max, a[1].n);
	}
	/* And that leaves nothing behind that the next one would add up. */
	assert_int_equal(probe_census_arm(x->t, 10000000000), 0);
	ask(x, "quiet 1", NULL, 0);
	wait_census(x, 4);
	print_census(x);
	assert_int_equal(x->result.status, CENSUS_OK);
	assert_int_equal(x->result.way, CENSUS_ONE_SHOT);
	assert_int_equal(x->result.width, 0);
	assert_int_equal(find_census(x, a[1].type)->live, a[1].n);
	/* What is frozen is in a ring of its own. */
	ask(x, "freeze", NULL, 0);
	assert_int_equal(probe_census_arm(x->t, 1000000), 0);
	quiet_census(x, 5);
	print_census(x);
	assert_int_equal(x->result.status, CENSUS_OK);
	assert_int_equal(find_census(x, a[1].type)->live_min, a[1].n);
	assert_int_equal(find_census(x, a[1].type)->live_max, a[1].n);
	/* Taken back: never answered. */
	assert_int_equal(probe_census_arm(x->t, 10000000000), 0);
	probe_census_cancel(x->t);
	ask(x, "work 1", NULL, 0);
	assert_int_equal(probe_dispatch(probe), 0);
	assert_int_equal(x->answers, 5);
	end(x);
}

static void test_census_stepwise(void **state)
{
	each(census_stepwise);
}

static void census_outside(const char *python)
{
	struct target *x = start(python);
	_cleanup_free_ struct probe_count *c = NULL;
	struct truth a[32];
	size_t n, n_c;

	ask(x, "work 50", NULL, 0);
	n = ask(x, "tell", a, ARRAY_SIZE(a));
	attach(x);
	assert_int_equal(probe_census_outside(x->t, 10, 3), -E2BIG);
	assert_int_equal(probe_census_outside(x->t, 10000000, 3), 0);
	assert_int_equal(x->answers, 1);
	assert_int_equal(x->result.way, CENSUS_OUTSIDE);
	assert_int_equal(probe_target_read(x->t, &c, &n_c, NULL), 0);
	for (size_t i = 0; i < n; i++) {
		const struct census_type *k = find_census(x, a[i].type);

		/* list and dict: what tell() itself held */
		if (!strcmp(a[i].name, "list") || !strcmp(a[i].name, "dict"))
			continue;
		if ((k ? (int64_t)k->live : 0) != a[i].n)
			fail_msg("%s: %s: census %" PRIu64 ", truth %" PRId64, python, a[i].name,
				k ? k->live : 0, a[i].n);
		if (k)
			assert_int_equal(find(c, n_c, a[i].type)->incarnation, k->incarnation);
	}
	end(x);
}

static void test_census_outside(void **state)
{
	each(census_outside);
}

/* Classes that come and go, at the same addresses. */
static void classes(const char *python)
{
	_cleanup_(u64map_release) struct u64map dead = {0}; /* address -> last incarnation there */
	struct target *x = start(python);
	static struct truth stay[4096];
	uint64_t gone = 0, reused = 0;
	size_t n, n_c;

	attach(x);
	ask(x, "stay 100", stay, ARRAY_SIZE(stay));
	for (int round = 0; round < 8; round++) {
		_cleanup_free_ struct probe_count *c = NULL;
		struct probe_totals totals;

		ask(x, "classes 500", NULL, 0);
		n = ask(x, "stay 100", stay, ARRAY_SIZE(stay));
		assert_int_equal(probe_target_read(x->t, &c, &n_c, &totals), 0);
		assert_int_equal(totals.dropped, 0);
		for (size_t i = 0; i < n_c; i++) {
			if (!c[i].gone)
				continue;
			gone++;
			if (c[i].births != c[i].deaths)
				fail_msg("%s: a class died with %" PRIu64 " births, %" PRIu64
					 " deaths of its objects",
					python, c[i].births, c[i].deaths);
			assert_int_equal(u64map_put(&dead, c[i].type, c[i].incarnation), 0);
		}
		for (size_t i = 0; i < n; i++) {
			const struct probe_count *k = find(c, n_c, stay[i].type);
			const uint64_t *before = u64map_get(&dead, stay[i].type);

			assert_int_equal(k ? (int64_t)(k->births - k->deaths) : 0, stay[i].n);
			if (k && k->deaths)
				fail_msg("%s: deaths of another class counted", python);
			if (k && before && i >= n - 100) {
				assert_true(k->incarnation > *before);
				reused++;
			}
		}
	}
	print_message("  %s: %" PRIu64 " classes died, %" PRIu64 " came to a dead one's address\n",
		python, gone, reused);
	/* One in five has no instance and so no counters. */
	assert_true(gone >= 8 * 500 * 4 / 5);
	assert_true(reused > 0);
	end(x);
}

static void test_classes(void **state)
{
	each(classes);
}

static void test_two_targets(void **state)
{
	struct target *x = start(pythons[0]), *y = start(pythons[0]);
	struct truth a[32], b[32];
	int64_t at_a[32], at_b[32], later[32];
	size_t n;

	attach(x);
	attach(y);
	ask(x, "work 7", NULL, 0);
	ask(y, "work 3", NULL, 0);
	n = ask(x, "tell", a, ARRAY_SIZE(a));
	ask(y, "tell", b, ARRAY_SIZE(b));
	levels(x, a, n, at_a);
	levels(y, b, n, at_b);
	for (size_t i = 0; i < 11; i++) { /* user classes: none existed at attach */
		assert_int_equal(at_a[i], a[i].n);
		assert_int_equal(at_b[i], b[i].n);
	}
	assert_int_not_equal(at_a[0], at_b[0]);
	/* A child inherits the breakpoints and must not be counted. */
	ask(x, "fork", NULL, 0);
	levels(x, a, n, later);
	for (size_t i = 0; i < 11; i++)
		assert_int_equal(at_a[i], later[i]);
	/* The slot of one that ended is used again, clean. */
	end(x);
	x = start(pythons[0]);
	attach(x);
	ask(x, "work 2", NULL, 0);
	n = ask(x, "tell", a, ARRAY_SIZE(a));
	levels(x, a, n, at_a);
	for (size_t i = 0; i < 11; i++)
		assert_int_equal(at_a[i], a[i].n);
	end(x);
	end(y);
}

/* A container, seen from outside: its pid in there is 1. */
static void test_pid_namespace(void **state)
{
	struct target *x = start_in(pythons[0], true);
	struct truth a[32];
	int64_t at_a[32];
	size_t n;

	attach(x);
	ask(x, "work 3", NULL, 0);
	n = ask(x, "tell", a, ARRAY_SIZE(a));
	levels(x, a, n, at_a);
	for (size_t i = 0; i < 11; i++)
		assert_int_equal(at_a[i], a[i].n);
	end(x);
}

/* Far more classes than a table begins with, which grows between two reads; nothing is lost of those
 * that were counted before. */
static void test_growing(void **state)
{
	struct target *x = start(pythons[0]);
	struct truth *a = calloc(8192, sizeof(*a));
	int64_t *have = calloc(8192, sizeof(*have));
	size_t n = 0, some = 0;

	assert_true(a && have);
	attach(x);
	for (int round = 0; round < 2; round++) {
		n = ask(x, "stay 2000", a, 8192);
		levels(x, a, n, have);
		for (size_t i = 0; i < n; i++) {
			assert_int_equal(have[i], a[i].n);
			some += have[i] > 0;
		}
	}
	assert_int_equal(n, 4000);
	assert_true(some > 4000);
	free(have);
	free(a);
	end(x);
}

static uint64_t hits(const struct target *x, int group)
{
	uint64_t h[PROBE_GROUPS];

	probe_target_hits(x->t, h);
	return h[group];
}

static const struct probe_count *count_of(
	struct target *x, const struct truth *a, size_t n, const char *name, struct probe_count **c)
{
	size_t n_c;

	free(*c);
	assert_int_equal(probe_target_read(x->t, c, &n_c, NULL), 0);
	for (size_t i = 0; i < n; i++)
		if (!strcmp(a[i].name, name))
			return find(*c, n_c, a[i].type);
	return NULL;
}

/* What is attached changes while the target works; what is not attached is not counted. */
static void scopes(const char *python)
{
	struct target *x = start(python);
	_cleanup_free_ struct probe_count *c = NULL;
	struct probe_totals totals;
	const struct probe_count *k;
	size_t n_c;
	struct truth a[32];
	uint64_t births, deaths, at[PROBE_GROUPS], spent;
	struct err err = {""};
	struct pollfd p;
	size_t n;

	attach(x);
	assert_int_equal(probe_target_scope(x->t), PROBE_EVERYTHING);
	n = ask(x, "tell", a, ARRAY_SIZE(a));
	ask(x, "work 10", NULL, 0);
	k = count_of(x, a, n, "Plain", &c);
	assert_true(k->births >= 300 && k->deaths >= 250);
	births = k->births;
	deaths = k->deaths;
	for (int i = 0; i < PROBE_GROUPS; i++)
		assert_true(hits(x, i) > 300);

	/* Births of instances only. Letting go is done in the background. */
	assert_int_equal(probe_target_set_scope(x->t, PROBE_INSTANCES, &err), 0);
	usleep(200000);
	probe_target_hits(x->t, at);
	ask(x, "work 10", NULL, 0);
	k = count_of(x, a, n, "Plain", &c);
	assert_true(k->births >= births + 300);
	assert_int_equal(k->deaths, deaths);
	assert_true(hits(x, 0) > at[0] + 300);
	assert_int_equal(hits(x, 1), at[1]);
	assert_int_equal(hits(x, 2), at[2]);

	assert_int_equal(probe_target_set_scope(x->t, PROBE_NOTHING, &err), 0);
	usleep(200000);
	spent = probe_target_spent_ns(x->t);
	births = count_of(x, a, n, "Plain", &c)->births;
	ask(x, "work 10", NULL, 0);
	assert_int_equal(count_of(x, a, n, "Plain", &c)->births, births);
	assert_int_equal(probe_target_spent_ns(x->t), spent);
	assert_int_equal(probe_census_arm(x->t, 1000000), -ENOTCONN);

	/* And everything again, as if nothing had been. */
	assert_int_equal(probe_target_set_scope(x->t, PROBE_EVERYTHING, &err), 0);
	n = ask(x, "tell", a, ARRAY_SIZE(a));
	k = count_of(x, a, n, "Plain", &c);
	births = k->births;
	deaths = k->deaths;
	ask(x, "work 10", NULL, 0);
	k = count_of(x, a, n, "Plain", &c);
	assert_int_equal(k->births - births, 310);
	assert_true(k->deaths > deaths);

	/* The limit is told once. */
	probe_target_hits(x->t, at);
	probe_target_set_limit(x->t, at[0] + at[1] + at[2] + 500);
	p = (struct pollfd){.fd = probe_fd(probe), .events = POLLIN};
	for (int i = 0; i < 3; i++) {
		ask(x, "work 10", NULL, 0);
		poll(&p, 1, 500);
		assert_int_equal(probe_dispatch(probe), 0);
		assert_int_equal(x->limits, 1);
	}
	/* And when dead classes have left no room for its event. */
	for (int i = 0; i < 8; i++)
		ask(x, "classes 2000", NULL, 0);
	probe_target_hits(x->t, at);
	probe_target_set_limit(x->t, at[0] + at[1] + at[2] + 500);
	ask(x, "work 10", NULL, 0);
	assert_int_equal(poll(&p, 1, 500), 1);
	assert_int_equal(probe_dispatch(probe), 0);
	assert_int_equal(x->limits, 2);
	free(c);
	assert_int_equal(probe_target_read(x->t, &c, &n_c, &totals), 0);
	assert_true(totals.dropped > 0 && totals.gap); /* it was full */
	end(x);
}

/* To let go of a target waits for nothing, least of all for perf uprobes, of which the kernel takes out one
 * after the other. It is attached to again at once, as after an exec, and its hits count once. */
static void test_again(void **state)
{
	struct probe_options perf = {.perf = true};
	struct target *x = start(pythons[0]);
	_cleanup_free_ struct probe_count *c = NULL;
	struct probe *first = probe;
	struct err err = {""};
	struct truth a[32];
	uint64_t began;
	size_t n;

	assert_int_equal(probe_open(&perf, &probe, &err), 0);
	attach(x);
	n = ask(x, "tell", a, ARRAY_SIZE(a));
	began = now_monotonic_ns();
	probe_target_free(x->t);
	print_message("  let go of in %.1f ms\n", (double)(now_monotonic_ns() - began) / 1e6);
	assert_true(now_monotonic_ns() - began < 100000000);
	x->t = NULL;
	assert_int_equal(probe_attach(probe, x->py, NULL, &x->t, &err), 0);
	ask(x, "work 10", NULL, 0);
	assert_int_equal(count_of(x, a, n, "Plain", &c)->births, 310);
	end(x);
	probe_free(probe);
	probe = first;
}

static void test_scopes(void **state)
{
	each(scopes);
}

static void test_dead_target(void **state)
{
	struct target *x = start(pythons[0]);
	_cleanup_free_ struct probe_count *c = NULL;
	struct python *py;
	struct err err = {""};
	size_t n;

	attach(x);
	ask(x, "work 1", NULL, 0);
	kill(x->pid, SIGKILL);
	waitpid(x->pid, NULL, 0);
	assert_int_equal(probe_target_read(x->t, &c, &n, NULL), 0);
	assert_true(n > 0);
	assert_int_not_equal(probe_census_outside(x->t, 1000000, 3), 0);
	/* Nobody can be attached to what is not there any more. */
	py = x->py;
	probe_target_free(x->t);
	x->t = NULL;
	assert_int_equal(probe_attach(probe, py, NULL, &x->t, &err), -ESRCH);
	assert_true(err.msg[0]);
	end(x);
}

/* Tables that are too small lose data, say so, and break nothing. */
static void test_limits(void **state)
{
	struct probe_options small = {.max_targets = 1, .max_types = 8};
	struct probe *first = probe;
	struct target *x = start(pythons[0]), *y = start(pythons[0]);
	_cleanup_free_ struct probe_count *c = NULL;
	struct probe_totals totals;
	struct err err = {""};
	size_t n;

	assert_int_equal(probe_open(&small, &probe, &err), 0);
	attach(x);
	assert_int_equal(python_open(y->pid, &y->py, &err), 0);
	assert_int_equal(probe_attach(probe, y->py, NULL, &y->t, &err), -EUSERS);
	assert_non_null(strstr(err.msg, "at most 1"));
	y->t = NULL;
	ask(x, "work 20", NULL, 0);
	assert_int_equal(probe_target_read(x->t, &c, &n, &totals), 0);
	assert_true(n > 0 && n <= small.max_types);
	assert_true(totals.dropped > 100 && totals.dropped < totals.hits);
	assert_true(totals.run_ns >= totals.hits * 50);
	assert_true(totals.gap);
	freep(&c);
	assert_int_equal(probe_target_read(x->t, &c, &n, &totals), 0);
	assert_true(totals.dropped > 100 && !totals.gap); /* nothing more was lost since */
	assert_int_equal(probe_census_arm(x->t, 1000000000), 0);
	ask(x, "work 1", NULL, 0);
	wait_census(x, 1);
	assert_int_equal(x->result.status, CENSUS_FAULT);
	end(x);
	end(y);
	probe_free(probe);
	probe = first;
}

/* ---- */

static void add_python(const char *path)
{
	if (n_pythons < ARRAY_SIZE(pythons) && access(path, X_OK) == 0)
		pythons[n_pythons++] = strdup(path);
}

static void find_pythons(void)
{
	const char *home = getenv("HOME"), *more = getenv("PYLEAK_TEST_PYTHONS");
	char pattern[512], *list, *s;
	glob_t g;

	add_python("/usr/bin/python3");
	snprintf(pattern, sizeof(pattern), "%s/.pyenv/versions/3.*/bin/python3", home ? home : "");
	if (glob(pattern, 0, NULL, &g) == 0) {
		for (size_t i = 0; i < g.gl_pathc; i++) {
			const char *minor = strstr(g.gl_pathv[i], "/versions/3.");

			if (minor && atoi(minor + strlen("/versions/3.")) >= 8)
				add_python(g.gl_pathv[i]);
		}
		globfree(&g);
	}
	list = more ? strdup(more) : NULL;
	for (char *p = list ? strtok_r(list, ":", &s) : NULL; p; p = strtok_r(NULL, ":", &s))
		add_python(p);
	free(list);
}

static int setup(void **state)
{
	struct err err = {""};
	int r;

	find_pythons();
	r = probe_open(NULL, &probe, &err);
	if (r) {
		print_error("%s\n", err.msg);
		return -1;
	}
	print_message("a hit costs %" PRIu64 " ns, single-stepped %" PRIu64 " ns\n",
		probe_cost_ns(probe, false), probe_cost_ns(probe, true));
	return 0;
}

static int teardown(void **state)
{
	probe_free(probe);
	while (n_pythons)
		free(pythons[--n_pythons]);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_counts),
		cmocka_unit_test(test_census),
		cmocka_unit_test(test_census_stepwise),
		cmocka_unit_test(test_census_outside),
		cmocka_unit_test(test_classes),
		cmocka_unit_test(test_two_targets),
		cmocka_unit_test(test_pid_namespace),
		cmocka_unit_test(test_growing),
		cmocka_unit_test(test_scopes),
		cmocka_unit_test(test_again),
		cmocka_unit_test(test_dead_target),
		cmocka_unit_test(test_limits),
	};
	const char *why = geteuid()                          ? "needs root"
			  : access("/usr/bin/python3", X_OK) ? "needs /usr/bin/python3"
							     : NULL;
	const char *ci = getenv("CI");

	signal(SIGPIPE, SIG_IGN);
	if (why) {
		printf("skipped: test_probe %s\n", why);
		return ci && !strcmp(ci, "true");
	}
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, setup, teardown);
}
