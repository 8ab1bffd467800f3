/* SPDX-License-Identifier: MIT */
/*
 * pyleakctl: what a run of it knows. main.c hands over the streams, so that tests can read along.
 */
#ifndef PYLEAK_CTL_CTL_H
#define PYLEAK_CTL_CTL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "ctl/table.h"

struct ctl {
	FILE *out, *err;
	bool out_terminal, err_terminal; /* plots and progress lines are for terminals */
	bool colour;
	unsigned columns; /* of the terminal */
	int64_t now_ms;

	const char *socket;
	bool json;
	struct scratch *scratch; /* cleaned texts, until the end */
};

/* The whole program; returns its exit code. */
int ctl_main(struct ctl *c, int argc, char **argv);

/* One line on err: "pyleakctl: ...". Returns code. */
int ctl_fail(struct ctl *c, int code, const char *fmt, ...) _printf_(3, 4);

/* The number of a process; else an error line and EXIT_USAGE. */
int ctl_pid(struct ctl *c, const char *s, pid_t *ret);

/* A copy of s that may be printed (text_clean()), valid until ctl_release(); "?" for NULL. */
const char *ctl_clean(struct ctl *c, const char *s);
/* The string under key, cleaned; "-" if it is null, missing or no string. */
const char *ctl_string(struct ctl *c, const json_t *object, const char *key);
/* Frees those. ctl_main() does it at its end. */
void ctl_release(struct ctl *c);

#endif
