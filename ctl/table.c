/* SPDX-License-Identifier: MIT */
#include "ctl/table.h"

#include <stdarg.h>
#include <string.h>

#include "ctl/text.h"

struct cell {
	char *text;
	enum style style;
};

struct table {
	size_t n_columns;
	const char *headings[TABLE_COLUMNS_MAX];
	bool right[TABLE_COLUMNS_MAX];
	struct cell *cells;
	size_t n, cap;
	bool failed;
};

void style_print(FILE *f, bool colour, enum style style, const char *text)
{
	static const char *const codes[] = {
		[STYLE_PLAIN] = "",
		[STYLE_HEAD] = "\033[1m",
		[STYLE_BAD] = "\033[31m",
		[STYLE_WARN] = "\033[33m",
		[STYLE_GOOD] = "\033[32m",
		[STYLE_DIM] = "\033[2m",
	};

	if (colour && style != STYLE_PLAIN)
		fprintf(f, "%s%s\033[0m", codes[style], text);
	else
		fputs(text, f);
}

struct table *table_new(const char *const *headings)
{
	struct table *t = calloc(1, sizeof(*t));

	for (; t && *headings && t->n_columns < TABLE_COLUMNS_MAX; headings++) {
		bool right = (*headings)[0] == '>';

		t->right[t->n_columns] = right;
		t->headings[t->n_columns++] = *headings + right;
	}
	return t;
}

void table_free(struct table *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n; i++)
		free(t->cells[i].text);
	free(t->cells);
	free(t);
}

void table_cell(struct table *t, enum style style, const char *text)
{
	if (t->n == t->cap) {
		size_t cap = t->cap ? t->cap * 2 : 64;
		struct cell *bigger = reallocarray(t->cells, cap, sizeof(*bigger));

		if (!bigger) {
			t->failed = true;
			return;
		}
		t->cells = bigger;
		t->cap = cap;
	}
	t->cells[t->n].style = style;
	t->cells[t->n].text = text_clean(text);
	if (!t->cells[t->n].text)
		t->failed = true;
	else
		t->n++;
}

void table_cellf(struct table *t, enum style style, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	table_cell(t, style, text);
}

static void print_cell(const struct table *t, FILE *f, bool colour, size_t column, enum style style,
	const char *text, size_t width)
{
	size_t blanks = width - text_width(text);

	if (column)
		fputs("  ", f);
	if (t->right[column])
		fprintf(f, "%*s", (int)blanks, "");
	style_print(f, colour, style, text);
	if (!t->right[column] && column + 1 < t->n_columns)
		fprintf(f, "%*s", (int)blanks, "");
}

int table_print(const struct table *t, FILE *f, bool colour)
{
	size_t width[TABLE_COLUMNS_MAX];

	if (t->failed)
		return -ENOMEM;
	if (!t->n)
		return 0;
	for (size_t c = 0; c < t->n_columns; c++)
		width[c] = text_width(t->headings[c]);
	for (size_t i = 0; i < t->n; i++) {
		size_t w = text_width(t->cells[i].text), c = i % t->n_columns;

		width[c] = MAX(width[c], w);
	}
	for (size_t c = 0; c < t->n_columns; c++)
		print_cell(t, f, colour, c, STYLE_HEAD, t->headings[c], width[c]);
	for (size_t i = 0; i < t->n; i++) {
		size_t c = i % t->n_columns;

		if (!c)
			fputc('\n', f);
		print_cell(t, f, colour, c, t->cells[i].style, t->cells[i].text, width[c]);
	}
	fputc('\n', f);
	return 0;
}
