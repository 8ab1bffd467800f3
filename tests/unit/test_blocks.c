/* SPDX-License-Identifier: MIT */
/*
 * Blocks of CPython's allocators, made by hand: what is alive is counted, what is dead, free, or only
 * looks like an object is not. That the real ones look like this: tests/integration/test_untracked.py.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "daemon/python/blocks.h"
#include "daemon/util/macros.h"

#define AT   UINT64_C(0x7f1200000000)
#define STR  UINT64_C(0x955000)
#define DICT UINT64_C(0x956000)
#define POOL 16384
#define HEAD 48
#define KIND (DICT + 0x1000) /* a class with a managed dictionary */
#define TYPE (DICT + 0x2000)

static struct blocks_type types[4];
static uint64_t found[2];
static struct blocks b;
static uint8_t bytes[BLOCKS_STRETCH];

static void put32(size_t at, uint32_t v)
{
	memcpy(bytes + at, &v, sizeof(v));
}

static void put64(size_t at, uint64_t v)
{
	memcpy(bytes + at, &v, sizeof(v));
}

static int setup(void **state)
{
	memset(bytes, 0, sizeof(bytes));
	types[0] = (struct blocks_type){.type = STR, .sizes = true};
	types[1] = (struct blocks_type){.type = DICT, .gc = true};
	types[2] = (struct blocks_type){.type = KIND, .gc = true, .before = true};
	types[3] = (struct blocks_type){.type = TYPE, .gc = true, .sizes = true, .types = true};
	b = (struct blocks){.types = types,
		.low = STR,
		.high = TYPE,
		.found = found,
		.max_found = 2,
		.low_image = 0x900000,
		.high_image = 0xa00000,
		.pool_bytes = POOL};
	assert_int_equal(u64map_put(&b.index, STR, 1), 0);
	assert_int_equal(u64map_put(&b.index, DICT, 2), 0);
	assert_int_equal(u64map_put(&b.index, KIND, 3), 0);
	assert_int_equal(u64map_put(&b.index, TYPE, 4), 0);
	return 0;
}

static int teardown(void **state)
{
	u64map_release(&b.index);
	return 0;
}

/* A pool for blocks of so many bytes, the first `handed_out` of which were in use some time. */
static void pool(size_t at, size_t size, unsigned count, size_t handed_out)
{
	put32(at, count);
	put32(at + 36, (uint32_t)(size / 16 - 1));
	put32(at + 40, (uint32_t)(HEAD + handed_out * size));
	put32(at + 44, (uint32_t)(POOL - size));
}

static void string(size_t at, uint64_t count)
{
	put64(at, count);
	put64(at + 8, STR);
}

static void dict(size_t at, uint64_t link, uint64_t count)
{
	put64(at, link);
	put64(at + 16, count);
	put64(at + 24, DICT);
}

static void look(void)
{
	blocks_look(&b, AT, bytes, sizeof(bytes));
}

static void test_alive(void **state)
{
	pool(0, 64, 6, 20);
	string(HEAD, 1);
	string(HEAD + 3 * 64, 1000);
	string(HEAD + 4 * 64, UINT32_MAX); /* immortal in 3.12 */
	dict(HEAD + 7 * 64, 0, 1);         /* not tracked */
	dict(HEAD + 8 * 64, AT + 0x30, 2);
	pool(3 * POOL, 48, 1, 2);
	string(3 * POOL + HEAD + 48, 1);
	look();
	assert_int_equal(types[0].count, 4);
	assert_int_equal(types[1].count, 2);
	assert_int_equal(types[1].untracked, 1);
	assert_int_equal(types[0].untracked, 0);
	assert_int_equal(types[0].large, 0);
	assert_int_equal(b.pools, 2);
}

static void test_dead(void **state)
{
	pool(0, 64, 3, 20);
	string(HEAD, 0);
	string(HEAD + 64, AT + HEAD);      /* the next free block */
	dict(HEAD + 2 * 64, 0, 0);         /* in dict's free list */
	dict(HEAD + 3 * 64, 0, AT + HEAD); /* the same in 3.14 */
	string(HEAD + 4 * 64, 0x955000);   /* an array of two types in a program at 4 MiB */
	dict(HEAD + 5 * 64, 3, 1);         /* no link of the collector */
	string(HEAD + 20 * 64, 1);         /* never handed out: of an older pool */
	string(HEAD + 6 * 64 + 16, 1);     /* not at a block's begin */
	pool(POOL, 64, 0, 20);             /* all free */
	string(POOL + HEAD, 1);
	look();
	assert_int_equal(types[0].count, 0);
	assert_int_equal(types[1].count, 0);
}

/* From 3.11 on two words stand before the collector's header of an instance with a dictionary. */
static void test_words_before(void **state)
{
	pool(0, 64, 6, 20);
	put64(HEAD + 32, 1);
	put64(HEAD + 40, KIND);
	/* A dict in whose midst it looks as if there was one: its size, and a class for an item. */
	dict(HEAD + 64, 0, 8);
	put64(HEAD + 64 + 32, 1);
	put64(HEAD + 64 + 40, KIND);
	/* Without those words it is none. */
	put64(HEAD + 2 * 64 + 16, 1);
	put64(HEAD + 2 * 64 + 24, KIND);
	look();
	assert_int_equal(types[2].count, 1);
	assert_int_equal(types[1].count, 1);
}

/* Classes are large, and where they are is noted, as far as there is room. */
static void test_found(void **state)
{
	for (size_t at = 4096; at < 4096 + 3 * 1024; at += 1024) {
		put64(at - 8, 1024 | 1);
		put64(at + 16, 3);
		put64(at + 24, TYPE);
	}
	put64(4096 + 3 * 1024 - 8, 1024 | 1);
	look();
	assert_int_equal(types[3].count, 3);
	assert_int_equal(b.n_found, 2);
	assert_int_equal(found[0], AT + 4096 + 16);
	assert_int_equal(found[1], AT + 4096 + 1024 + 16);
}

static void test_flags_beside_the_count(void **state)
{
	b.wide_flags = true;
	pool(0, 64, 3, 20);
	string(HEAD, UINT64_C(0x0004000000000001));
	string(HEAD + 64, AT + HEAD);
	look();
	assert_int_equal(types[0].count, 1);
}

static void test_not_a_pool(void **state)
{
	static const struct {
		size_t at;
		uint32_t v;
	} wrong[] = {{0, 1000}, {36, 32}, {36, UINT32_MAX}, {40, HEAD}, {40, HEAD + 63},
		{40, POOL + 64}, {44, POOL}, {8, 0x10} /* a free block elsewhere */};

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		teardown(NULL);
		setup(NULL);
		pool(0, 64, 3, 20);
		string(HEAD, 1);
		put32(wrong[i].at, wrong[i].v);
		look();
		assert_int_equal(b.pools, 0);
		assert_int_equal(types[0].count, 0);
	}
}

static void test_block_of_an_address(void **state)
{
	uint64_t block, next;
	size_t size;

	pool(0, 64, 3, 20);
	put64(8, AT + HEAD + 64);
	assert_true(blocks_in_pool(bytes, AT, POOL, AT + HEAD + 2 * 64 + 63, &block, &size, &next));
	assert_int_equal(block, AT + HEAD + 2 * 64);
	assert_int_equal(size, 64);
	assert_int_equal(next, AT + HEAD + 64);
	assert_true(blocks_in_pool(bytes, AT, POOL, AT + HEAD - 8, &block, &size, &next));
	assert_int_equal(size, 0);
	assert_true(blocks_in_pool(bytes, AT, POOL, AT + HEAD + 20 * 64, &block, &size, &next));
	assert_int_equal(size, 0);
	put32(44, POOL);
	assert_false(blocks_in_pool(bytes, AT, POOL, AT + HEAD, &block, &size, &next));
}

/* A chunk of glibc's malloc whose user part begins at `at`. */
static void chunk(size_t at, size_t size, unsigned flags)
{
	put64(at - 8, size | flags);
	if (at - 16 + size + 16 <= sizeof(bytes))
		put64(at - 16 + size + 8, 0x21 | 1);
}

static void test_large(void **state)
{
	chunk(1024, 1040, 1);
	string(1024, 1);
	chunk(5 * 4096 + 16, 4096 * 40, 2 | 1); /* by mmap */
	string(5 * 4096 + 16, 1);
	chunk(BLOCKS_STRETCH - 2048, 1 << 20, 1); /* its end is not in sight */
	string(BLOCKS_STRETCH - 2048, 1);
	look();
	assert_int_equal(types[0].count, 3);
	assert_int_equal(types[0].large, 3);
}

static void test_not_large(void **state)
{
	chunk(1024, 1040, 1); /* freed: the next one says so */
	string(1024, 1);
	put64(1024 - 16 + 1040 + 8, 0x20);
	chunk(8192, 256, 1); /* small ones are not malloc's */
	string(8192, 1);
	chunk(16384 + 64, 4096, 2 | 1); /* by mmap, but not at a page's begin */
	string(16384 + 64, 1);
	chunk(32768, 1040, 1); /* dicts are never large */
	dict(32768, 0, 1);
	string(65536, 1); /* no chunk at all */
	look();
	assert_int_equal(types[0].count, 0);
	assert_int_equal(types[1].count, 0);
}

static void test_chunk_begins_in_the_stretch_before(void **state)
{
	chunk(BLOCKS_STRETCH, 1 << 20, 1);
	look();
	memset(bytes, 0, sizeof(bytes));
	string(0, 1);
	blocks_look(&b, AT + BLOCKS_STRETCH, bytes, sizeof(bytes));
	assert_int_equal(types[0].large, 1);
	/* Elsewhere the same bytes are nothing. */
	blocks_look(&b, AT + 4 * BLOCKS_STRETCH, bytes, sizeof(bytes));
	assert_int_equal(types[0].large, 1);
}

static void test_without_pools(void **state)
{
	b.small_chunks = true; /* PYTHONMALLOC=malloc */
	chunk(1024, 64, 1);
	string(1024, 1);
	chunk(2048, 96, 1);
	dict(2048, 0, 1);
	look();
	assert_int_equal(types[0].count, 1);
	assert_int_equal(types[1].count, 1);
}

/* jemalloc: what lies outside the pools and says that it is too large for one. */
static void test_other_malloc(void **state)
{
	b.other_malloc = true;
	types[0].basicsize = 40;
	types[0].text = true;
	types[3].basicsize = 24;
	types[3].itemsize = 8;
	string(1024, 1);
	put64(1024 + 16, 2000);
	string(4096, 0); /* dead */
	put64(4096 + 16, 2000);
	string(8192, 1); /* would lie in a pool */
	put64(8192 + 16, 9);
	string(12288, 1); /* longer than there is memory */
	put64(12288 + 16, UINT64_C(1) << 62);
	put64(POOL + 16, 1);
	put64(POOL + 24, TYPE);
	put64(POOL + 32, (uint64_t)-100);
	pool(2 * POOL, 64, 1, 1);
	string(2 * POOL + HEAD, 1); /* in one, long or not */
	put64(2 * POOL + HEAD + 16, 2000);
	look();
	assert_int_equal(types[0].large, 1);
	assert_int_equal(types[0].count, 2);
	assert_int_equal(types[3].large, 1);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_alive),
		TEST(test_dead),
		TEST(test_words_before),
		TEST(test_found),
		TEST(test_flags_beside_the_count),
		TEST(test_not_a_pool),
		TEST(test_block_of_an_address),
		TEST(test_large),
		TEST(test_not_large),
		TEST(test_chunk_begins_in_the_stretch_before),
		TEST(test_without_pools),
		TEST(test_other_malloc),
	};

	return cmocka_run_group_tests_name("blocks", tests, NULL, NULL);
}
