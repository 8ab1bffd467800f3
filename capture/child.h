/* SPDX-License-Identifier: MIT */
/*
 * The frozen copy while it lives: the walker mapped in, run, drained, watched.
 *
 * The copy never runs code of the target's own accord and makes no system call by itself: it is
 * resumed with PTRACE_SYSEMU, under which a system call is a stop and nothing more. guard.h says
 * when it is killed early.
 */
#ifndef PYLEAK_CAPTURE_CHILD_H
#define PYLEAK_CAPTURE_CHILD_H

#include "capture/guard.h"
#include "capture/job.h"
#include "include/pyleak/walk.h"

/*
 * What the copy gets mapped in, all of it charged to the target's control group: two buffers, of which
 * one is read while the walker fills the other, half a MiB of addresses to expand, context (types
 * it has seen) and stack. Buffers of this size stay in a processor's cache on their way; with 2 MiB
 * a walk took half as long again.
 */
#define CHILD_UNITS_BYTES ((size_t)512 << 10) /* both */
#define CHILD_BATCH_BYTES ((size_t)512 << 10)
#define CHILD_STACK_BYTES ((size_t)1 << 20)

struct graph;
struct view;

struct walker {
	struct job *job;
	struct graph *graph;
	struct guard *guard;
	uint64_t code, code_end; /* addresses in the copy */
	uint64_t ctx, stack_top, units, in;
	uint64_t sp;             /* of the thread that was copied */
	unsigned half;           /* of units: the one the walker fills */
	uint64_t full;           /* the other, and how many units of it have not been taken yet */
	size_t n_full;
	struct walk_unit *local; /* for those */
	uint64_t began_ns;
	uint32_t faults;
	bool first_drain, hurried, running;
	uint64_t until_ns; /* monotonic: a walk that is not done then takes too long */
	char too_much[160]; /* why -E2BIG */
};

/* Maps the walker into j->child; v: a view of the same. */
int child_setup(struct walker *w, struct job *j, struct graph *g, struct view *v,
	struct guard *guard, struct err *err);
void child_release(struct walker *w);

/* Every object in the collector's rings into the graph, as g->keep says; may be done again.
 * -E2BIG: that takes too much memory or time, try less. */
int child_walk_rings(struct walker *w, struct err *err);

/* The objects the graph has queued, and what they lead to, until there is nothing new; likewise. */
int child_expand(struct walker *w, struct err *err);

#endif
