/* SPDX-License-Identifier: MIT */
/*
 * The control socket: accepts connections, reads requests (include/pyleak/control.h), authorises
 * them by SO_PEERCRED and hands them to the handler the daemon registered. Knows nothing of what
 * the verbs mean.
 */
#ifndef PYLEAK_SERVE_SERVE_H
#define PYLEAK_SERVE_SERVE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#include "daemon/util/err.h"

struct serve;
struct serve_request; /* one request in flight; ends with exactly one reply */

struct serve_peer {
	pid_t pid;
	uid_t uid;
	gid_t gid;
	bool privileged; /* root, or in group `pyleak` */
};

/* Called for each request. args is a JSON object (borrowed, never NULL). The handler replies at
 * once or later; it must reply once. */
typedef void (*serve_handler)(struct serve_request *q, const char *verb, json_t *args,
	const struct serve_peer *peer, void *userdata);

/* Binds path (mode 0666; its folder is made 0755 if missing). A live socket there: -EADDRINUSE,
 * err names the pid that listens; a stale one is replaced. If systemd passed a listening socket,
 * that is used. */
int serve_open(sd_event *event, const char *path, serve_handler handler, void *userdata,
	struct serve **ret, struct err *err);
/* Closes, removes the socket file. Requests in flight get an error reply and then count as hung
 * up. Not to be called from a handler. */
void serve_free(struct serve *s);

/* Replies. result is stolen. fd (-1: none) is sent along and stays the caller's. The request is
 * gone afterwards. If the client has hung up, nothing happens. */
void serve_reply(struct serve_request *q, json_t *result, int fd);
void serve_reply_error(struct serve_request *q, int exit_code, const char *fmt, ...) _printf_(3, 4);
void serve_progress(struct serve_request *q, const char *fmt, ...) _printf_(2, 3);

/* Called when the client hangs up before the reply (may be NULL); the request is gone after it
 * returns and must not be replied to. */
void serve_request_on_hangup(struct serve_request *q, void (*f)(void *), void *arg);

/* Instead of 30 s for a half request or an answer that is not taken, 5 min for a silent
 * connection; tests do not want to wait. */
void serve_set_timeouts(struct serve *s, uint64_t request_us, uint64_t idle_us);
/* Instead of `pyleak`, which a test machine need not have. name must stay. */
void serve_set_group(struct serve *s, const char *name);

#endif
