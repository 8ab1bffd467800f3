/* SPDX-License-Identifier: MIT */
/* What refers to objects, and what they refer to: backrefs and refs. */
#include "graph/answer.h"

#include <inttypes.h>

#include "graph/render.h"
#include "graph/report.h"
#include "graph/text.h"
#include "graph/web.h"

/* At most too_many of the objects that were asked for, from all ages. */
static int choose_starts(
	const struct ask *q, uint32_t **ret, size_t *ret_n, uint64_t *ret_all, struct err *err)
{
	_cleanup_(asked_release) struct asked asked = {0};
	const struct graph *g = q->g;
	_cleanup_free_ uint32_t *starts = NULL;
	uint64_t all = 0, seen = 0;
	size_t n = 0, max = MAX(MIN((size_t)q->too_many, (size_t)WEB_NODES_MAX / 2), q->n_addrs);
	int rc = asked_init(&asked, q, err);

	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < g->n_nodes; i++)
		all += asked_node(&asked, i);
	max = (size_t)MIN((uint64_t)max, all);
	starts = malloc(MAX(max, (size_t)1) * sizeof(*starts));
	if (!starts)
		return answer_no_memory(q, err);
	for (uint32_t i = 0; i < g->n_nodes && n < max; i++) {
		if (!asked_node(&asked, i))
			continue;
		if (asked_addr(&asked, g->s.nodes[i].addr) || seen * max >= n * all)
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
	answer_addr(q->json, g->s.nodes[n->node].addr);
	fputs(", ", q->json);
	answer_object(q->json, g, n->node);
	fputs(", \"label\": ", q->json);
	answer_string(q->json, n->label);
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

	answer_string(f, id ? id : "?");
}

static void put_web(const struct ask *q, const struct graph *g, const struct web *w)
{
	uint64_t n = 0;

	fputs(", \"nodes\": [", q->json);
	for (uint32_t i = 0; i < w->n_nodes; i++) {
		fprintf(q->json, "%s{", answer_separator(n++));
		put_web_node(q, g, &w->nodes[i]);
	}
	for (uint32_t i = 0; i < w->n_roots; i++) {
		const struct web_root *r = &w->roots[i];
		bool again = false;

		for (uint32_t k = 0; k < i && !again; k++)
			again = w->roots[k].kind == r->kind && w->roots[k].name == r->name;
		if (again)
			continue;
		fprintf(q->json, "%s{\"id\": ", answer_separator(n++));
		put_root_id(q->json, g, r);
		fputs(", \"addr\": null, \"type\": null, \"label\": ", q->json);
		answer_string(q->json,
			explain_root_name(g, r->kind, r->name));
		fprintf(q->json, ", \"root\": \"%s\"}", explain_root_kind(r->kind));
	}
	fputs("], \"edges\": [", q->json);
	n = 0;
	for (uint32_t i = 0; i < w->n_edges; i++) {
		const struct web_edge *e = &w->edges[i];

		fprintf(q->json, "%s{\"from\": ", answer_separator(n++));
		answer_addr(q->json, g->s.nodes[w->nodes[e->from].node].addr);
		fputs(", \"to\": ", q->json);
		answer_addr(q->json, g->s.nodes[w->nodes[e->to].node].addr);
		fputs(", \"label\": ", q->json);
		answer_string(q->json, e->label);
		fputc('}', q->json);
	}
	for (uint32_t i = 0; i < w->n_roots; i++) {
		fprintf(q->json, "%s{\"from\": ", answer_separator(n++));
		put_root_id(q->json, g, &w->roots[i]);
		fputs(", \"to\": ", q->json);
		answer_addr(q->json, g->s.nodes[w->nodes[w->roots[i].to].node].addr);
		fputs(", \"label\": ", q->json);
		answer_string(q->json, w->roots[i].label);
		fputc('}', q->json);
	}
	fputc(']', q->json);
}

int ask_web(struct ask *q, struct err *err)
{
	const struct graph *g = q->g;
	struct web_options o = {.backwards = q->verb == ASK_BACKREFS,
		.max_depth = q->max_depth,
		.too_many = q->too_many,
		.max_nodes = q->drawn ? RENDER_NODES_MAX : WEB_NODES_MAX};
	_cleanup_free_ char *caption = report_caption(q->meta);
	_cleanup_free_ uint32_t *starts = NULL;
	_cleanup_(ways_release) struct ways w = {0};
	_cleanup_(web_release) struct web web = {0};
	uint64_t all = 0;
	size_t n = 0;
	int rc = choose_starts(q, &starts, &n, &all, err);

	if (rc == 0)
		rc = ways_init(&w, q, err);
	if (rc == 0)
		rc = graph_index_referrers(q->g, err);
	if (rc == 0)
		rc = web_init(&web, w.ctx, &w.r, starts, n, &o, err);
	if (rc < 0)
		return rc;
	if (web.late)
		answer_cut(q, "neighbours",
			"the time was up before all neighbours were found: ask with a longer --deadline");
	if (web.cut)
		answer_cut(q, "neighbours",
			"there are too many: ask with a smaller --max-depth or --too-many");
	answer_begin(q);
	fprintf(q->json, ", \"backwards\": %s, \"asked\": %" PRIu64 ", \"shown\": %zu",
		o.backwards ? "true" : "false", all, n);
	put_web(q, g, &web);
	rc = answer_end(q, err);
	if (rc == 0 && q->dot)
		rc = render_web(q->dot, g, &web, caption, &q->nodes, err);
	return rc;
}
