/* SPDX-License-Identifier: MIT */
#include "graph/ask.h"

#include <inttypes.h>

#include "graph/answer.h"
#include "graph/heapsnapshot.h"

/* For other tools. */
static int ask_export(struct ask *q, struct err *err)
{
	_cleanup_(ways_release) struct ways w = {0};
	struct heapsnapshot_totals t;
	int rc = ways_init(&w, q, err);

	answer_note(q, "writing the heap snapshot");
	if (rc == 0)
		rc = heapsnapshot_write(q->heap, &w.r, &t, err);
	if (rc < 0)
		return rc;
	answer_begin(q);
	fprintf(q->json, ", \"nodes\": %" PRIu64 ", \"edges\": %" PRIu64, t.nodes, t.edges);
	return answer_end(q, err);
}

int ask(struct ask *q, struct err *err)
{
	static int (*const questions[])(struct ask *q, struct err *err) = {
		[ASK_CHAIN] = ask_chain,
		[ASK_BACKREFS] = ask_web,
		[ASK_REFS] = ask_web,
		[ASK_TYPES] = ask_types,
		[ASK_INSTANCES] = ask_instances,
		[ASK_DIFF] = ask_diff,
		[ASK_DOMINATORS] = ask_dominators,
		[ASK_LEAKING] = ask_leaking,
		[ASK_CYCLES] = ask_cycles,
		[ASK_EXPORT] = ask_export,
	};

	return questions[q->verb](q, err);
}
