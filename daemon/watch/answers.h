/* SPDX-License-Identifier: MIT */
/*
 * The verbs of the control socket: from a request to the JSON document INTERFACE.md describes.
 * Authorisation: root and group `pyleak` may ask everything; another user only about its own
 * processes and their dumps.
 */
#ifndef PYLEAK_WATCH_ANSWERS_H
#define PYLEAK_WATCH_ANSWERS_H

#include "daemon/serve/serve.h"
#include "daemon/watch/watch.h"

/* serve_handler; userdata is the struct watch. */
void answer_request(struct serve_request *q, const char *verb, json_t *args,
	const struct serve_peer *peer, void *userdata);

#endif
