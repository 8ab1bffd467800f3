/* SPDX-License-Identifier: MIT */
/*
 * Work on hostile snapshots, in three processes. The first one opens every file that is needed and
 * never looks at their content. The second, in a sandbox, reads snapshots and writes the answer.
 * The third, in its own, has Graphviz draw the picture: if it crashes or takes too long there is
 * no picture, and the answer says why.
 */
#ifndef PYLEAK_GRAPH_WORKER_H
#define PYLEAK_GRAPH_WORKER_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/util/err.h"

/* 10 million objects with 40 million references take 1.6 GB and 15 s. */
#ifdef __SANITIZE_ADDRESS__
#define WORKER_MEMORY_DEFAULT 0 /* the sanitizer's shadow alone is terabytes of address space */
#else
#define WORKER_MEMORY_DEFAULT (4ull << 30)
#endif
#define WORKER_CPU_DEFAULT_NS 80000000000u

/* CPU time of the answering process: to the end of its search, when what is known is the answer, and to
 * its own end. */
struct worker_time {
	bool endless;
	uint64_t stop_ns, limit_s;
};

/* By the limit (0: none), or by when the answer is wanted. */
struct worker_time worker_time_limit(uint64_t ns);
struct worker_time worker_time_to_answer(uint64_t ns);

struct worker_outcome {
	bool drawn;
	char reason[256]; /* why not */
};

struct worker {
	const char *name; /* of what is read, for messages */
	uint64_t memory_bytes;
	struct worker_time time;
	int dot_fd, picture_fd; /* the latter is written if worker_draw() was called */
	const char *format;     /* of the picture: what Graphviz calls it */
	/* Runs in the second process. 0, -ENOENT (the answer is no), or another error. */
	int (*answer)(const struct worker *w, int talk, struct err *err);
	void *arg;
};

/* Exit code of control.h; errors are logged. */
int worker_run(const struct worker *w, struct worker_outcome *o);

/* In answer(): is set when the search has to end; what is known then is the answer. */
const volatile sig_atomic_t *worker_clock(const struct worker *w);

/* In answer(), when the DOT is written: has it drawn, and waits for that. -EPIPE. */
int worker_draw(int talk, struct worker_outcome *o, struct err *err);

/* A stream over a copy of fd, at its start; or NULL. */
FILE *worker_stream(int fd, const char *mode);

/* All of a file of at most max bytes, with a NUL; to be freed; or NULL. */
char *worker_read(int fd, size_t max);

#endif
