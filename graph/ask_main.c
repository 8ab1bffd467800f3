/* SPDX-License-Identifier: MIT */
#include "graph/ask_main.h"

#include <string.h>
#include <sys/mman.h>

#include "daemon/util/log.h"
#include "graph/arguments.h"
#include "graph/ask.h"
#include "graph/report.h"
#include "graph/worker.h"
#include "include/pyleak/control.h"

#define SVG_MAX         (64u << 20)
#define DEPTH_OF_WEB    3 /* as objgraph's */
#define TOO_MANY_OF_WEB 10

static const char *const verbs[] = {
	[ASK_CHAIN] = "chain",
	[ASK_BACKREFS] = "backrefs",
	[ASK_REFS] = "refs",
	[ASK_TYPES] = "types",
	[ASK_INSTANCES] = "instances",
	[ASK_DIFF] = "diff",
	[ASK_DOMINATORS] = "dominators",
	[ASK_LEAKING] = "leaking",
	[ASK_CYCLES] = "cycles",
	[ASK_EXPORT] = "export",
};

struct job {
	struct ask q;
	struct arguments args;
	const char *format; /* NULL: only the answer */
	char **names;
	bool picture; /* no question: a DOT file is to be drawn */
};

/* ---- the command line ---------------------------------------------------------------------- */

static bool is_picture(const char *format)
{
	return format && (!strcmp(format, "svg") || !strcmp(format, "png") || !strcmp(format, "pdf"));
}

/* As arguments_parse(). */
static int parse(struct job *j, int argc, char **argv)
{
	struct arguments *a = &j->args;
	struct ask *q = &j->q;
	int rc = arguments_parse(a, ARGUMENTS_ASK, argc, argv), n = 0;

	if (rc >= 0)
		return rc;
	j->names = a->words + 1;
	j->format = a->format;
	j->picture = a->n_words == 2 && !strcmp(a->words[0], "picture") && is_picture(a->format);
	if (j->picture)
		return -1;
	while (n < (int)ARRAY_SIZE(verbs) && a->n_words && strcmp(verbs[n], a->words[0]) != 0)
		n++;
	if (!a->n_words || n == (int)ARRAY_SIZE(verbs)) {
		log_error("ask: %.100s is no question", a->n_words ? a->words[0] : "nothing");
		return EXIT_USAGE;
	}
	*q = (struct ask){.verb = (enum ask_verb)n,
		.types = a->types,
		.n_types = a->n_types,
		.addrs = a->addrs,
		.n_addrs = a->n_addrs,
		.max_depth = a->max_depth,
		.too_many = a->too_many,
		.limit = a->limit};
	if (q->max_depth == ARGUMENTS_DEPTH_ANY)
		q->max_depth = q->verb == ASK_CHAIN ? 0 : DEPTH_OF_WEB;
	if (!q->too_many && q->verb != ASK_CHAIN)
		q->too_many = TOO_MANY_OF_WEB;
	if (a->n_words - 1 != (q->verb == ASK_DIFF ? 2 : 1)) {
		log_error("ask %s: the number of snapshots is wrong", verbs[q->verb]);
		return EXIT_USAGE;
	}
	return -1;
}

/* ---- in the sandbox ------------------------------------------------------------------------ */

static void on_progress(const char *what)
{
	printf("%s\n", what);
	fflush(stdout);
}

static json_t *description(const struct snapshot *s)
{
	json_t *meta = json_loads(s->meta, 0, NULL);

	if (json_is_object(meta))
		return meta;
	json_decref(meta);
	return NULL; /* what it would have said is null */
}

static int load(
	const struct job *j, int i, struct graph *g, json_t **ret_meta, struct err *err)
{
	_cleanup_(snapshot_release) struct snapshot s = {0};
	uint64_t share = j->q.verb == ASK_DIFF ? 8 : 4;
	int rc;

	on_progress("reading the snapshot");
	rc = snapshot_load(
		&s, ASK_SNAPSHOT_FD + i, j->names[i], j->args.memory_bytes / share * 3, err);
	if (rc < 0)
		return rc;
	*ret_meta = description(&s);
	on_progress("joining the references");
	return graph_build(g, &s, err);
}

static int draw(const struct job *j, int talk, struct err *err)
{
	struct worker_outcome o = {0};
	int rc;

	on_progress("drawing");
	rc = worker_draw(talk, &o, err);
	if (rc == 0 && !o.drawn)
		rc = err_set(err, -EIO,
			"no picture: %s; less of it with --max-depth or --too-many, or save it as .dot",
			o.reason);
	return rc;
}

static int write_page(const struct worker *w, int talk, const struct explanation *x,
	const json_t *meta, struct err *err)
{
	struct explain_document doc = {.meta = meta};
	_cleanup_fclose_ FILE *page = worker_stream(ASK_OUTPUT_FD, "w");
	_cleanup_free_ char *svg = NULL;
	struct worker_outcome o = {0};
	int rc;

	on_progress("drawing");
	rc = worker_draw(talk, &o, err);
	if (rc < 0)
		return rc;
	if (o.drawn)
		svg = worker_read(w->picture_fd, SVG_MAX);
	doc.svg_reason = o.reason;
	if (!page)
		return err_set(err, -errno, "cannot write the page: %s", strerror(errno));
	return report_write(page, x, &doc, svg, err);
}

static int answer(const struct worker *w, int talk, struct err *err)
{
	static struct graph g, before; /* end with the process */
	static struct explanation x;
	json_t *meta = NULL, *before_meta = NULL;
	struct job *j = w->arg;
	struct ask *q = &j->q;
	bool diff = q->verb == ASK_DIFF, page = j->format && !strcmp(j->format, "html");
	const volatile sig_atomic_t *stop;
	int rc;

	if (j->picture)
		return draw(j, talk, err);
	stop = worker_clock(w);
	q->progress = on_progress;
	q->json = worker_stream(ASK_ANSWER_FD, "w");
	if (!q->json)
		return err_set(err, -errno, "cannot write the answer: %s", strerror(errno));
	if (w->dot_fd >= 0)
		q->dot = worker_stream(w->dot_fd, "w");
	if (q->verb == ASK_EXPORT)
		q->heap = worker_stream(ASK_OUTPUT_FD, "w");
	q->drawn = is_picture(j->format);
	if (page)
		q->x = &x;
	rc = load(j, 0, diff ? &before : &g, diff ? &before_meta : &meta, err);
	if (rc == 0 && diff)
		rc = load(j, 1, &g, &meta, err);
	g.stop = stop;
	q->g = &g;
	q->meta = meta;
	q->before = &before;
	q->before_meta = before_meta;
	if (rc == 0)
		rc = ask(q, err);
	graph_release(&g);
	if (rc == 0 && is_picture(j->format))
		rc = draw(j, talk, err);
	if (rc == 0 && page)
		rc = write_page(w, talk, &x, meta, err);
	if (rc == 0 && j->format)
		printf("boxes %zu\n", q->nodes);
	return rc;
}

int ask_main(int argc, char **argv)
{
	static struct job j;
	struct worker w = {.dot_fd = -1, .picture_fd = ASK_OUTPUT_FD, .answer = answer, .arg = &j};
	struct worker_outcome o;
	int rc = parse(&j, argc, argv);

	if (rc >= 0)
		return rc;
	w.name = j.names[0];
	w.memory_bytes = j.args.memory_bytes;
	w.time = j.args.time;
	w.format = is_picture(j.format) ? j.format : "svg";
	if (j.picture) {
		w.dot_fd = ASK_SNAPSHOT_FD;
	} else if (j.format && !strcmp(j.format, "dot")) {
		w.dot_fd = ASK_OUTPUT_FD;
	} else if (is_picture(j.format) || (j.format && !strcmp(j.format, "html"))) {
		w.dot_fd = memfd_create("dot", MFD_CLOEXEC);
		if (!is_picture(j.format))
			w.picture_fd = memfd_create("svg", MFD_CLOEXEC);
		if (w.dot_fd < 0 || w.picture_fd < 0) {
			log_error("cannot make a place for the picture: %s", strerror(errno));
			return EXIT_BROKEN;
		}
	}
	return worker_run(&w, &o);
}
