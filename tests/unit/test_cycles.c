/* SPDX-License-Identifier: MIT */
/* Cycles against their definition on random graphs, and the largest of many. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sys/mman.h>

#include "daemon/util/macros.h"
#include "graph/cycles.h"
#include "graph/most.h"
#include "tests/unit/snapshot_builder.h"

#define RANDOM(below) ((seed = seed * 1664525u + 1013904223u) >> 8) % (below)
#define N_MAX         20

static void load(struct graph *g, struct reach *r, struct cycles *c, struct sb *b)
{
	struct sb_file file = sb_build(b);
	struct snapshot s;
	int fd = memfd_create("snapshot", MFD_CLOEXEC);

	assert_int_equal(write(fd, file.bytes, file.n), (ssize_t)file.n);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(snapshot_load(&s, fd, "t", 0, NULL), 0);
	assert_int_equal(graph_build(g, &s, NULL), 0);
	assert_int_equal(reach_init(r, g, NULL), 0);
	assert_int_equal(cycles_find(c, r, NULL), 0);
	close(fd);
	free(file.bytes);
	sb_release(b);
}

static void release(struct graph *g, struct reach *r, struct cycles *c)
{
	cycles_release(c);
	reach_release(r);
	graph_release(g);
}

/* leads[u][v]: there is a way of one reference or more from u to v. */
static void all_ways(const struct graph *g, bool leads[N_MAX][N_MAX])
{
	memset(leads, 0, sizeof(bool) * N_MAX * N_MAX);
	for (uint32_t e = 0; e < g->n_edges; e++)
		leads[g->edges[e].from][g->edges[e].to] = true;
	for (uint32_t k = 0; k < g->n_nodes; k++)
		for (uint32_t u = 0; u < g->n_nodes; u++)
			for (uint32_t v = 0; v < g->n_nodes; v++)
				leads[u][v] |= leads[u][k] && leads[k][v];
}

static void test_by_definition(void **state)
{
	uint32_t seed = 6;
	unsigned int found = 0;

	(void)state;
	for (int round = 0; round < 600; round++) {
		bool leads[N_MAX][N_MAX];
		uint32_t cycle_of[N_MAX] = {0}, n, edges;
		struct sb b = {0};
		struct cycles c;
		struct graph g;
		struct reach r;

		n = 1 + RANDOM(N_MAX);
		edges = RANDOM(2 * n);
		for (uint32_t i = 0; i < n; i++)
			sb_node(&b, sb_type(&b, "app.A", SB_HEAP));
		for (uint32_t i = 0; i < edges; i++) {
			uint32_t from = RANDOM(n), to = RANDOM(n);

			sb_edge(&b, from, to, EDGE_PLAIN, 0);
		}
		if (round % 3 == 0)
			sb_root(&b, 0, ROOT_MODULE, "app", EDGE_PLAIN, "");
		load(&g, &r, &c, &b);
		all_ways(&g, leads);
		for (uint32_t i = 0; i < c.n_cycles; i++) {
			assert_int_equal(c.cycles[i].bytes, 64 * c.cycles[i].n);
			assert_true(!i || c.cycles[i].n <= c.cycles[i - 1].n);
			for (uint32_t k = 0; k < c.cycles[i].n; k++)
				cycle_of[c.nodes[c.cycles[i].first + k]] = i + 1;
		}
		for (uint32_t u = 0; u < n; u++) {
			bool free = r.dist[u] == REACH_NONE;

			assert_int_equal(cycle_of[u] != 0, free && leads[u][u]);
			for (uint32_t v = 0; v < n && cycle_of[u]; v++)
				assert_int_equal(
					u == v || cycle_of[v] == cycle_of[u],
					u == v || (leads[u][v] && leads[v][u]));
		}
		found += c.n_cycles;
		release(&g, &r, &c);
	}
	assert_true(found > 100);
}

/* A ring so large that recursion would end the process. */
static void test_large(void **state)
{
	struct sb b = {0};
	struct cycles c;
	struct graph g;
	struct reach r;
	const uint32_t n = 300000;

	(void)state;
	for (uint32_t i = 0, t = sb_type(&b, "app.A", SB_HEAP); i < n; i++)
		sb_node(&b, t);
	for (uint32_t i = 0; i < n; i++)
		sb_edge(&b, i, (i + 1) % n, EDGE_PLAIN, 0);
	load(&g, &r, &c, &b);
	assert_int_equal(c.n_cycles, 1);
	assert_int_equal(c.cycles[0].n, n);
	release(&g, &r, &c);
}

static void test_most(void **state)
{
	uint32_t seed = 26;
	struct most m;

	(void)state;
	for (uint64_t limit = 0; limit < 12; limit++) {
		uint64_t keys[40], sum = 0;

		assert_int_equal(most_init(&m, limit, ARRAY_SIZE(keys)), 0);
		for (uint32_t i = 0; i < ARRAY_SIZE(keys); i++) {
			keys[i] = RANDOM(30);
			sum += keys[i];
			most_add(&m, keys[i], i);
		}
		most_sort(&m);
		assert_int_equal(m.n, limit ? limit : ARRAY_SIZE(keys));
		for (size_t i = 0; i < m.n; i++) {
			size_t larger = 0;

			/* Exactly those before it are larger, or equal and earlier. */
			for (uint32_t k = 0; k < ARRAY_SIZE(keys); k++)
				larger += keys[k] > m.items[i].key ||
					  (keys[k] == m.items[i].key && k < m.items[i].item);
			assert_int_equal(larger, i);
			assert_int_equal(keys[m.items[i].item], m.items[i].key);
			sum -= m.items[i].key;
		}
		assert_true(limit || sum == 0);
		most_release(&m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_by_definition),
		cmocka_unit_test(test_large),
		cmocka_unit_test(test_most),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
