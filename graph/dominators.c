/* SPDX-License-Identifier: MIT */
#include "graph/dominators.h"

#include <string.h>

#include "graph/most.h"

/* All by number. */
struct work {
	const struct graph *g;
	struct dominators d;
	uint8_t *is_source; /* by node */
	uint32_t *parent;   /* in the depth-first tree */
	uint32_t *semi;     /* semidominator; 0 until it is being looked for */
	uint32_t *label;    /* with the least semidominator between it and ancestor */
	uint32_t *ancestor; /* in the forest that is linked so far; 0: a root of it */
	uint32_t *bucket, *next_in_bucket;
	uint32_t *scratch; /* by node while searching: the next reference; then a stack */
};

static void work_release(struct work *w)
{
	free(w->is_source);
	free(w->parent);
	free(w->semi);
	free(w->label);
	free(w->ancestor);
	free(w->bucket);
	free(w->next_in_bucket);
	free(w->scratch);
	dominators_release(&w->d);
}

static int work_init(struct work *w)
{
	size_t nodes = w->g->n_nodes, numbers = nodes + 2;

	w->is_source = calloc(MAX(nodes, (size_t)1), 1);
	w->parent = malloc(numbers * sizeof(*w->parent));
	w->semi = calloc(numbers, sizeof(*w->semi));
	w->label = malloc(numbers * sizeof(*w->label));
	w->ancestor = calloc(numbers, sizeof(*w->ancestor));
	w->bucket = calloc(numbers, sizeof(*w->bucket));
	w->next_in_bucket = malloc(numbers * sizeof(*w->next_in_bucket));
	w->scratch = malloc(numbers * sizeof(*w->scratch));
	w->d.number = calloc(numbers, sizeof(*w->d.number));
	w->d.node = malloc(numbers * sizeof(*w->d.node));
	w->d.idom = calloc(numbers, sizeof(*w->d.idom));
	return w->is_source && w->parent && w->semi && w->label && w->ancestor && w->bucket &&
			       w->next_in_bucket && w->scratch && w->d.number && w->d.node &&
			       w->d.idom
		       ? 0
		       : -ENOMEM;
}

static void visit(struct work *w, uint32_t node, uint32_t parent)
{
	uint32_t number = ++w->d.n;

	w->d.number[node] = number;
	w->d.node[number] = node;
	w->parent[number] = parent;
	w->scratch[node] = w->g->first[node];
}

/* Depth first: the way back is in parent, where to go on in scratch. */
static int number_all(struct work *w, const struct reach *r)
{
	const struct graph *g = w->g;

	w->d.n = DOMINATORS_ROOT;
	for (uint32_t i = 0; i < r->n_sources; i++) {
		uint32_t top = r->sources[i].node;

		w->is_source[top] = 1;
		if (w->d.number[top])
			continue;
		visit(w, top, DOMINATORS_ROOT);
		for (uint32_t at = w->d.number[top]; at != DOMINATORS_ROOT;) {
			uint32_t u = w->d.node[at], to = GRAPH_NONE;

			while (w->scratch[u] < g->first[u + 1] && to == GRAPH_NONE) {
				uint32_t v = g->edges[w->scratch[u]++].to;

				if (!w->d.number[v])
					to = v;
			}
			if (to == GRAPH_NONE) {
				at = w->parent[at];
				continue;
			}
			visit(w, to, at);
			at = w->d.n;
			if (graph_stopped(g, at))
				return -ETIME;
		}
	}
	return 0;
}

/* The number with the least semidominator on the way up from v in the forest. */
static uint32_t eval(struct work *w, uint32_t v)
{
	uint32_t depth = 0;

	if (!w->ancestor[v])
		return v;
	/* Compress, from the top of the path down. */
	for (uint32_t u = v; w->ancestor[w->ancestor[u]]; u = w->ancestor[u])
		w->scratch[depth++] = u;
	while (depth > 0) {
		uint32_t u = w->scratch[--depth], above = w->ancestor[u];

		if (w->semi[w->label[above]] < w->semi[w->label[u]])
			w->label[u] = w->label[above];
		w->ancestor[u] = w->ancestor[above];
	}
	return w->label[v];
}

static void find_semidominator(struct work *w, uint32_t i)
{
	const struct graph *g = w->g;
	uint32_t node = w->d.node[i], best = w->parent[i];

	w->semi[i] = w->label[i] = i;
	if (w->is_source[node])
		best = DOMINATORS_ROOT;
	for (uint32_t k = g->in_first[node]; k < g->in_first[node + 1]; k++) {
		uint32_t v = w->d.number[g->edges[g->in[k]].from], u;

		if (!v)
			continue;
		/* A number that is not looked at yet is smaller: it is its own candidate. */
		u = v < i ? v : w->semi[eval(w, v)];
		best = MIN(best, u);
	}
	w->semi[i] = best;
}

static int find_dominators(struct work *w)
{
	uint32_t *idom = w->d.idom;

	w->semi[DOMINATORS_ROOT] = w->label[DOMINATORS_ROOT] = DOMINATORS_ROOT;
	for (uint32_t i = w->d.n; i > DOMINATORS_ROOT; i--) {
		uint32_t parent = w->parent[i];

		if (graph_stopped(w->g, i))
			return -ETIME;
		find_semidominator(w, i);
		w->next_in_bucket[i] = w->bucket[w->semi[i]];
		w->bucket[w->semi[i]] = i;
		w->ancestor[i] = parent;
		for (uint32_t v = w->bucket[parent]; v; v = w->next_in_bucket[v]) {
			uint32_t u = eval(w, v);

			idom[v] = w->semi[u] < w->semi[v] ? u : parent;
		}
		w->bucket[parent] = 0;
	}
	for (uint32_t i = DOMINATORS_ROOT + 1; i <= w->d.n; i++) {
		if (idom[i] != w->semi[i])
			idom[i] = idom[idom[i]];
	}
	return 0;
}

static int add_up(struct work *w)
{
	struct dominators *d = &w->d;

	d->bytes = malloc(((size_t)d->n + 1) * sizeof(*d->bytes));
	d->objects = malloc(((size_t)d->n + 1) * sizeof(*d->objects));
	if (!d->bytes || !d->objects)
		return -ENOMEM;
	d->bytes[DOMINATORS_ROOT] = d->objects[DOMINATORS_ROOT] = 0;
	for (uint32_t i = DOMINATORS_ROOT + 1; i <= d->n; i++) {
		d->bytes[i] = w->g->s.nodes[d->node[i]].bytes;
		d->objects[i] = 1;
	}
	/* A dominator has a smaller number than what it dominates. */
	for (uint32_t i = d->n; i > DOMINATORS_ROOT; i--) {
		d->bytes[d->idom[i]] += d->bytes[i];
		d->objects[d->idom[i]] += d->objects[i];
	}
	return 0;
}

int dominators_init(struct dominators *d, const struct reach *r, struct err *err)
{
	_cleanup_(work_release) struct work w = {.g = r->g};
	int rc = r->cut || graph_stopped(r->g, 0) ? -ETIME : work_init(&w);

	if (rc == 0)
		rc = number_all(&w, r);
	if (rc == 0)
		rc = find_dominators(&w);
	if (rc == 0)
		rc = add_up(&w);
	if (rc == -ETIME)
		return err_set(err, rc, "finding dominators of %u objects took too long",
			r->g->n_nodes);
	if (rc < 0)
		return err_set(err, rc, "not enough memory for the dominators of %u objects",
			r->g->n_nodes);
	*d = w.d;
	w.d = (struct dominators){0};
	return 0;
}

void dominators_release(struct dominators *d)
{
	free(d->number);
	free(d->node);
	free(d->idom);
	free(d->bytes);
	free(d->objects);
	*d = (struct dominators){0};
}

/* ---- the largest --------------------------------------------------------------------------- */

/* A `__dict__` that its owner dominates: what it retains, the owner retains. */
static bool is_folded(const struct dominators *d, const struct graph *g, uint32_t number)
{
	uint32_t node = d->node[number], above = d->idom[number];

	if (above == DOMINATORS_ROOT)
		return false;
	for (uint32_t e = g->first[d->node[above]]; e < g->first[d->node[above] + 1]; e++) {
		if (g->edges[e].to == node)
			return g->edges[e].kind == EDGE_DICT;
	}
	return false;
}

uint32_t dominators_above(const struct dominators *d, const struct graph *g, uint32_t number)
{
	uint32_t above = d->idom[number];

	while (above != DOMINATORS_ROOT && is_folded(d, g, above))
		above = d->idom[above];
	return above;
}

int dominators_holders(const struct dominators *d, const struct graph *g, uint64_t limit,
	uint32_t **ret, size_t *ret_n)
{
	_cleanup_(most_release) struct most m = {0};
	uint32_t *list;
	size_t n = 0;

	/* More than are wanted, because some will be folded. */
	if (most_init(&m, limit ? 2 * limit + 64 : 0, d->n) < 0)
		return -ENOMEM;
	for (uint32_t i = DOMINATORS_ROOT + 1; i <= d->n; i++)
		most_add(&m, d->bytes[i], i);
	most_sort(&m);
	list = malloc(MAX(m.n, (size_t)1) * sizeof(*list));
	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < m.n && (!limit || n < limit); i++) {
		if (!is_folded(d, g, m.items[i].item))
			list[n++] = m.items[i].item;
	}
	*ret = list;
	*ret_n = n;
	return 0;
}

/* ---- by type ------------------------------------------------------------------------------- */

int retained_init(struct retained *t, const struct dominators *d, const struct graph *g)
{
	size_t n_types = MAX(g->s.n_types, 1u), n = (size_t)d->n + 1;
	/* The tree from above, and of each type how many are on the way down to where we are. */
	_cleanup_free_ uint32_t *child = calloc(n, sizeof(*child));
	_cleanup_free_ uint32_t *sibling = malloc(n * sizeof(*sibling));
	_cleanup_free_ uint32_t *open = calloc(n_types, sizeof(*open));
	uint32_t at = DOMINATORS_ROOT;

	*t = (struct retained){.bytes = calloc(n_types, sizeof(*t->bytes)),
		.objects = calloc(n_types, sizeof(*t->objects))};
	if (!child || !sibling || !open || !t->bytes || !t->objects) {
		retained_release(t);
		return -ENOMEM;
	}
	for (uint32_t i = d->n; i > DOMINATORS_ROOT; i--) {
		sibling[i] = child[d->idom[i]];
		child[d->idom[i]] = i;
	}
	for (;;) {
		uint32_t next = child[at];

		if (next) {
			uint32_t type = g->same_name[g->s.nodes[d->node[next]].type];

			child[at] = sibling[next];
			if (!open[type]++) {
				t->bytes[type] += d->bytes[next];
				t->objects[type] += d->objects[next];
			}
			at = next;
		} else if (at != DOMINATORS_ROOT) {
			open[g->same_name[g->s.nodes[d->node[at]].type]]--;
			at = d->idom[at];
		} else {
			return 0;
		}
	}
}

void retained_release(struct retained *t)
{
	free(t->bytes);
	free(t->objects);
	*t = (struct retained){0};
}
