/* SPDX-License-Identifier: MIT */
/*
 * What being watched costs, as a page of Markdown (docs/probe.md is its output):
 *
 *   - a hit of each of our programs, paired against a hit of a program that does nothing, on the
 *     same instruction. Two copies of one function, one with our program, one with the empty one,
 *     are called in turn in short bursts, and change roles halfway: a loaded machine slows both;
 *   - the sites found in each interpreter, and which instruction each breakpoint stands on;
 *   - how long it takes to attach to a target, and to let go of 1, 10 and 50 at a time.
 *
 * build/bench/probe [PYTHON|ROOT:PYTHON]...    as root; ROOT is a folder to chroot into; without
 * arguments the system's Python and pyenv's
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <link.h>
#include <signal.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "daemon/probe/probe_private.h"
#include "daemon/util/units.h"

#define ROUNDS      400 /* half of them with roles changed */
#define CALLS       250
#define PYTHONS_MAX 64
#define TARGETS_MAX 50

/* Debian 12's kernel headers are older than the libbpf it has in backports. */
#define UPROBE_MULTI ((enum bpf_attach_type)48) /* BPF_TRACE_UPROBE_MULTI, linux/bpf.h of 6.6 */

/* Twins, because the instruction is the point. */
#define TWIN(name, insns)                                                                          \
	void name(const void *argument);                                                           \
	asm(".pushsection .text\n.p2align 6\n.type " #name ", @function\n" #name ":\n" insns       \
	    "ret\n.size " #name ", . - " #name "\n.popsection\n")

TWIN(bench_push_a, "push %rbp\npop %rbp\n");
TWIN(bench_push_b, "push %rbp\npop %rbp\n");
TWIN(bench_mov_a, "mov %rdi, %rax\n");
TWIN(bench_mov_b, "mov %rdi, %rax\n");

typedef void (*function)(const void *);

static void die(const char *what, const char *why)
{
	fprintf(stderr, "bench/probe: %s: %s\n", what, why);
	exit(1);
}

static uintptr_t wanted;

static int visit(struct dl_phdr_info *info, size_t n, void *userdata)
{
	unsigned long *ret = userdata;

	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *h = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + h->p_vaddr;

		if (h->p_type == PT_LOAD && wanted >= start && wanted - start < h->p_filesz)
			*ret = wanted - start + h->p_offset;
	}
	return 1;
}

static unsigned long offset_of(function f)
{
	unsigned long offset = 0;

	wanted = (uintptr_t)f;
	dl_iterate_phdr(visit, &offset);
	return offset;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

struct spread {
	double median, low, high; /* and quartiles */
};

static struct spread spread_of(double *v, size_t n)
{
	qsort(v, n, sizeof(*v), compare);
	return (struct spread){v[n / 2], v[n / 4], v[n * 3 / 4]};
}

/* ---- a hit ---- */

static int empty_program(bool sleepable)
{
	const struct bpf_insn insns[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
		{.code = BPF_JMP | BPF_EXIT},
	};
	LIBBPF_OPTS(bpf_prog_load_opts, o, .expected_attach_type = UPROBE_MULTI,
		.prog_flags = sleepable ? BPF_F_SLEEPABLE : 0);
	int fd = bpf_prog_load(BPF_PROG_TYPE_KPROBE, "empty", "GPL", insns, ARRAY_SIZE(insns), &o);

	if (fd < 0)
		die("loading an empty program", strerror(errno));
	return fd;
}

static int attach_empty(int prog, unsigned long offset)
{
	LIBBPF_OPTS(bpf_link_create_opts, o, .uprobe_multi.path = "/proc/self/exe",
		.uprobe_multi.offsets = &offset, .uprobe_multi.cnt = 1,
		.uprobe_multi.pid = (__u32)getpid());
	int fd = bpf_link_create(prog, 0, UPROBE_MULTI, &o);

	if (fd < 0)
		die("attaching an empty program", strerror(errno));
	return fd;
}

static double burst(function f, const void *argument, unsigned calls)
{
	uint64_t start = now_monotonic_ns();

	for (unsigned i = 0; i < calls; i++)
		f(argument);
	return (double)(now_monotonic_ns() - start) / calls;
}

static void pair(struct probe *p, const char *name, struct bpf_program *prog, bool sleepable,
	function a, function b, const void *argument, bool stepped)
{
	uint32_t slot = p->max_targets, tgid;
	double ratio[ROUNDS], ours[ROUNDS], empty[ROUNDS];
	struct spread s, r, e;
	int nothing = empty_program(sleepable), counts;
	unsigned calls = stepped ? CALLS / 5 : CALLS;

	if (slot_identity(p, slot, getpid(), &tgid))
		die("own slot", "cannot read /proc/self");
	counts = slot_counts(p, slot, 16);
	slot_enable(p, slot, tgid);
	for (int half = 0; half < 2; half++) {
		function mine = half ? b : a, other = half ? a : b;
		unsigned long offset = offset_of(mine);
		__u64 cookie = PYLEAK_COOKIE(slot, PYLEAK_RDI, stepped, PYLEAK_GROUP_INSTANCES);
		struct links links = {0};
		int link = attach_empty(nothing, offset_of(other));

		if (links_attach(p, prog, getpid(), "/proc/self/exe", &offset, &cookie, 1, &links))
			die("attaching", strerror(errno));
		burst(mine, argument, calls);
		burst(other, argument, calls);
		for (int i = half * ROUNDS / 2; i < (half + 1) * ROUNDS / 2; i++) {
			if (i & 1)
				empty[i] = burst(other, argument, calls);
			ours[i] = burst(mine, argument, calls);
			if (!(i & 1))
				empty[i] = burst(other, argument, calls);
			ratio[i] = ours[i] / empty[i];
		}
		close(link);
		links_release(&links);
	}
	slot_disable(p, slot);
	slot_clear(p, slot);
	close(counts);
	close(nothing);
	s = spread_of(ratio, ROUNDS);
	r = spread_of(ours, ROUNDS);
	e = spread_of(empty, ROUNDS);
	printf("| %s | %.0f ns | %.0f ns | %.3f | %.3f to %.3f |\n", name, r.median, e.median,
		s.median, s.low, s.high);
	fflush(stdout);
}

static void hits(struct probe *p)
{
	static const uint64_t metatype[32],
		type[32] = {[1] = (uintptr_t)metatype, [OFF_TP_FLAGS / 8] = TPFLAGS_HAVE_GC};
	static const uint64_t object[2] = {1, (uintptr_t)type};
	struct bpf_program *birth = p->bpf->progs.on_birth, *death = p->bpf->progs.on_death;
	double bare[101];

	for (size_t i = 0; i < ARRAY_SIZE(bare); i++)
		bare[i] = burst(bench_push_a, object, 10000);
	printf("## A hit\n\nMedian of %d pairs of %d calls each, and their quartiles; without any "
	       "probe the call takes %.1f ns.\n\n"
	       "| program, instruction | ours | empty | ratio | quartiles |\n"
	       "|---|---|---|---|---|\n",
		ROUNDS, CALLS, spread_of(bare, ARRAY_SIZE(bare)).median);
	pair(p, "birth, on `push` (emulated)", birth, true, bench_push_a, bench_push_b, type,
		false);
	pair(p, "death, on `push` (emulated)", death, true, bench_push_a, bench_push_b, object,
		false);
	pair(p, "birth, against an empty program that may not sleep", birth, false, bench_push_a,
		bench_push_b, type, false);
	pair(p, "birth, on `mov` (single-stepped)", birth, true, bench_mov_a, bench_mov_b, type,
		true);
}

/* ---- interpreters ---- */

struct process {
	pid_t pid;
	int in;
	struct python *py;
	struct probe_target *t;
};

static bool process_start(struct process *x, const char *python)
{
	int in[2], out[2];
	char line[8];

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
		die("pipe", strerror(errno));
	x->pid = fork();
	if (x->pid == 0) {
		const char *colon = strchr(python, ':');
		char root[512];

		if (colon) {
			snprintf(root, sizeof(root), "%.*s", (int)(colon - python), python);
			if (chroot(root) || chdir("/"))
				_exit(126);
			python = colon + 1;
		}
		dup2(in[0], 0);
		dup2(out[1], 1);
		execl(python, python, "-I", "-S", "-c",
			"import sys; print('up', flush=True); sys.stdin.read()", (char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	x->in = in[1];
	if (x->pid < 0 || read(out[0], line, sizeof(line)) < 2) {
		close(out[0]);
		return false;
	}
	close(out[0]);
	return true;
}

static void process_end(struct process *x)
{
	probe_target_free(x->t);
	python_free(x->py);
	closep(&x->in);
	if (x->pid > 0)
		waitpid(x->pid, NULL, 0);
	*x = (struct process){.in = -1};
}

static double attach(struct probe *p, struct process *x, struct err *err)
{
	uint64_t start = now_monotonic_ns();

	if (python_open(x->pid, &x->py, err) || probe_attach(p, x->py, NULL, &x->t, err))
		return -1;
	return (double)(now_monotonic_ns() - start) / 1e6;
}

static unsigned interpreter(struct probe *p, const char *python)
{
	struct process x = {.in = -1};
	struct err err = {""};
	unsigned stepped = 0;
	double ms;

	if (!process_start(&x, python)) {
		printf("| %s | | does not run | |\n", python);
		process_end(&x);
		return 0;
	}
	ms = attach(p, &x, &err);
	if (ms < 0) {
		printf("| %s | | %s | |\n", python, err.msg);
		process_end(&x);
		return 0;
	}
	printf("| %s%s%s | %.0f ms | ", x.py->version,
		x.py->kind == PYTHON_STATIC ? ", static" : ", shared",
		x.py->stripped ? ", stripped" : "", ms);
	for (size_t i = 0; i < probe_target_plan(x.t)->n; i++) {
		const struct plan_site *s = &probe_target_plan(x.t)->v[i];

		stepped += s->place.stepped;
		printf("%s%s+%u `%s`%s", i ? ", " : "", s->function, s->place.delta, s->place.insn,
			s->place.stepped ? " **stepped**" : "");
	}
	printf(" | %u |\n", stepped);
	fflush(stdout);
	process_end(&x);
	return stepped;
}

/* ---- many ---- */

static void many(struct probe *p, const char *python, size_t n)
{
	struct process x[TARGETS_MAX] = {{0}};
	double took[TARGETS_MAX], all;
	size_t sites = 0, links = 0;
	struct err err = {""};
	uint64_t start;
	struct spread s;

	for (size_t i = 0; i < n; i++) {
		x[i].in = -1;
		if (!process_start(&x[i], python))
			die(python, "does not run");
	}
	for (size_t i = 0; i < n; i++) {
		took[i] = attach(p, &x[i], &err);
		if (took[i] < 0)
			die("attaching", err.msg);
		sites += x[i].t->plan.n;
		for (int k = 0; k < PROBE_GROUPS; k++)
			links += x[i].t->links[k].n;
	}
	start = now_monotonic_ns();
	probe_detach_all(p);
	all = (double)(now_monotonic_ns() - start) / 1e6;
	for (size_t i = 0; i < n; i++)
		process_end(&x[i]);
	s = spread_of(took, n);
	printf("| %s | %zu | %zu | %zu | %.0f ms | %.0f ms | %.0f ms |\n", probe_way(p), n, sites,
		links, s.median, took[n - 1], all);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct probe_options o = {.perf = false};
	const char *pythons[PYTHONS_MAX];
	size_t n_pythons = 0;
	struct probe *p = NULL;
	struct err err = {""};
	unsigned stepped = 0;
	struct utsname un;
	char pattern[512];
	glob_t g = {0};

	signal(SIGPIPE, SIG_IGN);
	for (int i = 1; i < argc && n_pythons < PYTHONS_MAX; i++)
		pythons[n_pythons++] = argv[i];
	if (argc == 1) {
		pythons[n_pythons++] = "/usr/bin/python3";
		snprintf(pattern, sizeof(pattern), "%s/.pyenv/versions/3.*/bin/python3",
			getenv("HOME") ? getenv("HOME") : "");
		glob(pattern, 0, NULL, &g);
		for (size_t i = 0; i < g.gl_pathc && n_pythons < PYTHONS_MAX; i++)
			if (atoi(strstr(g.gl_pathv[i], "/versions/3.") + 12) >= 8)
				pythons[n_pythons++] = g.gl_pathv[i];
	}
	if (probe_open(&o, &p, &err))
		die("probes", err.msg);
	uname(&un);
	printf("# What a probe costs\n\nWritten by `build/bench/probe`; Linux %s, %ld CPUs, "
	       "libbpf %s, %s.\n\n",
		un.release, sysconf(_SC_NPROCESSORS_ONLN), libbpf_version_string(), probe_way(p));
	if (!p->perf)
		hits(p);
	printf("\n## Sites\n\nThe kernel emulates `push`, `nop` and relative jumps and calls; "
	       "anything else it steps out of line.\n\n"
	       "| interpreter | attach | sites | stepped |\n|---|---|---|---|\n");
	for (size_t i = 0; i < n_pythons; i++)
		stepped += interpreter(p, pythons[i]);
	printf("\n## Attach and detach\n\nThe time to attach is that of one target, from "
	       "looking at the process to the last probe; to detach, that of all.\n\n"
	       "| probes | targets | sites | links | attach, median | slowest | detach all |\n"
	       "|---|---|---|---|---|---|---|\n");
	many(p, pythons[0], 1);
	many(p, pythons[0], 10);
	many(p, pythons[0], 50);
	probe_free(p);
	o.perf = true;
	if (probe_open(&o, &p, &err) == 0) {
		many(p, pythons[0], 1);
		many(p, pythons[0], 10);
		probe_free(p);
		printf("\nPerf uprobes stand in where the kernel has no uprobe_multi links. It "
		       "lets "
		       "go of them one after the other and waits for each under one lock "
		       "(kernel/trace/trace_event_perf.c, event_mutex); targets lose their "
		       "breakpoints as it goes along.\n");
	}
	globfree(&g);
	return stepped ? 1 : 0;
}
