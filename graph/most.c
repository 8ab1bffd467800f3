/* SPDX-License-Identifier: MIT */
#include "graph/most.h"

#include <stdbool.h>

#include "daemon/util/macros.h"

static bool is_less(const struct most_item *a, const struct most_item *b)
{
	return a->key != b->key ? a->key < b->key : a->item > b->item;
}

static void sift_down(struct most *m, size_t i)
{
	for (;;) {
		size_t least = i, child = 2 * i + 1;
		struct most_item t;

		for (size_t k = child; k < MIN(child + 2, m->n); k++) {
			if (is_less(&m->items[k], &m->items[least]))
				least = k;
		}
		if (least == i)
			return;
		t = m->items[i];
		m->items[i] = m->items[least];
		m->items[least] = t;
		i = least;
	}
}

static int by_key(const void *a, const void *b)
{
	return is_less(a, b) ? 1 : is_less(b, a) ? -1 : 0;
}

int most_init(struct most *m, uint64_t limit, uint64_t all)
{
	*m = (struct most){.limit = (size_t)(limit ? MIN(limit, all) : all)};
	m->items = malloc(MAX(m->limit, (size_t)1) * sizeof(*m->items));
	return m->items ? 0 : -ENOMEM;
}

void most_release(struct most *m)
{
	free(m->items);
}

void most_add(struct most *m, uint64_t key, uint32_t item)
{
	struct most_item new = {key, item};

	if (m->n < m->limit) {
		size_t i = m->n++;

		for (; i > 0 && is_less(&new, &m->items[(i - 1) / 2]); i = (i - 1) / 2)
			m->items[i] = m->items[(i - 1) / 2];
		m->items[i] = new;
	} else if (m->limit && is_less(&m->items[0], &new)) {
		m->items[0] = new;
		sift_down(m, 0);
	}
}

void most_sort(struct most *m)
{
	qsort(m->items, m->n, sizeof(*m->items), by_key);
}
