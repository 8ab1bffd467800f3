/* SPDX-License-Identifier: MIT */
#include "graph/chosen.h"

/* Marks the instances from number `first` on; old: not the youngest generation. How many. */
static uint64_t mark(
	struct chosen *c, const struct graph *g, uint32_t type, uint64_t first, bool old)
{
	uint64_t at = 0, n = 0;

	for (uint32_t i = 0; i < g->n_nodes; i++) {
		const struct snapshot_node *node = &g->s.nodes[i];

		if (g->same_name[node->type] != type || at++ < first ||
			(old && node->flags & SNAPSHOT_NODE_YOUNG))
			continue;
		c->mark[i] = 1;
		n++;
	}
	return n;
}

int chosen_init(struct chosen *c, const struct graph *g, uint32_t type, uint64_t grown)
{
	uint64_t all = 0, first;

	*c = (struct chosen){.mark = calloc(MAX(g->n_nodes, 1u), 1)};
	if (!c->mark)
		return -ENOMEM;
	for (uint32_t i = 0; i < g->n_nodes; i++)
		all += g->same_name[g->s.nodes[i].type] == type;
	first = grown && grown < all ? all - grown : 0;
	c->n = mark(c, g, type, first, true);
	if (!c->n) /* the collector has not been at work since */
		c->n = mark(c, g, type, first, false);
	c->how = first ? CHOSEN_GROWN : c->n < all ? CHOSEN_NOT_YOUNG : CHOSEN_ALL;
	return 0;
}

void chosen_release(struct chosen *c)
{
	free(c->mark);
	*c = (struct chosen){0};
}

const char *chosen_text(const struct chosen *c)
{
	switch (c->how) {
	case CHOSEN_GROWN:
		return "those that came since the growth began, by their place in the collector's "
		       "lists, without its youngest generation";
	case CHOSEN_NOT_YOUNG:
		return "all but those in the collector's youngest generation, which may go at once";
	default:
		return "all of them";
	}
}
