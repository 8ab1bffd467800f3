/* SPDX-License-Identifier: MIT */
/*
 * Questions to one snapshot, or to two, and their answers as JSON documents (INTERFACE.md). Large
 * lists are written as they are found and never held.
 */
#ifndef PYLEAK_GRAPH_ASK_H
#define PYLEAK_GRAPH_ASK_H

#include <jansson.h>

#include "graph/explain.h"

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
	struct graph *g;         /* is indexed on the way */
	const json_t *meta;      /* its snapshot's description, an object, or NULL */
	const struct graph *before;   /* of ASK_DIFF: the older one */
	const json_t *before_meta;
	const char *const *types;
	const uint64_t *addrs;
	size_t n_types, n_addrs;
	uint32_t max_depth, too_many;
	uint64_t limit; /* of a list; 0: none */
	void (*progress)(const char *what); /* may be NULL */

	FILE *json;
	FILE *dot;  /* of chain, backrefs and refs; may be NULL */
	bool drawn; /* dot is for Graphviz, which must come to an end, and for eyes */
	FILE *heap; /* ASK_EXPORT: the .heapsnapshot */
	/* Out: what is missing of the answer and why, when the time was up (graph.h, stop); or NULL. */
	const char *cut_level, *cut_reason;
	size_t nodes;            /* out: boxes in dot */
	struct explanation *x;   /* out, of chain, for the page; may be NULL */
};

/* -ENOENT, -ENOMEM, -EIO. */
int ask(struct ask *q, struct err *err);

#endif
