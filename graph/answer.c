/* SPDX-License-Identifier: MIT */
#include "graph/answer.h"

#include <inttypes.h>
#include <string.h>

#include "graph/text.h"

/* ---- JSON ---------------------------------------------------------------------------------- */

/* Strings of a snapshot are UTF-8 without control characters; names from elsewhere may not be. */
void answer_string(FILE *f, const char *s)
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

void answer_addr(FILE *f, uint64_t addr)
{
	fprintf(f, "\"0x%" PRIx64 "\"", addr);
}

void answer_meta(FILE *f, const char *key, const json_t *meta, const char *what)
{
	const json_t *v = json_object_get(meta, what);

	fprintf(f, "\"%s\": ", key);
	if (json_is_string(v))
		answer_string(f, json_string_value(v));
	else if (json_is_integer(v))
		fprintf(f, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
	else
		fputs("null", f);
}

void answer_begin(const struct ask *q)
{
	fputc('{', q->json);
	answer_meta(q->json, "at", q->meta, "at");
	fputs(", ", q->json);
	answer_meta(q->json, "pid", q->meta, "pid");
	fprintf(q->json, ", \"objects\": %u", q->g->n_nodes);
	/* Whoever reads a number should know that the heap was not read to its end. */
	if (json_is_object(json_object_get(q->meta, "truncated")))
		fputs(", \"partial\": true", q->json);
}

void answer_cut(struct ask *q, const char *level, const char *reason)
{
	if (q->cut_level)
		return;
	q->cut_level = level;
	q->cut_reason = reason;
}

/* What is missing: of the answer, because the time was up, or else of the heap. */
static void put_truncated(const struct ask *q)
{
	const json_t *t = json_object_get(q->meta, "truncated");

	fputs(", \"truncated\": ", q->json);
	if (q->cut_level) {
		fputs("{\"level\": ", q->json);
		answer_string(q->json, q->cut_level);
		fputs(", \"reason\": ", q->json);
		answer_string(q->json, q->cut_reason);
		fputc('}', q->json);
	} else if (json_is_object(t)) {
		fputc('{', q->json);
		answer_meta(q->json, "level", t, "level");
		fputs(", ", q->json);
		answer_meta(q->json, "reason", t, "reason");
		fputc('}', q->json);
	} else {
		fputs("null", q->json);
	}
}

int answer_end(const struct ask *q, struct err *err)
{
	put_truncated(q);
	fputs("}\n", q->json);
	if (fflush(q->json) != 0 || ferror(q->json))
		return err_set(err, -EIO, "cannot write the answer: %s", strerror(errno));
	return 0;
}

const char *answer_separator(uint64_t i)
{
	return i ? ",\n  " : "\n  ";
}

bool answer_within(const struct ask *q, uint64_t i)
{
	return !q->limit || i < q->limit;
}

void answer_note(const struct ask *q, const char *what)
{
	if (q->progress)
		q->progress(what);
}

int answer_no_memory(const struct ask *q, struct err *err)
{
	return err_set(err, -ENOMEM, "not enough memory to answer about %u objects", q->g->n_nodes);
}

void answer_object(FILE *f, const struct graph *g, uint32_t node)
{
	const struct snapshot_node *n = &g->s.nodes[node];

	fputs("\"addr\": ", f);
	answer_addr(f, n->addr);
	fputs(", \"type\": ", f);
	answer_string(f, graph_type_name(g, node));
	fprintf(f, ", \"bytes\": %" PRIu64 ", \"refcount\": ", n->bytes);
	if (n->flags & SNAPSHOT_NODE_IMMORTAL)
		fputs("null", f);
	else
		fprintf(f, "%" PRId64, n->refcount);
}

/* ---- what was asked for -------------------------------------------------------------------- */

static int mark_types(struct asked *a, struct err *err)
{
	_cleanup_(type_list_release) struct type_list l = {0};
	const struct ask *q = a->q;

	if (!q->n_types)
		return 0;
	for (size_t i = 0; i < q->n_types; i++) {
		int rc = types_named(
			&l, q->g, &a->census, q->types[i], SNAPSHOT_MAX_TYPES, err);

		if (rc < 0)
			return rc;
	}
	a->types = calloc(MAX(q->g->s.n_types, 1u), sizeof(*a->types));
	if (!a->types)
		return answer_no_memory(q, err);
	for (size_t i = 0; i < l.n; i++)
		a->types[l.types[i]] = true;
	return 0;
}

static int check_addrs(const struct ask *q, struct err *err)
{
	const struct graph *g = q->g;

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

int asked_init(struct asked *a, const struct ask *q, struct err *err)
{
	int rc;

	*a = (struct asked){.q = q};
	if (census_take(&a->census, q->g) < 0)
		return answer_no_memory(q, err);
	rc = mark_types(a, err);
	return rc < 0 ? rc : check_addrs(q, err);
}

void asked_release(struct asked *a)
{
	census_release(&a->census);
	free(a->types);
}

bool asked_addr(const struct asked *a, uint64_t addr)
{
	for (size_t i = 0; i < a->q->n_addrs; i++) {
		if (a->q->addrs[i] == addr)
			return true;
	}
	return false;
}

bool asked_node(const struct asked *a, uint32_t node)
{
	const struct graph *g = a->q->g;

	return (a->types && a->types[g->same_name[g->s.nodes[node].type]]) ||
	       asked_addr(a, g->s.nodes[node].addr);
}

/* ---- the search from the roots ------------------------------------------------------------- */

void ways_release(struct ways *w)
{
	paths_ctx_free(w->ctx);
	reach_release(&w->r);
}

int ways_init(struct ways *w, struct ask *q, struct err *err)
{
	int rc;

	answer_note(q, "searching from the roots");
	rc = reach_init(&w->r, q->g, err);
	if (rc == 0)
		rc = paths_ctx_new(&w->ctx, &w->r, err);
	if (w->r.cut)
		answer_cut(q, EXPLAIN_CUT_SEARCH);
	return rc;
}

/* "app.cache.SESSIONS", or what the object is called, or its type's short name. */
static char *label_of(struct ways *w, uint32_t node)
{
	const struct graph *g = w->r.g;
	char *name = explain_name(w->ctx, &w->r, node);

	if (name && !*name) {
		const char *own = graph_string(g, g->s.nodes[node].name);

		free(name);
		name = strdup(*own ? own : text_short_type(graph_type_name(g, node)));
	}
	return name;
}

int answer_label(FILE *f, struct ways *w, uint32_t node)
{
	_cleanup_free_ char *label = label_of(w, node);

	if (!label)
		return -ENOMEM;
	fputs(", \"label\": ", f);
	answer_string(f, label);
	return 0;
}
