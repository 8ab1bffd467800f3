/* SPDX-License-Identifier: MIT */
/*
 * What pyleakctl prints without asking anybody: numbers, times, foreign text, tables, plots, the
 * command line.
 */
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ctl/options.h"
#include "ctl/table.h"
#include "ctl/text.h"
#include "daemon/util/macros.h"

#define AT_MS 1795422358123LL /* 2026-11-23T08:25:58.123Z */

static void test_counts(void **state)
{
	char b[TEXT_MAX];

	assert_string_equal(text_count(b, 0), "0");
	assert_string_equal(text_count(b, 999), "999");
	assert_string_equal(text_count(b, 1000), "1 000");
	assert_string_equal(text_count(b, 1234567), "1 234 567");
	assert_string_equal(text_count(b, -1234), "-1 234");
	assert_string_equal(text_count(b, INT64_MAX), "9 223 372 036 854 775 807");
	assert_string_equal(text_count(b, INT64_MIN), "-9 223 372 036 854 775 808");
	assert_string_equal(text_delta(b, 1234), "+1 234");
	assert_string_equal(text_delta(b, 0), "0");
	assert_string_equal(text_delta(b, -5), "-5");
	assert_string_equal(text_delta(b, INT64_MAX), "+9 223 372 036 854 775 807");
}

static void test_rates(void **state)
{
	char b[TEXT_MAX];

	assert_string_equal(text_rate(b, 0), "0");
	assert_string_equal(text_rate(b, 0.0521), "0.052");
	assert_string_equal(text_rate(b, 0.34), "0.34");
	assert_string_equal(text_rate(b, 4.25), "4.2");
	assert_string_equal(text_rate(b, 99.4), "99.4");
	assert_string_equal(text_rate(b, 99.9), "100");
	assert_string_equal(text_rate(b, 1234567.8), "1 234 568");
	assert_string_equal(text_rate(b, -12.5), "-12.5");
	assert_string_equal(text_rate(b, NAN), "-");
	assert_string_equal(text_rate(b, INFINITY), "-");
	assert_string_equal(text_rate(b, 1e300), "1e+300");
}

static void test_shares(void **state)
{
	char b[TEXT_MAX];

	assert_string_equal(text_share(b, 0.931), "93 %");
	assert_string_equal(text_share(b, 1), "100 %");
	assert_string_equal(text_share(b, 0.9999), ">99 %");
	assert_string_equal(text_share(b, 0), "0 %");
	assert_string_equal(text_share(b, 0.0001), "<1 %");
	assert_string_equal(text_share(b, NAN), "-");
}

static void test_times(void **state)
{
	char b[TEXT_MAX];

	assert_string_equal(text_time(b, AT_MS), "2026-11-23 08:25:58");
	assert_string_equal(text_time(b, -1), "-");
	assert_string_equal(text_ago(b, AT_MS, AT_MS), "now");
	assert_string_equal(text_ago(b, AT_MS, AT_MS - 5000), "now");
	assert_string_equal(text_ago(b, AT_MS, AT_MS + 7900), "7 s ago");
	assert_string_equal(text_ago(b, AT_MS, AT_MS + 12000), "12 s ago");
	assert_string_equal(text_ago(b, AT_MS, AT_MS + 600000), "10 min ago");
	assert_string_equal(text_ago(b, AT_MS, AT_MS + 3 * 86400000LL), "3 d 0 h ago");
	assert_string_equal(text_ago(b, -1, AT_MS), "-");
}

static void test_json(void **state)
{
	json_t *j = json_loads("{\"n\":null,\"i\":12345,\"r\":0.5,\"s\":\"x\",\"t\":"
			       "\"2026-11-23T08:25:58.123Z\",\"us\":3200,\"neg\":-5}",
		0, NULL);
	char b[TEXT_MAX];

	assert_string_equal(text_json_count(b, json_object_get(j, "n")), "-");
	assert_string_equal(text_json_count(b, json_object_get(j, "missing")), "-");
	assert_string_equal(text_json_count(b, json_object_get(j, "s")), "-");
	assert_string_equal(text_json_count(b, json_object_get(j, "i")), "12 345");
	assert_string_equal(text_json_delta(b, json_object_get(j, "i")), "+12 345");
	assert_string_equal(text_json_delta(b, json_object_get(j, "n")), "-");
	assert_string_equal(text_json_rate(b, json_object_get(j, "r")), "0.50");
	assert_string_equal(text_json_rate(b, json_object_get(j, "n")), "-");
	assert_string_equal(text_json_us(b, json_object_get(j, "us")), "3.2 ms");
	assert_string_equal(text_json_us(b, json_object_get(j, "neg")), "-");
	assert_string_equal(text_json_us(b, json_object_get(j, "n")), "-");
	assert_int_equal(text_json_ms(json_object_get(j, "t")), AT_MS);
	assert_int_equal(text_json_ms(json_object_get(j, "s")), -1);
	assert_int_equal(text_json_ms(json_object_get(j, "n")), -1);
	json_decref(j);
}

static void assert_clean(const char *dirty, const char *clean)
{
	char *s = text_clean(dirty);

	assert_string_equal(s, clean);
	free(s);
}

static void test_foreign_text(void **state)
{
	assert_int_equal(text_width("app"), 3);
	assert_int_equal(text_width("größe"), 5);
	assert_int_equal(text_width("日本"), 4);
	assert_int_equal(text_width("e\xcc\x81"), 1); /* combining accent */
	assert_int_equal(text_width("['…']"), 5);
	assert_clean("app.Größe ['…'] 日本", "app.Größe ['…'] 日本");
	assert_clean("\033[31mred\033[0m\a\r\n\t\x7f", "?[31mred?[0m?????");
	assert_clean("\xc2\x9b"
		     "31m",
		"?31m"); /* the eight-bit CSI, as UTF-8 */
	assert_clean("\xe2\x80\xae"
		     "evil",
		"?evil"); /* right-to-left override */
	assert_clean("\xff\xc3x\xe2\x82", "??x??");
	assert_clean("", "");
}

/* ---- tables --------------------------------------------------------------------------------- */

static void assert_table(struct table *t, bool colour, const char *expect)
{
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	assert_int_equal(table_print(t, f, colour), 0);
	fclose(f);
	assert_string_equal(text, expect);
	free(text);
	table_free(t);
}

static void test_table(void **state)
{
	static const char *const headings[] = {"TYPE", ">LIVE", "NOTE", NULL};
	struct table *t = table_new(headings);

	assert_table(t, false, "");
	t = table_new(headings);
	table_cell(t, STYLE_PLAIN, "app.Größe");
	table_cellf(t, STYLE_PLAIN, "%d", 12);
	table_cell(t, STYLE_PLAIN, "wide");
	table_cell(t, STYLE_PLAIN, "日本");
	table_cell(t, STYLE_PLAIN, "~1 234 ±5");
	table_cell(t, STYLE_PLAIN, "a\033[2Jb");
	assert_table(t, false,
		"TYPE            LIVE  NOTE\n"
		"app.Größe         12  wide\n"
		"日本       ~1 234 ±5  a?[2Jb\n");
}

static void test_table_in_colour(void **state)
{
	static const char *const headings[] = {"VERDICT", ">N", NULL};
	struct table *t = table_new(headings);

	table_cell(t, STYLE_BAD, "leak");
	table_cell(t, STYLE_PLAIN, "100");
	assert_table(t, true,
		"\033[1mVERDICT\033[0m    \033[1mN\033[0m\n"
		"\033[31mleak\033[0m     100\n");
}

/* ---- plots ---------------------------------------------------------------------------------- */

static void assert_plot(const double *v, size_t n, size_t columns, size_t rows, const char *expect)
{
	struct text_point p[64];
	char *text;

	for (size_t i = 0; i < n; i++)
		p[i] = (struct text_point){AT_MS + (int64_t)i * 60000, v[i]};
	text = text_plot(p, n, columns, rows);
	if (!expect) {
		assert_null(text);
		return;
	}
	assert_non_null(text);
	assert_string_equal(text, expect);
	free(text);
}

static void test_plot(void **state)
{
	const double up[] = {0, 100, 200, 300, 400, 500, 600, 700, 800, 900};
	const double flat[] = {5, 5, 5};
	const double gap[] = {1, 1, NAN, NAN, 2, 2, 2, 2, 2};
	const double unknown[] = {NAN, NAN};

	assert_plot(up, 10, 16, 2,
		"900       ▁▃▅▆█\n"
		"  0 ▁▃▄▆███████\n"
		"    2026-11-23 08:25:58 .. 2026-11-23 08:34:58\n");
	assert_plot(flat, 3, 10, 1,
		"5 ▄▄▄▄▄▄▄▄\n"
		"  2026-11-23 08:25:58 .. 2026-11-23 08:27:58\n");
	assert_plot(gap, 9, 10, 1,
		"2 ▁  █████\n"
		"  2026-11-23 08:25:58 .. 2026-11-23 08:33:58\n");
	assert_plot(unknown, 2, 40, 3, NULL);
	assert_plot(up, 1, 12, 2,
		"0\n"
		"0 █████████\n"
		"  2026-11-23 08:25:58 .. 2026-11-23 08:25:58\n");
}

static void test_plot_is_bounded(void **state)
{
	enum { N = 5000 };
	struct text_point *p = calloc(N, sizeof(*p));
	char *text;

	for (size_t i = 0; i < N; i++)
		p[i] = (struct text_point){AT_MS + (int64_t)i, i % 97 * 1e12 - 1e13};
	text = text_plot(p, N, 1000000, 1000000);
	assert_non_null(text);
	assert_in_range(strlen(text), 1, 100000);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		assert_in_range(text_width(line), 1, 500);
	free(text);
	free(p);
}

/* ---- the command line ----------------------------------------------------------------------- */

static int parse(const char *line, const struct verb **verb, struct options *o, struct err *err)
{
	static char copy[512];
	char *argv[32] = {(char *)"pyleakctl"};
	int argc = 1;

	*verb = NULL;
	snprintf(copy, sizeof(copy), "%s", line);
	for (char *w = strtok(copy, " "); w; w = strtok(NULL, " "))
		argv[argc++] = w;
	return options_parse(argc, argv, verb, o, err);
}

static void test_options(void **state)
{
	const struct verb *verb;
	struct options o;
	struct err err;

	assert_int_equal(parse("--json top -n5 4711 --fresh --socket=/x", &verb, &o, &err), 0);
	assert_string_equal(verb->name, "top");
	assert_int_equal(o.n_words, 1);
	assert_string_equal(o.words[0], "4711");
	assert_int_equal(o.n, 5);
	assert_string_equal(o.socket, "/x");
	assert_int_equal(o.given, OPTION_BIT(OPTION_JSON) | OPTION_BIT(OPTION_N) |
					  OPTION_BIT(OPTION_FRESH) | OPTION_BIT(OPTION_SOCKET));

	assert_int_equal(parse("dump 1 --type a.B --type=c*", &verb, &o, &err), 0);
	assert_int_equal(o.n_types, 2);
	assert_string_equal(o.types[1], "c*");
	assert_string_equal(o.socket, "/run/pyleak/control.sock");
	assert_int_equal(o.n, 10);

	assert_int_equal(parse("growth 1 --since 1h30m", &verb, &o, &err), 0);
	assert_int_equal(parse("growth 1 --since 2026-11-23T08:25:58Z", &verb, &o, &err), 0);
	assert_string_equal(o.since, "2026-11-23T08:25:58Z");
	assert_int_equal(parse("history 1 --type -- x", &verb, &o, &err), -EINVAL);
	assert_int_equal(parse("history --type=-x -- 1", &verb, &o, &err), 0);
	assert_string_equal(o.types[0], "-x");
	assert_int_equal(parse("dumps show id -o x.svg", &verb, &o, &err), 0);
	assert_string_equal(o.output, "x.svg");
	assert_int_equal(parse("--help", &verb, &o, &err), 0);
	assert_null(verb);
	assert_int_equal(parse("top --help", &verb, &o, &err), 0);
	assert_string_equal(verb->name, "top");
}

static void test_bad_options(void **state)
{
	static const struct {
		const char *line, *part;
	} cases[] = {
		{"", "no verb"},
		{"look", "\"look\""},
		{"look", "status, top, growth, history, suspects, dump, dumps, chain, backrefs, "
			 "refs, types, instances, diff, dominators, leaking, cycles, replay, why, watch, "
			 "attach, detach, pause, resume, support"},
		{"top", "something is missing"},
		{"top 1 2", "\"2\""},
		{"status 1", "\"1\""},
		{"top 1 --wat", "--wat"},
		{"top 1 --freshness", "--freshness"},
		{"top 1 --fresh=1", "takes no value"},
		{"top 1 -n", "needs a value"},
		{"top 1 -n x", "-n x"},
		{"top 1 -n -1", "-n -1"},
		{"top 1 -n 99999999999999999999", "-n 9999"},
		{"top 1 --since 10m", "does not take --since"},
		{"growth 1 --since yesterday", "--since yesterday"},
		{"growth 1 --since 10", "--since 10"},
		{"history 1 --type x --step 5x", "--step 5x"},
		{"dump 1 --type=", "--type"},
		{"dump 1 -o x", "does not take -o"},
		{"--socket", "needs a value"},
	};
	const struct verb *verb;
	struct options o;
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(parse(cases[i].line, &verb, &o, &err), -EINVAL);
		if (!strstr(err.msg, cases[i].part) || strchr(err.msg, '\n'))
			fail_msg("%s: \"%s\"", cases[i].line, err.msg);
	}
}

/* Every verb and every option it takes is in the help. */
static void test_help(void **state)
{
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	options_help(f);
	fclose(f);
	for (const struct verb *v = verbs; v->name; v++) {
		char line[128];

		snprintf(line, sizeof(line), "\n  %s %s", v->name, v->synopsis);
		assert_non_null(strstr(text, line));
		assert_non_null(strstr(text, v->summary));
	}
	free(text);
	for (const struct verb *v = verbs; v->name; v++) {
		text = NULL;
		f = open_memstream(&text, &n);
		options_verb_help(f, v);
		fclose(f);
		assert_non_null(strstr(text, v->summary));
		assert_non_null(strstr(text, "--json"));
		if (v->options & OPTION_BIT(OPTION_SINCE))
			assert_non_null(strstr(text, "\n  --since T"));
		else
			assert_null(strstr(text, "\n  --since T"));
		free(text);
	}
}

static int group_setup(void **state)
{
	setenv("TZ", "UTC", 1);
	text_init();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_counts),
		cmocka_unit_test(test_rates),
		cmocka_unit_test(test_shares),
		cmocka_unit_test(test_times),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_foreign_text),
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_table_in_colour),
		cmocka_unit_test(test_plot),
		cmocka_unit_test(test_plot_is_bounded),
		cmocka_unit_test(test_options),
		cmocka_unit_test(test_bad_options),
		cmocka_unit_test(test_help),
	};

	return cmocka_run_group_tests(tests, group_setup, NULL);
}
