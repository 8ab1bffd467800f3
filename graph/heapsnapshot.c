/* SPDX-License-Identifier: MIT */
#include "graph/heapsnapshot.h"

#include <inttypes.h>
#include <string.h>

#include "graph/explain.h"

/* In the order of "node_types" and "edge_types" below. */
enum { V8_OBJECT = 3, V8_CLOSURE = 5, V8_SYNTHETIC = 9 };
enum { V8_CONTEXT = 0, V8_ELEMENT = 1, V8_PROPERTY = 2, V8_INTERNAL = 3 };

#define V8_NODE_FIELDS 6u

static const char meta[] =
	"\"meta\":{\"node_fields\":[\"type\",\"name\",\"id\",\"self_size\",\"edge_count\","
	"\"detachedness\"],\"node_types\":[[\"hidden\",\"array\",\"string\",\"object\",\"code\","
	"\"closure\",\"regexp\",\"number\",\"native\",\"synthetic\",\"concatenated string\","
	"\"sliced string\",\"symbol\",\"bigint\",\"object shape\"],\"string\",\"number\","
	"\"number\",\"number\",\"number\"],\"edge_fields\":[\"type\",\"name_or_index\","
	"\"to_node\"],\"edge_types\":[[\"context\",\"element\",\"property\",\"internal\","
	"\"hidden\",\"shortcut\",\"weak\"],\"string_or_number\",\"node\"],"
	"\"trace_function_info_fields\":[],\"trace_node_fields\":[],\"sample_fields\":[],"
	"\"location_fields\":[]}";

/* What stands above the objects: the root, "(GC roots)", and a node for each source's kind and
 * name; sources of one are neighbours. */
struct top {
	enum path_root kind;
	uint32_t name;
	uint32_t first, end; /* its sources; of PATH_UNREACHABLE: none */
	uint64_t edges;
};

/* Strings of the output: those of the snapshot (each by its number), then these, then the types'
 * names joined with the objects' own. */
enum extra {
	EXTRA_ROOTS,
	EXTRA_C,
	EXTRA_UNREACHABLE,
	EXTRA_DICT,
	EXTRA_CLASS,
	EXTRA_KEY,
	EXTRA_ITEM,
	EXTRA_MEMBER,
	EXTRA_CELL,
	EXTRA_REFERENCE,
	N_EXTRA,
};

static const char *const extras[N_EXTRA] = {
	[EXTRA_ROOTS] = "(GC roots)",
	[EXTRA_C] = "C code: references that no object explains",
	[EXTRA_UNREACHABLE] = "unreachable: waits for the garbage collector",
	[EXTRA_DICT] = "__dict__",
	[EXTRA_CLASS] = "__class__",
	[EXTRA_KEY] = "key",
	[EXTRA_ITEM] = "['…']",
	[EXTRA_MEMBER] = "{…}",
	[EXTRA_CELL] = "cell",
	[EXTRA_REFERENCE] = "reference",
};

struct writer {
	FILE *f;
	const struct reach *r;
	const struct graph *g;
	struct top *tops;
	uint32_t n_tops;
	uint32_t extra; /* number of extras[0] among the strings */
	uint32_t joined, *joined_of; /* of a node with a name of its own: its string; see above */
};

static bool is_reached(const struct reach *r, uint32_t v)
{
	return r->dist[v] != REACH_NONE;
}

static int list_tops(struct writer *w)
{
	const struct reach *r = w->r;

	w->tops = calloc((size_t)r->n_sources + 1, sizeof(*w->tops));
	if (!w->tops)
		return -ENOMEM;
	for (uint32_t i = 0; i < r->n_sources; i++) {
		const struct path_source *s = &r->sources[i];
		struct top *last = w->n_tops ? &w->tops[w->n_tops - 1] : NULL;

		if (!last || last->kind != s->kind || last->name != s->name) {
			last = &w->tops[w->n_tops++];
			*last = (struct top){.kind = s->kind, .name = s->name, .first = i};
		}
		last->end = i + 1;
		last->edges++;
	}
	if (r->n_unreached)
		w->tops[w->n_tops++] =
			(struct top){.kind = PATH_UNREACHABLE, .edges = r->n_unreached};
	return 0;
}

static bool is_function(const struct graph *g, uint32_t node)
{
	return strcmp(graph_type_name(g, node), "function") == 0;
}

/* A node's own name joins its type's: "module app.cache"; not that of a function, which are all
 * grouped as such by the panel. */
static void list_joined(struct writer *w)
{
	w->joined = w->extra + N_EXTRA;
	for (uint32_t i = 0, n = 0; i < w->g->n_nodes; i++) {
		if (w->g->s.nodes[i].name && !is_function(w->g, i))
			w->joined_of[i] = w->joined + n++;
	}
}

static uint32_t string_of_top(const struct writer *w, const struct top *t)
{
	return t->kind == PATH_C_REFERENCE && !t->name ? w->extra + EXTRA_C
	       : t->kind == PATH_UNREACHABLE ? w->extra + EXTRA_UNREACHABLE
					     : t->name;
}

/* ---- nodes --------------------------------------------------------------------------------- */

static void put_node(struct writer *w, uint32_t number, unsigned int type, uint32_t name,
	uint64_t bytes, uint64_t edges)
{
	/* Ids are odd for objects in V8; all that readers want is that they differ. */
	fprintf(w->f, "%s%u,%u,%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",0\n", number ? "," : "", type,
		name, (uint64_t)number * 2 + 1, MIN(bytes, (uint64_t)INT32_MAX), edges);
}

static void put_nodes(struct writer *w)
{
	const struct graph *g = w->g;
	uint32_t n = 0;

	put_node(w, n++, V8_SYNTHETIC, 0, 0, 1);
	put_node(w, n++, V8_SYNTHETIC, w->extra + EXTRA_ROOTS, 0, w->n_tops);
	for (uint32_t i = 0; i < w->n_tops; i++)
		put_node(w, n++, V8_SYNTHETIC, string_of_top(w, &w->tops[i]), 0,
			w->tops[i].edges);
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		const struct snapshot_node *node = &g->s.nodes[i];

		put_node(w, n++, is_function(g, i) ? V8_CLOSURE : V8_OBJECT,
			is_function(g, i) && node->name ? node->name
			: w->joined_of[i]                ? w->joined_of[i]
							 : g->s.types[node->type].name,
			node->bytes, g->first[i + 1] - g->first[i]);
	}
}

/* ---- edges --------------------------------------------------------------------------------- */

static uint64_t put_edge(
	struct writer *w, uint64_t n, unsigned int type, uint32_t name, uint64_t to_number)
{
	fprintf(w->f, "%s%u,%u,%" PRIu64 "\n", n ? "," : "", type, name, to_number * V8_NODE_FIELDS);
	return n + 1;
}

static void name_of_edge(const struct writer *w, uint32_t kind, uint32_t arg, unsigned int *type,
	uint32_t *name)
{
	static const enum extra fixed[] = {[EDGE_PLAIN] = EXTRA_REFERENCE,
		[EDGE_DICT] = EXTRA_DICT,
		[EDGE_ITEM] = EXTRA_ITEM,
		[EDGE_DICT_KEY] = EXTRA_KEY,
		[EDGE_TYPE] = EXTRA_CLASS,
		[EDGE_CELL] = EXTRA_CELL,
		[EDGE_MEMBER] = EXTRA_MEMBER};

	*name = arg;
	switch (kind) {
	case EDGE_ATTR:
	case EDGE_KEY:
		*type = V8_PROPERTY;
		return;
	case EDGE_LOCAL:
		*type = V8_CONTEXT;
		return;
	case EDGE_INDEX:
		*type = V8_ELEMENT;
		return;
	case EDGE_CELL:
		*type = V8_CONTEXT;
		if (!arg)
			*name = w->extra + EXTRA_CELL;
		return;
	case EDGE_ITEM:
	case EDGE_MEMBER:
		*type = V8_PROPERTY;
		break;
	default:
		*type = V8_INTERNAL;
	}
	*name = w->extra + (uint32_t)fixed[kind < ARRAY_SIZE(fixed) ? kind : EDGE_PLAIN];
}

static uint64_t put_edges(struct writer *w)
{
	const struct graph *g = w->g;
	const struct reach *r = w->r;
	uint64_t n = 0, objects = 2ull + w->n_tops;

	n = put_edge(w, n, V8_ELEMENT, 1, 1);
	for (uint32_t i = 0; i < w->n_tops; i++)
		n = put_edge(w, n, V8_ELEMENT, i + 1, 2ull + i);
	for (uint32_t i = 0; i < w->n_tops; i++) {
		const struct top *t = &w->tops[i];

		for (uint32_t k = t->first; k < t->end; k++) {
			const struct path_source *s = &r->sources[k];
			unsigned int type = V8_ELEMENT;
			uint32_t name = k - t->first;

			if (s->edge_kind == EDGE_LOCAL)
				name_of_edge(w, s->edge_kind, s->edge_arg, &type, &name);
			n = put_edge(w, n, type, name, objects + s->node);
		}
		for (uint32_t v = 0, k = 0; t->kind == PATH_UNREACHABLE && v < g->n_nodes; v++) {
			if (!is_reached(r, v))
				n = put_edge(w, n, V8_ELEMENT, k++, objects + v);
		}
	}
	for (uint32_t e = 0; e < g->n_edges; e++) {
		unsigned int type;
		uint32_t name;

		name_of_edge(w, g->edges[e].kind, g->edges[e].arg, &type, &name);
		n = put_edge(w, n, type, name, objects + g->edges[e].to);
	}
	return n;
}

/* ---- strings ------------------------------------------------------------------------------- */

/* They are UTF-8 without control characters. */
static void put_text(FILE *f, const char *s)
{
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			fputc('\\', f);
		fputc(*s, f);
	}
}

static void put_strings(struct writer *w)
{
	const struct graph *g = w->g;

	for (uint32_t i = 0; i < g->s.n_strings; i++) {
		fputs(i ? ",\n\"" : "\"", w->f);
		put_text(w->f, graph_string(g, i));
		fputc('"', w->f);
	}
	for (int i = 0; i < N_EXTRA; i++) {
		fputs(",\n\"", w->f);
		put_text(w->f, extras[i]);
		fputc('"', w->f);
	}
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		if (!w->joined_of[i])
			continue;
		fputs(",\n\"", w->f);
		put_text(w->f, graph_type_name(g, i));
		fputc(' ', w->f);
		put_text(w->f, graph_string(g, g->s.nodes[i].name));
		fputc('"', w->f);
	}
}

int heapsnapshot_write(
	FILE *f, const struct reach *r, struct heapsnapshot_totals *ret, struct err *err)
{
	struct writer w = {.f = f, .r = r, .g = r->g, .extra = r->g->s.n_strings};
	const struct graph *g = r->g;
	uint64_t nodes, edges;
	int rc;

	w.joined_of = calloc(MAX(g->n_nodes, 1u), sizeof(*w.joined_of));
	rc = w.joined_of ? list_tops(&w) : -ENOMEM;
	if (rc < 0) {
		rc = err_set(err, rc, "not enough memory to export %u objects", g->n_nodes);
		goto out;
	}
	list_joined(&w);
	nodes = 2ull + w.n_tops + g->n_nodes;
	/* The root's one, the roots', the sources' and the objects'. */
	edges = 1ull + w.n_tops + r->n_sources + r->n_unreached + g->n_edges;
	if (nodes * V8_NODE_FIELDS > UINT32_MAX || edges * 3 > UINT32_MAX) {
		rc = err_set(err, -EFBIG,
			"%" PRIu64 " objects with %" PRIu64 " references are more than a "
			"heap snapshot can number",
			nodes, edges);
		goto out;
	}
	fprintf(f,
		"{\"snapshot\":{%s,\"node_count\":%" PRIu64 ",\"edge_count\":%" PRIu64
		",\"trace_function_count\":0},\n\"nodes\":[",
		meta, nodes, edges);
	put_nodes(&w);
	fputs("],\n\"edges\":[", f);
	if (put_edges(&w) != edges) {
		rc = err_set(err, -EIO, "the number of references is not what it was");
		goto out;
	}
	fputs("],\n\"trace_function_infos\":[],\"trace_tree\":[],\"samples\":[],"
	      "\"locations\":[],\n\"strings\":[",
		f);
	put_strings(&w);
	fputs("]}\n", f);
	if (fflush(f) != 0 || ferror(f))
		rc = err_set(err, -EIO, "cannot write the heap snapshot: %s", strerror(errno));
	*ret = (struct heapsnapshot_totals){nodes, edges};
out:
	free(w.tops);
	free(w.joined_of);
	return rc;
}
