/* SPDX-License-Identifier: MIT */
/*
 * The census in steps, against the truth at its very instant (census_truth.c), in interpreters that
 * do all they can to pull the rings from under it: every type's truth must lie in its interval,
 * always. So must it in what the conservation law makes of that interval (daemon/track/law.h), which
 * is what the daemon tells. Needs root.
 *
 * CENSUS_ROUNDS: censuses a build and kind of work; default 2. CENSUS_PAUSE_US: budget.pause; default 500,
 * half of the daemon's: twice as many steps to go wrong in. Interpreters as in test_probe.c.
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
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "daemon/probe/probe.h"
#include "daemon/python/layout.h"
#include "daemon/python/mem.h"
#include "daemon/track/law.h"
#include "daemon/util/u64map.h"
#include "daemon/util/units.h"

#define TYPES   4096 /* as in census_truth.c */
#define RECORDS 128
#define LAWS    TYPES

struct record {
	uint64_t begin_ns, end_ns;
	uint64_t objects, types;
	struct {
		uint64_t type, live;
	} v[TYPES];
};

struct records {
	uint64_t done;
	struct record r[RECORDS];
};

/* The source of the truth is built where the test runs. */
asm(".pushsection .rodata\n"
    ".global truth_source, truth_source_end\n"
    "truth_source: .incbin \"tests/unit/census_truth.c\"\n"
    "truth_source_end: .byte 0\n"
    ".popsection\n");
extern const char truth_source[], truth_source_end[];

static const char script[] =
	"import sys, gc, os, time, ctypes, threading, random, mmap, collections\n"
	"lib, shared, mode, n = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])\n"
	"class Marker: pass\n"
	"class Node:\n"
	"    __slots__ = ('a',)\n"
	"    def __init__(s, a=None): s.a = a\n"
	"class Item:\n"
	"    def __init__(s, x): s.x = x; s.y = []\n"
	"class MyList(list): pass\n"
	"class Temp:\n"
	"    __slots__ = ('a', 'b')\n"
	"class Cycle:\n"
	"    def __init__(s): s.me = [s]\n"
	"class Batch:\n"
	"    __slots__ = ('a',)\n"
	"rnd = random.Random(1); rr = rnd.randrange\n"
	"def mk(i):\n"
	"    k = i % 6\n"
	"    if k == 0: return Node()\n"
	"    if k == 1: return [i, i]\n"
	"    if k == 2: return Item(i)\n"
	"    if k == 3: return {'k': []}\n"
	"    if k == 4: return MyList([i, (i, [])])\n"
	"    return [[i]]\n"
	"gc.disable()\n"
	"heap = []; made = 0\n"
	"while made < n: heap.append(mk(made)); made += 1\n"
	"gc.enable()\n"
	"for _ in range(n // 2): i = rr(n); heap[i] = mk(i)\n"
	"if mode == 'frozen': gc.freeze()\n"
	"if mode == 'nogc': gc.disable()\n"
	"if mode != 'nogc': gc.collect(); gc.collect()\n"
	"print(id(Marker), flush=True)\n"
	"heads = (ctypes.c_void_p * 4)(*[int(x) for x in sys.stdin.readline().split()])\n"
	"with open(shared, 'r+b') as f: m = mmap.mmap(f.fileno(), 0)\n"
	"f = ctypes.PyDLL(lib).truth_then_birth\n"
	"f.restype = ctypes.py_object\n"
	"f.argtypes = [ctypes.c_void_p] * 4\n"
	"alloc = ctypes.cast(ctypes.pythonapi.PyType_GenericAlloc, ctypes.c_void_p)\n"
	"kind = id(Marker); records = ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
	"def churn(main):\n"
	"    tmp = []; tick = 0; batch = []; grown = 0; extra = None\n"
	"    due = collected = time.monotonic()\n"
	"    while True:\n"
	"        tick += 1; now = time.monotonic()\n"
	"        if main and now > due:\n"
	"            f(alloc, kind, heads, records); due = time.monotonic() + 0.01\n"
	"        if mode in ('frozen', 'quiet') and tick % 8: Temp(); continue\n"
	"        for _ in range(10):\n"
	"            t = Temp(); t.a = [t.__class__]; t.b = {'t': t.a}; tmp.append(t)\n"
	"        if len(tmp) > 500: del tmp[:250]\n"
	"        if tick % 2:\n"
	"            i = rr(len(heap)); heap[i] = mk(i)\n"
	"        if tick % 10 == 0 and mode != 'nogc': Cycle()\n" /* who would free them */
	"        if main and tick % 50 == 0 and grown < n: heap.append(Node()); grown += 1\n"
	"        if mode == 'batch' and tick % 100 == 0:\n" /* the same addresses in the same order */
	"            while batch: batch.pop()\n"
	"            batch = [Batch() for _ in range(3000)]\n"
	"        if mode == 'bulk' and tick % 200 == 0:\n"
	"            k = rr(max(1, len(heap) - 5000)); heap[k:k + 5000] = [None] * 5000\n"
	"            for i in range(k, k + 5000): heap[i] = mk(i)\n"
	"        if mode == 'fork' and tick % 500 == 0:\n"
	"            pid = os.fork()\n"
	"            if not pid:\n"
	"                for _ in range(2000): Temp(); mk(2)\n"
	"                os._exit(0)\n"
	"            os.waitpid(pid, 0)\n"
	"        if mode == 'arenas' and tick % 700 == 0:\n" /* old ones that go all at once */
	"            if extra is None:\n"
	"                gc.disable(); extra = [Node() for _ in range(n // 2)]\n"
	"                gc.enable(); gc.collect(1)\n"
	"            else: extra = None\n"
	"        if mode == 'freezing' and tick % 900 == 0:\n"
	"            if tick // 900 % 3 != 1: gc.freeze()\n"
	"            if tick // 900 % 3 != 0: gc.unfreeze()\n" /* or both between two steps */
	"        if mode == 'young' and now - collected > 0.005: collected = now; gc.collect(1)\n"
	"        if mode == 'full' and now - collected > 0.2: collected = now; gc.collect()\n"
	"        if mode == 'nogc' and len(heap) > 3 * n: del heap[2 * n:]\n"
	"if mode == 'threads':\n"
	"    sys.setswitchinterval(0.0005)\n"
	"    for _ in range(4): threading.Thread(target=churn, args=(False,), "
	"daemon=True).start()\n"
	"churn(True)\n";

static const char *const modes[] = {"quiet", "churn", "batch", "bulk", "young", "full", "frozen",
	"freezing", "threads", "fork", "arenas", "nogc"};

struct target {
	pid_t pid;
	FILE *to, *from;
	char shared[64];
	struct records *records;
	struct python *py;
	struct probe_target *t;
	uint64_t marker;
	int answers;
	bool estimated; /* the census before */
	struct census_result result;
	struct census_type types[TYPES];
	struct law laws[LAWS]; /* as the daemon keeps them, by 1 + index in the map */
	size_t n_laws;
	struct u64map law_of; /* incarnation of a type -> */
	uint64_t subtype_dealloc, listed[2];
};

static struct probe *probe;
static char *pythons[32];
static size_t n_pythons;
static char folder[] = "/tmp/pyleak-census-XXXXXX", library[64];
static unsigned rounds;
static uint64_t pause_ns;

static void on_census(struct probe_target *t, const struct census_result *r, void *userdata)
{
	struct target *x = userdata;

	assert_true(r->n_types <= ARRAY_SIZE(x->types));
	x->answers++;
	x->result = *r;
	if (r->n_types)
		memcpy(x->types, r->types, r->n_types * sizeof(*r->types));
}

static struct target *start(const char *python, const char *mode, unsigned objects)
{
	struct target *x = calloc(1, sizeof(*x));
	struct probe_target_options o = {.userdata = x, .on_census = on_census};
	struct python_rings rings;
	struct err err = {""};
	char line[64], n[16];
	int in[2], out[2], fd;

	assert_non_null(x);
	snprintf(x->shared, sizeof(x->shared), "%s/records", folder);
	fd = open(x->shared, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, sizeof(*x->records)), 0);
	x->records = mmap(NULL, sizeof(*x->records), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(x->records != MAP_FAILED);
	close(fd);
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	snprintf(n, sizeof(n), "%u", objects);
	x->pid = fork();
	assert_true(x->pid >= 0);
	if (x->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(in[0], 0);
		dup2(out[1], 1);
		execl(python, python, "-B", "-c", script, library, x->shared, mode, n,
			(char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	x->to = fdopen(in[1], "w");
	x->from = fdopen(out[0], "r");
	assert_non_null(fgets(line, sizeof(line), x->from));
	x->marker = strtoull(line, NULL, 10);
	assert_true(x->marker);
	if (python_open(x->pid, &x->py, &err))
		fail_msg("python_open: %s", err.msg);
	if (probe_attach(probe, x->py, &o, &x->t, &err))
		fail_msg("probe_attach: %s", err.msg);
	assert_int_equal(python_find_rings(x->py, &rings, &err), 0);
	assert_true(rings.pending);
	/* That of the class Marker. */
	assert_int_equal(mem_read_u64(x->pid, x->marker + OFF_TP_DEALLOC, &x->subtype_dealloc), 0);
	assert_int_equal(python_symbol(x->py, "PyList_Type", &x->listed[0], NULL), 0);
	assert_int_equal(python_symbol(x->py, "PyDict_Type", &x->listed[1], NULL), 0);
	fprintf(x->to, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", rings.head[0],
		rings.head[1], rings.head[2], rings.head[3]);
	fflush(x->to);
	return x;
}

static void end(struct target *x)
{
	kill(x->pid, SIGKILL);
	waitpid(x->pid, NULL, 0);
	probe_target_free(x->t);
	python_free(x->py);
	fclose(x->to);
	fclose(x->from);
	munmap(x->records, sizeof(*x->records));
	u64map_release(&x->law_of);
	unlink(x->shared);
	free(x);
}

/* As daemon/watch does it: see types_close() there. */
static struct law *law_of(struct target *x, const struct census_type *c)
{
	uint64_t *i = u64map_get(&x->law_of, c->incarnation), flags = 0, dealloc = 0;
	struct law *l;

	if (i)
		return &x->laws[*i - 1];
	assert_true(x->n_laws < LAWS);
	l = &x->laws[x->n_laws++];
	assert_int_equal(u64map_put(&x->law_of, c->incarnation, x->n_laws), 0);
	if (c->type == x->listed[0] || c->type == x->listed[1]) {
		l->closed = true;
		l->slack = 80;
	} else if (!mem_read_u64(x->pid, c->type + OFF_TP_FLAGS, &flags) &&
		   !mem_read_u64(x->pid, c->type + OFF_TP_DEALLOC, &dealloc)) {
		l->closed = flags & TPFLAGS_HEAPTYPE && flags & TPFLAGS_HAVE_GC &&
			    dealloc == x->subtype_dealloc;
	}
	return l;
}

/* As daemon/watch does it: see too_wide() there. */
static bool too_wide(struct target *x)
{
	uint64_t width = 0;

	for (size_t i = 0; i < x->result.n_types; i++) {
		const struct census_type *c = &x->types[i];

		width += MIN(c->live_max - c->live_min, law_width(law_of(x, c)));
	}
	return x->result.way == CENSUS_STEPWISE &&
	       (x->result.estimate ? !x->estimated
				   : (double)width > CENSUS_WIDE * (double)x->result.objects);
}

/* Puts what the law leaves of the intervals in their place. */
static void narrow(struct target *x)
{
	x->result.width = 0;
	for (size_t i = 0; i < x->result.n_types; i++) {
		struct census_type *c = &x->types[i];
		uint64_t doubt = x->result.estimate ? MAX(c->live_max / 50, UINT64_C(64)) : 0;
		struct law *l = law_of(x, c);

		law_census(l, c->live_min > doubt ? c->live_min - doubt : 0, c->live_max + doubt,
			c->births, c->deaths);
		law_census_range(l, &c->live_min, &c->live_max);
		x->result.width += c->live_max - c->live_min;
	}
}

static void wait_census(struct target *x, int answers)
{
	struct pollfd p = {.fd = probe_fd(probe), .events = POLLIN};

	for (int i = 0; x->answers < answers && i < 600; i++) {
		poll(&p, 1, 100);
		assert_int_equal(probe_dispatch(probe), 0);
	}
	assert_int_equal(x->answers, answers);
}

/* What the target counted at the hit that closed the census. */
static const struct record *truth(const struct target *x)
{
	for (int i = 0; i < 5000; i++) {
		uint64_t done = __atomic_load_n(&x->records->done, __ATOMIC_SEQ_CST);

		for (uint64_t k = done > RECORDS - 2 ? done - (RECORDS - 2) : 0; k < done; k++) {
			const struct record *r = &x->records->r[k % RECORDS];

			if (r->begin_ns <= x->result.at_ns && x->result.at_ns <= r->end_ns)
				return r;
		}
		usleep(1000);
	}
	fail_msg("no marker was born at the instant of the census");
	return NULL;
}

/* How many types' truth is not in their interval. */
static unsigned compare(const struct target *x, const struct record *r, const char *what)
{
	_cleanup_(u64map_release) struct u64map map = {0};
	unsigned wrong = 0;

	for (size_t i = 0; i < r->types; i++)
		assert_int_equal(u64map_put(&map, r->v[i].type, r->v[i].live), 0);
	for (size_t i = 0; i < x->result.n_types; i++) {
		const struct census_type *c = &x->types[i];
		uint64_t *live = u64map_get(&map, c->type), n = live ? *live : 0;

		/* A type that died and another at its address have an entry each. */
		if (live)
			*live = 0;
		if (n >= c->live_min && n <= c->live_max)
			continue;
		if (!live && !c->live_min)
			continue;
		print_message("  %s: type %#" PRIx64 ": %" PRIu64 " alive, census %" PRIu64
			      " to %" PRIu64 "\n",
			what, c->type, n, c->live_min, c->live_max);
		wrong++;
	}
	for (size_t i = 0; i < r->types; i++) {
		uint64_t *live = u64map_get(&map, r->v[i].type);
		bool told = false;

		for (size_t k = 0; *live && k < x->result.n_types && !told; k++)
			told = x->types[k].type == r->v[i].type;
		if (*live && !told) {
			print_message("  %s: type %#" PRIx64 ": %" PRIu64 " alive, not told\n",
				what, r->v[i].type, *live);
			wrong++;
		}
	}
	return wrong;
}

struct sums {
	unsigned done, given_up, estimates, wide, one_shot, tries, discarded;
	unsigned restarts[CENSUS_REASONS];
	uint64_t steps;
	double widest;
};

static void print_sums(const char *what, const struct sums *s)
{
	print_message("  %s: %u, of them %u one-shot, %u estimates, %u wider than 1 %% (widest "
		      "%.2f %%); %.0f steps each; %u given up, %u discarded\n",
		what, s->done, s->one_shot, s->estimates, s->wide, 100 * s->widest,
		s->done ? (double)s->steps / s->done : 0, s->given_up, s->discarded);
	for (unsigned i = 0; i < CENSUS_REASONS; i++)
		if (s->restarts[i])
			print_message(
				"    began anew %u x: %s\n", s->restarts[i], census_reason(i));
}

static unsigned censuses(const char *python, const char *mode, struct sums *all)
{
	struct target *x = start(python, mode, 40000);
	struct sums s = {0};
	unsigned wrong = 0;
	char what[128];

	probe_census_close_at(x->t, x->marker);
	/* What cannot be had (full collections come too often) ends after three tries each. */
	for (int i = 1; s.done < rounds && s.given_up < 3 * rounds; i++) {
		const struct record *r;
		double width;

		assert_int_equal(probe_census_arm(x->t, pause_ns), 0);
		wait_census(x, i);
		for (unsigned k = 0; k < CENSUS_REASONS; k++)
			s.restarts[k] += x->result.restarts[k];
		if (x->result.status == CENSUS_RESTARTS) {
			s.given_up++;
			continue;
		}
		/* A cursor was mistaken for another, which shows: the two passes contradict each other.
		 * The daemon tries again. In the young ring that may be, else it hardly ever is. */
		if (x->result.status == CENSUS_FAULT && x->result.fault == -ESTALE) {
			s.given_up += !strcmp(mode, "nogc");
			s.discarded += strcmp(mode, "nogc") != 0;
			continue;
		}
		snprintf(what, sizeof(what), "%s, %s, census %d", python, mode, i);
		if (x->result.status != CENSUS_OK)
			fail_msg("%s: status %d, %s, after %u steps", what, (int)x->result.status,
				strerror(-x->result.fault), x->result.steps);
		r = truth(x);
		/* An estimate says that it may be wrong. */
		if (!x->result.estimate)
			wrong += compare(x, r, what);
		else
			assert_true(x->result.objects > r->objects / 2);
		if (s.tries + 1 < CENSUS_TRIES && too_wide(x)) {
			s.tries++;
			s.restarts[CENSUS_TOO_WIDE]++;
			continue;
		}
		s.tries = 0;
		x->estimated = x->result.estimate;
		narrow(x);
		width = (double)x->result.width / (double)r->objects;
		s.done++;
		s.steps += x->result.steps;
		s.estimates += x->result.estimate;
		s.one_shot += x->result.way == CENSUS_ONE_SHOT;
		s.wide += width > CENSUS_WIDE;
		s.widest = MAX(s.widest, width);
		snprintf(what, sizeof(what), "%s, %s, census %d, by the law", python, mode, i);
		if (!x->result.estimate)
			wrong += compare(x, r, what);
	}
	snprintf(what, sizeof(what), "  %s", mode);
	print_sums(what, &s);
	all->done += s.done;
	all->one_shot += s.one_shot;
	all->estimates += s.estimates;
	all->given_up += s.given_up;
	all->discarded += s.discarded;
	all->wide += s.wide;
	all->steps += s.steps;
	all->widest = MAX(all->widest, s.widest);
	for (unsigned k = 0; k < CENSUS_REASONS; k++)
		all->restarts[k] += s.restarts[k];
	if (!strcmp(mode, "churn") || !strcmp(mode, "quiet"))
		assert_int_equal(s.done, rounds);
	end(x);
	return wrong;
}

/* Of the other Pythons, where there is no time for all: tests/matrix/census.py has it. */
static bool in_short(const char *mode)
{
	static const char *const some[] = {"churn", "bulk", "young", "fork"};

	for (size_t i = 0; i < ARRAY_SIZE(some); i++)
		if (!strcmp(mode, some[i]))
			return true;
	return false;
}

static void test_truth(void **state)
{
	bool long_form = getenv("CENSUS_ROUNDS");
	const char *only = getenv("CENSUS_MODE");
	unsigned wrong = 0;

	for (size_t i = 0; i < n_pythons; i++) {
		struct sums s = {0};

		print_message("%s\n", pythons[i]);
		for (size_t k = 0; k < ARRAY_SIZE(modes); k++)
			if (only ? !strcmp(only, modes[k]) : i == 0 || long_form || in_short(modes[k]))
				wrong += censuses(pythons[i], modes[k], &s);
		print_sums("all", &s);
		assert_true(s.done > 0);
		assert_true(s.discarded <= 1 + s.done / 100);
	}
	assert_int_equal(wrong, 0);
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

	if (getenv("CENSUS_PYTHON")) {
		add_python(getenv("CENSUS_PYTHON"));
		return;
	}
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

static void build_truth(void)
{
	char source[64], command[256];
	size_t n = (size_t)(truth_source_end - truth_source);
	FILE *f;

	assert_non_null(mkdtemp(folder));
	snprintf(source, sizeof(source), "%s/truth.c", folder);
	snprintf(library, sizeof(library), "%s/truth.so", folder);
	f = fopen(source, "we");
	assert_non_null(f);
	assert_int_equal(fwrite(truth_source, 1, n, f), n);
	fclose(f);
	snprintf(command, sizeof(command), "cc -O2 -shared -fPIC -o %s %s", library, source);
	assert_int_equal(system(command), 0);
	unlink(source);
}

static int setup(void **state)
{
	struct err err = {""};
	int r;

	pause_ns = getenv("CENSUS_PAUSE_US") ? strtoull(getenv("CENSUS_PAUSE_US"), NULL, 10) * 1000 : 500000;
	rounds = getenv("CENSUS_ROUNDS") ? (unsigned)atoi(getenv("CENSUS_ROUNDS")) : 2;
	find_pythons();
	build_truth();
	r = probe_open(NULL, &probe, &err);
	if (r) {
		print_error("%s\n", err.msg);
		return -1;
	}
	return 0;
}

static int teardown(void **state)
{
	probe_free(probe);
	while (n_pythons)
		free(pythons[--n_pythons]);
	unlink(library);
	return rmdir(folder);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_truth),
	};
	const char *why = geteuid()                          ? "needs root"
			  : access("/usr/bin/python3", X_OK) ? "needs /usr/bin/python3"
							     : NULL;
	const char *ci = getenv("CI");

	signal(SIGPIPE, SIG_IGN);
	if (why) {
		printf("skipped: test_census %s\n", why);
		return ci && !strcmp(ci, "true");
	}
	return cmocka_run_group_tests(tests, setup, teardown);
}
