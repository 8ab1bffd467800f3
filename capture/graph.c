/* SPDX-License-Identifier: MIT */
#include "capture/graph.h"

#include <string.h>
#include <sys/mman.h>

#include "daemon/util/macros.h"

#define HUGE_FROM ((size_t)4 << 20) /* bytes of an array */

/*
 * Arrays. Large ones are mappings of huge pages, which the kernel moves instead of copying: while the
 * copy lives, time is the target's, and a page fault for each 4 KiB takes longer than what is
 * written there.
 */
static void *array_grow(void *at, size_t bytes, size_t more)
{
	void *m;

	if (more < HUGE_FROM)
		return realloc(at, more);
	if (bytes >= HUGE_FROM) {
		m = mremap(at, bytes, more, MREMAP_MAYMOVE);
		return m == MAP_FAILED ? NULL : m;
	}
	m = mmap(NULL, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED)
		return NULL;
	(void)madvise(m, more, MADV_HUGEPAGE);
	if (bytes)
		memcpy(m, at, bytes);
	free(at);
	return m;
}

static void array_free(void *at, size_t bytes)
{
	if (bytes < HUGE_FROM)
		free(at);
	else
		munmap(at, bytes);
}

static void free_objects(struct graph *g)
{
	array_free(g->nodes, g->cap_nodes * sizeof(*g->nodes));
	array_free(g->edges, g->cap_edges * sizeof(*g->edges));
	array_free(g->queue, g->cap_queue * sizeof(*g->queue));
}

void graph_release(struct graph *g)
{
	free_objects(g);
	array_free(g->types, g->cap_types * sizeof(*g->types));
	array_free(g->roots, g->cap_roots * sizeof(*g->roots));
	free(g->holders);
	u64map_release(&g->type_index);
	u64map_release(&g->static_types);
	addrset_release(&g->outside);
	u64map_release(&g->wanted);
	u64map_release(&g->near);
	memset(g, 0, sizeof(*g));
}

static __attribute__((noinline)) int grow(struct graph *g, void *v, size_t *cap, size_t size)
{
	void **at = v, *bigger;
	size_t more;

	more = *cap ? *cap + *cap / 2 : 1024;
	if (g->max_bytes && g->bytes + (more - *cap) * size + addrset_bytes(&g->outside) +
					    g->near.cap * sizeof(struct u64map_slot) >
				    g->max_bytes)
		return -ENOMEM;
	bigger = array_grow(*at, *cap * size, more * size);
	if (!bigger)
		return -ENOMEM;
	g->bytes += (more - *cap) * size;
	*at = bigger;
	*cap = more;
	return 0;
}

/* For one more element of `size` bytes. */
static inline int room(struct graph *g, void *v, size_t n, size_t *cap, size_t size)
{
	return n < *cap ? 0 : grow(g, v, cap, size);
}

uint32_t graph_type(struct graph *g, uint64_t addr)
{
	uint64_t *at;
	bool new;

	if (addr == g->last_type && g->n_types)
		return g->last_index;
	at = u64map_upsert(&g->type_index, addr ? addr : 1, g->n_types, &new);
	if (!at)
		return UINT32_MAX;
	if (new) {
		if (room(g, &g->types, g->n_types, &g->cap_types, sizeof(*g->types)) < 0)
			return UINT32_MAX;
		g->types[g->n_types++] = (struct snapshot_type){.addr = addr};
	}
	g->last_type = addr;
	g->last_index = (uint32_t)*at;
	return g->last_index;
}

/* Word at ob_refcnt: what it says, per version (LAYOUTS, "Reference counts"). */
static int64_t read_refcount(int minor, uint64_t raw, uint32_t *flags)
{
	if (minor <= 10)
		return (int64_t)raw;
	if (minor == 11) {
		/* static objects start at 999 999 999 */
		if ((int64_t)raw >= 900000000)
			*flags |= SNAPSHOT_NODE_IMMORTAL;
		return (int64_t)raw;
	}
	if ((int32_t)(uint32_t)raw < 0)
		*flags |= SNAPSHOT_NODE_IMMORTAL;
	return minor >= 14 ? (int64_t)(uint32_t)raw : (int64_t)raw;
}

/* The node that was read last is complete now: does it stay? */
static void finish_node(struct graph *g)
{
	if (g->keep != GRAPH_NEAR || g->n_nodes == 0 || g->keep_last)
		return;
	g->n_nodes--;
	g->n_edges = g->node_edges_at;
	g->keep_last = true; /* the one before it stays */
}

void graph_restart(struct graph *g, enum graph_keep keep)
{
	free_objects(g);
	addrset_release(&g->outside);
	g->bytes -= g->cap_nodes * sizeof(*g->nodes) + g->cap_edges * sizeof(*g->edges) +
		    g->cap_queue * sizeof(*g->queue);
	g->nodes = NULL;
	g->edges = NULL;
	g->queue = NULL;
	g->n_nodes = g->cap_nodes = g->n_edges = g->cap_edges = 0;
	g->n_queue = g->cap_queue = g->queue_at = g->node_edges_at = 0;
	g->skipped = 0;
	g->keep = keep;
	g->keep_last = true;
}

int64_t graph_settle(struct graph *g)
{
	size_t before = g->near.n;

	finish_node(g);
	for (size_t i = 0; i < g->n_nodes; i++)
		if (!u64map_upsert(&g->near, g->nodes[i].addr, 1, NULL))
			return -ENOMEM;
	return (int64_t)(g->near.n - before);
}

static int take_node(struct graph *g, const struct walk_unit *u)
{
	struct snapshot_node *n;
	uint32_t type;

	finish_node(g);
	type = graph_type(g, u[1].a);

	if (g->keep == GRAPH_TYPES)
		g->n_nodes = 0;
	g->keep_last = g->keep != GRAPH_NEAR || u64map_get(&g->wanted, u[1].a) ||
		       u64map_get(&g->near, u[0].a);
	if (type == UINT32_MAX || g->n_nodes >= UINT32_MAX ||
		room(g, &g->nodes, g->n_nodes, &g->cap_nodes, sizeof(*g->nodes)) < 0)
		return -ENOMEM;
	n = &g->nodes[g->n_nodes++];
	*n = (struct snapshot_node){
		.addr = u[0].a, .bytes = WALK_NODE_SIZE(u[0].b), .type = type};
	if (WALK_NODE_FLAGS(u[0].b) & WALK_NODE_TRACKED)
		n->flags |= SNAPSHOT_NODE_TRACKED;
	if (WALK_NODE_FLAGS(u[0].b) & WALK_NODE_YOUNG)
		n->flags |= SNAPSHOT_NODE_YOUNG;
	n->refcount = read_refcount(g->minor, u[1].b, &n->flags);
	g->node_edges_at = g->n_edges;
	return 0;
}

int graph_want(struct graph *g, uint64_t addr)
{
	int r;

	if (!addr)
		return 0;
	r = addrset_add(&g->outside, addr);
	if (r <= 0)
		return r;
	if (room(g, &g->queue, g->n_queue, &g->cap_queue, sizeof(*g->queue)) < 0)
		return -ENOMEM;
	g->queue[g->n_queue++] = addr;
	return 0;
}

static int take_edge(struct graph *g, const struct walk_unit *u)
{
	struct snapshot_node *n;

	if (g->n_nodes == 0)
		return -EPROTO;
	if (g->keep == GRAPH_TYPES || g->keep == GRAPH_NODES)
		return -EPROTO; /* nobody has asked for it */
	if (g->keep == GRAPH_NEAR) {
		if (!u64map_get(&g->near, u->a))
			return 0;
		g->keep_last = true;
	}
	if (room(g, &g->edges, g->n_edges, &g->cap_edges, sizeof(*g->edges)) < 0)
		return -ENOMEM;
	g->edges[g->n_edges++].raw = *u;
	n = &g->nodes[g->n_nodes - 1];
	if (n->n_edges == UINT32_MAX)
		return -EPROTO;
	n->n_edges++;
	return g->keep == GRAPH_ALL && u->b & WALK_UNTRACKED ? graph_want(g, u->a) : 0;
}

int graph_take(struct graph *g, const struct walk_unit *u, size_t n)
{
	for (size_t i = 0; i < n;) {
		unsigned tag = WALK_TAG(u[i].b);
		int r;

		if (tag == WALK_NODE) {
			if (n - i < 2)
				return -EPROTO;
			r = take_node(g, u + i);
			i += 2;
		} else if (tag == WALK_SKIP || tag == WALK_AGAIN) {
			struct snapshot_node *last = g->n_nodes ? &g->nodes[g->n_nodes - 1] : NULL;

			if (!last || last->addr != u[i].a)
				return -EPROTO;
			last->n_edges = 0;
			g->n_edges = g->node_edges_at;
			if (tag == WALK_SKIP) {
				last->flags |= SNAPSHOT_NODE_SKIPPED;
				g->skipped++;
			}
			r = 0;
			i++;
		} else if (tag >= WALK_EDGE_PLAIN && tag <= WALK_EDGE_GLOBALS) {
			r = take_edge(g, u + i);
			i++;
		} else {
			return -EPROTO;
		}
		if (r < 0)
			return r;
	}
	return 0;
}

int graph_add_root(struct graph *g, uint64_t addr, uint32_t kind, uint32_t name, uint32_t edge_kind,
	uint32_t edge_arg)
{
	if (room(g, &g->roots, g->n_roots, &g->cap_roots, sizeof(*g->roots)) < 0)
		return -ENOMEM;
	g->roots[g->n_roots++] = (struct snapshot_root){.addr = addr,
		.kind = kind,
		.name = name,
		.edge_kind = edge_kind,
		.edge_arg = edge_arg};
	return 0;
}
