/* SPDX-License-Identifier: MIT */
#include "capture/stop.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <linux/ptrace.h> /* after sys/ptrace.h: they share names */
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sched.h>

#include "daemon/util/macros.h"
#include "daemon/util/units.h"

#define RENUMBERED_NS ((uint64_t)100 * 1000000)
#define SPIN_NS       30000 /* a thread that runs or sleeps stops within some 10 µs */
#define THREADS_MAX   65536

static void *number(uint64_t v)
{
	return (void *)(uintptr_t)v;
}

int stop_wait(int wake, pid_t tid, uint64_t timeout_ns, int *ret_status)
{
	uint64_t began = now_monotonic_ns();

	for (;;) {
		int status;
		pid_t r = waitpid(tid, &status, __WALL | WNOHANG);

		if (r == tid) {
			if (!WIFSTOPPED(status))
				return -ESRCH;
			*ret_status = status;
			return 0;
		}
		if (r < 0 && errno != EINTR)
			return -ESRCH;

		uint64_t waited = now_monotonic_ns() - began;
		struct signalfd_siginfo drained[8];
		struct pollfd p = {.fd = wake, .events = POLLIN};

		if (waited >= timeout_ns)
			return -ETIMEDOUT;
		if (waited < SPIN_NS) {
			sched_yield();
			continue;
		}
		/* Empty it before looking again, so that no wake-up falls between. */
		uint64_t left = MIN(timeout_ns - waited, (uint64_t)5000000);
		struct timespec ts = {.tv_nsec = (long)left};

		if (ppoll(&p, 1, &ts, NULL) > 0)
			(void)!read(wake, drained, sizeof(drained));
	}
}

bool stop_in_syscall(const struct user_regs_struct *r)
{
	if ((long)r->orig_rax < 0)
		return false;
	switch ((long)r->rax) {
	case -EINTR:
	case -KERNEL_ERESTARTSYS:
	case -KERNEL_ERESTARTNOINTR:
	case -KERNEL_ERESTARTNOHAND:
	case -KERNEL_ERESTART_RESTARTBLOCK:
		return true;
	}
	return false;
}

/*
 * System calls that answer -EINTR when a stop wakes them, although nothing has happened, and that
 * may simply be made again. Not close(), whose EINTR means "closed, but": made again it would
 * close somebody else's descriptor.
 */
static bool may_restart(uint64_t nr)
{
	switch (nr) {
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
	case 441: /* epoll_pwait2 */
	case SYS_recvfrom:
	case SYS_recvmsg:
	case SYS_recvmmsg:
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_sendmmsg:
	case SYS_accept:
	case SYS_accept4:
	case SYS_connect:
	case SYS_read:
	case SYS_readv:
	case SYS_write:
	case SYS_writev:
	case SYS_sendfile:
	case SYS_splice:
	case SYS_rt_sigtimedwait:
	case SYS_rt_sigsuspend:
	case SYS_pause:
	case SYS_poll:
	case SYS_ppoll:
	case SYS_select:
	case SYS_pselect6:
	case SYS_nanosleep:
	case SYS_clock_nanosleep:
	case SYS_semop:
	case SYS_semtimedop:
	case SYS_msgrcv:
	case SYS_msgsnd:
	case SYS_mq_timedreceive:
	case SYS_mq_timedsend:
	case SYS_io_getevents:
	case 333: /* io_pgetevents */
	case 426: /* io_uring_enter: EINTR only when nothing was submitted */
	case SYS_futex:
	case SYS_flock:
	case SYS_wait4:
	case SYS_waitid:
	case SYS_getrandom:
		return true;
	}
	return false;
}

bool stop_fix_eintr(struct user_regs_struct *r)
{
	if ((long)r->orig_rax < 0 || (long)r->rax != -EINTR || !may_restart(r->orig_rax))
		return false;
	r->rax = (unsigned long)-KERNEL_ERESTARTNOHAND;
	return true;
}

int stop_regs(struct thread *t)
{
	if (t->have_regs)
		return 0;
	if (ptrace(PTRACE_GETREGS, t->tid, NULL, &t->regs) < 0)
		return -errno;
	/* At once, in the thread itself: it goes on like that if we die now. */
	if (stop_fix_eintr(&t->regs) &&
		ptrace(PTRACE_POKEUSER, t->tid, number(offsetof(struct user_regs_struct, rax)),
			number(t->regs.rax)) < 0)
		return -errno;
	t->have_regs = true;
	return 0;
}

int stop_detach(struct thread *t)
{
	int r = ptrace(PTRACE_DETACH, t->tid, NULL, NULL) < 0 ? -errno : 0;

	t->state = r == -ESRCH ? THREAD_GONE : THREAD_FREE;
	t->have_regs = false;
	return r;
}

static void let_go(struct thread *t)
{
	(void)stop_regs(t);
	(void)stop_detach(t);
}

/*
 * A stop of a thread that was asked to stop. Any stop but the one we want takes the request back
 * (ptrace_stop() clears JOBCTL_TRAP_STOP), so ask again before it runs on; a signal is passed on
 * with what the kernel knows of it.
 */
static void take_status(struct stop *s, struct thread *t, int status)
{
	unsigned event = STOP_EVENT(status);
	int sig = STOP_SIGNAL(status);

	if (event == PTRACE_EVENT_STOP) {
		if (sig != SIGTRAP)
			s->job_control = true;
		t->state = THREAD_STOPPED;
		t->have_regs = false;
		if (s->stopped_ns == 0)
			s->stopped_ns = now_monotonic_ns();
		return;
	}
	if (event != 0 || sig == (SIGTRAP | 0x80))
		sig = 0;
	(void)ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL);
	(void)ptrace(PTRACE_CONT, t->tid, NULL, number((uint64_t)sig));
}

static int await(struct stop *s, struct thread *t, uint64_t until_ns)
{
	while (t->state == THREAD_PENDING) {
		uint64_t now = now_monotonic_ns();
		int status = 0, r;

		r = stop_wait(s->wake, t->tid, now < until_ns ? until_ns - now : 0, &status);
		if (r == -ESRCH) {
			t->state = THREAD_GONE;
			s->lost = true;
		}
		if (r < 0)
			return r;
		take_status(s, t, status);
	}
	return t->state == THREAD_STOPPED ? 0 : -ESRCH;
}

static struct thread *find(struct stop *s, pid_t tid, bool add)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].tid == tid)
			return &s->v[i];
	if (!add || s->n >= THREADS_MAX)
		return NULL;
	if (s->n == s->cap) {
		size_t cap = s->cap ? 2 * s->cap : 64;
		struct thread *v = realloc(s->v, cap * sizeof(*v));

		if (!v)
			return NULL;
		s->v = v;
		s->cap = cap;
	}
	s->v[s->n] = (struct thread){.tid = tid};
	return &s->v[s->n++];
}

/* A thread that has ended, or ends, cannot be seized (EPERM): it is gone in a moment, but for a leader that
 * ended before its threads, which stays. */
static bool is_zombie(pid_t pid, pid_t tid)
{
	char path[64], buf[512];
	_cleanup_close_ int fd = -1;
	const char *p;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", (int)pid, (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, buf, sizeof(buf) - 1);
	if (n <= 0)
		return true;
	buf[n] = '\0';
	p = strrchr(buf, ')');
	return p && p[1] == ' ' && (p[2] == 'Z' || p[2] == 'X');
}

static int ask(struct stop *s, struct thread *t)
{
	/* asked once is enough: asked again after it stopped, it would stop once more as soon as it
	 * ran on */
	if (t->state == THREAD_STOPPED || t->state == THREAD_PENDING)
		return 0;
	if (ptrace(PTRACE_SEIZE, t->tid, NULL, number(PTRACE_O_TRACESYSGOOD)) < 0) {
		int r = -errno;

		return r == -EPERM && is_zombie(s->pid, t->tid) ? -ESRCH : r;
	}
	t->state = THREAD_PENDING;
	t->have_regs = false;
	return ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL) < 0 ? -errno : 0;
}

int stop_thread(struct stop *s, pid_t tid, uint64_t timeout_ns, struct thread **ret)
{
	struct thread *t = find(s, tid, true);
	int r;

	if (!t)
		return -ENOMEM;
	if (s->since_ns == 0)
		s->since_ns = now_monotonic_ns();
	r = ask(s, t);
	if (r == 0)
		r = await(s, t, now_monotonic_ns() + timeout_ns);
	if (r == 0)
		*ret = t;
	return r;
}

static int ask_everybody(struct stop *s, bool *ret_new)
{
	char path[64];
	DIR *d;
	struct dirent *e;
	int r = 0;

	*ret_new = false;
	snprintf(path, sizeof(path), "/proc/%d/task", (int)s->pid);
	d = opendir(path);
	if (!d)
		return -ESRCH;
	while (r == 0 && (e = readdir(d))) {
		pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);
		struct thread *t;

		if (tid <= 0)
			continue;
		t = find(s, tid, true);
		if (!t) {
			r = -ENOMEM;
			break;
		}
		if (t->state == THREAD_STOPPED || t->state == THREAD_PENDING)
			continue;
		r = ask(s, t);
		if (r == 0) {
			*ret_new = true;
		} else if (r == -ESRCH) {
			t->state = THREAD_GONE;
			r = 0;
		}
	}
	closedir(d);
	return r;
}

int stop_all(struct stop *s, uint64_t timeout_ns)
{
	uint64_t until = now_monotonic_ns() + timeout_ns;
	bool more = true;
	int r;

	if (s->since_ns == 0)
		s->since_ns = now_monotonic_ns();
	while (more) {
		r = ask_everybody(s, &more);
		if (r < 0)
			return r;
		for (size_t i = 0; i < s->n; i++) {
			if (s->v[i].state != THREAD_PENDING)
				continue;
			r = await(s, &s->v[i], until);
			if (r < 0 && r != -ESRCH)
				return r;
		}
	}
	return 0;
}

/* A thread that executes another program takes the main thread's number: what was traced under its old
 * one would stop under the new one, and stay so. */
static void let_renumbered_go(const struct stop *s)
{
	int status;

	if (ptrace(PTRACE_INTERRUPT, s->pid, NULL, NULL) == 0 &&
		stop_wait(s->wake, s->pid, RENUMBERED_NS, &status) == 0)
		(void)ptrace(PTRACE_DETACH, s->pid, NULL, NULL);
}

size_t stop_let_go(struct stop *s, uint64_t linger_ns)
{
	uint64_t until = 0;
	size_t pending = 0;

	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].state == THREAD_STOPPED)
			let_go(&s->v[i]);
	s->since_ns = 0;
	for (size_t i = 0; i < s->n; i++) {
		struct thread *t = &s->v[i];

		if (t->state != THREAD_PENDING)
			continue;
		if (until == 0)
			until = now_monotonic_ns() + linger_ns;
		if (await(s, t, until) == 0)
			let_go(t);
		pending += t->state == THREAD_PENDING;
	}
	/* forget those that are done with: threads come and go */
	size_t k = 0;
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].state == THREAD_PENDING)
			s->v[k++] = s->v[i];
	s->n = k;
	s->job_control = false;
	s->stopped_ns = 0; /* those that came late have stopped since, and are gone again */
	return pending;
}

void stop_release(struct stop *s, uint64_t linger_ns)
{
	if (stop_let_go(s, linger_ns) == 0 && s->lost)
		let_renumbered_go(s);
	free(s->v);
	s->v = NULL;
	s->n = s->cap = 0;
}
