/* SPDX-License-Identifier: MIT */
#include "capture/fork.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <linux/ptrace.h> /* after sys/ptrace.h: they share names */
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "capture/loan.h"
#include "daemon/util/units.h"

#define REAP_LONGEST_NS ((uint64_t)2 * 1000000000)
#define REAP_STOP_NS    ((uint64_t)5 * 1000000)
#define CLONE_GRACE_NS  ((uint64_t)200 * 1000000)
#define LEFTOVERS_MAX   8
#define CHILDREN_MAX    4096

static void *number(uint64_t v)
{
	return (void *)(uintptr_t)v;
}

static unsigned long options(const struct job *j, unsigned long more)
{
	return PTRACE_O_TRACESYSGOOD | (j->facts.seccomp ? PTRACE_O_SUSPEND_SECCOMP : 0) | more;
}

static int set_options(const struct job *j, struct thread *t, unsigned long more, struct err *err)
{
	if (ptrace(PTRACE_SETOPTIONS, t->tid, NULL, number(options(j, more))) == 0)
		return 0;
	if (j->facts.seccomp && (errno == EPERM || errno == EINVAL || errno == EACCES))
		return err_set(err, -EPERM,
			"pid %d is under a seccomp filter, which may only be lifted with "
			"CAP_SYS_ADMIN, by a helper that is under no filter itself, on a kernel "
			"with CONFIG_CHECKPOINT_RESTORE",
			(int)j->pid);
	return err_set(
		err, -errno, "pid %d: cannot set ptrace options: %s", (int)j->pid, strerror(errno));
}

/* The copy must be gone before anybody else in memory trouble, and never in anybody's way. It
 * stays in the target's memory cgroup: moved out, the OOM killer would find only the target
 * there. */
static void own_child(struct job *j)
{
	char path[64];
	int status, fd, policy;

	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", (int)j->child);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		(void)!write(fd, "1000", 4);
		close(fd);
	}
	if (stop_wait(j->wake, j->child, job_time_left(j, UINT64_MAX), &status) < 0)
		return;
	(void)ptrace(PTRACE_SETOPTIONS, j->child, NULL, number(options(j, PTRACE_O_EXITKILL)));
	policy = sched_getscheduler(j->child);
	if (policy == SCHED_FIFO || policy == SCHED_RR) {
		struct sched_param none = {0};

		(void)sched_setscheduler(j->child, SCHED_OTHER, &none);
	}
}

/*
 * The clone event is missing. Either the fork is very slow, then the event is what comes next; or the
 * kernel refused it, and the thread went back by its own frame and has been running since.
 * 1: it is back by itself and stopped again; 0: at the event; or an error.
 */
static int find_out(struct loan *l, int *ret_status, struct err *err)
{
	struct thread *t = l->thread;
	int r;

	if (ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL) < 0)
		return err_set(err, -ESRCH, "pid %d ended while it was captured", (int)l->job->pid);
	r = stop_wait(l->job->wake, t->tid, job_time_left(l->job, UINT64_MAX), ret_status);
	if (r < 0)
		return err_set(err, r, "pid %d: thread %d did not come back in time",
			(int)l->job->pid, (int)t->tid);
	if (STOP_EVENT(*ret_status) == PTRACE_EVENT_CLONE ||
		STOP_EVENT(*ret_status) == PTRACE_EVENT_FORK)
		return 0;
	(void)loan_in_signal_code(l, *ret_status);
	l->armed = false;
	t->have_regs = false;
	if (stop_regs(t) == 0 && stop_fix_eintr(&t->regs))
		(void)ptrace(PTRACE_SETREGS, t->tid, NULL, &t->regs);
	return 1;
}

static int refused(const struct job *j, int e, struct err *err)
{
	return err_set(err, -EAGAIN,
		"pid %d could not be copied now: the kernel refused a new process%s%s "
		"(RLIMIT_NPROC, pids.max, memory, or a signal came between)",
		(int)j->pid, e ? ": " : "", e ? strerror(e) : "");
}

/* Armed for clone(): runs it, and gives the thread its own state back. */
static int run_clone(struct loan *l, struct job *j, struct stop *s, struct err *err)
{
	struct thread *t = l->thread;
	unsigned long msg = 0;
	int64_t value = 0;
	int status = 0, r;

	/* No entry stop, no exit stop: each would be one more wait for a processor. */
	r = loan_run(l, PTRACE_CONT, 4 * j->predicted_ns + CLONE_GRACE_NS, &status, err);
	if (r == -ETIMEDOUT) {
		r = find_out(l, &status, err);
		if (r > 0)
			return refused(j, 0, err);
	}
	if (r < 0)
		return r;
	if (loan_in_signal_code(l, status)) {
		/* a stop signal came between: clone() was not made */
		r = loan_restore(l, err);
		return r < 0 ? r : refused(j, 0, err);
	}
	if (ptrace(PTRACE_GETEVENTMSG, t->tid, NULL, &msg) == 0)
		j->child = (pid_t)msg;
	job_die_at(j, STEP_FORK_CLONED);
	/* the copy exists: nobody else has to wait for us */
	stop_let_go(s, 0);
	r = loan_rest(l, &value, err);
	if (r == 0)
		r = loan_restore(l, err);
	if (r == 0 && (value <= 0 || j->child <= 0))
		return refused(j, value < 0 ? (int)-value : 0, err);
	j->child_inside = (pid_t)value;
	return r;
}

int fork_target(struct job *j, struct stop *s, struct thread *t, struct err *err)
{
	struct thread borrowed = *t;
	uint64_t since = s->since_ns;
	struct pollfd alive = {.fd = j->target_fd, .events = POLLIN};
	struct loan l = {0};
	int r;

	j->child = 0;
	j->child_inside = 0;
	/* what stands still now is the very process that was meant, not a later one of that pid */
	if (poll(&alive, 1, 0) != 0) {
		stop_let_go(s, 0);
		return err_set(err, -ESRCH, "pid %d ended before it was captured", (int)j->pid);
	}
	r = loan_begin(&l, j, &borrowed, false, err);
	if (r == 0)
		r = set_options(j, &borrowed, PTRACE_O_TRACECLONE, err);
	if (r == 0) {
		const uint64_t args[6] = {CLONE_FILES | CLONE_FS, l.sp_exit};

		/* from here on this thread is the loan's, not the list's */
		t->state = THREAD_FREE;
		r = loan_arm(&l, SYS_clone, args, err);
		if (r == 0)
			r = run_clone(&l, j, s, err);
		loan_release(&l);
	}
	stop_let_go(s, 0);
	if (r < 0)
		j->gate_stops_ns += now_monotonic_ns() - since;
	else
		j->stop_ns = now_monotonic_ns() - since;
	job_die_at(j, STEP_FORK_RELEASED);
	if (j->child > 0)
		own_child(j);
	job_die_at(j, STEP_FORK_CHILD_OWNED);
	return r;
}

/* ---- reaping ---- */

static bool read_file(const char *path, char *buf, size_t n)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd >= 0 ? read(fd, buf, n - 1) : -1;

	buf[got > 0 ? got : 0] = '\0';
	return got > 0;
}

static pid_t pid_inside(pid_t pid)
{
	char path[64], buf[4096], *p, *end;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	if (!read_file(path, buf, sizeof(buf)))
		return 0;
	p = strstr(buf, "\nNSpid:");
	if (!p)
		return pid;
	p++;
	end = strchr(p, '\n');
	if (end)
		*end = '\0';
	p = strrchr(p, '\t');
	return p ? (pid_t)strtol(p + 1, NULL, 10) : 0;
}

/*
 * Whether a child of the target is what a dead helper left: a zombie with exit signal 0 that ended
 * by our frame, or that carries the oom_score_adj we gave it. Other clone children of the target
 * are its own business.
 */
static bool is_leftover(const struct job *j, pid_t pid)
{
	char path[64], buf[2048], *p;
	int ppid, exit_signal, exit_code, n;
	char state;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (!read_file(path, buf, sizeof(buf)) || !(p = strrchr(buf, ')')))
		return false;
	/* fields 3 state, 4 ppid, 38 exit_signal, 52 exit_code */
	n = sscanf(p + 1,
		" %c %d %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
		"%*s "
		"%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %d %*s %*s %*s %*s %*s "
		"%*s "
		"%*s %*s %*s %*s %*s %*s %*s %d",
		&state, &ppid, &exit_signal, &exit_code);
	if (n != 4 || state != 'Z' || ppid != j->pid || exit_signal != 0)
		return false;
	if (exit_code == LOAN_EXIT_STATUS << 8)
		return true;
	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", (int)pid);
	return exit_code == SIGKILL && read_file(path, buf, sizeof(buf)) && atoi(buf) == 1000;
}

static size_t find_leftovers(const struct job *j, pid_t *v, size_t max)
{
	char path[320], *buf;
	size_t n = 0, seen = 0;
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)j->pid);
	d = opendir(path);
	buf = malloc(64u << 10);
	while (d && buf && n < max && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%s/children", (int)j->pid, e->d_name);
		if (!read_file(path, buf, 64u << 10))
			continue;
		for (char *p = buf, *end; n < max && seen < CHILDREN_MAX; p = end, seen++) {
			pid_t pid = (pid_t)strtol(p, &end, 10);

			if (end == p)
				break;
			if (is_leftover(j, pid))
				v[n++] = pid;
		}
	}
	if (d)
		closedir(d);
	free(buf);
	return n;
}

/* One stop, one wait4() for each. Number of those reaped, or a negative errno. */
static int reap_in(struct job *j, struct stop *s, pid_t tid, const pid_t *inside, size_t n)
{
	struct thread *t, borrowed;
	struct loan l = {0};
	int reaped = 0, r;

	r = stop_thread(s, tid, REAP_STOP_NS, &t);
	if (r < 0)
		return r;
	if (s->job_control)
		return -EBUSY;
	r = loan_check(j, t);
	borrowed = *t;
	if (r == 0)
		r = loan_begin(&l, j, &borrowed, true, NULL);
	if (r == 0)
		r = set_options(j, &borrowed, 0, NULL);
	if (r < 0)
		return r;
	t->state = THREAD_FREE;
	for (size_t i = 0; i < n && r == 0; i++) {
		const uint64_t args[6] = {(uint64_t)inside[i], 0, WNOHANG | __WCLONE, 0};
		int64_t value = 0;
		int status = 0;

		r = loan_arm(&l, SYS_wait4, args, NULL);
		if (r == 0)
			r = loan_run(&l, PTRACE_SYSCALL, UINT64_MAX, &status, NULL);
		if (r < 0)
			break;
		if (loan_in_signal_code(&l, status)) {
			r = -EBUSY; /* a stop signal came first */
			break;
		}
		job_die_at(j, STEP_REAP_ENTRY);
		r = loan_rest(&l, &value, NULL);
		reaped += r == 0 && value == inside[i];
		if (l.signal)
			break;
	}
	if (l.armed) {
		int e = loan_restore(&l, NULL);

		if (r == 0)
			r = e;
	}
	loan_release(&l);
	return r < 0 ? r : reaped;
}

/* Any thread will do; the main one first, then whoever can lend. */
static int reap(struct job *j, const pid_t *inside, size_t n)
{
	struct stop s = {.pid = j->pid, .wake = j->wake};
	uint64_t until = now_monotonic_ns() + job_time_left(j, REAP_LONGEST_NS);
	int r = -EAGAIN;

	while (now_monotonic_ns() < until) {
		char path[64];
		struct dirent *e;
		bool main_first = true;
		DIR *d;

		if (loan_refresh(j, false) < 0)
			break;
		snprintf(path, sizeof(path), "/proc/%d/task", (int)j->pid);
		d = opendir(path);
		if (!d)
			break;
		while (main_first || (e = readdir(d))) {
			pid_t tid = main_first ? j->pid : (pid_t)strtol(e->d_name, NULL, 10);
			uint64_t began = now_monotonic_ns(), took;

			if (!main_first && (tid <= 0 || tid == j->pid))
				continue;
			main_first = false;
			r = reap_in(j, &s, tid, inside, n);
			/* one that did not stop in time is let go when it does */
			(void)stop_let_go(&s, REAP_STOP_NS);
			took = now_monotonic_ns() - began;
			if (r >= 0)
				j->reap_ns += took;
			else
				j->gate_stops_ns += took;
			if (r >= 0 || r == -EBUSY || now_monotonic_ns() >= until)
				break;
		}
		closedir(d);
		if (r >= 0 || r == -EBUSY)
			break;
		struct timespec ts = {.tv_nsec = 700000};
		nanosleep(&ts, NULL);
	}
	stop_release(&s, job_time_left(j, UINT64_MAX));
	return r;
}

int fork_reap(struct job *j)
{
	pid_t v[LEFTOVERS_MAX], inside[LEFTOVERS_MAX + 1];
	size_t n = 0, k;
	int status = 0, r;

	if (j->child > 0) {
		kill(j->child, SIGKILL);
		while (waitpid(j->child, &status, __WALL) == j->child)
			if (!WIFSTOPPED(status))
				break;
		if (j->child_inside > 0)
			inside[n++] = j->child_inside;
		j->child = 0;
		j->child_inside = 0;
		job_die_at(j, STEP_CHILD_KILLED);
	}
	k = find_leftovers(j, v, ARRAY_SIZE(v));
	for (size_t i = 0; i < k; i++) {
		pid_t in = pid_inside(v[i]);
		bool known = in <= 0;

		for (size_t m = 0; m < n; m++)
			known = known || inside[m] == in;
		if (!known && n < ARRAY_SIZE(inside))
			inside[n++] = in;
	}
	if (n == 0 || !proc_id_alive(&j->info.id))
		return 0;
	r = reap(j, inside, n);
	job_die_at(j, STEP_REAP_RELEASED);
	return r < 0 ? (int)n : (int)n - r;
}
