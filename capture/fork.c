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
#define REAP_LEAST_NS   ((uint64_t)200 * 1000000)
#define REAP_STOP_NS    ((uint64_t)5 * 1000000)
#define CLONE_GRACE_NS  ((uint64_t)200 * 1000000)
#define CLONE_LOOK_NS   ((uint64_t)3 * 1000000)
#define LEFTOVERS_MAX   8
#define CHILDREN_MAX    4096

static void *number(uint64_t v)
{
	return (void *)(uintptr_t)v;
}

/* All of it, or the first n - 1 bytes: some files of /proc come a page at a time. */
static bool read_file(const char *path, char *buf, size_t n)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t at = 0;

	while (fd >= 0 && at < n - 1) {
		ssize_t got = read(fd, buf + at, n - 1 - at);

		if (got <= 0)
			break;
		at += (size_t)got;
	}
	buf[at] = '\0';
	return at > 0;
}

/* A thread's own mode; there may be a filter on some threads only. -1: it cannot be told. */
static int seccomp_mode(pid_t pid, pid_t tid)
{
	char path[64], buf[4096];
	const char *at;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", (int)pid, (int)tid);
	if (!read_file(path, buf, sizeof(buf)) || !(at = strstr(buf, "\nSeccomp:")))
		return -1;
	return (int)strtol(at + strlen("\nSeccomp:"), NULL, 10);
}

static bool option_set(pid_t tid, unsigned long options)
{
	return ptrace(PTRACE_SETOPTIONS, tid, NULL, number(PTRACE_O_TRACESYSGOOD | options)) == 0;
}

/* With its filter lifted, whether it has one or not: that is one call, and to ask is several. */
static int set_options(struct job *j, struct thread *t, unsigned long more, struct err *err)
{
	int e;

	j->seccomp_lifted = option_set(t->tid, PTRACE_O_SUSPEND_SECCOMP | more);
	if (j->seccomp_lifted)
		return 0;
	e = errno;
	if (e != ESRCH && seccomp_mode(j->pid, t->tid) != 0)
		return !err ? -EPERM
			    : job_refuse(j, CAPTURE_BY_SECCOMP, err, -EPERM,
				      "pid %d: its thread %d is under a seccomp filter, which only "
				      "a helper with CAP_SYS_ADMIN that is under none itself may "
				      "lift, on a kernel with CONFIG_CHECKPOINT_RESTORE",
				      (int)j->pid, (int)t->tid);
	if (option_set(t->tid, more))
		return 0;
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

	j->child_fd = (int)syscall(SYS_pidfd_open, j->child, 0);
	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", (int)j->child);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		(void)!write(fd, "1000", 4);
		close(fd);
	}
	if (stop_wait(j->wake, j->child, job_time_left(j, UINT64_MAX), &status) < 0)
		return;
	(void)option_set(
		j->child, PTRACE_O_EXITKILL | (j->seccomp_lifted ? PTRACE_O_SUSPEND_SECCOMP : 0));
	policy = sched_getscheduler(j->child);
	if (policy == SCHED_FIFO || policy == SCHED_RR) {
		struct sched_param none = {0};

		(void)sched_setscheduler(j->child, SCHED_OTHER, &none);
	}
}

static int refused(const struct job *j, int e, struct err *err)
{
	return err_set(err, -EAGAIN,
		"pid %d could not be copied now: the kernel refused a new process%s%s "
		"(RLIMIT_NPROC, pids.max, memory, or a signal came between)",
		(int)j->pid, e ? ": " : "", e ? strerror(e) : "");
}

/* Somebody the program itself has just made: it inherits the tracing, and stops before it begins. */
static void let_newborn_go(const struct job *j, pid_t tid)
{
	int status;

	if (stop_wait(j->wake, tid, job_time_left(j, UINT64_MAX), &status) == 0)
		(void)ptrace(PTRACE_DETACH, tid, NULL, NULL);
}

/* It went back by its own frame, and is stopped wherever it has come to since. */
static void is_back(struct loan *l)
{
	struct thread *t = l->thread;

	l->armed = false;
	t->have_regs = false;
	(void)stop_regs(t);
}

/* Whether a thread that runs on sleeps in a system call made from elsewhere than our frame. */
static bool sleeps_elsewhere(const struct loan *l)
{
	char path[64], buf[256];
	uint64_t sp;

	/* "running", or number, six arguments, stack pointer, program counter */
	snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", (int)l->job->pid,
		(int)l->thread->tid);
	return read_file(path, buf, sizeof(buf)) &&
	       sscanf(buf, "%*d %*s %*s %*s %*s %*s %*s %" SCNx64, &sp) == 1 && sp != l->sp_back;
}

/*
 * Runs the armed clone() to the first stop that tells something. It has all that a fork may take, or
 * until it is seen to be past it; then nobody else waits for it any more, *ret_late, and it is asked
 * to stop.
 */
static int run_to_stop(struct loan *l, struct job *j, struct stop *s, int how, int *ret_status,
	bool *ret_late, struct err *err)
{
	uint64_t until = now_monotonic_ns() + 4 * j->predicted_ns + CLONE_GRACE_NS;
	int r = loan_run(l, how, CLONE_LOOK_NS, ret_status, err);

	while (r == -ETIMEDOUT && now_monotonic_ns() < until && !sleeps_elsewhere(l))
		r = stop_wait(j->wake, l->thread->tid, CLONE_LOOK_NS, ret_status);
	if (r == -ESRCH)
		l->thread->state = THREAD_GONE;
	if (r != -ETIMEDOUT)
		return r == -ESRCH
			       ? err_set(err, r, "pid %d ended while it was captured", (int)j->pid)
			       : r;
	*ret_late = true;
	stop_let_go(s, 0);
	if (ptrace(PTRACE_INTERRUPT, l->thread->tid, NULL, NULL) < 0)
		return err_set(err, -ESRCH, "pid %d ended while it was captured", (int)j->pid);
	r = stop_wait(j->wake, l->thread->tid, job_time_left(j, UINT64_MAX), ret_status);
	return r < 0 ? err_set(err, r, "pid %d: thread %d did not come back in time", (int)j->pid,
			       (int)l->thread->tid)
		     : 0;
}

/*
 * Armed for clone(): runs it, and gives the thread its own state back.
 *
 * No entry stop and no exit stop the first time: each would be one more wait for a processor. So a clone()
 * that the kernel refuses is not seen; the thread goes back by its frame and runs on, until something
 * stops it: a signal, our request, or a clone() of its own, which is not to be taken for ours. Another
 * try therefore does stop there.
 */
static int run_clone(struct loan *l, struct job *j, struct stop *s, struct err *err)
{
	int how = j->clone_refused ? PTRACE_SYSCALL : PTRACE_CONT, status = 0, r;
	struct thread *t = l->thread;
	unsigned long msg = 0;
	bool late = false, in_signal, out;
	int64_t value = 0;

	r = run_to_stop(l, j, s, how, &status, &late, err);
	if (r == 0 && STOP_IS_SYSCALL(status) && how == PTRACE_SYSCALL)
		r = run_to_stop(l, j, s, how, &status, &late, err);
	if (r < 0)
		return r;
	if (STOP_EVENT(status) == PTRACE_EVENT_CLONE &&
		ptrace(PTRACE_GETEVENTMSG, t->tid, NULL, &msg) < 0)
		msg = 0;
	in_signal = loan_in_signal_code(l, status);
	out = loan_is_out(l);
	if (!out || in_signal) {
		/* Not made: refused, or a stop came first. */
		j->clone_refused = true;
		if (!out)
			is_back(l);
		if (msg)
			let_newborn_go(j, (pid_t)msg);
		r = out ? loan_restore(l, err) : 0;
		return r < 0 ? r : refused(j, 0, err);
	}
	j->child = (pid_t)msg;
	job_die_at(j, STEP_FORK_CLONED);
	/* the copy exists: nobody else has to wait for us */
	stop_let_go(s, 0);
	r = loan_rest(l, &value, err);
	if (r == 0)
		r = loan_restore(l, err);
	if (r == 0 && (value <= 0 || j->child <= 0)) {
		j->clone_refused = true;
		return refused(j, value < 0 ? (int)-value : 0, err);
	}
	j->child_inside = (pid_t)value;
	if (r == 0 && late)
		/* whoever was let go meanwhile may have been caught in the middle of a change */
		return err_set(err, -EAGAIN,
			"pid %d: its copy took much longer than the predicted %.1f ms and was not "
			"used: try again when this host has less to do",
			(int)j->pid, (double)j->predicted_ns / 1e6);
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
		const uint64_t args[6] = {CLONE_FILES, l.sp_exit};

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
	/* killed by us, or for exit() by a seccomp filter that knows exit_group() only */
	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", (int)pid);
	return (exit_code == SIGKILL || (exit_code & 0x7f) == SIGSYS) &&
	       read_file(path, buf, sizeof(buf)) && atoi(buf) == 1000;
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
	struct pollfd alive = {.fd = j->target_fd, .events = POLLIN};
	struct thread *t, borrowed;
	struct loan l = {0};
	int reaped = 0, r;

	r = stop_thread(s, tid, REAP_STOP_NS, &t);
	if (r < 0)
		return r;
	if (poll(&alive, 1, 0) != 0)
		return -ESRCH; /* another process has its number */
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
	/* a little beyond the deadline, if need be: that it is over is why the copy had to go */
	uint64_t until = now_monotonic_ns() + MAX(job_time_left(j, REAP_LONGEST_NS), REAP_LEAST_NS);
	int r = -EAGAIN;

	while (now_monotonic_ns() < until) {
		char path[64];
		struct dirent *e;
		bool main_first = true;
		DIR *d;

		if (!loan_places_hold(j) || loan_refresh(j, false) < 0)
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
		if (j->child_fd >= 0)
			(void)syscall(SYS_pidfd_send_signal, j->child_fd, SIGKILL, NULL, 0);
		else
			kill(j->child, SIGKILL);
		closep(&j->child_fd);
		j->child_fd = -1;
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
