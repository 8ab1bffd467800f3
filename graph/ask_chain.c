/* SPDX-License-Identifier: MIT */
#include "graph/answer.h"

#include <inttypes.h>
#include <string.h>

#include "graph/render.h"
#include "graph/report.h"
#include "graph/text.h"

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

static int put_chain(const struct ask *q, const struct explanation *x)
{
	json_t *nodes = json_object(), *edges = json_object(), *out = NULL;
	struct explain_document doc = {.meta = q->meta};
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

int ask_chain(struct ask *q, struct err *err)
{
	const struct graph *g = q->g;
	_cleanup_(explanation_release) struct explanation x = {0};
	struct explain_options o = {.types = q->types,
		.n_types = q->n_types,
		.addrs = q->addrs,
		.n_addrs = q->n_addrs,
		.max_paths = q->too_many,
		.max_steps = q->max_depth,
		.max_holders = q->x ? EXPLAIN_HOLDERS : 0,
		.partial = json_is_object(json_object_get(q->meta, "truncated"))};
	_cleanup_free_ char *caption = report_caption(q->meta);
	int rc;

	answer_note(q, "searching from the roots");
	rc = o.max_holders ? graph_index_referrers(q->g, err) : 0;
	if (rc == 0)
		rc = explain(&x, g, &o, err);
	if (rc < 0)
		return rc;
	rc = put_chain(q, &x);
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
