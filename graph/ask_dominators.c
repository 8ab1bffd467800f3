/* SPDX-License-Identifier: MIT */
#include "graph/answer.h"

#include <inttypes.h>

#include "graph/dominators.h"
#include "graph/most.h"

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

		fprintf(q->json, "%s{\"addr\": ", answer_separator(i));
		answer_addr(q->json, g->s.nodes[node].addr);
		fputs(", \"type\": ", q->json);
		answer_string(q->json, graph_type_name(g, node));
		if (answer_label(q->json, w, node) < 0)
			return -ENOMEM;
		fprintf(q->json,
			", \"bytes\": %" PRIu64 ", \"retained_bytes\": %" PRIu64
			", \"retained_objects\": %u, \"holder\": ",
			g->s.nodes[node].bytes, d->bytes[number], d->objects[number]);
		above = dominators_above(d, g, number);
		if (above == DOMINATORS_ROOT)
			fputs("null}", q->json);
		else {
			answer_addr(q->json, g->s.nodes[d->node[above]].addr);
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

		fprintf(q->json, "%s{\"type\": ", answer_separator(i));
		answer_string(q->json, type_name(g, type));
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

/* Without what is retained: types by the bytes of their objects. */
static int put_unfinished(const struct ask *q, const struct census *census, struct err *err)
{
	_cleanup_(most_release) struct most m = {0};
	const struct graph *g = q->g;

	if (most_init(&m, q->limit, g->s.n_types) < 0)
		return answer_no_memory(q, err);
	for (uint32_t t = 0; t < g->s.n_types; t++) {
		if (census->count[t])
			most_add(&m, census->bytes[t], t);
	}
	most_sort(&m);
	answer_begin(q);
	fprintf(q->json, ", \"bytes\": %" PRIu64 ", \"holders\": [], \"types\": [", all_bytes(g));
	for (size_t i = 0; i < m.n; i++) {
		uint32_t t = m.items[i].item;

		fprintf(q->json, "%s{\"type\": ", answer_separator(i));
		answer_string(q->json, type_name(g, t));
		fprintf(q->json,
			", \"count\": %" PRIu64 ", \"bytes\": %" PRIu64
			", \"retained_bytes\": null, \"retained_objects\": null}",
			census->count[t], census->bytes[t]);
	}
	fputs("], \"unreachable\": null", q->json);
	return answer_end(q, err);
}

int ask_dominators(struct ask *q, struct err *err)
{
	const struct graph *g = q->g;
	_cleanup_(dominators_release) struct dominators d = {0};
	_cleanup_(census_release) struct census census = {0};
	_cleanup_(ways_release) struct ways w = {0};
	int rc = census_take(&census, g);

	if (rc < 0)
		return answer_no_memory(q, err);
	rc = ways_init(&w, q, err);
	if (rc == 0)
		rc = graph_index_referrers(q->g, err);
	answer_note(q, "finding what each object retains");
	if (rc == 0)
		rc = dominators_init(&d, &w.r, err);
	if (rc == -ETIME) {
		answer_cut(q, "dominators",
			"the time was up before it was known what each object retains: --deadline "
			"gives it more");
		return put_unfinished(q, &census, err);
	}
	if (rc < 0)
		return rc;
	answer_begin(q);
	fprintf(q->json, ", \"bytes\": %" PRIu64, all_bytes(g));
	rc = put_holders(q, &w, &d, g);
	if (rc == 0)
		rc = put_retained_types(q, &d, g, &census);
	if (rc < 0)
		return answer_no_memory(q, err);
	fprintf(q->json, ", \"unreachable\": {\"objects\": %u, \"bytes\": %" PRIu64 "}",
		g->n_nodes - (d.n - DOMINATORS_ROOT), all_bytes(g) - d.bytes[DOMINATORS_ROOT]);
	return answer_end(q, err);
}
