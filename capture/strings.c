/* SPDX-License-Identifier: MIT */
#include "capture/strings.h"

#include <string.h>

#include "daemon/util/macros.h"

#define BYTES_MAX ((size_t)64 << 20)
#define TEXTS_MAX (4u << 20)

void strings_release(struct strings *s)
{
	free(s->bytes);
	free(s->v);
	free(s->table);
	memset(s, 0, sizeof(*s));
}

static uint64_t hash(const char *text, size_t n)
{
	uint64_t h = 0xcbf29ce484222325ULL; /* FNV-1a */

	for (size_t i = 0; i < n; i++)
		h = (h ^ (uint8_t)text[i]) * 0x100000001b3ULL;
	return h ^ h >> 32;
}

static uint32_t *slot(const struct strings *s, const char *text, size_t n)
{
	size_t mask = s->table_size - 1;

	for (size_t i = hash(text, n) & mask;; i = (i + 1) & mask) {
		uint32_t k = s->table[i];

		if (k == 0 || (s->v[k].length == n && memcmp(s->bytes + s->v[k].at, text, n) == 0))
			return &s->table[i];
	}
}

static int grow_table(struct strings *s)
{
	size_t size = s->table_size ? 2 * s->table_size : 1024;
	uint32_t *old = s->table;

	s->table = calloc(size, sizeof(*s->table));
	if (!s->table) {
		s->table = old;
		return -ENOMEM;
	}
	s->table_size = size;
	for (uint32_t i = 1; i < s->n; i++)
		*slot(s, s->bytes + s->v[i].at, s->v[i].length) = i;
	free(old);
	return 0;
}

static int reserve(struct strings *s, size_t n)
{
	if (s->n + 1 >= s->cap) {
		uint32_t cap = s->cap ? 2 * s->cap : 1024;
		struct strings_entry *v = realloc(s->v, cap * sizeof(*v));

		if (!v)
			return -ENOMEM;
		s->v = v;
		s->cap = cap;
	}
	if (s->n == 0)
		s->v[s->n++] = (struct strings_entry){0, 0};
	if (s->n_bytes + n > s->cap_bytes || !s->bytes) {
		size_t cap = MAX(s->cap_bytes ? 2 * s->cap_bytes : 65536, s->n_bytes + n);
		char *b = realloc(s->bytes, cap);

		if (!b)
			return -ENOMEM;
		s->bytes = b;
		s->cap_bytes = cap;
	}
	return (size_t)s->n * 2 >= s->table_size ? grow_table(s) : 0;
}

uint32_t strings_add(struct strings *s, const char *text, size_t n)
{
	uint32_t *at;

	if (s->n_bytes + n > BYTES_MAX || s->n >= TEXTS_MAX || reserve(s, n) < 0 || n == 0)
		return 0;
	at = slot(s, text, n);
	if (*at != 0)
		return *at;
	memcpy(s->bytes + s->n_bytes, text, n);
	s->v[s->n] = (struct strings_entry){.at = s->n_bytes, .length = (uint32_t)n};
	s->n_bytes += n;
	*at = s->n;
	return s->n++;
}
