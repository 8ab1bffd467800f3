/* SPDX-License-Identifier: MIT */
#include "graph/paths.h"

#include <string.h>

/* A path that comes back to the same (how, type) within this many steps is a repetition: at once
 * if it is held by name (`.next`), in containers only the third time, so that a dict of dicts of
 * lists stays what it is. */
#define REPEAT_WINDOW     8
#define REPEAT_CONTAINERS 3

/* A place whose attributes hold more objects of one type than this is used as a dict. */
#define NAMES_MAX 64

#define ANY_NAME     UINT32_MAX /* label_arg: any name */
#define KIND_ROOT    0x100u     /* label_kind of a root: | enum path_root */
#define NO_TYPE      UINT32_MAX
#define SHAPE_NONE   0u
#define SHAPE_OTHER  1u
#define SHAPE_UNSEEN 2u /* the search was cut before it came there */
#define SHAPE_FIRST  3u
#define SHAPE_MARKED UINT32_MAX

struct shape {
	uint32_t parent;
	uint32_t kind, arg, type; /* how its objects are held, generalised, and their type */
	uint32_t merged;          /* not 0: the shape that has taken it over */
	/* For arg == ANY_NAME: how many names so far, and the first of them; it is in use when
	 * there are more than NAMES_MAX. For a named one: the next of them. */
	uint32_t names, next_named;
};

struct paths_ctx {
	const struct reach *r;
	struct shape *shapes;
	uint32_t n_shapes, cap_shapes;
	uint32_t *table; /* open addressing, of shape numbers */
	uint32_t table_size;
	uint32_t *shape_of; /* a node's shape, or SHAPE_NONE where nobody has asked */
	uint32_t *stamp;    /* of a node: the last group that counted it */
	uint32_t serial;
	const uint8_t *chosen;
	bool chosen_first;
};

static bool in_tree(const struct reach *r, uint32_t v)
{
	return r->dist[v] != REACH_NONE;
}

/* A value of a dict that is a namespace, or what looks like one: an attribute of the owner. */
static void fold_namespace(const struct reach *r, struct held *h)
{
	const struct graph *g = r->g;
	uint32_t up = r->via[h->parent];

	if (up == REACH_NONE)
		return;
	if (up & REACH_SOURCE) {
		const struct path_source *s = &r->sources[up & ~REACH_SOURCE];

		if (s->edge_kind != EDGE_DICT)
			return;
		h->parent = GRAPH_NONE;
		h->source = up & ~REACH_SOURCE;
		h->in_namespace = true;
		if (s->kind == PATH_FRAME && h->kind == EDGE_KEY)
			h->kind = EDGE_LOCAL;
		return;
	}
	if (g->edges[up].kind == EDGE_DICT) {
		h->parent = g->edges[up].from;
		h->in_namespace = true;
	} else if (g->edges[up].kind == EDGE_ATTR &&
		   strcmp(graph_string(g, g->edges[up].arg), "__globals__") == 0) {
		h->by_name = true;
	}
}

struct held reach_held(const struct reach *r, uint32_t v)
{
	const struct graph *g = r->g;
	uint32_t via = r->via[v];
	struct held h;

	if (via & REACH_SOURCE) {
		const struct path_source *s = &r->sources[via & ~REACH_SOURCE];

		return (struct held){.parent = GRAPH_NONE,
			.source = via & ~REACH_SOURCE,
			.kind = s->edge_kind,
			.arg = s->edge_arg};
	}
	h = (struct held){
		.parent = g->edges[via].from, .kind = g->edges[via].kind, .arg = g->edges[via].arg};
	h.in_namespace = h.kind == EDGE_ATTR;
	if (h.kind == EDGE_KEY || h.kind == EDGE_ITEM)
		fold_namespace(r, &h);
	return h;
}

/* What makes a difference for the shape. */
static void generalise(const struct held *h, uint32_t *ret_kind, uint32_t *ret_arg)
{
	*ret_arg = 0;
	*ret_kind = h->kind;
	switch (h->kind) {
	case EDGE_ATTR: /* without a name: any */
		*ret_arg = h->arg ? h->arg : ANY_NAME;
		break;
	case EDGE_CELL:
	case EDGE_LOCAL:
		*ret_arg = h->arg;
		break;
	case EDGE_KEY:
	case EDGE_ITEM:
		*ret_kind = EDGE_ITEM;
		if (h->in_namespace) {
			*ret_kind = EDGE_ATTR;
			*ret_arg = h->kind == EDGE_KEY ? h->arg : ANY_NAME;
		} else if (h->by_name && h->kind == EDGE_KEY) {
			*ret_kind = EDGE_KEY;
			*ret_arg = h->arg;
		}
		break;
	default:
		break;
	}
}

static bool is_named(uint32_t kind)
{
	return kind == EDGE_ATTR || kind == EDGE_CELL || kind == EDGE_LOCAL || kind == EDGE_KEY;
}

/* ---- shapes -------------------------------------------------------------------------------- */

static uint32_t current(const struct paths_ctx *c, uint32_t shape)
{
	return c->shapes[shape].merged ? c->shapes[shape].merged : shape;
}

static uint64_t hash(uint32_t parent, uint32_t kind, uint32_t arg, uint32_t type)
{
	uint64_t h = ((uint64_t)parent << 32 | type) * 0x9e3779b97f4a7c15ull;

	h ^= h >> 29;
	h += ((uint64_t)kind << 32 | arg) * 0xbf58476d1ce4e5b9ull;
	h ^= h >> 32;
	h *= 0x94d049bb133111ebull;
	return h ^ h >> 29;
}

static uint32_t *lookup(
	const struct paths_ctx *c, uint32_t parent, uint32_t kind, uint32_t arg, uint32_t type)
{
	uint32_t i = (uint32_t)hash(parent, kind, arg, type) & (c->table_size - 1);

	for (; c->table[i]; i = (i + 1) & (c->table_size - 1)) {
		const struct shape *s = &c->shapes[c->table[i]];

		if (s->parent == parent && s->kind == kind && s->arg == arg && s->type == type)
			break;
	}
	return &c->table[i];
}

static int grow_table(struct paths_ctx *c)
{
	uint32_t size = c->table_size * 2, *old = c->table;

	c->table = calloc(size, sizeof(*c->table));
	if (!c->table) {
		c->table = old;
		return -ENOMEM;
	}
	c->table_size = size;
	for (uint32_t i = SHAPE_FIRST; i < c->n_shapes; i++) {
		const struct shape *s = &c->shapes[i];

		*lookup(c, s->parent, s->kind, s->arg, s->type) = i;
	}
	free(old);
	return 0;
}

/* Finds or makes a shape, as it is, without the rules of shape_below(). */
static int shape_get(struct paths_ctx *c, uint32_t parent, uint32_t kind, uint32_t arg,
	uint32_t type, uint32_t *ret, bool *ret_new)
{
	uint32_t *slot = lookup(c, parent, kind, arg, type);

	*ret_new = false;
	if (*slot) {
		*ret = *slot;
		return 0;
	}
	if (c->n_shapes >= PATHS_SHAPES_MAX) {
		*ret = SHAPE_OTHER;
		return 0;
	}
	if (c->n_shapes == c->cap_shapes) {
		uint32_t cap = c->cap_shapes * 2;
		struct shape *more = realloc(c->shapes, cap * sizeof(*more));

		if (!more)
			return -ENOMEM;
		c->shapes = more;
		c->cap_shapes = cap;
	}
	if (c->n_shapes >= c->table_size / 2) {
		int rc = grow_table(c);

		if (rc < 0)
			return rc;
		slot = lookup(c, parent, kind, arg, type);
	}
	c->shapes[c->n_shapes] =
		(struct shape){.parent = parent, .kind = kind, .arg = arg, .type = type};
	*slot = *ret = c->n_shapes++;
	*ret_new = true;
	return 0;
}

/* The shape of an object held by one of shape `parent`. */
static int shape_below(struct paths_ctx *c, uint32_t parent, uint32_t kind, uint32_t arg,
	uint32_t type, uint32_t *ret)
{
	uint32_t any = SHAPE_NONE, shape, nearest = SHAPE_NONE, up;
	unsigned int seen = 0;
	bool new;
	int rc;

	parent = current(c, parent);
	if (parent == SHAPE_OTHER) {
		*ret = SHAPE_OTHER;
		return 0;
	}

	up = parent;
	for (int i = 0; i < REPEAT_WINDOW && !(c->shapes[up].kind & KIND_ROOT); i++) {
		const struct shape *s = &c->shapes[up];

		if (s->kind == kind && s->type == type &&
			(s->arg == arg || (is_named(kind) && s->arg == ANY_NAME))) {
			nearest = nearest ? nearest : up;
			seen++;
		}
		up = current(c, s->parent);
	}
	if (nearest && seen >= (is_named(kind) ? 1u : REPEAT_CONTAINERS)) {
		*ret = nearest;
		return 0;
	}

	if (is_named(kind)) {
		rc = shape_get(c, parent, kind, ANY_NAME, type, &any, &new);
		if (rc < 0)
			return rc;
		if (any == SHAPE_OTHER || arg == ANY_NAME || c->shapes[any].names > NAMES_MAX) {
			if (arg == ANY_NAME && any != SHAPE_OTHER)
				c->shapes[any].names = NAMES_MAX + 1;
			*ret = any;
			return 0;
		}
	}
	rc = shape_get(c, parent, kind, arg, type, &shape, &new);
	if (rc < 0)
		return rc;
	if (new &&any && shape != SHAPE_OTHER) {
		c->shapes[shape].next_named = c->shapes[any].next_named;
		c->shapes[any].next_named = shape;
		if (++c->shapes[any].names > NAMES_MAX) {
			for (uint32_t i = c->shapes[any].next_named; i; i = c->shapes[i].next_named)
				c->shapes[i].merged = any;
		}
	}
	*ret = current(c, shape);
	return 0;
}

static int shape_of_root(struct paths_ctx *c, uint32_t kind, uint32_t name, uint32_t *ret)
{
	bool new;

	return shape_get(c, SHAPE_NONE, KIND_ROOT | kind, name, NO_TYPE, ret, &new);
}

static uint32_t type_of(const struct graph *g, uint32_t node)
{
	return g->same_name[g->s.nodes[node].type];
}

/* Is v the root itself, not something that the root holds? */
static bool is_the_root(const struct reach *r, uint32_t v, const struct held *h)
{
	const struct path_source *s = &r->sources[h->source];

	return h->parent == GRAPH_NONE && r->via[v] == (REACH_SOURCE | h->source) && s->is_root &&
	       s->edge_kind != EDGE_DICT;
}

/* Gives v its shape; the one that holds it must have one. */
static int shape_node(struct paths_ctx *c, uint32_t v)
{
	const struct reach *r = c->r;
	struct held h = reach_held(r, v);
	uint32_t parent, kind, arg;
	int rc;

	if (h.parent == GRAPH_NONE) {
		const struct path_source *s = &r->sources[h.source];

		rc = shape_of_root(c, s->kind, s->name, &parent);
		if (rc < 0)
			return rc;
		if (is_the_root(r, v, &h)) {
			c->shape_of[v] = parent;
			return 0;
		}
	} else {
		parent = c->shape_of[h.parent];
	}
	generalise(&h, &kind, &arg);
	return shape_below(c, parent, kind, arg, type_of(r->g, v), &c->shape_of[v]);
}

/* The same for an object that hangs on a reference cycle: by the one that holds it. */
static int shape_unreached(struct paths_ctx *c, uint32_t v)
{
	const struct reach *r = c->r;
	uint32_t shape, kind, arg;
	struct held h;
	int rc = shape_of_root(c, PATH_UNREACHABLE, 0, &shape);

	if (rc < 0)
		return rc;
	if (r->via[v] == REACH_NONE)
		return shape_below(c, shape, EDGE_PLAIN, 0, type_of(r->g, v), &c->shape_of[v]);
	h = reach_held(r, v);
	rc = shape_below(c, shape, EDGE_PLAIN, 0, type_of(r->g, h.parent), &shape);
	if (rc < 0)
		return rc;
	generalise(&h, &kind, &arg);
	return shape_below(c, shape, kind, arg, type_of(r->g, v), &c->shape_of[v]);
}

int paths_ctx_new(struct paths_ctx **ret, const struct reach *r, struct err *err)
{
	struct paths_ctx *c = calloc(1, sizeof(*c));
	size_t n = MAX(r->g->n_nodes, 1u);

	if (c) {
		c->r = r;
		c->cap_shapes = 1024;
		c->table_size = 4096;
		c->shapes = calloc(c->cap_shapes, sizeof(*c->shapes));
		c->table = calloc(c->table_size, sizeof(*c->table));
		c->shape_of = calloc(n, sizeof(*c->shape_of));
		c->stamp = calloc(n, sizeof(*c->stamp));
		c->n_shapes = SHAPE_FIRST;
	}
	if (!c || !c->shapes || !c->table || !c->shape_of || !c->stamp) {
		paths_ctx_free(c);
		return err_set(
			err, -ENOMEM, "not enough memory to search %u objects", r->g->n_nodes);
	}
	*ret = c;
	return 0;
}

struct paths_ctx *paths_ctx_free(struct paths_ctx *c)
{
	if (c) {
		free(c->shapes);
		free(c->table);
		free(c->shape_of);
		free(c->stamp);
		free(c);
	}
	return NULL;
}

/* ---- groups -------------------------------------------------------------------------------- */

/* Shapes for all instances and for everything on their paths; returns how many instances. */
static int shape_instances(struct paths_ctx *c, uint32_t type, uint64_t *ret_instances)
{
	const struct reach *r = c->r;
	const struct graph *g = r->g;
	uint64_t instances = 0;
	int rc = 0;

	for (uint32_t i = 0; i < g->n_nodes; i++) {
		if (type_of(g, i) != type)
			continue;
		instances++;
		for (uint32_t v = i; in_tree(r, i) && v != GRAPH_NONE && !c->shape_of[v];) {
			c->shape_of[v] = SHAPE_MARKED;
			v = reach_held(r, v).parent;
		}
	}
	/* In the order of their roots, which makes it the order of groups of the same size. */
	for (uint32_t i = 0; i < r->n_order && rc == 0; i++) {
		if (c->shape_of[r->order[i]] == SHAPE_MARKED)
			rc = shape_node(c, r->order[i]);
	}
	for (uint32_t i = 0; i < g->n_nodes && rc == 0; i++) {
		if (type_of(g, i) != type || c->shape_of[i])
			continue;
		if (r->cut)
			c->shape_of[i] = SHAPE_UNSEEN;
		else
			rc = shape_unreached(c, i);
	}
	*ret_instances = instances;
	return rc;
}

struct tally {
	uint32_t shape;
	uint64_t instances, chosen;
	uint64_t rank; /* by which they are sorted, then by instances */
};

static int most_first(const void *a, const void *b)
{
	const struct tally *s = a, *t = b;

	if (s->rank != t->rank)
		return s->rank > t->rank ? -1 : 1;
	if (s->instances != t->instances)
		return s->instances > t->instances ? -1 : 1;
	return s->shape < t->shape ? -1 : s->shape > t->shape;
}

/* The places of a shape, from the root's first step on. */
static int list_steps(const struct paths_ctx *c, struct path_group *group, uint32_t shape)
{
	uint32_t s;
	size_t n = 0;

	for (s = shape; !(c->shapes[s].kind & KIND_ROOT); s = current(c, c->shapes[s].parent))
		n++;
	group->root = c->shapes[s].kind & ~KIND_ROOT;
	group->root_name = c->shapes[s].arg;
	group->root_shape = s;
	group->steps = calloc(MAX(n, 1u), sizeof(*group->steps));
	if (!group->steps)
		return -ENOMEM;
	group->n_steps = group->n_steps_whole = n;
	for (s = shape; n > 0; s = current(c, c->shapes[s].parent))
		group->steps[--n] = (struct path_step){
			.shape = s, .type = c->shapes[s].type, .node = GRAPH_NONE};
	return 0;
}

static void count_in(
	struct path_step *step, const struct graph *g, uint32_t v, const struct held *h)
{
	if (!step->nodes++) {
		step->node = v;
		step->kind = h->kind;
		step->arg = h->arg;
		step->in_namespace = h->in_namespace;
	} else {
		step->mixed |= step->kind != h->kind || step->arg != h->arg;
		step->names_differ |= g->s.nodes[v].name != g->s.nodes[step->node].name;
	}
}

static bool in_group(const struct paths_ctx *c, uint32_t node, uint32_t type, uint32_t shape)
{
	return type_of(c->r->g, node) == type && current(c, c->shape_of[node]) == shape;
}

/* Walks the paths of all instances of the group, each object once. place[shape] is 1 + the number
 * of the step. */
static void measure(struct paths_ctx *c, struct path_group *group, uint32_t type, uint32_t shape,
	const uint32_t *place)
{
	const struct graph *g = c->r->g;

	c->serial++;
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		if (!in_group(c, i, type, shape))
			continue;
		for (uint32_t v = i; v != GRAPH_NONE && c->stamp[v] != c->serial;) {
			struct held h = reach_held(c->r, v);
			uint32_t at = current(c, c->shape_of[v]), above;

			c->stamp[v] = c->serial;
			if (place[at]) {
				count_in(&group->steps[place[at] - 1], g, v, &h);
				above = h.parent == GRAPH_NONE ? SHAPE_NONE
							       : current(c, c->shape_of[h.parent]);
				/* From a place that is not the one before: the path came round. */
				if (above && above != current(c, c->shapes[at].parent))
					group->steps[place[at] - 1].repeats = true;
			}
			v = h.parent;
		}
	}
}

/* The same for what hangs on a cycle: the instances, and each one's holder. */
static void measure_unreached(
	struct paths_ctx *c, struct path_group *group, uint32_t type, uint32_t shape)
{
	const struct reach *r = c->r;
	struct path_step *last = group->n_steps ? &group->steps[group->n_steps - 1] : NULL;

	c->serial++;
	for (uint32_t i = 0; last && i < r->g->n_nodes; i++) {
		struct held top = {.parent = GRAPH_NONE, .kind = EDGE_PLAIN}, h = top;

		if (!in_group(c, i, type, shape))
			continue;
		if (r->via[i] != REACH_NONE)
			h = reach_held(r, i);
		count_in(last, r->g, i, &h);
		if (group->n_steps == 2 && h.parent != GRAPH_NONE &&
			c->stamp[h.parent] != c->serial) {
			c->stamp[h.parent] = c->serial;
			count_in(&group->steps[0], r->g, h.parent, &top);
		}
	}
}

/* ---- cycles -------------------------------------------------------------------------------- */

#define CYCLE_NODES_MAX 4096
#define CYCLE_EDGES_MAX (64u * CYCLE_NODES_MAX)
#define CYCLE_STEPS_MAX 12u

struct cycle_node {
	uint32_t node, from; /* the latter a number in the queue */
	uint32_t edge;
};

/* A shortest cycle through v among what nobody holds: how many references, 0 if none was found. */
static uint32_t find_cycle(struct paths_ctx *c, uint32_t v, uint32_t cycle[CYCLE_STEPS_MAX])
{
	const struct graph *g = c->r->g;
	_cleanup_free_ struct cycle_node *queue = malloc(CYCLE_NODES_MAX * sizeof(*queue));
	uint32_t tail = 0, budget = CYCLE_EDGES_MAX;

	if (!queue)
		return 0;
	c->serial++;
	queue[tail++] = (struct cycle_node){.node = v};
	for (uint32_t head = 0; head < tail; head++) {
		uint32_t u = queue[head].node;

		for (uint32_t e = g->first[u]; e < g->first[u + 1] && budget; e++, budget--) {
			uint32_t w = g->edges[e].to, n = 1;

			if (w == v) {
				for (uint32_t at = head; at; at = queue[at].from)
					n++;
				if (n > CYCLE_STEPS_MAX)
					return 0;
				cycle[n - 1] = e;
				for (uint32_t at = head, i = n - 1; at; at = queue[at].from)
					cycle[--i] = queue[at].edge;
				return n;
			}
			if (in_tree(c->r, w) || c->stamp[w] == c->serial || tail == CYCLE_NODES_MAX)
				continue;
			c->stamp[w] = c->serial;
			queue[tail++] = (struct cycle_node){.node = w, .from = head, .edge = e};
		}
	}
	return 0;
}

/* Shows the cycle of one instance as the steps of the group. */
static int show_cycle(struct paths_ctx *c, struct path_group *group, uint32_t instance)
{
	const struct graph *g = c->r->g;
	uint32_t cycle[CYCLE_STEPS_MAX], n = find_cycle(c, instance, cycle);
	struct path_step *steps;
	size_t k = 0;

	if (!n)
		return 0;
	steps = calloc(n + 1, sizeof(*steps));
	if (!steps)
		return -ENOMEM;
	steps[k++] = (struct path_step){.type = type_of(g, instance),
		.kind = EDGE_PLAIN,
		.node = instance,
		.nodes = group->instances};
	for (uint32_t i = 0; i < n; i++) {
		const struct graph_edge *e = &g->edges[cycle[i]];
		bool in_namespace = e->kind == EDGE_ATTR;

		if (e->kind == EDGE_DICT && i + 1 < n)
			continue; /* folded into the next one */
		if ((e->kind == EDGE_KEY || e->kind == EDGE_ITEM) && i > 0 &&
			g->edges[cycle[i - 1]].kind == EDGE_DICT)
			in_namespace = true;
		steps[k++] = (struct path_step){.type = type_of(g, e->to),
			.kind = e->kind,
			.arg = e->arg,
			.node = e->to,
			.nodes = 1,
			.in_namespace = in_namespace};
	}
	steps[k - 1].nodes = group->instances;
	free(group->steps);
	group->steps = steps;
	group->n_steps = group->n_steps_whole = k;
	group->is_cycle = true;
	return 0;
}

/* ---- a group ------------------------------------------------------------------------------- */

static void cut_middle(struct path_group *group)
{
	size_t tail = PATHS_STEPS_MAX / 2, head = PATHS_STEPS_MAX - tail;

	if (group->n_steps <= PATHS_STEPS_MAX)
		return;
	if (group->accumulation >= (ssize_t)(group->n_steps - tail)) {
		group->accumulation -= (ssize_t)(group->n_steps - PATHS_STEPS_MAX);
	} else if (group->accumulation >= (ssize_t)head) {
		/* It is in the part that is cut out: the last one that is seen instead. */
		group->accumulation = (ssize_t)head - 1;
		while (group->accumulation >= 0 && group->steps[group->accumulation].nodes != 1)
			group->accumulation--;
	}
	memmove(group->steps + head, group->steps + group->n_steps - tail,
		tail * sizeof(*group->steps));
	group->cut = head;
	group->n_steps = PATHS_STEPS_MAX;
}

static int fill_group(struct paths_ctx *c, struct path_group *group, uint32_t type,
	const struct tally *tally, uint32_t *place)
{
	int rc;

	group->instances = tally->instances;
	group->chosen = tally->chosen;
	rc = list_steps(c, group, tally->shape);
	if (rc < 0)
		return rc;
	group->accumulation = -1;
	if (group->root == PATH_UNREACHABLE) {
		measure_unreached(c, group, type, tally->shape);
		return group->n_steps ? show_cycle(c, group, group->steps[group->n_steps - 1].node)
				      : 0;
	}
	for (size_t i = 0; i < group->n_steps; i++)
		place[group->steps[i].shape] = (uint32_t)i + 1;
	measure(c, group, type, tally->shape, place);
	for (size_t i = 0; i < group->n_steps; i++) {
		place[group->steps[i].shape] = 0;
		if (group->steps[i].nodes == 1 && i + 1 < group->n_steps)
			group->accumulation = (ssize_t)i;
	}
	cut_middle(group);
	return 0;
}

void paths_ctx_choose(struct paths_ctx *c, const uint8_t *mark, bool first)
{
	c->chosen = mark;
	c->chosen_first = mark && first;
}

int paths_find(
	struct paths *p, struct paths_ctx *c, uint32_t type, size_t max_groups, struct err *err)
{
	const struct graph *g = c->r->g;
	_cleanup_free_ struct tally *tallies = NULL;
	_cleanup_free_ uint32_t *place = NULL;
	size_t n = 0, used = 0;
	int rc;

	*p = (struct paths){0};
	rc = shape_instances(c, type, &p->instances);
	if (rc < 0)
		goto fail;
	tallies = calloc(c->n_shapes, sizeof(*tallies));
	place = calloc(c->n_shapes, sizeof(*place));
	rc = -ENOMEM;
	if (!tallies || !place)
		goto fail;
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		struct tally *t = &tallies[current(c, c->shape_of[i])];

		if (type_of(g, i) != type)
			continue;
		t->instances++;
		t->chosen += c->chosen && c->chosen[i];
	}
	p->other_instances = tallies[SHAPE_OTHER].instances;
	p->other_groups = p->other_instances > 0;
	p->unseen = tallies[SHAPE_UNSEEN].instances;
	for (uint32_t s = SHAPE_FIRST; s < c->n_shapes; s++) {
		if (tallies[s].instances)
			tallies[n++] = (struct tally){.shape = s,
				.instances = tallies[s].instances,
				.chosen = tallies[s].chosen,
				.rank = c->chosen_first ? tallies[s].chosen : 0};
	}
	qsort(tallies, n, sizeof(*tallies), most_first);
	used = MIN(n, max_groups);
	p->groups = calloc(MAX(used, 1u), sizeof(*p->groups));
	if (!p->groups)
		goto fail;
	for (size_t i = 0; i < n; i++) {
		if (i >= used) {
			p->other_groups++;
			p->other_instances += tallies[i].instances;
			continue;
		}
		rc = fill_group(c, &p->groups[i], type, &tallies[i], place);
		p->n_groups = i + 1;
		if (rc < 0)
			goto fail;
	}
	return 0;
fail:
	paths_release(p);
	return err_set(err, rc, "not enough memory to group %u objects by their paths", g->n_nodes);
}

int paths_of_object(struct path_group *group, struct paths_ctx *c, uint32_t node)
{
	const struct reach *r = c->r;
	size_t n = 0, tail = PATHS_STEPS_MAX / 2, skip = 0, at;
	struct held h;

	*group = (struct path_group){.root = PATH_UNREACHABLE, .instances = 1, .accumulation = -1};
	group->steps = calloc(PATHS_STEPS_MAX, sizeof(*group->steps));
	if (!group->steps)
		return -ENOMEM;
	if (!in_tree(r, node)) {
		group->n_steps = group->n_steps_whole = 1;
		group->steps[0] = (struct path_step){
			.type = type_of(r->g, node), .node = node, .nodes = 1};
		return show_cycle(c, group, node);
	}
	for (uint32_t v = node;; v = h.parent) {
		h = reach_held(r, v);
		n += !is_the_root(r, v, &h);
		if (h.parent == GRAPH_NONE)
			break;
	}
	group->root = r->sources[h.source].kind;
	group->root_name = r->sources[h.source].name;
	group->n_steps_whole = n;
	group->n_steps = MIN(n, (size_t)PATHS_STEPS_MAX);
	if (n > PATHS_STEPS_MAX) {
		group->cut = PATHS_STEPS_MAX - tail;
		skip = n - PATHS_STEPS_MAX;
	}
	/* From the object up: the last steps, not those of the middle, the first ones. */
	at = n;
	for (uint32_t v = node; at > 0; v = h.parent) {
		size_t to = --at;

		h = reach_held(r, v);
		if (skip && to >= group->cut && to < group->cut + skip)
			continue;
		group->steps[skip && to >= group->cut ? to - skip : to] =
			(struct path_step){.type = type_of(r->g, v),
				.kind = h.kind,
				.arg = h.arg,
				.node = v,
				.nodes = 1,
				.in_namespace = h.in_namespace};
	}
	if (group->n_steps > 1)
		group->accumulation = (ssize_t)group->n_steps - 2;
	return 0;
}

void path_group_release(struct path_group *group)
{
	free(group->steps);
	*group = (struct path_group){0};
}

void paths_release(struct paths *p)
{
	for (size_t i = 0; i < p->n_groups; i++)
		path_group_release(&p->groups[i]);
	free(p->groups);
	*p = (struct paths){0};
}
