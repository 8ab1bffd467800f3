/* SPDX-License-Identifier: MIT */
#include "ctl/show.h"

#include <math.h>
#include <string.h>

#include "ctl/text.h"
#include "daemon/util/macros.h"
#include "daemon/util/units.h"

#define PLOT_ROWS 6

void show_table(struct ctl *c, const struct table *t)
{
	if (!t || table_print(t, c->out, c->colour) < 0)
		ctl_fail(c, 0, "out of memory: the table is not complete");
}

static const char *string_or_null(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

/* "~1 234 ±20": the mark of an estimate, the number, the bound if there is one. */
static void number_cell(
	struct table *t, const json_t *value, const char *quality, const json_t *bound)
{
	bool estimate = quality && !strcmp(quality, "estimate");
	char number[TEXT_MAX], plus_minus[TEXT_MAX];

	if (!json_is_number(value)) {
		/* Blind: it cannot be known here. Else it is not known yet. */
		table_cell(t, STYLE_DIM, quality && !strcmp(quality, "blind") ? "?" : "-");
		return;
	}
	text_json_count(number, value);
	if (json_number_value(bound) > 0)
		table_cellf(t, STYLE_PLAIN, "%s%s ±%s", estimate ? "~" : "", number,
			text_json_count(plus_minus, bound));
	else
		table_cellf(t, STYLE_PLAIN, "%s%s", estimate ? "~" : "", number);
}

static void rate_cell(struct table *t, const json_t *value, const char *quality)
{
	bool estimate = quality && !strcmp(quality, "estimate");
	char number[TEXT_MAX];

	if (!json_is_number(value))
		table_cell(t, STYLE_DIM, quality && !strcmp(quality, "blind") ? "?" : "-");
	else
		table_cellf(
			t, STYLE_PLAIN, "%s%s", estimate ? "~" : "", text_json_rate(number, value));
}

static void delta_cell(struct table *t, const json_t *value, bool per_hour, const char *quality)
{
	bool estimate = quality && !strcmp(quality, "estimate");
	char number[TEXT_MAX];

	if (!json_is_number(value))
		table_cell(t, STYLE_DIM, "-");
	else if (per_hour)
		table_cellf(t, STYLE_PLAIN, "%s%s", estimate ? "~" : "",
			text_delta(number,
				llround(fmax(-9e18, fmin(9e18, json_number_value(value))))));
	else
		table_cellf(t, STYLE_PLAIN, "%s%s", estimate ? "~" : "",
			text_json_delta(number, value));
}

static void pid_cell(struct table *t, const json_t *pid)
{
	table_cellf(t, STYLE_PLAIN, "%" JSON_INTEGER_FORMAT, json_integer_value(pid));
}

/* Types of one name are summed: how many they are, if more than one. */
static void type_cell(struct ctl *c, struct table *t, const json_t *type)
{
	json_int_t n = json_integer_value(json_object_get(type, "types"));

	if (n > 1)
		table_cellf(t, STYLE_PLAIN, "%s (%" JSON_INTEGER_FORMAT " types)",
			ctl_string(c, type, "type"), n);
	else
		table_cell(t, STYLE_PLAIN, ctl_string(c, type, "type"));
}

/* ---- status --------------------------------------------------------------------------------- */

static void status_row(struct ctl *c, struct table *t, const json_t *target)
{
	static const char *const coverage_keys[] = {"exact", "estimate", "blind"};
	const json_t *build = json_object_get(target, "build");
	const json_t *census = json_object_get(target, "census");
	const json_t *coverage = json_object_get(target, "coverage");
	const json_t *overhead = json_object_get(target, "overhead_percent");
	const char *path = string_or_null(build, "path"), *kind = string_or_null(build, "kind");
	const char *state = ctl_string(c, target, "state");
	char number[TEXT_MAX];

	pid_cell(t, json_object_get(target, "pid"));
	table_cell(t, STYLE_PLAIN, ctl_string(c, target, "comm"));
	table_cell(t, STYLE_PLAIN, ctl_string(c, target, "python"));
	table_cell(t, STYLE_PLAIN, state);
	for (size_t i = 0; i < ARRAY_SIZE(coverage_keys); i++)
		table_cell(t, STYLE_PLAIN,
			text_json_count(number, json_object_get(coverage, coverage_keys[i])));
	number_cell(t, json_object_get(census, "objects"), NULL, json_object_get(census, "width"));
	table_cell(t, STYLE_PLAIN, text_json_us(number, json_object_get(census, "pause_us_max")));
	table_cell(t, STYLE_PLAIN,
		text_ago(number, text_json_ms(json_object_get(census, "at")), c->now_ms));
	if (json_is_number(overhead))
		table_cellf(t, STYLE_PLAIN, "%.*f %%", json_number_value(overhead) < 10 ? 2 : 1,
			json_number_value(overhead));
	else
		table_cell(t, STYLE_DIM, "-");
	table_cellf(t, STYLE_PLAIN, "%s%s%s%s", path ? ctl_clean(c, path) : "-", kind ? " (" : "",
		kind ? ctl_clean(c, kind) : "", kind ? ")" : "");
}

void show_status(struct ctl *c, const json_t *result)
{
	static const char *const headings[] = {">PID", "NAME", "PYTHON", "STATE", ">EXACT",
		">ESTIMATE", ">BLIND", ">OBJECTS", ">PAUSE", ">CENSUS", ">OVERHEAD", "BUILD", NULL};
	const json_t *targets = json_object_get(result, "targets"), *target;
	_cleanup_table_ struct table *t = table_new(headings);
	size_t n = json_array_size(targets), i;
	bool any = false;

	if (json_is_true(json_object_get(result, "paused")))
		fprintf(c->out, "pyleakd %s is paused: nothing is watched until pyleakctl resume\n",
			ctl_string(c, result, "version"));
	else
		fprintf(c->out, "pyleakd %s watches %zu process%s\n", ctl_string(c, result, "version"),
			n, n == 1 ? "" : "es");
	json_array_foreach (targets, i, target)
		if (t)
			status_row(c, t, target);
	if (n)
		show_table(c, t);
	json_array_foreach (targets, i, target) {
		const char *reason = string_or_null(target, "reason");

		if (!reason || !*reason)
			continue;
		fprintf(c->out, "%spid %" JSON_INTEGER_FORMAT ": %s\n", any ? "" : "\n",
			json_integer_value(json_object_get(target, "pid")), ctl_clean(c, reason));
		any = true;
	}
}

/* ---- top and growth ------------------------------------------------------------------------- */

/* "pid 4711 at 2026-11-23 08:25:58" */
static void print_subject(struct ctl *c, const json_t *result)
{
	char at[TEXT_MAX];

	fprintf(c->out, "pid %" JSON_INTEGER_FORMAT " at %s",
		json_integer_value(json_object_get(result, "pid")),
		text_time(at, text_json_ms(json_object_get(result, "at"))));
}

void show_top(struct ctl *c, const json_t *result)
{
	static const char *const headings[] = {
		"TYPE", ">LIVE", ">TRACKED", ">BORN", ">DIED", ">BORN/s", ">DIED/s", ">SEEN", NULL};
	const json_t *types = json_object_get(result, "types"), *type;
	_cleanup_table_ struct table *t = NULL;
	const char *used[ARRAY_SIZE(headings)];
	bool partly = false;
	size_t i;

	/* The share of the time that was counted matters only where it is not all of it. */
	json_array_foreach (types, i, type) {
		const json_t *share = json_object_get(type, "observed_share");

		partly |= json_is_number(share) && json_number_value(share) < 1;
	}
	memcpy(used, headings, sizeof(headings));
	if (!partly)
		used[ARRAY_SIZE(headings) - 2] = NULL;
	t = table_new(used);

	print_subject(c, result);
	fputs(json_array_size(types) ? "\n" : ": no types counted yet\n", c->out);
	json_array_foreach (types, i, type) {
		const char *quality = string_or_null(type, "quality");
		const char *rates = string_or_null(type, "rates_quality") ?: quality;
		const json_t *share = json_object_get(type, "observed_share");
		char text[TEXT_MAX];

		if (!t)
			break;
		type_cell(c, t, type);
		number_cell(t, json_object_get(type, "count"), quality,
			json_object_get(type, "count_bound"));
		number_cell(t, json_object_get(type, "tracked"), NULL,
			json_object_get(type, "tracked_bound"));
		number_cell(t, json_object_get(type, "allocs"), rates, NULL);
		number_cell(t, json_object_get(type, "frees"), rates, NULL);
		rate_cell(t, json_object_get(type, "alloc_rate"), rates);
		rate_cell(t, json_object_get(type, "free_rate"), rates);
		if (partly)
			table_cell(t, STYLE_PLAIN,
				json_is_number(share) ? text_share(text, json_number_value(share))
						      : "-");
	}
	show_table(c, t);
}

void show_growth(struct ctl *c, const json_t *result)
{
	static const char *const headings[] = {"TYPE", ">LIVE", ">GROWTH", ">PER HOUR", NULL};
	const json_t *types = json_object_get(result, "types"), *type;
	_cleanup_table_ struct table *t = table_new(headings);
	int64_t since = text_json_ms(json_object_get(result, "since"));
	char text[TEXT_MAX];
	size_t i;

	print_subject(c, result);
	if (since >= 0) {
		fprintf(c->out, ", above the highest level up to %s", text_time(text, since));
		fprintf(c->out, " (%s)", text_ago(text, since, c->now_ms));
	}
	fputs(json_array_size(types) ? "\n" : ": no type\n", c->out);
	json_array_foreach (types, i, type) {
		const char *quality = string_or_null(type, "quality");

		if (!t)
			break;
		type_cell(c, t, type);
		number_cell(t, json_object_get(type, "count"), quality, NULL);
		delta_cell(t, json_object_get(type, "delta"), false, quality);
		delta_cell(t, json_object_get(type, "rate_per_hour"), true, quality);
	}
	show_table(c, t);
}

/* ---- history -------------------------------------------------------------------------------- */

/* The level where it is known; if it nowhere is, what was born less what died. */
static struct text_point *plot_points(const json_t *points, size_t *ret_n, bool *ret_relative)
{
	size_t n = json_array_size(points), used = 0, i;
	struct text_point *p = calloc(n ?: 1, sizeof(*p));
	bool known = false;
	const json_t *point;

	if (!p)
		return NULL;
	json_array_foreach (points, i, point)
		known |= json_is_number(json_object_get(point, "count"));
	json_array_foreach (points, i, point) {
		const json_t *count = json_object_get(point, "count");
		const json_t *born = json_object_get(point, "allocs");
		const json_t *died = json_object_get(point, "frees");
		int64_t at = text_json_ms(json_object_get(point, "at"));
		double v = NAN;

		if (at < 0 || (used && at < p[used - 1].at_ms))
			continue;
		if (known && json_is_number(count))
			v = json_number_value(count);
		else if (!known && json_is_number(born) && json_is_number(died))
			v = json_number_value(born) - json_number_value(died);
		p[used++] = (struct text_point){at, v};
	}
	*ret_n = used;
	*ret_relative = !known;
	return p;
}

void show_history(struct ctl *c, const json_t *result)
{
	static const char *const headings[] = {"AT", ">LIVE", ">BORN", ">DIED", NULL};
	const json_t *points = json_object_get(result, "points"), *point;
	_cleanup_table_ struct table *t = table_new(headings);
	char text[TEXT_MAX];
	size_t i;

	fprintf(c->out, "%s, ", ctl_string(c, result, "type"));
	print_subject(c, result);
	fputs(json_array_size(points) ? "\n" : ": no points in that time\n", c->out);
	if (c->out_terminal && json_array_size(points) > 1) {
		_cleanup_free_ struct text_point *p = NULL;
		_cleanup_free_ char *plot = NULL;
		bool relative = false;
		size_t n = 0;

		p = plot_points(points, &n, &relative);
		plot = p && n > 1 ? text_plot(p, n, c->columns, PLOT_ROWS) : NULL;
		if (plot)
			fprintf(c->out, "%s\n%s\n",
				relative ? "born less died since attaching:" : "live:", plot);
	}
	json_array_foreach (points, i, point) {
		if (!t)
			break;
		table_cell(t, STYLE_PLAIN,
			text_time(text, text_json_ms(json_object_get(point, "at"))));
		number_cell(t, json_object_get(point, "count"), NULL, NULL);
		number_cell(t, json_object_get(point, "allocs"), NULL, NULL);
		number_cell(t, json_object_get(point, "frees"), NULL, NULL);
	}
	show_table(c, t);
}

/* ---- suspects ------------------------------------------------------------------------------- */

/* "a, b, c" of an array of strings, or of objects by their "type" or "name"; NULL if there is
 * nothing. */
static const char *join(struct ctl *c, const json_t *array)
{
	_cleanup_free_ char *text = NULL;
	const json_t *item;
	const char *all;
	size_t size, i;
	FILE *f;

	if (json_is_string(array))
		return ctl_clean(c, json_string_value(array));
	if (!json_array_size(array))
		return NULL;
	f = open_memstream(&text, &size);
	if (!f)
		return NULL;
	json_array_foreach (array, i, item) {
		const char *s = json_string_value(item) ?: string_or_null(item, "type") ?: string_or_null(item, "name");

		fprintf(f, "%s%s", i ? ", " : "", s ?: "?");
	}
	all = fclose(f) ? NULL : ctl_clean(c, text);
	return all;
}

static enum style verdict_style(const char *verdict)
{
	if (verdict && !strcmp(verdict, "leak"))
		return STYLE_BAD;
	return verdict && !strcmp(verdict, "watch") ? STYLE_WARN : STYLE_PLAIN;
}

static void suspect_row(struct ctl *c, struct table *t, const json_t *s)
{
	const json_t *confidence = json_object_get(s, "confidence");
	char text[TEXT_MAX];

	pid_cell(t, json_object_get(s, "pid"));
	table_cell(t, STYLE_PLAIN, ctl_string(c, s, "type"));
	table_cell(t, verdict_style(string_or_null(s, "verdict")), ctl_string(c, s, "verdict"));
	number_cell(t, json_object_get(s, "count"), string_or_null(s, "quality"), NULL);
	delta_cell(t, json_object_get(s, "delta"), false, NULL);
	delta_cell(t, json_object_get(s, "rate_per_hour"), true, NULL);
	table_cell(t, STYLE_PLAIN,
		json_is_number(confidence) ? text_share(text, json_number_value(confidence)) : "-");
	table_cell(t, STYLE_PLAIN,
		text_ago(text, text_json_ms(json_object_get(s, "first_seen")), c->now_ms));
	table_cell(t, STYLE_PLAIN, ctl_string(c, s, "dump"));
}

void show_suspects(struct ctl *c, const json_t *result)
{
	static const char *const headings[] = {">PID", "TYPE", "VERDICT", ">LIVE", ">GROWTH",
		">PER HOUR", ">SURE", ">SINCE", "DUMP", NULL};
	const json_t *suspects = json_object_get(result, "suspects"), *s;
	_cleanup_table_ struct table *t = table_new(headings);
	size_t i;

	if (!json_array_size(suspects)) {
		fputs("no suspects\n", c->out);
		return;
	}
	json_array_foreach (suspects, i, s)
		if (t)
			suspect_row(c, t, s);
	show_table(c, t);
	json_array_foreach (suspects, i, s) {
		const char *companions = join(c, json_object_get(s, "companions"));
		const char *sites = join(c, json_object_get(s, "sites"));
		const char *reason = string_or_null(s, "reason");

		if (!reason && !companions && !sites)
			continue;
		fprintf(c->out, "\n%s in pid %" JSON_INTEGER_FORMAT "\n", ctl_string(c, s, "type"),
			json_integer_value(json_object_get(s, "pid")));
		if (reason)
			fprintf(c->out, "  %s\n", ctl_clean(c, reason));
		if (companions)
			fprintf(c->out, "  grows together with %s\n", companions);
		if (sites)
			fprintf(c->out, "  made at %s\n", sites);
	}
}

/* ---- why, and what has no form of its own ---------------------------------------------------- */

static void show_value(struct ctl *c, const char *key, const json_t *v, int depth);

static void show_members(struct ctl *c, const json_t *object, const char *skip, int depth)
{
	const char *key;
	json_t *v;

	json_object_foreach ((json_t *)object, key, v)
		if (!skip || strcmp(key, skip))
			show_value(c, key, v, depth);
}

static void show_value(struct ctl *c, const char *key, const json_t *v, int depth)
{
	char text[TEXT_MAX];
	json_t *item;
	size_t i;

	/* The daemon's documents are shallow. */
	if (depth > 8)
		return;
	fprintf(c->out, "%*s%s:", depth * 2, "", ctl_clean(c, key));
	if (json_is_object(v)) {
		fputc('\n', c->out);
		show_members(c, v, NULL, depth + 1);
	} else if (json_is_array(v)) {
		fputs(json_array_size(v) ? "\n" : " none\n", c->out);
		json_array_foreach (v, i, item) {
			if (json_is_string(item)) {
				fprintf(c->out, "%*s%s\n", depth * 2 + 2, "",
					ctl_clean(c, json_string_value(item)));
			} else {
				char name[TEXT_MAX];

				snprintf(name, sizeof(name), "%zu", i + 1);
				show_value(c, name, item, depth + 1);
			}
		}
	} else if (json_is_string(v)) {
		int64_t ms = text_json_ms(v);

		fprintf(c->out, " %s\n",
			ms >= 0 ? text_time(text, ms) : ctl_clean(c, json_string_value(v)));
	} else if (json_is_integer(v)) {
		/* A pid is a name, not a quantity. */
		bool plain = !strcmp(key, "pid") || !strcmp(key, "uid");

		if (plain)
			fprintf(c->out, " %" JSON_INTEGER_FORMAT "\n", json_integer_value(v));
		else
			fprintf(c->out, " %s\n", text_json_count(text, v));
	} else if (json_is_real(v)) {
		fprintf(c->out, " %s\n", text_json_rate(text, v));
	} else {
		fprintf(c->out, " %s\n", json_is_true(v) ? "yes" : json_is_false(v) ? "no" : "-");
	}
}

void show_object(struct ctl *c, const json_t *result)
{
	show_members(c, result, NULL, 0);
}

void show_why(struct ctl *c, const json_t *result)
{
	static const char *const told[] = {"at", "pid", "watched", "rule", "reason"};
	const char *rule = string_or_null(result, "rule"),
		   *reason = string_or_null(result, "reason");
	const char *key;
	json_t *v;

	fprintf(c->out, "pid %" JSON_INTEGER_FORMAT " is %s",
		json_integer_value(json_object_get(result, "pid")),
		json_is_true(json_object_get(result, "watched")) ? "watched" : "not watched");
	if (rule && *rule)
		fprintf(c->out, " (%s)", ctl_clean(c, rule));
	if (reason && *reason)
		fprintf(c->out, ": %s", ctl_clean(c, reason));
	fputc('\n', c->out);
	json_object_foreach ((json_t *)result, key, v) {
		bool skip = json_is_null(v);

		for (size_t i = 0; i < ARRAY_SIZE(told); i++)
			skip |= !strcmp(key, told[i]);
		if (!skip)
			show_value(c, key, v, 0);
	}
}

void show_paused(struct ctl *c, const json_t *result)
{
	json_int_t n = json_integer_value(json_object_get(result, "targets"));

	if (json_is_true(json_object_get(result, "paused")))
		fputs("paused: nothing is watched until pyleakctl resume\n", c->out);
	else
		fprintf(c->out, "%" JSON_INTEGER_FORMAT " process%s watched so far\n", n,
			n == 1 ? " is" : "es are");
}

void show_dumps(struct ctl *c, const json_t *result)
{
	static const char *const headings[] = {
		"ID", "MADE", ">PID", "NAME", "TRIGGER", ">SIZE", "STATE", NULL};
	const json_t *dumps = json_object_get(result, "dumps"), *d;
	_cleanup_table_ struct table *t = table_new(headings);
	size_t i;

	if (!json_array_size(dumps)) {
		fputs("no dumps\n", c->out);
		return;
	}
	json_array_foreach (dumps, i, d) {
		const json_t *bytes = json_object_get(d, "bytes");
		const char *state = string_or_null(d, "state"), *error = string_or_null(d, "error");
		char text[TEXT_MAX];

		if (!t)
			break;
		table_cell(t, STYLE_PLAIN, ctl_string(c, d, "id"));
		table_cell(t, STYLE_PLAIN, text_time(text, text_json_ms(json_object_get(d, "at"))));
		pid_cell(t, json_object_get(d, "pid"));
		table_cell(t, STYLE_PLAIN, ctl_string(c, d, "comm"));
		table_cell(t, STYLE_PLAIN, ctl_string(c, d, "trigger"));
		table_cell(t, STYLE_PLAIN,
			json_is_integer(bytes) && json_integer_value(bytes) > 0
				? format_size(
					  text, sizeof(text), (uint64_t)json_integer_value(bytes))
				: "-");
		table_cellf(t, state && !strcmp(state, "failed") ? STYLE_BAD : STYLE_PLAIN,
			"%s%s%s", ctl_string(c, d, "state"), error && *error ? ": " : "",
			error ? ctl_clean(c, error) : "");
	}
	show_table(c, t);
}
