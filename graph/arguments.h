/* SPDX-License-Identifier: MIT */
/*
 * The worker's command line, as a table: which options there are, for a dump or for a question; help
 * is made from it.
 */
#ifndef PYLEAK_GRAPH_ARGUMENTS_H
#define PYLEAK_GRAPH_ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "graph/worker.h"

#define ARGUMENTS_TYPES_MAX 256
#define ARGUMENTS_ADDRS_MAX 64
#define ARGUMENTS_DEPTH_ANY UINT32_MAX

enum arguments_use {
	ARGUMENTS_DUMP = 1, /* to make a dump's files */
	ARGUMENTS_ASK = 2,  /* to answer a question */
};

struct arguments {
	const char *id, *trigger, *final_dir, *format;
	const char *types[ARGUMENTS_TYPES_MAX];
	uint64_t grown[ARGUMENTS_TYPES_MAX];
	uint64_t addrs[ARGUMENTS_ADDRS_MAX];
	size_t n_types, n_addrs, max_paths;
	uint32_t max_depth, too_many; /* ARGUMENTS_DEPTH_ANY, 0: not given */
	uint64_t limit;
	uint64_t memory_bytes;
	struct worker_time time;
	char **words; /* what is no option */
	int n_words;
};

/* -1: go on; else the exit code: what is wrong was logged, or --help or --version was printed. *a
 * has the defaults of what is not given. */
int arguments_parse(struct arguments *a, enum arguments_use use, int argc, char **argv);

#endif
