/* SPDX-License-Identifier: MIT */
/* One node of the document, and mappings and lists of them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config/loader.h"

yaml_node_t *get_node(struct loader *l, int index)
{
	if (++l->visits > VISITS_MAX)
		return NULL;
	return yaml_document_get_node(l->document, index);
}

bool is_null(const yaml_node_t *n)
{
	static const char *const words[] = {"", "~", "null", "Null", "NULL"};

	if (n->type != YAML_SCALAR_NODE || n->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (!strcmp((const char *)n->data.scalar.value, words[i]))
			return true;
	return false;
}

const char *kind_of(const yaml_node_t *n)
{
	switch (n->type) {
	case YAML_MAPPING_NODE:
		return "a mapping";
	case YAML_SEQUENCE_NODE:
		return "a list";
	default:
		return is_null(n) ? "nothing" : "a single value";
	}
}

/* The text of a scalar; NULL and an error for anything else. `wanted` says what belongs there. */
const char *read_scalar(struct loader *l, const yaml_node_t *n, const char *wanted)
{
	const char *text;

	if (n->type != YAML_SCALAR_NODE || is_null(n)) {
		error_node(l, n, "this is %s, it takes %s", kind_of(n), wanted);
		return NULL;
	}
	if (n->tag && strcmp((const char *)n->tag, YAML_STR_TAG)) {
		error_node(l, n, "tags are not allowed, write just the value, %s", wanted);
		return NULL;
	}
	text = (const char *)n->data.scalar.value;
	if (strlen(text) != n->data.scalar.length) {
		error_node(l, n, "a NUL character is not allowed, it takes %s", wanted);
		return NULL;
	}
	if (n->data.scalar.length > TEXT_MAX) {
		error_node(l, n, "%zu bytes are too long, allowed are %d", n->data.scalar.length,
			TEXT_MAX);
		return NULL;
	}
	return text;
}

void copy_text(struct loader *l, char **dest, const char *text)
{
	char *copy = strdup(text);

	if (!copy) {
		l->out_of_memory = true;
		return;
	}
	free(*dest);
	*dest = copy;
}

bool read_value(struct loader *l, const yaml_node_t *n, const struct value_spec *spec, void *dest)
{
	const char *text = read_scalar(l, n, value_wanted(spec));
	char msg[SCHEMA_MSG_MAX];

	if (!text)
		return false;
	if ((spec->type == VALUE_NUMBER || spec->type == VALUE_COUNT) &&
		n->data.scalar.style != YAML_PLAIN_SCALAR_STYLE) {
		error_node(
			l, n, "this is a string, it takes %s, without quotes", value_wanted(spec));
		return false;
	}
	if (value_parse(spec, text, dest, msg)) {
		error_node(l, n, "%s", msg);
		return false;
	}
	return true;
}

void read_bool(struct loader *l, const yaml_node_t *n, bool *dest)
{
	const char *text = read_scalar(l, n, "true or false");

	if (!text)
		return;
	if (n->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		error_node(l, n, "this is a string, it takes true or false, without quotes");
	else if (!strcmp(text, "true") || !strcmp(text, "false"))
		*dest = text[0] == 't';
	else
		error_node(l, n, "'%.32s' is not understood, it takes true or false", text);
}

/* What is wrong with a glob, or NULL. fnmatch() takes a '[' without an end for a letter, and the
 * pattern then silently matches nothing. */
static const char *glob_fault(const char *glob)
{
	if (!*glob)
		return "is empty and matches nothing, leave the key out or write \"*\"";
	for (const char *p = glob; *p; p++) {
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return "has a control character in it, allowed is text with *, ? and [...]";
		if (*p == '\\' && !*++p)
			return "ends in a lone backslash, write \\\\ for one";
		if (*p == '[') {
			const char *end = p + 1;

			if (*end == '!' || *end == '^')
				end++;
			if (*end == ']')
				end++;
			while (*end && *end != ']') {
				if (*end == '\\' && end[1])
					end++;
				end++;
			}
			if (!*end)
				return "has a '[' without ']', write \\[ for the letter";
			p = end;
		}
	}
	return NULL;
}

bool read_glob(struct loader *l, const yaml_node_t *n, char **dest)
{
	const char *text = read_scalar(l, n, "a glob, text with *, ? and [...]"), *fault;

	if (!text)
		return false;
	fault = glob_fault(text);
	if (fault) {
		error_node(l, n, "the glob '%.64s' %s", text, fault);
		return false;
	}
	copy_text(l, dest, text);
	return true;
}

/* ---- mappings and lists --------------------------------------------------------------------- */

void read_mapping(struct loader *l, const yaml_node_t *n, const struct key *keys, size_t n_keys,
	void *object, struct place *given)
{
	const char *names[KEYS_MAX];
	struct place at[KEYS_MAX] = {0};
	char list[256];

	for (size_t i = 0; i < n_keys; i++)
		names[i] = keys[i].name;
	if (n->type != YAML_MAPPING_NODE) {
		error_node(l, n, "this is %s, it takes a mapping with the keys %s", kind_of(n),
			list_names(list, sizeof(list), names, n_keys));
		return;
	}
	for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top;
		p++) {
		yaml_node_t *k = get_node(l, p->key), *v = get_node(l, p->value);
		const char *name;
		size_t i = 0, mark;

		if (!k || !v)
			return;
		name = read_scalar(l, k, "the name of a key");
		if (!name)
			continue;
		while (i < n_keys && strcmp(name, names[i]))
			i++;
		if (i == n_keys) {
			unknown_name(l, k, "key", name, names, n_keys);
			continue;
		}
		mark = where_enter(l, "%s%s", l->where[0] ? "." : "", name);
		if (at[i].source) {
			error_node(l, k, "given twice, the first time in line %zu; keep one",
				at[i].line + 1);
		} else {
			at[i] = place_of(l, k);
			keys[i].read(l, v, object, keys[i].arg);
		}
		where_leave(l, mark);
	}
	for (size_t i = 0; i < n_keys; i++) {
		if (keys[i].required && !at[i].source && !l->partial)
			error_node(l, n, "'%s' is missing", keys[i].name);
		if (given)
			given[i] = at[i];
	}
}

void read_list(struct loader *l, const yaml_node_t *v, const char *of,
	bool (*read)(struct loader *l, const yaml_node_t *member, void *object), void *object)
{
	if (v->type != YAML_SEQUENCE_NODE) {
		error_node(l, v, "this is %s, it takes a list of %s", kind_of(v), of);
		return;
	}
	for (yaml_node_item_t *i = v->data.sequence.items.start; i < v->data.sequence.items.top;
		i++) {
		yaml_node_t *n = get_node(l, *i);
		size_t mark;
		bool more;

		if (!n)
			return;
		mark = where_enter(l, "[%zu]", (size_t)(i - v->data.sequence.items.start));
		more = read(l, n, object);
		where_leave(l, mark);
		if (!more)
			return;
	}
}

bool is_empty_list(const yaml_node_t *v)
{
	return v->type == YAML_SEQUENCE_NODE &&
	       v->data.sequence.items.start == v->data.sequence.items.top;
}

int list_append(struct loader *l, void **array, size_t n, size_t size, const void *member,
	struct place **places, const struct place *place)
{
	void *a = reallocarray(*array, n + 1, size);
	struct place *p;

	if (a)
		*array = a;
	p = reallocarray(*places, n + 1, sizeof(**places));
	if (p)
		*places = p;
	if (!a || !p) {
		l->out_of_memory = true;
		return -ENOMEM;
	}
	memcpy((char *)a + n * size, member, size);
	p[n] = *place;
	return 0;
}
