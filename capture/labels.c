/* SPDX-License-Identifier: MIT */
#include "capture/labels.h"

#include <string.h>

#include "daemon/python/mem.h"

#define IDENTIFIER_MAX 128
#define KEY_MAX        96
#define NAMES_MAX      200000

/* Names like utf8_to_utf16 or SHA256 are none of these. */
#define RANDOM_HEX 8 /* hexadecimal digits alone, with a decimal one among them */
#define RANDOM_PART                                                                                \
	10 /* between underscores: letters and decimal digits that take turns at least */
#define RANDOM_TURNS 2  /* so many times, and once more where it is short */
#define RANDOM_WHOLE 16 /* hexadecimal digits without decimal ones; letters of every kind, mixed */

_Static_assert(sizeof(union graph_edge) == sizeof(struct snapshot_edge), "converted in place");

enum code_name {
	CODE_CONSTANT = 1, /* among its constants: data, perhaps */
	CODE_NAME,         /* of a variable, an attribute, a global */
};

struct labels {
	struct job *job;
	struct graph *graph;
	struct view *view;
	struct strings *strings;
	struct u64map texts;      /* str object or C string -> string number + 1; 0: no name */
	struct u64map namespaces; /* dicts whose keys are names */
	struct u64map name_tuples;
	struct u64map code_names; /* str objects that code objects hold: enum code_name */
	struct u64map cells;      /* cell -> str object with its variable's name */
	uint32_t label[WALK_LABEL_COUNT];
	bool nomem;
};

/* As str.isidentifier(), roughly: letters, digits, _ and anything beyond ASCII. */
static bool is_identifier(const char *s, size_t n)
{
	if (n == 0 || (s[0] >= '0' && s[0] <= '9'))
		return false;
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s[i];

		if (!((c | 32) >= 'a' && (c | 32) <= 'z') && !(c >= '0' && c <= '9') && c != '_' &&
			c < 0x80)
			return false;
	}
	return true;
}

enum letter { LETTER_NONE, LETTER_SMALL, LETTER_CAPITAL, LETTER_DIGIT };

static enum letter letter_of(char c)
{
	return c >= '0' && c <= '9'   ? LETTER_DIGIT
	       : c >= 'A' && c <= 'Z' ? LETTER_CAPITAL
	       : c == '_'             ? LETTER_NONE
				      : LETTER_SMALL;
}

/*
 * Whether an identifier looks like something random: digests, tokens, serial numbers. More than a
 * third of all random hexadecimal numbers begin with a letter and could be names. In base 62 six
 * neighbours of ten are of different kinds, in camelCase three.
 */
bool labels_looks_random(const char *s, size_t n)
{
	enum letter before = LETTER_NONE;
	size_t letters = 0, kinds = 0, part = 0, turns = 0;
	bool hex = n >= RANDOM_HEX, digits = false;

	for (size_t i = 0; i < n; i++) {
		enum letter kind = letter_of(s[i]);

		hex = hex && (kind == LETTER_DIGIT || ((s[i] | 32) >= 'a' && (s[i] | 32) <= 'f'));
		digits = digits || kind == LETTER_DIGIT;
		if (kind == LETTER_NONE) {
			part = turns = 0;
			continue;
		}
		letters++;
		kinds += before && kind != before;
		turns += part && (kind == LETTER_DIGIT) != (before == LETTER_DIGIT);
		before = kind;
		part++;
		if (part >= RANDOM_PART && turns >= RANDOM_TURNS + (part < RANDOM_WHOLE))
			return true;
	}
	return (hex && (digits || n >= RANDOM_WHOLE)) ||
	       (letters >= RANDOM_WHOLE && 5 * kinds >= 2 * letters);
}

size_t labels_module_name(struct view *v, uint64_t str, char *buf, size_t n)
{
	size_t length = view_str(v, str, buf, n), part = 0;
	bool plain = true, hyphens = false; /* "my-script" is one, a token with a hyphen is not */

	for (size_t i = 0; i <= length; i++) {
		unsigned char c = (unsigned char)buf[i];

		hyphens = hyphens || c == '-';
		plain = plain && !(c >= '0' && c <= '9') && !(c >= 'A' && c <= 'Z');
		if (c == '.' || c == '-' || i == length) {
			if (labels_looks_random(buf + part, i - part))
				goto hidden;
			part = i + 1;
		} else if (c < 0x80 && !((c | 32) >= 'a' && (c | 32) <= 'z') &&
			   !(c >= '0' && c <= '9') && c != '_') {
			goto hidden;
		}
	}
	if (!hyphens || plain)
		return length;
hidden:
	buf[0] = '\0';
	return 0;
}

uint32_t labels_identifier(struct view *v, struct strings *s, uint64_t str)
{
	char buf[IDENTIFIER_MAX];
	size_t n = view_str(v, str, buf, sizeof(buf));

	return is_identifier(buf, n) ? strings_add(s, buf, n) : 0;
}

static uint32_t remember(struct labels *l, uint64_t key, uint32_t number)
{
	if (u64map_put(&l->texts, key, (uint64_t)number + 1) < 0)
		l->nomem = true;
	return number;
}

static bool is_new(struct labels *l, uint64_t key, uint32_t *ret)
{
	const uint64_t *at = key ? u64map_get(&l->texts, key) : NULL;

	if (!key) {
		*ret = 0;
		return false;
	}
	if (at)
		*ret = (uint32_t)(*at - 1);
	return !at;
}

static uint32_t identifier(struct labels *l, uint64_t str)
{
	uint32_t number;

	if (!is_new(l, str, &number))
		return number;
	return remember(l, str, labels_identifier(l->view, l->strings, str));
}

static uint32_t c_name(struct labels *l, uint64_t at)
{
	char buf[IDENTIFIER_MAX];
	uint32_t number;

	if (!is_new(l, at, &number))
		return number;
	number = 0;
	if (mem_read_cstr(l->view->python->id.pid, at, buf, sizeof(buf)) == 0 &&
		is_identifier(buf, strlen(buf)))
		number = strings_add(l->strings, buf, strlen(buf));
	return remember(l, at, number);
}

/* CAPTURE_KEYS_ALL: any text, cut. The same string is not looked up under two rules. */
static uint32_t any_text(struct labels *l, uint64_t str)
{
	char buf[KEY_MAX];
	uint32_t number;
	size_t n;

	if (!is_new(l, str, &number))
		return number;
	n = view_str(l->view, str, buf, sizeof(buf));
	return remember(l, str, n ? strings_add(l->strings, buf, n) : 0);
}

static void put(struct labels *l, struct u64map *m, uint64_t key, uint64_t value)
{
	if (key && u64map_put(m, key, value) < 0)
		l->nomem = true;
}

static bool is_name_tuple(uint32_t label)
{
	switch (label) {
	case WALK_LABEL_CO_CONSTS:
	case WALK_LABEL_CO_NAMES:
	case WALK_LABEL_CO_VARNAMES:
	case WALK_LABEL_CO_FREEVARS:
	case WALK_LABEL_CO_CELLVARS:
	case WALK_LABEL_CO_LOCALSPLUSNAMES:
		return true;
	}
	return false;
}

/* Which dicts are namespaces, which tuples hold the names of code objects. */
static void survey(struct labels *l)
{
	const struct graph *g = l->graph;
	size_t at = 0;

	for (size_t i = 0; i < g->n_edges; i++) {
		const struct walk_unit *u = &g->edges[i].raw;

		switch (WALK_TAG(u->b)) {
		case WALK_EDGE_DICT:
		case WALK_EDGE_GLOBALS:
			put(l, &l->namespaces, u->a, 1);
			break;
		case WALK_EDGE_LABEL:
			if (is_name_tuple((uint32_t)WALK_ARG(u->b)))
				put(l, &l->name_tuples, u->a,
					WALK_ARG(u->b) == WALK_LABEL_CO_CONSTS ? CODE_CONSTANT
									       : CODE_NAME);
			break;
		}
	}
	/* dicts of static built-in types are held by the interpreter, not by the type */
	for (size_t i = 0; i < g->n_roots; i++)
		if (g->roots[i].edge_kind == EDGE_DICT)
			put(l, &l->namespaces, g->roots[i].addr, 1);
	for (size_t i = 0; i < g->n_nodes; at += g->nodes[i++].n_edges) {
		const uint64_t *kind = g->types[g->nodes[i].type].flags & TPFLAGS_TUPLE_SUBCLASS
					       ? u64map_get(&l->name_tuples, g->nodes[i].addr)
					       : NULL;

		for (size_t k = at; kind && k < at + g->nodes[i].n_edges; k++) {
			const uint64_t *known = u64map_get(&l->code_names, g->edges[k].raw.a);

			if (WALK_TAG(g->edges[k].raw.b) == WALK_EDGE_INDEX &&
				(!known || *known < *kind))
				put(l, &l->code_names, g->edges[k].raw.a, *kind);
		}
	}
}

static bool is_interned(struct view *v, uint64_t str)
{
	return (view_u32(v, str + (uint64_t)v->l->str_state) & 3) != 0;
}

/* A key that is a name in the program's code, or at least may be one and does not look like data. */
static uint32_t key_name(struct labels *l, uint64_t key)
{
	const uint64_t *kind = u64map_get(&l->code_names, key);
	char buf[IDENTIFIER_MAX];
	uint32_t number;

	if (!is_new(l, key, &number))
		return number;
	if (!(kind && *kind == CODE_NAME && is_interned(l->view, key)) &&
		labels_looks_random(buf, view_str(l->view, key, buf, sizeof(buf))))
		return remember(l, key, 0);
	return identifier(l, key);
}

/* Text of a dict key that is not a namespace's, or 0. */
static uint32_t data_key(struct labels *l, uint64_t key)
{
	switch (l->job->req.keys) {
	case CAPTURE_KEYS_ALL:
		return any_text(l, key);
	case CAPTURE_KEYS_IDENTIFIERS:
		if (u64map_get(&l->code_names, key) && is_interned(l->view, key))
			return key_name(l, key);
	}
	return 0;
}

static uint32_t namespace_key(struct labels *l, uint64_t key)
{
	switch (l->job->req.keys) {
	case CAPTURE_KEYS_ALL:
		return any_text(l, key);
	case CAPTURE_KEYS_IDENTIFIERS:
		return key_name(l, key);
	}
	return 0;
}

static void resolve_edge(struct labels *l, union graph_edge *e, bool in_namespace)
{
	const struct walk_unit u = e->raw;
	struct snapshot_edge r = {.to = u.a, .kind = EDGE_PLAIN};
	uint64_t arg = WALK_ARG(u.b);

	switch (WALK_TAG(u.b)) {
	case WALK_EDGE_INDEX:
		r.kind = EDGE_INDEX;
		r.arg = (uint32_t)MIN(arg, (uint64_t)UINT32_MAX);
		break;
	case WALK_EDGE_KEYED:
		r.arg = in_namespace ? namespace_key(l, arg) : data_key(l, arg);
		r.kind = r.arg ? EDGE_KEY : EDGE_ITEM;
		break;
	case WALK_EDGE_DICT_KEY:
		r.kind = EDGE_DICT_KEY;
		break;
	case WALK_EDGE_ATTR_KEY:
		r.arg = namespace_key(l, arg);
		r.kind = EDGE_ATTR;
		break;
	case WALK_EDGE_ATTR_NAME:
		r.arg = c_name(l, arg);
		r.kind = r.arg ? EDGE_ATTR : EDGE_PLAIN;
		break;
	case WALK_EDGE_LABEL:
		r.arg = arg < WALK_LABEL_COUNT ? l->label[arg] : 0;
		r.kind = r.arg ? EDGE_ATTR : EDGE_PLAIN;
		break;
	case WALK_EDGE_GLOBALS:
		r.kind = EDGE_ATTR;
		r.arg = strings_add(l->strings, "__globals__", 11);
		break;
	case WALK_EDGE_DICT:
		r.kind = EDGE_DICT;
		break;
	case WALK_EDGE_CELL:
		r.kind = EDGE_CELL;
		break;
	case WALK_EDGE_LOCAL:
		r.arg = identifier(l, arg);
		/* comprehensions call their argument ".0" */
		r.kind = r.arg ? EDGE_LOCAL : EDGE_PLAIN;
		break;
	case WALK_EDGE_TYPE:
		r.kind = EDGE_TYPE;
		break;
	case WALK_EDGE_MEMBER:
		r.kind = EDGE_MEMBER;
		break;
	}
	e->edge = r;
}

/* Cells of a closure have their names in the function's code, in the closure's order. */
static void name_cells(struct labels *l, uint64_t function)
{
	const struct layout *f = l->view->l;
	struct view *v = l->view;
	uint64_t closure = view_u64(v, function + (uint64_t)f->func_closure), code, names, kinds;
	size_t n = closure ? view_items(v, closure, 256) : 0, at = 0;

	if (n == 0)
		return;
	code = view_u64(v, function + (uint64_t)f->func_code);
	if (f->minor <= 10) {
		names = view_u64(v, code + (uint64_t)f->co_freevars);
		for (size_t i = 0; i < MIN(n, view_items(v, names, 256)); i++)
			put(l, &l->cells, view_item(v, closure, i), view_item(v, names, i));
		return;
	}
	names = view_u64(v, code + (uint64_t)f->co_localsplusnames);
	kinds = view_u64(v, code + (uint64_t)f->co_localspluskinds) + (uint64_t)f->bytes_sval;
	for (size_t i = 0, all = view_items(v, names, 4096); i < all && at < n; i++)
		if (view_u8(v, kinds + i) & 0x80) /* CO_FAST_FREE */
			put(l, &l->cells, view_item(v, closure, at++), view_item(v, names, i));
}

static uint32_t type_name(struct labels *l, uint64_t addr)
{
	struct python_type t;

	if (python_type_read(l->view->python, addr, &t) < 0)
		return strings_add(l->strings, "?", 1);
	return strings_add(l->strings, t.name, strlen(t.name));
}

/* A dotted name: module, qualified name of a function. */
static uint32_t dotted(struct labels *l, uint64_t str)
{
	char buf[IDENTIFIER_MAX * 2];
	uint32_t number;
	size_t n;

	if (!is_new(l, str, &number))
		return number;
	n = view_str(l->view, str, buf, sizeof(buf));
	return remember(l, str, n ? strings_add(l->strings, buf, n) : 0);
}

static uint32_t module_name(struct labels *l, uint64_t str)
{
	char buf[IDENTIFIER_MAX * 2];
	size_t n = labels_module_name(l->view, str, buf, sizeof(buf));

	return n ? strings_add(l->strings, buf, n) : 0;
}

int labels_resolve(struct job *j, struct graph *g, struct view *v, struct strings *s)
{
	static const char *const label[] = {
#define X(id, text) text,
		WALK_LABELS(X)
#undef X
	};
	struct labels l = {.job = j, .graph = g, .view = v, .strings = s};
	uint64_t function = 0, module = 0, cell = 0;
	size_t at = 0, named = 0;

	(void)python_symbol(v->python, "PyFunction_Type", &function, NULL);
	(void)python_symbol(v->python, "PyModule_Type", &module, NULL);
	(void)python_symbol(v->python, "PyCell_Type", &cell, NULL);
	for (int i = 0; i < WALK_LABEL_COUNT; i++)
		l.label[i] = strings_add(s, label[i], strlen(label[i]));
	for (size_t i = 0; i < g->n_types; i++) {
		g->types[i].name = type_name(&l, g->types[i].addr);
		g->types[i].flags = view_u64(v, g->types[i].addr + OFF_TP_FLAGS);
	}
	survey(&l);

	/* names of nodes; names of cells must be known before their edges are looked at */
	for (size_t i = 0; i < g->n_nodes && named < NAMES_MAX; i++) {
		struct snapshot_node *n = &g->nodes[i];
		const struct snapshot_type *t = &g->types[n->type];

		if (t->addr == function) {
			n->name = dotted(&l, view_u64(v, n->addr + (uint64_t)v->l->func_qualname));
			name_cells(&l, n->addr);
			named++;
		} else if (t->flags & TPFLAGS_TYPE_SUBCLASS) {
			n->name = type_name(&l, n->addr);
			named++;
		} else if (t->addr == module && !n->name) {
			n->name =
				module_name(&l, view_u64(v, n->addr + (uint64_t)v->l->module_name));
			named++;
		}
	}
	for (size_t i = 0; i < g->n_nodes; at += g->nodes[i++].n_edges) {
		const struct snapshot_node *n = &g->nodes[i];
		bool space = g->types[n->type].flags & TPFLAGS_DICT_SUBCLASS &&
			     u64map_get(&l.namespaces, n->addr);
		const uint64_t *cell_name =
			g->types[n->type].addr == cell ? u64map_get(&l.cells, n->addr) : NULL;

		for (size_t k = at; k < at + n->n_edges; k++) {
			resolve_edge(&l, &g->edges[k], space);
			if (cell_name && g->edges[k].edge.kind == EDGE_CELL)
				g->edges[k].edge.arg = identifier(&l, *cell_name);
		}
	}
	u64map_release(&l.texts);
	u64map_release(&l.namespaces);
	u64map_release(&l.name_tuples);
	u64map_release(&l.code_names);
	u64map_release(&l.cells);
	return l.nomem ? -ENOMEM : 0;
}
