/* SPDX-License-Identifier: MIT */
/*
 * Asking the daemon, with a line on the terminal while that takes time.
 */
#ifndef PYLEAK_CTL_DAEMON_H
#define PYLEAK_CTL_DAEMON_H

#include <jansson.h>

#include "ctl/ctl.h"
#include "daemon/util/err.h"

/* The line that says that something goes on; nothing without a terminal. */
struct wait {
	struct ctl *c;
	char text[256];
	uint64_t since_ns;
	bool shown;
};

struct wait wait_begin(struct ctl *c, const char *text);
/* arg is the struct wait; progress NULL: only time has passed. */
void wait_on(void *arg, const char *progress);
void wait_end(struct wait *w);

/* An exit code, with err filled unless it is EXIT_FINE. patient: however long it takes. *ret and
 * *ret_fd as client_call() has them. */
int daemon_call(struct ctl *c, const char *verb, json_t *stolen_args, bool patient, json_t **ret,
	int *ret_fd, struct err *err);

/* The same, with the error on c->err unless it is EXIT_FINE. */
int daemon_ask(struct ctl *c, const char *verb, json_t *stolen_args, bool patient, json_t **ret,
	int *ret_fd);

#endif
