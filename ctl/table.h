/* SPDX-License-Identifier: MIT */
/*
 * A table of text: columns as wide as their widest cell, two blanks between them, headings only
 * if there is a row. Cells are cleaned (text_clean()), so foreign names can go in as they are.
 */
#ifndef PYLEAK_CTL_TABLE_H
#define PYLEAK_CTL_TABLE_H

#include <stdbool.h>
#include <stdio.h>

#include "daemon/util/macros.h"

#define TABLE_COLUMNS_MAX 16

enum style {
	STYLE_PLAIN,
	STYLE_HEAD,
	STYLE_BAD,
	STYLE_WARN,
	STYLE_GOOD,
	STYLE_DIM,
};

/* Text in a style; without colour just the text. It must be clean. */
void style_print(FILE *f, bool colour, enum style style, const char *text);

struct table;

/* Headings, NULL at the end; a leading '>' puts the column's cells to the right. NULL when out of
 * memory. */
struct table *table_new(const char *const *headings);
void table_free(struct table *t);

static inline void table_freep(struct table **t)
{
	table_free(*t);
}
#define _cleanup_table_ _cleanup_(table_freep)

/* Cells fill row by row. Running out of memory shows in table_print(). */
void table_cell(struct table *t, enum style style, const char *text);
void table_cellf(struct table *t, enum style style, const char *fmt, ...) _printf_(3, 4);

/* -ENOMEM if something went missing. */
int table_print(const struct table *t, FILE *f, bool colour);

#endif
