/* SPDX-License-Identifier: MIT */
/*
 * Answers GET /metrics over HTTP, in the daemon's own event loop. What is answered is the caller's: this
 * knows no metric. The only place that knows libmicrohttpd.
 *
 * Whoever can reach the address can read: it is loopback unless configured otherwise. Nothing else is
 * served, nothing is read from a request but method and path; connections are few and short.
 */
#ifndef PYLEAK_SERVE_HTTP_H
#define PYLEAK_SERVE_HTTP_H

#include <stdio.h>
#include <systemd/sd-event.h>

#include "daemon/util/err.h"

struct http;

/* Writes the answer: text in the Prometheus exposition format 0.0.4. */
typedef void (*http_write)(FILE *f, void *userdata);

/* Listens at "127.0.0.1:9477" or "[::1]:9477". -EADDRINUSE, -EADDRNOTAVAIL, -EACCES, ... with err. */
int http_open(sd_event *e, const char *listen, http_write write, void *userdata, struct http **ret,
	struct err *err);
/* NULL is fine. */
void http_free(struct http *h);

#endif
