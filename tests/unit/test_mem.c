/* SPDX-License-Identifier: MIT */
/* The process read from is this one: that needs no privilege. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <sys/mman.h>

#include "daemon/python/mem.h"
#include "daemon/util/macros.h"

#define PAGE 4096

/* n pages filled with their number, and one behind them that is not mapped. */
static uint8_t *map_pages(size_t n)
{
	uint8_t *p = mmap(
		NULL, (n + 1) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(p != MAP_FAILED);
	assert_int_equal(munmap(p + n * PAGE, PAGE), 0);
	for (size_t i = 0; i < n; i++)
		memset(p + i * PAGE, (int)i + 1, PAGE);
	return p;
}

static uint64_t addr_of(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

static void whole_or_nothing(void **state)
{
	uint8_t *p = map_pages(3), buf[4 * PAGE];
	uint64_t v;
	uint32_t w;
	uint8_t b;

	assert_int_equal(mem_read(getpid(), addr_of(p), buf, 3 * PAGE), 0);
	assert_memory_equal(buf, p, 3 * PAGE);
	assert_int_equal(mem_read(getpid(), addr_of(p), buf, 3 * PAGE + 1), -EFAULT);
	assert_int_equal(mem_read_some(getpid(), addr_of(p) + 10, buf, sizeof(buf)), 3 * PAGE - 10);
	assert_int_equal(mem_read_some(getpid(), addr_of(p) + 3 * PAGE, buf, 1), -EFAULT);
	assert_int_equal(mem_read_some(getpid(), addr_of(p), buf, 0), 0);
	assert_int_equal(mem_read(getpid(), 0, buf, 8), -EFAULT);
	assert_int_equal(mem_read(getpid(), UINT64_MAX - 3, buf, 8), -EFAULT);
	assert_int_equal(mem_read(getpid(), (uint64_t)1 << 63, buf, 8), -EFAULT);
	assert_int_equal(mem_read_u64(getpid(), addr_of(p) + PAGE - 4, &v), 0);
	assert_int_equal(v, 0x0202020201010101);
	assert_int_equal(mem_read_u32(getpid(), addr_of(p) + PAGE - 2, &w), 0);
	assert_int_equal(w, 0x02020101);
	assert_int_equal(mem_read_u8(getpid(), addr_of(p) + 2 * PAGE, &b), 0);
	assert_int_equal(b, 3);
	assert_int_equal(mem_read_u64(getpid(), addr_of(p) + 3 * PAGE - 4, &v), -EFAULT);
	assert_int_equal(mem_read(0x3ffffff, addr_of(p), buf, 8), -ESRCH);
	munmap(p, 3 * PAGE);
}

static void pieces(void **state)
{
	uint8_t *p = map_pages(2), a[2], b[3];
	struct mem_piece v[] = {{addr_of(p) + PAGE - 1, a, 2}, {addr_of(p), b, 3}};
	struct mem_piece many[9] = {{0, NULL, 0}};

	assert_int_equal(mem_read_pieces(getpid(), v, 2), 0);
	assert_memory_equal(a, "\1\2", 2);
	assert_memory_equal(b, "\1\1\1", 3);
	v[1].addr = addr_of(p) + 2 * PAGE;
	assert_int_equal(mem_read_pieces(getpid(), v, 2), -EFAULT);
	v[1].addr = UINT64_MAX;
	assert_int_equal(mem_read_pieces(getpid(), v, 2), -EFAULT);
	assert_int_equal(mem_read_pieces(getpid(), many, ARRAY_SIZE(many)), -EINVAL);
	munmap(p, 2 * PAGE);
}

static void strings(void **state)
{
	uint8_t *p = map_pages(1);
	char buf[16];

	memcpy(p + PAGE - 6, "hello", 6);
	/* the string ends where the mapping does, though buf is longer */
	assert_int_equal(mem_read_cstr(getpid(), addr_of(p) + PAGE - 6, buf, sizeof(buf)), 0);
	assert_string_equal(buf, "hello");
	assert_int_equal(mem_read_cstr(getpid(), addr_of(p) + PAGE - 6, buf, 6), 0);
	assert_int_equal(mem_read_cstr(getpid(), addr_of(p) + PAGE - 6, buf, 5), -ENAMETOOLONG);
	assert_string_equal(buf, "hell");
	p[PAGE - 1] = '!'; /* no end before the mapping's */
	assert_int_equal(mem_read_cstr(getpid(), addr_of(p) + PAGE - 6, buf, sizeof(buf)), -EFAULT);
	assert_string_equal(buf, "hello!");
	assert_int_equal(mem_read_cstr(getpid(), 8, buf, sizeof(buf)), -EFAULT);
	assert_string_equal(buf, "");
	munmap(p, PAGE);
}

static void cached(void **state)
{
	uint8_t *p = map_pages(40), buf[2 * PAGE];
	struct mem_cache *c = malloc(sizeof(*c));

	assert_non_null(c);
	mem_cache_init(c, getpid());
	for (int round = 0; round < 3; round++)
		for (size_t i = 0; i < 40; i++) {
			assert_int_equal(mem_cache_read(c, addr_of(p) + i * PAGE, buf, 8), 0);
			assert_int_equal(buf[7], i + 1);
		}
	/* across pages; and from the cache, though the target has changed meanwhile */
	assert_int_equal(mem_cache_read(c, addr_of(p) + PAGE - 3, buf, 6), 0);
	assert_memory_equal(buf, "\1\1\1\2\2\2", 6);
	p[PAGE] = 77;
	assert_int_equal(mem_cache_read(c, addr_of(p) + PAGE - 3, buf, 6), 0);
	assert_memory_equal(buf, "\1\1\1\2\2\2", 6);
	mem_cache_init(c, getpid());
	assert_int_equal(mem_cache_read(c, addr_of(p) + PAGE - 3, buf, 6), 0);
	assert_memory_equal(buf, "\1\1\1\115\2\2", 6);
	/* a page that is not there does not stay */
	assert_int_equal(mem_cache_read(c, addr_of(p) + 40 * PAGE - 8, buf, 16), -EFAULT);
	assert_int_equal(mem_cache_read(c, addr_of(p) + 40 * PAGE - 8, buf, 8), 0);
	assert_int_equal(mem_cache_read(c, UINT64_MAX - 4, buf, 8), -EFAULT);
	free(c);
	munmap(p, 40 * PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_or_nothing),
		cmocka_unit_test(pieces),
		cmocka_unit_test(strings),
		cmocka_unit_test(cached),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
