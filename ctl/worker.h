/* SPDX-License-Identifier: MIT */
/*
 * pyleak-explain as pyleakctl runs it: what reads a dump, which may come from anywhere, runs there
 * in a sandbox, never here. See graph/ask_main.h.
 */
#ifndef PYLEAK_CTL_WORKER_H
#define PYLEAK_CTL_WORKER_H

#include <stddef.h>

#include "daemon/util/err.h"

struct worker_call {
	const char *const *argv; /* behind "pyleak-explain ask"; ends with NULL */
	int answer_fd;           /* takes the answer */
	int output_fd;           /* takes the file that was asked for; -1: none */
	int snapshot_fds[2];     /* -1: none */
	int tick_ms;             /* call on_wait at least so often */
	void (*on_wait)(void *arg, const char *progress); /* progress NULL: a tick */
	void *arg;
	size_t boxes; /* out: of the picture */
};

/* An exit code of control.h, with err filled unless it is EXIT_FINE. */
int worker_call(struct worker_call *w, struct err *err);

#endif
