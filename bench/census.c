/* SPDX-License-Identifier: MIT */
/*
 * What a census costs its target, as a page of Markdown (docs/census.md is its output): heaps of
 * several sizes, fresh and scrambled by random replacement; a census in one hit and one in steps
 * against gc.collect() of the same heap, taken in turn; the target's own view of the steps, gaps in
 * a loop that does nothing but look at the clock and make objects, against the same loop without a
 * census; and objgraph.growth(), if the interpreter has objgraph.
 *
 * build/bench/census [-p PYTHON] [OBJECTS]...    as root; default: /usr/bin/python3, 10 thousand to
 * 10 million objects, of which the last needs 2 GB
 */
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "daemon/probe/probe.h"
#include "daemon/util/units.h"

#define ROUNDS   3
#define PAUSE_NS 1000000
#define GAPS_MAX 65536

static const char script[] =
	"import sys, gc, time, random, signal\n"
	"n, scrambled = int(sys.argv[1]), sys.argv[2] == 'scrambled'\n"
	"class Node:\n"
	"    __slots__ = ('a',)\n"
	"class Item:\n"
	"    def __init__(s): s.y = []\n"
	"class Temp: pass\n"
	"def mk(i):\n"
	"    k = i & 3\n"
	"    if k == 0: return Node()\n"
	"    if k == 1: return [i]\n"
	"    if k == 2: return Item()\n"
	"    return {'k': []}\n"
	"def halt(*a): global stop; stop = True\n"
	"signal.signal(signal.SIGUSR1, halt); stop = False\n"
	"gc.disable(); heap = []; made = i = 0\n"
	"while made < n: heap.append(mk(i)); made += 1 + (i & 3 > 1) + (i & 3 == 2); i += 1\n"
	"if scrambled:\n"
	"    r = random.Random(1).randrange\n"
	"    for i in range(len(heap)): k = r(len(heap)); heap[k] = mk(k)\n"
	"gc.collect(); gc.enable(); clock = time.perf_counter_ns\n"
	"print(len(gc.get_objects()), flush=True)\n"
	"for line in sys.stdin:\n"
	"    w = line.split()\n"
	"    if w[0] == 'collect':\n"
	"        t = clock(); gc.collect(); print(clock() - t, flush=True)\n"
	"    elif w[0] == 'growth':\n"
	"        try: import objgraph\n"
	"        except ImportError: print(0, flush=True); continue\n"
	"        objgraph.growth(); t = clock(); objgraph.growth(); print(clock() - t, "
	"flush=True)\n"
	"    elif w[0] == 'gaps':\n"
	"        cpu = time.thread_time_ns; gaps = []\n"
	"        last, was = clock(), cpu()\n"
	"        while not stop:\n"
	"            Temp(); now, spent = clock(), cpu()\n"
	"            if spent - was > 100000: gaps.append((last, spent - was))\n"
	"            last, was = now, spent\n"
	"        stop = False; print(len(gaps), *[x for g in gaps for x in g], flush=True)\n";

struct target {
	pid_t pid;
	FILE *to, *from;
	struct python *py;
	struct probe_target *t;
	bool answered;
	struct census_result result;
};

struct gaps {
	size_t n;
	struct {
		uint64_t at, ns;
	} v[GAPS_MAX];
};

static struct probe *probe;
static struct gaps with, without;

static void die(const char *what, const char *why)
{
	fprintf(stderr, "bench/census: %s: %s\n", what, why);
	exit(1);
}

static void on_census(struct probe_target *t, const struct census_result *r, void *userdata)
{
	struct target *x = userdata;

	x->answered = true;
	x->result = *r;
}

static uint64_t hear(struct target *x)
{
	uint64_t v;

	if (fscanf(x->from, "%" SCNu64, &v) != 1)
		die("target", "it ended");
	return v;
}

static void say(struct target *x, const char *command)
{
	fprintf(x->to, "%s\n", command);
	fflush(x->to);
}

static void hear_gaps(struct target *x, struct gaps *g)
{
	size_t n = hear(x);

	if (n > GAPS_MAX)
		die("target", "more gaps than fit");
	g->n = n;
	for (size_t i = 0; i < n; i++) {
		g->v[i].at = hear(x);
		g->v[i].ns = hear(x);
	}
}

static void start(struct target *x, const char *python, const char *objects, const char *kind)
{
	struct probe_target_options o = {.userdata = x, .on_census = on_census};
	struct err err = {""};
	int in[2], out[2];

	*x = (struct target){0};
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		die("pipe", strerror(errno));
	x->pid = fork();
	if (x->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(in[0], 0);
		dup2(out[1], 1);
		execl(python, python, "-c", script, objects, kind, (char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	x->to = fdopen(in[1], "w");
	x->from = fdopen(out[0], "r");
	hear(x);
	if (python_open(x->pid, &x->py, &err) || probe_attach(probe, x->py, &o, &x->t, &err))
		die(python, err.msg);
}

static void end(struct target *x)
{
	kill(x->pid, SIGKILL);
	waitpid(x->pid, NULL, 0);
	probe_target_free(x->t);
	python_free(x->py);
	fclose(x->to);
	fclose(x->from);
}

/* While the target runs its loop, of which the gaps are kept. */
static void census(struct target *x, uint64_t budget_ns)
{
	struct pollfd p = {.fd = probe_fd(probe), .events = POLLIN};

	x->answered = false;
	if (probe_census_arm(x->t, budget_ns))
		die("census", "cannot be armed");
	say(x, "gaps");
	for (int i = 0; i < 1800 && !x->answered; i++) {
		poll(&p, 1, 100);
		probe_dispatch(probe);
	}
	kill(x->pid, SIGUSR1);
	hear_gaps(x, &with);
	if (!x->answered)
		die("census", "none within three minutes");
	if (x->result.status != CENSUS_OK)
		die("census", "given up");
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double middle(double *v, size_t n)
{
	qsort(v, n, sizeof(*v), compare_doubles);
	return v[n / 2];
}

static int by_length(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b; /* at, ns */

	return x[1] > y[1] ? -1 : x[1] < y[1];
}

/* The longest n gaps are the steps: the one that stands at share q from the short end. */
static double step_ms(const struct gaps *g, size_t n, double q)
{
	size_t i = (size_t)((1 - q) * (double)n);

	return i < g->n ? (double)g->v[i].ns / 1e6 : 0.1;
}

static void row(const char *python, const char *objects, const char *kind)
{
	double collect[ROUNDS], once[ROUNDS], steps[ROUNDS], ratio_once[ROUNDS],
		ratio_steps[ROUNDS];
	double growth, close_ns = 0;
	struct target x;
	size_t n;

	start(&x, python, objects, kind);
	for (int i = 0; i < ROUNDS; i++) {
		say(&x, "collect");
		collect[i] = (double)hear(&x);
		census(&x, 60000000000);
		once[i] = (double)x.result.pause_ns;
		census(&x, PAUSE_NS);
		steps[i] = (double)x.result.cost_ns;
		ratio_once[i] = once[i] / collect[i];
		ratio_steps[i] = steps[i] / collect[i];
	}
	/* The last one, seen from inside; and the same loop without one. */
	n = x.result.steps;
	for (size_t i = 0; i < with.n; i++)
		if (with.v[i].at <= x.result.at_ns) /* in the order of time */
			close_ns = (double)with.v[i].ns;
	qsort(with.v, with.n, sizeof(with.v[0]), by_length);
	say(&x, "gaps");
	usleep((useconds_t)(x.result.wall_ns / 1000 + 100000));
	kill(x.pid, SIGUSR1);
	hear_gaps(&x, &without);
	qsort(without.v, without.n, sizeof(without.v[0]), by_length);
	say(&x, "growth");
	growth = (double)hear(&x);
	printf("| %" PRIu64
	       " | %s | %.1f | %.1f | **%.2f** | %.1f | **%.2f** | %zu | %.2f | %.2f | "
	       "%.2f | %.2f | %.2f, %.2f | ",
		x.result.objects, kind, middle(collect, ROUNDS) / 1e6, middle(once, ROUNDS) / 1e6,
		middle(ratio_once, ROUNDS), middle(steps, ROUNDS) / 1e6,
		middle(ratio_steps, ROUNDS), n, step_ms(&with, n, 0.5), step_ms(&with, n, 0.99),
		step_ms(&with, n, 1), close_ns / 1e6, step_ms(&without, n, 0.99),
		step_ms(&without, n, 1));
	if (growth > 0)
		printf("%.1f |\n", growth / 1e6);
	else
		printf("- |\n");
	fflush(stdout);
	end(&x);
}

int main(int argc, char **argv)
{
	static const char *const sizes[] = {"10000", "100000", "1000000", "10000000"};
	const char *python = "/usr/bin/python3";
	struct err err = {""};
	struct utsname host;
	int opt;

	while ((opt = getopt(argc, argv, "p:")) != -1) {
		if (opt != 'p')
			return 2;
		python = optarg;
	}
	if (probe_open(NULL, &probe, &err))
		die("probe_open", err.msg);
	uname(&host);
	printf("# What a census costs\n\n"
	       "The output of `build/bench/census` (bench/census.c), as root, with %s on Linux %s, "
	       "%ld processors. Times in ms, the middle one of %d. A census in one hit (a budget "
	       "without end) and one in steps (`budget.pause: 1ms`, forward and back) are held "
	       "against `gc.collect()` of the same heap, in turn. The steps are as the target sees "
	       "them: gaps in a loop that does nothing but look at its thread's own clock (the "
	       "machine has other things to do as well); in the column before the last the gaps of "
	       "the same loop without a census.\n\n",
		python, host.release, sysconf(_SC_NPROCESSORS_ONLN), ROUNDS);
	printf("| objects | heap | gc.collect() | one hit | of gc.collect() | steps, sum | of "
	       "gc.collect() | steps | p50 | p99 | max | closing | without: p99, max | "
	       "objgraph.growth() "
	       "|\n|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
	       "---:|\n");
	for (size_t i = 0; i < (optind < argc ? (size_t)(argc - optind) : ARRAY_SIZE(sizes)); i++) {
		const char *objects = optind < argc ? argv[(size_t)optind + i] : sizes[i];

		row(python, objects, "fresh");
		row(python, objects, "scrambled");
	}
	probe_free(probe);
	return 0;
}
