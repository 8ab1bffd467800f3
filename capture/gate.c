/* SPDX-License-Identifier: MIT */
#include "capture/gate.h"

#include <dirent.h>
#include <inttypes.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "capture/loan.h"
#include "daemon/python/mem.h"
#include "daemon/util/units.h"

#define STOP_TIMEOUT_NS   ((uint64_t)5 * 1000000)
#define STOP_THREAD_NS    ((uint64_t)30000)
#define GATE_LONGEST_NS   ((uint64_t)10 * 1000000000)
#define REST              9 /* for each nanosecond of a stop that led to nothing */
#define UNFIT_REST_MAX_NS ((uint64_t)200 * 1000000)
/* Offset of `tid` in glibc's struct pthread (nptl/descr.h, x86-64): where an old thread state
 * tells pthread_self() only. What is read there counts only if the thread it names has that very
 * fs_base. */
#define GLIBC_PTHREAD_TID 720

enum verdict {
	OPEN,
	SHUT,
	HOPELESS,
};

int gate_init(struct gate *g, const struct job *j, struct err *err)
{
	const struct python *p = j->python;
	const struct layout *l = &p->layout;
	uint64_t size = 0;

	memset(g, 0, sizeof(*g));
	if (python_symbol(p, "_PyEval_EvalFrameDefault", &g->eval_start, &size) < 0 || size == 0)
		return err_set(err, -EOPNOTSUPP,
			"pid %d: its Python does not export _PyEval_EvalFrameDefault: no safe "
			"moment for a capture can be told",
			(int)j->pid);
	g->eval_end = g->eval_start + size;
	g->collecting = j->rings.collecting;
	g->off_native_id = l->ts_native_thread_id;
	g->off_thread_id = l->ts_thread_id;
	if (l->interp_gil_ptr >= 0) {
		uint64_t gil;

		if (mem_read_u64(j->pid, p->interp + (uint64_t)l->interp_gil_ptr, &gil) < 0 ||
			gil == 0)
			return err_set(
				err, -EOPNOTSUPP, "pid %d: cannot find its GIL", (int)j->pid);
		g->gil = gil;
		g->locked = gil + (uint64_t)l->gil_locked;
		g->holder = gil + (uint64_t)l->gil_holder;
	} else {
		g->locked = p->runtime + (uint64_t)l->rt_gil_locked;
		g->holder = p->runtime + (uint64_t)l->rt_gil_holder;
	}
	return 0;
}

struct gil {
	int locked;      /* 1, 0; -1: not created */
	uint64_t thread; /* PyThreadState of the last holder */
	int collecting;
};

static int look(const struct gate *g, pid_t pid, struct gil *ret)
{
	uint32_t locked, collecting;

	if (mem_read_u32(pid, g->locked, &locked) < 0 ||
		mem_read_u64(pid, g->holder, &ret->thread) < 0 ||
		mem_read_u32(pid, g->collecting, &collecting) < 0)
		return -ESRCH;
	ret->locked = (int)locked;
	ret->collecting = (int)collecting;
	return 0;
}

/* Number of the thread that the target's own pid namespace calls `inside`. */
static pid_t tid_from_inside(const struct job *j, pid_t inside)
{
	char path[64];
	struct dirent *e;
	pid_t found = 0;
	DIR *d;

	if (!j->facts.other_pid_ns)
		return inside;
	snprintf(path, sizeof(path), "/proc/%d/task", (int)j->pid);
	d = opendir(path);
	if (!d)
		return 0;
	while (!found && (e = readdir(d))) {
		char name[340], line[256];
		_cleanup_fclose_ FILE *f = NULL;

		if (e->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s/status", path, e->d_name);
		f = fopen(name, "re");
		while (f && fgets(line, sizeof(line), f)) {
			const char *last;

			if (strncmp(line, "NSpid:", 6) != 0)
				continue;
			last = strrchr(line, '\t');
			if (last && strtol(last + 1, NULL, 10) == inside)
				found = (pid_t)strtol(e->d_name, NULL, 10);
			break;
		}
	}
	closedir(d);
	return found;
}

/*
 * Whether the process has such a thread. A number in its memory proves nothing: a worker that
 * uWSGI forked without telling Python (no --enable-threads) has its master's there, and a master
 * is nobody to be stopped.
 */
static bool has_thread(pid_t pid, pid_t tid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d", (int)pid, (int)tid);
	return access(path, F_OK) == 0;
}

/* Thread that holds the GIL, or 0 if it cannot be told. */
static pid_t holder_tid(const struct gate *g, const struct job *j, uint64_t thread)
{
	uint64_t v;
	uint32_t tid;

	if (thread == 0)
		return 0;
	if (g->off_native_id >= 0) {
		if (mem_read_u64(j->pid, thread + (uint64_t)g->off_native_id, &v) < 0)
			return 0;
		tid = (uint32_t)v;
	} else {
		if (mem_read_u64(j->pid, thread + (uint64_t)g->off_thread_id, &v) < 0 ||
			mem_read_u32(j->pid, v + GLIBC_PTHREAD_TID, &tid) < 0)
			return 0;
	}
	if (tid == 0 || tid >= 1u << 30)
		return 0;
	tid = (uint32_t)tid_from_inside(j, (pid_t)tid);
	return has_thread(j->pid, (pid_t)tid) ? (pid_t)tid : 0;
}

/* pthread_self() of a thread state: what fs_base must be in its thread. */
static uint64_t thread_self(const struct gate *g, const struct job *j, uint64_t thread)
{
	uint64_t v;

	if (thread == 0 || mem_read_u64(j->pid, thread + (uint64_t)g->off_thread_id, &v) < 0)
		return 0;
	return v;
}

/* System calls in which CPython or an extension may wait with the GIL held, and none of which
 * is called in the middle of a change to an object. */
static bool is_blocking(const struct user_regs_struct *r)
{
	if (!stop_in_syscall(r))
		return false;
	switch (r->orig_rax) {
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
	case 441: /* epoll_pwait2 */
	case SYS_poll:
	case SYS_ppoll:
	case SYS_select:
	case SYS_pselect6:
	case SYS_nanosleep:
	case SYS_clock_nanosleep:
	case SYS_accept:
	case SYS_accept4:
	case SYS_recvfrom:
	case SYS_recvmsg:
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_connect:
	case SYS_wait4:
	case SYS_waitid:
	case SYS_pause:
	case SYS_rt_sigtimedwait:
	case SYS_restart_syscall:
		return true;
	case SYS_futex: /* FUTEX_WAIT_BITSET: a condition or a semaphore, not a mutex of malloc */
		return (r->rsi & 0x7f) == 9;
	}
	return false;
}

static bool stands_still(const struct gate *g, const struct user_regs_struct *r)
{
	if (is_blocking(r))
		return true;
	return (!stop_in_syscall(r)) && r->rip >= g->eval_start && r->rip < g->eval_end;
}

/* GIL taken: only its holder has to stand still, nobody else may touch the heap. */
static enum verdict try_holder(struct gate *g, struct job *j, struct stop *s,
	const struct gil *before, pid_t tid, struct thread **ret, int *ret_err)
{
	struct thread *t;
	struct gil now;
	uint64_t self = thread_self(g, j, before->thread);
	int r;

	/* nobody else stands still for it: no hurry */
	r = stop_thread(s, tid, 10 * STOP_TIMEOUT_NS, &t);
	if (r < 0) {
		*ret_err = r;
		return r == -EPERM ? HOPELESS : SHUT;
	}
	if (s->job_control) {
		*ret_err = -EBUSY;
		return HOPELESS;
	}
	if (look(g, j->pid, &now) < 0 || stop_regs(t) < 0) {
		*ret_err = -ESRCH;
		return SHUT;
	}
	if (now.locked != 1 || now.thread != before->thread || now.collecting ||
		t->regs.fs_base != self || !stands_still(g, &t->regs) || loan_check(j, t) < 0)
		return SHUT;
	*ret = t;
	return OPEN;
}

/* GIL free, or its holder not known: everybody has to stand still. */
static enum verdict try_all(
	struct gate *g, struct job *j, struct stop *s, struct thread **ret, int *ret_err)
{
	struct thread *holder = NULL, *best = NULL;
	struct gil now;
	uint64_t self;
	int r;

	r = stop_all(s, STOP_TIMEOUT_NS + (uint64_t)j->facts.threads * STOP_THREAD_NS);
	if (s->job_control)
		r = -EBUSY;
	if (r < 0) {
		*ret_err = r;
		g->unfit++;
		return r == -EPERM || r == -EBUSY ? HOPELESS : SHUT;
	}
	if (look(g, j->pid, &now) < 0) {
		*ret_err = -ESRCH;
		return SHUT;
	}
	if (now.collecting)
		return SHUT;
	self = thread_self(g, j, now.thread);
	for (size_t i = 0; i < s->n; i++) {
		struct thread *t = &s->v[i];

		if (t->state != THREAD_STOPPED || stop_regs(t) < 0)
			continue;
		if (now.locked && t->regs.fs_base == self)
			holder = t;
		/* the main thread first: it outlives the child, whose PDEATHSIG follows it */
		if ((!best || t->tid == j->pid) && loan_check(j, t) == 0)
			best = t;
	}
	if (now.locked) {
		if (!holder || !stands_still(g, &holder->regs) || loan_check(j, holder) < 0)
			return SHUT;
		best = holder;
	}
	if (!best) {
		g->unfit++;
		return SHUT;
	}
	*ret = best;
	return OPEN;
}

static int hopeless(struct job *j, int r, struct err *err)
{
	if (r == -EBUSY)
		return job_refuse(j, CAPTURE_BY_STOP, err, -EBUSY,
			"pid %d is stopped (SIGSTOP): not capturable now; try again when it runs",
			(int)j->pid);
	return job_refuse(j, CAPTURE_BY_TRACER, err, -EBUSY,
		"pid %d cannot be traced (%s): a debugger may be attached, or a security module "
		"forbids it",
		(int)j->pid, strerror(-r));
}

int gate_open(struct gate *g, struct job *j, struct stop *s, struct thread **ret, struct err *err)
{
	uint64_t until = now_monotonic_ns() + job_time_left(j, GATE_LONGEST_NS);
	uint32_t noise = (uint32_t)getpid();
	unsigned unknown_holder = 0, in_collector = 0;

	for (;;) {
		enum verdict v;
		uint64_t began = now_monotonic_ns(), took = 0;
		struct gil gil;
		int r = 0;

		if (began >= until)
			break;
		if (!proc_id_alive(&j->info.id) || !loan_places_hold(j) ||
			look(g, j->pid, &gil) < 0)
			return err_set(err, -ESRCH,
				"pid %d ended, or started another program, before it was captured",
				(int)j->pid);
		if (gil.locked < 0)
			return err_set(err, -EAGAIN,
				"pid %d: its Python is starting or ending; try again", (int)j->pid);
		if (gil.collecting) {
			in_collector++;
		} else {
			pid_t tid = gil.locked ? holder_tid(g, j, gil.thread) : 0;

			j->tries++;
			unknown_holder += gil.locked && tid == 0;
			v = tid ? try_holder(g, j, s, &gil, tid, ret, &r)
				: try_all(g, j, s, ret, &r);
			if (v == OPEN)
				return 0;
			took = s->stopped_ns;
			stop_let_go(s, 0);
			took = took ? now_monotonic_ns() - took : 0;
			j->gate_stops_ns += took;
			if (v == HOPELESS)
				return hopeless(j, r, err);
		}
		/*
		 * Off the target's rhythm, and long enough for it to hardly notice us: a tenth of its time
		 * at most. Where all wait and none can lend, longer and longer: that will not be otherwise
		 * soon, and some waits (epoll_wait) begin anew with their whole timeout after each try.
		 */
		noise = noise * 1664525 + 1013904223;
		uint64_t pause = 300000 + (noise >> 8) % 600000;
		pause = MAX(pause, REST * took);
		pause = MAX(pause,
			MIN(((uint64_t)1 << MIN(g->unfit, 20u)) * 250000, UNFIT_REST_MAX_NS));
		uint64_t sleep_until = now_monotonic_ns() + pause;

		/* A thread that has not stopped yet would stop later, with nobody there to let it
		 * go: no further try before it did. */
		while (stop_let_go(s, MIN(pause, STOP_TIMEOUT_NS)) > 0)
			if (now_monotonic_ns() >= until)
				return err_set(err, -EAGAIN,
					"pid %d has a thread that does not stop (in the kernel, "
					"waiting for a device or a file system): not capturable "
					"now",
					(int)j->pid);
		if (loan_refresh(j, false) < 0)
			return err_set(
				err, -ESRCH, "pid %d ended before it was captured", (int)j->pid);
		uint64_t now = now_monotonic_ns();
		if (now < sleep_until) {
			struct timespec ts = {.tv_nsec = (long)(sleep_until - now)};

			nanosleep(&ts, NULL);
		}
	}
	return err_set(err, -EAGAIN,
		"pid %d was in no safe moment in %u tries%s: not capturable now; try again",
		(int)j->pid, j->tries,
		in_collector > j->tries ? " (its collector runs all the time)"
		: unknown_holder        ? " (the holder of the GIL cannot be told)"
					: " (native code holds the GIL)");
}
