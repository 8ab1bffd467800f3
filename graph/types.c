/* SPDX-License-Identifier: MIT */
#include "graph/types.h"

#include <string.h>

#include "graph/text.h"

#define LABEL_CHARS      80
#define DEFAULT_SUSPECTS 3
#define GLOB_MAX         512

void census_release(struct census *c)
{
	free(c->count);
	free(c->bytes);
	free(c->same);
}

int census_take(struct census *c, const struct graph *g)
{
	size_t n = MAX(g->s.n_types, 1u);

	*c = (struct census){.count = calloc(n, sizeof(*c->count)),
		.bytes = calloc(n, sizeof(*c->bytes)),
		.same = calloc(n, sizeof(*c->same))};
	if (!c->count || !c->bytes || !c->same)
		return -ENOMEM;
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		const struct snapshot_node *node = &g->s.nodes[i];

		c->count[node->type]++;
		c->bytes[node->type] += node->bytes;
		c->skipped += !!(node->flags & SNAPSHOT_NODE_SKIPPED);
	}
	/* The first type of a name comes before the others of that name. */
	for (uint32_t t = 0; t < g->s.n_types; t++) {
		uint32_t first = g->same_name[t];

		c->same[first] += c->count[t] > 0;
		if (first == t)
			continue;
		c->count[first] += c->count[t];
		c->bytes[first] += c->bytes[t];
		c->count[t] = c->bytes[t] = 0;
	}
	return 0;
}

void type_list_release(struct type_list *l)
{
	free(l->types);
	*l = (struct type_list){0};
}

/* * and ? only; never goes back further than the last *, so at most pattern × text steps. */
static bool glob_match(const char *p, const char *s)
{
	const char *star = NULL, *retry = NULL;

	while (*s) {
		if (*p == '*') {
			star = ++p;
			retry = s;
		} else if (*p == '?' || *p == *s) {
			p++;
			s++;
		} else if (star) {
			p = star;
			s = ++retry;
		} else {
			return false;
		}
	}
	while (*p == '*')
		p++;
	return !*p;
}

static bool ends_with_name(const char *type, const char *name)
{
	size_t t = strlen(type), n = strlen(name);

	return t > n + 1 && type[t - n - 1] == '.' && strcmp(type + t - n, name) == 0;
}

/* How far apart two names are: edits, upper and lower case being alike. Bounded inputs. */
#define NEAR_CHARS 64
static unsigned int distance(const char *a, const char *b)
{
	unsigned int row[NEAR_CHARS + 1], n = (unsigned int)strnlen(b, NEAR_CHARS), i = 1;

	for (unsigned int k = 0; k <= n; k++)
		row[k] = k;
	for (; *a && i <= NEAR_CHARS; a++, i++) {
		unsigned int diagonal = row[0];

		row[0] = i;
		for (unsigned int k = 1; k <= n; k++) {
			unsigned int change = diagonal + ((*a | 0x20) != (b[k - 1] | 0x20));

			diagonal = row[k];
			row[k] = MIN(change, MIN(row[k], row[k - 1]) + 1);
		}
	}
	return row[n];
}

struct near {
	uint32_t type;
	unsigned int distance;
	uint64_t count;
};

static int nearest_first(const void *a, const void *b)
{
	const struct near *s = a, *t = b;

	if (s->distance != t->distance)
		return s->distance < t->distance ? -1 : 1;
	if (s->count != t->count)
		return s->count > t->count ? -1 : 1;
	return s->type < t->type ? -1 : s->type > t->type;
}

#define LISTED 5

/* "a, b, c and 4 more" in order. */
static char *list_types(const struct graph *g, const struct near *near, size_t n, bool all)
{
	_cleanup_free_ char *text = strdup("");

	for (size_t i = 0; text && i < MIN(n, (size_t)LISTED); i++) {
		_cleanup_free_ char *name = text_elide(type_name(g, near[i].type), LABEL_CHARS);
		char *more = name ? text_format("%s%s%s", text, i ? ", " : "", name) : NULL;

		free(text);
		text = more;
	}
	if (text && all && n > LISTED) {
		char *more = text_format("%s and %zu more", text, n - LISTED);

		free(text);
		text = more;
	}
	return TAKE_PTR(text);
}

static int no_such_type(
	const struct graph *g, const struct census *c, const char *wanted, struct err *err)
{
	_cleanup_free_ struct near *near = malloc(MAX(g->s.n_types, 1u) * sizeof(*near));
	_cleanup_free_ char *list = NULL;
	const char *wanted_short = text_short_type(wanted);
	size_t n = 0;

	if (!near)
		return -ENOMEM;
	for (uint32_t t = 0; t < g->s.n_types; t++) {
		unsigned int d, whole;

		if (!c->count[t])
			continue;
		d = distance(wanted_short, text_short_type(type_name(g, t)));
		whole = distance(wanted, type_name(g, t));
		d = MIN(d, whole);
		if (d <= MAX(strlen(wanted_short) / 3, (size_t)2) ||
			strcasestr(type_name(g, t), wanted_short))
			near[n++] = (struct near){.type = t, .distance = d, .count = c->count[t]};
	}
	qsort(near, n, sizeof(*near), nearest_first);
	list = list_types(g, near, n, false);
	if (!list)
		return -ENOMEM;
	return err_set(err, -ENOENT, "no objects of a type named '%.100s' in this dump; %s%s",
		wanted, n ? "near it: " : "`pyleakctl top` lists those of the process", list);
}

static int add(struct type_list *l, uint32_t type)
{
	uint32_t *more;

	for (size_t i = 0; i < l->n; i++) {
		if (l->types[i] == type)
			return 0;
	}
	more = realloc(l->types, (l->n + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	more[l->n++] = type;
	l->types = more;
	return 0;
}

int types_named(struct type_list *l, const struct graph *g, const struct census *c,
	const char *wanted, size_t max, struct err *err)
{
	_cleanup_free_ struct near *found = NULL;
	bool is_glob = strpbrk(wanted, "*?") != NULL;
	size_t n = 0;

	if (strlen(wanted) > GLOB_MAX)
		return err_set(err, -ENOENT, "a type's name of more than %d characters", GLOB_MAX);
	for (uint32_t t = 0; !is_glob && t < g->s.n_types; t++) {
		if (g->same_name[t] == t && strcmp(type_name(g, t), wanted) == 0)
			return l->n < max ? add(l, t) : (l->left_out++, 0);
	}
	found = malloc(MAX(g->s.n_types, 1u) * sizeof(*found));
	if (!found)
		return -ENOMEM;
	for (uint32_t t = 0; t < g->s.n_types; t++) {
		const char *name = type_name(g, t);

		if (g->same_name[t] == t && c->count[t] &&
			(is_glob ? glob_match(wanted, name) : ends_with_name(name, wanted)))
			found[n++] = (struct near){.type = t, .count = c->count[t]};
	}
	qsort(found, n, sizeof(*found), nearest_first);
	if (!n)
		return no_such_type(g, c, wanted, err);
	if (!is_glob && n > 1) {
		_cleanup_free_ char *list = list_types(g, found, n, true);

		return list ? err_set(err, -ENOENT,
				      "'%.100s' is the short name of %zu types: %s; give the whole "
				      "name",
				      wanted, n, list)
			    : -ENOMEM;
	}
	for (size_t i = 0; i < n; i++) {
		int rc;

		if (l->n >= max) {
			l->left_out += n - i;
			break;
		}
		rc = add(l, found[i].type);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/*
 * Classes of which every program has instances just by importing things; they are named only when
 * the program has none of its own. A module whose name begins with an underscore is, by
 * convention, the inside of another one.
 */
static bool is_background(const char *type)
{
	static const char *const modules[] = {"abc", "codecs", "collections", "contextlib",
		"dataclasses", "enum", "functools", "importlib", "inspect", "io", "logging", "os",
		"re", "signal", "socket", "sre_compile", "sre_constants", "sre_parse", "ssl",
		"string", "threading", "types", "typing", "weakref"};

	if (*type == '_' && strncmp(type, "__main__.", 9) != 0)
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(modules); i++) {
		size_t n = strlen(modules[i]);

		if (strncmp(type, modules[i], n) == 0 && type[n] == '.')
			return true;
	}
	return false;
}

int types_suspected(struct type_list *l, const struct graph *g, const struct census *c)
{
	_cleanup_free_ struct near *own = malloc(MAX(g->s.n_types, 1u) * sizeof(*own));
	size_t n = 0;

	if (!own)
		return -ENOMEM;
	for (uint32_t t = 0; t < g->s.n_types; t++) {
		const char *name = type_name(g, t);
		bool heap = g->s.types[t].flags & SNAPSHOT_TYPE_IS_HEAP;

		if (g->same_name[t] == t && c->count[t])
			own[n++] = (struct near){.type = t,
				.distance = !heap || !strchr(name, '.') ? 2 : is_background(name),
				.count = c->count[t]};
	}
	qsort(own, n, sizeof(*own), nearest_first);
	for (size_t i = 0; i < MIN(n, (size_t)DEFAULT_SUSPECTS); i++) {
		int rc;

		/* Thousands of its own and a dict, or two of something: nobody's suspects. */
		if (i && (own[i].distance > own[0].distance || own[i].count < own[0].count / 100))
			break;
		rc = add(l, own[i].type);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int most_first(const void *a, const void *b)
{
	const struct near *s = a, *t = b;

	if (s->count != t->count)
		return s->count > t->count ? -1 : 1;
	return s->type < t->type ? -1 : s->type > t->type;
}

int types_all(struct type_list *l, const struct graph *g, const struct census *c)
{
	_cleanup_free_ struct near *all = malloc(MAX(g->s.n_types, 1u) * sizeof(*all));
	size_t n = 0;

	free(l->types);
	*l = (struct type_list){.types = malloc(MAX(g->s.n_types, 1u) * sizeof(*l->types))};
	if (!all || !l->types)
		return -ENOMEM;
	for (uint32_t t = 0; t < g->s.n_types; t++) {
		if (c->count[t])
			all[n++] = (struct near){.type = t, .count = c->count[t]};
	}
	qsort(all, n, sizeof(*all), most_first);
	for (; l->n < n; l->n++)
		l->types[l->n] = all[l->n].type;
	return 0;
}
