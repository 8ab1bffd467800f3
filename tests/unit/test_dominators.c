/* SPDX-License-Identifier: MIT */
/* Dominators against their definition, on small graphs at random and on shapes that go wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sys/mman.h>

#include "daemon/util/macros.h"
#include "graph/dominators.h"
#include "tests/unit/snapshot_builder.h"

struct loaded {
	struct graph g;
	struct reach r;
	struct dominators d;
};

static void load(struct loaded *l, struct sb *b)
{
	struct sb_file file = sb_build(b);
	struct snapshot s;
	int fd = memfd_create("snapshot", MFD_CLOEXEC);

	assert_int_equal(write(fd, file.bytes, file.n), (ssize_t)file.n);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(snapshot_load(&s, fd, "t", 0, NULL), 0);
	assert_int_equal(graph_build(&l->g, &s, NULL), 0);
	assert_int_equal(graph_index_referrers(&l->g, NULL), 0);
	assert_int_equal(reach_init(&l->r, &l->g, NULL), 0);
	assert_int_equal(dominators_init(&l->d, &l->r, NULL), 0);
	close(fd);
	free(file.bytes);
	sb_release(b);
}

static void release(struct loaded *l)
{
	dominators_release(&l->d);
	reach_release(&l->r);
	graph_release(&l->g);
}

/* Which nodes are reached from the roots when one (or GRAPH_NONE) is taken away. */
static void reached_without(const struct loaded *l, uint32_t away, bool *reached)
{
	uint32_t *stack = malloc((l->g.n_nodes + 1) * sizeof(*stack)), n = 0;

	memset(reached, 0, l->g.n_nodes * sizeof(*reached));
	for (uint32_t i = 0; i < l->r.n_sources; i++) {
		uint32_t v = l->r.sources[i].node;

		if (v != away && !reached[v]) {
			reached[v] = true;
			stack[n++] = v;
		}
	}
	while (n) {
		uint32_t u = stack[--n];

		for (uint32_t e = l->g.first[u]; e < l->g.first[u + 1]; e++) {
			uint32_t v = l->g.edges[e].to;

			if (v != away && !reached[v]) {
				reached[v] = true;
				stack[n++] = v;
			}
		}
	}
	free(stack);
}

/* What x retains is what cannot be reached without it. */
static void check(const struct loaded *l)
{
	uint32_t n = l->g.n_nodes;
	bool *all = malloc(n * sizeof(*all)), *less = malloc(n * sizeof(*less));

	reached_without(l, GRAPH_NONE, all);
	for (uint32_t x = 0; x < n; x++) {
		uint64_t bytes = 0, objects = 0;
		uint32_t number = l->d.number[x];

		assert_int_equal(number != 0, all[x]);
		if (!number)
			continue;
		reached_without(l, x, less);
		for (uint32_t y = 0; y < n; y++) {
			if (!all[y] || less[y])
				continue;
			bytes += l->g.s.nodes[y].bytes;
			objects++;
		}
		assert_int_equal(l->d.bytes[number], bytes);
		assert_int_equal(l->d.objects[number], objects);
		/* The nearest one: nothing else dominates in between. */
		if (l->d.idom[number] != DOMINATORS_ROOT) {
			reached_without(l, l->d.node[l->d.idom[number]], less);
			assert_false(less[x]);
		}
	}
	free(all);
	free(less);
}

static void test_by_definition(void **state)
{
	uint32_t seed = 20261126;

	(void)state;
	for (int round = 0; round < 400; round++) {
		struct sb b = {0};
		struct loaded l;
		uint32_t n, edges;

#define RANDOM(below) ((seed = seed * 1664525u + 1013904223u) >> 8) % (below)
		n = 2 + RANDOM(24);
		edges = RANDOM(3 * n);
		for (uint32_t i = 0; i < n; i++) {
			uint32_t x = sb_node(&b, sb_type(&b, i % 3 ? "app.A" : "app.B", SB_HEAP));

			b.nodes[x].bytes = 1 + RANDOM(1000);
		}
		for (uint32_t i = 0; i < edges; i++) {
			uint32_t from = RANDOM(n), to = RANDOM(n);

			sb_edge(&b, from, to, EDGE_PLAIN, 0);
		}
		for (uint32_t i = 0, roots = 1 + RANDOM(3); i < roots; i++) {
			uint32_t to = RANDOM(n);

			sb_root(&b, to, ROOT_MODULE, i % 2 ? "a" : "b", EDGE_PLAIN, "");
		}
		load(&l, &b);
		check(&l);
		release(&l);
	}
}

static uint32_t of(const struct loaded *l, uint32_t node)
{
	return l->d.number[node];
}

/* a -> b, c -> d: a diamond; d is a's. Then d -> e, e -> e. */
static void test_diamond(void **state)
{
	struct sb b = {0};
	struct loaded l;
	uint32_t t, x[5];

	(void)state;
	t = sb_type(&b, "app.A", SB_HEAP);
	for (int i = 0; i < 5; i++)
		x[i] = sb_node(&b, t);
	sb_edge(&b, x[0], x[1], EDGE_PLAIN, 0);
	sb_edge(&b, x[0], x[2], EDGE_PLAIN, 0);
	sb_edge(&b, x[1], x[3], EDGE_PLAIN, 0);
	sb_edge(&b, x[2], x[3], EDGE_PLAIN, 0);
	sb_edge(&b, x[3], x[4], EDGE_PLAIN, 0);
	sb_edge(&b, x[4], x[4], EDGE_PLAIN, 0);
	sb_root(&b, x[0], ROOT_MODULE, "app", EDGE_PLAIN, "");
	load(&l, &b);
	assert_int_equal(l.d.idom[of(&l, x[0])], DOMINATORS_ROOT);
	assert_int_equal(l.d.idom[of(&l, x[3])], of(&l, x[0]));
	assert_int_equal(l.d.idom[of(&l, x[4])], of(&l, x[3]));
	assert_int_equal(l.d.objects[of(&l, x[0])], 5);
	assert_int_equal(l.d.objects[of(&l, x[1])], 1);
	assert_int_equal(l.d.bytes[of(&l, x[3])], 128);
	assert_int_equal(l.d.bytes[DOMINATORS_ROOT], 5 * 64);
	release(&l);
}

/* A list of lists of the same type counts once; what both types share counts for neither. */
static void test_by_type(void **state)
{
	struct sb b = {0};
	struct retained t;
	struct loaded l;
	uint32_t list, session, shared, x[4];

	(void)state;
	list = sb_type(&b, "list", SB_STATIC);
	session = sb_type(&b, "app.Session", SB_HEAP);
	for (int i = 0; i < 3; i++)
		x[i] = sb_node(&b, list);
	x[3] = sb_node(&b, session);
	shared = sb_node(&b, sb_type(&b, "dict", SB_STATIC));
	sb_edge(&b, x[0], x[1], EDGE_INDEX, 0);
	sb_edge(&b, x[1], x[2], EDGE_INDEX, 0);
	sb_edge(&b, x[2], shared, EDGE_INDEX, 0);
	sb_edge(&b, x[3], shared, EDGE_PLAIN, 0);
	sb_root(&b, x[0], ROOT_MODULE, "a", EDGE_PLAIN, "");
	sb_root(&b, x[3], ROOT_MODULE, "b", EDGE_PLAIN, "");
	load(&l, &b);
	assert_int_equal(retained_init(&t, &l.d, &l.g), 0);
	assert_int_equal(t.objects[list], 3);
	assert_int_equal(t.bytes[list], 3 * 64);
	assert_int_equal(t.objects[session], 1);
	retained_release(&t);
	release(&l);
}

/* Shapes on which a search goes deep or quadratic: each is done in far less than the test's time. */
#define MANY 300000u
static void test_shapes(void **state)
{
	enum { CHAIN, STAR, LADDER, HUB, SHAPES };

	(void)state;
	for (int shape = CHAIN; shape < SHAPES; shape++) {
		struct sb b = {0};
		struct loaded l;
		uint32_t t, first, last;

		t = sb_type(&b, "app.A", SB_HEAP);
		first = sb_node(&b, t);
		for (uint32_t i = 1; i < MANY; i++)
			sb_node(&b, t);
		last = MANY - 1;
		for (uint32_t i = 1; i < MANY; i++) {
			if (shape == CHAIN || shape == LADDER)
				sb_edge(&b, i - 1, i, EDGE_PLAIN, 0);
			/* A way around every second one, and back from the end. */
			if (shape == LADDER && i + 1 < MANY)
				sb_edge(&b, i - 1, i + 1, EDGE_PLAIN, 0);
			if (shape == LADDER)
				sb_edge(&b, i, i - 1, EDGE_PLAIN, 0);
			if (shape == STAR || shape == HUB)
				sb_edge(&b, first, i, EDGE_PLAIN, 0);
			if (shape == HUB)
				sb_edge(&b, i, i == last ? first : last, EDGE_PLAIN, 0);
		}
		sb_root(&b, first, ROOT_MODULE, "app", EDGE_PLAIN, "");
		load(&l, &b);
		assert_int_equal(l.d.objects[of(&l, first)], MANY);
		assert_int_equal(l.d.objects[of(&l, last)], 1);
		assert_int_equal(l.d.idom[of(&l, last)],
			shape == CHAIN ? of(&l, last - 1) : of(&l, first));
		release(&l);
	}
}

static void test_stop(void **state)
{
	volatile sig_atomic_t stop = 1;
	struct dominators d;
	struct err err = {{0}};
	struct sb b = {0};
	struct loaded l;

	(void)state;
	for (uint32_t i = 0, t = sb_type(&b, "app.A", SB_HEAP); i < 20000; i++) {
		sb_node(&b, t);
		if (i)
			sb_edge(&b, i - 1, i, EDGE_PLAIN, 0);
	}
	sb_root(&b, 0, ROOT_MODULE, "app", EDGE_PLAIN, "");
	load(&l, &b);
	l.g.stop = &stop;
	assert_int_equal(dominators_init(&d, &l.r, &err), -ETIME);
	assert_non_null(strstr(err.msg, "too long"));
	release(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_by_definition),
		cmocka_unit_test(test_diamond),
		cmocka_unit_test(test_by_type),
		cmocka_unit_test(test_shapes),
		cmocka_unit_test(test_stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
