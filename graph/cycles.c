/* SPDX-License-Identifier: MIT */
#include "graph/cycles.h"

#include <string.h>

struct search {
	const struct reach *r;
	struct cycles *c;
	size_t cap_cycles;
	uint32_t n_nodes;  /* of c */
	uint32_t *index;   /* of a node: 0 not seen yet, else in the order of the search */
	uint32_t *low;     /* the least index that is on the stack and can be reached */
	uint32_t *next;    /* of a node: the reference where to go on */
	uint32_t *parent;  /* where the search came from */
	uint32_t *stack;   /* nodes whose component is not complete */
	uint32_t n_stack, n_seen, looks;
	uint8_t *on_stack;
};

static void search_release(struct search *s)
{
	free(s->index);
	free(s->low);
	free(s->next);
	free(s->parent);
	free(s->stack);
	free(s->on_stack);
}

static bool refers_to_itself(const struct graph *g, uint32_t v)
{
	for (uint32_t e = g->first[v]; e < g->first[v + 1]; e++) {
		if (g->edges[e].to == v)
			return true;
	}
	return false;
}

/* v is the first of its component: all above it on the stack belong to it. */
static int take_component(struct search *s, uint32_t v)
{
	const struct graph *g = s->r->g;
	struct cycle c = {.first = s->n_nodes};
	uint32_t w;

	do {
		w = s->stack[--s->n_stack];
		s->on_stack[w] = 0;
		s->c->nodes[s->n_nodes++] = w;
		c.bytes += g->s.nodes[w].bytes;
		c.n++;
	} while (w != v);
	if (c.n == 1 && !refers_to_itself(g, v)) {
		s->n_nodes--;
		return 0;
	}
	if (s->c->n_cycles == s->cap_cycles) {
		size_t cap = MAX(s->cap_cycles * 2, (size_t)64);
		struct cycle *more = realloc(s->c->cycles, cap * sizeof(*more));

		if (!more)
			return -ENOMEM;
		s->c->cycles = more;
		s->cap_cycles = cap;
	}
	s->c->cycles[s->c->n_cycles++] = c;
	return 0;
}

static void enter(struct search *s, uint32_t v, uint32_t parent)
{
	s->index[v] = s->low[v] = ++s->n_seen;
	s->next[v] = s->r->g->first[v];
	s->parent[v] = parent;
	s->stack[s->n_stack++] = v;
	s->on_stack[v] = 1;
}

static int search_from(struct search *s, uint32_t top)
{
	const struct graph *g = s->r->g;

	enter(s, top, GRAPH_NONE);
	for (uint32_t v = top; v != GRAPH_NONE;) {
		uint32_t to, up;

		if (graph_stopped(g, s->looks++)) {
			s->c->cut = true;
			return 0;
		}
		if (s->next[v] < g->first[v + 1]) {
			to = g->edges[s->next[v]++].to;
			if (!s->index[to]) {
				/* Whatever an unreached object leads to may be reached. */
				if (s->r->dist[to] == REACH_NONE) {
					enter(s, to, v);
					v = to;
				}
			} else if (s->on_stack[to]) {
				s->low[v] = MIN(s->low[v], s->index[to]);
			}
			continue;
		}
		up = s->parent[v];
		if (s->low[v] == s->index[v] && take_component(s, v) < 0)
			return -ENOMEM;
		if (up != GRAPH_NONE)
			s->low[up] = MIN(s->low[up], s->low[v]);
		v = up;
	}
	return 0;
}

static int most_objects(const void *a, const void *b)
{
	const struct cycle *s = a, *t = b;

	if (s->n != t->n)
		return s->n > t->n ? -1 : 1;
	if (s->bytes != t->bytes)
		return s->bytes > t->bytes ? -1 : 1;
	return s->first < t->first ? -1 : s->first > t->first;
}

int cycles_find(struct cycles *c, const struct reach *r, struct err *err)
{
	size_t n = MAX(r->g->n_nodes, 1u);
	_cleanup_(cycles_release) struct cycles new = {.nodes = malloc(n * sizeof(*new.nodes))};
	_cleanup_(search_release) struct search s = {.r = r,
		.c = &new,
		.index = calloc(n, sizeof(*s.index)),
		.low = malloc(n * sizeof(*s.low)),
		.next = malloc(n * sizeof(*s.next)),
		.parent = malloc(n * sizeof(*s.parent)),
		.stack = malloc(n * sizeof(*s.stack)),
		.on_stack = calloc(n, 1)};
	int rc = new.nodes && s.index && s.low && s.next && s.parent && s.stack && s.on_stack
			 ? 0
			 : -ENOMEM;

	/* Of a search that was cut nobody knows what it would have reached. */
	new.cut = r->cut;
	for (uint32_t v = 0; v < r->g->n_nodes && rc == 0 && !new.cut; v++) {
		if (r->dist[v] == REACH_NONE && !s.index[v])
			rc = search_from(&s, v);
	}
	if (rc < 0)
		return err_set(err, rc, "not enough memory for the cycles of %u objects",
			r->g->n_nodes);
	if (new.n_cycles)
		qsort(new.cycles, new.n_cycles, sizeof(*new.cycles), most_objects);
	*c = new;
	new = (struct cycles){0};
	return 0;
}

void cycles_release(struct cycles *c)
{
	free(c->nodes);
	free(c->cycles);
	*c = (struct cycles){0};
}
