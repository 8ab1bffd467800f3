/* SPDX-License-Identifier: MIT */
/*
 * A dump in words: for each suspect what share of its instances is held how, the path drawn from
 * the root down to the object.
 */
#include "ctl/show.h"

#include <string.h>

#include "ctl/text.h"
#include "daemon/util/macros.h"

/* "app.cache.CACHE['…']": only if every step is an attribute, a key or an index; else NULL. */
static const char *expression(struct ctl *c, const char *root, const json_t *steps)
{
	_cleanup_free_ char *text = NULL;
	const json_t *step;
	bool all = true;
	size_t size, i;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	fputs(root, f);
	json_array_foreach(steps, i, step)
	{
		const char *edge = json_string_value(json_object_get(step, "edge"));

		if (!edge || (*edge != '.' && *edge != '['))
			all = false;
		else
			fputs(edge, f);
	}
	if (fclose(f) || !all || !json_array_size(steps))
		return NULL;
	return ctl_clean(c, text);
}

/* "module app.cache", "a frame: Thread-1 (worker) in handle at app.py:42" */
static const char *root_words(struct ctl *c, const json_t *root)
{
	const char *kind = json_string_value(json_object_get(root, "kind"));
	const char *name = json_string_value(json_object_get(root, "name"));
	char text[1024];

	if (!kind && !name)
		return "an unknown root";
	if (kind && !strcmp(kind, "c-reference"))
		snprintf(text, sizeof(text),
			"a reference from C code that no object explains%s%s%s",
			name && *name ? " (" : "", name ?: "", name && *name ? ")" : "");
	else if (kind && !strcmp(kind, "interpreter"))
		snprintf(text, sizeof(text), "the interpreter%s%s%s", name && *name ? " (" : "",
			name ?: "", name && *name ? ")" : "");
	else
		snprintf(text, sizeof(text), "%s %s", kind ?: "root", name ?: "?");
	return ctl_clean(c, text);
}

static void show_steps(struct ctl *c, const json_t *path)
{
	const json_t *steps = json_object_get(path, "steps"), *step;
	size_t n = json_array_size(steps), i;

	fputs("      ", c->out);
	style_print(c->out, c->colour, STYLE_GOOD, root_words(c, json_object_get(path, "root")));
	fputc('\n', c->out);
	json_array_foreach(steps, i, step)
	{
		const char *edge = json_string_value(json_object_get(step, "edge"));
		const char *label = json_string_value(json_object_get(step, "label"));
		const char *type = ctl_string(c, step, "type");

		/* Long chains must not run off the screen. */
		fprintf(c->out, "%*s└─ %s%s", (int)(6 + 3 * MIN(i, 16)), "",
			edge && *edge ? ctl_clean(c, edge) : "", edge && *edge ? "  " : "");
		style_print(c->out, c->colour, i + 1 == n ? STYLE_BAD : STYLE_PLAIN, type);
		if (label && *label && strcmp(label, type))
			fprintf(c->out, "  %s", ctl_clean(c, label));
		fputc('\n', c->out);
	}
}

static void show_path(struct ctl *c, const json_t *path)
{
	const json_t *root = json_object_get(path, "root"), *share = json_object_get(path, "share");
	const char *kind = json_string_value(json_object_get(root, "kind"));
	const char *name = json_string_value(json_object_get(root, "name"));
	const char *words = root_words(c, root), *expr = NULL;
	char percent[TEXT_MAX], count[TEXT_MAX];

	if (kind && name && !strcmp(kind, "module"))
		expr = expression(c, name, json_object_get(path, "steps"));
	fprintf(c->out, "  %s (%s) ",
		json_is_number(share) ? text_share(percent, json_number_value(share)) : "-",
		text_json_count(count, json_object_get(path, "instances")));
	if (expr)
		fprintf(c->out, "held by %s as %s\n", words, expr);
	else
		fprintf(c->out, "held by %s\n", words);
	show_steps(c, path);
}

static void show_suspect(struct ctl *c, const json_t *suspect)
{
	const json_t *paths = json_object_get(suspect, "paths"), *path;
	char count[TEXT_MAX], percent[TEXT_MAX];
	double rest = 1;
	size_t i;

	fputc('\n', c->out);
	style_print(c->out, c->colour, STYLE_HEAD, ctl_string(c, suspect, "type"));
	fprintf(c->out, ": %s live\n",
		text_json_count(count, json_object_get(suspect, "instances")));
	json_array_foreach(paths, i, path)
	{
		rest -= json_number_value(json_object_get(path, "share"));
		show_path(c, path);
	}
	if (!json_array_size(paths))
		fputs(json_integer_value(json_object_get(suspect, "instances"))
				? "  no path from a root was found\n"
				: "  none in this dump\n",
			c->out);
	else if (rest > 0.0005)
		fprintf(c->out, "  %s by other paths, or by none that was found\n",
			text_share(percent, rest));
}

static void show_facts(struct ctl *c, const json_t *d)
{
	const json_t *truncated = json_object_get(d, "truncated"),
		     *skipped = json_object_get(d, "skipped");
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
	if (truncated && !json_is_null(truncated)) {
		const char *reason =
			json_string_value(truncated)
				?: json_string_value(json_object_get(truncated, "reason"));

		style_print(c->out, c->colour, STYLE_WARN, "not the whole heap");
		fprintf(c->out, ": %s\n", reason ? ctl_clean(c, reason) : "no reason given");
	}
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
	json_array_foreach(suspects, i, s) show_suspect(c, s);
	if (!json_array_size(suspects))
		fputs("\nnothing was asked of it: no type was named, suspected or growing\n",
			c->out);
	for (i = 0; i < ARRAY_SIZE(files); i++) {
		const char *path = json_string_value(
			json_object_get(json_object_get(result, "files"), files[i][0]));

		if (!path)
			continue;
		fprintf(c->out, "%s%-9s %s\n", any ? "" : "\n", files[i][1], ctl_clean(c, path));
		any = true;
	}
}
