/* SPDX-License-Identifier: MIT */
#include "daemon/util/addrset.h"

#include <string.h>

#include "daemon/util/macros.h"

void addrset_release(struct addrset *s)
{
	u64map_release(&s->index);
	free(s->pages);
	*s = (struct addrset){0};
}

static int find_page(struct addrset *s, uint64_t key)
{
	const uint64_t *at;
	bool new;

	if (s->n == s->cap) {
		size_t cap = s->cap ? s->cap + s->cap / 2 : 64;
		struct addrset_page *pages = realloc(s->pages, cap * sizeof(*pages));

		if (!pages)
			return -ENOMEM;
		s->pages = pages;
		s->cap = cap;
	}
	at = u64map_upsert(&s->index, key, s->n, &new);
	if (!at)
		return -ENOMEM;
	if (new)
		s->pages[s->n++] = (struct addrset_page){0};
	s->last = key;
	s->last_at = (size_t)*at;
	return 0;
}

int addrset_add(struct addrset *s, uint64_t addr)
{
	uint64_t key = addr / ADDRSET_PAGE + 1, bit = addr % ADDRSET_PAGE / 8, *word;

	if (addr % 8)
		return 0;
	if (key != s->last && find_page(s, key) < 0)
		return -ENOMEM;
	word = &s->pages[s->last_at].bits[bit / 64];
	if (*word >> bit % 64 & 1)
		return 0;
	*word |= 1ULL << bit % 64;
	return 1;
}

size_t addrset_bytes(const struct addrset *s)
{
	return s->cap * sizeof(*s->pages) + s->index.cap * sizeof(struct u64map_slot);
}
