/* SPDX-License-Identifier: MIT */
/*
 * pyleakd --support: what this host can do and each running Python, for a person or a bug report.
 */
#ifndef PYLEAK_WATCH_SUPPORT_H
#define PYLEAK_WATCH_SUPPORT_H

#include <stdbool.h>
#include <stdio.h>

/* Prints a table, or one JSON document. Returns an exit code: EXIT_FINE, or EXIT_REFUSED when
 * this host cannot watch anything. */
int support_print(FILE *f, bool json);

#endif
