/* SPDX-License-Identifier: MIT */
/*
 * Which instances of a type leak, rather than having been there all along or being about to go.
 * A snapshot has the objects that the collector tracks in the order of its lists, old to young: the
 * oldest are those from before the growth began, when it is known how many have come since; those in
 * the youngest generation may be gone a moment later. A collection changes the order a little
 * (move_unreachable() puts what it meets late behind the others), so this is a choice, not a proof.
 */
#ifndef PYLEAK_GRAPH_CHOSEN_H
#define PYLEAK_GRAPH_CHOSEN_H

#include "graph/graph.h"

enum chosen_how {
	CHOSEN_ALL,       /* nothing tells them apart */
	CHOSEN_NOT_YOUNG, /* without the youngest generation */
	CHOSEN_GROWN,     /* those that came since the growth began, of these */
};

struct chosen {
	uint8_t *mark; /* 1 for a chosen node */
	uint64_t n;
	enum chosen_how how;
};

/* For the types whose same_name is `type`; grown: how many more there are since the growth began, 0:
 * not known. -ENOMEM. */
int chosen_init(struct chosen *c, const struct graph *g, uint32_t type, uint64_t grown);
void chosen_release(struct chosen *c);

/* "those that came since the growth began, …" */
const char *chosen_text(const struct chosen *c);

#endif
