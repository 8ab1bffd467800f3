/* SPDX-License-Identifier: MIT */
#include "graph/web.h"

#include <string.h>

#include "graph/explain.h"
#include "graph/text.h"

#define RANKS           (REACH_TELLING_MAX + 1)
#define OWNER_LOOKS_MAX 4096 /* a module's dict is referred to by all its functions */
#define ROOTS_MAX       500u

struct pick {
	uint32_t *edges[RANKS]; /* the first too_many of each rank */
	uint32_t n[RANKS];
	uint64_t seen; /* neighbours in all */
};

struct weave {
	struct web *w;
	const struct graph *g;
	const struct reach *r;
	const struct web_options *o;
	uint32_t *number; /* of a node in the web + 1; 0: not there */
	uint32_t *stamp;  /* forwards: the number that saw it last as a neighbour, + 1 */
	uint32_t *joined; /* by number: the number whose edge with it was added last, + 1 */
	struct pick pick;
	uint32_t *room;
};

static void weave_release(struct weave *v)
{
	free(v->number);
	free(v->stamp);
	free(v->joined);
	free(v->room);
}

static void *more_room(void *array, size_t *cap, size_t n, size_t size)
{
	size_t want = MAX(*cap * 2, (size_t)64);
	void *bigger;

	if (n < *cap)
		return array;
	bigger = realloc(array, want * size);
	if (bigger)
		*cap = want;
	return bigger;
}

static bool is_module(const struct graph *g, uint32_t node)
{
	return strcmp(graph_type_name(g, node), "module") == 0;
}

/* GRAPH_NONE when the web is full. */
static uint32_t add_node(struct weave *v, uint32_t node, uint32_t depth)
{
	struct web *w = v->w;

	if (v->number[node])
		return v->number[node] - 1;
	if (w->n_nodes >= MIN(v->o->max_nodes, WEB_NODES_MAX)) {
		w->cut = true;
		return GRAPH_NONE;
	}
	w->nodes[w->n_nodes] = (struct web_node){
		.node = node, .depth = depth, .is_module = is_module(v->g, node)};
	v->number[node] = ++w->n_nodes;
	return w->n_nodes - 1;
}

/* Between the one that is being expanded and a neighbour. */
static int add_edge(struct weave *v, uint32_t at, uint32_t other, const struct held *how)
{
	bool back = v->o->backwards;
	struct web *w = v->w;
	struct web_edge *bigger;

	/* An attribute in a dict that is folded, and a reference of the owner's own: once. */
	if (v->joined[other] == at + 1)
		return 0;
	v->joined[other] = at + 1;
	bigger = more_room(w->edges, &w->cap_edges, w->n_edges, sizeof(*w->edges));
	if (!bigger)
		return -ENOMEM;
	w->edges = bigger;
	w->edges[w->n_edges++] = (struct web_edge){
		.from = back ? other : at, .to = back ? at : other, .how = *how};
	return 0;
}

static void offer(struct weave *v, uint32_t edge)
{
	struct pick *p = &v->pick;
	int rank = reach_telling(v->g->edges[edge].kind);

	p->seen++;
	if (p->n[rank] < v->o->too_many)
		p->edges[rank][p->n[rank]++] = edge;
}

/* The owner of a namespace dict, or GRAPH_NONE. */
static uint32_t owner_of(const struct weave *v, uint32_t dict)
{
	const struct graph *g = v->g;
	uint32_t via = v->r->via[dict];

	if (via != REACH_NONE && !(via & REACH_SOURCE) && g->edges[via].kind == EDGE_DICT)
		return g->edges[via].from;
	for (uint32_t k = g->in_first[dict], looks = 0;
		k < g->in_first[dict + 1] && looks < OWNER_LOOKS_MAX; k++, looks++) {
		if (g->edges[g->in[k]].kind == EDGE_DICT)
			return g->edges[g->in[k]].from;
	}
	return GRAPH_NONE;
}

/* Each referrer once, by its most telling reference: they come together in the index. */
static void offer_referrers(struct weave *v, uint32_t node)
{
	const struct graph *g = v->g;

	for (uint32_t k = g->in_first[node]; k < g->in_first[node + 1];) {
		uint32_t best = g->in[k], from = g->edges[best].from;

		for (k++; k < g->in_first[node + 1] && g->edges[g->in[k]].from == from; k++) {
			if (reach_telling(g->edges[g->in[k]].kind) >
				reach_telling(g->edges[best].kind))
				best = g->in[k];
		}
		offer(v, best);
	}
}

static void offer_references(struct weave *v, uint32_t node, uint32_t serial, bool of_dict)
{
	const struct graph *g = v->g;

	for (uint32_t e = g->first[node]; e < g->first[node + 1]; e++) {
		uint32_t to = g->edges[e].to, kind = g->edges[e].kind;

		if (of_dict && kind == EDGE_DICT_KEY)
			continue; /* the attributes' names */
		if (!of_dict && kind == EDGE_DICT) {
			offer_references(v, to, serial, true);
			continue;
		}
		if (v->stamp[to] == serial)
			continue;
		v->stamp[to] = serial;
		offer(v, e);
	}
}

static int take_referrer(struct weave *v, uint32_t at, uint32_t edge)
{
	const struct graph_edge *e = &v->g->edges[edge];
	struct held how = {.kind = e->kind, .arg = e->arg, .in_namespace = e->kind == EDGE_ATTR};
	uint32_t from = e->from, owner, n;

	if (e->kind == EDGE_KEY || e->kind == EDGE_ITEM) {
		owner = owner_of(v, from);
		if (owner != GRAPH_NONE) {
			from = owner;
			how.in_namespace = true;
		}
	}
	n = add_node(v, from, v->w->nodes[at].depth + 1);
	if (n == GRAPH_NONE) {
		v->w->nodes[at].more++;
		return 0;
	}
	return add_edge(v, at, n, &how);
}

static int take_reference(struct weave *v, uint32_t at, uint32_t edge)
{
	const struct graph_edge *e = &v->g->edges[edge];
	struct held how = {.kind = e->kind,
		.arg = e->arg,
		.in_namespace = e->kind == EDGE_ATTR || e->from != v->w->nodes[at].node};
	uint32_t n = add_node(v, e->to, v->w->nodes[at].depth + 1);

	if (n == GRAPH_NONE) {
		v->w->nodes[at].more++;
		return 0;
	}
	v->w->nodes[n].is_held |= e->kind != EDGE_TYPE;
	return add_edge(v, at, n, &how);
}

static int expand(struct weave *v, uint32_t at)
{
	struct web_node *here = &v->w->nodes[at];
	uint32_t taken = 0;

	if (here->depth >= v->o->max_depth ||
		(here->is_module && (v->o->backwards || here->depth)) ||
		(!v->o->backwards && here->depth && !here->is_held))
		return 0;
	memset(v->pick.n, 0, sizeof(v->pick.n));
	v->pick.seen = 0;
	if (v->o->backwards)
		offer_referrers(v, here->node);
	else
		offer_references(v, here->node, at + 1, false);
	for (int rank = RANKS - 1; rank >= 0; rank--) {
		for (uint32_t i = 0; i < v->pick.n[rank] && taken < v->o->too_many; i++, taken++) {
			uint32_t edge = v->pick.edges[rank][i];
			int rc = v->o->backwards ? take_referrer(v, at, edge)
						 : take_reference(v, at, edge);

			if (rc < 0)
				return rc;
		}
	}
	here->more += v->pick.seen - taken;
	return 0;
}

static int add_roots(struct weave *v)
{
	const struct reach *r = v->r;
	struct web *w = v->w;

	for (uint32_t i = 0; i < r->n_sources && w->n_roots < ROOTS_MAX; i++) {
		const struct path_source *s = &r->sources[i];
		struct web_root *bigger;

		if (!v->number[s->node] || (s->kind == PATH_MODULE && is_module(v->g, s->node)))
			continue;
		bigger = more_room(w->roots, &w->cap_roots, w->n_roots, sizeof(*w->roots));
		if (!bigger)
			return -ENOMEM;
		w->roots = bigger;
		w->roots[w->n_roots++] = (struct web_root){.to = v->number[s->node] - 1,
			.kind = s->kind,
			.name = s->name,
			.how = {.kind = s->edge_kind, .arg = s->edge_arg}};
	}
	return 0;
}

/* Many hold the same 1 or 'id': what leads to it from a root is not its name. */
static bool is_shared_value(const char *type)
{
	static const char *const types[] = {
		"int", "str", "bytes", "float", "bool", "complex", "NoneType", "ellipsis"};

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		if (strcmp(type, types[i]) == 0)
			return true;
	}
	return false;
}

static char *name_node(struct paths_ctx *c, const struct reach *r, uint32_t node)
{
	const char *own = graph_string(r->g, r->g->s.nodes[node].name);
	const char *type = graph_type_name(r->g, node);
	char *name;

	if (*own || is_shared_value(type))
		return strdup(*own ? own : type);
	name = explain_name(c, r, node);
	if (name && !*name) {
		free(name);
		name = strdup(text_short_type(type));
	}
	return name;
}

static int name_all(struct web *w, struct paths_ctx *c, const struct reach *r)
{
	for (uint32_t i = 0; i < w->n_nodes; i++) {
		w->nodes[i].label = name_node(c, r, w->nodes[i].node);
		if (!w->nodes[i].label)
			return -ENOMEM;
	}
	for (uint32_t i = 0; i < w->n_edges; i++) {
		w->edges[i].label = explain_edge(r->g, &w->edges[i].how);
		if (!w->edges[i].label)
			return -ENOMEM;
	}
	for (uint32_t i = 0; i < w->n_roots; i++) {
		w->roots[i].label = explain_edge(r->g, &w->roots[i].how);
		if (!w->roots[i].label)
			return -ENOMEM;
	}
	return 0;
}

int web_init(struct web *w, struct paths_ctx *c, const struct reach *r, const uint32_t *starts, size_t n_starts,
	const struct web_options *o, struct err *err)
{
	size_t n = MAX(r->g->n_nodes, 1u);
	_cleanup_(web_release) struct web new = {.backwards = o->backwards,
		.nodes = malloc(WEB_NODES_MAX * sizeof(*new.nodes))};
	_cleanup_(weave_release) struct weave v = {.w = &new,
		.g = r->g,
		.r = r,
		.o = o,
		.number = calloc(n, sizeof(*v.number)),
		.stamp = o->backwards ? NULL : calloc(n, sizeof(*v.stamp)),
		.joined = calloc(WEB_NODES_MAX, sizeof(*v.joined)),
		.room = malloc(MAX((size_t)o->too_many, (size_t)1) * RANKS * sizeof(*v.room))};
	int rc = new.nodes && v.number && v.joined && v.room && (o->backwards || v.stamp) ? 0 : -ENOMEM;

	for (int i = 0; i < RANKS && rc == 0; i++)
		v.pick.edges[i] = v.room + (size_t)i * o->too_many;
	for (size_t i = 0; i < n_starts && rc == 0; i++)
		add_node(&v, starts[i], 0);
	new.late = r->cut;
	for (uint32_t i = 0; i < new.n_nodes && rc == 0 && !new.late; i++) {
		rc = expand(&v, i);
		new.late = graph_stopped(r->g, 0);
	}
	if (rc == 0 && o->backwards)
		rc = add_roots(&v);
	if (rc == 0)
		rc = name_all(&new, c, r);
	if (rc < 0)
		return err_set(err, rc, "not enough memory to look around in %u objects",
			r->g->n_nodes);
	*w = new;
	new = (struct web){0};
	return 0;
}

void web_release(struct web *w)
{
	for (uint32_t i = 0; i < w->n_nodes; i++)
		free(w->nodes[i].label);
	for (uint32_t i = 0; i < w->n_edges; i++)
		free(w->edges[i].label);
	for (uint32_t i = 0; i < w->n_roots; i++)
		free(w->roots[i].label);
	free(w->nodes);
	free(w->edges);
	free(w->roots);
	*w = (struct web){0};
}
