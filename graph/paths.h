/* SPDX-License-Identifier: MIT */
/*
 * What holds the objects of a type: the shortest path from a root to every instance, grouped by
 * the shape of the path.
 *
 * One search from all roots at once gives each object its shortest path, in time linear in the
 * references. A `__dict__` costs nothing, so that an attribute is as far away whether the
 * interpreter keeps it in a dict or inline. At equal length the roots win in the order of enum
 * path_root, then by name, but for what one module holds in its C state and another by a name: that
 * name is the answer. Objects that no root reaches are searched from those among them whose
 * reference count is above the number of references in the snapshot: C code holds them
 * (PATH_C_REFERENCE). What is left then hangs on a reference cycle (PATH_UNREACHABLE).
 *
 * The shape of a path is its root and the sequence of (how it is held, type), where indexes and
 * the keys of plain dicts count as one, and a part that repeats (a linked list, a tree) counts
 * once. There are at most PATHS_SHAPES_MAX shapes; what has another one is counted in
 * other_instances.
 */
#ifndef PYLEAK_GRAPH_PATHS_H
#define PYLEAK_GRAPH_PATHS_H

#include "graph/graph.h"

#define PATHS_SHAPES_MAX (4u << 20)

enum path_root {
	PATH_MODULE,
	PATH_INTERPRETER,
	PATH_FRAME,
	PATH_C_REFERENCE,
	PATH_UNREACHABLE,
};

struct path_source {
	uint32_t node;
	uint32_t kind; /* enum path_root */
	uint32_t name; /* string */
	uint32_t edge_kind, edge_arg;
	bool is_root; /* the node is the root, not its first step */
};

/* via[]: the number of the reference by which a node is reached, or one of these. */
#define REACH_SOURCE 0x80000000u /* | number of the source */
#define REACH_NONE   UINT32_MAX

/* The shortest-path tree over the whole graph. */
struct reach {
	const struct graph *g;
	struct path_source *sources;
	uint32_t n_sources;
	uint32_t *order; /* the nodes that were reached, each behind the one that holds it */
	uint32_t n_order;
	uint32_t *dist; /* steps behind the root; REACH_NONE: not reached, see below */
	/* For a node that was not reached: a reference to it from another one of that sort. */
	uint32_t *via;
	uint64_t n_unreached;
	bool cut; /* the time was up (graph.h, stop): what was not reached may yet be */
};

/* -ENOMEM. A search that is cut is a success. */
int reach_init(struct reach *r, const struct graph *g, struct err *err);
void reach_release(struct reach *r);

/* How a node of the tree is held, a `__dict__` folded away. */
struct held {
	uint32_t parent; /* node, or GRAPH_NONE: a root */
	uint32_t source; /* valid for a root */
	uint32_t kind, arg;
	bool in_namespace;
	bool by_name; /* a module's dict that is not known as one: f.__globals__['x'] */
};

/* How much a kind of reference tells: 0 … REACH_TELLING_MAX. */
#define REACH_TELLING_MAX 4
int reach_telling(uint32_t kind);

/* v's dist or its via must be known (not REACH_NONE). */
struct held reach_held(const struct reach *r, uint32_t v);

struct path_step {
	uint32_t type;      /* number in the snapshot's types */
	uint32_t kind, arg; /* enum snapshot_edge_kind and its arg, of one of the references */
	uint32_t node;      /* one of the objects in this place */
	uint64_t nodes;     /* how many objects of this group's paths are in this place */
	uint32_t shape;     /* the same in all groups of one analysis where the paths agree */
	bool in_namespace;  /* held by name in a `__dict__`: show .name */
	bool mixed;         /* the args differ: show … */
	bool names_differ;  /* of the objects in this place (node.name) */
	bool repeats;       /* the paths come back to this place any number of times */
};

struct path_group {
	enum path_root root;
	uint32_t root_name; /* string; 0 for PATH_UNREACHABLE, and where nobody knows what C code */
	uint32_t root_shape;
	uint64_t instances, chosen; /* the latter: see paths_ctx_choose() */
	struct path_step *steps;
	size_t n_steps, n_steps_whole; /* the latter before the middle of a long path was cut out */
	size_t cut;                    /* steps[cut …] follow after the gap; 0: none */
	/* The last place before the end where all paths of the group go through one object; -1 is
	 * the root. */
	ssize_t accumulation;
	bool is_cycle; /* steps are an example: a cycle that begins and ends at one instance */
};

struct paths {
	uint64_t instances;
	struct path_group *groups; /* by instances, the most first */
	size_t n_groups;
	uint64_t other_groups, other_instances; /* beyond max_groups */
	uint64_t unseen; /* instances that the search did not come to, before the time was up */
};

/* Shapes are numbered for one tree, so that paths of several types can be drawn together. */
struct paths_ctx;

int paths_ctx_new(struct paths_ctx **ret, const struct reach *r, struct err *err);
struct paths_ctx *paths_ctx_free(struct paths_ctx *c);

/* Counts nodes with a mark (one byte a node, or NULL) apart in what paths_find() does after this; with
 * `first` the groups with the most of them come first. */
void paths_ctx_choose(struct paths_ctx *c, const uint8_t *mark, bool first);

/* Groups for all instances of the types whose same_name is `type`. */
int paths_find(
	struct paths *p, struct paths_ctx *c, uint32_t type, size_t max_groups, struct err *err);
void paths_release(struct paths *p);

/* The path of one object, as a group of one instance. -ENOMEM. */
int paths_of_object(struct path_group *group, struct paths_ctx *c, uint32_t node);
void path_group_release(struct path_group *group);

#define PATHS_STEPS_MAX 48 /* a longer path is shown without its middle */

#endif
