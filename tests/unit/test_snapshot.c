/* SPDX-License-Identifier: MIT */
/* Reading snapshot files: what is whole comes back as it was, what is not is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sys/mman.h>

#include "daemon/util/macros.h"
#include "graph/explain.h"
#include "tests/unit/snapshot_builder.h"

static int load_bytes(const void *bytes, size_t n, struct snapshot *s, struct err *err)
{
	int fd = memfd_create("snapshot", MFD_CLOEXEC), rc;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, n), (ssize_t)n);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	*err = (struct err){{0}};
	rc = snapshot_load(s, fd, "t", 64u << 20, err);
	close(fd);
	if (rc < 0) {
		assert_true(strlen(err->msg) > 0);
		assert_null(strchr(err->msg, '\n'));
	}
	return rc;
}

/* Loads, and if that works goes on to the answer: nothing that was accepted may break it. */
static int load_and_use(const void *bytes, size_t n, struct err *err)
{
	struct explain_options o = {0};
	struct explanation x;
	struct snapshot s;
	struct graph g;
	int rc = load_bytes(bytes, n, &s, err);

	if (rc < 0)
		return rc;
	assert_int_equal(graph_build(&g, &s, NULL), 0);
	assert_int_equal(graph_index_referrers(&g, NULL), 0);
	assert_int_equal(explain(&x, &g, &o, NULL), 0);
	explanation_release(&x);
	graph_release(&g);
	return 0;
}

static void small(struct sb *b)
{
	uint32_t app = sb_module(b, "app"), dict, list, s;

	b->meta = "{\"pid\": 4711}";
	dict = sb_node(b, sb_type(b, "dict", SB_STATIC));
	list = sb_node(b, sb_type(b, "list", SB_STATIC));
	s = sb_node(b, sb_type(b, "app.Session", SB_HEAP));
	sb_named(b, app, dict, EDGE_KEY, "SESSIONS");
	sb_named(b, dict, list, EDGE_KEY, "größe");
	sb_edge(b, list, s, EDGE_INDEX, 3);
	sb_edge(b, s, 1000, EDGE_PLAIN, 0); /* to nothing that was read */
	sb_root(b, s, ROOT_FRAME, "MainThread in f at app.py:1", EDGE_LOCAL, "x");
	sb_holder(b, s, HOLDER_IMAGE, "lib.so: cache");
}

static void test_round_trip(void **state)
{
	struct sb b = {0};
	struct sb_file file;
	struct snapshot s;
	struct graph g;
	struct err err;

	(void)state;
	small(&b);
	b.unknown_kind = 99;
	file = sb_build(&b);
	assert_int_equal(load_bytes(file.bytes, file.n, &s, &err), 0);
	assert_string_equal(s.meta, "{\"pid\": 4711}");
	assert_int_equal(s.n_nodes, 5);
	assert_int_equal(s.n_edges, 5);
	assert_int_equal(s.n_roots, 2);
	assert_int_equal(s.n_types, 4);
	assert_string_equal(snapshot_string(&s, 0), "");
	assert_string_equal(snapshot_string(&s, s.types[s.nodes[4].type].name), "app.Session");
	assert_int_equal(s.nodes[4].refcount, 2);
	assert_int_equal(s.nodes[4].bytes, 64);

	assert_int_equal(graph_build(&g, &s, &err), 0);
	assert_null(s.nodes);
	assert_int_equal(g.n_edges, 4);
	assert_int_equal(g.external_edges, 1);
	assert_int_equal(g.n_roots, 2);
	assert_int_equal(g.n_holders, 1);
	assert_string_equal(graph_string(&g, graph_holder_of(&g, 4)), "lib.so: cache");
	assert_int_equal(graph_holder_of(&g, 3), 0);
	assert_int_equal(g.first[3], 3);
	assert_int_equal(g.edges[2].from, 2);
	assert_int_equal(g.edges[2].to, 3);
	assert_string_equal(graph_string(&g, g.edges[2].arg), "größe");
	assert_int_equal(graph_index_referrers(&g, &err), 0);
	for (uint32_t v = 0; v < g.n_nodes; v++) {
		for (uint32_t i = g.in_first[v]; i < g.in_first[v + 1]; i++)
			assert_int_equal(g.edges[g.in[i]].to, v);
	}
	assert_int_equal(g.in_first[5], 4);
	graph_release(&g);
	free(file.bytes);
	sb_release(&b);
}

static void test_names_are_made_fit_to_be_shown(void **state)
{
	static const char *const names[][2] = {
		{"a\nb\x1b[31m", "a?b?[31m"},
		{"\xff\xfe", "??"},
		{"\xc3(", "?("},
		{"\xe2\x80\xae"
		 "x",
			"???x"},
		{"\xed\xa0\x80", "???"},
		{"\xc2\x85", "??"},
		{"\xe2\x82", "??"},
		{"ü€😀", "ü€😀"},
	};
	struct sb b = {0};
	struct sb_file file;
	struct snapshot s;
	struct err err;
	uint32_t at[ARRAY_SIZE(names)];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		at[i] = sb_string(&b, names[i][0]);
	file = sb_build(&b);
	assert_int_equal(load_bytes(file.bytes, file.n, &s, &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		assert_string_equal(snapshot_string(&s, at[i]), names[i][1]);
	snapshot_release(&s);
	free(file.bytes);
	sb_release(&b);
}

static void test_cut_at_every_byte(void **state)
{
	struct sb b = {0};
	struct sb_file file;
	struct err err;

	(void)state;
	small(&b);
	file = sb_build(&b);
	assert_int_equal(load_and_use(file.bytes, file.n, &err), 0);
	for (size_t n = 0; n < file.n; n++) {
		int rc = load_and_use(file.bytes, n, &err);

		assert_int_equal(rc, n < 8 ? -EPROTONOSUPPORT : -EBADMSG);
	}
	file.bytes = realloc(file.bytes, file.n + 1);
	assert_non_null(file.bytes);
	file.bytes[file.n] = 0;
	assert_int_equal(load_and_use(file.bytes, file.n + 1, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "follows"));
	free(file.bytes);
	sb_release(&b);
}

static void assert_same(const struct snapshot *s, const struct snapshot *t)
{
	assert_string_equal(s->meta, t->meta);
	assert_int_equal(s->n_strings, t->n_strings);
	assert_int_equal(s->n_types, t->n_types);
	assert_int_equal(s->n_nodes, t->n_nodes);
	assert_int_equal(s->n_edges, t->n_edges);
	assert_int_equal(s->n_roots, t->n_roots);
	for (uint32_t i = 0; i < s->n_strings; i++)
		assert_string_equal(snapshot_string(s, i), snapshot_string(t, i));
	assert_memory_equal(s->types, t->types, s->n_types * sizeof(*s->types));
	assert_memory_equal(s->nodes, t->nodes, s->n_nodes * sizeof(*s->nodes));
	assert_memory_equal(s->edges, t->edges, s->n_edges * sizeof(*s->edges));
	assert_memory_equal(s->roots, t->roots, s->n_roots * sizeof(*s->roots));
	assert_int_equal(s->n_holders, t->n_holders);
	assert_memory_equal(s->holders, t->holders, s->n_holders * sizeof(*s->holders));
}

/* In the file: either it is refused, or the bit meant nothing (reserved ones; another way to say
 * the same to zstd). */
static void test_every_bit_flipped(void **state)
{
	struct sb b = {0};
	struct sb_file file;
	struct snapshot whole, s;
	struct err err;
	size_t refused = 0;

	(void)state;
	small(&b);
	file = sb_build(&b);
	assert_int_equal(load_bytes(file.bytes, file.n, &whole, &err), 0);
	for (size_t i = 0; i < file.n * 8; i++) {
		file.bytes[i / 8] ^= (unsigned char)(1u << i % 8);
		if (load_bytes(file.bytes, file.n, &s, &err) == 0) {
			assert_same(&s, &whole);
			snapshot_release(&s);
		} else {
			refused++;
		}
		file.bytes[i / 8] ^= (unsigned char)(1u << i % 8);
	}
	assert_true(refused > (file.n - 32) * 8 * 9 / 10);
	snapshot_release(&whole);
	free(file.bytes);
	sb_release(&b);
}

/* In the content, behind a checksum that is right: a forged file. Never a crash, and what
 * is accepted can be explained. */
static void test_every_bit_forged(void **state)
{
	struct sb b = {0};
	struct sb_file raw, file;
	struct err err;
	size_t refused = 0;

	(void)state;
	small(&b);
	raw = sb_sections(&b);
	for (size_t i = 0; i < raw.n * 8; i++) {
		raw.bytes[i / 8] ^= (unsigned char)(1u << i % 8);
		file = sb_pack(&raw, b.n_nodes, b.n_edges);
		refused += load_and_use(file.bytes, file.n, &err) < 0;
		free(file.bytes);
		raw.bytes[i / 8] ^= (unsigned char)(1u << i % 8);
	}
	/* The others are in addresses, sizes, reference counts and padding. */
	assert_true(refused > 1500);
	free(raw.bytes);
	sb_release(&b);
}

static void test_holders_are_checked(void **state)
{
	struct sb b = {0};
	struct sb_file file;
	struct err err;

	(void)state;
	small(&b);
	b.holders[0].name = b.n_strings;
	file = sb_build(&b);
	assert_int_equal(load_and_use(file.bytes, file.n, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "holder"));
	free(file.bytes);
	b.holders[0].name = 0;
	for (uint32_t i = b.n_holders; i <= b.n_nodes; i++) /* more than there are objects */
		sb_holder(&b, 0, HOLDER_IMAGE, "");
	file = sb_build(&b);
	assert_int_equal(load_and_use(file.bytes, file.n, &err), -EBADMSG);
	free(file.bytes);
	b.n_holders = 1;
	b.unknown_kind = SNAPSHOT_HOLDERS; /* where it is too early: not a whole number of them */
	file = sb_build(&b);
	assert_int_equal(load_and_use(file.bytes, file.n, &err), -EBADMSG);
	free(file.bytes);
	sb_release(&b);
}

static void test_totals_are_checked_before_memory_is_taken(void **state)
{
	static const struct {
		uint64_t nodes, edges;
		int rc;
	} cases[] = {
		{UINT64_MAX, 0, -EFBIG},
		{0, UINT64_MAX, -EFBIG},
		{1u << 30, 0, -EFBIG},
		{0, 1u << 30, -EFBIG},
		{5, 4, -EBADMSG},
		{6, 5, -EBADMSG},
		{5, 6, -EBADMSG},
		{0, 0, -EBADMSG},
	};
	struct sb b = {0};
	struct sb_file raw;
	struct err err;

	(void)state;
	small(&b);
	raw = sb_sections(&b);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct sb_file file = sb_pack(&raw, cases[i].nodes, cases[i].edges);

		assert_int_equal(load_and_use(file.bytes, file.n, &err), cases[i].rc);
		free(file.bytes);
	}
	free(raw.bytes);
	sb_release(&b);
}

static void test_other_files(void **state)
{
	struct snapshot_header h = {.version = 2, .header_bytes = sizeof(h)};
	struct err err;

	(void)state;
	assert_int_equal(load_and_use("", 0, &err), -EPROTONOSUPPORT);
	assert_int_equal(load_and_use("PYLEAKS2........", 16, &err), -EPROTONOSUPPORT);
	memcpy(h.magic, "PYLEAKS1", sizeof(h.magic));
	assert_int_equal(load_and_use(&h, sizeof(h), &err), -EPROTONOSUPPORT);
	assert_non_null(strstr(err.msg, "format 2"));
	h.version = 1;
	h.header_bytes = 63;
	assert_int_equal(load_and_use(&h, sizeof(h), &err), -EBADMSG);
	h.header_bytes = UINT32_MAX;
	assert_int_equal(load_and_use(&h, sizeof(h), &err), -EBADMSG);
}

/* A header that has grown, as a later writer of the same format may do. */
static void test_longer_header(void **state)
{
	struct sb b = {0};
	struct sb_file file;
	unsigned char *longer;
	uint32_t bytes = sizeof(struct snapshot_header) + 40;
	struct err err;

	(void)state;
	small(&b);
	file = sb_build(&b);
	longer = calloc(1, file.n + 40);
	assert_non_null(longer);
	memcpy(longer, file.bytes, sizeof(struct snapshot_header));
	memcpy(longer + offsetof(struct snapshot_header, header_bytes), &bytes, sizeof(bytes));
	memcpy(longer + bytes, file.bytes + sizeof(struct snapshot_header),
		file.n - sizeof(struct snapshot_header));
	assert_int_equal(load_and_use(longer, file.n + 40, &err), 0);
	free(longer);
	free(file.bytes);
	sb_release(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_names_are_made_fit_to_be_shown),
		cmocka_unit_test(test_cut_at_every_byte),
		cmocka_unit_test(test_every_bit_flipped),
		cmocka_unit_test(test_every_bit_forged),
		cmocka_unit_test(test_holders_are_checked),
		cmocka_unit_test(test_totals_are_checked_before_memory_is_taken),
		cmocka_unit_test(test_other_files),
		cmocka_unit_test(test_longer_header),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
