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

#define RENDER_NODES_MAX 300 /* Graphviz's time grows faster than that; what is left out is said */

struct picture;

/* Loads Graphviz's plugins and the fonts, by drawing something small: to be called before a
 * sandbox closes the file system. -EIO: Graphviz has no layout or SVG plugin. */
int render_warm_up(struct err *err);

/* caption: a line below the title ("pid 4711 · …"), may be NULL. -ENOMEM. */
int picture_new(struct picture **ret, const struct explanation *x, const char *caption,
	struct err *err);
int picture_write_dot(struct picture *p, FILE *f, struct err *err);
int picture_write_svg(struct picture *p, FILE *f, struct err *err);
struct picture *picture_free(struct picture *p);

#endif
