/* SPDX-License-Identifier: MIT */
/*
 * report.html: the verdict in a sentence, the picture, how the type grew, the paths, what keeps most
 * memory alive and the type table, on one page that needs nothing else: no font, no network, and
 * its own script only for zooming.
 */
#ifndef PYLEAK_GRAPH_REPORT_H
#define PYLEAK_GRAPH_REPORT_H

#include <stdio.h>

#include "graph/explain.h"

/* "pid 4711 (gunicorn) · Python 3.11.2 · 2026-11-23T08:25:58.123Z · stopped for 1.2 ms": what the
 * description says of it. To be freed; NULL when out of memory. */
char *report_caption(const json_t *meta);

/* svg: the picture as Graphviz wrote it, or NULL and why not. 0 or -EIO. */
int report_write(FILE *f, const struct explanation *x, const struct explain_document *doc,
	const char *svg, struct err *err);

#endif
