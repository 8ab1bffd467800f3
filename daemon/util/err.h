/* SPDX-License-Identifier: MIT */
/*
 * An error that a person reads: a negative errno for the program, one sentence for the user.
 *
 * Library code does not log. A function that can fail for a reason the caller cannot know takes
 * a `struct err *` (which may be NULL) and fills it with one line that names the object, the
 * cause and the remedy, without a newline and without a trailing full stop. The caller decides
 * whether to log it, to send it to a client or to drop it.
 */
#ifndef PYLEAK_UTIL_ERR_H
#define PYLEAK_UTIL_ERR_H

#include "daemon/util/macros.h"

struct err {
	char msg[512];
};

/* Sets the message (if e is not NULL) and returns code, so that it can end a function:
 * `return err_set(err, -ENOENT, "pid %d: no such process", pid);` Overwrites an older message. */
int err_set(struct err *e, int code, const char *fmt, ...) _printf_(3, 4);

/* Puts "text: " before the message that is there; returns code. */
int err_prefix(struct err *e, int code, const char *fmt, ...) _printf_(3, 4);

#endif
