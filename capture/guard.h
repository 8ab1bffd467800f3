/* SPDX-License-Identifier: MIT */
/*
 * Watches over the target while its copy lives, and kills the copy at once when the target ends or
 * execs (the copy shares its descriptors: a listening port would stay bound), when memory runs
 * short, at the deadline, or when nobody waits for the snapshot any more.
 *
 * A thread of its own, the only one: what the main thread does with the copy (reading names,
 * building maps) takes as long as it takes, and memory that the target's writes use up meanwhile
 * does not wait for it. It only looks and kills; ptrace stays with the main thread.
 */
#ifndef PYLEAK_CAPTURE_GUARD_H
#define PYLEAK_CAPTURE_GUARD_H

#include <pthread.h>
#include <stdatomic.h>

#include "capture/job.h"

struct memory_groups;

struct guard {
	const struct job *job;
	const struct memory_groups *memory;
	pthread_t thread;
	bool started;
	int stop;     /* eventfd: end of the watch */
	unsigned looks;
	uint64_t stalled_us[2]; /* for memory when the copy was made: group, host */
	atomic_int fired; /* negative errno: why the copy was killed */
	struct err err;   /* the same in words; valid once fired */
	enum capture_refusal refusal; /* and for a machine, where the errno leaves it open */
};

/* Starts watching over j->child. */
int guard_start(struct guard *g, const struct job *j, const struct memory_groups *memory, struct err *err);

/* 0, or why the copy was killed, by us or by somebody else. Of one that is dying the end is waited for so
 * long. */
int guard_check(struct guard *g, int wait_ms, struct err *err);

/* Ends the watch. Harmless if it was never started. */
void guard_stop(struct guard *g);

#endif
