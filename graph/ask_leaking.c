/* SPDX-License-Identifier: MIT */
/* What C code holds. */
#include "graph/answer.h"

#include <inttypes.h>

#include "graph/most.h"

static uint64_t referrers(const struct graph *g, uint32_t node)
{
	return g->in_first[node + 1] - g->in_first[node];
}

int ask_leaking(struct ask *q, struct err *err)
{
	const struct graph *g = q->g;
	_cleanup_(ways_release) struct ways w = {0};
	_cleanup_free_ uint64_t *count = calloc(MAX(g->s.n_types, 1u), sizeof(*count));
	_cleanup_free_ uint64_t *size = calloc(MAX(g->s.n_types, 1u), sizeof(*size));
	_cleanup_(most_release) struct most m = {0};
	uint64_t n = 0, total = 0, unreachable = 0, bytes = 0;
	int rc;

	if (!count || !size)
		return answer_no_memory(q, err);
	rc = ways_init(&w, q, err);
	if (rc == 0)
		rc = graph_index_referrers(q->g, err);
	if (rc < 0)
		return rc;
	answer_begin(q);
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
		if (!answer_within(q, n))
			continue;
		explained = (int64_t)referrers(g, v);
		fprintf(q->json, "%s{", answer_separator(n++));
		answer_object(q->json, g, v);
		fprintf(q->json, ", \"unexplained\": %" PRId64 ", \"holder\": ",
			MAX(g->s.nodes[v].refcount - explained, (int64_t)1));
		answer_string(q->json,
			explain_root_name(g, PATH_C_REFERENCE, w.r.sources[i].name));
		fputc('}', q->json);
	}
	if (w.r.cut) {
		fputs("], \"total\": null, \"types\": [], \"unreachable\": null", q->json);
		return answer_end(q, err);
	}
	fprintf(q->json, "], \"total\": %" PRIu64 ", \"types\": [", total);
	if (most_init(&m, q->limit, g->s.n_types) < 0)
		return answer_no_memory(q, err);
	for (uint32_t t = 0; t < g->s.n_types; t++) {
		if (count[t])
			most_add(&m, count[t], t);
	}
	most_sort(&m);
	for (size_t i = 0; i < m.n; i++) {
		fprintf(q->json, "%s{\"type\": ", answer_separator(i));
		answer_string(q->json, type_name(g, m.items[i].item));
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
	return answer_end(q, err);
}
