/* SPDX-License-Identifier: MIT */
#include "graph/explain.h"

#include <string.h>

#include "graph/chosen.h"
#include "graph/dominators.h"
#include "graph/text.h"
#include "graph/types.h"

#define EDGE_CHARS  60 /* of a key or an attribute's name */
#define LABEL_CHARS 80
#define TYPE_CHARS  300 /* type names are answers: only absurd ones are shortened */
#define ROOT_CHARS  200

/* ---- words --------------------------------------------------------------------------------- */

const char *explain_root_kind(enum path_root root)
{
	switch (root) {
	case PATH_MODULE:
		return "module";
	case PATH_FRAME:
		return "frame";
	case PATH_C_REFERENCE:
		return "c-reference";
	default:
		return "interpreter";
	}
}

const char *explain_root_name(const struct graph *g, enum path_root root, uint32_t name)
{
	const char *s = graph_string(g, name);

	return root == PATH_C_REFERENCE && !*s ? EXPLAIN_C_CODE : s;
}

/* 'key' as Python would write it, nearly: quotes and backslashes escaped. */
static char *quote(const char *s)
{
	_cleanup_free_ char *shown = text_elide(s, EDGE_CHARS);
	char *out = shown ? malloc(2 * strlen(shown) + 1) : NULL, *o = out;

	if (!out)
		return NULL;
	for (const char *p = shown; *p; p++) {
		if (*p == '\'' || *p == '\\')
			*o++ = '\\';
		*o++ = *p;
	}
	*o = 0;
	return out;
}

static char *name_of_edge(const struct graph *g, const struct path_step *step)
{
	bool by_index = step->kind == EDGE_INDEX || step->mixed || step->kind == EDGE_ITEM;

	return by_index || !*graph_string(g, step->arg)
		       ? strdup("…")
		       : text_elide(graph_string(g, step->arg), EDGE_CHARS);
}

static char *edge_text(const struct graph *g, const struct path_step *step)
{
	_cleanup_free_ char *name = NULL;

	switch (step->kind) {
	case EDGE_ATTR:
	case EDGE_CELL:
	case EDGE_LOCAL:
		name = name_of_edge(g, step);
		if (!name)
			return NULL;
		if (step->kind == EDGE_ATTR)
			return text_format(".%s", name);
		if (step->kind == EDGE_CELL && !step->mixed && !step->arg)
			return strdup("cell");
		return text_format("%s %s", step->kind == EDGE_CELL ? "cell" : "local", name);
	case EDGE_DICT:
		return strdup(".__dict__");
	case EDGE_KEY:
	case EDGE_ITEM:
		if (step->in_namespace) {
			name = name_of_edge(g, step);
			return name ? text_format(".%s", name) : NULL;
		}
		if (step->mixed || step->kind == EDGE_ITEM)
			return strdup("['…']");
		name = quote(graph_string(g, step->arg));
		return name ? text_format("['%s']", name) : NULL;
	case EDGE_INDEX:
		return step->mixed ? strdup("[…]") : text_format("[%u]", step->arg);
	case EDGE_DICT_KEY:
		return strdup("key");
	case EDGE_MEMBER:
		return strdup("{…}");
	case EDGE_TYPE:
		return strdup(".__class__");
	default:
		return strdup("");
	}
}

char *explain_edge(const struct graph *g, const struct held *h)
{
	const struct path_step step = {
		.kind = h->kind, .arg = h->arg, .in_namespace = h->in_namespace};

	return edge_text(g, &step);
}

static char *label_text(const struct graph *g, const struct path_step *step, bool last)
{
	const char *own = graph_string(g, g->s.nodes[step->node].name);
	bool named = (step->kind == EDGE_ATTR || step->in_namespace || step->kind == EDGE_CELL ||
			     step->kind == EDGE_LOCAL) &&
		     !step->mixed && step->kind != EDGE_ITEM && *graph_string(g, step->arg);

	if (*own && !step->names_differ)
		return text_elide(own, LABEL_CHARS);
	if (named && !last)
		return text_elide(graph_string(g, step->arg), LABEL_CHARS);
	return text_elide(text_short_type(type_name(g, step->type)), LABEL_CHARS);
}

static int fill_step(
	struct explain_step *out, const struct graph *g, const struct path_step *step, bool last)
{
	*out = (struct explain_step){.nodes = step->nodes,
		.addr = step->nodes == 1 ? g->s.nodes[step->node].addr : 0,
		.example = g->s.nodes[step->node].addr,
		.shape = step->shape,
		.repeats = step->repeats,
		.type = text_elide(type_name(g, step->type), TYPE_CHARS),
		.label = label_text(g, step, last),
		.edge = edge_text(g, step)};
	return out->type && out->label && out->edge ? 0 : -ENOMEM;
}

static int fill_gap(struct explain_step *out, size_t cut)
{
	char number[TEXT_NUMBER_MAX];

	*out = (struct explain_step){.gap = true,
		.type = strdup("…"),
		.label = text_format("%s more steps", text_number(number, sizeof(number), cut)),
		.edge = strdup("")};
	return out->type && out->label && out->edge ? 0 : -ENOMEM;
}

/* "app.SESSIONS['…']": the root and the steps 0 … last as an expression. */
static char *expression(const struct explain_path *path, ssize_t last)
{
	_cleanup_free_ char *text = NULL;
	bool bare = path->root == PATH_MODULE;

	text = strdup(bare ? path->root_name : "");
	for (ssize_t i = 0; text && i <= last; i++) {
		const struct explain_step *step = &path->steps[i];
		const char *edge = step->edge, *again = step->repeats ? "…" : "";
		char *more;

		if (step->gap)
			more = text_format("%s → … ", text);
		else if (*text && (*edge == '.' || (*edge == '[')))
			more = text_format("%s%s%s", text, edge, again);
		else if (!*text && strncmp(edge, "local ", 6) == 0)
			more = text_format("%s%s", edge, again);
		else if (!*text)
			more = text_format("%s%s", step->label, again);
		else if (!*edge)
			more = text_format("%s → %s%s", text, step->label, again);
		else
			more = text_format("%s → %s (%s)%s", text, step->label, edge, again);
		free(text);
		text = more;
	}
	return TAKE_PTR(text);
}

/* "All 12 400 app.Session are", "93 % of 12 400 app.Session are". */
static char *subject(const struct explain_suspect *s, const struct explain_path *path)
{
	char n[TEXT_NUMBER_MAX], percent[TEXT_NUMBER_MAX];

	text_number(n, sizeof(n), s->instances);
	if (s->addr)
		return text_format("%s at 0x%llx is", s->type, (unsigned long long)s->addr);
	if (s->instances == 1)
		return text_format("The only %s is", s->type);
	if (path->instances == s->instances)
		return text_format("All %s %s are", n, s->type);
	return text_format("%s of %s %s %s", text_percent(percent, sizeof(percent), path->share), n,
		s->type, path->instances == 1 ? "is" : "are");
}

/* The same where the capture found what C code holds them with. */
static char *sentence_of_holder(const struct explain_path *path, const char *who, const char *whole)
{
	_cleanup_free_ char *holder = NULL;

	if (strcmp(path->root_name, HOLDER_LOST) == 0)
		holder = strdup("references that C code took and never gave back: no place in "
				"memory has their addresses, so a Py_DECREF() is missing");
	else
		holder = text_format("C code: %s", path->root_name);
	if (!holder)
		return NULL;
	if (path->n_steps == 1)
		return text_format("%s held by %s", who, holder);
	return text_format("%s held, as %s, through %s %s, held by %s", who, whole,
		path->accumulation == 0 ? "one" : "objects of type", path->steps[0].type, holder);
}

/* Whose word it is that nothing else holds them. */
static char *sentence_of_c(const struct explanation *x, const struct explain_path *path,
	const char *who, const char *whole)
{
	const char *holder = x->partial ? "C code holds them, the stack of a running function, or "
					  "an object that could not be read"
					: "C code holds them, or the stack of a running function";
	ssize_t at = path->accumulation;

	if (strcmp(path->root_name, EXPLAIN_C_CODE) != 0)
		return sentence_of_holder(path, who, whole);
	if (path->n_steps == 1)
		return text_format(
			"%s held by references that no Python object explains: %s", who, holder);
	if (at == 0)
		return text_format("%s held by one %s with a reference that no Python object "
				   "explains (%s), as %s",
			who, path->steps[0].type,
			x->partial ? "C code, a running function's stack, or what could not be read"
				   : "C code, or a running function's stack",
			whole);
	return text_format("%s held through objects of type %s, which have references that no "
			   "Python object explains: %s; as %s",
		who, path->steps[0].type, holder, whole);
}

static char *sentence_of_cycle(
	const struct explanation *x, const struct explain_path *path, const char *who)
{
	if (x->partial && !path->is_cycle)
		return text_format("%s held by nothing that was read: this dump is not whole", who);
	if (path->is_cycle && path->n_steps > 2 && strcmp(path->steps[1].type, path->steps[0].type))
		return text_format("%s held only by a reference cycle, through %s, that waits for "
				   "the garbage collector",
			who, path->steps[1].type);
	return text_format(
		"%s held only by reference cycles that wait for the garbage collector", who);
}

static char *sentence(const struct explanation *x, const struct explain_suspect *s,
	const struct explain_path *path)
{
	_cleanup_free_ char *who = subject(s, path), *where = NULL, *base = NULL, *whole = NULL;
	const struct explain_step *at;

	whole = expression(path, (ssize_t)path->n_steps - 1);
	if (!who || !whole)
		return NULL;
	switch (path->root) {
	case PATH_UNREACHABLE:
		return sentence_of_cycle(x, path, who);
	case PATH_C_REFERENCE:
		return sentence_of_c(x, path, who, whole);
	case PATH_MODULE:
		where = text_format("in module %s", path->root_name);
		break;
	case PATH_FRAME:
		where = text_format("in %s", path->root_name);
		break;
	default:
		where = text_format("of the interpreter (%s)", path->root_name);
	}
	if (!where)
		return NULL;
	if (path->accumulation < 0) {
		if (path->root == PATH_FRAME)
			return text_format("%s held %s, as %s", who, where, whole);
		return text_format("%s held by %s%s%s%s%s", who,
			path->root == PATH_MODULE ? "module " : "the interpreter (",
			path->root_name, path->root == PATH_MODULE ? "" : ")",
			path->n_steps ? ", as " : "", path->n_steps ? whole : "");
	}

	at = &path->steps[path->accumulation];
	base = expression(path, path->accumulation);
	if (!base)
		return NULL;
	/* The rest of the way is worth words when it is more than one step into a container. */
	if (path->accumulation + 2 < (ssize_t)path->n_steps ||
		path->steps[path->n_steps - 1].repeats)
		return text_format("%s held by %s, %s %s %s, as %s", who, base,
			text_article(at->type), at->type, where, whole);
	return text_format(
		"%s held by %s, %s %s %s", who, base, text_article(at->type), at->type, where);
}

/* "…; 98 % of the 2 000 that came since the growth began". Takes the text over. */
static char *with_growth(
	char *text, const struct explain_path *path, const struct explain_suspect *s)
{
	char n[TEXT_NUMBER_MAX], percent[TEXT_NUMBER_MAX];
	char *more = text_format("%s; %s of the %s that came since the growth began", text,
		!path->leaking                ? "none"
		: path->leaking == s->leaking ? "all"
					      : text_percent(percent, sizeof(percent),
							(double)path->leaking / (double)s->leaking),
		text_number(n, sizeof(n), s->leaking));

	free(text);
	return more;
}

/* ---- filling in ---------------------------------------------------------------------------- */

static void path_release(struct explain_path *p)
{
	for (size_t i = 0; i < p->n_steps; i++) {
		free(p->steps[i].type);
		free(p->steps[i].label);
		free(p->steps[i].edge);
	}
	free(p->steps);
	free(p->root_name);
	free(p->expression);
	free(p->sentence);
}

/* What a frame holds without a name is on its value stack, but for what it runs. */
static bool is_stack_or_c(const struct explain_path *path)
{
	const char *type = path->steps[0].type;

	return path->root == PATH_C_REFERENCE ||
	       (path->root == PATH_FRAME && strcmp(type, "function") != 0 &&
		       strcmp(type, "code") != 0 && strcmp(type, "frame") != 0);
}

static uint64_t module_addr(const struct graph *g, uint32_t name)
{
	for (uint32_t i = 0; i < g->n_roots; i++) {
		const struct graph_root *r = &g->roots[i];

		if (r->kind == ROOT_MODULE &&
			strcmp(graph_string(g, r->name), graph_string(g, name)) == 0)
			return g->s.nodes[r->node].addr;
	}
	return 0;
}

static int fill_steps(struct explain_path *out, const struct explain_suspect *suspect,
	const struct graph *g, const struct path_group *group)
{
	size_t n = 0;
	int rc = 0;

	out->instances = group->instances;
	out->leaking = group->chosen;
	out->share = (double)group->instances / (double)suspect->instances;
	out->root = group->root;
	out->root_shape = group->root_shape;
	out->accumulation = group->accumulation;
	out->is_cycle = group->is_cycle;
	switch (group->root) {
	case PATH_UNREACHABLE:
		out->root_name = strdup("unreachable cycle (waits for the collector)");
		break;
	default:
		out->root_name = text_elide(
			explain_root_name(g, group->root, group->root_name), ROOT_CHARS);
	}
	if (group->root == PATH_MODULE)
		out->root_addr = module_addr(g, group->root_name);
	out->steps = calloc(group->n_steps + 1, sizeof(*out->steps));
	if (!out->root_name || !out->steps)
		return -ENOMEM;
	for (size_t i = 0; i < group->n_steps && rc == 0; i++) {
		if (group->cut && i == group->cut) {
			rc = fill_gap(&out->steps[n++], group->n_steps_whole - group->n_steps);
			out->n_steps = n;
			if (out->accumulation >= (ssize_t)i)
				out->accumulation++;
			if (rc < 0)
				break;
		}
		rc = fill_step(&out->steps[n++], g, &group->steps[i], i + 1 == group->n_steps);
		out->n_steps = n;
	}
	if (rc < 0)
		return rc;
	if (out->n_steps && !*out->steps[0].edge && is_stack_or_c(out)) {
		free(out->steps[0].edge);
		out->steps[0].edge =
			strdup(out->root == PATH_C_REFERENCE ? "C reference" : "value stack");
		if (!out->steps[0].edge)
			return -ENOMEM;
	}
	return 0;
}

static int fill_path(struct explain_path *out, const struct explain_suspect *suspect,
	const struct explanation *x, const struct graph *g, const struct path_group *group)
{
	int rc = fill_steps(out, suspect, g, group);

	if (rc < 0)
		return rc;
	out->expression = expression(out, (ssize_t)out->n_steps - 1);
	out->sentence = sentence(x, suspect, out);
	if (out->sentence && suspect->grown)
		out->sentence = with_growth(out->sentence, out, suspect);
	return out->expression && out->sentence ? 0 : -ENOMEM;
}

/* By the whole name, as the daemon gives it. */
static uint64_t grown_of(const struct graph *g, const struct explain_options *o, uint32_t type)
{
	for (size_t i = 0; o->grown && i < o->n_types; i++)
		if (strcmp(o->types[i], type_name(g, type)) == 0)
			return o->grown[i];
	return 0;
}

static int fill_suspect(struct explain_suspect *out, const struct explanation *x,
	const struct graph *g, const struct census *census, struct paths_ctx *ctx, uint32_t type,
	const struct explain_options *o, struct err *err)
{
	size_t max_paths =
		o->max_paths ? MIN(o->max_paths, (size_t)EXPLAIN_PATHS_MAX) : EXPLAIN_PATHS_DEFAULT;
	_cleanup_(chosen_release) struct chosen chosen = {0};
	struct paths paths;
	size_t n_groups;
	int rc = chosen_init(&chosen, g, type, grown_of(g, o, type));

	if (rc < 0)
		return rc;
	paths_ctx_choose(ctx, chosen.mark, chosen.how == CHOSEN_GROWN);
	rc = paths_find(&paths, ctx, type, max_paths, err);
	paths_ctx_choose(ctx, NULL, false);
	if (rc < 0)
		return rc;
	out->leaking = chosen.n;
	out->chosen = chosen_text(&chosen);
	out->grown = chosen.how == CHOSEN_GROWN;
	out->type = text_elide(type_name(g, type), TYPE_CHARS);
	out->instances = paths.instances;
	out->bytes = census->bytes[type];
	/* a snapshot of counts: nothing is known of who holds them */
	out->unseen = paths.unseen;
	n_groups = x->edges ? paths.n_groups : 0;
	out->other_paths = x->edges ? paths.other_groups : 0;
	out->other_instances = x->edges ? paths.other_instances : 0;
	out->paths = calloc(MAX(n_groups, (size_t)1), sizeof(*out->paths));
	if (!out->type || !out->paths)
		rc = -ENOMEM;
	for (size_t i = 0; i < n_groups && rc == 0; i++) {
		if (o->max_steps && paths.groups[i].n_steps_whole > o->max_steps) {
			out->other_paths++;
			out->other_instances += paths.groups[i].instances;
			continue;
		}
		rc = fill_path(&out->paths[out->n_paths++], out, x, g, &paths.groups[i]);
	}
	paths_release(&paths);
	return rc;
}

/* A type for which there was no time. */
static int fill_unseen(struct explain_suspect *out, const struct graph *g,
	const struct census *census, uint32_t type)
{
	*out = (struct explain_suspect){.type = text_elide(type_name(g, type), TYPE_CHARS),
		.instances = census->count[type],
		.bytes = census->bytes[type],
		.unseen = census->count[type]};
	return out->type ? 0 : -ENOMEM;
}

static void explanation_cut(struct explanation *x, const char *level, const char *reason)
{
	if (!x->cut_level) {
		x->cut_level = level;
		x->cut_reason = reason;
	}
}

static int fill_object(struct explain_suspect *out, const struct explanation *x,
	const struct graph *g, struct paths_ctx *ctx, uint64_t addr, size_t max_steps, struct err *err)
{
	_cleanup_(path_group_release) struct path_group group = {0};
	uint32_t node = 0;
	int rc;

	while (node < g->n_nodes && g->s.nodes[node].addr != addr)
		node++;
	if (node == g->n_nodes)
		return err_set(err, -ENOENT,
			"no object at 0x%llx in this dump: `instances` lists those of a type",
			(unsigned long long)addr);
	rc = paths_of_object(&group, ctx, node);
	if (rc < 0)
		return rc;
	*out = (struct explain_suspect){.addr = addr,
		.type = text_elide(graph_type_name(g, node), TYPE_CHARS),
		.instances = 1,
		.bytes = g->s.nodes[node].bytes,
		.paths = calloc(1, sizeof(*out->paths))};
	if (!out->type || !out->paths)
		return -ENOMEM;
	if (group.root == PATH_UNREACHABLE && x->cut_level) {
		out->unseen = 1;
		return 0;
	}
	if (max_steps && group.n_steps_whole > max_steps) {
		out->other_paths = out->other_instances = 1;
		return 0;
	}
	out->n_paths = 1;
	return fill_path(&out->paths[0], out, x, g, &group);
}

#define NAME_STEPS_MAX 16

char *explain_name(struct paths_ctx *c, const struct reach *r, uint32_t node)
{
	_cleanup_(path_group_release) struct path_group group = {0};
	struct explain_suspect s = {.instances = 1};
	struct explain_path path = {0};
	char *name = NULL;

	if (r->dist[node] == REACH_NONE || r->dist[node] > NAME_STEPS_MAX)
		return strdup("");
	if (paths_of_object(&group, c, node) == 0 &&
		fill_steps(&path, &s, r->g, &group) == 0)
		name = expression(&path, (ssize_t)path.n_steps - 1);
	path_release(&path);
	return name;
}

static int fill_top(struct explanation *x, const struct graph *g, const struct census *census)
{
	_cleanup_(type_list_release) struct type_list all = {0};
	int rc = types_all(&all, g, census);
	size_t n = MIN(all.n, (size_t)EXPLAIN_TYPES_TOP);

	if (rc < 0)
		return rc;
	x->types = all.n;
	x->top = calloc(MAX(n, (size_t)1), sizeof(*x->top));
	if (!x->top)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		x->top[i] = (struct explain_type){.count = census->count[all.types[i]],
			.bytes = census->bytes[all.types[i]],
			.type = text_elide(type_name(g, all.types[i]), TYPE_CHARS)};
		x->n_top = i + 1;
		if (!x->top[i].type)
			return -ENOMEM;
	}
	return 0;
}

/* An answer without them is an answer. */
static int fill_holders(struct explanation *x, struct paths_ctx *ctx, const struct reach *r,
	const struct explain_options *o)
{
	_cleanup_(dominators_release) struct dominators d = {0};
	_cleanup_free_ uint32_t *numbers = NULL;
	const struct graph *g = r->g;
	size_t n = 0;
	int rc = dominators_init(&d, r, NULL);

	if (rc == 0)
		rc = dominators_holders(&d, g, o->max_holders, &numbers, &n);
	if (rc < 0) {
		x->holders_reason = rc == -ETIME ? "finding out took too long"
						 : "there was not enough memory to find out";
		return 0;
	}
	x->holders = calloc(MAX(n, (size_t)1), sizeof(*x->holders));
	for (size_t i = 0; x->holders && i < n; i++) {
		uint32_t node = d.node[numbers[i]];
		struct explain_holder *h = &x->holders[i];

		*h = (struct explain_holder){.bytes = d.bytes[numbers[i]],
			.objects = d.objects[numbers[i]],
			.type = text_elide(graph_type_name(g, node), TYPE_CHARS),
			.label = explain_name(ctx, r, node)};
		x->n_holders = i + 1;
		if (!h->type || !h->label)
			return -ENOMEM;
	}
	return x->holders ? 0 : -ENOMEM;
}

static int choose(struct type_list *l, const struct graph *g, const struct census *census,
	const struct explain_options *o, struct err *err)
{
	if (!o->n_types && !o->n_addrs)
		return types_suspected(l, g, census);
	for (size_t i = 0; i < o->n_types; i++) {
		int rc = types_named(l, g, census, o->types[i], EXPLAIN_SUSPECTS_MAX, err);

		if (rc < 0)
			return rc;
	}
	return 0;
}

static struct paths_ctx *ctx_freep(struct paths_ctx **c)
{
	return paths_ctx_free(*c);
}

int explain(struct explanation *x, const struct graph *g, const struct explain_options *o,
	struct err *err)
{
	_cleanup_(explanation_release) struct explanation new = {0};
	_cleanup_(census_release) struct census census = {0};
	_cleanup_(reach_release) struct reach reach = {0};
	_cleanup_(ctx_freep) struct paths_ctx *ctx = NULL;
	_cleanup_(type_list_release) struct type_list suspects = {0};
	size_t n_addrs = MIN(o->n_addrs, (size_t)EXPLAIN_SUSPECTS_MAX);
	int rc;

	new.objects = g->n_nodes;
	new.edges = (uint64_t)g->n_edges + g->external_edges;
	rc = census_take(&census, g);
	if (rc == 0)
		rc = choose(&suspects, g, &census, o, err);
	if (rc == 0)
		rc = fill_top(&new, g, &census);
	if (rc == 0)
		rc = reach_init(&reach, g, err);
	if (rc == 0)
		rc = paths_ctx_new(&ctx, &reach, err);
	if (rc == 0) {
		new.suspects_left_out = suspects.left_out;
		new.skipped = census.skipped;
		if (reach.cut)
			explanation_cut(&new, EXPLAIN_CUT_SEARCH);
		new.partial = o->partial || census.skipped > 0;
		new.suspects = calloc(suspects.n + n_addrs + 1, sizeof(*new.suspects));
		rc = new.suspects ? 0 : -ENOMEM;
	}
	for (size_t i = 0; i < suspects.n && rc == 0; i++) {
		new.n_suspects = i + 1;
		/* Of one the answer is always given. */
		if (i > 0 && graph_stopped(g, 0)) {
			rc = fill_unseen(&new.suspects[i], g, &census, suspects.types[i]);
			explanation_cut(&new, EXPLAIN_CUT_PATHS);
		} else {
			rc = fill_suspect(&new.suspects[i], &new, g, &census, ctx,
				suspects.types[i], o, err);
		}
	}
	for (size_t i = 0; i < n_addrs && rc == 0; i++)
		rc = fill_object(&new.suspects[new.n_suspects++], &new, g, ctx, o->addrs[i],
			o->max_steps, err);
	if (rc == 0 && o->max_holders)
		rc = fill_holders(&new, ctx, &reach, o);
	if (rc == -ENOMEM)
		return err_set(err, rc, "not enough memory to explain %u objects", g->n_nodes);
	if (rc < 0)
		return rc;
	*x = new;
	new = (struct explanation){0};
	return 0;
}

void explanation_release(struct explanation *x)
{
	for (size_t i = 0; i < x->n_suspects; i++) {
		struct explain_suspect *s = &x->suspects[i];

		for (size_t k = 0; k < s->n_paths; k++)
			path_release(&s->paths[k]);
		free(s->paths);
		free(s->type);
	}
	free(x->suspects);
	for (size_t i = 0; i < x->n_top; i++)
		free(x->top[i].type);
	free(x->top);
	for (size_t i = 0; i < x->n_holders; i++) {
		free(x->holders[i].type);
		free(x->holders[i].label);
	}
	free(x->holders);
	*x = (struct explanation){0};
}

/* ---- the document -------------------------------------------------------------------------- */

/* A key of the description: a number as it is, anything else is not known. */
static json_t *meta_number(const json_t *meta, const char *key)
{
	json_t *v = json_object_get(meta, key);

	return json_is_number(v) ? json_deep_copy(v) : json_null();
}

static json_t *meta_string(const json_t *meta, const char *key)
{
	json_t *v = json_object_get(meta, key);

	return json_is_string(v) ? json_deep_copy(v) : json_null();
}

static json_t *truncated(const struct explanation *x, const json_t *meta)
{
	json_t *v = json_object_get(meta, "truncated"), *level = json_object_get(v, "level");

	if (x->cut_level)
		return json_pack("{s:s, s:s}", "level", x->cut_level, "reason", x->cut_reason);
	if (!json_is_object(v))
		return json_null();
	return json_pack("{s:o, s:o}", "level", level ? json_deep_copy(level) : json_null(),
		"reason", meta_string(v, "reason"));
}

static json_t *path_json(const struct explain_path *path)
{
	json_t *steps = json_array(), *out;

	for (size_t i = 0; i < path->n_steps; i++) {
		const struct explain_step *s = &path->steps[i];
		json_t *step = json_pack("{s:s, s:s, s:s, s:I}", "type", s->type, "label", s->label,
			"edge", s->edge, "objects", (json_int_t)s->nodes);

		if (s->repeats)
			json_object_set_new(step, "repeats", json_true());
		if (s->addr) {
			char addr[24];

			snprintf(addr, sizeof(addr), "0x%llx", (unsigned long long)s->addr);
			json_object_set_new(step, "addr", json_string(addr));
		}
		json_array_append_new(steps, step);
	}
	out = json_pack("{s:f, s:I, s:{s:s, s:s}, s:o, s:s, s:s, s:o}", "share", path->share,
		"instances", (json_int_t)path->instances, "root", "kind",
		explain_root_kind(path->root), "name", path->root_name, "steps", steps,
		"expression", path->expression, "sentence", path->sentence, "accumulation",
		path->accumulation >= 0 ? json_integer(path->accumulation) : json_null());
	json_object_set_new(out, "leaking", json_integer((json_int_t)path->leaking));
	if (path->is_cycle)
		json_object_set_new(out, "cycle", json_true());
	return out;
}

static json_t *suspect_json(const struct explain_suspect *s)
{
	json_t *paths = json_array(), *out;

	for (size_t i = 0; i < s->n_paths; i++)
		json_array_append_new(paths, path_json(&s->paths[i]));
	out = json_pack("{s:s, s:I, s:I, s:o, s:I, s:I}", "type", s->type, "instances",
		(json_int_t)s->instances, "bytes", (json_int_t)s->bytes, "paths", paths,
		"other_paths", (json_int_t)s->other_paths, "other_instances",
		(json_int_t)s->other_instances);
	if (s->addr)
		json_object_set_new(
			out, "addr", json_sprintf("0x%llx", (unsigned long long)s->addr));
	if (s->unseen)
		json_object_set_new(out, "unseen", json_integer((json_int_t)s->unseen));
	if (s->chosen) {
		json_object_set_new(out, "leaking", json_integer((json_int_t)s->leaking));
		json_object_set_new(out, "chosen", json_string(s->chosen));
	}
	return out;
}

json_t *explain_json(const struct explanation *x, const struct explain_document *doc)
{
	json_t *suspects = json_array(), *out;

	for (size_t i = 0; i < x->n_suspects; i++)
		json_array_append_new(suspects, suspect_json(&x->suspects[i]));
	out = json_pack("{s:o, s:s?, s:o, s:s?, s:o, s:o, s:o, s:I, s:I, s:o, s:o, "
			"s:{s:s?, s:s?, s:s?, s:s?, s:s?}, s:o}",
		"at", meta_string(doc->meta, "at"), "id", doc->id, "pid",
		meta_number(doc->meta, "pid"), "trigger", doc->trigger, "pause_us",
		meta_number(doc->meta, "pause_us"), "predicted_pause_us",
		meta_number(doc->meta, "predicted_pause_us"), "duration_ms",
		meta_number(doc->meta, "duration_ms"), "objects", (json_int_t)x->objects, "edges",
		(json_int_t)x->edges, "skipped",
		json_is_number(json_object_get(doc->meta, "skipped"))
			? meta_number(doc->meta, "skipped")
			: json_integer((json_int_t)x->skipped),
		"truncated", truncated(x, doc->meta), "files", "snapshot", doc->snapshot, "dot",
		doc->dot, "svg", doc->svg, "json", doc->json, "html", doc->html, "suspects",
		suspects);
	if (!out)
		return NULL;
	json_object_set_new(out, "comm", meta_string(doc->meta, "comm"));
	json_object_set_new(out, "python", meta_string(doc->meta, "python"));
	if (x->suspects_left_out)
		json_object_set_new(
			out, "suspects_left_out", json_integer((json_int_t)x->suspects_left_out));
	if (doc->svg_reason)
		json_object_set_new(out, "svg_reason", json_string(doc->svg_reason));
	return out;
}
