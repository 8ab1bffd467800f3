/* SPDX-License-Identifier: MIT */
/*
 * What is around objects: those that refer to them, or to which they refer, up to a depth, each
 * with at most so many neighbours; what is left out is counted. A `__dict__` is folded into its
 * owner, references between the same two objects are one (the one that tells most).
 *
 * Backwards it ends at modules, as objgraph's show_backrefs does, and tells which roots hold the
 * objects beside those. Forwards it does not go on from the class of an object or from a module.
 */
#ifndef PYLEAK_GRAPH_WEB_H
#define PYLEAK_GRAPH_WEB_H

#include "graph/paths.h"

#define WEB_NODES_MAX 2000u

struct web_node {
	uint32_t node;
	uint32_t depth; /* from the nearest object that was asked for: 0 */
	uint64_t more;  /* neighbours that are left out */
	bool is_module;
	bool is_held; /* forwards: otherwise than as somebody's class */
	char *label;  /* its own name, what leads to it, or the short name of its type */
};

struct web_edge {
	uint32_t from, to; /* numbers in nodes */
	struct held how;   /* its kind, arg and in_namespace */
	char *label;       /* as explain_edge() says it */
};

struct web_root {
	uint32_t to;
	enum path_root kind;
	uint32_t name; /* string */
	struct held how;
	char *label;
};

struct web {
	bool backwards;
	struct web_node *nodes; /* those asked for first, then by depth */
	struct web_edge *edges;
	struct web_root *roots;
	uint32_t n_nodes, n_edges, n_roots;
	size_t cap_edges, cap_roots;
	bool cut;  /* max_nodes was reached */
	bool late; /* the time was up (graph.h, stop): neighbours are missing */
};

struct web_options {
	bool backwards; /* needs graph_index_referrers() */
	uint32_t max_depth, too_many;
	uint32_t max_nodes; /* at most WEB_NODES_MAX */
};

/* -ENOMEM. */
int web_init(struct web *w, struct paths_ctx *c, const struct reach *r, const uint32_t *starts, size_t n_starts,
	const struct web_options *o, struct err *err);
void web_release(struct web *w);

#endif
