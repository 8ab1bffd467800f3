/* SPDX-License-Identifier: MIT */
/*
 * Stopping threads of the target for a moment, and letting them go as if nothing had been.
 *
 * PTRACE_SEIZE and PTRACE_INTERRUPT, never ATTACH: no signal is sent. A stop wakes a blocking
 * system call; most are restarted by the kernel, but epoll_wait, recv with a timeout,
 * sigtimedwait and some more would return EINTR to the program. Releasing turns that into a
 * restart that still lets a real signal handler through (-ERESTARTNOHAND).
 *
 * A thread in uninterruptible sleep stops when it wakes up. It is not waited for long: it stays
 * seized and running, and is let go in the moment it stops.
 */
#ifndef PYLEAK_CAPTURE_STOP_H
#define PYLEAK_CAPTURE_STOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "daemon/util/err.h"

enum thread_state {
	THREAD_FREE,    /* not ours */
	THREAD_PENDING, /* seized and asked to stop */
	THREAD_STOPPED, /* in a ptrace stop */
	THREAD_GONE,
};

struct thread {
	pid_t tid;
	enum thread_state state;
	bool have_regs;
	struct user_regs_struct regs; /* as it stopped */
};

struct stop {
	pid_t pid;
	int wake; /* signalfd of SIGCHLD */
	struct thread *v;
	size_t n, cap;
	bool lost;         /* a thread that we traced is not there any more */
	bool job_control;  /* a thread is in a group stop (SIGSTOP) */
	uint64_t since_ns; /* when the first thread was asked to stop; 0: nobody is */
	uint64_t stopped_ns; /* when the first one did: until then it runs, or waits to */
};

/* Lets every thread go, waiting up to linger_ns for those that have yet to stop, and frees. A
 * thread still pending then will stop, and stay so until the helper ends: linger for long. No
 * thread may be on loan any more. */
void stop_release(struct stop *s, uint64_t linger_ns);

/* Stops one thread. 0; -ESRCH: gone; -ETIMEDOUT: not within timeout_ns (it stays pending);
 * -EPERM: traced by somebody else. */
int stop_thread(struct stop *s, pid_t tid, uint64_t timeout_ns, struct thread **ret);

/* Stops every thread, listing them again until no new one turns up. */
int stop_all(struct stop *s, uint64_t timeout_ns);

/* Lets all stopped threads run on and waits up to linger_ns for pending ones to stop, to let them
 * go too. Returns how many are still pending. */
size_t stop_let_go(struct stop *s, uint64_t linger_ns);

/* Registers of a stopped thread, read once, with stop_fix_eintr() done to them and to the thread. */
int stop_regs(struct thread *t);

/* A thread whose registers were given back is let go. */
int stop_detach(struct thread *t);

/* Waits for the next stop of one tracee: 0 and *ret_status (a stop), -ESRCH gone, -ETIMEDOUT. */
int stop_wait(int wake, pid_t tid, uint64_t timeout_ns, int *ret_status);

/* PURE. rax of an interrupted system call: -EINTR that only our stop can have caused becomes
 * -ERESTARTNOHAND, with which the call begins anew. Whether it was one. */
bool stop_fix_eintr(struct user_regs_struct *r);

/* Whether r is inside of a system call that our stop interrupted (it will be started again). */
bool stop_in_syscall(const struct user_regs_struct *r);

#define STOP_EVENT(status)      ((unsigned)(status) >> 16)
#define STOP_SIGNAL(status)     (((status) >> 8) & 0xff)
#define STOP_IS_SYSCALL(status) (STOP_EVENT(status) == 0 && STOP_SIGNAL(status) == (SIGTRAP | 0x80))

/* Restart codes of the kernel (include/linux/errno.h); they never reach user space. */
#define KERNEL_ERESTARTSYS           512
#define KERNEL_ERESTARTNOINTR        513
#define KERNEL_ERESTARTNOHAND        514
#define KERNEL_ERESTART_RESTARTBLOCK 516

#endif
