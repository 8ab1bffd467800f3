/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "graph/paths.h"

int reach_telling(uint32_t kind)
{
	switch (kind) {
	case EDGE_ATTR:
	case EDGE_LOCAL:
	case EDGE_CELL:
		return 4;
	case EDGE_KEY:
		return 3;
	case EDGE_INDEX:
	case EDGE_ITEM:
	case EDGE_MEMBER:
		return 2;
	case EDGE_TYPE:
	case EDGE_PLAIN:
		return 0;
	default:
		return 1;
	}
}

struct search {
	struct reach *r;
	uint32_t *
		queue; /* each node enters at most once; one that is in `done` already is passed by */
	uint32_t head, tail, looks;
	uint8_t *done;
};

/* Both are modules themselves. */
static bool are_modules(const struct reach *r, uint32_t u, uint32_t v)
{
	const uint32_t both[] = {r->via[u], r->via[v]};

	for (int i = 0; i < 2; i++) {
		const struct path_source *s = &r->sources[both[i] & ~REACH_SOURCE];

		if (both[i] == REACH_NONE || !(both[i] & REACH_SOURCE) || s->kind != PATH_MODULE || !s->is_root)
			return false;
	}
	return true;
}

/*
 * Takes u, and what it holds at no cost, into the tree, and queues what they hold at a cost of 1.
 * A node that is queued at dist + 1 may be found at dist here: then it goes into the tree now.
 */
static void expand(struct search *q, uint32_t u)
{
	struct reach *r = q->r;
	const struct graph *g = r->g;
	uint32_t head = r->n_order, d = r->dist[u];

	q->done[u] = 1;
	r->order[r->n_order++] = u;
	for (; head < r->n_order; head++) {
		uint32_t w = r->order[head];

		for (uint32_t i = g->first[w]; i < g->first[w + 1]; i++) {
			const struct graph_edge *e = &g->edges[i];
			uint32_t v = e->to;

			if (q->done[v])
				continue;
			if (e->kind == EDGE_DICT) {
				r->dist[v] = d;
				r->via[v] = i;
				q->done[v] = 1;
				r->order[r->n_order++] = v;
			} else if (r->dist[v] == REACH_NONE) {
				r->dist[v] = d + 1;
				r->via[v] = i;
				q->queue[q->tail++] = v;
			} else if (r->dist[v] == d + 1 && !(r->via[v] & REACH_SOURCE)) {
				const struct graph_edge *by = &g->edges[r->via[v]];

				/* A class is in its module's C state, and has a name there; what
				 * has none there may have one in another module. */
				if (reach_telling(e->kind) > reach_telling(by->kind) &&
					(by->from == w || by->from == u ||
						(!reach_telling(by->kind) &&
							are_modules(r, u, by->from))))
					r->via[v] = i;
			}
		}
	}
}

static bool time_is_up(struct search *q)
{
	q->r->cut = q->r->cut || graph_stopped(q->r->g, q->looks++);
	return q->r->cut;
}

/*
 * Breadth first, first come first served: the queue holds the nodes of a level in the order of
 * their roots, and hands that order on to the next level, so that a tie goes to the better root.
 * A source that is the root itself is at distance 0, what a root holds is its first step, at 1.
 */
static void search(struct search *q, uint32_t first, uint32_t end)
{
	struct reach *r = q->r;

	for (uint32_t i = first; i < end && !time_is_up(q); i++) {
		uint32_t v = r->sources[i].node, d = r->sources[i].is_root ? 0 : 1;

		if (q->done[v] || r->dist[v] <= d)
			continue;
		if (d && r->dist[v] == REACH_NONE)
			q->queue[q->tail++] = v;
		r->dist[v] = d;
		r->via[v] = REACH_SOURCE | i;
		if (!d)
			expand(q, v);
	}
	while (q->head < q->tail && !time_is_up(q)) {
		uint32_t u = q->queue[q->head++];

		if (!q->done[u])
			expand(q, u);
	}
	/* Of those that wait it is known what holds them, not what they hold. */
	while (q->head < q->tail) {
		uint32_t u = q->queue[q->head++];

		if (!q->done[u])
			r->order[r->n_order++] = u;
		q->done[u] = 1;
	}
}

/* What nothing else holds is held by the table of interned strings, which holds each of them. */
static bool is_last_resort(const struct graph *g, const struct path_source *s)
{
	return s->kind == PATH_INTERPRETER && strcmp(graph_string(g, s->name), "interned") == 0;
}

static int by_rank(const void *a, const void *b, void *arg)
{
	const struct path_source *s = a, *t = b;
	const struct graph *g = arg;
	int d = is_last_resort(g, s) - is_last_resort(g, t);

	if (d)
		return d;
	if (s->kind != t->kind)
		return s->kind < t->kind ? -1 : 1;
	d = strcmp(graph_string(g, s->name), graph_string(g, t->name));
	if (d)
		return d;
	/* Any total order will do from here on, so that the same file gives the same answer. */
	if (s->node != t->node)
		return s->node < t->node ? -1 : 1;
	return s->edge_arg < t->edge_arg ? -1 : s->edge_arg > t->edge_arg;
}

/* A module is the root itself, not something that the root holds; so is a frame, where frames are
 * objects (up to 3.10), and a namespace dict that stands for its owner. */
static bool is_root(const struct graph *g, const struct graph_root *root)
{
	if (root->kind == ROOT_MODULE || root->edge_kind == EDGE_DICT)
		return true;
	return root->kind == ROOT_FRAME && root->edge_kind == EDGE_PLAIN &&
	       strcmp(graph_type_name(g, root->node), "frame") == 0;
}

/* Returns how many roots come before those that are a last resort. */
static uint32_t take_roots(struct reach *r)
{
	const struct graph *g = r->g;
	uint32_t n = 0;

	for (uint32_t i = 0; i < g->n_roots; i++) {
		const struct graph_root *root = &g->roots[i];

		r->sources[i] = (struct path_source){.node = root->node,
			.kind = root->kind == ROOT_MODULE  ? PATH_MODULE
				: root->kind == ROOT_FRAME ? PATH_FRAME
							   : PATH_INTERPRETER,
			.name = root->name,
			.is_root = is_root(g, root),
			.edge_kind = root->edge_kind,
			.edge_arg = root->edge_arg};
	}
	r->n_sources = g->n_roots;
	qsort_r(r->sources, r->n_sources, sizeof(*r->sources), by_rank, (void *)g);
	/* Equal names get equal numbers. */
	for (uint32_t i = 1; i < r->n_sources; i++) {
		if (strcmp(graph_string(g, r->sources[i].name),
			    graph_string(g, r->sources[i - 1].name)) == 0)
			r->sources[i].name = r->sources[i - 1].name;
	}
	while (n < r->n_sources && !is_last_resort(g, &r->sources[n]))
		n++;
	return n;
}

/*
 * Sources among what no root reaches: objects with more references than the snapshot explains.
 * Whoever holds an unreached object is itself unreached, so the roots' own references need no
 * counting here. An instance counts for its class even where tp_traverse does not visit the class
 * (3.8).
 */
static int take_c_references(struct reach *r, struct err *err)
{
	const struct graph *g = r->g;
	_cleanup_free_ uint32_t *explained = calloc(MAX(g->n_nodes, 1u), sizeof(*explained));
	struct path_source *more;
	uint32_t n = 0;

	if (!explained)
		return err_set(err, -ENOMEM, "not enough memory to search %u objects", g->n_nodes);
	for (uint32_t u = 0; u < g->n_nodes; u++) {
		uint32_t class;
		bool seen = false;

		if (r->dist[u] != REACH_NONE)
			continue;
		class = g->class_of[g->s.nodes[u].type];
		for (uint32_t i = g->first[u]; i < g->first[u + 1]; i++) {
			explained[g->edges[i].to]++;
			seen |= g->edges[i].to == class;
		}
		if (!seen && class != GRAPH_NONE &&
			(g->s.types[g->s.nodes[u].type].flags & SNAPSHOT_TYPE_IS_HEAP))
			explained[class]++;
	}
	for (uint32_t u = 0; u < g->n_nodes; u++) {
		if (r->dist[u] == REACH_NONE && !(g->s.nodes[u].flags & SNAPSHOT_NODE_IMMORTAL) &&
			g->s.nodes[u].refcount > (int64_t)explained[u])
			explained[n++] = u; /* n <= u: what is overwritten was read */
	}
	if (!n)
		return 0;
	more = realloc(r->sources, ((size_t)r->n_sources + n) * sizeof(*more));
	if (!more)
		return err_set(err, -ENOMEM, "not enough memory to search %u objects", g->n_nodes);
	r->sources = more;
	for (uint32_t i = 0; i < n; i++)
		r->sources[r->n_sources++] = (struct path_source){.node = explained[i],
			.kind = PATH_C_REFERENCE,
			.name = graph_holder_of(g, explained[i])};
	return 0;
}

int reach_init(struct reach *r, const struct graph *g, struct err *err)
{
	struct search q = {.r = r};
	size_t n = MAX(g->n_nodes, 1u);
	uint32_t first, roots;
	int rc = 0;

	*r = (struct reach){.g = g};
	r->sources = malloc(MAX(g->n_roots, 1u) * sizeof(*r->sources));
	r->order = malloc(n * sizeof(*r->order));
	r->dist = malloc(n * sizeof(*r->dist));
	r->via = malloc(n * sizeof(*r->via));
	q.queue = malloc(n * sizeof(*q.queue));
	q.done = calloc(n, 1);
	if (!r->sources || !r->order || !r->dist || !r->via || !q.queue || !q.done) {
		rc = err_set(err, -ENOMEM, "not enough memory to search %u objects", g->n_nodes);
		goto out;
	}
	memset(r->dist, 0xff, n * sizeof(*r->dist));
	memset(r->via, 0xff, n * sizeof(*r->via));

	first = take_roots(r);
	roots = r->n_sources;
	search(&q, 0, first);
	search(&q, first, roots);
	if (r->n_order < g->n_nodes && !r->cut) {
		rc = take_c_references(r, err);
		if (rc < 0)
			goto out;
		search(&q, roots, r->n_sources);
	}

	r->n_unreached = g->n_nodes - r->n_order;
	for (uint32_t i = 0; r->n_unreached && !r->cut && i < g->n_edges; i++) {
		const struct graph_edge *e = &g->edges[i];

		if (r->dist[e->to] != REACH_NONE || e->from == e->to)
			continue;
		if (r->via[e->to] == REACH_NONE ||
			reach_telling(e->kind) > reach_telling(g->edges[r->via[e->to]].kind))
			r->via[e->to] = i;
	}
out:
	free(q.queue);
	free(q.done);
	if (rc < 0)
		reach_release(r);
	return rc;
}

void reach_release(struct reach *r)
{
	free(r->sources);
	free(r->order);
	free(r->dist);
	free(r->via);
	*r = (struct reach){0};
}
