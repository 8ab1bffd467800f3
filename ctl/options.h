/* SPDX-License-Identifier: MIT */
/*
 * The command line as tables: which verbs there are, what each takes; help is made from them.
 */
#ifndef PYLEAK_CTL_OPTIONS_H
#define PYLEAK_CTL_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/util/err.h"

#define OPTIONS_WORDS_MAX 4
#define OPTIONS_TYPES_MAX 16

enum option {
	OPTION_SOCKET,
	OPTION_JSON,
	OPTION_HELP,
	OPTION_VERSION,
	OPTION_N,
	OPTION_FRESH,
	OPTION_SINCE,
	OPTION_TYPE,
	OPTION_STEP,
	OPTION_NO_WAIT,
	OPTION_FORCE,
	OPTION_OUTPUT,
	OPTION_ADDR,
	OPTION_MAX_DEPTH,
	OPTION_TOO_MANY,
	OPTION_CONFIG,
	OPTION_INTERVAL,
	OPTION_WARMUP,
	OPTION_WINDOW,
	OPTION_MIN_OBJECTS,
	OPTION_DEADLINE,
};
#define OPTION_BIT(o) (1u << (o))

struct options {
	const char *words[OPTIONS_WORDS_MAX]; /* what is not an option, the verb not counted */
	unsigned n_words;
	const char *types[OPTIONS_TYPES_MAX];
	unsigned n_types;
	const char *addrs[OPTIONS_TYPES_MAX];
	unsigned n_addrs;
	const char *socket, *since, *step, *output, *max_depth, *too_many, *config, *deadline;
	uint64_t interval_ns, warmup_ns, window_ns, min_objects;
	int64_t n;
	unsigned given; /* OPTION_BIT()s */
};

struct ctl;

struct verb {
	const char *name, *synopsis, *summary;
	const char *help; /* more of it, whole lines, or NULL */
	unsigned options; /* OPTION_BIT()s it takes beside the general ones */
	unsigned min_words, max_words;
	int (*run)(struct ctl *c, const struct options *o);
};

/* Table of verbs, ends with a name of NULL (verbs.c). */
extern const struct verb verbs[];

/* Finds the verb and reads all options, which may stand anywhere; checks their form. 0 with
 * *ret_verb (NULL: none was given, as with a bare --help), or -EINVAL with err. */
int options_parse(
	int argc, char **argv, const struct verb **ret_verb, struct options *ret, struct err *err);

void options_help(FILE *f);
void options_verb_help(FILE *f, const struct verb *v);

#endif
