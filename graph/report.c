/* SPDX-License-Identifier: MIT */
#include "graph/report.h"

#include <string.h>

#include "daemon/util/units.h"
#include "graph/report_script.h"
#include "graph/text.h"

#define GROWTH_POINTS_MAX 4096

static const char style[] =
	":root{color-scheme:light "
	"dark;--ground:#fbfaf8;--ink:#2b2724;--soft:#6b6661;--line:#e2ded9;"
	"--card:#fff;--leak:#c0392b;--bar:#e9a79f}\n"
	"@media(prefers-color-scheme:dark){:root{--ground:#191716;--ink:#ece8e4;--soft:#a49d96;"
	"--line:#3a3532;--card:#221f1d;--leak:#ff8375;--bar:#7d342b}\n"
	".picture .graph text,.picture .edge text{fill:var(--ink)}"
	".picture .edge path,.picture .edge polygon{stroke:#a49d96}"
	".picture .edge polygon{fill:#a49d96}"
	".picture .step path{fill:#2c2826;stroke:#8a8580}.picture .step text{fill:var(--ink)}"
	".picture .accumulation path{fill:#3a2623;stroke:#ff8375}"
	".picture .module path{fill:#1e3a22;stroke:#69b070}.picture .module text{fill:#d3f0d6}"
	".picture .frame path{fill:#17334d;stroke:#6aa7de}.picture .frame text{fill:#d6e9fb}"
	".picture .c-reference path{fill:#47300f;stroke:#e29a44}"
	".picture .c-reference text{fill:#fde5c8}"
	".picture .interpreter path{fill:#30264a;stroke:#9d86d1}"
	".picture .interpreter text{fill:#e8def9}"
	".picture .suspect path{fill:#a3362a;stroke:#ff8375}"
	".picture .more path{stroke:#ff8375;fill:none}.picture .more text{fill:#ff8375}}\n"
	"*{box-sizing:border-box}"
	"body{margin:0;background:var(--ground);color:var(--ink);"
	"font:16px/1.5 system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}"
	"main{max-width:70rem;margin:0 auto;padding:1.5rem 1rem 3rem}"
	"h1{font-size:1.5rem;line-height:1.3;margin:.2rem 0 .6rem;overflow-wrap:anywhere}"
	"h2{font-size:1.05rem;margin:2rem 0 .5rem;overflow-wrap:anywhere}"
	"p{margin:.3rem 0}.soft{color:var(--soft);font-size:.9rem}"
	".verdict{font-size:1.1rem;border-left:4px solid var(--leak);padding:.2rem 0 .2rem .8rem;"
	"margin:.8rem 0;overflow-wrap:anywhere}"
	".warn{color:var(--leak)}"
	".picture{background:var(--card);border:1px solid var(--line);border-radius:8px;"
	"margin:1.2rem 0;padding:.5rem}"
	".view{overflow:auto;max-height:85vh;cursor:grab}.view:active{cursor:grabbing}"
	".picture svg{display:block;margin:auto;max-width:100%;height:auto;min-width:34rem}"
	".tools{display:flex;gap:.4rem;justify-content:flex-end;margin:0 0 .4rem}"
	".tools[hidden]{display:none}"
	".tools button{min-width:2.4rem;height:2.2rem;font:inherit;color:var(--ink);"
	"background:var(--ground);border:1px solid var(--line);border-radius:6px;cursor:pointer}"
	".growth{display:block;width:100%;height:auto}"
	".growth polyline{fill:none;stroke:var(--leak);stroke-width:2}"
	".growth line{stroke:var(--line)}.growth text{fill:var(--soft);font-size:13px}"
	".scroll{overflow-x:auto}"
	"table{border-collapse:collapse;width:100%;font-size:.92rem}"
	"th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line);"
	"vertical-align:top}"
	"th{color:var(--soft);font-weight:600}.n{text-align:right;white-space:nowrap;"
	"font-variant-numeric:tabular-nums}.w{width:100%;overflow-wrap:anywhere}"
	"code{font:.88em/1.4 ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;"
	"overflow-wrap:anywhere}"
	".bar{display:block;height:.35rem;border-radius:2px;background:var(--bar);margin-top:."
	"2rem}";

static const char *meta_text(const json_t *meta, const char *key)
{
	const char *s = json_string_value(json_object_get(meta, key));

	return s && *s ? s : NULL;
}

char *report_caption(const json_t *meta)
{
	const char *at = meta_text(meta, "at"), *comm = meta_text(meta, "comm");
	const char *python = meta_text(meta, "python");
	const json_t *pid = json_object_get(meta, "pid"),
		     *pause = json_object_get(meta, "pause_us");
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	const char *dot = "";

	if (!f)
		return NULL;
	if (json_is_integer(pid)) {
		fprintf(f, "pid %lld", (long long)json_integer_value(pid));
		dot = " · ";
	}
	if (comm) {
		fprintf(f, *dot ? " (%s)" : "%s", comm);
		dot = " · ";
	}
	if (python) {
		fprintf(f, "%sPython %s", dot, python);
		dot = " · ";
	}
	if (at) {
		fprintf(f, "%s%s", dot, at);
		dot = " · ";
	}
	if (json_is_number(pause) && json_number_value(pause) > 0 &&
		json_number_value(pause) < 1e12) {
		char duration[32];

		fprintf(f, "%sstopped for %s", dot,
			format_duration(duration, sizeof(duration),
				(uint64_t)(json_number_value(pause) * 1000)));
	}
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

/* Graphviz's file begins with an XML declaration and a DOCTYPE, which have no place in a page. */
static void write_svg(FILE *f, const char *svg)
{
	const char *begin = strstr(svg, "<svg");

	fputs("<figure class=\"picture\">\n<div class=\"tools\" hidden>"
	      "<button type=\"button\" data-zoom=\"0.77\" aria-label=\"smaller\">−</button>"
	      "<button type=\"button\" data-zoom=\"1.3\" aria-label=\"larger\">+</button>"
	      "<button type=\"button\" data-zoom=\"0\">fit</button></div>\n"
	      "<div class=\"view\">\n",
		f);
	fputs(begin ? begin : "", f);
	fputs("</div></figure>\n", f);
}

static void write_path(FILE *f, const struct explain_path *p)
{
	char n[TEXT_NUMBER_MAX], percent[TEXT_NUMBER_MAX];

	fprintf(f,
		"<tr><td class=\"n\">%s<span class=\"bar\" style=\"width:%.1f%%\"></span></td>"
		"<td class=\"n\">%s</td><td class=\"w\"><code>",
		text_percent(percent, sizeof(percent), p->share), MAX(p->share * 100, 1.0),
		text_number(n, sizeof(n), p->instances));
	text_html(f, p->expression);
	fputs("</code><br><span class=\"soft\">", f);
	if (p->root == PATH_C_REFERENCE)
		fputs("C code: ", f);
	else
		fprintf(f, "%s ", explain_root_kind(p->root));
	text_html(f, p->root == PATH_C_REFERENCE && !strcmp(p->root_name, EXPLAIN_C_CODE)
			     ? "references that no object explains"
			     : p->root_name);
	fputs("</span></td></tr>\n", f);
}

/* ---- growth -------------------------------------------------------------------------------- */

struct span {
	double from, to;
};

static void widen(struct span *s, double v)
{
	s->from = MIN(s->from, v);
	s->to = MAX(s->to, v);
}

/* [[ms, count], …]: false if that is not what it is. */
static bool take_point(const json_t *points, size_t i, double *ms, double *count)
{
	const json_t *p = json_array_get(points, i);

	if (!json_is_number(json_array_get(p, 0)) || !json_is_number(json_array_get(p, 1)))
		return false;
	*ms = json_number_value(json_array_get(p, 0));
	*count = json_number_value(json_array_get(p, 1));
	return *ms >= 0 && *ms < 1e15 && *count >= 0 && *count < 1e15;
}

#define CHART_W 720.0
#define CHART_H 170.0
#define CHART_L 90.0 /* left of it the numbers */

static void write_chart(FILE *f, const json_t *points)
{
	size_t n = MIN(json_array_size(points), (size_t)GROWTH_POINTS_MAX), good = 0;
	struct span x = {1e18, 0}, y = {0, 1};
	char number[TEXT_NUMBER_MAX], a[RFC3339_MAX], b[RFC3339_MAX];
	double ms, count;

	for (size_t i = 0; i < n; i++) {
		if (!take_point(points, i, &ms, &count))
			continue;
		widen(&x, ms);
		widen(&y, count);
		good++;
	}
	if (good < 2 || x.to <= x.from)
		return;
	fprintf(f, "<svg class=\"growth\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" "
		   "aria-label=\"growth\">\n",
		CHART_W, CHART_H + 30);
	fprintf(f, "<line x1=\"%.0f\" y1=\"%.0f\" x2=\"%.0f\" y2=\"%.0f\"/>\n", CHART_L, CHART_H,
		CHART_W, CHART_H);
	fprintf(f, "<text x=\"%.0f\" y=\"16\" text-anchor=\"end\">%s</text>", CHART_L - 8,
		text_number(number, sizeof(number), (uint64_t)y.to));
	fprintf(f, "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"end\">0</text>\n", CHART_L - 8,
		CHART_H);
	format_rfc3339(a, sizeof(a), (int64_t)x.from);
	format_rfc3339(b, sizeof(b), (int64_t)x.to);
	fprintf(f, "<text x=\"%.0f\" y=\"%.0f\">%.16s</text>", CHART_L, CHART_H + 22, a);
	fprintf(f, "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"end\">%.16s</text>\n<polyline "
		   "points=\"",
		CHART_W, CHART_H + 22, b);
	for (size_t i = 0; i < n; i++) {
		if (take_point(points, i, &ms, &count))
			fprintf(f, "%.1f,%.1f ",
				CHART_L + (ms - x.from) / (x.to - x.from) * (CHART_W - CHART_L),
				CHART_H - count / y.to * (CHART_H - 12));
	}
	fputs("\"/></svg>\n", f);
}

/* doc->growth: [{"type": …, "points": [[ms, count], …]}, …] */
static void write_growth(FILE *f, const struct explain_suspect *s, const json_t *growth)
{
	const json_t *one;
	size_t i;

	json_array_foreach ((json_t *)growth, i, one) {
		const char *type = json_string_value(json_object_get(one, "type"));

		if (type && strcmp(type, s->type) == 0)
			write_chart(f, json_object_get(one, "points"));
	}
}

/* ---- the rest ------------------------------------------------------------------------------ */

static void write_suspect(
	FILE *f, size_t number, const struct explain_suspect *s, const json_t *growth)
{
	char n[TEXT_NUMBER_MAX], size[32];

	fprintf(f, "<h2 id=\"suspect-%zu\">What holds ", number); /* where the picture leads */
	text_html(f, s->type);
	fprintf(f, "</h2>\n<p class=\"soft\">%s live %s, %s in themselves</p>\n",
		text_number(n, sizeof(n), s->instances), s->instances == 1 ? "object" : "objects",
		format_size(size, sizeof(size), s->bytes));
	if (s->unseen)
		fprintf(f, "<p class=\"soft\">%s of them not looked at</p>\n",
			text_number(n, sizeof(n), s->unseen));
	write_growth(f, s, growth);
	if (!s->n_paths)
		return;
	fputs("<div class=\"scroll\"><table><tr><th class=\"n\">share</th><th class=\"n\">objects"
	      "</th><th>path and its root</th></tr>\n",
		f);
	for (size_t i = 0; i < s->n_paths; i++)
		write_path(f, &s->paths[i]);
	fputs("</table></div>\n", f);
	if (s->other_paths) {
		fprintf(f, "<p class=\"soft\">and %s more %s ",
			text_number(n, sizeof(n), s->other_paths),
			s->other_paths == 1 ? "path" : "paths");
		fprintf(f, "with %s %s</p>\n", text_number(n, sizeof(n), s->other_instances),
			s->other_instances == 1 ? "object" : "objects");
	}
}

static void write_types(FILE *f, const struct explanation *x)
{
	char n[TEXT_NUMBER_MAX], size[32];

	if (!x->n_top)
		return;
	fprintf(f, "<h2>Types with most objects</h2>\n<p class=\"soft\">%s objects",
		text_number(n, sizeof(n), x->objects));
	fprintf(f, " of %s types</p>\n", text_number(n, sizeof(n), x->types));
	fputs("<div class=\"scroll\"><table><tr><th>type</th><th class=\"n\">objects</th>"
	      "<th class=\"n\">bytes</th></tr>\n",
		f);
	for (size_t i = 0; i < x->n_top; i++) {
		fputs("<tr><td><code>", f);
		text_html(f, x->top[i].type);
		fprintf(f, "</code></td><td class=\"n\">%s</td>",
			text_number(n, sizeof(n), x->top[i].count));
		fprintf(f, "<td class=\"n\">%s</td></tr>\n",
			format_size(size, sizeof(size), x->top[i].bytes));
	}
	fputs("</table></div>\n", f);
}

static void write_holders(FILE *f, const struct explanation *x)
{
	char n[TEXT_NUMBER_MAX], size[32];

	if (x->holders_reason)
		fprintf(f,
			"<h2>What keeps most memory alive</h2>\n<p class=\"warn\">Not known: "
			"%s.</p>\n",
			x->holders_reason);
	if (!x->n_holders)
		return;
	fputs("<h2>What keeps most memory alive</h2>\n<p class=\"soft\">What would be freed with "
	      "each of these (dominators); one may be in another.</p>\n<div class=\"scroll\">"
	      "<table><tr><th>holder</th><th class=\"n\">retains</th><th class=\"n\">objects</th>"
	      "</tr>\n",
		f);
	for (size_t i = 0; i < x->n_holders; i++) {
		const struct explain_holder *h = &x->holders[i];

		fputs("<tr><td><code>", f);
		text_html(f, *h->label ? h->label : h->type);
		fputs("</code> <span class=\"soft\">", f);
		text_html(f, h->type);
		fprintf(f, "</span></td><td class=\"n\">%s</td><td class=\"n\">%s</td></tr>\n",
			format_size(size, sizeof(size), h->bytes),
			text_number(n, sizeof(n), h->objects));
	}
	fputs("</table></div>\n", f);
}

static void write_warnings(FILE *f, const struct explanation *x, const struct explain_document *doc)
{
	const json_t *truncated = json_object_get(doc->meta, "truncated");
	char n[TEXT_NUMBER_MAX];

	if (json_is_object(truncated)) {
		const char *reason = json_string_value(json_object_get(truncated, "reason"));

		fputs("<p class=\"warn\">This dump is not whole: ", f);
		text_html(f, reason ? reason : "the capture was cut short");
		fputs("</p>\n", f);
	}
	if (x->cut_level) {
		fputs("<p class=\"warn\">Not everything was looked at: ", f);
		text_html(f, x->cut_reason);
		fputs("</p>\n", f);
	}
	if (x->suspects_left_out)
		fprintf(f, "<p class=\"warn\">%s more types were asked for.</p>\n",
			text_number(n, sizeof(n), x->suspects_left_out));
	if (x->skipped)
		fprintf(f, "<p class=\"warn\">The references of %s %s could not be read.</p>\n",
			text_number(n, sizeof(n), x->skipped),
			x->skipped == 1 ? "object" : "objects");
}

int report_write(FILE *f, const struct explanation *x, const struct explain_document *doc,
	const char *svg, struct err *err)
{
	const struct explain_suspect *s = x->n_suspects ? &x->suspects[0] : NULL;
	_cleanup_free_ char *caption = report_caption(doc->meta);
	char n[TEXT_NUMBER_MAX];

	fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
	      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
	      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
	      "style-src 'unsafe-inline'; script-src '" REPORT_SCRIPT_HASH "'\">\n<title>",
		f);
	if (s)
		fprintf(f, "%s ", text_number(n, sizeof(n), s->instances));
	text_html(f, s ? s->type : "Nothing to explain");
	fprintf(f, " – pyleak</title>\n<style>%s</style></head>\n<body><main>\n<p class=\"soft\">",
		style);
	text_html(f, caption ? caption : "");
	fputs("</p>\n<h1>", f);
	if (s)
		fprintf(f, "%s ", text_number(n, sizeof(n), s->instances));
	text_html(f, s ? s->type : "Nothing to explain");
	fputs("</h1>\n", f);
	for (size_t i = 0; i < x->n_suspects; i++) {
		if (!x->suspects[i].n_paths)
			continue;
		fputs("<p class=\"verdict\">", f);
		text_html(f, x->suspects[i].paths[0].sentence);
		fputs(".</p>\n", f);
	}
	write_warnings(f, x, doc);
	if (svg) {
		write_svg(f, svg);
	} else {
		fputs("<p class=\"warn\">There is no picture: ", f);
		text_html(f, doc->svg_reason ? doc->svg_reason : "it was not drawn");
		fputs("</p>\n", f);
	}
	for (size_t i = 0; i < x->n_suspects; i++)
		write_suspect(f, i + 1, &x->suspects[i], doc->growth);
	write_holders(f, x);
	write_types(f, x);
	fprintf(f, "<p class=\"soft\">pyleak %s</p>\n</main><script>%s</script></body></html>\n",
		PYLEAK_VERSION, report_script);
	if (fflush(f) != 0 || ferror(f))
		return err_set(err, -EIO, "cannot write the report: %s", strerror(errno));
	return 0;
}
