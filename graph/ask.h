/* SPDX-License-Identifier: MIT */
/*
 * Questions to one snapshot, or to two, and their answers as JSON documents (INTERFACE.md). Large
 * lists are written as they are found and never held.
 */
#ifndef PYLEAK_GRAPH_ASK_H
#define PYLEAK_GRAPH_ASK_H

#include <jansson.h>
#include <signal.h>

#include "graph/explain.h"

#define ASK_ADDRS_MAX 64
#define ASK_TYPES_MAX 64

enum ask_verb {
	ASK_CHAIN,
	ASK_BACKREFS,
	ASK_REFS,
	ASK_TYPES,
	ASK_INSTANCES,
	ASK_DIFF,
	ASK_DOMINATORS,
	ASK_LEAKING,
	ASK_CYCLES,
	ASK_EXPORT,
};

struct ask {
	enum ask_verb verb;
	const char *types[ASK_TYPES_MAX];
	uint64_t addrs[ASK_ADDRS_MAX];
	size_t n_types, n_addrs;
	uint32_t max_depth, too_many;
	uint64_t limit; /* of a list; 0: none */
	const char *name;
	/* Looked at now and then: when it is not 0, what is known so far is the answer. May be NULL. */
	const volatile sig_atomic_t *stop;
	void (*progress)(const char *what); /* may be NULL */

	FILE *json;
	FILE *dot;  /* of chain, backrefs and refs; may be NULL */
	bool drawn; /* dot is for Graphviz, which must come to an end, and for eyes */
	FILE *heap; /* ASK_EXPORT: the .heapsnapshot */
	size_t nodes;            /* out: boxes in dot */
	struct explanation *x;   /* out, of chain, for the page; may be NULL */
};

/* g is indexed on the way; before is the older one of ASK_DIFF, else NULL. meta and before_meta
 * (objects or NULL) are the snapshots' descriptions. -ENOENT, -ENOMEM, -EIO. */
int ask(struct ask *q, struct graph *g, const json_t *meta, const struct graph *before,
	const json_t *before_meta, struct err *err);

#endif
