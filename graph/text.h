/* SPDX-License-Identifier: MIT */
/*
 * Text for people, in UTF-8. What returns char * returns memory to be freed, or NULL when there is
 * none.
 */
#ifndef PYLEAK_GRAPH_TEXT_H
#define PYLEAK_GRAPH_TEXT_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/util/macros.h"

/* At most max characters (at least 8): a longer text loses its middle to "…". */
char *text_elide(const char *s, size_t max);

char *text_format(const char *fmt, ...) _printf_(1, 2);

/* "12 400". Returns buf. */
#define TEXT_NUMBER_MAX 32
char *text_number(char *buf, size_t n, uint64_t x);

/* "93 %", "4.2 %", "0.03 %"; never "100 %" or "0 %" when it is not. Returns buf. */
char *text_percent(char *buf, size_t n, double share);

/* Behind the last dot: "app.cache.Session" -> "Session". */
const char *text_short_type(const char *type);

/* "a dict", "an app.Entry" need to know. */
const char *text_article(const char *word);

/* Escaped for HTML, for XML and for Graphviz's HTML-like labels. */
void text_html(FILE *f, const char *s);

#endif
