/* SPDX-License-Identifier: MIT */
/* Reading: libyaml makes a document, tables of keys walk it. */
#include "daemon/config/config.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>

#include "daemon/config/config_private.h"
#include "daemon/config/schema.h"
#include "daemon/config/source.h"
#include "daemon/track/track.h"
#include "daemon/util/address.h"
#include "daemon/util/units.h"

#define DROP_INS_MAX 256
#define BENIGN       "benign.yaml"
#define METRICS_LISTEN "127.0.0.1:9477"
#define ERRORS_MAX   100   /* told; the rest is counted */
#define VISITS_MAX   20000 /* nodes looked at in a file: aliases make a small file endless */
#define DEPTH_MAX    64
#define PATH_TEXT    128
#define MSG_MAX      512
#define COMM_MAX     15 /* TASK_COMM_LEN without its NUL */

const struct match_key match_keys[N_MATCH_KEYS] = {
	{"comm", offsetof(struct config_rule, comm)},
	{"exe", offsetof(struct config_rule, exe)},
	{"cmdline", offsetof(struct config_rule, cmdline)},
	{"user", offsetof(struct config_rule, user)},
	{"unit", offsetof(struct config_rule, unit)},
};

const struct action_name action_names[N_ACTIONS] = {
	{"dump", ACTION_DUMP, true},
	{"exec", ACTION_EXEC, false},
	{"webhook", ACTION_WEBHOOK, false},
	{"alertmanager", ACTION_ALERTMANAGER, false},
};

static const char *const output_names[] = {"metrics", "journal", "webhook", "alertmanager", "exec"};

struct loader {
	struct config *config;
	FILE *diag;
	struct source *sources[DROP_INS_MAX + 2]; /* kept: warnings at the end show their lines */
	size_t n_sources;

	const struct source *source; /* the file being read */
	yaml_document_t *document;
	unsigned visits;
	bool benign;  /* it is benign.yaml */
	bool partial; /* only what stands before a syntax error: what is missing may follow it */
	bool out_of_memory;
	char where[PATH_TEXT];      /* "triggers[0].when" */
	unsigned conditions, depth; /* of the `when` being read */

	unsigned errors, warnings;
	char first_error[MSG_MAX];

	struct place set_at[N_SETTINGS];
	struct place *rule_at, *trigger_at, *suppress_at; /* of config->rules, ->triggers, ->suppress */
	struct place catch_all;             /* a rule that fits every process */
	bool unreachable_told;
};

/* ---- what is said --------------------------------------------------------------------------- */

/* Text out of the file goes into messages: nothing in it may move a terminal's cursor, and a
 * character that was cut in two is not one. */
static void sanitize(char *s)
{
	while (*s) {
		unsigned char c = (unsigned char)*s;
		size_t n = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc2 ? 2 : 1, i = 1;

		while (i < n && ((unsigned char)s[i] & 0xc0) == 0x80)
			i++;
		if (c < 0x20 || c == 0x7f || (c >= 0x80 && c < 0xc2) || i < n ||
			(c == 0xc2 && (unsigned char)s[1] < 0xa0)) {
			memset(s, '?', i);
		}
		s += i;
	}
}

static void vreport(
	struct loader *l, const struct place *p, bool warning, const char *fmt, va_list ap)
{
	char text[MSG_MAX], *out = text;

	if (warning ? l->warnings++ >= ERRORS_MAX : l->errors++ >= ERRORS_MAX)
		return;
	if (warning)
		out = stpcpy(out, "warning: ");
	if (l->where[0])
		out += snprintf(out, sizeof(text) - (size_t)(out - text), "%s: ", l->where);
	vsnprintf(out, sizeof(text) - (size_t)(out - text), fmt, ap);
	sanitize(text);
	if (!warning && l->errors == 1)
		snprintf(l->first_error, sizeof(l->first_error), "%s:%zu:%zu: %s", p->source->path,
			p->line + 1, p->column + 1, text);
	if (l->diag)
		source_report(l->diag, p, text);
}

static void _printf_(3, 4) error_at(struct loader *l, const struct place *p, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vreport(l, p, false, fmt, ap);
	va_end(ap);
}

static void _printf_(3, 4) warning_at(struct loader *l, const struct place *p, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vreport(l, p, true, fmt, ap);
	va_end(ap);
}

static struct place place_of_mark(const struct loader *l, const yaml_mark_t *m)
{
	return (struct place){.source = l->source, .line = m->line, .column = m->column};
}

static struct place place_of(const struct loader *l, const yaml_node_t *n)
{
	return place_of_mark(l, &n->start_mark);
}

static void _printf_(3, 4) error_node(struct loader *l, const yaml_node_t *n, const char *fmt, ...)
{
	struct place p = place_of(l, n);
	va_list ap;

	va_start(ap, fmt);
	vreport(l, &p, false, fmt, ap);
	va_end(ap);
}

/* Adds to l->where until the caller cuts it back to what is returned. */
static size_t _printf_(2, 3) enter(struct loader *l, const char *fmt, ...)
{
	size_t n = strlen(l->where);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(l->where + n, sizeof(l->where) - n, fmt, ap);
	va_end(ap);
	return n;
}

static void leave(struct loader *l, size_t n)
{
	l->where[n] = '\0';
}

/* Damerau-free edit distance, for names of up to 31 bytes; larger than that counts as far off. */
static unsigned distance(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b);
	unsigned row[32];

	if (la > 31 || lb > 31)
		return UINT_MAX;
	for (size_t j = 0; j <= lb; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned diagonal = row[0];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned above = row[j], cost = tolower((unsigned char)a[i - 1]) !=
							tolower((unsigned char)b[j - 1]);

			row[j] = MIN(MIN(above, row[j - 1]) + 1, diagonal + cost);
			diagonal = above;
		}
	}
	return row[lb];
}

/* The nearest of names within a third of its length, or NULL. */
static const char *nearest(const char *text, const char *const *names, size_t n)
{
	const char *best = NULL;
	unsigned best_distance = UINT_MAX;

	for (size_t i = 0; i < n; i++) {
		unsigned d = distance(text, names[i]);

		if (d <= MAX(strlen(names[i]) / 3, 1) && d < best_distance) {
			best = names[i];
			best_distance = d;
		}
	}
	return best;
}

static const char *list_names(char *buf, size_t size, const char *const *names, size_t n)
{
	size_t at = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < n && at < size; i++)
		at += (size_t)snprintf(buf + at, size - at, "%s%s", i ? ", " : "", names[i]);
	return buf;
}

static void unknown_name(struct loader *l, const yaml_node_t *n, const char *what, const char *text,
	const char *const *names, size_t n_names)
{
	const char *meant = nearest(text, names, n_names);
	char list[256];

	list_names(list, sizeof(list), names, n_names);
	if (meant)
		error_node(l, n, "unknown %s '%.64s', did you mean '%s'? Allowed are %s", what,
			text, meant, list);
	else
		error_node(l, n, "unknown %s '%.64s', allowed are %s", what, text, list);
}

/* ---- nodes ---------------------------------------------------------------------------------- */

static yaml_node_t *get_node(struct loader *l, int index)
{
	if (++l->visits > VISITS_MAX)
		return NULL;
	return yaml_document_get_node(l->document, index);
}

static bool is_null(const yaml_node_t *n)
{
	static const char *const words[] = {"", "~", "null", "Null", "NULL"};

	if (n->type != YAML_SCALAR_NODE || n->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (!strcmp((const char *)n->data.scalar.value, words[i]))
			return true;
	return false;
}

static const char *kind_of(const yaml_node_t *n)
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
static const char *scalar(struct loader *l, const yaml_node_t *n, const char *wanted)
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

static void copy_text(struct loader *l, char **dest, const char *text)
{
	char *copy = strdup(text);

	if (!copy) {
		l->out_of_memory = true;
		return;
	}
	free(*dest);
	*dest = copy;
}

static bool read_value(
	struct loader *l, const yaml_node_t *n, const struct value_spec *spec, void *dest)
{
	const char *text = scalar(l, n, value_wanted(spec));
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

static void read_bool(struct loader *l, const yaml_node_t *n, bool *dest)
{
	const char *text = scalar(l, n, "true or false");

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

static bool read_glob(struct loader *l, const yaml_node_t *n, char **dest)
{
	const char *text = scalar(l, n, "a glob, text with *, ? and [...]"), *fault;

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

/* ---- mappings by tables --------------------------------------------------------------------- */

struct key {
	const char *name;
	void (*read)(struct loader *l, const yaml_node_t *value, void *object, const void *arg);
	const void *arg;
	bool required;
};
#define KEYS_MAX 16

/* Walks a mapping: every key by its entry in the table. `given` (may be NULL) gets the place of
 * each key that is there. */
static void read_mapping(struct loader *l, const yaml_node_t *n, const struct key *keys,
	size_t n_keys, void *object, struct place *given)
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
		name = scalar(l, k, "the name of a key");
		if (!name)
			continue;
		while (i < n_keys && strcmp(name, names[i]))
			i++;
		if (i == n_keys) {
			unknown_name(l, k, "key", name, names, n_keys);
			continue;
		}
		mark = enter(l, "%s%s", l->where[0] ? "." : "", name);
		if (at[i].source) {
			error_node(l, k, "given twice, the first time in line %zu; keep one",
				at[i].line + 1);
		} else {
			at[i] = place_of(l, k);
			keys[i].read(l, v, object, keys[i].arg);
		}
		leave(l, mark);
	}
	for (size_t i = 0; i < n_keys; i++) {
		if (keys[i].required && !at[i].source && !l->partial)
			error_node(l, n, "'%s' is missing", keys[i].name);
		if (given)
			given[i] = at[i];
	}
}

static void read_setting(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	const struct setting *s = arg;

	if (read_value(l, v, &s->value, (char *)l->config + s->offset))
		l->set_at[s - settings] = place_of(l, v);
}

static void read_suppress(struct loader *l, const yaml_node_t *v, void *object, const void *arg);

/* A section that is made of settings, but for growth.suppress. */
static void read_section(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct key keys[KEYS_MAX];
	size_t n = 0;

	if (is_null(v)) /* all of it commented out */
		return;
	for (size_t i = 0; i < N_SETTINGS; i++)
		if (!strcmp(settings[i].section, arg))
			keys[n++] =
				(struct key){settings[i].key, read_setting, &settings[i], false};
	if (!strcmp(arg, "growth"))
		keys[n++] = (struct key){"suppress", read_suppress, NULL, false};
	read_mapping(l, v, keys, n, NULL, NULL);
}

/* False and an error if it is no list. */
static bool is_list(struct loader *l, const yaml_node_t *v, const char *of)
{
	if (v->type == YAML_SEQUENCE_NODE)
		return true;
	error_node(l, v, "this is %s, it takes a list of %s", kind_of(v), of);
	return false;
}

/* ---- targets -------------------------------------------------------------------------------- */

static void read_match_glob(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	const struct match_key *k = arg;
	char **dest = (char **)((char *)object + k->offset);

	if (read_glob(l, v, dest) && !strcmp(k->name, "comm") && *dest &&
		strlen(*dest) > COMM_MAX && !strpbrk(*dest, "*?[\\")) {
		struct place p = place_of(l, v);

		warning_at(l, &p,
			"'%.32s' never matches, the kernel keeps %d bytes of a name; use cmdline",
			*dest, COMM_MAX);
	}
}

static void read_match(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct key keys[N_MATCH_KEYS];

	for (size_t i = 0; i < N_MATCH_KEYS; i++)
		keys[i] = (struct key){match_keys[i].name, read_match_glob, &match_keys[i], false};
	read_mapping(l, v, keys, N_MATCH_KEYS, object, NULL);
}

static void read_watch(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_bool(l, v, &((struct config_rule *)object)->watch);
}

static const struct key rule_keys[] = {
	{"match", read_match, NULL, true},
	{"watch", read_watch, NULL, false},
};

static bool matches_all(const struct config_rule *r)
{
	return !r->comm && !r->exe && !r->cmdline && !r->user && !r->unit;
}

static int append(struct loader *l, void **array, size_t n, size_t size, const void *member,
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

static void read_targets(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct config *c = l->config;

	if (is_null(v))
		return;
	if (!is_list(l, v, "rules, each with `match` and `watch`"))
		return;
	c->rules_given = true;
	for (yaml_node_item_t *i = v->data.sequence.items.start; i < v->data.sequence.items.top;
		i++) {
		struct config_rule rule = {.watch = true};
		yaml_node_t *n = get_node(l, *i);
		unsigned errors = l->errors;
		struct place place;
		size_t mark;

		if (!n)
			return;
		place = place_of(l, n);
		if (c->n_rules >= RULES_MAX) {
			error_at(l, &place, "too many rules, allowed are %d", RULES_MAX);
			return;
		}
		mark = enter(l, "[%zu]", (size_t)(i - v->data.sequence.items.start));
		read_mapping(l, n, rule_keys, ARRAY_SIZE(rule_keys), &rule, NULL);
		if (errors != l->errors || append(l, (void **)&c->rules, c->n_rules, sizeof(rule),
						   &rule, &l->rule_at, &place)) {
			rule_release(&rule);
		} else {
			if (l->catch_all.source && !l->unreachable_told) {
				warning_at(l, &place,
					"never reached, the rule in %s line %zu matches every "
					"process",
					l->catch_all.source->path, l->catch_all.line + 1);
				l->unreachable_told = true;
			} else if (matches_all(&rule)) {
				l->catch_all = place;
			}
			c->n_rules++;
		}
		leave(l, mark);
	}
}

/* ---- growth.suppress ------------------------------------------------------------------------ */

static void read_suppress_glob(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_glob(l, v, (char **)((char *)object + *(const size_t *)arg));
}

static void read_reason(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	const char *text = scalar(l, v, "a text that says why");

	if (text && !*text)
		error_node(l, v, "the reason is empty, say why nobody needs to hear of it");
	else if (text)
		copy_text(l, &((struct config_suppress *)object)->reason, text);
}

static void read_until(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	const char *text = scalar(l, v, "a day such as 2027-01-31");
	char time[TEXT_MAX + sizeof("T00:00:00Z")];

	if (!text)
		return;
	snprintf(time, sizeof(time), "%s%s", text, strchr(text, 'T') ? "" : "T00:00:00Z");
	if (parse_rfc3339(time, &((struct config_suppress *)object)->until_ms))
		error_node(l, v, "'%s' is no day, it takes one such as 2027-01-31, or 2027-01-31T12:00:00Z", text);
}

static void read_up_to(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_value(l, v, &suppress_up_to, &((struct config_suppress *)object)->up_to);
}

static const size_t suppress_type = offsetof(struct config_suppress, type),
		    suppress_service = offsetof(struct config_suppress, service);
static const struct key suppress_keys[] = {
	{"type", read_suppress_glob, &suppress_type, true},
	{"service", read_suppress_glob, &suppress_service, false},
	{"reason", read_reason, NULL, true},
	{"until", read_until, NULL, false},
	{"up_to", read_up_to, NULL, false},
};
/* What is for everybody may hide nothing without end. */
static const struct key benign_keys[] = {
	{"type", read_suppress_glob, &suppress_type, true},
	{"service", read_suppress_glob, &suppress_service, false},
	{"reason", read_reason, NULL, true},
	{"until", read_until, NULL, false},
	{"up_to", read_up_to, NULL, true},
};

/* arg: of benign.yaml. */
static void read_suppress(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct config *c = l->config;

	if (is_null(v))
		return;
	if (!is_list(l, v, "suppressions, each with `type` and `reason`"))
		return;
	for (yaml_node_item_t *i = v->data.sequence.items.start; i < v->data.sequence.items.top; i++) {
		struct config_suppress s = {.benign = arg != NULL};
		yaml_node_t *n = get_node(l, *i);
		unsigned errors = l->errors;
		struct place place;
		size_t mark;

		if (!n)
			return;
		place = place_of(l, n);
		if (c->n_suppress >= SUPPRESS_MAX) {
			error_at(l, &place, "too many suppressions, allowed are %d", SUPPRESS_MAX);
			return;
		}
		mark = enter(l, "[%zu]", (size_t)(i - v->data.sequence.items.start));
		_Static_assert(ARRAY_SIZE(suppress_keys) == ARRAY_SIZE(benign_keys), "the same shape");
		read_mapping(l, n, s.benign ? benign_keys : suppress_keys, ARRAY_SIZE(suppress_keys), &s, NULL);
		if (errors == l->errors && (!s.type || !s.reason)) /* cut off by a syntax error */
			errors--;
		if (errors != l->errors || append(l, (void **)&c->suppress, c->n_suppress, sizeof(s), &s,
						   &l->suppress_at, &place))
			suppress_release(&s);
		else
			c->n_suppress++;
		leave(l, mark);
	}
}

/* ---- triggers ------------------------------------------------------------------------------- */

/* A `when` while it is read: its conditions become children. */
struct when_reading {
	struct config_when all;
	char *type; /* of the verdict */
};

/* Room for one more condition, or NULL and an error. */
static struct config_when *new_condition(
	struct loader *l, const yaml_node_t *n, struct config_when *parent)
{
	struct config_when *children;

	if (++l->conditions > CONDITIONS_MAX) {
		error_node(
			l, n, "too many conditions, allowed are %d in one trigger", CONDITIONS_MAX);
		return NULL;
	}
	children = reallocarray(parent->children, parent->n_children + 1, sizeof(*children));
	if (!children) {
		l->out_of_memory = true;
		return NULL;
	}
	parent->children = children;
	children[parent->n_children] = (struct config_when){0};
	return &children[parent->n_children++];
}

static void read_verdict(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	static const char *const names[] = {"leak", "watch"};
	const char *text = scalar(l, v, "leak or watch");
	struct when_reading *r = object;
	struct config_when *w;

	if (!text)
		return;
	if (strcmp(text, "leak") && strcmp(text, "watch")) {
		unknown_name(l, v, "verdict", text, names, ARRAY_SIZE(names));
		return;
	}
	w = new_condition(l, v, &r->all);
	if (!w)
		return;
	w->kind = WHEN_VERDICT;
	w->verdict = text[0] == 'l' ? TRACK_LEAK : TRACK_WATCH;
}

static void read_verdict_type(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_glob(l, v, &((struct when_reading *)object)->type);
}

static void read_count_type(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_glob(l, v, &((struct config_when *)object)->type);
}

static void read_count(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_value(l, v, &when_count, &((struct config_when *)object)->count);
}

static const struct key count_keys[] = {
	{"type", read_count_type, NULL, true},
	{"count", read_count, NULL, true},
};

static const struct key rate_keys[] = {
	{"type", read_count_type, NULL, true},
	{"per_hour", read_count, NULL, true},
};

static void read_share(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_value(l, v, &when_cgroup, &((struct config_when *)object)->share);
}

static const struct key share_keys[] = {
	{"type", read_count_type, NULL, true},
	{"share", read_share, NULL, true},
};

static const struct type_condition {
	enum config_when_kind kind;
	const struct key *keys;
} count_above = {WHEN_COUNT, count_keys}, growth_above = {WHEN_RATE, rate_keys}, share_above = {WHEN_SHARE, share_keys};

/* Each of them has two keys. */
static void read_of_type(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct config_when *w = new_condition(l, v, &((struct when_reading *)object)->all);
	const struct type_condition *c = arg;

	if (!w)
		return;
	w->kind = c->kind;
	read_mapping(l, v, c->keys, 2, w, NULL);
}

static void read_rss_above(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct config_when *w = new_condition(l, v, &((struct when_reading *)object)->all);

	if (!w)
		return;
	w->kind = WHEN_RSS;
	read_value(l, v, &when_rss, &w->bytes);
}

static void read_cgroup_above(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct config_when *w = new_condition(l, v, &((struct when_reading *)object)->all);

	if (!w)
		return;
	w->kind = WHEN_CGROUP;
	read_value(l, v, &when_cgroup, &w->share);
}

static void read_any(struct loader *l, const yaml_node_t *v, void *object, const void *arg);

static const struct key when_keys[] = {
	{"verdict", read_verdict, NULL, false},
	{"type", read_verdict_type, NULL, false},
	{"count_above", read_of_type, &count_above, false},
	{"growth_above", read_of_type, &growth_above, false},
	{"share_above", read_of_type, &share_above, false},
	{"rss_above", read_rss_above, NULL, false},
	{"cgroup_memory_above", read_cgroup_above, NULL, false},
	{"any", read_any, NULL, false},
};
#define WHEN_KEY_TYPE 1 /* index of "type" */

/* One condition stands for itself, several are AND. */
static void read_when_into(struct loader *l, const yaml_node_t *v, struct config_when *w)
{
	struct place given[ARRAY_SIZE(when_keys)] = {0};
	struct when_reading r = {.all = {.kind = WHEN_ALL}};
	unsigned errors = l->errors;

	read_mapping(l, v, when_keys, ARRAY_SIZE(when_keys), &r, given);
	for (size_t i = 0; r.type && i < r.all.n_children; i++)
		if (r.all.children[i].kind == WHEN_VERDICT)
			r.all.children[i].type = TAKE_PTR(r.type);
	if (errors == l->errors && r.type)
		error_at(l, &given[WHEN_KEY_TYPE],
			"`type` belongs to `verdict`, which is missing; count_above has its own");
	free(r.type);
	if (errors == l->errors && !r.all.n_children)
		error_node(l, v,
			"no condition, it takes verdict, count_above, growth_above, share_above, rss_above, "
			"cgroup_memory_above or any");
	if (r.all.n_children == 1) {
		*w = r.all.children[0];
		free(r.all.children);
	} else {
		*w = r.all;
	}
}

static void read_any(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct config_when *any = new_condition(l, v, &((struct when_reading *)object)->all);
	struct config_when local = {.kind = WHEN_ANY};
	size_t index;

	if (!any)
		return;
	*any = local;
	index = ((struct when_reading *)object)->all.n_children - 1;
	if (!is_list(l, v, "conditions"))
		return;
	if (l->depth >= WHEN_DEPTH_MAX) {
		error_node(l, v, "nested too deep, allowed are %d levels", WHEN_DEPTH_MAX);
		return;
	}
	if (v->data.sequence.items.start == v->data.sequence.items.top)
		error_node(l, v, "an empty list is never true, it takes conditions");
	l->depth++;
	for (yaml_node_item_t *i = v->data.sequence.items.start; i < v->data.sequence.items.top;
		i++) {
		yaml_node_t *n = get_node(l, *i);
		struct config_when *w;
		size_t mark;

		if (!n)
			break;
		w = new_condition(l, n, &local);
		if (!w)
			break;
		mark = enter(l, "[%zu]", (size_t)(i - v->data.sequence.items.start));
		read_when_into(l, n, w);
		leave(l, mark);
	}
	l->depth--;
	((struct when_reading *)object)->all.children[index] = local;
}

static void read_when(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	l->conditions = 0;
	l->depth = 0;
	read_when_into(l, v, &((struct config_trigger *)object)->when);
}

static void read_name(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	static const char allowed[] = "letters, digits, '-', '_' and '.', at most 63 of them";
	const char *text = scalar(l, v, allowed);

	if (!text)
		return;
	if (!*text || strlen(text) > TRIGGER_NAME_MAX ||
		text[strspn(
			text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")])
		error_node(l, v, "'%.80s' is not a name, allowed are %s", text, allowed);
	else
		copy_text(l, &((struct config_trigger *)object)->name, text);
}

static void read_hold(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_value(l, v, &trigger_hold, &((struct config_trigger *)object)->hold_ns);
}

static void read_cooldown(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_value(l, v, &trigger_cooldown, &((struct config_trigger *)object)->cooldown_ns);
}

static void read_per_day(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_value(l, v, &trigger_per_day, &((struct config_trigger *)object)->per_day);
}

static void read_do(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct config_trigger *t = object;
	const char *names[N_ACTIONS];

	for (size_t i = 0; i < N_ACTIONS; i++)
		names[i] = action_names[i].name;
	t->actions = 0;
	if (!is_list(l, v, "actions, such as [dump]"))
		return;
	if (v->data.sequence.items.start == v->data.sequence.items.top)
		error_node(l, v, "an empty list does nothing, it takes actions, such as [dump]");
	for (yaml_node_item_t *i = v->data.sequence.items.start; i < v->data.sequence.items.top;
		i++) {
		yaml_node_t *n = get_node(l, *i);
		const char *text;
		size_t a = 0;

		if (!n)
			return;
		text = scalar(l, n, "the name of an action");
		if (!text)
			continue;
		while (a < N_ACTIONS && strcmp(text, names[a]))
			a++;
		if (a == N_ACTIONS)
			unknown_name(l, n, "action", text, names, N_ACTIONS);
		else if (!action_names[a].available)
			error_node(l, n,
				"action '%s' is not available in this version, allowed: dump",
				text);
		else if (t->actions & action_names[a].action)
			error_node(l, n, "action '%s' is given twice", text);
		else
			t->actions |= action_names[a].action;
	}
}

static const struct key trigger_keys[] = {
	{"name", read_name, NULL, true},
	{"when", read_when, NULL, true},
	{"hold", read_hold, NULL, false},
	{"do", read_do, NULL, false},
	{"cooldown", read_cooldown, NULL, false},
	{"per_day", read_per_day, NULL, false},
};
#define TRIGGER_KEY_PER_DAY 5 /* index of "per_day" */

/* A trigger of a later file takes the place of one of the same name. */
static void add_trigger(struct loader *l, struct config_trigger *t, const struct place *place)
{
	struct config *c = l->config;

	for (size_t i = 0; i < c->n_triggers; i++) {
		if (strcmp(c->triggers[i].name, t->name))
			continue;
		if (l->trigger_at[i].source == place->source) {
			error_at(l, place, "the name '%s' is taken by the trigger in line %zu",
				t->name, l->trigger_at[i].line + 1);
			trigger_release(t);
			return;
		}
		trigger_release(&c->triggers[i]);
		c->triggers[i] = *t;
		l->trigger_at[i] = *place;
		return;
	}
	if (c->n_triggers >= TRIGGERS_MAX) {
		error_at(l, place, "too many triggers, allowed are %d", TRIGGERS_MAX);
		trigger_release(t);
	} else if (append(l, (void **)&c->triggers, c->n_triggers, sizeof(*t), t, &l->trigger_at,
			   place)) {
		trigger_release(t);
	} else {
		c->n_triggers++;
	}
}

static void read_triggers(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	if (is_null(v))
		return;
	if (!is_list(l, v, "triggers, each with `name` and `when`"))
		return;
	for (yaml_node_item_t *i = v->data.sequence.items.start; i < v->data.sequence.items.top;
		i++) {
		struct place given[ARRAY_SIZE(trigger_keys)] = {0}, place;
		struct config_trigger t = {
			.actions = ACTION_DUMP,
			.cooldown_ns = 6 * 3600 * 1000000000ULL,
			.per_day = 4,
		};
		yaml_node_t *n = get_node(l, *i);
		unsigned errors = l->errors;
		size_t mark;

		if (!n)
			return;
		place = place_of(l, n);
		mark = enter(l, "[%zu]", (size_t)(i - v->data.sequence.items.start));
		read_mapping(l, n, trigger_keys, ARRAY_SIZE(trigger_keys), &t, given);
		if (errors != l->errors || l->out_of_memory) {
			trigger_release(&t);
		} else {
			if (given[TRIGGER_KEY_PER_DAY].source && t.per_day > 1 &&
				t.cooldown_ns / 1000000000 * (t.per_day - 1) >= 86400)
				warning_at(l, &given[TRIGGER_KEY_PER_DAY],
					"has no effect, `cooldown` does not let it fire more often "
					"than that anyway");
			add_trigger(l, &t, &place);
		}
		leave(l, mark);
		if (l->errors > ERRORS_MAX)
			return;
	}
}

/* ---- outputs, and the whole ------------------------------------------------------------------ */

static void refuse_output(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	error_node(l, v, "this version has no such output, it has `metrics`");
}

static void read_listen(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	static const char allowed[] = "an address and a port such as 127.0.0.1:9477 or [::1]:9477";
	const char *text = scalar(l, v, allowed);
	struct sockaddr_storage a;
	socklen_t n;

	if (text && address_parse(text, &a, &n))
		error_node(l, v, "'%.80s' is no address to listen at, it takes %s", text, allowed);
	else if (text)
		copy_text(l, &l->config->metrics_listen, text);
}

static const struct key metrics_keys[] = {
	{"listen", read_listen, NULL, false},
};

static void read_metrics(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	if (is_null(v)) { /* a drop-in takes it back */
		free(TAKE_PTR(l->config->metrics_listen));
		return;
	}
	read_mapping(l, v, metrics_keys, ARRAY_SIZE(metrics_keys), NULL, NULL);
	if (!l->config->metrics_listen)
		copy_text(l, &l->config->metrics_listen, METRICS_LISTEN);
}

static void read_outputs(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct key keys[ARRAY_SIZE(output_names)];

	if (is_null(v))
		return;
	for (size_t i = 0; i < ARRAY_SIZE(output_names); i++)
		keys[i] = (struct key){output_names[i],
			strcmp(output_names[i], "metrics") ? refuse_output : read_metrics, NULL, false};
	read_mapping(l, v, keys, ARRAY_SIZE(output_names), NULL, NULL);
}

static const struct key sections[] = {
	{"targets", read_targets, NULL, false},
	{"budget", read_section, "budget", false},
	{"growth", read_section, "growth", false},
	{"triggers", read_triggers, NULL, false},
	{"dump", read_section, "dump", false},
	{"outputs", read_outputs, NULL, false},
	{"storage", read_section, "storage", false},
};

static const struct key benign_sections[] = {
	{"benign", read_suppress, BENIGN, false},
};

/* What libyaml found wrong with the text itself. */
static void report_parser(struct loader *l, const yaml_parser_t *p)
{
	const char *problem = p->problem ? p->problem : "cannot be parsed";
	struct place place;

	if (p->error == YAML_MEMORY_ERROR) {
		l->out_of_memory = true;
		return;
	}
	if (p->error == YAML_READER_ERROR) {
		place = source_place(l->source, p->problem_offset);
		error_at(l, &place, "%s, a configuration is text in UTF-8", problem);
		return;
	}
	place = place_of_mark(l, &p->problem_mark);
	if (p->context)
		error_at(l, &place, "not valid YAML: %s %s (from line %zu)", problem, p->context,
			p->context_mark.line + 1);
	else
		error_at(l, &place, "not valid YAML: %s", problem);
}

static void read_document(struct loader *l)
{
	yaml_node_t *root = yaml_document_get_root_node(l->document);

	l->visits = 0;
	l->where[0] = '\0';
	if (!root || is_null(root))
		return; /* nothing but comments */
	if (l->benign)
		read_mapping(l, root, benign_sections, ARRAY_SIZE(benign_sections), NULL, NULL);
	else
		read_mapping(l, root, sections, ARRAY_SIZE(sections), NULL, NULL);
	if (l->visits > VISITS_MAX) {
		struct place p = place_of(l, root);

		error_at(l, &p, "more than %d values, aliases counted each time they are used",
			VISITS_MAX);
	}
}

/* Reads the lines before this one. False if they alone are not YAML. */
static bool read_lines_before(struct loader *l, size_t line)
{
	struct place p = {.source = l->source, .line = line};
	yaml_document_t document;
	yaml_parser_t parser;
	bool good;

	if (!yaml_parser_initialize(&parser))
		return false;
	yaml_parser_set_input_string(
		&parser, (const unsigned char *)l->source->text, source_offset(&p));
	good = yaml_parser_load(&parser, &document);
	if (good) {
		l->partial = true;
		l->document = &document;
		read_document(l);
		l->where[0] = '\0';
		l->document = NULL;
		l->partial = false;
		yaml_document_delete(&document);
	}
	yaml_parser_delete(&parser);
	return good;
}

/* A syntax error ends the document, but the mistakes in the lines before it are told too: those
 * before the error, or before that which it ended (a list in brackets, say). */
static void read_before(struct loader *l, const yaml_parser_t *broken)
{
	size_t line = broken->problem_mark.line;

	if (broken->error == YAML_MEMORY_ERROR)
		return;
	if (broken->error == YAML_READER_ERROR)
		line = source_place(l->source, broken->problem_offset).line;
	if (!read_lines_before(l, line) && broken->context && broken->context_mark.line < line)
		read_lines_before(l, broken->context_mark.line);
}

/*
 * libyaml takes a time that grows with the square of the depth (yaml_parser_stale_simple_keys()
 * looks at every open level for every token): 200 kB of '[' are minutes. So the depth is looked at
 * first, event by event, which stops at the limit.
 */
static bool too_deep(struct loader *l)
{
	yaml_parser_t parser;
	bool deep = false, more = true;
	int depth = 0;

	if (!yaml_parser_initialize(&parser))
		return false;
	yaml_parser_set_input_string(
		&parser, (const unsigned char *)l->source->text, l->source->size);
	while (more && !deep) {
		yaml_event_t e;

		if (!yaml_parser_parse(&parser, &e))
			break; /* the loader will say what is wrong */
		depth += e.type == YAML_SEQUENCE_START_EVENT || e.type == YAML_MAPPING_START_EVENT;
		depth -= e.type == YAML_SEQUENCE_END_EVENT || e.type == YAML_MAPPING_END_EVENT;
		more = e.type != YAML_STREAM_END_EVENT;
		deep = depth > DEPTH_MAX;
		if (deep) {
			struct place p = place_of_mark(l, &e.start_mark);

			error_at(l, &p, "nested too deep, allowed are %d levels", DEPTH_MAX);
		}
		yaml_event_delete(&e);
	}
	yaml_parser_delete(&parser);
	return deep;
}

static int load_source(struct loader *l, const char *path, struct err *err)
{
	yaml_document_t document, next;
	yaml_parser_t parser;
	struct source *s;
	int r;

	r = source_read(path, &s, err);
	if (r)
		return r;
	l->sources[l->n_sources++] = s;
	l->source = s;
	l->where[0] = '\0';
	if (s->size >= 2 && (!memcmp(s->text, "\xff\xfe", 2) || !memcmp(s->text, "\xfe\xff", 2))) {
		struct place p = {.source = s};

		error_at(l, &p, "this is UTF-16, a configuration is text in UTF-8");
		return 0;
	}
	if (too_deep(l))
		return 0;
	if (!yaml_parser_initialize(&parser))
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	yaml_parser_set_input_string(&parser, (const unsigned char *)s->text, s->size);
	if (!yaml_parser_load(&parser, &document)) {
		read_before(l, &parser);
		report_parser(l, &parser);
		yaml_parser_delete(&parser);
		return 0;
	}
	l->document = &document;
	read_document(l);
	l->where[0] = '\0';
	if (!yaml_parser_load(&parser, &next)) {
		report_parser(l, &parser);
	} else {
		if (yaml_document_get_root_node(&next)) {
			struct place p = place_of_mark(l, &next.start_mark);

			error_at(l, &p, "a second document, allowed is one in a file");
		}
		yaml_document_delete(&next);
	}
	l->document = NULL;
	yaml_document_delete(&document);
	yaml_parser_delete(&parser);
	return 0;
}

/* ---- settings that exclude each other --------------------------------------------------------- */

static const struct place *place_of_settings(
	const struct loader *l, enum setting_id a, enum setting_id b)
{
	return l->set_at[a].source ? &l->set_at[a] : l->set_at[b].source ? &l->set_at[b] : NULL;
}

static void cross_check(struct loader *l)
{
	const struct config *c = l->config;
	const struct place *p;
	bool watches = !c->n_rules;

	l->where[0] = '\0';
	p = place_of_settings(l, GROWTH_WINDOW, GROWTH_INTERVAL);
	if (p && c->growth_window_ns / 6 < c->growth_interval_ns)
		warning_at(l, p,
			"growth.window holds fewer than 6 samples at this growth.interval, leaks "
			"are found late or never; make the window longer or the interval shorter");
	p = place_of_settings(l, DUMP_PAUSE, DUMP_DEADLINE);
	if (p && c->dump_pause_ns >= c->dump_deadline_ns)
		warning_at(l, p,
			"dump.pause is not below dump.deadline, such a dump is given up "
			"before it is done");
	p = place_of_settings(l, STORAGE_HISTORY, GROWTH_WINDOW);
	if (p && c->storage_history_ns < c->growth_window_ns)
		warning_at(l, p,
			"storage.history is shorter than growth.window, what led to a "
			"verdict is not kept");
	for (size_t i = 0; i < c->n_rules; i++)
		watches |= c->rules[i].watch;
	if (!watches)
		warning_at(l, &l->rule_at[0],
			"targets: no rule has `watch: true`, nothing is watched");
}

/* ---- files ------------------------------------------------------------------------------------- */

static int is_drop_in(const struct dirent *d)
{
	size_t n = strlen(d->d_name);

	return d->d_name[0] != '.' && n > 5 && !strcmp(d->d_name + n - 5, ".yaml");
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int load_drop_ins(struct loader *l, const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	int dir_len = slash ? (int)(slash - path) + 1 : 0, n, r = 0;
	_cleanup_free_ char *dir = NULL;
	struct dirent **entries;

	if (asprintf(&dir, "%.*spyleakd.d", dir_len, path) < 0) {
		dir = NULL;
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	}
	n = scandir(dir, &entries, is_drop_in, by_bytes);
	if (n < 0) {
		r = -errno;
		if (r == -ENOENT || r == -ENOTDIR)
			return 0;
		return err_set(err, r, "%s: cannot read the folder: %s", dir, strerror(-r));
	}
	if (n > DROP_INS_MAX)
		r = err_set(err, -E2BIG, "%s: %d files, allowed are %d", dir, n, DROP_INS_MAX);
	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *file = NULL;

		if (!r && asprintf(&file, "%s/%s", dir, entries[i]->d_name) < 0) {
			file = NULL;
			r = err_set(err, -ENOMEM, "%s: out of memory", dir);
		}
		if (!r)
			r = load_source(l, file, err);
		free(entries[i]);
	}
	free(entries);
	return r;
}

/* Growth that is known to end; it may be missing. */
static int load_benign(struct loader *l, const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *file = NULL;

	if (asprintf(&file, "%.*s" BENIGN, slash ? (int)(slash - path) + 1 : 0, path) < 0) {
		file = NULL;
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	}
	if (access(file, F_OK) < 0 && (errno == ENOENT || errno == ENOTDIR))
		return 0;
	l->benign = true;
	return load_source(l, file, err);
}

static void loader_release(struct loader *l)
{
	config_free(l->config);
	for (size_t i = 0; i < l->n_sources; i++)
		source_free(l->sources[i]);
	free(l->rule_at);
	free(l->trigger_at);
	free(l->suppress_at);
}

int config_load(const char *path, FILE *diag, struct config **ret, struct err *err)
{
	_cleanup_(loader_release) struct loader l = {.diag = diag};
	int r;

	r = config_new(&l.config);
	if (r)
		return err_set(err, r, "%s: %s", path, strerror(-r));
	r = load_source(&l, path, err);
	if (!r)
		r = load_drop_ins(&l, path, err);
	if (!r)
		r = load_benign(&l, path, err);
	if (r)
		return r;
	if (l.out_of_memory)
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	if (!l.errors)
		cross_check(&l);
	if (diag && l.errors > ERRORS_MAX)
		fprintf(diag, "%s: and %u more mistakes\n", path, l.errors - ERRORS_MAX);
	if (l.errors == 1)
		return err_set(err, -EINVAL, "%s", l.first_error);
	if (l.errors)
		return err_set(err, -EINVAL, "%s (and %u more)", l.first_error, l.errors - 1);
	*ret = TAKE_PTR(l.config);
	return 0;
}
