/* SPDX-License-Identifier: MIT */
#include "graph/graph.h"

#include <string.h>
#include <sys/auxv.h>

#include "daemon/util/u64map.h"

_Static_assert(sizeof(struct graph_edge) == sizeof(struct snapshot_edge), "converted in place");

/* Times a random odd factor: the addresses come from a program that may want them to collide.
 * Multiplying by an odd number maps 64-bit numbers one to one. */
uint64_t graph_addr_key(uint64_t addr)
{
	static uint64_t factor;

	if (!factor) {
		const void *random = (const void *)getauxval(AT_RANDOM);

		factor = 0x9e3779b97f4a7c15ull;
		if (random)
			memcpy(&factor, random, sizeof(factor));
		factor |= 1;
	}
	return addr * factor;
}

static int by_node(const void *a, const void *b)
{
	const struct graph_holder *s = a, *t = b;

	return s->node < t->node ? -1 : s->node > t->node;
}

uint32_t graph_holder_of(const struct graph *g, uint32_t node)
{
	const struct graph_holder key = {.node = node}, *found;

	if (!g->n_holders)
		return 0;
	found = bsearch(&key, g->holders, g->n_holders, sizeof(key), by_node);
	return found ? found->name : 0;
}

static int resolve(struct graph *g, struct u64map *map)
{
	struct snapshot *s = &g->s;
	uint64_t in = 0;
	uint32_t out = 0, roots = 0;
	int rc = u64map_reserve(map, s->n_nodes);

	for (uint32_t i = 0; rc == 0 && i < s->n_nodes; i++) {
		bool new;

		if (!u64map_upsert(map, graph_addr_key(s->nodes[i].addr), i, &new))
			rc = -ENOMEM;
		else if (!new)
			g->duplicate_nodes++;
	}
	if (rc < 0)
		return rc;

	/* In place: what is written never overtakes what is read. */
	for (uint32_t i = 0; i < s->n_nodes; i++) {
		g->first[i] = out;
		for (uint32_t k = 0; k < s->nodes[i].n_edges; k++, in++) {
			struct snapshot_edge e = s->edges[in];
			const uint64_t *to = u64map_get(map, graph_addr_key(e.to));

			if (!to) {
				g->external_edges++;
				continue;
			}
			g->edges[out++] = (struct graph_edge){
				.to = (uint32_t)*to, .from = i, .kind = e.kind, .arg = e.arg};
		}
	}
	g->first[s->n_nodes] = g->n_edges = out;

	for (uint32_t i = 0; i < s->n_roots; i++) {
		const struct snapshot_root *r = &s->roots[i];
		const uint64_t *to = u64map_get(map, graph_addr_key(r->addr));

		if (!to) {
			g->external_roots++;
			continue;
		}
		g->roots[roots++] = (struct graph_root){.node = (uint32_t)*to,
			.kind = r->kind,
			.name = r->name,
			.edge_kind = r->edge_kind,
			.edge_arg = r->edge_arg};
	}
	g->n_roots = roots;

	for (uint32_t i = 0; i < s->n_holders; i++) {
		const uint64_t *node = u64map_get(map, graph_addr_key(s->holders[i].addr));

		if (node)
			g->holders[g->n_holders++] = (struct graph_holder){
				.node = (uint32_t)*node, .name = s->holders[i].name};
	}
	if (g->n_holders)
		qsort(g->holders, g->n_holders, sizeof(*g->holders), by_node);

	for (uint32_t t = 0; t < s->n_types; t++) {
		const uint64_t *node = u64map_get(map, graph_addr_key(s->types[t].addr));

		g->class_of[t] = node ? (uint32_t)*node : GRAPH_NONE;
	}
	return 0;
}

static int by_name(const void *a, const void *b, void *arg)
{
	const struct graph *g = arg;
	uint32_t s = *(const uint32_t *)a, t = *(const uint32_t *)b;
	int d = strcmp(graph_string(g, g->s.types[s].name), graph_string(g, g->s.types[t].name));

	return d ? d : s < t ? -1 : s > t;
}

static int name_types(struct graph *g)
{
	_cleanup_free_ uint32_t *order = malloc(MAX(g->s.n_types, 1u) * sizeof(*order));
	uint32_t first = 0;

	if (!order)
		return -ENOMEM;
	for (uint32_t t = 0; t < g->s.n_types; t++)
		order[t] = t;
	qsort_r(order, g->s.n_types, sizeof(*order), by_name, g);
	for (uint32_t i = 0; i < g->s.n_types; i++) {
		if (strcmp(graph_string(g, g->s.types[order[first]].name),
			    graph_string(g, g->s.types[order[i]].name)) != 0)
			first = i;
		g->same_name[order[i]] = order[first];
	}
	return 0;
}

int graph_build(struct graph *g, struct snapshot *s, struct err *err)
{
	_cleanup_(u64map_release) struct u64map map = {0};
	int rc;

	*g = (struct graph){.s = *s, .n_nodes = s->n_nodes};
	*s = (struct snapshot){0};
	g->edges = (struct graph_edge *)g->s.edges;
	g->first = malloc(((size_t)g->n_nodes + 1) * sizeof(*g->first));
	g->roots = malloc(MAX(g->s.n_roots, 1u) * sizeof(*g->roots));
	g->holders = malloc(MAX(g->s.n_holders, 1u) * sizeof(*g->holders));
	g->same_name = malloc(MAX(g->s.n_types, 1u) * sizeof(*g->same_name));
	g->class_of = malloc(MAX(g->s.n_types, 1u) * sizeof(*g->class_of));
	if (!g->first || !g->roots || !g->holders || !g->same_name || !g->class_of)
		rc = -ENOMEM;
	else
		rc = resolve(g, &map);
	if (rc == 0)
		rc = name_types(g);
	if (rc < 0) {
		rc = err_set(err, rc, "not enough memory for a graph of %u objects", g->n_nodes);
		graph_release(g);
		return rc;
	}
	g->s.edges = NULL;
	free(g->s.roots);
	g->s.roots = NULL;
	free(g->s.holders);
	g->s.holders = NULL;
	g->s.n_edges = g->s.n_roots = g->s.n_holders = 0;
	return 0;
}

int graph_index_referrers(struct graph *g, struct err *err)
{
	if (g->in)
		return 0;
	g->in_first = calloc((size_t)g->n_nodes + 2, sizeof(*g->in_first));
	g->in = malloc(MAX(g->n_edges, 1u) * sizeof(*g->in));
	if (!g->in_first || !g->in) {
		free(g->in_first);
		free(g->in);
		g->in_first = g->in = NULL;
		return err_set(
			err, -ENOMEM, "not enough memory for a graph of %u objects", g->n_nodes);
	}
	/* Counted two places up, so that filling moves each start to its right place. */
	for (uint32_t e = 0; e < g->n_edges; e++)
		g->in_first[g->edges[e].to + 2]++;
	for (size_t i = 2; i < (size_t)g->n_nodes + 2; i++)
		g->in_first[i] += g->in_first[i - 1];
	for (uint32_t e = 0; e < g->n_edges; e++)
		g->in[g->in_first[g->edges[e].to + 1]++] = e;
	return 0;
}

void graph_release(struct graph *g)
{
	free(g->s.edges ? (void *)g->s.edges : (void *)g->edges);
	g->s.edges = NULL;
	snapshot_release(&g->s);
	free(g->roots);
	free(g->holders);
	free(g->first);
	free(g->in_first);
	free(g->in);
	free(g->same_name);
	free(g->class_of);
	*g = (struct graph){0};
}
