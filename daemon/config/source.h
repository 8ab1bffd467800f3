/* SPDX-License-Identifier: MIT */
/*
 * Configuration files in memory, and what is said about places in them:
 *
 *   /etc/pyleak/pyleakd.yaml:7:11: growth.window: '30' has no unit, …
 *     window: 30
 *             ^
 */
#ifndef PYLEAK_CONFIG_SOURCE_H
#define PYLEAK_CONFIG_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "daemon/util/err.h"

#define SOURCE_BYTES_MAX (1 << 20)

struct source {
	char *path;
	char *text; /* NUL after `size` bytes */
	size_t size;
};

struct place {
	const struct source *source; /* NULL: no place, the setting was not given */
	size_t line, column;         /* from 0; columns are characters */
};

/* Reads a whole file. -EFBIG above SOURCE_BYTES_MAX, -EISDIR, -ENOENT …, with err. */
int source_read(const char *path, struct source **ret, struct err *err);
void source_free(struct source *s);

/* Line and column of a byte. */
struct place source_place(const struct source *s, size_t offset);

/* The byte at which a place's line begins. */
size_t source_offset(const struct place *p);

/* "path:line:col: " text, the line of the source, the caret. What a terminal would act on is shown
 * as '?', and of a long line only what is around the caret. */
void source_report(FILE *f, const struct place *p, const char *text);

#endif
