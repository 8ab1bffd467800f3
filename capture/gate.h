/* SPDX-License-Identifier: MIT */
/*
 * The gate: a moment at which nobody is in the middle of changing the heap.
 *
 * The collector is idle, and either the GIL is free and every thread stands still, or its holder
 * stands in _PyEval_EvalFrameDefault or in a system call that it was blocked in. In a function
 * that the interpreter calls, a list may be half resized: without the gate walks met torn heaps.
 * Nobody is held while we wait for the moment: look, let go, look again.
 */
#ifndef PYLEAK_CAPTURE_GATE_H
#define PYLEAK_CAPTURE_GATE_H

#include "capture/job.h"
#include "capture/stop.h"

struct gate {
	uint64_t eval_start, eval_end; /* _PyEval_EvalFrameDefault */
	uint64_t gil;                  /* address of its struct, 3.12+; else 0 */
	uint64_t locked, holder;       /* addresses: int, PyThreadState * */
	uint64_t collecting;           /* address: int */
	int off_native_id, off_thread_id;
	unsigned unfit; /* tries in which all waited and none could lend */
};

/* -EOPNOTSUPP: what the gate needs to know is not in this Python. */
int gate_init(struct gate *g, const struct job *j, struct err *err);

/*
 * Tries until the gate opens. On success the threads in s that must be stopped are, and *ret is
 * the one whose registers may be borrowed (checked by loan_check()). Counts tries and the time
 * of stops that led to nothing in j. -EAGAIN: it did not open before the deadline; -EBUSY: the
 * target is stopped (SIGSTOP) or traced; -ESRCH.
 */
int gate_open(struct gate *g, struct job *j, struct stop *s, struct thread **ret, struct err *err);

#endif
