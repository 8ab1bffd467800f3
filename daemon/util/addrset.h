/* SPDX-License-Identifier: MIT */
/*
 * A set of addresses of objects (multiples of 8), which lie close together: a bit for each place in
 * a page, pages in a hash map. Of neighbours all but the first are found in the cache, which a hash of
 * the addresses themselves would miss each time. Zero-initialised is empty and valid.
 */
#ifndef PYLEAK_UTIL_ADDRSET_H
#define PYLEAK_UTIL_ADDRSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/util/u64map.h"

#define ADDRSET_PAGE 4096

struct addrset_page {
	uint64_t bits[ADDRSET_PAGE / 8 / 64];
};

struct addrset {
	struct u64map index; /* number of a page + 1 -> where it is in pages */
	struct addrset_page *pages;
	size_t n, cap;
	uint64_t last; /* key of the page asked for last, 0: none */
	size_t last_at;
};

void addrset_release(struct addrset *s);

/* 1: it is new; 0: it was in the set, or is no multiple of 8 and can be no object; -ENOMEM. */
int addrset_add(struct addrset *s, uint64_t addr);

/* Memory that it takes. */
size_t addrset_bytes(const struct addrset *s);

#endif
