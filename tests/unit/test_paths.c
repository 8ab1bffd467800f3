/* SPDX-License-Identifier: MIT */
/* Paths: which one wins, how they group, and that size and shape of the graph do no harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sys/mman.h>
#include <time.h>

#include "daemon/util/macros.h"
#include "graph/explain.h"
#include "tests/unit/snapshot_builder.h"

/* A heap under test: built by hand, then explained. */
struct heap {
	struct sb b;
	struct explanation x;
	struct err err;
	uint32_t dict, list, tuple, function, leak;
};

static int set_up(void **state)
{
	struct heap *h = calloc(1, sizeof(*h));

	assert_non_null(h);
	h->dict = sb_type(&h->b, "dict", SB_STATIC);
	h->list = sb_type(&h->b, "list", SB_STATIC);
	h->tuple = sb_type(&h->b, "tuple", SB_STATIC);
	h->function = sb_type(&h->b, "function", SB_STATIC);
	h->leak = sb_type(&h->b, "app.Leak", SB_HEAP);
	*state = h;
	return 0;
}

static int tear_down(void **state)
{
	struct heap *h = *state;

	explanation_release(&h->x);
	sb_release(&h->b);
	free(h);
	return 0;
}

static const struct explain_suspect *explain_grown(struct heap *h, const char *type, uint64_t grown)
{
	struct explain_options o = {.types = &type, .grown = &grown, .n_types = 1};
	struct sb_file file = sb_build(&h->b);
	int fd = memfd_create("snapshot", MFD_CLOEXEC);
	struct snapshot s;
	struct graph g;

	assert_int_equal(write(fd, file.bytes, file.n), (ssize_t)file.n);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(snapshot_load(&s, fd, "t", 0, &h->err), 0);
	close(fd);
	free(file.bytes);
	assert_int_equal(graph_build(&g, &s, &h->err), 0);
	explanation_release(&h->x);
	assert_int_equal(explain(&h->x, &g, &o, &h->err), 0);
	graph_release(&g);
	assert_int_equal(h->x.n_suspects, 1);
	return &h->x.suspects[0];
}

static const struct explain_suspect *explain_heap(struct heap *h, const char *type)
{
	return explain_grown(h, type, 0);
}

/* "module app | .SESSIONS dict | ['…'] app.Leak" */
static void assert_path(const struct explain_path *path, uint64_t instances, const char *expected)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	assert_non_null(f);
	fprintf(f, "%s %s", explain_root_kind(path->root), path->root_name);
	for (size_t i = 0; i < path->n_steps; i++)
		fprintf(f, " | %s %s%s", path->steps[i].edge, path->steps[i].type,
			path->steps[i].repeats ? "*" : "");
	fclose(f);
	assert_string_equal(text, expected);
	assert_int_equal(path->instances, instances);
}

static uint32_t new_leak(struct heap *h)
{
	return sb_node(&h->b, h->leak);
}

static uint32_t named(struct heap *h, uint32_t from, const char *name, uint32_t type)
{
	uint32_t node = sb_node(&h->b, type);

	sb_named(&h->b, from, node, EDGE_KEY, name);
	return node;
}

/* Each instance counts once, all of them count, and the groups are in order. */
static void test_shares(void **state)
{
	struct heap *h = *state;
	uint32_t app = sb_module(&h->b, "app"), sessions = named(h, app, "SESSIONS", h->dict),
		 users = named(h, app, "USERS", h->dict),
		 user = sb_type(&h->b, "app.User", SB_HEAP);
	const struct explain_suspect *s;

	for (int i = 0; i < 70; i++) {
		uint32_t x = new_leak(h);

		sb_edge(&h->b, sessions, x, EDGE_ITEM, 0);
		if (i < 20) /* a second, longer way to it counts for nothing */
			sb_named(&h->b, named(h, app, "OTHER", h->dict), x, EDGE_DICT_KEY, "");
	}
	for (int i = 0; i < 3; i++) {
		uint32_t u = sb_node(&h->b, user), d = sb_node(&h->b, h->dict), l;

		sb_edge(&h->b, users, u, EDGE_ITEM, 0);
		sb_edge(&h->b, u, d, EDGE_DICT, 0);
		l = named(h, d, "sessions", h->list);
		for (uint32_t k = 0; k < 10; k++)
			sb_edge(&h->b, l, new_leak(h), EDGE_INDEX, k);
	}
	s = explain_heap(h, "app.Leak");
	assert_int_equal(s->instances, 100);
	assert_int_equal(s->bytes, 6400);
	assert_int_equal(s->n_paths, 2);
	assert_path(&s->paths[0], 70, "module app | .SESSIONS dict | ['…'] app.Leak");
	assert_float_equal(s->paths[0].share, 0.7, 1e-9);
	assert_int_equal(s->paths[0].accumulation, 0);
	assert_path(&s->paths[1], 30,
		"module app | .USERS dict | ['…'] app.User | .sessions list | […] app.Leak");
	assert_int_equal(s->paths[1].accumulation, 0);
	assert_int_equal(s->paths[1].steps[1].nodes, 3);
	assert_int_equal(s->other_paths, 0);
}

/* Old ones were there before, young ones may go: who holds those in between comes first. */
static void test_which_leak(void **state)
{
	struct heap *h = *state;
	uint32_t app = sb_module(&h->b, "app"), pool = named(h, app, "POOL", h->list),
		 cache = named(h, app, "CACHE", h->list), local = sb_node(&h->b, h->list), x;
	const struct explain_suspect *s;

	sb_root(&h->b, local, ROOT_FRAME, "MainThread in f at app.py:1", EDGE_LOCAL, "l");
	for (uint32_t i = 0; i < 10; i++)
		sb_edge(&h->b, pool, new_leak(h), EDGE_INDEX, i);
	for (uint32_t i = 0; i < 6; i++)
		sb_edge(&h->b, cache, new_leak(h), EDGE_INDEX, i);
	for (uint32_t i = 0; i < 2; i++) {
		x = new_leak(h);
		h->b.nodes[x].flags |= SNAPSHOT_NODE_YOUNG;
		sb_edge(&h->b, local, x, EDGE_INDEX, i);
	}
	s = explain_grown(h, "app.Leak", 8);
	assert_int_equal(s->instances, 18);
	assert_int_equal(s->leaking, 6);
	assert_int_equal(s->n_paths, 3);
	assert_path(&s->paths[0], 6, "module app | .CACHE list | […] app.Leak");
	assert_int_equal(s->paths[0].leaking, 6);
	assert_string_equal(s->paths[0].sentence, "33 % of 18 app.Leak are held by app.CACHE, a "
						  "list in module app; all of the 6 that "
						  "came since the growth began");
	assert_path(&s->paths[1], 10, "module app | .POOL list | […] app.Leak");
	assert_int_equal(s->paths[1].leaking, 0);
	assert_non_null(strstr(s->paths[1].sentence, "; none of the 6"));

	/* nobody knows since when: only the young ones are told apart */
	s = explain_heap(h, "app.Leak");
	assert_int_equal(s->leaking, 16);
	assert_path(&s->paths[0], 10, "module app | .POOL list | […] app.Leak");
	assert_null(strstr(s->paths[0].sentence, "growth"));
	assert_non_null(strstr(s->chosen, "youngest"));

	/* all grew, and what is young is all there is of it */
	s = explain_grown(h, "app.Leak", 18);
	assert_int_equal(s->leaking, 16);
	s = explain_grown(h, "app.Leak", 2);
	assert_int_equal(s->leaking, 2);
	assert_int_equal(s->paths[0].root, PATH_FRAME);
}

static void test_ties(void **state)
{
	struct heap *h = *state;
	/* The file says them in the wrong order. */
	uint32_t x = new_leak(h), y = new_leak(h), z = new_leak(h), l = sb_node(&h->b, h->list),
		 l2 = sb_node(&h->b, h->list), l3 = sb_node(&h->b, h->list), zebra, ant;
	const struct explain_suspect *s;

	sb_edge(&h->b, l, x, EDGE_INDEX, 0);
	sb_edge(&h->b, l2, x, EDGE_INDEX, 0);
	sb_edge(&h->b, l, y, EDGE_INDEX, 1);
	sb_edge(&h->b, l2, y, EDGE_INDEX, 1);
	sb_edge(&h->b, l, z, EDGE_INDEX, 2);
	sb_root(&h->b, l, ROOT_FRAME, "MainThread in f at app.py:1", EDGE_LOCAL, "mine");
	sb_root(&h->b, l2, ROOT_INTERPRETER, "atexit", EDGE_PLAIN, "");
	zebra = sb_module(&h->b, "zebra");
	ant = sb_module(&h->b, "ant");
	sb_named(&h->b, zebra, l3, EDGE_KEY, "L");
	sb_named(&h->b, ant, l3, EDGE_KEY, "L");
	sb_edge(&h->b, l3, x, EDGE_INDEX, 7);
	s = explain_heap(h, "app.Leak");
	assert_int_equal(s->n_paths, 3);
	/* Equal numbers: in the order of the roots. */
	assert_path(&s->paths[0], 1, "module ant | .L list | [7] app.Leak");
	assert_path(&s->paths[1], 1, "interpreter atexit |  list | [1] app.Leak");
	assert_path(&s->paths[2], 1,
		"frame MainThread in f at app.py:1 | local mine list | [2] app.Leak");
}

/* A frame's local is not nearer than a module's global. */
static void test_module_before_frame(void **state)
{
	struct heap *h = *state;
	uint32_t app = sb_module(&h->b, "app"), l = named(h, app, "CACHE", h->list);
	const struct explain_suspect *s;

	sb_root(&h->b, l, ROOT_FRAME, "MainThread in main at app.py:9", EDGE_LOCAL, "cache");
	for (uint32_t i = 0; i < 9; i++)
		sb_edge(&h->b, l, new_leak(h), EDGE_INDEX, i);
	s = explain_heap(h, "app.Leak");
	assert_int_equal(s->n_paths, 1);
	assert_path(&s->paths[0], 9, "module app | .CACHE list | […] app.Leak");
}

/* objgraph's tutorial: a default argument. */
static void test_default_argument(void **state)
{
	struct heap *h = *state;
	uint32_t app = sb_module(&h->b, "app"), f = named(h, app, "f", h->function),
		 t = sb_node(&h->b, h->tuple), l = sb_node(&h->b, h->list);
	const struct explain_suspect *s;

	h->b.nodes[f].name = sb_string(&h->b, "f");
	sb_named(&h->b, f, t, EDGE_ATTR, "__defaults__");
	sb_edge(&h->b, t, l, EDGE_INDEX, 0);
	for (uint32_t i = 0; i < 5; i++)
		sb_edge(&h->b, l, new_leak(h), EDGE_INDEX, i);
	s = explain_heap(h, "app.Leak");
	assert_int_equal(s->n_paths, 1);
	assert_path(&s->paths[0], 5,
		"module app | .f function | .__defaults__ tuple | [0] list | […] app.Leak");
	assert_string_equal(s->paths[0].expression, "app.f.__defaults__[0][…]");
	assert_int_equal(s->paths[0].accumulation, 2);
	assert_string_equal(s->paths[0].sentence,
		"All 5 app.Leak are held by app.f.__defaults__[0], a list in module app");
	assert_string_equal(s->paths[0].steps[0].label, "f");
	assert_string_equal(s->paths[0].steps[3].label, "Leak");
}

/* A key is shown when all go through it, by name in a namespace. */
static void test_labels(void **state)
{
	struct heap *h = *state;
	uint32_t app = sb_module(&h->b, "app"), d = named(h, app, "STATE", h->dict), l, cell, set;
	const struct explain_suspect *s;

	l = named(h, d, "sessi'ons", h->list);
	sb_edge(&h->b, l, new_leak(h), EDGE_INDEX, 4);
	sb_edge(&h->b, l, new_leak(h), EDGE_INDEX, 5);
	sb_named(&h->b, d, new_leak(h), EDGE_KEY, "a");
	sb_named(&h->b, d, new_leak(h), EDGE_KEY, "b");
	sb_named(&h->b, d, new_leak(h), EDGE_KEY, "c");
	cell = named(h, app, "cell", sb_type(&h->b, "cell", SB_STATIC));
	sb_named(&h->b, cell, new_leak(h), EDGE_CELL, "x");
	set = named(h, app, "S", sb_type(&h->b, "set", SB_STATIC));
	for (int i = 0; i < 4; i++)
		sb_edge(&h->b, set, new_leak(h), EDGE_MEMBER, 0);
	s = explain_heap(h, "app.Leak");
	assert_int_equal(s->n_paths, 4);
	assert_path(&s->paths[0], 4, "module app | .S set | {…} app.Leak");
	assert_path(&s->paths[1], 3, "module app | .STATE dict | ['…'] app.Leak");
	assert_path(
		&s->paths[2], 2, "module app | .STATE dict | ['sessi\\'ons'] list | […] app.Leak");
	assert_path(&s->paths[3], 1, "module app | .cell cell | cell x app.Leak");
}

/* An object used as a dict by setattr(): not a path for every name. */
static void test_many_names_are_one_path(void **state)
{
	struct heap *h = *state;
	uint32_t app = sb_module(&h->b, "app"),
		 o = named(h, app, "ns", sb_type(&h->b, "app.N", SB_HEAP)),
		 d = sb_node(&h->b, h->dict);
	const struct explain_suspect *s;
	char name[16];

	sb_edge(&h->b, o, d, EDGE_DICT, 0);
	for (int i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "k%d", i);
		sb_named(&h->b, d, new_leak(h), EDGE_KEY, name);
	}
	s = explain_heap(h, "app.Leak");
	assert_int_equal(s->n_paths, 1);
	assert_path(&s->paths[0], 1000, "module app | .ns app.N | .… app.Leak");
}

static void test_c_reference(void **state)
{
	struct heap *h = *state;
	uint32_t conn = sb_node(&h->b, sb_type(&h->b, "lib.Connection", SB_HEAP)), x;
	const struct explain_suspect *s;

	h->b.nodes[conn].refcount = 1;
	for (uint32_t i = 0; i < 3; i++) {
		x = new_leak(h);
		sb_edge(&h->b, conn, x, EDGE_PLAIN, 0);
	}
	x = new_leak(h); /* a reference-count bug */
	h->b.nodes[x].refcount = 1;
	x = new_leak(h); /* immortal: its count says nothing; nothing else is known of it */
	h->b.nodes[x].refcount = 1 << 30;
	h->b.nodes[x].flags |= SNAPSHOT_NODE_IMMORTAL;
	s = explain_heap(h, "app.Leak");
	assert_int_equal(s->n_paths, 3);
	assert_path(&s->paths[0], 3, "c-reference C code | C reference lib.Connection |  app.Leak");
	assert_path(&s->paths[1], 1, "c-reference C code | C reference app.Leak");
	assert_path(&s->paths[2], 1,
		"interpreter unreachable cycle (waits for the collector) |  app.Leak");
}

/* What the capture found in memory has a name, and lost references have one. */
static void test_named_c_reference(void **state)
{
	struct heap *h = *state;
	uint32_t conn = sb_node(&h->b, sb_type(&h->b, "lib.Connection", SB_HEAP)), x, lost[6];
	const struct explain_suspect *s;

	h->b.nodes[conn].refcount = 1;
	sb_holder(&h->b, conn, HOLDER_IMAGE, "lib.so: cache+0x8");
	sb_edge(&h->b, conn, new_leak(h), EDGE_PLAIN, 0);
	for (uint32_t i = 0; i < 6; i++) {
		lost[i] = new_leak(h);
		h->b.nodes[lost[i]].refcount = 1;
	}
	for (uint32_t i = 6; i-- > 0;) /* a file may have them in any order */
		sb_holder(&h->b, lost[i], i < 4 ? HOLDER_NOWHERE : HOLDER_STACK,
			i < 4 ? HOLDER_LOST : "C stack of worker");
	x = sb_node(&h->b, h->list); /* held by a root: what is said of it does not count */
	sb_root(&h->b, x, ROOT_MODULE, "app", EDGE_PLAIN, "");
	sb_holder(&h->b, x, HOLDER_BLOCK, "malloc'ed block");
	s = explain_heap(h, "app.Leak");
	assert_int_equal(s->n_paths, 3);
	assert_path(&s->paths[0], 4, "c-reference a lost reference | C reference app.Leak");
	assert_non_null(strstr(s->paths[0].sentence, "Py_DECREF() is missing"));
	assert_path(&s->paths[1], 2, "c-reference C stack of worker | C reference app.Leak");
	assert_string_equal(
		s->paths[1].sentence, "29 % of 7 app.Leak are held by C code: C stack of worker");
	assert_path(&s->paths[2], 1,
		"c-reference lib.so: cache+0x8 | C reference lib.Connection |  app.Leak");
}

/* A class that garbage keeps is not held by C code because its instances count. */
static void test_class_of_garbage(void **state)
{
	struct heap *h = *state;
	uint32_t class = sb_node(&h->b, sb_type(&h->b, "type", SB_STATIC)), l, x;
	const struct explain_suspect *s;

	h->b.types[h->leak].addr = sb_addr(class);
	l = sb_node(&h->b, h->list);
	sb_named(&h->b, class, l, EDGE_ATTR, "instances");
	for (uint32_t i = 0; i < 3; i++) {
		x = new_leak(h); /* no EDGE_TYPE, as 3.8's tp_traverse has none */
		sb_edge(&h->b, l, x, EDGE_INDEX, i);
		h->b.nodes[class].refcount++;
	}
	s = explain_heap(h, "app.Leak");
	assert_int_equal(s->n_paths, 1);
	assert_int_equal(s->paths[0].root, PATH_UNREACHABLE);
	/* The same with one reference more. */
	h->b.nodes[class].refcount++;
	s = explain_heap(h, "app.Leak");
	assert_path(&s->paths[0], 3,
		"c-reference C code | C reference type | .instances list | […] app.Leak");
}

static void test_garbage_cycle(void **state)
{
	struct heap *h = *state;
	const struct explain_suspect *s;

	sb_module(&h->b, "app");
	for (int i = 0; i < 10; i++) {
		uint32_t x = new_leak(h), d = sb_node(&h->b, h->dict), l;

		sb_edge(&h->b, x, d, EDGE_DICT, 0);
		l = named(h, d, "children", h->list);
		sb_edge(&h->b, l, x, EDGE_INDEX, 0);
	}
	s = explain_heap(h, "app.Leak");
	assert_int_equal(s->n_paths, 1);
	assert_true(s->paths[0].is_cycle);
	assert_path(&s->paths[0], 10,
		"interpreter unreachable cycle (waits for the collector) |  app.Leak | .children "
		"list | "
		"[0] app.Leak");
}

/* 100 000 deep: nothing recurses, and the answer is one line. */
static void test_deep_list(void **state)
{
	struct heap *h = *state;
	uint32_t app = sb_module(&h->b, "app"), last = named(h, app, "head", h->leak),
		 next = sb_string(&h->b, "next");
	const struct explain_suspect *s;

	for (int i = 1; i < 100000; i++) {
		uint32_t x = new_leak(h);

		sb_edge(&h->b, last, x, EDGE_ATTR, next);
		last = x;
	}
	s = explain_heap(h, "app.Leak");
	assert_int_equal(s->instances, 100000);
	assert_int_equal(s->n_paths, 2);
	assert_path(&s->paths[0], 99999, "module app | .head app.Leak | .next app.Leak*");
	assert_path(&s->paths[1], 1, "module app | .head app.Leak");
}

/* A tree, left and right: a handful of shapes, not one for each of 2^16 ways. */
static void test_tree(void **state)
{
	struct heap *h = *state;
	uint32_t app = sb_module(&h->b, "app"),
		 side[2] = {sb_string(&h->b, "left"), sb_string(&h->b, "right")},
		 root = named(h, app, "tree", h->leak);
	const struct explain_suspect *s;
	uint64_t sum = 0;

	for (uint32_t i = 1; i < (1u << 16) - 1; i++) {
		uint32_t x = new_leak(h);

		sb_edge(&h->b, root + (i - 1) / 2, x, EDGE_ATTR, side[i % 2]);
	}
	s = explain_heap(h, "app.Leak");
	assert_in_range(s->n_paths, 3, 8);
	for (size_t i = 0; i < s->n_paths; i++)
		sum += s->paths[i].instances;
	assert_int_equal(sum + s->other_instances, (1u << 16) - 1);
}

/* Distinct types all the way: a path that does not repeat and is shown without its middle. */
static void test_long_path(void **state)
{
	struct heap *h = *state;
	uint32_t at = sb_module(&h->b, "app"), x;
	const struct explain_suspect *s;
	char name[24];

	for (int i = 0; i < 5000; i++) {
		snprintf(name, sizeof(name), "app.T%d", i);
		x = sb_node(&h->b, sb_type(&h->b, name, SB_HEAP));
		sb_edge(&h->b, at, x, i ? EDGE_PLAIN : EDGE_KEY, 0);
		at = x;
	}
	sb_edge(&h->b, at, new_leak(h), EDGE_PLAIN, 0);
	s = explain_heap(h, "app.Leak");
	assert_int_equal(s->n_paths, 1);
	assert_int_equal(s->paths[0].n_steps, PATHS_STEPS_MAX + 1);
	assert_true(s->paths[0].steps[PATHS_STEPS_MAX / 2].gap);
	assert_string_equal(s->paths[0].steps[PATHS_STEPS_MAX / 2].label, "4 953 more steps");
	assert_string_equal(s->paths[0].steps[PATHS_STEPS_MAX].type, "app.Leak");
	assert_int_equal(s->paths[0].accumulation, PATHS_STEPS_MAX - 1);
	assert_string_equal(s->paths[0].steps[PATHS_STEPS_MAX - 1].type, "app.T4999");
}

/* One object with 100 000 referrers, each of them an instance: linear, not quadratic. */
static void test_hub(void **state)
{
	struct heap *h = *state;
	uint32_t app = sb_module(&h->b, "app"), d = named(h, app, "ALL", h->dict),
		 hub = named(h, app, "hub", sb_type(&h->b, "app.Hub", SB_HEAP)),
		 attr = sb_string(&h->b, "hub"), instances = sb_string(&h->b, "instances");
	struct timespec a, b;
	const struct explain_suspect *s;

	for (uint32_t i = 0; i < 100000; i++) {
		uint32_t x = new_leak(h);

		sb_edge(&h->b, d, x, EDGE_ITEM, 0);
		sb_edge(&h->b, x, hub, EDGE_ATTR, attr);
		sb_edge(&h->b, hub, x, EDGE_ATTR, instances);
	}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
	s = explain_heap(h, "app.Leak");
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
	assert_int_equal(s->instances, 100000);
	assert_path(&s->paths[0], 100000, "module app | .ALL dict | ['…'] app.Leak");
	/* 0.3 s under the sanitizers; quadratic would be minutes. */
	assert_true(b.tv_sec - a.tv_sec < 10);
	/* And what the hub itself hangs on. */
	s = explain_heap(h, "app.Hub");
	assert_path(&s->paths[0], 1, "module app | .hub app.Hub");
}

/* A cycle among what is held, references to themselves, and two between the same objects. */
static void test_cycles_and_parallels(void **state)
{
	struct heap *h = *state;
	uint32_t app = sb_module(&h->b, "app"), l = named(h, app, "L", h->list), x = new_leak(h);
	const struct explain_suspect *s;

	sb_edge(&h->b, l, l, EDGE_INDEX, 0);
	sb_edge(&h->b, l, x, EDGE_PLAIN, 0);
	sb_edge(&h->b, l, x, EDGE_INDEX, 1); /* says more than the one before */
	sb_edge(&h->b, x, l, EDGE_ATTR, sb_string(&h->b, "owner"));
	sb_edge(&h->b, x, x, EDGE_ATTR, sb_string(&h->b, "me"));
	s = explain_heap(h, "app.Leak");
	assert_int_equal(s->n_paths, 1);
	assert_path(&s->paths[0], 1, "module app | .L list | [1] app.Leak");
}

/* __dict__ costs nothing, and is the last step when it is asked for itself. */
static void test_dict_is_folded(void **state)
{
	struct heap *h = *state;
	uint32_t app = sb_module(&h->b, "app"), d = sb_node(&h->b, h->dict),
		 o = named(h, app, "o", sb_type(&h->b, "app.O", SB_HEAP)), x = new_leak(h), l;
	const struct explain_suspect *s;

	l = named(h, app, "l", h->list);
	sb_edge(&h->b, o, d, EDGE_DICT, 0);
	sb_named(&h->b, d, x, EDGE_KEY, "leak"); /* app.o.leak, as near as app.l[0] */
	sb_edge(&h->b, l, x, EDGE_INDEX, 0);
	s = explain_heap(h, "app.Leak");
	assert_path(&s->paths[0], 1, "module app | .o app.O | .leak app.Leak");
	s = explain_heap(h, "dict");
	assert_int_equal(s->instances, 2);
	assert_path(&s->paths[0], 1, "module app | .__dict__ dict");
	assert_path(&s->paths[1], 1, "module app | .o app.O | .__dict__ dict");
}

/* Frames that are objects (3.8 to 3.10), namespaces that the interpreter holds, attributes whose
 * names were not taken down, the globals of a function whose module is gone. */
static void test_other_roots_and_names(void **state)
{
	struct heap *h = *state;
	uint32_t frame = sb_node(&h->b, sb_type(&h->b, "frame", SB_STATIC)), builtins, globals, f,
		 l = sb_node(&h->b, h->list), o = sb_node(&h->b, sb_type(&h->b, "app.O", SB_HEAP)),
		 locals;
	const struct explain_suspect *s;

	sb_root(&h->b, frame, ROOT_FRAME, "MainThread in f at app.py:1", EDGE_PLAIN, "");
	sb_named(&h->b, frame, l, EDGE_LOCAL, "mine");
	for (uint32_t i = 0; i < 5; i++)
		sb_edge(&h->b, l, new_leak(h), EDGE_INDEX, i);
	builtins = sb_node(&h->b, h->dict);
	sb_root(&h->b, builtins, ROOT_INTERPRETER, "builtins", EDGE_DICT, "");
	l = named(h, builtins, "_", h->list);
	sb_edge(&h->b, frame, l, EDGE_PLAIN, 0); /* as near, but a frame */
	for (uint32_t i = 0; i < 4; i++)
		sb_edge(&h->b, l, new_leak(h), EDGE_INDEX, i);
	sb_named(&h->b, builtins, o, EDGE_KEY, "o");
	for (uint32_t i = 0; i < 3; i++)
		sb_edge(&h->b, o, new_leak(h), EDGE_ATTR, 0);
	f = named(h, builtins, "f", h->function);
	globals = sb_node(&h->b, h->dict);
	sb_named(&h->b, f, globals, EDGE_ATTR, "__globals__");
	sb_named(&h->b, globals, new_leak(h), EDGE_KEY, "X");
	sb_named(&h->b, globals, new_leak(h), EDGE_KEY, "Y");
	locals = sb_node(&h->b, h->dict); /* of a class body */
	sb_root(&h->b, locals, ROOT_FRAME, "MainThread in C at app.py:2", EDGE_DICT, "");
	sb_named(&h->b, locals, new_leak(h), EDGE_KEY, "x");
	s = explain_heap(h, "app.Leak");
	assert_int_equal(s->n_paths, 6);
	assert_path(&s->paths[0], 5,
		"frame MainThread in f at app.py:1 | local mine list | […] app.Leak");
	assert_path(&s->paths[1], 4, "interpreter builtins | ._ list | […] app.Leak");
	assert_path(&s->paths[2], 3, "interpreter builtins | .o app.O | .… app.Leak");
	assert_path(&s->paths[3], 1, "frame MainThread in C at app.py:2 | local x app.Leak");
	assert_path(&s->paths[4], 1,
		"interpreter builtins | .f function | .__globals__ dict | ['X'] app.Leak");
	assert_path(&s->paths[5], 1,
		"interpreter builtins | .f function | .__globals__ dict | ['Y'] app.Leak");
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_shares),
		TEST(test_which_leak),
		TEST(test_ties),
		TEST(test_module_before_frame),
		TEST(test_default_argument),
		TEST(test_labels),
		TEST(test_many_names_are_one_path),
		TEST(test_c_reference),
		TEST(test_named_c_reference),
		TEST(test_class_of_garbage),
		TEST(test_garbage_cycle),
		TEST(test_deep_list),
		TEST(test_tree),
		TEST(test_long_path),
		TEST(test_hub),
		TEST(test_cycles_and_parallels),
		TEST(test_dict_is_folded),
		TEST(test_other_roots_and_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
