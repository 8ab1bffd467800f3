/* SPDX-License-Identifier: MIT */
/*
 * The daemon as pyleakctl sees it: one request, progress while it lasts, one answer.
 */
#ifndef PYLEAK_CTL_CLIENT_H
#define PYLEAK_CTL_CLIENT_H

#include <jansson.h>

#include "daemon/util/err.h"

struct client;

/* All return an exit code of control.h (EXIT_FINE is 0) with err filled unless it is that. */
int client_open(const char *path, struct client **ret, struct err *err);
void client_close(struct client *c);
void client_closep(struct client **c);

struct client_call {
	const char *verb;
	json_t *args;   /* borrowed; NULL: none */
	int silence_ms; /* give up when nothing comes for so long; 0: never */
	int tick_ms;    /* call on_wait at least so often; 0: only for progress */
	void (*on_wait)(void *arg, const char *progress); /* progress NULL: none yet, or a tick */
	void *arg;
};
/* *ret is a new reference. *ret_fd (may be NULL: then a descriptor that comes is closed) is a
 * descriptor that came with the answer, or -1. */
int client_call(struct client *c, const struct client_call *call, json_t **ret, int *ret_fd,
	struct err *err);

#endif
