/* SPDX-License-Identifier: MIT */
/* Which types are meant, what is said about them, and how it looks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sys/mman.h>

#include "daemon/util/macros.h"
#include "graph/render.h"
#include "graph/report.h"
#include "graph/text.h"
#include "tests/unit/snapshot_builder.h"

/* What the font libraries keep for themselves. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libfontconfig\nleak:libpango\nleak:libglib\nleak:libcairo\nleak:libgvc\n"
	       "leak:libgvplugin\nleak:libgobject\n";
}

/*
 * app.SESSIONS = 93 × app.Session, 7 more in a frame's local list; app.web.Session, app.Cache<T>
 * and ten dicts beside.
 */
static void build(struct sb *b)
{
	uint32_t dict = sb_type(b, "dict", SB_STATIC), list = sb_type(b, "list", SB_STATIC),
		 session = sb_type(b, "app.Session", SB_HEAP), app = sb_module(b, "app"),
		 sessions = sb_node(b, dict), pending = sb_node(b, list), x;

	sb_named(b, app, sessions, EDGE_KEY, "SESSIONS");
	sb_root(b, pending, ROOT_FRAME, "Thread-1 (worker) in handle at app.py:42", EDGE_LOCAL,
		"pending");
	for (uint32_t i = 0; i < 100; i++) {
		x = sb_node(b, session);
		if (i < 93)
			sb_edge(b, sessions, x, EDGE_ITEM, 0);
		else
			sb_edge(b, pending, x, EDGE_INDEX, i);
	}
	for (int i = 0; i < 10; i++) {
		x = sb_node(b, sb_type(b, i % 2 ? "app.web.Session" : "app.Cache<T>", SB_HEAP));
		sb_edge(b, sessions, x, EDGE_DICT_KEY, 0);
		x = sb_node(b, dict);
		sb_edge(b, sessions, x, EDGE_DICT_KEY, 0);
	}
	for (int i = 0; i < 30; i++) {
		x = sb_node(b, sb_type(b, "_frozen_importlib.ModuleSpec", SB_HEAP));
		sb_edge(b, sessions, x, EDGE_DICT_KEY, 0);
	}
	sb_type(b, "app.Gone", SB_HEAP);
}

static void load(struct graph *g)
{
	struct sb b = {0};
	struct sb_file file;
	struct snapshot s;
	int fd = memfd_create("snapshot", MFD_CLOEXEC);

	build(&b);
	file = sb_build(&b);
	assert_int_equal(write(fd, file.bytes, file.n), (ssize_t)file.n);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(snapshot_load(&s, fd, "t", 0, NULL), 0);
	assert_int_equal(graph_build(g, &s, NULL), 0);
	close(fd);
	free(file.bytes);
	sb_release(&b);
}

static int ask(struct explanation *x, const char *a, const char *b, struct err *err)
{
	const char *types[] = {a, b};
	struct explain_options o = {.types = types, .n_types = !!a + !!b};
	struct graph g;
	int rc;

	load(&g);
	*err = (struct err){{0}};
	rc = explain(x, &g, &o, err);
	graph_release(&g);
	return rc;
}

static void test_which_types(void **state)
{
	static const struct {
		const char *asked[2];
		const char *types[4]; /* in order */
	} cases[] = {
		{{"app.Session"}, {"app.Session"}},
		{{"dict"}, {"dict"}},
		{{"app.*"}, {"app.Session", "app.Cache<T>", "app.web.Session"}},
		{{"*.web.?ession"}, {"app.web.Session"}},
		{{"web.Session"}, {"app.web.Session"}},
		{{"ModuleSpec", "app.Session"}, {"_frozen_importlib.ModuleSpec", "app.Session"}},
		{{"app.Session", "app.Session"}, {"app.Session"}},
		{{"app.Gone"}, {"app.Gone"}},
		/* Nothing asked: what the program itself made, not what importing makes. */
		{{NULL}, {"app.Session", "app.Cache<T>", "app.web.Session"}},
	};
	struct explanation x;
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		size_t n = 0;

		assert_int_equal(ask(&x, cases[i].asked[0], cases[i].asked[1], &err), 0);
		while (n < 4 && cases[i].types[n])
			n++;
		assert_int_equal(x.n_suspects, n);
		for (size_t k = 0; k < n; k++)
			assert_string_equal(x.suspects[k].type, cases[i].types[k]);
		explanation_release(&x);
	}
}

static void test_no_such_type(void **state)
{
	static const struct {
		const char *asked, *near;
	} cases[] = {
		{"app.Sesion", "app.Session"},
		{"SESSION", "app.Session"},
		{"spec", "_frozen_importlib.ModuleSpec"},
		{"Session", "app.Session, app.web.Session; give the whole name"},
		{"zzz.*", "pyleakctl top"},
		{"", "no objects"},
	};
	struct explanation x;
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(ask(&x, cases[i].asked, NULL, &err), -ENOENT);
		assert_non_null(strstr(err.msg, cases[i].near));
		assert_null(strchr(err.msg, '\n'));
	}
}

static void test_sentences(void **state)
{
	struct explanation x;
	struct err err;

	(void)state;
	assert_int_equal(ask(&x, "app.Session", NULL, &err), 0);
	assert_string_equal(x.suspects[0].paths[0].sentence,
		"93 % of 100 app.Session are held by app.SESSIONS, a dict in module app");
	assert_string_equal(x.suspects[0].paths[0].expression, "app.SESSIONS['…']");
	assert_string_equal(x.suspects[0].paths[1].sentence,
		"7.0 % of 100 app.Session are held by local pending, a list in "
		"Thread-1 (worker) in handle at app.py:42");
	explanation_release(&x);
}

static void test_document(void **state)
{
	json_t *meta = json_pack("{s:s, s:i, s:i, s:n, s:s, s:{s:s, s:s}}", "at",
		"2026-11-23T08:25:58.123Z", "pid", 4711, "pause_us", 1432, "predicted_pause_us",
		"duration_ms", "forged", "truncated", "level", "objects", "reason", "deadline");
	struct explain_document doc = {.meta = meta,
		.id = "x-1",
		.trigger = "verdict",
		.snapshot = "/d/snapshot",
		.svg_reason = "too long"};
	static const char *const keys[] = {"at", "id", "pid", "trigger", "pause_us",
		"predicted_pause_us", "duration_ms", "objects", "edges", "skipped", "truncated",
		"files", "suspects"};
	struct explanation x;
	struct err err;
	json_t *d, *path;

	(void)state;
	assert_int_equal(ask(&x, "app.Session", NULL, &err), 0);
	d = explain_json(&x, &doc);
	assert_non_null(d);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		assert_non_null(json_object_get(d, keys[i]));
	assert_int_equal(json_integer_value(json_object_get(d, "pid")), 4711);
	assert_int_equal(json_integer_value(json_object_get(d, "objects")), 154);
	assert_true(json_is_null(json_object_get(d, "predicted_pause_us")));
	/* Not a number: not known. */
	assert_true(json_is_null(json_object_get(d, "duration_ms")));
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(d, "truncated"), "reason")),
		"deadline");
	assert_true(json_is_null(json_object_get(json_object_get(d, "files"), "svg")));
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(d, "files"), "snapshot")),
		"/d/snapshot");
	assert_string_equal(json_string_value(json_object_get(d, "svg_reason")), "too long");
	path = json_array_get(
		json_object_get(json_array_get(json_object_get(d, "suspects"), 0), "paths"), 1);
	assert_float_equal(json_number_value(json_object_get(path, "share")), 0.07, 1e-9);
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(path, "root"), "kind")), "frame");
	assert_string_equal(json_string_value(json_object_get(
				    json_array_get(json_object_get(path, "steps"), 0), "edge")),
		"local pending");
	json_decref(d);

	/* Without a description everything is null, and nothing fails. */
	doc = (struct explain_document){0};
	d = explain_json(&x, &doc);
	assert_non_null(d);
	assert_true(json_is_null(json_object_get(d, "at")));
	assert_true(json_is_null(json_object_get(d, "pid")));
	assert_true(json_is_null(json_object_get(d, "truncated")));
	json_decref(d);
	json_decref(meta);
	explanation_release(&x);
}

static void test_picture(void **state)
{
	_cleanup_free_ char *dot = NULL, *svg = NULL, *html = NULL;
	json_t *meta =
		json_pack("{s:s, s:s}", "at", "2026-11-23T08:25:58.123Z", "comm", "a<b>&\"'\x01");
	struct explain_document doc = {.meta = meta};
	size_t n_dot, n_svg, n_html;
	struct explanation x;
	struct err err = {{0}};
	char *caption;
	FILE *f, *in;

	(void)state;
	assert_int_equal(ask(&x, "app.*", NULL, &err), 0);
	caption = report_caption(meta);
	assert_non_null(caption);
	f = open_memstream(&dot, &n_dot);
	assert_int_equal(render_dot(f, &x, caption, NULL, &err), 0);
	fclose(f);
	assert_non_null(strstr(dot, "digraph"));

	assert_int_equal(render_warm_up("svg", &err), 0);
	in = fmemopen(dot, n_dot, "r");
	f = open_memstream(&svg, &n_svg);
	assert_int_equal(render_picture(in, f, "svg", &err), 0);
	fclose(f);
	fclose(in);
	assert_non_null(strstr(svg, "<svg"));
	assert_non_null(strstr(svg, ">SESSIONS<"));
	assert_non_null(strstr(svg, "93 × Session"));
	assert_non_null(strstr(svg, "app.Cache&lt;T&gt;"));
	assert_null(strstr(svg, "Cache<T>"));
	assert_null(strstr(svg, "a<b>"));
	for (size_t i = 0; i < n_svg; i++)
		assert_true((unsigned char)svg[i] >= 0x20 || svg[i] == '\n' || svg[i] == '\t');

	f = open_memstream(&html, &n_html);
	assert_int_equal(report_write(f, &x, &doc, svg, &err), 0);
	fclose(f);
	assert_non_null(strstr(html, "<svg"));
	assert_null(strstr(html, "<?xml"));
	assert_null(strstr(html, "<!ENTITY"));
	assert_non_null(strstr(html, "app.Cache&lt;T&gt;"));
	assert_non_null(strstr(html, "prefers-color-scheme"));
	/* Nothing is loaded from anywhere. */
	/* One script, its own. */
	assert_non_null(strstr(html, "<script>"));
	assert_null(strstr(strstr(html, "<script>") + 1, "<script"));
	assert_null(strstr(html, "<link"));
	assert_null(strstr(html, " src="));
	assert_null(strstr(html, "url("));
	assert_null(strstr(html, "@import"));

	/* And without a picture. */
	doc.svg_reason = "drawing it took too long";
	free(html);
	html = NULL;
	f = open_memstream(&html, &n_html);
	assert_int_equal(report_write(f, &x, &doc, NULL, &err), 0);
	fclose(f);
	assert_non_null(strstr(html, "drawing it took too long"));
	free(caption);
	json_decref(meta);
	explanation_release(&x);
}

static void test_text(void **state)
{
	static const struct {
		const char *text;
		size_t max;
		const char *elided;
	} cases[] = {
		{"abcdefgh", 8, "abcdefgh"},
		{"abcdefghi", 8, "abc…fghi"},
		{"ääääääääää", 8, "äää…ääää"},
		{"", 8, ""},
	};
	static const struct {
		double share;
		const char *percent;
	} shares[] = {{1, "100 %"}, {0.99999, "99.9 %"}, {0.93, "93 %"}, {0.0421, "4.2 %"},
		{0.0003, "0.03 %"}, {1e-9, "0.001 %"}, {0, "0 %"}};
	char buf[TEXT_NUMBER_MAX];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *s = text_elide(cases[i].text, cases[i].max);

		assert_string_equal(s, cases[i].elided);
	}
	for (size_t i = 0; i < ARRAY_SIZE(shares); i++)
		assert_string_equal(
			text_percent(buf, sizeof(buf), shares[i].share), shares[i].percent);
	assert_string_equal(text_number(buf, sizeof(buf), 0), "0");
	assert_string_equal(text_number(buf, sizeof(buf), 999), "999");
	assert_string_equal(text_number(buf, sizeof(buf), 12400), "12 400");
	assert_string_equal(
		text_number(buf, sizeof(buf), UINT64_MAX), "18 446 744 073 709 551 615");
	assert_string_equal(text_short_type("app.f.<locals>.T"), "T");
	assert_string_equal(text_short_type("dict"), "dict");
	assert_string_equal(text_article("app.X"), "an");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_which_types),
		cmocka_unit_test(test_no_such_type),
		cmocka_unit_test(test_sentences),
		cmocka_unit_test(test_document),
		cmocka_unit_test(test_picture),
		cmocka_unit_test(test_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
