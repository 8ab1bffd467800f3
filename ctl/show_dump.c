/* SPDX-License-Identifier: MIT */
/*
 * A dump in words: for each suspect what share of its instances is held how, the path drawn from
 * the root down to the object.
 */
#include "ctl/show.h"

#include <string.h>

#include "ctl/text.h"
#include "daemon/util/macros.h"

#define SMALL_SHARE 0.02 /* paths below it are only counted */

/* "module app.cache", "frame Thread-1 (worker) in handle at app.py:42", "interpreter (codecs)" */
static const char *root_words(struct ctl *c, const json_t *path)
{
	const json_t *root = json_object_get(path, "root");
	const char *kind = json_string_value(json_object_get(root, "kind"));
	const char *name = json_string_value(json_object_get(root, "name"));
	char text[1024];

	if (json_is_true(json_object_get(path, "cycle")))
		return "a reference cycle that waits for the garbage collector";
	if (!kind)
		return name ? ctl_clean(c, name) : "an unknown root";
	if (!strcmp(kind, "c-reference")) {
		if (!name || !*name || !strcmp(name, "C code"))
			return "C code: references that no object explains";
		snprintf(text, sizeof(text), "C code: %s", name);
		return ctl_clean(c, text);
	}
	if (!name || !*name)
		return ctl_clean(c, kind);
	snprintf(
		text, sizeof(text), !strcmp(kind, "interpreter") ? "%s (%s)" : "%s %s", kind, name);
	return ctl_clean(c, text);
}

/* Is it worth a word: not the type's own short name, nor what the edge says already? */
static bool tells_more(const char *label, const char *type, const char *edge)
{
	size_t n = label ? strlen(label) : 0, n_type = strlen(type);

	if (!n || (n <= n_type && !strcmp(type + n_type - n, label)))
		return false;
	return !edge || !strstr(edge, label);
}

static void show_step(struct ctl *c, const json_t *step, size_t depth, enum style style)
{
	const char *edge = json_string_value(json_object_get(step, "edge"));
	const char *label = json_string_value(json_object_get(step, "label"));
	const json_t *objects = json_object_get(step, "objects");
	const char *type = ctl_string(c, step, "type");
	char n[TEXT_MAX];

	/* Long chains must not run off the screen. */
	fprintf(c->out, "%*s└─ ", (int)(4 + 3 * MIN(depth, 16)), "");
	if (edge && *edge)
		fprintf(c->out, "%s  ", ctl_clean(c, edge));
	style_print(c->out, c->colour, style, type);
	if (tells_more(label, type, edge))
		fprintf(c->out, " %s", ctl_clean(c, label));
	if (json_integer_value(objects) > 1)
		fprintf(c->out, "  × %s", text_json_count(n, objects));
	if (json_is_true(json_object_get(step, "repeats")))
		fputs("  (again and again)", c->out);
	fputc('\n', c->out);
}

static void show_path(struct ctl *c, const json_t *path)
{
	const json_t *share = json_object_get(path, "share"), *steps, *step;
	const char *sentence = json_string_value(json_object_get(path, "sentence"));
	const char *words = root_words(c, path);
	char percent[TEXT_MAX], count[TEXT_MAX];
	size_t i;

	if (sentence)
		fprintf(c->out, "  %s\n", ctl_clean(c, sentence));
	else
		fprintf(c->out, "  %s (%s) held by %s\n",
			json_is_number(share) ? text_share(percent, json_number_value(share)) : "-",
			text_json_count(count, json_object_get(path, "instances")), words);
	steps = json_object_get(path, "steps");
	fputs("    ", c->out);
	style_print(c->out, c->colour, STYLE_GOOD, words);
	fputc('\n', c->out);
	json_array_foreach (steps, i, step)
		show_step(c, step, i, i + 1 == json_array_size(steps) ? STYLE_BAD : STYLE_PLAIN);
}

static void show_suspect(struct ctl *c, const json_t *suspect)
{
	const json_t *paths = json_object_get(suspect, "paths"), *path;
	json_int_t more = json_integer_value(json_object_get(suspect, "other_instances"));
	json_int_t unseen = json_integer_value(json_object_get(suspect, "unseen"));
	const json_t *instances = json_object_get(suspect, "instances");
	char count[TEXT_MAX];
	size_t i;

	style_print(c->out, c->colour, STYLE_HEAD, ctl_string(c, suspect, "type"));
	if (json_object_get(suspect, "addr"))
		fprintf(c->out, " at %s\n", ctl_string(c, suspect, "addr"));
	else
		fprintf(c->out, ": %s in the heap\n", text_json_count(count, instances));
	json_array_foreach (paths, i, path) {
		/* What a person wants to see first; all of it is in the JSON and in the report. */
		if (i > 0 && json_number_value(json_object_get(path, "share")) < SMALL_SHARE)
			more += json_integer_value(json_object_get(path, "instances"));
		else
			show_path(c, path);
	}
	if (!json_array_size(paths) && more > 0)
		fprintf(c->out, "  %s held by longer chains: ask with a larger --max-depth\n",
			text_count(count, more));
	else if (!json_array_size(paths) && json_integer_value(instances) > 0 && !unseen)
		fputs("  nothing was found that holds them\n", c->out);
	else if (more > 0)
		fprintf(c->out, "  %s more in other ways\n", text_count(count, more));
	if (unseen > 0)
		fprintf(c->out, "  %s not looked at: the time was up\n", text_count(count, unseen));
}

static void show_facts(struct ctl *c, const json_t *d)
{
	const json_t *skipped = json_object_get(d, "skipped");
	const json_t *predicted = json_object_get(d, "predicted_pause_us");
	const json_t *duration = json_object_get(d, "duration_ms");
	char a[TEXT_MAX], b[TEXT_MAX];

	fprintf(c->out, "dump %s of pid %" JSON_INTEGER_FORMAT " at %s (%s)\n",
		ctl_string(c, d, "id"), json_integer_value(json_object_get(d, "pid")),
		text_time(a, text_json_ms(json_object_get(d, "at"))), ctl_string(c, d, "trigger"));
	fprintf(c->out, "%s objects, %s references; ",
		text_json_count(a, json_object_get(d, "objects")),
		text_json_count(b, json_object_get(d, "edges")));
	fprintf(c->out, "the process stood still for %s",
		text_json_us(a, json_object_get(d, "pause_us")));
	if (json_is_number(predicted))
		fprintf(c->out, " (%s predicted)", text_json_us(a, predicted));
	if (json_is_number(duration)) {
		_cleanup_(json_decrefp) json_t *us = json_real(json_number_value(duration) * 1000);

		fprintf(c->out, ", the dump took %s", text_json_us(a, us));
	}
	fputc('\n', c->out);
	if (json_number_value(skipped) > 0)
		fprintf(c->out, "%s objects could not be looked into and have no references here\n",
			text_json_count(a, skipped));
	show_truncated(c, d);
}

void show_chain(struct ctl *c, const json_t *answer)
{
	const json_t *suspects = json_object_get(answer, "suspects"), *s;
	size_t i;

	json_array_foreach (suspects, i, s) {
		fputs(i ? "\n" : "", c->out);
		show_suspect(c, s);
	}
	show_truncated(c, answer);
}

void show_dump(struct ctl *c, const json_t *result)
{
	static const char *const files[][2] = {
		{"svg", "picture"},
		{"html", "report"},
		{"json", "JSON"},
		{"snapshot", "snapshot"},
	};
	const json_t *suspects = json_object_get(result, "suspects"), *s;
	const char *state = json_string_value(json_object_get(result, "state"));
	const char *reason;
	bool any = false;
	size_t i;

	if (state && !strcmp(state, "running")) {
		const char *id = ctl_string(c, result, "id");

		fprintf(c->out,
			"dump %s of pid %" JSON_INTEGER_FORMAT
			" has begun: pyleakctl dumps show %s tells when it is done\n",
			id, json_integer_value(json_object_get(result, "pid")), id);
		return;
	}
	show_facts(c, result);
	json_array_foreach (suspects, i, s) {
		fputc('\n', c->out);
		show_suspect(c, s);
	}
	if (!json_array_size(suspects))
		fputs("\nno type was named, suspected or growing: ask with --type\n", c->out);
	reason = json_string_value(json_object_get(result, "svg_reason"));
	if (reason)
		fprintf(c->out, "\nno picture: %s\n", ctl_clean(c, reason));
	for (i = 0; i < ARRAY_SIZE(files); i++) {
		const char *path = json_string_value(
			json_object_get(json_object_get(result, "files"), files[i][0]));

		if (!path)
			continue;
		fprintf(c->out, "%s%-9s %s\n", any ? "" : "\n", files[i][1], ctl_clean(c, path));
		any = true;
	}
}
