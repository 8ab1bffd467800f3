/* SPDX-License-Identifier: MIT */
/*
 * A loan: the registers of one stopped thread of the target, for one system call.
 *
 * Before anything changes, two signal-return frames are written below the thread's red zone, as
 * the kernel itself writes them for signal handlers: one that restores the thread's exact state
 * (registers, FPU and vector state, signal mask), one that ends a process. The stack pointer is
 * set so that the `ret` behind the system call runs into rt_sigreturn(). So if the helper dies at any
 * instruction, the kernel puts the thread back by itself, and the copy ends.
 *
 * Registers are set before the mask and put back after it: the other way round a death between
 * the two would leave every signal blocked for good.
 */
#ifndef PYLEAK_CAPTURE_LOAN_H
#define PYLEAK_CAPTURE_LOAN_H

#include "capture/job.h"
#include "capture/stop.h"

/* What is needed of the target's libc: addresses of instructions that are there already. */
struct loan_places {
	uint64_t syscall_ret;  /* syscall; ret */
	uint64_t sigreturn;    /* mov $15, %rax; syscall */
	struct proc_maps maps; /* of the target, where its stacks are */
	uint64_t maps_at_ns;
	int mem; /* /proc/PID/mem: of that program image, whatever the process executes later */
};

/* Exit status of a copy that ended by its own frame; tells our zombies from the target's. */
#define LOAN_EXIT_STATUS 107

#define LOAN_PLACES_NONE ((struct loan_places){.mem = -1})

/* Finds the places. -EOPNOTSUPP: no glibc, or not of that shape. */
int loan_find_places(const struct job *j, struct loan_places *ret, struct err *err);
void loan_places_release(struct loan_places *p);

/* Whether they still are what was found: not after an exec, when other code, or none, stands at these
 * addresses. It stays so as long as a thread of the process is stopped: an exec would have killed it. */
bool loan_places_hold(const struct job *j);

/* Reads the mappings again if they are older than a quarter of a second or `force`. Between
 * tries, not during a stop. */
int loan_refresh(struct job *j, bool force);

/* Whether t can lend: on its own stack with 16 KiB to spare, not inside of a restartable
 * sequence. 0 or -EAGAIN. */
int loan_check(const struct job *j, struct thread *t);

struct loan {
	const struct job *job;
	struct thread *thread;
	uint64_t mask;             /* signals the thread blocked */
	uint64_t sp_back, sp_exit; /* where the two frames begin */
	bool armed;                /* registers are not the thread's own */
	bool reap;                 /* which family of steps the tests can stop at */
	int signal;                /* was about to be delivered: give it back when detaching */
};

/* Writes the frames; nothing of the thread has changed after this. -ESRCH: the process executes
 * another program by now. */
int loan_begin(struct loan *l, const struct job *j, struct thread *t, bool reap, struct err *err);

/* With the thread in a stop inside of the kernel's signal code: sets the registers for the call,
 * then blocks all signals. */
int loan_arm(struct loan *l, uint64_t nr, const uint64_t args[6], struct err *err);

/* Lets it run to its next stop: entry of the call, event, stop signal. how: PTRACE_CONT or
 * PTRACE_SYSCALL. -ETIMEDOUT: there was none within timeout_ns. */
int loan_run(struct loan *l, int how, uint64_t timeout_ns, int *ret_status, struct err *err);

/* From a stop before or inside of the call to a stop inside of the kernel's signal code behind it.
 * *ret_value: what the call answered. */
int loan_rest(struct loan *l, int64_t *ret_value, struct err *err);

/* Whether a stopped thread is on loan still: armed, in the call, or on its way back from it. If it is
 * not it went back by its frame, its registers are its own, and nothing must be put back. */
bool loan_is_out(const struct loan *l);

/* From there: mask back, then registers. The thread stays stopped. A fault it ran into on loan is no signal
 * of its own, and is forgotten. */
int loan_restore(struct loan *l, struct err *err);

/* Whether a stop is one inside of the kernel's signal code, where a system call that was
 * interrupted is started again by the kernel itself. */
bool loan_in_signal_code(struct loan *l, int status);

/* Lets the thread run: with its own state after loan_restore(), else by its frame. */
void loan_release(struct loan *l);

#endif
