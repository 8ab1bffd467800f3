/* SPDX-License-Identifier: MIT */
/*
 * The types of a snapshot as the user names them. A type is given by its number in the snapshot,
 * that of the first one of its name (graph.h, same_name).
 */
#ifndef PYLEAK_GRAPH_TYPES_H
#define PYLEAK_GRAPH_TYPES_H

#include "graph/graph.h"

struct census {
	uint64_t *count, *bytes; /* by type number, 0 but for the first type of each name */
	uint32_t *same;          /* types with objects that have that name */
	uint64_t skipped;        /* objects whose references could not be read */
};

/* -ENOMEM. */
int census_take(struct census *c, const struct graph *g);
void census_release(struct census *c);

static inline const char *type_name(const struct graph *g, uint32_t t)
{
	return graph_string(g, g->s.types[t].name);
}

struct type_list {
	uint32_t *types;
	size_t n;
	uint64_t left_out; /* that a glob matched beyond max */
};

void type_list_release(struct type_list *l);

/*
 * Adds the types that `wanted` means, as INTERFACE.md says (exact, glob with * and ?, or a short
 * name that only one type has), each once and at most max in all. -ENOENT: none or several; the
 * message lists what is near. -ENOMEM.
 */
int types_named(struct type_list *l, const struct graph *g, const struct census *c,
	const char *wanted, size_t max, struct err *err);

/* Adds the three types with most objects that the program itself defined. -ENOMEM. */
int types_suspected(struct type_list *l, const struct graph *g, const struct census *c);

/* All types with objects, the most first. -ENOMEM. */
int types_all(struct type_list *l, const struct graph *g, const struct census *c);

#endif
