/* SPDX-License-Identifier: MIT */
/*
 * Reference cycles that no root reaches and no C code holds: what waits for the garbage collector,
 * for ever where it is switched off or an object has a tp_traverse that does not tell everything.
 *
 * A cycle here is a strongly connected component: objects each of which leads to each other one.
 * Tarjan, "Depth-first search and linear graph algorithms", SIAM J. Comput. 1972; linear, nothing
 * recursive.
 */
#ifndef PYLEAK_GRAPH_CYCLES_H
#define PYLEAK_GRAPH_CYCLES_H

#include "graph/paths.h"

struct cycle {
	uint32_t first, n; /* its nodes are nodes[first …] */
	uint64_t bytes;
};

struct cycles {
	uint32_t *nodes;
	struct cycle *cycles; /* most objects first; one object alone only if it refers to itself */
	uint32_t n_cycles;
	bool cut; /* the time was up (graph.h, stop): there may be more */
};

/* -ENOMEM. */
int cycles_find(struct cycles *c, const struct reach *r, struct err *err);
void cycles_release(struct cycles *c);

#endif
