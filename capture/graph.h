/* SPDX-License-Identifier: MIT */
/*
 * The graph as it is read: nodes and edges in the order in which the walker writes them, and the
 * set of objects outside of the collector's rings that still have to be looked at. That set is
 * kept here and not in the copy, whose memory is charged to the target.
 *
 * Edges stand as the walker wrote them (struct walk_unit) until labels_resolve() turns them, in
 * place, into what the file holds.
 */
#ifndef PYLEAK_CAPTURE_GRAPH_H
#define PYLEAK_CAPTURE_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/util/addrset.h"
#include "daemon/util/u64map.h"
#include "include/pyleak/snapshot.h"
#include "include/pyleak/walk.h"

union graph_edge {
	struct walk_unit raw;
	struct snapshot_edge edge;
};

/* Which objects and edges are kept. */
enum graph_keep {
	GRAPH_ALL,
	GRAPH_TYPES, /* only which types there are; without edges, as GRAPH_NODES */
	GRAPH_NEAR,  /* instances of `wanted` types, and what has an edge into `near`; those edges */
	GRAPH_NODES, /* no edges */
};

struct graph {
	int minor;
	enum graph_keep keep;
	struct u64map wanted; /* addresses of types */
	struct u64map near;   /* addresses of objects: what has been kept so far */
	bool keep_last;       /* GRAPH_NEAR: the node being read stays */
	uint64_t bytes, max_bytes; /* of the arrays; 0: as large as they get */
	struct snapshot_node *nodes;
	size_t n_nodes, cap_nodes;
	union graph_edge *edges;
	size_t n_edges, cap_edges;
	struct snapshot_type *types;
	size_t n_types, cap_types;
	struct u64map type_index;   /* address -> index */
	struct u64map static_types; /* whose dicts are roots already */
	struct addrset outside;     /* objects in no ring: those that were queued */
	uint64_t *queue;            /* in the order in which they were found; read up to queue_at */
	size_t n_queue, cap_queue, queue_at;
	struct snapshot_root *roots; /* name and edge_arg: string indexes */
	size_t n_roots, cap_roots;
	struct snapshot_holder *holders;
	size_t n_holders;
	uint64_t max_objects;
	uint32_t skipped;
	size_t node_edges_at; /* edges before the node being read */
	uint64_t last_type;
	uint32_t last_index;
	bool frames_cut; /* a thread had more frames than were read */
};

void graph_release(struct graph *g);

/* Forgets nodes, edges, and what waits, to read them anew and keep others. */
void graph_restart(struct graph *g, enum graph_keep keep);

/* GRAPH_NEAR, behind the last unit: what was kept is near now. How much that is new, or -ENOMEM. */
int64_t graph_settle(struct graph *g);

/* Takes drained units. -ENOMEM; -EPROTO: they make no sense. */
int graph_take(struct graph *g, const struct walk_unit *u, size_t n);

/* Queues an object that may be in no ring (known to be one: the caller has looked). */
int graph_want(struct graph *g, uint64_t addr);

int graph_add_root(struct graph *g, uint64_t addr, uint32_t kind, uint32_t name, uint32_t edge_kind,
	uint32_t edge_arg);

/* Index in types of a type's address, added if new; UINT32_MAX when out of memory. */
uint32_t graph_type(struct graph *g, uint64_t addr);

#endif
