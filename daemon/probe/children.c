/* SPDX-License-Identifier: MIT */
/*
 * Children that a target forks. fork() copies its pages with the breakpoints in them; the kernel
 * drops the hits of the child by the link's filter but leaves the breakpoints where they are
 * (kernel/trace/bpf_trace.c, uprobe_prog_run()), so the child would pay for every one of them for
 * ever: measured on 6.18, a loop that makes objects at 140 ns each takes 1700 ns in such a child.
 *
 * They are found by looking at new processes: same program as a target, and at a site's address
 * another byte than in the file. Fork is not the only way to be new, and a grandchild whose parent
 * is gone is found just as well.
 *
 * They are freed without touching the target's own links: a second link is put on the same places,
 * for the daemon itself, in which nothing is there to be hit, and taken away at once. When a
 * consumer goes, the kernel walks every process that maps the file and takes the breakpoint out
 * where no other consumer wants it (kernel/events/uprobes.c, register_for_each_vma()). So there
 * is no moment at which a birth or a death is not counted.
 *
 * With perf uprobes all this is not needed: there the first hit in a child removes it
 * (kernel/trace/trace_uprobe.c, uprobe_perf_func()).
 */
#include <linux/kcmp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "daemon/probe/probe_private.h"
#include "daemon/python/mem.h"
#include "daemon/util/units.h"

#define PROCESSES_MAX 65536
/* Share of wall time that the daemon may wait for sweeps, and of one CPU that it may use. */
#define WAIT_SHARE 4
#define CPU_SHARE  100

static int compare(const void *a, const void *b)
{
	pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;

	return x < y ? -1 : x > y;
}

static bool was_there(const struct children *c, pid_t pid)
{
	return c->n && bsearch(&pid, c->known, c->n, sizeof(pid), compare);
}

/* The last pid that was given away: as long as it is the same nobody has forked. 0: not known. */
static unsigned long last_pid(void)
{
	_cleanup_fclose_ FILE *f = NULL;
	char path[64], line[128], *space;

	snprintf(path, sizeof(path), "%s/loadavg", proc_root());
	f = fopen(path, "re");
	if (!f || !fgets(line, sizeof(line), f))
		return 0;
	space = strrchr(line, ' ');
	return space ? strtoul(space + 1, NULL, 10) : 0;
}

static int program_of(pid_t pid, struct file_id *ret)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%d/exe", proc_root(), (int)pid);
	if (stat(path, &st) < 0)
		return -errno;
	*ret = (struct file_id){.dev = st.st_dev, .ino = st.st_ino};
	return 0;
}

int children_identify(struct probe_target *t)
{
	struct stat st;

	if (fstat(t->py->fd, &st) < 0)
		return -errno;
	t->file = (struct file_id){.dev = st.st_dev, .ino = st.st_ino};
	return program_of(t->py->id.pid, &t->program);
}

static bool same_file(const struct file_id *a, const struct file_id *b)
{
	return a->ino == b->ino && a->dev == b->dev;
}

/* Whether a sweep of one is a sweep of the other. */
static bool same_sites(const struct probe_target *a, const struct probe_target *b)
{
	if (!same_file(&a->file, &b->file) || a->plan.n != b->plan.n)
		return false;
	for (size_t i = 0; i < a->plan.n; i++)
		if (a->plan.v[i].offset != b->plan.v[i].offset)
			return false;
	return true;
}

/* Whether a breakpoint of this target stands in that process's memory. */
static bool has_breakpoints(const struct probe_target *t, pid_t pid)
{
	for (size_t i = 0; i < t->plan.n; i++) {
		const struct plan_site *s = &t->plan.v[i];
		uint64_t vaddr = s->vaddr + s->place.delta;
		size_t n = 0;
		const uint8_t *original = elf_image_bytes(t->py->elf, vaddr, 1, &n);
		uint8_t now;

		if (original && n && mem_read_u8(pid, t->py->bias + vaddr, &now) == 0 &&
			now != *original)
			return true;
	}
	return false;
}

/* After vfork(): the target's own memory, for a moment. */
static bool shares_memory(const struct probe_target *t, pid_t pid)
{
	return syscall(SYS_kcmp, t->py->id.pid, pid, KCMP_VM, 0, 0) == 0;
}

static bool is_target(const struct probe *p, pid_t pid)
{
	for (unsigned i = 0; i < p->max_targets; i++)
		if (p->targets[i] && p->targets[i]->py->id.pid == pid)
			return true;
	return false;
}

/* Marks the target whose breakpoints a new process has. False: look at it again next time. */
static bool look_at(struct probe *p, pid_t pid)
{
	struct file_id program;

	if (is_target(p, pid) || program_of(pid, &program))
		return true;
	for (unsigned i = 0; i < p->max_targets; i++) {
		struct probe_target *t = p->targets[i];

		if (!t || !same_file(&program, &t->program) || !has_breakpoints(t, pid))
			continue;
		if (shares_memory(t, pid))
			return false;
		t->children++;
		t->inherited = true;
		return true;
	}
	return true;
}

static void look_at_new(struct probe *p)
{
	struct children *c = &p->children;
	unsigned long last = last_pid();
	_cleanup_free_ pid_t *pids = NULL;
	size_t n, kept = 0;

	if (last && last == c->last_pid && !c->again)
		return;
	if (proc_list(PROCESSES_MAX, &pids, &n))
		return;
	c->last_pid = last;
	c->again = false;
	for (size_t i = 0; i < n; i++) {
		if (was_there(c, pids[i]) || look_at(p, pids[i]))
			pids[kept++] = pids[i];
		else
			c->again = true;
	}
	qsort(pids, kept, sizeof(*pids), compare);
	free(c->known);
	c->known = TAKE_PTR(pids);
	c->n = kept;
}

/* Takes breakpoints that nobody wants out of every process that maps the target's file. */
static int sweep(struct probe_target *t)
{
	unsigned long offsets[PLAN_SITES_MAX];
	__u64 cookies[PLAN_SITES_MAX] = {0};
	struct links l = {0};
	char path[64];
	int r;

	for (size_t i = 0; i < t->plan.n; i++)
		offsets[i] = t->plan.v[i].offset;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", t->py->fd);
	r = links_attach(t->probe, t->probe->bpf->progs.on_birth, getpid(), path, offsets, cookies,
		t->plan.n, &l);
	links_release(&l);
	return r ? r : untracked_sweep(t);
}

static uint64_t own_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

int probe_clean_children(struct probe *p)
{
	struct children *c = &p->children;
	uint64_t start_ns = now_monotonic_ns(), wait_ns = 0, used_ns = 0;
	int r = 0;

	if (p->perf)
		return 0;
	look_at_new(p);
	if (start_ns < c->not_before_ns)
		return 0;
	for (unsigned i = 0; i < p->max_targets && !r; i++) {
		struct probe_target *t = p->targets[i];
		uint64_t at_ns = now_monotonic_ns(), cpu_ns = own_cpu_ns();

		if (!t || !t->inherited)
			continue;
		r = sweep(t);
		for (unsigned k = 0; k < p->max_targets; k++)
			if (p->targets[k] && same_sites(p->targets[k], t))
				p->targets[k]->inherited = false;
		cpu_ns = own_cpu_ns() - cpu_ns;
		t->sweeps++;
		t->sweep_ns += cpu_ns;
		used_ns += cpu_ns;
		wait_ns += now_monotonic_ns() - at_ns;
	}
	c->delay_ns = MAX(wait_ns * WAIT_SHARE, used_ns * CPU_SHARE);
	c->not_before_ns = now_monotonic_ns() + c->delay_ns;
	return r;
}

void children_release(struct children *c)
{
	free(c->known);
	*c = (struct children){0};
}
