/* SPDX-License-Identifier: MIT */
#include "graph/answer.h"

#include <inttypes.h>

int ask_types(struct ask *q, struct err *err)
{
	const struct graph *g = q->g;
	_cleanup_(type_list_release) struct type_list all = {0};
	_cleanup_(asked_release) struct asked asked = {0};
	const struct census *census = &asked.census;
	uint64_t n = 0, total = 0, bytes = 0;
	int rc = asked_init(&asked, q, err);

	if (rc < 0)
		return rc;
	if (types_all(&all, g, census) < 0)
		return answer_no_memory(q, err);
	answer_begin(q);
	fputs(", \"types\": [", q->json);
	for (size_t i = 0; i < all.n; i++) {
		uint32_t t = all.types[i];

		bytes += census->bytes[t];
		if (asked.types && !asked.types[t])
			continue;
		total++;
		if (!answer_within(q, n))
			continue;
		fprintf(q->json, "%s{\"type\": ", answer_separator(n++));
		answer_string(q->json, type_name(g, t));
		fprintf(q->json, ", \"count\": %" PRIu64 ", \"bytes\": %" PRIu64, census->count[t],
			census->bytes[t]);
		if (census->same[t] > 1)
			fprintf(q->json, ", \"types\": %u", census->same[t]);
		fputc('}', q->json);
	}
	fprintf(q->json, "], \"total\": %" PRIu64 ", \"bytes\": %" PRIu64, total, bytes);
	return answer_end(q, err);
}

int ask_instances(struct ask *q, struct err *err)
{
	const struct graph *g = q->g;
	_cleanup_(asked_release) struct asked asked = {0};
	uint64_t n = 0, total = 0;
	int rc = asked_init(&asked, q, err);

	if (rc < 0)
		return rc;
	answer_begin(q);
	fputs(", \"instances\": [", q->json);
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		if (!asked_node(&asked, i))
			continue;
		total++;
		if (!answer_within(q, n))
			continue;
		fprintf(q->json, "%s{", answer_separator(n++));
		answer_object(q->json, g, i);
		fputc('}', q->json);
	}
	fprintf(q->json, "], \"total\": %" PRIu64, total);
	return answer_end(q, err);
}
