/* SPDX-License-Identifier: MIT */
#include "ctl/replay.h"

#include <errno.h>
#include <string.h>

#include "ctl/text.h"
#include "daemon/config/config.h"
#include "daemon/record/replay.h"
#include "daemon/util/macros.h"
#include "daemon/util/units.h"
#include "pyleak/control.h"

#define NS_PER_MS 1000000ULL

static const char *suppressed(
	void *arg, const char *service, const char *type, int64_t count, int64_t at_ms)
{
	return config_suppressed(arg, service, type, count, at_ms);
}

static struct replay_settings settings_of(const struct options *o, struct config *config)
{
	struct replay_settings s = {.warmup_ms = -1};

	if (config) {
		s.interval_ms = config->growth_interval_ns / NS_PER_MS;
		s.warmup_ms = (int64_t)(config->growth_warmup_ns / NS_PER_MS);
		s.window_ms = config->growth_window_ns / NS_PER_MS;
		s.min_objects = config->growth_min_objects;
		s.suppressed = suppressed;
		s.arg = config;
	}
	if (o->interval_ns)
		s.interval_ms = o->interval_ns / NS_PER_MS;
	if (o->window_ns)
		s.window_ms = o->window_ns / NS_PER_MS;
	if (o->min_objects)
		s.min_objects = o->min_objects;
	if (o->given & OPTION_BIT(OPTION_WARMUP))
		s.warmup_ms = (int64_t)(o->warmup_ns / NS_PER_MS);
	return s;
}

/* ---- as JSON ------------------------------------------------------------------------------- */

static json_t *json_time(int64_t ms)
{
	char buf[RFC3339_MAX];

	return json_string(format_rfc3339(buf, sizeof(buf), ms));
}

static json_t *json_text(struct ctl *c, const char *s)
{
	return s ? json_string(ctl_clean(c, s)) : json_null();
}

static json_t *json_event(struct ctl *c, const struct replay *r, const struct replay_event *e)
{
	const struct replay_target *t = &r->targets[e->target - 1];

	return json_pack("{s:o, s:i, s:o, s:s, s:o, s:I, s:f, s:f, s:o, s:o, s:o}", "at", json_time(e->at_ms),
		"pid", (int)t->pid, "type", json_text(c, track_type_name(e->type)), "verdict",
		track_verdict_name(e->kind), "count",
		e->count == TRACK_UNKNOWN ? json_null() : json_integer(e->count), "delta",
		(json_int_t)e->delta, "rate_per_hour", e->rate_per_hour, "confidence", e->confidence,
		"reason", json_text(c, e->reason), "leader", json_text(c, e->leader), "suppressed",
		json_text(c, e->suppressed));
}

/* The lowest and the highest that was seen. */
static json_t *json_gauge(const struct replay_target *t, enum track_gauge g)
{
	return t->gauge_min[g] < 0 ? json_null()
				   : json_pack("[I, I]", (json_int_t)t->gauge_min[g], (json_int_t)t->gauge_max[g]);
}

static void print_json(struct ctl *c, const char *path, const struct replay *r)
{
	json_t *events = json_array(), *targets = json_array(), *doc;

	for (size_t i = 0; i < r->n_events; i++)
		json_array_append_new(events, json_event(c, r, &r->events[i]));
	for (unsigned i = 0; i < r->n_targets; i++) {
		const struct replay_target *t = &r->targets[i];

		json_array_append_new(targets,
			json_pack("{s:i, s:o, s:o, s:o, s:I, s:I, s:o, s:o}", "pid", (int)t->pid, "service",
				json_text(c, t->service), "from", json_time(t->first_ms), "to",
				json_time(t->last_ms), "samples", (json_int_t)t->samples, "types",
				(json_int_t)t->n_types, "threads", json_gauge(t, TRACK_THREADS),
				"open_files", json_gauge(t, TRACK_FILES)));
	}
	doc = json_pack("{s:o, s:o, s:{s:I, s:I, s:I, s:I}, s:b, s:o, s:o}", "at", json_time(c->now_ms),
		"file", json_text(c, path), "growth", "interval_ms", (json_int_t)r->config.interval_ms,
		"warmup_ms", (json_int_t)r->config.warmup_ms, "window_ms", (json_int_t)r->config.window_ms,
		"min_objects", (json_int_t)r->config.min_objects, "cut", r->cut, "targets", targets, "events",
		events);
	json_dumpf(doc, c->out, JSON_INDENT(2));
	fputc('\n', c->out);
	json_decref(doc);
}

/* ---- as a table ---------------------------------------------------------------------------- */

static const char *event_note(struct ctl *c, const struct replay_event *e, char *buf, size_t n)
{
	if (e->suppressed)
		snprintf(buf, n, "suppressed: %s", e->suppressed);
	else if (e->leader)
		snprintf(buf, n, "grows with %s", e->leader);
	else
		snprintf(buf, n, "%s", e->reason);
	return ctl_clean(c, buf);
}

static int print_table(struct ctl *c, const struct replay *r)
{
	static const char *const headings[] = {
		"AFTER", ">PID", "TYPE", "VERDICT", ">COUNT", ">GROWTH", ">SURE", "WHY", NULL};
	struct table *t = table_new(headings);
	char buf[RECORD_TEXT + 300], text[TEXT_MAX];
	int rc = t ? 0 : -ENOMEM;

	for (size_t i = 0; i < r->n_events && t; i++) {
		const struct replay_event *e = &r->events[i];
		const struct replay_target *target = &r->targets[e->target - 1];

		table_cell(t, STYLE_PLAIN,
			format_duration(text, sizeof(text),
				(uint64_t)MAX(e->at_ms - target->first_ms, 0) * NS_PER_MS));
		table_cellf(t, STYLE_PLAIN, "%d", (int)target->pid);
		table_cell(t, STYLE_PLAIN, track_type_name(e->type));
		table_cell(t,
			e->kind == TRACK_LEAK && !e->suppressed && !e->leader ? STYLE_BAD
			: e->kind == TRACK_WATCH			      ? STYLE_WARN
									      : STYLE_PLAIN,
			track_verdict_name(e->kind));
		table_cell(t, STYLE_PLAIN, e->count == TRACK_UNKNOWN ? "-" : text_count(text, e->count));
		table_cell(t, STYLE_PLAIN, text_delta(text, e->delta));
		table_cell(t, STYLE_PLAIN, e->kind == TRACK_NONE ? "-" : text_share(text, e->confidence));
		table_cell(t, STYLE_PLAIN, event_note(c, e, buf, sizeof(buf)));
	}
	if (!rc)
		rc = table_print(t, c->out, c->colour);
	table_free(t);
	return rc;
}

static int print_text(struct ctl *c, const struct replay *r)
{
	char interval[TEXT_MAX], warmup[TEXT_MAX], window[TEXT_MAX], length[TEXT_MAX], count[TEXT_MAX];

	for (unsigned i = 0; i < r->n_targets; i++) {
		const struct replay_target *t = &r->targets[i];

		fprintf(c->out, "pid %d, %s: %s samples in %s, %zu types", (int)t->pid,
			ctl_clean(c, t->service), text_count(count, (int64_t)t->samples),
			format_duration(length, sizeof(length),
				(uint64_t)MAX(t->last_ms - t->first_ms, 0) * NS_PER_MS),
			t->n_types);
		for (int g = 0; g < TRACK_GAUGES; g++)
			if (t->gauge_min[g] >= 0)
				fprintf(c->out, ", %s to %s %s", text_count(count, t->gauge_min[g]),
					text_count(length, t->gauge_max[g]), track_gauge_name((enum track_gauge)g));
		fputc('\n', c->out);
	}
	fprintf(c->out, "growth: interval %s, warmup %s, window %s, min_objects %s\n\n",
		format_duration(interval, sizeof(interval), r->config.interval_ms * NS_PER_MS),
		format_duration(warmup, sizeof(warmup), r->config.warmup_ms * NS_PER_MS),
		format_duration(window, sizeof(window), r->config.window_ms * NS_PER_MS),
		text_count(count, (int64_t)r->config.min_objects));
	if (r->n_events)
		return print_table(c, r);
	fputs("no verdicts\n", c->out);
	return 0;
}

/* ---- as a picture -------------------------------------------------------------------------- */

#define CHARTS 12
#define WIDTH  720
#define HEIGHT 110
#define LEFT   90
#define GAP    46

static void xml(FILE *f, const char *s)
{
	for (; *s; s++) {
		if (*s == '<')
			fputs("&lt;", f);
		else if (*s == '&')
			fputs("&amp;", f);
		else if (*s == '"')
			fputs("&quot;", f);
		else
			fputc(*s, f);
	}
}

/* Types with a verdict, in the order in which they came; leaders of leaks before others. */
static size_t charts_of(const struct replay *r, const struct replay_event **v)
{
	size_t n = 0;

	for (int pass = 0; pass < 2; pass++) {
		for (size_t i = 0; i < r->n_events && n < CHARTS; i++) {
			const struct replay_event *e = &r->events[i];
			bool there = e->kind == TRACK_NONE || (e->kind == TRACK_LEAK && !e->leader) == pass;

			for (size_t k = 0; k < n; k++)
				there |= v[k]->type == e->type;
			if (!there)
				v[n++] = e;
		}
	}
	return n;
}

static int draw_chart(
	struct ctl *c, FILE *f, const struct replay *r, const struct replay_event *of, int top)
{
	static const char *const colours[] = {"#2a7f2a", "#e6a700", "#c62828"};
	const struct replay_target *t = &r->targets[of->target - 1];
	_cleanup_free_ struct track_point *p = NULL;
	double low = 0, high = 1, length = (double)MAX(t->last_ms - t->first_ms, 1);
	char text[TEXT_MAX];
	size_t n, known = 0;

	if (track_type_history(of->type, INT64_MIN, 0, &p, &n))
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		if (p[i].count == TRACK_UNKNOWN)
			continue;
		low = known ? MIN(low, (double)p[i].count) : (double)p[i].count;
		high = known ? MAX(high, (double)p[i].count) : (double)p[i].count + 1;
		known++;
	}
	fprintf(f, "<text x=\"%d\" y=\"%d\" font-weight=\"bold\">", LEFT, top - 8);
	xml(f, ctl_clean(c, track_type_name(of->type)));
	fprintf(f, "</text>\n<text x=\"%d\" y=\"%d\" text-anchor=\"end\" fill=\"#666\">pid %d</text>\n",
		LEFT + WIDTH, top - 8, (int)t->pid);
	fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", LEFT - 6, top + 10,
		text_count(text, (int64_t)high));
	fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", LEFT - 6, top + HEIGHT,
		text_count(text, (int64_t)low));
	fprintf(f, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"#fafafa\" stroke=\"#ccc\"/>\n", LEFT,
		top, WIDTH, HEIGHT);
	fprintf(f, "<polyline fill=\"none\" stroke=\"#1f4e79\" stroke-width=\"1.5\" points=\"");
	for (size_t i = 0; i < n; i++)
		if (p[i].count != TRACK_UNKNOWN)
			fprintf(f, "%.1f,%.1f ", LEFT + WIDTH * (double)(p[i].at_ms - t->first_ms) / length,
				top + HEIGHT - HEIGHT * ((double)p[i].count - low) / MAX(high - low, 1));
	fprintf(f, "\"/>\n");
	for (size_t i = 0; i < r->n_events; i++) {
		const struct replay_event *e = &r->events[i];
		double x = LEFT + WIDTH * (double)(e->at_ms - t->first_ms) / length;

		if (e->type != of->type)
			continue;
		fprintf(f,
			"<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"%s\" stroke-dasharray=\"4 3\"/>"
			"<text x=\"%.1f\" y=\"%d\" fill=\"%s\">%s</text>\n",
			x, x, top, top + HEIGHT, colours[e->kind], x + 3, top + 12, colours[e->kind],
			track_verdict_name(e->kind));
	}
	return 0;
}

static int draw(struct ctl *c, const char *path, const struct replay *r)
{
	const struct replay_event *v[CHARTS];
	size_t n = charts_of(r, v);
	FILE *f = fopen(path, "we");
	int rc = f ? 0 : -errno;

	if (!f)
		return rc;
	fprintf(f,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
		"font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
		LEFT + WIDTH + 30, (int)MAX(n, (size_t)1) * (HEIGHT + GAP) + 20);
	if (!n)
		fprintf(f, "<text x=\"%d\" y=\"40\">no verdicts</text>\n", LEFT);
	for (size_t i = 0; i < n && !rc; i++)
		rc = draw_chart(c, f, r, v[i], GAP - 16 + (int)i * (HEIGHT + GAP));
	fprintf(f, "</svg>\n");
	if (fclose(f) && !rc)
		rc = -errno;
	return rc;
}

/* -------------------------------------------------------------------------------------------- */

int run_replay(struct ctl *c, const struct options *o)
{
	_cleanup_(config_freep) struct config *config = NULL;
	_cleanup_fclose_ FILE *f = NULL;
	struct replay_settings s;
	struct err err = {{0}};
	struct replay r;
	int rc;

	if (o->config && config_load(o->config, c->err, &config, &err))
		return ctl_fail(c, EXIT_USAGE, "%s", err.msg[0] ? err.msg : "out of memory");
	f = fopen(o->words[0], "re");
	if (!f)
		return ctl_fail(c, EXIT_NO, "%s: %s", o->words[0], strerror(errno));
	s = settings_of(o, config);
	rc = replay_run(f, &s, &r, &err);
	if (rc)
		return ctl_fail(c, rc == -EBADMSG ? EXIT_NO : EXIT_BROKEN, "%s: %s", o->words[0], err.msg);
	if (r.cut)
		ctl_fail(c, 0, "%s: it ends early, %s; what is before that is shown", o->words[0], err.msg);
	if (c->json)
		print_json(c, o->words[0], &r);
	else
		rc = print_text(c, &r);
	if (!rc && o->output) {
		rc = draw(c, o->output, &r);
		if (rc)
			rc = ctl_fail(c, EXIT_BROKEN, "%s: %s", o->output, strerror(-rc));
	} else if (rc) {
		rc = ctl_fail(c, EXIT_BROKEN, "out of memory");
	}
	replay_release(&r);
	return rc;
}
