/* SPDX-License-Identifier: MIT */
/*
 * The items with the largest keys of very many: a heap with the least of them on top, so that it
 * takes no more memory than what is wanted. At equal keys the smaller item is the larger one.
 */
#ifndef PYLEAK_GRAPH_MOST_H
#define PYLEAK_GRAPH_MOST_H

#include <stddef.h>
#include <stdint.h>

struct most {
	struct most_item {
		uint64_t key;
		uint32_t item;
	} * items;
	size_t n, limit;
};

/* Of `all` that will be added at most `limit` are kept (0: all). -ENOMEM. */
int most_init(struct most *m, uint64_t limit, uint64_t all);
void most_release(struct most *m);
void most_add(struct most *m, uint64_t key, uint32_t item);

/* When all were added: the largest first. */
void most_sort(struct most *m);

#endif
