/* SPDX-License-Identifier: MIT */
#include "graph/answer.h"

#include <inttypes.h>

#include "graph/cycles.h"

#define CYCLE_OBJECTS 8 /* of each that are named */

static void put_cycle(
	const struct ask *q, const struct graph *g, const struct cycles *all, const struct cycle *c)
{
	fprintf(q->json, "{\"objects\": %u, \"bytes\": %" PRIu64 ", \"members\": [", c->n, c->bytes);
	for (uint32_t i = 0; i < MIN(c->n, (uint32_t)CYCLE_OBJECTS); i++) {
		fputs(i ? ", {" : "{", q->json);
		answer_object(q->json, g, all->nodes[c->first + i]);
		fputc('}', q->json);
	}
	fputs("]}", q->json);
}

int ask_cycles(struct ask *q, struct err *err)
{
	const struct graph *g = q->g;
	_cleanup_(cycles_release) struct cycles c = {0};
	_cleanup_(asked_release) struct asked asked = {0};
	_cleanup_(reach_release) struct reach r = {0};
	uint64_t n = 0, total = 0;
	int rc = asked_init(&asked, q, err);

	answer_note(q, "searching from the roots");
	if (rc == 0)
		rc = reach_init(&r, g, err);
	if (rc == 0)
		rc = cycles_find(&c, &r, err);
	if (rc < 0)
		return rc;
	if (c.cut)
		answer_cut(q, "cycles",
			"the time was up before all cycles were found: ask with a longer --deadline");
	answer_begin(q);
	fputs(", \"cycles\": [", q->json);
	for (uint32_t i = 0; i < c.n_cycles; i++) {
		bool wanted = !asked.types;

		for (uint32_t k = 0; k < c.cycles[i].n && !wanted; k++)
			wanted = asked_node(&asked, c.nodes[c.cycles[i].first + k]);
		if (!wanted)
			continue;
		total++;
		if (!answer_within(q, n))
			continue;
		fputs(answer_separator(n++), q->json);
		put_cycle(q, g, &c, &c.cycles[i]);
	}
	if (c.cut)
		fputs("], \"total\": null", q->json);
	else
		fprintf(q->json, "], \"total\": %" PRIu64, total);
	return answer_end(q, err);
}
