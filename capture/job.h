/* SPDX-License-Identifier: MIT */
/*
 * One capture: the request, what is known of the target, and what it cost so far. The phases, each
 * with its file: preflight, stop + gate, loan (a stopped thread's registers for one system call),
 * fork, child (the walker), graph + roots + labels, snapshot.
 */
#ifndef PYLEAK_CAPTURE_JOB_H
#define PYLEAK_CAPTURE_JOB_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/python/python.h"
#include "daemon/util/err.h"
#include "include/pyleak/capture.h"

/*
 * Steps at which the tests let the helper kill itself (capture_request.die_at). Wherever that is,
 * the target must live on with its exact state.
 */
enum step {
	STEP_FORK_FRAMES = 1,  /* frames written below the stack */
	STEP_FORK_REGS,        /* registers set, mask not yet */
	STEP_FORK_MASK,        /* mask set */
	STEP_FORK_RUNNING,     /* on its way into clone() */
	STEP_FORK_CLONED,      /* stopped at the clone event */
	STEP_FORK_BACK,        /* stopped in the kernel's signal code */
	STEP_FORK_MASK_BACK,   /* mask restored, registers not yet */
	STEP_FORK_REGS_BACK,   /* both restored */
	STEP_FORK_RELEASED,    /* target detached, the copy not ours alone yet */
	STEP_FORK_CHILD_OWNED, /* the copy dies with us */
	STEP_CHILD_READY,      /* walker mapped in */
	STEP_CHILD_WALKING,    /* first buffer drained */
	STEP_CHILD_KILLED,     /* copy dead, not reaped in the target */
	STEP_REAP_FRAMES,      /* as above, for wait4() */
	STEP_REAP_REGS,
	STEP_REAP_MASK,
	STEP_REAP_ENTRY, /* stopped at wait4()'s entry */
	STEP_REAP_BACK,
	STEP_REAP_MASK_BACK,
	STEP_REAP_REGS_BACK,
	STEP_REAP_RELEASED,
	STEP_WRITING, /* before the snapshot is written */
	STEP_LAST = STEP_WRITING,
};

struct loan_places;

struct target_facts {
	int threads;
	bool other_pid_ns; /* its numbers of threads are not ours */
	uint64_t rss_anon_bytes;
	uint64_t page_table_bytes;
	uint64_t stack_start; /* of its program image: another one after exec */
};

/* How much of the heap the snapshot holds; each is tried when the one before it takes too much memory
 * or time. */
enum level {
	LEVEL_WHOLE,
	LEVEL_OBJECTS,       /* whole, but for what `truncated_why` says */
	LEVEL_NEIGHBOURHOOD, /* the suspects and what leads to them */
	LEVEL_COUNTS,        /* every object, nothing of what refers to what */
};

struct job {
	struct capture_request req;
	char types[CAPTURE_TYPES_MAX + 1]; /* of the suspects, each with its NUL */
	size_t types_bytes;
	int sock;      /* to the daemon */
	int out;       /* snapshot file */
	int wake;      /* signalfd of SIGCHLD: some tracee changed */
	int target_fd; /* pidfd of the target */
	int lock;      /* one capture per host */

	uint64_t began_ns, deadline_ns; /* monotonic */
	struct python *python;
	struct python_rings rings;
	struct proc_info info;
	struct target_facts facts;
	struct loan_places *places; /* loan.h */
	pid_t pid;                  /* target */
	pid_t child;                /* frozen copy, 0: none */
	int child_fd;               /* pidfd of that */
	pid_t lender;               /* the thread that made it */
	pid_t child_inside;         /* as the target's pid namespace numbers it */

	uint64_t predicted_ns;
	uint64_t stop_ns;       /* the stop that worked */
	uint64_t reap_ns;       /* the second one */
	uint64_t gate_stops_ns; /* stops that led to nothing, summed */
	unsigned tries;
	uint32_t skipped;
	bool clone_refused;           /* by the kernel, so that the next try looks closer */
	bool seccomp_lifted;          /* the lender's filter, if any, for our one system call */
	enum capture_refusal refusal; /* not set: told by the errno */
	enum level level;
	char truncated_why[256];
};

/* Kills the helper, or the daemon, on the spot if the request asks for that at this step (tests). */
void job_die_at(const struct job *j, enum step step);

/* As err_set(), and notes which guard says no. */
int job_refuse(struct job *j, enum capture_refusal why, struct err *err, int r, const char *fmt, ...)
	_printf_(5, 6);

/* Which one it was that ended the capture with r. */
enum capture_refusal job_refusal(const struct job *j, int r);

/* Time left until the deadline, at most max_ns. */
uint64_t job_time_left(const struct job *j, uint64_t max_ns);

/*
 * How urgent the calling thread's work is. While the target stands still: nobody must come between.
 * Else it is one among others: the target may want the processor. Not less than that: at nice 10 on
 * a busy host writing the snapshot took longer than dump.deadline. Needs CAP_SYS_NICE; without
 * it a stop is as long as the scheduler makes it.
 */
enum hurry {
	HURRY_STOP = -15,
	HURRY_COPY = 0,
};
void job_hurry(enum hurry hurry);

/*
 * Before the copy is killed. As nice as it is it would end late on a busy host, and until then the target's
 * writes still take memory for it. At the limit the OOM killer takes the copy once, and then, when
 * the dying copy has unmapped its memory but not given it back yet (exit_mmap() sets MMF_OOM_SKIP
 * before it frees what it gathered), the target.
 */
void job_end_soon(const struct job *j);

void job_progress(const struct job *j, const char *fmt, ...) _printf_(2, 3);

/* Notes why the graph is not whole; the first reason stays, beside the last level. */
void job_truncate(struct job *j, enum level level, const char *fmt, ...) _printf_(3, 4);

const char *job_level(enum level level);

#endif
