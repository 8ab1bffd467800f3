/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <netinet/in.h>

#include "daemon/util/address.h"
#include "daemon/util/addrset.h"
#include "daemon/util/err.h"
#include "daemon/util/u64map.h"
#include "daemon/util/units.h"

static void durations(void **state)
{
	static const struct {
		const char *text;
		uint64_t ns;
		int r;
	} cases[] = {
		{"0", 0, 0},
		{"1ms", 1000000, 0},
		{"500us", 500000, 0},
		{"10s", 10000000000ULL, 0},
		{"1.5s", 1500000000ULL, 0},
		{"10m", 600000000000ULL, 0},
		{"1h30m", 5400000000000ULL, 0},
		{"1h 30m", 5400000000000ULL, 0},
		{"14d", 14 * 86400000000000ULL, 0},
		{"", 0, -EINVAL},
		{"10", 0, -EINVAL},
		{"s", 0, -EINVAL},
		{"-1s", 0, -EINVAL},
		{"1e9s", 0, -EINVAL},
		{"10 parsecs", 0, -EINVAL},
		{"0x10s", 0, -EINVAL},
		{"99999999d", 0, -ERANGE},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t ns = 42;

		assert_int_equal(parse_duration(cases[i].text, &ns), cases[i].r);
		assert_int_equal(ns, cases[i].r ? 42 : cases[i].ns);
	}
}

static void sizes(void **state)
{
	double d = 7;
	uint64_t v;

	assert_int_equal(parse_size("4096", &v), 0);
	assert_int_equal(v, 4096);
	assert_int_equal(parse_size("256MiB", &v), 0);
	assert_int_equal(v, 256ULL << 20);
	assert_int_equal(parse_size("1.5 GiB", &v), 0);
	assert_int_equal(v, 3ULL << 29);
	assert_int_equal(parse_size("1 parsec", &v), -EINVAL);
	assert_int_equal(parse_size("", &v), -EINVAL);
	assert_int_equal(parse_size("99999999TiB", &v), -ERANGE);
	assert_int_equal(parse_share("1%", &d), 0);
	assert_true(d > 0.00999 && d < 0.01001);
	assert_int_equal(parse_share("0.25", &d), 0);
	assert_true(d == 0.25);
	assert_int_equal(parse_share("101%", &d), -EINVAL);
	assert_int_equal(parse_share("1.2", &d), -EINVAL);
	assert_true(d == 0.25);
}

static void times(void **state)
{
	char buf[RFC3339_MAX];
	int64_t ms;

	assert_int_equal(parse_rfc3339("2026-11-23T08:25:58.123Z", &ms), 0);
	assert_string_equal(format_rfc3339(buf, sizeof(buf), ms), "2026-11-23T08:25:58.123Z");
	assert_int_equal(parse_rfc3339("2026-11-23T09:25:58.123+01:00", &ms), 0);
	assert_string_equal(format_rfc3339(buf, sizeof(buf), ms), "2026-11-23T08:25:58.123Z");
	assert_int_equal(parse_rfc3339("2026-11-23", &ms), -EINVAL);
	assert_int_equal(parse_rfc3339("2026-13-23T08:25:58Z", &ms), -EINVAL);
	assert_int_equal(parse_rfc3339("2026-11-23T08:25:58", &ms), -EINVAL);
	assert_int_equal(parse_rfc3339("2026-11-23T08:25:58Zjunk", &ms), -EINVAL);
	assert_string_equal(format_duration(buf, sizeof(buf), 1234567), "1.2 ms");
	assert_string_equal(format_duration(buf, sizeof(buf), 90000000000ULL), "90 s");
	assert_string_equal(format_size(buf, sizeof(buf), 1536), "1.5 KiB");
}

static void errors(void **state)
{
	char longer[2048];
	struct err e;

	assert_int_equal(err_set(&e, -ENOENT, "pid %d: no such process", 7), -ENOENT);
	assert_int_equal(err_prefix(&e, -EIO, "target %s", "x"), -EIO);
	assert_string_equal(e.msg, "target x: pid 7: no such process");
	assert_int_equal(err_set(NULL, -EIO, "x"), -EIO);
	memset(longer, 'y', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	err_set(&e, -EIO, "%s", longer);
	err_prefix(&e, -EIO, "%s", longer);
	assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
}

/* Against a plain array: random puts and removals over a small key space, so that chains form
 * and holes are closed in every position. */
static void map_agrees_with_array(void **state)
{
	uint64_t truth[1024] = {0}, seed = 42;
	struct u64map m = {0};
	size_t n = 0;
	bool new;

	for (int i = 0; i < 200000; i++) {
		uint64_t key, value;

		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		key = (seed >> 33) % 1023 + 1;
		value = (seed >> 20) | 1;
		if (seed >> 62) {
			assert_int_equal(u64map_put(&m, key * 16, value), 0);
			n += !truth[key];
			truth[key] = value;
		} else {
			assert_int_equal(u64map_remove(&m, key * 16), truth[key] != 0);
			n -= truth[key] != 0;
			truth[key] = 0;
		}
		assert_int_equal(m.n, n);
	}
	for (uint64_t k = 1; k < 1024; k++) {
		uint64_t *v = u64map_get(&m, k * 16);

		assert_int_equal(v ? *v : 0, truth[k]);
	}
	assert_null(u64map_upsert(&m, 0, 1, &new));
	assert_int_equal(u64map_put(&m, 0, 1), -EINVAL);
	u64map_release(&m);
	assert_null(u64map_get(&m, 16));
}

static void addresses_in_a_set(void **state)
{
	static bool truth[4 * ADDRSET_PAGE / 8];
	const uint64_t base = 0x7f0000000000 - ADDRSET_PAGE;
	struct addrset s = {0};
	uint64_t seed = 7;

	for (int i = 0; i < 20000; i++) {
		size_t at;

		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		at = (size_t)(seed >> 33) % ARRAY_SIZE(truth);
		assert_int_equal(addrset_add(&s, base + 8 * at), !truth[at]);
		truth[at] = true;
	}
	/* far from each other: a page each */
	for (uint64_t i = 1; i < 5000; i++)
		assert_int_equal(addrset_add(&s, i << 24), 1);
	for (uint64_t i = 1; i < 5000; i++)
		assert_int_equal(addrset_add(&s, i << 24), 0);
	assert_int_equal(s.n, 4 + 4999);
	assert_true(addrset_bytes(&s) < 200 * s.n);
	assert_int_equal(addrset_add(&s, base + 4), 0);
	assert_int_equal(addrset_add(&s, UINT64_MAX - 7), 1);
	assert_int_equal(addrset_add(&s, 8), 1);
	addrset_release(&s);
	assert_int_equal(addrset_add(&s, 8), 1);
	addrset_release(&s);
}

static void addresses(void **state)
{
	static const struct {
		const char *text;
		int family;
		uint16_t port;
	} cases[] = {
		{"127.0.0.1:9477", AF_INET, 9477},
		{"0.0.0.0:1", AF_INET, 1},
		{"[::1]:65535", AF_INET6, 65535},
		{"[::]:80", AF_INET6, 80},
		{"", 0, 0},
		{":80", 0, 0},
		{"127.0.0.1", 0, 0},
		{"127.0.0.1:", 0, 0},
		{"127.0.0.1:0", 0, 0},
		{"127.0.0.1:65536", 0, 0},
		{"127.0.0.1:99999999999999999999", 0, 0},
		{"127.0.0.1:+80", 0, 0},
		{"127.0.0.1: 80", 0, 0},
		{"127.0.0.1:80x", 0, 0},
		{"127.0.0.1.5:80", 0, 0},
		{"localhost:80", 0, 0},
		{"::1:80", 0, 0},
		{"[::1:80", 0, 0},
		{"[]:80", 0, 0},
		{"[127.0.0.1]:80", 0, 0},
		{"[0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0001]:80", 0, 0},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct sockaddr_storage a;
		socklen_t n;
		int r = address_parse(cases[i].text, &a, &n);

		assert_int_equal(r, cases[i].family ? 0 : -EINVAL);
		if (r)
			continue;
		assert_int_equal(a.ss_family, cases[i].family);
		/* The port is at the same place in both. */
		assert_int_equal(ntohs(((struct sockaddr_in *)&a)->sin_port), cases[i].port);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(durations),
		cmocka_unit_test(sizes),
		cmocka_unit_test(times),
		cmocka_unit_test(errors),
		cmocka_unit_test(map_agrees_with_array),
		cmocka_unit_test(addresses_in_a_set),
		cmocka_unit_test(addresses),
	};

	return cmocka_run_group_tests_name("util", tests, NULL, NULL);
}
