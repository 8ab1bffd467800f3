/* SPDX-License-Identifier: MIT */
/* Reading files: libyaml makes a document of each, sections.c reads it. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/config/loader.h"

#define DEPTH_MAX 64

/* What libyaml found wrong with the text itself. */
static void report_parser(struct loader *l, const yaml_parser_t *p)
{
	const char *problem = p->problem ? p->problem : "cannot be parsed";
	struct place place;

	if (p->error == YAML_MEMORY_ERROR) {
		l->out_of_memory = true;
		return;
	}
	if (p->error == YAML_READER_ERROR) {
		place = source_place(l->source, p->problem_offset);
		error_at(l, &place, "%s, a configuration is text in UTF-8", problem);
		return;
	}
	place = place_of_mark(l, &p->problem_mark);
	if (p->context)
		error_at(l, &place, "not valid YAML: %s %s (from line %zu)", problem, p->context,
			p->context_mark.line + 1);
	else
		error_at(l, &place, "not valid YAML: %s", problem);
}

/* Reads the lines before this one. False if they alone are not YAML. */
static bool read_lines_before(struct loader *l, size_t line)
{
	struct place p = {.source = l->source, .line = line};
	yaml_document_t document;
	yaml_parser_t parser;
	bool good;

	if (!yaml_parser_initialize(&parser))
		return false;
	yaml_parser_set_input_string(
		&parser, (const unsigned char *)l->source->text, source_offset(&p));
	good = yaml_parser_load(&parser, &document);
	if (good) {
		l->partial = true;
		l->document = &document;
		read_document(l);
		l->where[0] = '\0';
		l->document = NULL;
		l->partial = false;
		yaml_document_delete(&document);
	}
	yaml_parser_delete(&parser);
	return good;
}

/* A syntax error ends the document, but the mistakes in the lines before it are told too: those
 * before the error, or before that which it ended (a list in brackets, say). */
static void read_before(struct loader *l, const yaml_parser_t *broken)
{
	size_t line = broken->problem_mark.line;

	if (broken->error == YAML_MEMORY_ERROR)
		return;
	if (broken->error == YAML_READER_ERROR)
		line = source_place(l->source, broken->problem_offset).line;
	if (!read_lines_before(l, line) && broken->context && broken->context_mark.line < line)
		read_lines_before(l, broken->context_mark.line);
}

/*
 * libyaml takes a time that grows with the square of the depth (yaml_parser_stale_simple_keys()
 * looks at every open level for every token): 200 kB of '[' are minutes. So the depth is looked at
 * first, event by event, which stops at the limit.
 */
static bool too_deep(struct loader *l)
{
	yaml_parser_t parser;
	bool deep = false, more = true;
	int depth = 0;

	if (!yaml_parser_initialize(&parser))
		return false;
	yaml_parser_set_input_string(
		&parser, (const unsigned char *)l->source->text, l->source->size);
	while (more && !deep) {
		yaml_event_t e;

		if (!yaml_parser_parse(&parser, &e))
			break; /* the loader will say what is wrong */
		depth += e.type == YAML_SEQUENCE_START_EVENT || e.type == YAML_MAPPING_START_EVENT;
		depth -= e.type == YAML_SEQUENCE_END_EVENT || e.type == YAML_MAPPING_END_EVENT;
		more = e.type != YAML_STREAM_END_EVENT;
		deep = depth > DEPTH_MAX;
		if (deep) {
			struct place p = place_of_mark(l, &e.start_mark);

			error_at(l, &p, "nested too deep, allowed are %d levels", DEPTH_MAX);
		}
		yaml_event_delete(&e);
	}
	yaml_parser_delete(&parser);
	return deep;
}

static int load_source(struct loader *l, const char *path, struct err *err)
{
	yaml_document_t document, next;
	yaml_parser_t parser;
	struct source *s;
	int r;

	r = source_read(path, &s, err);
	if (r)
		return r;
	l->sources[l->n_sources++] = s;
	l->source = s;
	l->where[0] = '\0';
	if (s->size >= 2 && (!memcmp(s->text, "\xff\xfe", 2) || !memcmp(s->text, "\xfe\xff", 2))) {
		struct place p = {.source = s};

		error_at(l, &p, "this is UTF-16, a configuration is text in UTF-8");
		return 0;
	}
	if (too_deep(l))
		return 0;
	if (!yaml_parser_initialize(&parser))
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	yaml_parser_set_input_string(&parser, (const unsigned char *)s->text, s->size);
	if (!yaml_parser_load(&parser, &document)) {
		read_before(l, &parser);
		report_parser(l, &parser);
		yaml_parser_delete(&parser);
		return 0;
	}
	l->document = &document;
	read_document(l);
	l->where[0] = '\0';
	if (!yaml_parser_load(&parser, &next)) {
		report_parser(l, &parser);
	} else {
		if (yaml_document_get_root_node(&next)) {
			struct place p = place_of_mark(l, &next.start_mark);

			error_at(l, &p, "a second document, allowed is one in a file");
		}
		yaml_document_delete(&next);
	}
	l->document = NULL;
	yaml_document_delete(&document);
	yaml_parser_delete(&parser);
	return 0;
}

/* ---- settings that exclude each other --------------------------------------------------------- */

static const struct place *place_of_settings(
	const struct loader *l, enum setting_id a, enum setting_id b)
{
	return l->set_at[a].source ? &l->set_at[a] : l->set_at[b].source ? &l->set_at[b] : NULL;
}

static void cross_check(struct loader *l)
{
	const struct config *c = l->config;
	const struct place *p;
	bool watches = !c->n_rules;

	l->where[0] = '\0';
	p = place_of_settings(l, GROWTH_WINDOW, GROWTH_INTERVAL);
	if (p && c->growth_window_ns / 6 < c->growth_interval_ns)
		warning_at(l, p,
			"growth.window holds fewer than 6 samples at this growth.interval, leaks "
			"are found late or never; make the window longer or the interval shorter");
	p = place_of_settings(l, DUMP_PAUSE, DUMP_DEADLINE);
	if (p && c->dump_pause_ns >= c->dump_deadline_ns)
		warning_at(l, p,
			"dump.pause is not below dump.deadline, such a dump is given up "
			"before it is done");
	p = place_of_settings(l, STORAGE_HISTORY, GROWTH_WINDOW);
	if (p && c->storage_history_ns < c->growth_window_ns)
		warning_at(l, p,
			"storage.history is shorter than growth.window, what led to a "
			"verdict is not kept");
	for (size_t i = 0; i < c->n_rules; i++)
		watches |= c->rules[i].watch;
	if (!watches)
		warning_at(l, &l->rule_at[0],
			"targets: no rule has `watch: true`, nothing is watched");
}

/* ---- files ------------------------------------------------------------------------------------- */

static int is_drop_in(const struct dirent *d)
{
	size_t n = strlen(d->d_name);

	return d->d_name[0] != '.' && n > 5 && !strcmp(d->d_name + n - 5, ".yaml");
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int load_drop_ins(struct loader *l, const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	int dir_len = slash ? (int)(slash - path) + 1 : 0, n, r = 0;
	_cleanup_free_ char *dir = NULL;
	struct dirent **entries;

	if (asprintf(&dir, "%.*spyleakd.d", dir_len, path) < 0) {
		dir = NULL;
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	}
	n = scandir(dir, &entries, is_drop_in, by_bytes);
	if (n < 0) {
		r = -errno;
		if (r == -ENOENT || r == -ENOTDIR)
			return 0;
		return err_set(err, r, "%s: cannot read the folder: %s", dir, strerror(-r));
	}
	if (n > DROP_INS_MAX)
		r = err_set(err, -E2BIG, "%s: %d files, allowed are %d", dir, n, DROP_INS_MAX);
	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *file = NULL;

		if (!r && asprintf(&file, "%s/%s", dir, entries[i]->d_name) < 0) {
			file = NULL;
			r = err_set(err, -ENOMEM, "%s: out of memory", dir);
		}
		if (!r)
			r = load_source(l, file, err);
		free(entries[i]);
	}
	free(entries);
	return r;
}

/* Growth that is known to end; it may be missing. */
static int load_benign(struct loader *l, const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *file = NULL;

	if (asprintf(&file, "%.*s" BENIGN, slash ? (int)(slash - path) + 1 : 0, path) < 0) {
		file = NULL;
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	}
	if (access(file, F_OK) < 0 && (errno == ENOENT || errno == ENOTDIR))
		return 0;
	l->benign = true;
	return load_source(l, file, err);
}

static void loader_release(struct loader *l)
{
	config_free(l->config);
	for (size_t i = 0; i < l->n_sources; i++)
		source_free(l->sources[i]);
	free(l->rule_at);
	free(l->trigger_at);
	free(l->suppress_at);
}

int config_load(const char *path, FILE *diag, struct config **ret, struct err *err)
{
	_cleanup_(loader_release) struct loader l = {.diag = diag};
	int r;

	r = config_new(&l.config);
	if (r)
		return err_set(err, r, "%s: %s", path, strerror(-r));
	r = load_source(&l, path, err);
	if (!r)
		r = load_drop_ins(&l, path, err);
	if (!r)
		r = load_benign(&l, path, err);
	if (r)
		return r;
	if (l.out_of_memory)
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	if (!l.errors)
		cross_check(&l);
	if (diag && l.errors > ERRORS_MAX)
		fprintf(diag, "%s: and %u more mistakes\n", path, l.errors - ERRORS_MAX);
	if (l.errors == 1)
		return err_set(err, -EINVAL, "%s", l.first_error);
	if (l.errors)
		return err_set(err, -EINVAL, "%s (and %u more)", l.first_error, l.errors - 1);
	*ret = TAKE_PTR(l.config);
	return 0;
}
