/* SPDX-License-Identifier: MIT */
/*
 * A snapshot as a graph: objects are numbers 0 … n_nodes-1 in the order of the file, references
 * are numbers 0 … n_edges-1 in the order of their sources. Everything is flat arrays: 16 bytes a
 * reference, and 4 more for the index by target when somebody asks for it.
 *
 * References to addresses that are no object of the file (outside of what was read) are dropped
 * and counted, as are roots of that kind.
 */
#ifndef PYLEAK_GRAPH_GRAPH_H
#define PYLEAK_GRAPH_GRAPH_H

#include <signal.h>

#include "graph/snapshot.h"

#define GRAPH_NONE UINT32_MAX

struct graph_edge {
	uint32_t to, from;
	uint32_t kind; /* enum snapshot_edge_kind */
	uint32_t arg;
};

struct graph_root {
	uint32_t node;
	uint32_t kind; /* enum snapshot_root_kind */
	uint32_t name; /* string */
	uint32_t edge_kind, edge_arg;
};

/* What C code holds, as far as the capture found it. */
struct graph_holder {
	uint32_t node;
	uint32_t name; /* string */
};

struct graph {
	struct snapshot s; /* without its edges and roots, which have become these */
	struct graph_edge *edges;
	struct graph_root *roots;
	uint32_t *first; /* n_nodes + 1: the references that start at node i are first[i] … */
	struct graph_holder *holders; /* by node */
	uint32_t n_nodes, n_edges, n_roots, n_holders;

	/* After graph_index_referrers(): the references that end at node i are
	 * in[in_first[i]] … in[in_first[i + 1] - 1]. */
	uint32_t *in_first, *in;

	/* Types of one name are one type to the user: same_name[t] is the first type with t's name,
	 * class_of[t] the node that is type t, or GRAPH_NONE. */
	uint32_t *same_name, *class_of;

	uint64_t external_edges, external_roots, duplicate_nodes;

	/* Set by whoever asks, after graph_build(): looked at now and then, and once it is not 0 what is
	 * known so far is the answer. NULL: take as long as it takes. */
	const volatile sig_atomic_t *stop;
};

#define GRAPH_LOOK_EVERY 8192u

/* In a loop over objects, i counting them: is the time up? */
static inline bool graph_stopped(const struct graph *g, uint64_t i)
{
	return i % GRAPH_LOOK_EVERY == 0 && g->stop && *g->stop;
}

/* Takes *s over (it is empty afterwards, also on failure). -ENOMEM. (Not graph_init: libgvc has a
 * function of that name and would call ours.) */
int graph_build(struct graph *g, struct snapshot *s, struct err *err);
/* An address as a key of a struct u64map that nobody can make collide on purpose. */
uint64_t graph_addr_key(uint64_t addr);

int graph_index_referrers(struct graph *g, struct err *err);
void graph_release(struct graph *g);

/* Name of what holds the node outside of the heap, 0: not known. */
uint32_t graph_holder_of(const struct graph *g, uint32_t node);

static inline const char *graph_string(const struct graph *g, uint32_t string)
{
	return snapshot_string(&g->s, string);
}

/* Name of the type of a node. */
static inline const char *graph_type_name(const struct graph *g, uint32_t node)
{
	return snapshot_string(&g->s, g->s.types[g->s.nodes[node].type].name);
}

#endif
