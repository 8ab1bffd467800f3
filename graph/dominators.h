/* SPDX-License-Identifier: MIT */
/*
 * Dominators: x dominates y if every way from the roots to y leads through x, so that y would be
 * freed with x. What an object retains is itself and everything that it dominates.
 *
 * Lengauer and Tarjan, "A fast algorithm for finding dominators in a flowgraph", TOPLAS 1979, with
 * path compression: O(m log n) whatever the graph looks like, nothing recursive, 44 bytes an object
 * while it runs and 24 afterwards.
 */
#ifndef PYLEAK_GRAPH_DOMINATORS_H
#define PYLEAK_GRAPH_DOMINATORS_H

#include "graph/paths.h"

/*
 * Objects are numbered here in the order of a depth-first search, an object behind the one that
 * dominates it. 1 stands for all roots together.
 */
#define DOMINATORS_ROOT 1u

struct dominators {
	uint32_t n;         /* numbers go up to this one; below it those that a root reaches */
	uint32_t *number;   /* of a node; 0: no root reaches it */
	uint32_t *node;     /* of a number from 2 on */
	uint32_t *idom;     /* the number of the nearest dominator of a number from 2 on */
	uint64_t *bytes;    /* that a number retains; of DOMINATORS_ROOT: all */
	uint32_t *objects;  /* how many; itself counts (but for DOMINATORS_ROOT) */
};

/* Needs graph_index_referrers(). -ETIME when the time was up (graph.h, stop): half of it is worth
 * nothing. -ENOMEM. *d is set on success only. */
int dominators_init(struct dominators *d, const struct reach *r, struct err *err);
void dominators_release(struct dominators *d);

/* The nearest dominator of a number that is no `__dict__` of its own dominator: what such a dict
 * retains, its owner retains. */
uint32_t dominators_above(const struct dominators *d, const struct graph *g, uint32_t number);

/* Numbers of the objects that retain most, those dicts left out, at most `limit` (0: all). *ret is
 * to be freed. -ENOMEM. */
int dominators_holders(const struct dominators *d, const struct graph *g, uint64_t limit,
	uint32_t **ret, size_t *ret_n);

/* What all objects of a type retain together: an object below another one of its type counts with
 * that one. */
struct retained {
	uint64_t *bytes, *objects; /* by type number, 0 but for the first type of each name */
};

int retained_init(struct retained *t, const struct dominators *d, const struct graph *g);
void retained_release(struct retained *t);

#endif
