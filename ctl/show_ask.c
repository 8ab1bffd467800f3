/* SPDX-License-Identifier: MIT */
/*
 * Answers about a dump in words: tables, and what is around an object as a tree.
 */
#include <inttypes.h>
#include <string.h>

#include "ctl/show.h"
#include "ctl/text.h"
#include "daemon/util/macros.h"
#include "daemon/util/units.h"

#define LEVELS_MAX 24 /* how far a tree moves to the right */

static void text_cell(struct table *t, const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));

	table_cell(t, STYLE_PLAIN, s ? s : "-");
}

static void count_cell(struct table *t, const json_t *object, const char *key)
{
	char n[TEXT_MAX];

	table_cell(t, STYLE_PLAIN, text_json_count(n, json_object_get(object, key)));
}

static void size_cell(struct table *t, const json_t *object, const char *key)
{
	const json_t *v = json_object_get(object, key);
	char size[TEXT_MAX];

	if (json_is_integer(v) && json_integer_value(v) >= 0)
		table_cell(t, STYLE_PLAIN,
			format_size(size, sizeof(size), (uint64_t)json_integer_value(v)));
	else
		table_cell(t, STYLE_DIM, "-");
}

/* "and 12 more: -n 0 shows all" */
static void tell_rest(struct ctl *c, const json_t *answer, const char *list, const char *what)
{
	json_int_t total = json_integer_value(json_object_get(answer, "total"));
	size_t shown = json_array_size(json_object_get(answer, list));
	char n[TEXT_MAX];

	if (total > (json_int_t)shown)
		fprintf(c->out, "and %s more %s: -n 0 shows all\n",
			text_count(n, total - (json_int_t)shown), what);
}

void show_truncated(struct ctl *c, const json_t *answer)
{
	const json_t *truncated = json_object_get(answer, "truncated");
	const char *reason = json_string_value(truncated)
				     ?: json_string_value(json_object_get(truncated, "reason"));

	if (!truncated || json_is_null(truncated))
		return;
	style_print(c->out, c->colour, STYLE_WARN, "not whole");
	fprintf(c->out, ": %s\n", reason ? ctl_clean(c, reason) : "no reason given");
}

void show_types(struct ctl *c, const json_t *answer)
{
	static const char *const headings[] = {">COUNT", ">BYTES", "TYPE", NULL};
	_cleanup_table_ struct table *t = table_new(headings);
	const json_t *list = json_object_get(answer, "types"), *type;
	char a[TEXT_MAX], b[TEXT_MAX];
	size_t i;

	json_array_foreach (list, i, type) {
		count_cell(t, type, "count");
		size_cell(t, type, "bytes");
		text_cell(t, type, "type");
	}
	show_table(c, t);
	tell_rest(c, answer, "types", "types");
	fprintf(c->out, "%s objects with %s\n",
		text_json_count(a, json_object_get(answer, "objects")),
		format_size(b, sizeof(b),
			(uint64_t)json_integer_value(json_object_get(answer, "bytes"))));
	show_truncated(c, answer);
}

static void object_table(struct ctl *c, const json_t *list, bool unexplained)
{
	static const char *const headings[] = {"ADDRESS", ">BYTES", ">REFCOUNT", "TYPE", NULL};
	static const char *const more[] = {
		"ADDRESS", ">BYTES", ">REFCOUNT", ">UNEXPLAINED", "TYPE", "HOLDER", NULL};
	_cleanup_table_ struct table *t = table_new(unexplained ? more : headings);
	const json_t *object;
	size_t i;

	json_array_foreach (list, i, object) {
		text_cell(t, object, "addr");
		size_cell(t, object, "bytes");
		count_cell(t, object, "refcount");
		if (unexplained)
			count_cell(t, object, "unexplained");
		text_cell(t, object, "type");
		if (unexplained)
			text_cell(t, object, "holder");
	}
	show_table(c, t);
}

void show_instances(struct ctl *c, const json_t *answer)
{
	object_table(c, json_object_get(answer, "instances"), false);
	tell_rest(c, answer, "instances", "objects");
	show_truncated(c, answer);
}

void show_leaking(struct ctl *c, const json_t *answer)
{
	static const char *const headings[] = {">COUNT", ">BYTES", "TYPE", NULL};
	const json_t *types = json_object_get(answer, "types"), *type;
	const json_t *unreachable = json_object_get(answer, "unreachable");
	json_int_t waiting = json_integer_value(json_object_get(unreachable, "objects"));
	char a[TEXT_MAX], b[TEXT_MAX];
	size_t i;

	if (json_array_size(types)) {
		_cleanup_table_ struct table *t = table_new(headings);

		json_array_foreach (types, i, type) {
			count_cell(t, type, "count");
			size_cell(t, type, "bytes");
			text_cell(t, type, "type");
		}
		show_table(c, t);
		fputc('\n', c->out);
		object_table(c, json_object_get(answer, "leaking"), true);
		tell_rest(c, answer, "leaking", "objects");
	} else if (!json_is_null(json_object_get(answer, "total"))) {
		fputs("no object has more references than the dump explains\n", c->out);
	}
	if (waiting > 0)
		fprintf(c->out, "%s objects with %s are held by nothing: they wait for the garbage collector\n",
			text_count(a, waiting),
			format_size(b, sizeof(b),
				(uint64_t)json_integer_value(json_object_get(unreachable, "bytes"))));
	show_truncated(c, answer);
}

void show_cycles(struct ctl *c, const json_t *answer)
{
	const json_t *list = json_object_get(answer, "cycles"), *cycle, *members, *object;
	char a[TEXT_MAX], b[TEXT_MAX];
	size_t i, k;

	json_array_foreach (list, i, cycle) {
		json_int_t n = json_integer_value(json_object_get(cycle, "objects"));

		members = json_object_get(cycle, "members");
		fprintf(c->out, "%s %s, %s\n", text_count(a, n), n == 1 ? "object" : "objects",
			format_size(b, sizeof(b),
				(uint64_t)json_integer_value(json_object_get(cycle, "bytes"))));
		json_array_foreach (members, k, object)
			fprintf(c->out, "   %s  %s\n", ctl_string(c, object, "addr"),
				ctl_string(c, object, "type"));
		if (n > (json_int_t)json_array_size(members))
			fprintf(c->out, "   and %s more\n",
				text_count(a, n - (json_int_t)json_array_size(members)));
	}
	if (!json_array_size(list) && !json_is_null(json_object_get(answer, "total")))
		fputs("no reference cycle waits for the garbage collector\n", c->out);
	tell_rest(c, answer, "cycles", "cycles");
	show_truncated(c, answer);
}

void show_diff(struct ctl *c, const json_t *answer)
{
	static const char *const headings[] = {
		">BEFORE", ">AFTER", ">DELTA", ">NEW", "TYPE", NULL};
	static const char *const grown[] = {">BEFORE", ">AFTER", "TYPE", "CONTAINER", NULL};
	const json_t *list = json_object_get(answer, "types"), *type;
	const json_t *containers = json_object_get(answer, "containers");
	_cleanup_table_ struct table *t = table_new(headings), *g = table_new(grown);
	char delta[TEXT_MAX];
	size_t i;

	json_array_foreach (list, i, type) {
		count_cell(t, type, "before");
		count_cell(t, type, "after");
		table_cell(t, STYLE_PLAIN,
			text_delta(delta,
				json_integer_value(json_object_get(type, "after")) -
					json_integer_value(json_object_get(type, "before"))));
		count_cell(t, type, "new");
		text_cell(t, type, "type");
	}
	show_table(c, t);
	if (!json_array_size(list))
		fputs("no type changed\n", c->out);
	tell_rest(c, answer, "types", "types");
	if (json_is_false(json_object_get(answer, "same_process")))
		fputs("the dumps are not of one process: which objects are new cannot be told\n",
			c->out);
	if (json_array_size(containers)) {
		fputc('\n', c->out);
		json_array_foreach (containers, i, type) {
			count_cell(g, type, "before");
			count_cell(g, type, "after");
			text_cell(g, type, "type");
			text_cell(g, type, "label");
		}
		show_table(c, g);
	}
	show_truncated(c, answer);
}

void show_dominators(struct ctl *c, const json_t *answer)
{
	static const char *const headings[] = {
		">RETAINED", ">OBJECTS", "TYPE", "HOLDER", NULL};
	static const char *const by_type[] = {
		">RETAINED", ">OBJECTS", ">INSTANCES", ">BYTES", "TYPE", NULL};
	const json_t *holders = json_object_get(answer, "holders"), *h;
	const json_t *types = json_object_get(answer, "types");
	_cleanup_table_ struct table *t = table_new(headings), *b = table_new(by_type);
	size_t i;

	json_array_foreach (holders, i, h) {
		size_cell(t, h, "retained_bytes");
		count_cell(t, h, "retained_objects");
		text_cell(t, h, "type");
		text_cell(t, h, "label");
	}
	if (json_array_size(holders)) {
		show_table(c, t);
		fputc('\n', c->out);
	}
	json_array_foreach (types, i, h) {
		size_cell(b, h, "retained_bytes");
		count_cell(b, h, "retained_objects");
		count_cell(b, h, "count");
		size_cell(b, h, "bytes");
		text_cell(b, h, "type");
	}
	show_table(c, b);
	show_truncated(c, answer);
}

/* ---- around an object ----------------------------------------------------------------------- */

struct tree {
	struct ctl *c;
	json_t *nodes; /* by id */
	json_t *edges; /* by id of the nearer end: a list of edges */
	bool backwards;
	bool open[LEVELS_MAX + 1]; /* by level: more of it comes below */
};

/* The lines of the levels above, down to where a branch of this one begins. */
static void indent(const struct tree *t, unsigned level)
{
	for (unsigned i = 1; i < level && i <= LEVELS_MAX; i++)
		fputs(t->open[i] ? "│  " : "   ", t->c->out);
}

static const char *id_at(const json_t *edge, const char *key)
{
	const char *s = json_string_value(json_object_get(edge, key));

	return s ? s : "";
}

static void show_node(
	struct tree *t, const json_t *node, const char *label, unsigned level, bool last)
{
	const char *root = json_string_value(json_object_get(node, "root"));
	const char *type = json_string_value(json_object_get(node, "type"));
	const char *addr = json_string_value(json_object_get(node, "addr"));
	enum style style = !level ? STYLE_BAD : root ? STYLE_GOOD : STYLE_PLAIN;
	const char *name = ctl_string(t->c, node, "label");

	indent(t, level);
	if (level)
		fputs(last ? "└─ " : "├─ ", t->c->out);
	if (label && *label)
		fprintf(t->c->out, "%s  ", ctl_clean(t->c, label));
	if (root && !type)
		fputs(strcmp(root, "c-reference") ? ctl_clean(t->c, root) : "C code:", t->c->out);
	else
		fprintf(t->c->out, "%s", type ? ctl_clean(t->c, type) : "?");
	if (!type || strcmp(name, ctl_clean(t->c, type)) != 0) {
		fputc(' ', t->c->out);
		style_print(t->c->out, t->c->colour, style, name);
	}
	if (addr && !root)
		fprintf(t->c->out, "  %s", ctl_clean(t->c, addr));
}

/* As deep as the web, at most. Each object once with what is behind it. */
static void show_branch(
	struct tree *t, const char *id, const char *label, unsigned level, bool last)
{
	json_t *node = json_object_get(t->nodes, id), *edges = json_object_get(t->edges, id), *edge;
	json_int_t more = json_integer_value(json_object_get(node, "more"));
	bool again = json_is_true(json_object_get(node, "seen"));
	char n[TEXT_MAX];
	size_t i;

	show_node(t, node, label, level, last);
	if (again && json_array_size(edges))
		fputs("  (see above)", t->c->out);
	fputc('\n', t->c->out);
	if (again || level > 1000)
		return;
	json_object_set_new(node, "seen", json_true());
	if (level <= LEVELS_MAX)
		t->open[level] = !last;
	json_array_foreach (edges, i, edge)
		show_branch(t, id_at(edge, t->backwards ? "from" : "to"), id_at(edge, "label"),
			level + 1, i + 1 == json_array_size(edges) && more <= 0);
	if (more > 0) {
		indent(t, level + 1);
		fprintf(t->c->out, "└─ %s more\n", text_count(n, more));
	}
}

void show_web(struct ctl *c, const json_t *answer)
{
	const json_t *nodes = json_object_get(answer, "nodes");
	const json_t *edges = json_object_get(answer, "edges");
	struct tree t = {.c = c,
		.nodes = json_object(),
		.edges = json_object(),
		.backwards = json_is_true(json_object_get(answer, "backwards"))};
	json_int_t asked = json_integer_value(json_object_get(answer, "asked"));
	json_int_t shown = json_integer_value(json_object_get(answer, "shown"));
	json_t *node, *edge;
	char a[TEXT_MAX];
	size_t i;

	json_array_foreach (nodes, i, node)
		json_object_set(t.nodes, id_at(node, "id"), node);
	json_array_foreach (edges, i, edge) {
		const char *near = id_at(edge, t.backwards ? "to" : "from");

		if (!json_object_get(t.edges, near))
			json_object_set_new(t.edges, near, json_array());
		json_array_append(json_object_get(t.edges, near), edge);
	}
	json_array_foreach (nodes, i, node) {
		if (json_is_integer(json_object_get(node, "depth")) &&
			!json_integer_value(json_object_get(node, "depth")))
			show_branch(&t, id_at(node, "id"), NULL, 0, true);
	}
	if (asked > shown)
		fprintf(c->out, "and %s more objects of that sort: --too-many shows more\n",
			text_count(a, asked - shown));
	show_truncated(c, answer);
	json_decref(t.nodes);
	json_decref(t.edges);
}
