/* SPDX-License-Identifier: MIT */
/*
 * A hash map from non-zero u64 (addresses) to u64, open addressing, for up to 2^31 entries.
 * Zero-initialised is empty and valid; 16 bytes an entry at a load of at most 0.7.
 */
#ifndef PYLEAK_UTIL_U64MAP_H
#define PYLEAK_UTIL_U64MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct u64map_slot {
	uint64_t key, value;
};

struct u64map {
	struct u64map_slot *slots;
	size_t n, cap; /* cap is 0 or a power of two */
};

void u64map_release(struct u64map *m);

/* Room for n entries without growing again. -ENOMEM. */
int u64map_reserve(struct u64map *m, size_t n);

/* Sets key (non-zero, else -EINVAL) to value, replacing an older one. 0, or -ENOMEM with the map
 * unchanged. */
int u64map_put(struct u64map *m, uint64_t key, uint64_t value);

/* Pointer to the value of key, valid until the next put, or NULL. */
uint64_t *u64map_get(const struct u64map *m, uint64_t key);

/* Pointer to the value of key, inserted with init if it was not there (*ret_new says so, may be
 * NULL); NULL when out of memory or key is 0. */
uint64_t *u64map_upsert(struct u64map *m, uint64_t key, uint64_t init, bool *ret_new);

/* Removes key; false if it was not there. */
bool u64map_remove(struct u64map *m, uint64_t key);

#endif
