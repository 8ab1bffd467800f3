/* SPDX-License-Identifier: MIT */
#include "daemon/util/u64map.h"

#include <string.h>

#include "daemon/util/macros.h"

/* Fibonacci hashing: heap addresses share their low bits, the product's high bits do not. */
static size_t slot_of(const struct u64map *m, uint64_t key)
{
	return (size_t)((key * 0x9e3779b97f4a7c15ULL) >> 32) & (m->cap - 1);
}

static struct u64map_slot *find(const struct u64map *m, uint64_t key)
{
	size_t i = slot_of(m, key);

	while (m->slots[i].key && m->slots[i].key != key)
		i = (i + 1) & (m->cap - 1);
	return &m->slots[i];
}

static int grow(struct u64map *m, size_t cap)
{
	struct u64map new = {.cap = cap};

	new.slots = calloc(cap, sizeof(*new.slots));
	if (!new.slots)
		return -ENOMEM;
	for (size_t i = 0; i < m->cap; i++)
		if (m->slots[i].key)
			*find(&new, m->slots[i].key) = m->slots[i];
	new.n = m->n;
	free(m->slots);
	*m = new;
	return 0;
}

void u64map_release(struct u64map *m)
{
	free(m->slots);
	*m = (struct u64map){0};
}

int u64map_reserve(struct u64map *m, size_t n)
{
	size_t cap = m->cap ? m->cap : 64;

	while (cap - cap / 4 - cap / 16 < n)
		cap *= 2;
	return cap > m->cap ? grow(m, cap) : 0;
}

uint64_t *u64map_upsert(struct u64map *m, uint64_t key, uint64_t init, bool *ret_new)
{
	struct u64map_slot *s;
	bool new = false;

	if (!key)
		return NULL;
	s = m->cap ? find(m, key) : NULL;
	if (!s || !s->key) {
		if (u64map_reserve(m, m->n + 1))
			return NULL;
		s = find(m, key);
		*s = (struct u64map_slot){key, init};
		m->n++;
		new = true;
	}
	if (ret_new)
		*ret_new = new;
	return &s->value;
}

int u64map_put(struct u64map *m, uint64_t key, uint64_t value)
{
	uint64_t *v;

	if (!key)
		return -EINVAL;
	v = u64map_upsert(m, key, value, NULL);
	if (!v)
		return -ENOMEM;
	*v = value;
	return 0;
}

uint64_t *u64map_get(const struct u64map *m, uint64_t key)
{
	struct u64map_slot *s;

	if (!m->cap || !key)
		return NULL;
	s = find(m, key);
	return s->key ? &s->value : NULL;
}

bool u64map_remove(struct u64map *m, uint64_t key)
{
	struct u64map_slot *s;
	size_t hole, i;

	if (!m->cap || !key)
		return false;
	s = find(m, key);
	if (!s->key)
		return false;
	/* Backward shift: close the gap so that no tombstones are needed. */
	hole = s - m->slots;
	for (i = (hole + 1) & (m->cap - 1); m->slots[i].key; i = (i + 1) & (m->cap - 1)) {
		size_t home = slot_of(m, m->slots[i].key);

		if (((i - home) & (m->cap - 1)) >= ((i - hole) & (m->cap - 1))) {
			m->slots[hole] = m->slots[i];
			hole = i;
		}
	}
	m->slots[hole].key = 0;
	m->n--;
	return true;
}
