/* SPDX-License-Identifier: MIT */
#include "graph/ask_main.h"

#include <getopt.h>
#include <string.h>
#include <sys/mman.h>

#include "daemon/util/log.h"
#include "daemon/util/units.h"
#include "graph/ask.h"
#include "graph/report.h"
#include "graph/worker.h"
#include "include/pyleak/control.h"

#define SVG_MAX    (64u << 20)

#define DEPTH_DEFAULT    UINT32_MAX
#define DEPTH_OF_WEB     3 /* as objgraph's */
#define TOO_MANY_OF_WEB  10

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
	const char *format; /* NULL: only the answer */
	const char *names[2];
	uint64_t memory_bytes, cpu_seconds;
};

/* ---- the command line ---------------------------------------------------------------------- */

static int usage(const char *fmt, const char *what)
{
	char text[256];

	snprintf(text, sizeof(text), fmt, what);
	log_error("%s", text);
	return EXIT_USAGE;
}

static bool parse_number(const char *s, int base, uint64_t max, uint64_t *ret)
{
	char *rest;

	errno = 0;
	*ret = strtoull(s, &rest, base);
	return *s && *s != '-' && !*rest && !errno && *ret <= max;
}

static int take_option(struct job *j, int option, const char *arg)
{
	struct ask *q = &j->q;
	uint64_t n;

	switch (option) {
	case 'T':
		if (q->n_types == ASK_TYPES_MAX)
			return usage("--type: more than %s types", "64");
		q->types[q->n_types++] = arg;
		return -1;
	case 'a':
		if (q->n_addrs == ASK_ADDRS_MAX)
			return usage("--addr: more than %s addresses", "64");
		if (!parse_number(arg, 0, UINT64_MAX, &q->addrs[q->n_addrs]))
			return usage("--addr: '%.100s' is not an address like 0x7f12a4c0d0e0", arg);
		q->n_addrs++;
		return -1;
	case 'd':
		if (!parse_number(arg, 10, 1000, &n))
			return usage("--max-depth: '%.100s' is not a number up to 1000", arg);
		q->max_depth = (uint32_t)n;
		return -1;
	case 'm':
		if (!parse_number(arg, 10, 1000, &n) || n < 1)
			return usage("--too-many: '%.100s' is not a number from 1 to 1000", arg);
		q->too_many = (uint32_t)n;
		return -1;
	case 'n':
		if (!parse_number(arg, 10, UINT32_MAX, &q->limit))
			return usage("-n: '%.100s' is not a number", arg);
		return -1;
	case 'f':
		j->format = arg;
		return -1;
	case 'M':
		if (parse_size(arg, &j->memory_bytes) < 0)
			return usage("--memory: '%.100s' is not a size like 4GiB", arg);
		return -1;
	case 'C':
		if (parse_duration(arg, &n) < 0)
			return usage("--cpu: '%.100s' is not a duration like 80s", arg);
		j->cpu_seconds = n ? MAX(n / 1000000000u, 1u) : 0;
		return -1;
	default:
		return usage("ask: option not known%s", "");
	}
}

static int parse(struct job *j, int argc, char **argv)
{
	static const struct option options[] = {
		{"type", required_argument, NULL, 'T'},
		{"addr", required_argument, NULL, 'a'},
		{"max-depth", required_argument, NULL, 'd'},
		{"too-many", required_argument, NULL, 'm'},
		{"limit", required_argument, NULL, 'n'},
		{"format", required_argument, NULL, 'f'},
		{"memory", required_argument, NULL, 'M'},
		{"cpu", required_argument, NULL, 'C'},
		{NULL, 0, NULL, 0},
	};
	int c, rc, n;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		rc = take_option(j, c, optarg);
		if (rc >= 0)
			return rc;
	}
	if (optind == argc)
		return usage("ask: the verb is missing%s", "");
	for (n = 0; n < (int)ARRAY_SIZE(verbs) && strcmp(verbs[n], argv[optind]); n++)
		;
	if (n == (int)ARRAY_SIZE(verbs))
		return usage("ask: '%.100s' is no question", argv[optind]);
	j->q.verb = (enum ask_verb)n;
	if (j->q.max_depth == DEPTH_DEFAULT)
		j->q.max_depth = j->q.verb == ASK_CHAIN ? 0 : DEPTH_OF_WEB;
	if (!j->q.too_many && j->q.verb != ASK_CHAIN)
		j->q.too_many = TOO_MANY_OF_WEB;
	n = argc - ++optind;
	if (n != (j->q.verb == ASK_DIFF ? 2 : 1))
		return usage("ask %s: the number of snapshots is wrong", verbs[j->q.verb]);
	for (int i = 0; i < n; i++)
		j->names[i] = argv[optind + i];
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
		&s, ASK_SNAPSHOT_FD + i, j->names[i], j->memory_bytes / share * 3, err);
	if (rc < 0)
		return rc;
	*ret_meta = description(&s);
	on_progress("joining the references");
	return graph_build(g, &s, err);
}

static bool is_picture(const char *format)
{
	return format && (!strcmp(format, "svg") || !strcmp(format, "png") || !strcmp(format, "pdf"));
}

static int draw(const struct job *j, int talk, struct err *err)
{
	struct worker_outcome o = {0};
	int rc;

	on_progress("drawing");
	rc = worker_draw(talk, &o, err);
	if (rc == 0 && !o.drawn)
		rc = err_set(err, -EIO,
			"no picture of %zu boxes: %s; less of it with --max-depth or --too-many, "
			"or save it as .dot",
			j->q.nodes, o.reason);
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
	int rc;

	q->stop = worker_clock(w);
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
	if (rc == 0)
		rc = ask(q, &g, meta, diff ? &before : NULL, before_meta, err);
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
	static struct job j = {.q = {.max_depth = DEPTH_DEFAULT},
		.memory_bytes = WORKER_MEMORY_DEFAULT,
		.cpu_seconds = WORKER_CPU_DEFAULT_S};
	struct worker w = {.dot_fd = -1, .picture_fd = ASK_OUTPUT_FD, .answer = answer, .arg = &j};
	struct worker_outcome o;
	int rc = parse(&j, argc, argv);

	if (rc >= 0)
		return rc;
	w.name = j.names[0];
	w.memory_bytes = j.memory_bytes;
	w.cpu_seconds = j.cpu_seconds;
	w.format = is_picture(j.format) ? j.format : "svg";
	if (j.format && !strcmp(j.format, "dot")) {
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
