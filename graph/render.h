/* SPDX-License-Identifier: MIT */
/*
 * An explanation as a picture, in objgraph's visual language: boxes; what leaks is red, modules
 * are green, frames blue, references from C orange; the farther from the leak, the paler; the
 * accumulation point has a bold border; an edge is as wide as its share. Graphviz does the work:
 * only render.c knows DOT and SVG.
 */
#ifndef PYLEAK_GRAPH_RENDER_H
#define PYLEAK_GRAPH_RENDER_H

#include <stdio.h>

#include "graph/explain.h"
#include "graph/web.h"

#define RENDER_NODES_MAX 300 /* Graphviz's time grows faster than that; what is left out is said */

/* What DOT knows of it: nodes, edges, labels, colours, no positions. Labels are text, for all who read
 * DOT; the attribute html has them as render_picture() draws them. caption: a line below the title
 * ("pid 4711 · …"), may be NULL. *ret_nodes (may be NULL): how many boxes. -ENOMEM or -EIO. */
int render_dot(FILE *dot, const struct explanation *x, const char *caption, size_t *ret_nodes,
	struct err *err);

/* The same for what is around objects: those that were asked for are red. */
int render_web(FILE *dot, const struct graph *g, const struct web *w, const char *caption,
	size_t *ret_nodes, struct err *err);

/* Lays out and draws what render_dot() or render_web() wrote, in a format of Graphviz ("svg",
 * "png", "pdf"). Graphviz, its fonts and their threads are a lot of code: its own process is the
 * place for this. -EIO. */
int render_picture(FILE *dot, FILE *picture, const char *format, struct err *err);

/* Loads Graphviz's plugins and the fonts, by drawing something small in that format: to be called
 * before a sandbox closes the file system. -EIO: Graphviz has no plugin for it. */
int render_warm_up(const char *format, struct err *err);

#endif
