/* SPDX-License-Identifier: MIT */
/*
 * What holds objects without being an object of the heap itself: entries of sys.modules, frames of
 * every thread, the interpreter's own fields, dicts of static types.
 */
#ifndef PYLEAK_CAPTURE_ROOTS_H
#define PYLEAK_CAPTURE_ROOTS_H

#include "capture/graph.h"
#include "capture/strings.h"
#include "capture/view.h"

/* Adds roots to the graph and queues what they hold if it is in no ring. -ENOMEM. */
int roots_collect(struct graph *g, struct view *v, struct strings *s);

struct roots_thread {
	uint64_t ts, ident; /* its state; pthread_self() */
	char name[128];     /* as threading calls it, else a number */
};

/* The threads that Python knows, the newest first; how many, at most max. */
size_t roots_threads(struct view *v, struct roots_thread *ret, size_t max);

/* Dicts and bases of the static types among the graph's types and nodes from *at_type and
 * *at_node on (both are moved to the end). Number of roots added, or -ENOMEM. */
int roots_static_types(
	struct graph *g, struct view *v, struct strings *s, size_t *at_type, size_t *at_node);

#endif
