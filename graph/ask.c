/* SPDX-License-Identifier: MIT */
#include "graph/ask.h"

#include <inttypes.h>
#include <string.h>

#include "daemon/util/u64map.h"
#include "graph/cycles.h"
#include "graph/dominators.h"
#include "graph/heapsnapshot.h"
#include "graph/most.h"
#include "graph/render.h"
#include "graph/report.h"
#include "graph/text.h"
#include "graph/types.h"
#include "graph/web.h"

#define GROWN_MAX 50u /* containers that a diff lists */

/* ---- JSON ---------------------------------------------------------------------------------- */

/* Strings of a snapshot are UTF-8 without control characters; names from elsewhere may not be. */
static void put_string(FILE *f, const char *s)
{
	fputc('"', f);
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			fputc('\\', f);
		if ((unsigned char)*s < 0x20)
			fprintf(f, "\\u%04x", (unsigned int)*s);
		else
			fputc(*s, f);
	}
	fputc('"', f);
}

static void put_addr(FILE *f, uint64_t addr)
{
	fprintf(f, "\"0x%" PRIx64 "\"", addr);
}

static void put_meta(FILE *f, const char *key, const json_t *meta, const char *what)
{
	const json_t *v = json_object_get(meta, what);

	fprintf(f, "\"%s\": ", key);
	if (json_is_string(v))
		put_string(f, json_string_value(v));
	else if (json_is_integer(v))
		fprintf(f, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
	else
		fputs("null", f);
}

static void begin(const struct ask *q, const struct graph *g, const json_t *meta)
{
	fputc('{', q->json);
	put_meta(q->json, "at", meta, "at");
	fputs(", ", q->json);
	put_meta(q->json, "pid", meta, "pid");
	fprintf(q->json, ", \"objects\": %u", g->n_nodes);
	/* Whoever reads a number should know that the heap was not read to its end. */
	if (json_is_object(json_object_get(meta, "truncated")))
		fputs(", \"partial\": true", q->json);
}

static int end(const struct ask *q, struct err *err)
{
	fputs("}\n", q->json);
	if (fflush(q->json) != 0 || ferror(q->json))
		return err_set(err, -EIO, "cannot write the answer: %s", strerror(errno));
	return 0;
}

static const char *separator(uint64_t i)
{
	return i ? ",\n  " : "\n  ";
}

static bool within(const struct ask *q, uint64_t i)
{
	return !q->limit || i < q->limit;
}

static void note(const struct ask *q, const char *what)
{
	if (q->progress)
		q->progress(what);
}

static int no_memory(const struct graph *g, struct err *err)
{
	return err_set(err, -ENOMEM, "not enough memory to answer about %u objects", g->n_nodes);
}

/* ---- what is asked about ------------------------------------------------------------------- */

/* A flag by type number: asked for by name? NULL in *ret if no name was given. */
static int types_asked(
	const struct ask *q, const struct graph *g, const struct census *c, bool **ret, struct err *err)
{
	_cleanup_(type_list_release) struct type_list l = {0};

	*ret = NULL;
	if (!q->n_types)
		return 0;
	for (size_t i = 0; i < q->n_types; i++) {
		int rc = types_named(&l, g, c, q->types[i], SNAPSHOT_MAX_TYPES, err);

		if (rc < 0)
			return rc;
	}
	*ret = calloc(MAX(g->s.n_types, 1u), sizeof(**ret));
	if (!*ret)
		return no_memory(g, err);
	for (size_t i = 0; i < l.n; i++)
		(*ret)[l.types[i]] = true;
	return 0;
}

static bool addr_asked(const struct ask *q, uint64_t addr)
{
	for (size_t i = 0; i < q->n_addrs; i++) {
		if (q->addrs[i] == addr)
			return true;
	}
	return false;
}

static bool is_asked(const struct ask *q, const struct graph *g, const bool *types, uint32_t node)
{
	return (types && types[g->same_name[g->s.nodes[node].type]]) ||
	       addr_asked(q, g->s.nodes[node].addr);
}

static int check_addrs(const struct ask *q, const struct graph *g, struct err *err)
{
	for (size_t i = 0; i < q->n_addrs; i++) {
		uint32_t v = 0;

		while (v < g->n_nodes && g->s.nodes[v].addr != q->addrs[i])
			v++;
		if (v == g->n_nodes)
			return err_set(err, -ENOENT,
				"no object at 0x%" PRIx64 " in this dump: `instances DUMP --type "
				"T` lists those of a type",
				q->addrs[i]);
	}
	return 0;
}

/* ---- types --------------------------------------------------------------------------------- */

static int ask_types(const struct ask *q, const struct graph *g, const json_t *meta, struct err *err)
{
	_cleanup_(type_list_release) struct type_list all = {0};
	_cleanup_(census_release) struct census census = {0};
	_cleanup_free_ bool *asked = NULL;
	uint64_t n = 0, total = 0, bytes = 0;
	int rc = census_take(&census, g);

	if (rc == 0)
		rc = types_all(&all, g, &census);
	if (rc < 0)
		return no_memory(g, err);
	rc = types_asked(q, g, &census, &asked, err);
	if (rc < 0)
		return rc;
	begin(q, g, meta);
	fputs(", \"types\": [", q->json);
	for (size_t i = 0; i < all.n; i++) {
		uint32_t t = all.types[i];

		bytes += census.bytes[t];
		if (asked && !asked[t])
			continue;
		total++;
		if (!within(q, n))
			continue;
		fprintf(q->json, "%s{\"type\": ", separator(n++));
		put_string(q->json, type_name(g, t));
		fprintf(q->json, ", \"count\": %" PRIu64 ", \"bytes\": %" PRIu64, census.count[t],
			census.bytes[t]);
		if (census.same[t] > 1)
			fprintf(q->json, ", \"types\": %u", census.same[t]);
		fputc('}', q->json);
	}
	fprintf(q->json, "], \"total\": %" PRIu64 ", \"bytes\": %" PRIu64, total, bytes);
	return end(q, err);
}

/* ---- instances ----------------------------------------------------------------------------- */

static void put_object(FILE *f, const struct graph *g, uint32_t node)
{
	const struct snapshot_node *n = &g->s.nodes[node];

	fputs("\"addr\": ", f);
	put_addr(f, n->addr);
	fputs(", \"type\": ", f);
	put_string(f, graph_type_name(g, node));
	fprintf(f, ", \"bytes\": %" PRIu64 ", \"refcount\": ", n->bytes);
	if (n->flags & SNAPSHOT_NODE_IMMORTAL)
		fputs("null", f);
	else
		fprintf(f, "%" PRId64, n->refcount);
}

static int ask_instances(
	const struct ask *q, const struct graph *g, const json_t *meta, struct err *err)
{
	_cleanup_(census_release) struct census census = {0};
	_cleanup_free_ bool *asked = NULL;
	uint64_t n = 0, total = 0;
	int rc;

	if (census_take(&census, g) < 0)
		return no_memory(g, err);
	rc = types_asked(q, g, &census, &asked, err);
	if (rc == 0)
		rc = check_addrs(q, g, err);
	if (rc < 0)
		return rc;
	begin(q, g, meta);
	fputs(", \"instances\": [", q->json);
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		if (!is_asked(q, g, asked, i))
			continue;
		total++;
		if (!within(q, n))
			continue;
		fprintf(q->json, "%s{", separator(n++));
		put_object(q->json, g, i);
		fputc('}', q->json);
	}
	fprintf(q->json, "], \"total\": %" PRIu64, total);
	return end(q, err);
}

/* ---- the search that the rest needs -------------------------------------------------------- */

struct ways {
	struct reach r;
	struct paths_ctx *ctx;
};

static void ways_release(struct ways *w)
{
	paths_ctx_free(w->ctx);
	reach_release(&w->r);
}

static int ways_init(struct ways *w, const struct ask *q, const struct graph *g, struct err *err)
{
	int rc;

	note(q, "searching from the roots");
	rc = reach_init(&w->r, g, err);
	if (rc == 0)
		rc = paths_ctx_new(&w->ctx, &w->r, err);
	return rc;
}

/* "app.cache.SESSIONS", or what the object is called, or its type's short name. */
static char *label_of(struct ways *w, const struct graph *g, uint32_t node)
{
	char *name = explain_name(w->ctx, &w->r, node);

	if (name && !*name) {
		const char *own = graph_string(g, g->s.nodes[node].name);

		free(name);
		name = strdup(*own ? own : text_short_type(graph_type_name(g, node)));
	}
	return name;
}

static int put_label(FILE *f, struct ways *w, const struct graph *g, uint32_t node)
{
	_cleanup_free_ char *label = label_of(w, g, node);

	if (!label)
		return -ENOMEM;
	fputs(", \"label\": ", f);
	put_string(f, label);
	return 0;
}

/* ---- dominators ---------------------------------------------------------------------------- */

static int put_holders(
	const struct ask *q, struct ways *w, const struct dominators *d, const struct graph *g)
{
	_cleanup_free_ uint32_t *holders = NULL;
	size_t n;

	if (dominators_holders(d, g, q->limit, &holders, &n) < 0)
		return -ENOMEM;
	fputs(", \"holders\": [", q->json);
	for (size_t i = 0; i < n; i++) {
		uint32_t number = holders[i], node = d->node[number], above;

		fprintf(q->json, "%s{\"addr\": ", separator(i));
		put_addr(q->json, g->s.nodes[node].addr);
		fputs(", \"type\": ", q->json);
		put_string(q->json, graph_type_name(g, node));
		if (put_label(q->json, w, g, node) < 0)
			return -ENOMEM;
		fprintf(q->json,
			", \"bytes\": %" PRIu64 ", \"retained_bytes\": %" PRIu64
			", \"retained_objects\": %u, \"holder\": ",
			g->s.nodes[node].bytes, d->bytes[number], d->objects[number]);
		above = dominators_above(d, g, number);
		if (above == DOMINATORS_ROOT)
			fputs("null}", q->json);
		else {
			put_addr(q->json, g->s.nodes[d->node[above]].addr);
			fputc('}', q->json);
		}
	}
	fputc(']', q->json);
	return 0;
}

static int put_retained_types(const struct ask *q, const struct dominators *d,
	const struct graph *g, const struct census *census)
{
	_cleanup_(retained_release) struct retained t = {0};
	_cleanup_(most_release) struct most m = {0};
	int rc = retained_init(&t, d, g);

	if (rc == 0)
		rc = most_init(&m, q->limit, g->s.n_types);
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < g->s.n_types; i++) {
		if (t.objects[i])
			most_add(&m, t.bytes[i], i);
	}
	most_sort(&m);
	fputs(", \"types\": [", q->json);
	for (size_t i = 0; i < m.n; i++) {
		uint32_t type = m.items[i].item;

		fprintf(q->json, "%s{\"type\": ", separator(i));
		put_string(q->json, type_name(g, type));
		fprintf(q->json,
			", \"count\": %" PRIu64 ", \"bytes\": %" PRIu64
			", \"retained_bytes\": %" PRIu64 ", \"retained_objects\": %" PRIu64 "}",
			census->count[type], census->bytes[type], t.bytes[type], t.objects[type]);
	}
	fputc(']', q->json);
	return 0;
}

static uint64_t all_bytes(const struct graph *g)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < g->n_nodes; i++)
		bytes += g->s.nodes[i].bytes;
	return bytes;
}

static int ask_dominators(
	const struct ask *q, struct graph *g, const json_t *meta, struct err *err)
{
	_cleanup_(dominators_release) struct dominators d = {0};
	_cleanup_(census_release) struct census census = {0};
	_cleanup_(ways_release) struct ways w = {0};
	int rc = census_take(&census, g);

	if (rc < 0)
		return no_memory(g, err);
	rc = ways_init(&w, q, g, err);
	if (rc == 0)
		rc = graph_index_referrers(g, err);
	note(q, "finding what each object retains");
	if (rc == 0)
		rc = dominators_init(&d, &w.r, q->stop, err);
	if (rc < 0)
		return rc;
	begin(q, g, meta);
	fprintf(q->json, ", \"bytes\": %" PRIu64, all_bytes(g));
	rc = put_holders(q, &w, &d, g);
	if (rc == 0)
		rc = put_retained_types(q, &d, g, &census);
	if (rc < 0)
		return no_memory(g, err);
	fprintf(q->json, ", \"unreachable\": {\"objects\": %u, \"bytes\": %" PRIu64 "}",
		g->n_nodes - (d.n - DOMINATORS_ROOT), all_bytes(g) - d.bytes[DOMINATORS_ROOT]);
	return end(q, err);
}

/* ---- what C code holds --------------------------------------------------------------------- */

static uint64_t referrers(const struct graph *g, uint32_t node)
{
	return g->in_first[node + 1] - g->in_first[node];
}

static int ask_leaking(const struct ask *q, struct graph *g, const json_t *meta, struct err *err)
{
	_cleanup_(ways_release) struct ways w = {0};
	_cleanup_free_ uint64_t *count = calloc(MAX(g->s.n_types, 1u), sizeof(*count));
	_cleanup_free_ uint64_t *size = calloc(MAX(g->s.n_types, 1u), sizeof(*size));
	_cleanup_(most_release) struct most m = {0};
	uint64_t n = 0, total = 0, unreachable = 0, bytes = 0;
	int rc;

	if (!count || !size)
		return no_memory(g, err);
	rc = ways_init(&w, q, g, err);
	if (rc == 0)
		rc = graph_index_referrers(g, err);
	if (rc < 0)
		return rc;
	begin(q, g, meta);
	fputs(", \"leaking\": [", q->json);
	for (uint32_t i = 0; i < w.r.n_sources; i++) {
		uint32_t v = w.r.sources[i].node, type;
		int64_t explained;

		if (w.r.sources[i].kind != PATH_C_REFERENCE)
			continue;
		type = g->same_name[g->s.nodes[v].type];
		total++;
		count[type]++;
		size[type] += g->s.nodes[v].bytes;
		if (!within(q, n))
			continue;
		explained = (int64_t)referrers(g, v);
		fprintf(q->json, "%s{", separator(n++));
		put_object(q->json, g, v);
		fprintf(q->json, ", \"unexplained\": %" PRId64 ", \"holder\": ",
			MAX(g->s.nodes[v].refcount - explained, (int64_t)1));
		put_string(q->json,
			explain_root_name(g, PATH_C_REFERENCE, w.r.sources[i].name));
		fputc('}', q->json);
	}
	fprintf(q->json, "], \"total\": %" PRIu64 ", \"types\": [", total);
	if (most_init(&m, q->limit, g->s.n_types) < 0)
		return no_memory(g, err);
	for (uint32_t t = 0; t < g->s.n_types; t++) {
		if (count[t])
			most_add(&m, count[t], t);
	}
	most_sort(&m);
	for (size_t i = 0; i < m.n; i++) {
		fprintf(q->json, "%s{\"type\": ", separator(i));
		put_string(q->json, type_name(g, m.items[i].item));
		fprintf(q->json, ", \"count\": %" PRIu64 ", \"bytes\": %" PRIu64 "}",
			m.items[i].key, size[m.items[i].item]);
	}
	for (uint32_t v = 0; v < g->n_nodes; v++) {
		if (w.r.dist[v] == REACH_NONE) {
			unreachable++;
			bytes += g->s.nodes[v].bytes;
		}
	}
	fprintf(q->json, "], \"unreachable\": {\"objects\": %" PRIu64 ", \"bytes\": %" PRIu64 "}",
		unreachable, bytes);
	return end(q, err);
}

/* ---- cycles -------------------------------------------------------------------------------- */

#define CYCLE_OBJECTS 8 /* of each that are named */

static void put_cycle(
	const struct ask *q, const struct graph *g, const struct cycles *all, const struct cycle *c)
{
	fprintf(q->json, "{\"objects\": %u, \"bytes\": %" PRIu64 ", \"members\": [", c->n, c->bytes);
	for (uint32_t i = 0; i < MIN(c->n, (uint32_t)CYCLE_OBJECTS); i++) {
		fputs(i ? ", {" : "{", q->json);
		put_object(q->json, g, all->nodes[c->first + i]);
		fputc('}', q->json);
	}
	fputs("]}", q->json);
}

static int ask_cycles(const struct ask *q, const struct graph *g, const json_t *meta, struct err *err)
{
	_cleanup_(cycles_release) struct cycles c = {0};
	_cleanup_(census_release) struct census census = {0};
	_cleanup_(reach_release) struct reach r = {0};
	_cleanup_free_ bool *asked = NULL;
	uint64_t n = 0, total = 0;
	int rc;

	if (census_take(&census, g) < 0)
		return no_memory(g, err);
	rc = types_asked(q, g, &census, &asked, err);
	note(q, "searching from the roots");
	if (rc == 0)
		rc = reach_init(&r, g, err);
	if (rc == 0)
		rc = cycles_find(&c, &r, err);
	if (rc < 0)
		return rc;
	begin(q, g, meta);
	fputs(", \"cycles\": [", q->json);
	for (uint32_t i = 0; i < c.n_cycles; i++) {
		bool wanted = !asked;

		for (uint32_t k = 0; k < c.cycles[i].n && !wanted; k++)
			wanted = is_asked(q, g, asked, c.nodes[c.cycles[i].first + k]);
		if (!wanted)
			continue;
		total++;
		if (!within(q, n))
			continue;
		fputs(separator(n++), q->json);
		put_cycle(q, g, &c, &c.cycles[i]);
	}
	fprintf(q->json, "], \"total\": %" PRIu64, total);
	return end(q, err);
}

/* ---- two snapshots ------------------------------------------------------------------------- */

struct change {
	uint64_t before, after, new;
	const char *name;
};

struct comparison {
	struct u64map addrs; /* address -> node of the older one */
	uint32_t *change_of; /* by type number of the newer one */
	struct change *changes;
	size_t n_changes;
};

static void comparison_release(struct comparison *c)
{
	u64map_release(&c->addrs);
	free(c->change_of);
	free(c->changes);
}

struct named_type {
	const char *name;
	uint32_t type;
	bool is_old;
};

static int by_type_name(const void *a, const void *b)
{
	const struct named_type *s = a, *t = b;
	int d = strcmp(s->name, t->name);

	return d ? d : (int)t->is_old - (int)s->is_old;
}

static size_t list_named(struct named_type *to, const struct graph *g, bool is_old)
{
	size_t n = 0;

	for (uint32_t t = 0; t < g->s.n_types; t++) {
		if (g->same_name[t] == t)
			to[n++] = (struct named_type){type_name(g, t), t, is_old};
	}
	return n;
}

/* Types of one name are one type, in both. */
static int match_types(struct comparison *c, const struct graph *g, const struct graph *old,
	const struct census *now, const struct census *then)
{
	size_t most = (size_t)g->s.n_types + old->s.n_types, n;
	_cleanup_free_ struct named_type *all = malloc(MAX(most, (size_t)1) * sizeof(*all));

	c->change_of = calloc(MAX(g->s.n_types, 1u), sizeof(*c->change_of));
	c->changes = calloc(MAX(most, (size_t)1), sizeof(*c->changes));
	if (!all || !c->change_of || !c->changes)
		return -ENOMEM;
	n = list_named(all, old, true);
	n += list_named(all + n, g, false);
	qsort(all, n, sizeof(*all), by_type_name);
	for (size_t i = 0; i < n; i++) {
		bool again = i > 0 && strcmp(all[i].name, all[i - 1].name) == 0;
		struct change *x = &c->changes[again ? c->n_changes - 1 : c->n_changes++];

		x->name = all[i].name;
		if (all[i].is_old) {
			x->before = then->count[all[i].type];
		} else {
			x->after = now->count[all[i].type];
			c->change_of[all[i].type] = (uint32_t)(x - c->changes);
		}
	}
	return 0;
}

static int index_addrs(struct comparison *c, const struct graph *old)
{
	int rc = u64map_reserve(&c->addrs, old->n_nodes);

	for (uint32_t i = 0; i < old->n_nodes && rc == 0; i++) {
		bool new;

		if (!u64map_upsert(&c->addrs, graph_addr_key(old->s.nodes[i].addr), i, &new))
			rc = -ENOMEM;
	}
	return rc;
}

static int by_new(const void *a, const void *b)
{
	const struct change *s = a, *t = b;
	int64_t grown_s = (int64_t)(s->after - s->before), grown_t = (int64_t)(t->after - t->before);

	if (grown_s != grown_t)
		return grown_s > grown_t ? -1 : 1;
	if (s->new != t->new)
		return s->new > t->new ? -1 : 1;
	return strcmp(s->name, t->name);
}

/* What a container holds: keys and references to its class are not items. */
static uint32_t items_of(const struct graph *g, uint32_t node)
{
	uint32_t n = 0;

	for (uint32_t e = g->first[node]; e < g->first[node + 1]; e++) {
		switch (g->edges[e].kind) {
		case EDGE_KEY:
		case EDGE_ITEM:
		case EDGE_INDEX:
		case EDGE_MEMBER:
			n++;
		}
	}
	return n;
}

/* Is the same object there in the older one, as far as can be told? */
static uint32_t find_older(const struct comparison *c, const struct graph *g,
	const struct graph *old, uint32_t node)
{
	const uint64_t *then = u64map_get(&c->addrs, graph_addr_key(g->s.nodes[node].addr));

	return then && strcmp(graph_type_name(old, (uint32_t)*then), graph_type_name(g, node)) == 0
		       ? (uint32_t)*then
		       : GRAPH_NONE;
}

static int put_grown(const struct ask *q, const struct comparison *c, const struct graph *g,
	const struct graph *old, struct err *err)
{
	_cleanup_(ways_release) struct ways w = {0};
	_cleanup_(most_release) struct most m = {0};
	int rc = ways_init(&w, q, g, err);

	if (rc < 0)
		return rc;
	if (most_init(&m, MIN(q->limit ? q->limit : GROWN_MAX, GROWN_MAX), g->n_nodes) < 0)
		return no_memory(g, err);
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		uint32_t then, now_items, then_items;

		/* Before the two are counted: it can only have grown if it has more references. */
		if (g->first[i + 1] == g->first[i])
			continue;
		then = find_older(c, g, old, i);
		if (then == GRAPH_NONE || g->first[i + 1] - g->first[i] <=
						  old->first[then + 1] - old->first[then])
			continue;
		now_items = items_of(g, i);
		then_items = items_of(old, then);
		if (now_items > then_items)
			most_add(&m, now_items - then_items, i);
	}
	most_sort(&m);
	fputs(", \"containers\": [", q->json);
	for (size_t i = 0; i < m.n; i++) {
		uint32_t node = m.items[i].item, now_items = items_of(g, node);

		fprintf(q->json, "%s{\"addr\": ", separator(i));
		put_addr(q->json, g->s.nodes[node].addr);
		fputs(", \"type\": ", q->json);
		put_string(q->json, graph_type_name(g, node));
		if (put_label(q->json, &w, g, node) < 0)
			return no_memory(g, err);
		fprintf(q->json, ", \"before\": %u, \"after\": %u}",
			now_items - (uint32_t)m.items[i].key, now_items);
	}
	fputc(']', q->json);
	return 0;
}

static int compare(struct comparison *c, const struct graph *g,
	const struct graph *old, bool one_process)
{
	_cleanup_(census_release) struct census now = {0}, then = {0};
	int rc = census_take(&now, g);

	if (rc == 0)
		rc = census_take(&then, old);
	if (rc == 0)
		rc = match_types(c, g, old, &now, &then);
	if (rc == 0 && one_process)
		rc = index_addrs(c, old);
	for (uint32_t i = 0; i < g->n_nodes && rc == 0 && one_process; i++) {
		uint32_t change = c->change_of[g->same_name[g->s.nodes[i].type]];

		if (find_older(c, g, old, i) == GRAPH_NONE)
			c->changes[change].new++;
	}
	qsort(c->changes, c->n_changes, sizeof(*c->changes), by_new);
	return rc;
}

static int ask_diff(const struct ask *q, const struct graph *g, const json_t *meta,
	const struct graph *old, const json_t *old_meta, struct err *err)
{
	_cleanup_(comparison_release) struct comparison c = {0};
	/* Addresses of two processes have nothing to do with each other. */
	bool one_process = json_is_integer(json_object_get(meta, "pid")) &&
			   json_equal(json_object_get(meta, "pid"),
				   json_object_get(old_meta, "pid"));
	uint64_t n = 0, total = 0;
	int rc;

	note(q, "comparing");
	if (compare(&c, g, old, one_process) < 0)
		return no_memory(g, err);
	begin(q, g, meta);
	fputs(", \"before\": {", q->json);
	put_meta(q->json, "at", old_meta, "at");
	fputs(", ", q->json);
	put_meta(q->json, "pid", old_meta, "pid");
	fprintf(q->json, ", \"objects\": %u}, \"same_process\": %s, \"types\": [", old->n_nodes,
		one_process ? "true" : "false");
	for (size_t i = 0; i < c.n_changes; i++) {
		const struct change *x = &c.changes[i];

		if (x->before == x->after && !x->new)
			continue;
		total++;
		if (!within(q, n))
			continue;
		fprintf(q->json, "%s{\"type\": ", separator(n++));
		put_string(q->json, x->name);
		fprintf(q->json, ", \"before\": %" PRIu64 ", \"after\": %" PRIu64 ", \"new\": ",
			x->before, x->after);
		if (one_process)
			fprintf(q->json, "%" PRIu64 "}", x->new);
		else
			fputs("null}", q->json);
	}
	fprintf(q->json, "], \"total\": %" PRIu64, total);
	if (one_process) {
		rc = put_grown(q, &c, g, old, err);
		if (rc < 0)
			return rc;
	} else {
		fputs(", \"containers\": null", q->json);
	}
	return end(q, err);
}

/* ---- chains -------------------------------------------------------------------------------- */

/* What a place in the picture is called: by the address of one of its objects. */
static char *id_of_step(const struct explain_step *s)
{
	return s->gap ? strdup("gap") : text_format("0x%" PRIx64, s->example);
}

static char *id_of_root(const struct explain_path *p)
{
	return p->root_addr ? text_format("0x%" PRIx64, p->root_addr)
			    : text_format("%s: %s", explain_root_kind(p->root), p->root_name);
}

/* Adds a node unless one of that id is there; the instances that pass through it add up. */
static int add_chain_node(json_t *nodes, const char *id, json_t *stolen, uint64_t instances)
{
	json_t *there = json_object_get(nodes, id);

	if (there) {
		json_decref(stolen);
		stolen = there;
		instances += (uint64_t)json_integer_value(json_object_get(there, "instances"));
	} else if (json_object_set_new(nodes, id, stolen) < 0) {
		return -ENOMEM;
	}
	return json_object_set_new(stolen, "instances", json_integer((json_int_t)instances)) < 0
		       ? -ENOMEM
		       : 0;
}

static json_t *root_node(const struct explain_path *p, const char *id)
{
	return json_pack("{s:s, s:s?, s:s?, s:s, s:s}", "id", id, "addr", p->root_addr ? id : NULL,
		"type", p->root == PATH_MODULE ? "module" : NULL, "label", p->root_name, "root",
		explain_root_kind(p->root));
}

static json_t *step_node(const struct explain_step *s, const char *id, bool last)
{
	json_t *o = json_pack("{s:s, s:s?, s:s, s:s, s:I}", "id", id, "addr", s->gap ? NULL : id,
		"type", s->type, "label", s->label, "objects", (json_int_t)s->nodes);

	if (last)
		json_object_set_new(o, "suspect", json_true());
	return o;
}

static int add_chain_edge(json_t *edges, const char *from, const char *to, const char *label,
	uint64_t instances)
{
	_cleanup_free_ char *key = text_format("%s %s %s", from, to, label);
	json_t *edge = key ? json_object_get(edges, key) : NULL;

	if (!key)
		return -ENOMEM;
	if (edge) {
		instances += (uint64_t)json_integer_value(json_object_get(edge, "instances"));
	} else {
		edge = json_pack("{s:s, s:s, s:s}", "from", from, "to", to, "label", label);
		if (json_object_set_new(edges, key, edge) < 0)
			return -ENOMEM;
	}
	return json_object_set_new(edge, "instances", json_integer((json_int_t)instances)) < 0
		       ? -ENOMEM
		       : 0;
}

static int add_chain(json_t *nodes, json_t *edges, const struct explain_path *p)
{
	_cleanup_free_ char *before = p->is_cycle ? strdup("") : id_of_root(p);
	int rc = 0;

	if (!before)
		return -ENOMEM;
	if (!p->is_cycle)
		rc = add_chain_node(nodes, before, root_node(p, before), p->instances);
	for (size_t i = 0; i < p->n_steps && rc == 0; i++) {
		_cleanup_free_ char *id = id_of_step(&p->steps[i]);

		if (!id)
			return -ENOMEM;
		rc = add_chain_node(nodes, id,
			step_node(&p->steps[i], id, i + 1 == p->n_steps), p->instances);
		if (rc == 0 && *before)
			rc = add_chain_edge(
				edges, before, id, p->steps[i].edge, p->instances);
		free(before);
		before = TAKE_PTR(id);
	}
	return rc;
}

static json_t *values(const json_t *object)
{
	json_t *list = json_array(), *v;
	const char *key;

	json_object_foreach ((json_t *)object, key, v)
		json_array_append(list, v);
	return list;
}

static int put_chain(const struct ask *q, const struct explanation *x, const json_t *meta)
{
	json_t *nodes = json_object(), *edges = json_object(), *out = NULL;
	struct explain_document doc = {.meta = meta};
	int rc = nodes && edges ? 0 : -ENOMEM;

	for (size_t i = 0; i < x->n_suspects && rc == 0; i++) {
		for (size_t k = 0; k < x->suspects[i].n_paths && rc == 0; k++)
			rc = add_chain(nodes, edges, &x->suspects[i].paths[k]);
	}
	if (rc == 0)
		out = explain_json(x, &doc);
	if (out) {
		/* Those speak of a dump in a daemon's folder. */
		json_object_del(out, "files");
		json_object_del(out, "trigger");
		json_object_set_new(out, "nodes", values(nodes));
		json_object_set_new(out, "edges", values(edges));
		rc = json_dumpf(out, q->json, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) < 0 ? -EIO : 0;
		fputc('\n', q->json);
	} else {
		rc = -ENOMEM;
	}
	json_decref(out);
	json_decref(nodes);
	json_decref(edges);
	return rc;
}

static int ask_chain(struct ask *q, struct graph *g, const json_t *meta, struct err *err)
{
	_cleanup_(explanation_release) struct explanation x = {0};
	struct explain_options o = {.types = q->types,
		.n_types = q->n_types,
		.addrs = q->addrs,
		.n_addrs = q->n_addrs,
		.max_paths = q->too_many,
		.max_steps = q->max_depth,
		.max_holders = q->x ? EXPLAIN_HOLDERS : 0,
		.stop = q->stop,
		.partial = json_is_object(json_object_get(meta, "truncated"))};
	_cleanup_free_ char *caption = report_caption(meta);
	int rc;

	note(q, "searching from the roots");
	rc = o.max_holders ? graph_index_referrers(g, err) : 0;
	if (rc == 0)
		rc = explain(&x, g, &o, err);
	if (rc < 0)
		return rc;
	rc = put_chain(q, &x, meta);
	if (rc < 0)
		return err_set(err, rc, "cannot write the answer: %s", strerror(-rc));
	if (q->dot)
		rc = render_dot(q->dot, &x, caption, &q->nodes, err);
	if (rc == 0 && q->x) {
		*q->x = x;
		x = (struct explanation){0};
	}
	return rc;
}

/* ---- around objects ------------------------------------------------------------------------ */

/* At most too_many of the objects that were asked for, from all ages. */
static int choose_starts(const struct ask *q, const struct graph *g, uint32_t **ret, size_t *ret_n,
	uint64_t *ret_all, struct err *err)
{
	_cleanup_(census_release) struct census census = {0};
	_cleanup_free_ bool *asked = NULL;
	_cleanup_free_ uint32_t *starts = NULL;
	uint64_t all = 0, seen = 0;
	size_t n = 0, max = MAX(MIN((size_t)q->too_many, (size_t)WEB_NODES_MAX / 2), q->n_addrs);
	int rc;

	if (census_take(&census, g) < 0)
		return no_memory(g, err);
	rc = types_asked(q, g, &census, &asked, err);
	if (rc == 0)
		rc = check_addrs(q, g, err);
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < g->n_nodes; i++)
		all += is_asked(q, g, asked, i);
	max = (size_t)MIN((uint64_t)max, all);
	starts = malloc(MAX(max, (size_t)1) * sizeof(*starts));
	if (!starts)
		return no_memory(g, err);
	for (uint32_t i = 0; i < g->n_nodes && n < max; i++) {
		if (!is_asked(q, g, asked, i))
			continue;
		if (addr_asked(q, g->s.nodes[i].addr) || seen * max >= n * all)
			starts[n++] = i;
		seen++;
	}
	*ret = TAKE_PTR(starts);
	*ret_n = n;
	*ret_all = all;
	return 0;
}

static void put_web_node(const struct ask *q, const struct graph *g, const struct web_node *n)
{
	fputs("\"id\": ", q->json);
	put_addr(q->json, g->s.nodes[n->node].addr);
	fputs(", ", q->json);
	put_object(q->json, g, n->node);
	fputs(", \"label\": ", q->json);
	put_string(q->json, n->label);
	fprintf(q->json, ", \"depth\": %u", n->depth);
	if (n->is_module)
		fputs(", \"root\": \"module\"", q->json);
	if (n->more)
		fprintf(q->json, ", \"more\": %" PRIu64, n->more);
	fputc('}', q->json);
}

static void put_root_id(FILE *f, const struct graph *g, const struct web_root *r)
{
	_cleanup_free_ char *id = text_format("%s: %s", explain_root_kind(r->kind),
		explain_root_name(g, r->kind, r->name));

	put_string(f, id ? id : "?");
}

static void put_web(const struct ask *q, const struct graph *g, const struct web *w)
{
	uint64_t n = 0;

	fputs(", \"nodes\": [", q->json);
	for (uint32_t i = 0; i < w->n_nodes; i++) {
		fprintf(q->json, "%s{", separator(n++));
		put_web_node(q, g, &w->nodes[i]);
	}
	for (uint32_t i = 0; i < w->n_roots; i++) {
		const struct web_root *r = &w->roots[i];
		bool again = false;

		for (uint32_t k = 0; k < i && !again; k++)
			again = w->roots[k].kind == r->kind && w->roots[k].name == r->name;
		if (again)
			continue;
		fprintf(q->json, "%s{\"id\": ", separator(n++));
		put_root_id(q->json, g, r);
		fputs(", \"addr\": null, \"type\": null, \"label\": ", q->json);
		put_string(q->json,
			explain_root_name(g, r->kind, r->name));
		fprintf(q->json, ", \"root\": \"%s\"}", explain_root_kind(r->kind));
	}
	fputs("], \"edges\": [", q->json);
	n = 0;
	for (uint32_t i = 0; i < w->n_edges; i++) {
		const struct web_edge *e = &w->edges[i];

		fprintf(q->json, "%s{\"from\": ", separator(n++));
		put_addr(q->json, g->s.nodes[w->nodes[e->from].node].addr);
		fputs(", \"to\": ", q->json);
		put_addr(q->json, g->s.nodes[w->nodes[e->to].node].addr);
		fputs(", \"label\": ", q->json);
		put_string(q->json, e->label);
		fputc('}', q->json);
	}
	for (uint32_t i = 0; i < w->n_roots; i++) {
		fprintf(q->json, "%s{\"from\": ", separator(n++));
		put_root_id(q->json, g, &w->roots[i]);
		fputs(", \"to\": ", q->json);
		put_addr(q->json, g->s.nodes[w->nodes[w->roots[i].to].node].addr);
		fputs(", \"label\": ", q->json);
		put_string(q->json, w->roots[i].label);
		fputc('}', q->json);
	}
	fputc(']', q->json);
}

static int ask_web(struct ask *q, struct graph *g, const json_t *meta, struct err *err)
{
	struct web_options o = {.backwards = q->verb == ASK_BACKREFS,
		.max_depth = q->max_depth,
		.too_many = q->too_many,
		.max_nodes = q->drawn ? RENDER_NODES_MAX : WEB_NODES_MAX};
	_cleanup_free_ char *caption = report_caption(meta);
	_cleanup_free_ uint32_t *starts = NULL;
	_cleanup_(ways_release) struct ways w = {0};
	_cleanup_(web_release) struct web web = {0};
	uint64_t all = 0;
	size_t n = 0;
	int rc = choose_starts(q, g, &starts, &n, &all, err);

	if (rc == 0)
		rc = ways_init(&w, q, g, err);
	if (rc == 0)
		rc = graph_index_referrers(g, err);
	if (rc == 0)
		rc = web_init(&web, w.ctx, &w.r, starts, n, &o, err);
	if (rc < 0)
		return rc;
	begin(q, g, meta);
	fprintf(q->json,
		", \"backwards\": %s, \"asked\": %" PRIu64 ", \"shown\": %zu, \"truncated\": %s",
		o.backwards ? "true" : "false", all, n,
		web.cut ? "true" : "false");
	put_web(q, g, &web);
	rc = end(q, err);
	if (rc == 0 && q->dot)
		rc = render_web(q->dot, g, &web, caption, &q->nodes, err);
	return rc;
}

/* ---- for other tools ----------------------------------------------------------------------- */

static int ask_export(const struct ask *q, const struct graph *g, const json_t *meta, struct err *err)
{
	_cleanup_(ways_release) struct ways w = {0};
	struct heapsnapshot_totals t;
	int rc = ways_init(&w, q, g, err);

	note(q, "writing the heap snapshot");
	if (rc == 0)
		rc = heapsnapshot_write(q->heap, &w.r, &t, err);
	if (rc < 0)
		return rc;
	begin(q, g, meta);
	fprintf(q->json, ", \"nodes\": %" PRIu64 ", \"edges\": %" PRIu64, t.nodes, t.edges);
	return end(q, err);
}

int ask(struct ask *q, struct graph *g, const json_t *meta, const struct graph *before,
	const json_t *before_meta, struct err *err)
{
	switch (q->verb) {
	case ASK_CHAIN:
		return ask_chain(q, g, meta, err);
	case ASK_BACKREFS:
	case ASK_REFS:
		return ask_web(q, g, meta, err);
	case ASK_TYPES:
		return ask_types(q, g, meta, err);
	case ASK_INSTANCES:
		return ask_instances(q, g, meta, err);
	case ASK_DIFF:
		return ask_diff(q, g, meta, before, before_meta, err);
	case ASK_DOMINATORS:
		return ask_dominators(q, g, meta, err);
	case ASK_LEAKING:
		return ask_leaking(q, g, meta, err);
	case ASK_CYCLES:
		return ask_cycles(q, g, meta, err);
	case ASK_EXPORT:
		return ask_export(q, g, meta, err);
	}
	return -EINVAL;
}
