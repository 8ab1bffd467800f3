/* SPDX-License-Identifier: MIT */
/*
 * Recordings: what the growth model saw, so that it can be run over it again with other settings, and
 * so that its tests are real programs. docs/recordings.md describes the format.
 */
#ifndef PYLEAK_RECORD_RECORD_H
#define PYLEAK_RECORD_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "daemon/track/track.h"
#include "daemon/util/err.h"

#define RECORD_MAGIC   "pyleak-recording 1"
#define RECORD_MAX     (INT64_C(1) << 30) /* bytes; then it ends */
#define RECORD_TEXT    512                /* of a name or a service, at most */
#define RECORD_TARGETS 4096               /* in one recording */
#define RECORD_TYPES   262144             /* of all of them */

/* ---- writing ---- */

struct record_writer;

/* Makes the file, 0600; one that is there is not written over. What is written later and cannot be is
 * logged once, and the recording ends. */
int record_create(const char *path, struct record_writer **ret, struct err *err);
void record_close(struct record_writer *w);

/* The settings in force from here on. w may be NULL here and below: nothing is recorded. */
void record_config(struct record_writer *w, const struct track_config *c);
/* A target, by its number in the recording, which is never used twice; 0: it is not recorded. */
unsigned record_target(struct record_writer *w, pid_t pid, int64_t start_ms, const char *service);
void record_target_gone(struct record_writer *w, unsigned target);
/* A sample of a type: all with the same at_ms belong together. judged: verdicts on it count. */
void record_point(struct record_writer *w, unsigned target, uint64_t key, const char *name, bool judged,
	const struct track_point *p);
/* What the load shows in, of the sample that is under way. */
void record_gauges(struct record_writer *w, unsigned target, const struct track_gauges *g);
/* All points of the sample at at_ms have been given: of types that were in the one before and are not
 * in this, nothing was known. */
void record_sample(struct record_writer *w, unsigned target, int64_t at_ms);

/* ---- reading ---- */

struct record_handler {
	void *arg;
	int (*config)(void *arg, const struct track_config *c);
	int (*target)(void *arg, unsigned target, pid_t pid, int64_t start_ms, const char *service);
	int (*gone)(void *arg, unsigned target);
	int (*type)(void *arg, unsigned target, uint64_t key, const char *name);
	int (*judged)(void *arg, unsigned target, uint64_t key);
	int (*gauges)(void *arg, unsigned target, int64_t at_ms, const struct track_gauges *g);
	int (*point)(void *arg, unsigned target, uint64_t key, const struct track_point *p);
	int (*sample)(void *arg, unsigned target, int64_t at_ms);
};

/* Reads to the end; the gauges of a sample, where there are any, come before its points; a handler's negative result ends it. -EBADMSG with err, which names the line, where
 * the file is none or not whole: what came before has been handed over. Whatever is in the file, memory
 * stays within the limits above. */
int record_read(FILE *f, const struct record_handler *h, struct err *err);

#endif
