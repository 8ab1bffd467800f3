/* SPDX-License-Identifier: MIT */
/*
 * Reads the memory of targets (daemon/python/blocks.h), one at a time and in a thread of its own: a
 * gigabyte takes a quarter of a second, and the event loop has others to answer meanwhile. Nothing
 * is shared with the thread but the reading itself; what came of it is told in the event loop.
 */
#ifndef PYLEAK_WATCH_READER_H
#define PYLEAK_WATCH_READER_H

#include <systemd/sd-event.h>

#include "daemon/python/blocks.h"

struct reader;

int reader_new(sd_event *e, struct reader **ret);
/* Ends a reading that is under way; nobody is told. NULL is fine. */
void reader_free(struct reader *r);

/* Takes the reading over and starts it when those before it are done. done() is called in the event
 * loop with what blocks_run() returned; the reading is freed after it. -ENOMEM: it still is the
 * caller's. */
int reader_ask(struct reader *r, struct blocks_reading *b,
	void (*done)(void *userdata, const struct blocks_reading *b, int result), void *userdata);

/* The one who asked is gone: its done() is not called. */
void reader_forget(struct reader *r, const void *userdata);

#endif
