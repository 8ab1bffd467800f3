/* SPDX-License-Identifier: MIT */
/* What a configuration's reader says: where, what is wrong with it, what was meant. */
#include <ctype.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>

#include "daemon/config/loader.h"

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

void error_at(struct loader *l, const struct place *p, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vreport(l, p, false, fmt, ap);
	va_end(ap);
}

void warning_at(struct loader *l, const struct place *p, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vreport(l, p, true, fmt, ap);
	va_end(ap);
}

struct place place_of_mark(const struct loader *l, const yaml_mark_t *m)
{
	return (struct place){.source = l->source, .line = m->line, .column = m->column};
}

struct place place_of(const struct loader *l, const yaml_node_t *n)
{
	return place_of_mark(l, &n->start_mark);
}

void error_node(struct loader *l, const yaml_node_t *n, const char *fmt, ...)
{
	struct place p = place_of(l, n);
	va_list ap;

	va_start(ap, fmt);
	vreport(l, &p, false, fmt, ap);
	va_end(ap);
}

/* Adds to l->where until the caller cuts it back to what is returned. */
size_t where_enter(struct loader *l, const char *fmt, ...)
{
	size_t n = strlen(l->where);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(l->where + n, sizeof(l->where) - n, fmt, ap);
	va_end(ap);
	return n;
}

void where_leave(struct loader *l, size_t n)
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

const char *list_names(char *buf, size_t size, const char *const *names, size_t n)
{
	size_t at = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < n && at < size; i++)
		at += (size_t)snprintf(buf + at, size - at, "%s%s", i ? ", " : "", names[i]);
	return buf;
}

void unknown_name(struct loader *l, const yaml_node_t *n, const char *what, const char *text,
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
