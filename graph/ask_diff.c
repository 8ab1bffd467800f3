/* SPDX-License-Identifier: MIT */
/* What changed between two snapshots. */
#include "graph/answer.h"

#include <inttypes.h>
#include <string.h>

#include "daemon/util/u64map.h"
#include "graph/most.h"

#define GROWN_MAX 50u /* containers that are listed */

struct change {
	uint64_t before, after, new;
	const char *name;
};

struct comparison {
	struct u64map addrs; /* address -> node of the older one */
	uint32_t *change_of; /* by type number of the newer one */
	struct change *changes;
	size_t n_changes;
	bool cut; /* the time was up: which objects are new is not known */
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

static int put_grown(struct ask *q, const struct comparison *c, struct err *err)
{
	const struct graph *g = q->g, *old = q->before;
	_cleanup_(ways_release) struct ways w = {0};
	_cleanup_(most_release) struct most m = {0};
	bool cut = false;
	int rc = ways_init(&w, q, err);

	if (rc < 0)
		return rc;
	if (most_init(&m, MIN(q->limit ? q->limit : GROWN_MAX, GROWN_MAX), g->n_nodes) < 0)
		return answer_no_memory(q, err);
	for (uint32_t i = 0; i < g->n_nodes && !cut; i++) {
		uint32_t then, now_items, then_items;

		cut = graph_stopped(g, i);
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
	if (cut)
		answer_cut(q, "containers",
			"the time was up before all grown containers were found: --deadline gives it "
			"--deadline");
	most_sort(&m);
	fputs(", \"containers\": [", q->json);
	for (size_t i = 0; i < m.n; i++) {
		uint32_t node = m.items[i].item, now_items = items_of(g, node);

		fprintf(q->json, "%s{\"addr\": ", answer_separator(i));
		answer_addr(q->json, g->s.nodes[node].addr);
		fputs(", \"type\": ", q->json);
		answer_string(q->json, graph_type_name(g, node));
		if (answer_label(q->json, &w, node) < 0)
			return answer_no_memory(q, err);
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
	for (uint32_t i = 0; i < g->n_nodes && rc == 0 && one_process && !c->cut; i++) {
		uint32_t change = c->change_of[g->same_name[g->s.nodes[i].type]];

		if (find_older(c, g, old, i) == GRAPH_NONE)
			c->changes[change].new++;
		c->cut = graph_stopped(g, i);
	}
	qsort(c->changes, c->n_changes, sizeof(*c->changes), by_new);
	return rc;
}

int ask_diff(struct ask *q, struct err *err)
{
	const struct graph *g = q->g, *old = q->before;
	const json_t *old_meta = q->before_meta;
	_cleanup_(comparison_release) struct comparison c = {0};
	/* Addresses of two processes have nothing to do with each other. */
	bool one_process = json_is_integer(json_object_get(q->meta, "pid")) &&
			   json_equal(json_object_get(q->meta, "pid"),
				   json_object_get(old_meta, "pid"));
	uint64_t n = 0, total = 0;
	int rc;

	answer_note(q, "comparing");
	if (compare(&c, g, old, one_process) < 0)
		return answer_no_memory(q, err);
	if (c.cut)
		answer_cut(q, "comparison",
			"the time was up before each object was looked up in the older dump: "
			"ask with a longer --deadline");
	answer_begin(q);
	fputs(", \"before\": {", q->json);
	answer_meta(q->json, "at", old_meta, "at");
	fputs(", ", q->json);
	answer_meta(q->json, "pid", old_meta, "pid");
	fprintf(q->json, ", \"objects\": %u}, \"same_process\": %s, \"types\": [", old->n_nodes,
		one_process ? "true" : "false");
	for (size_t i = 0; i < c.n_changes; i++) {
		const struct change *x = &c.changes[i];

		if (x->before == x->after && (!x->new || c.cut))
			continue;
		total++;
		if (!answer_within(q, n))
			continue;
		fprintf(q->json, "%s{\"type\": ", answer_separator(n++));
		answer_string(q->json, x->name);
		fprintf(q->json, ", \"before\": %" PRIu64 ", \"after\": %" PRIu64 ", \"new\": ",
			x->before, x->after);
		if (one_process && !c.cut)
			fprintf(q->json, "%" PRIu64 "}", x->new);
		else
			fputs("null}", q->json);
	}
	fprintf(q->json, "], \"total\": %" PRIu64, total);
	if (one_process && !c.cut) {
		rc = put_grown(q, &c, err);
		if (rc < 0)
			return rc;
	} else {
		fputs(", \"containers\": null", q->json);
	}
	return answer_end(q, err);
}
