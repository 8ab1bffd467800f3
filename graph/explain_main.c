/* SPDX-License-Identifier: MIT */
/*
 * pyleak-explain: the worker that turns a snapshot into dump.json, chain.dot, chain.svg and
 * report.html.
 *
 *   pyleak-explain [--id ID] [--trigger KIND] [--type T]... [--max-paths N] [--final-dir PATH] DIR
 *
 *   pyleak-explain ask VERB ...: questions of pyleakctl to snapshots (ask_main.h)
 *
 * What is read is hostile: see worker.h for who looks at it.
 */
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/util/log.h"
#include "graph/arguments.h"
#include "graph/ask_main.h"
#include "graph/explain.h"
#include "graph/render.h"
#include "graph/report.h"
#include "graph/worker.h"
#include "include/pyleak/control.h"

#define GROWTH_MAX (1u << 20)
#define SVG_MAX    (64u << 20) /* 300 nodes make some 300 KiB */

enum { FILE_DOT, FILE_SVG, FILE_JSON, FILE_HTML, N_FILES };

static const char *const file_names[N_FILES] = {
	[FILE_DOT] = "chain.dot",
	[FILE_SVG] = "chain.svg",
	[FILE_JSON] = "dump.json",
	[FILE_HTML] = "report.html",
};

struct job {
	struct arguments args;
	const char *dir;
	char final_dir[PATH_MAX];
	char snapshot_name[PATH_MAX + 16];
	int dir_fd, snapshot_fd, growth_fd, fd[N_FILES];
	bool made[N_FILES];
};

/* ---- files --------------------------------------------------------------------------------- */

static int open_files(struct job *j)
{
	struct stat st;

	snprintf(j->snapshot_name, sizeof(j->snapshot_name), "%.4095s/snapshot", j->dir);
	j->dir_fd = open(j->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (j->dir_fd >= 0)
		j->snapshot_fd = openat(
			j->dir_fd, "snapshot", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (j->dir_fd < 0 || j->snapshot_fd < 0) {
		int e = errno;

		log_error("%s: %s", j->snapshot_name,
			e == ENOENT || e == ENOTDIR ? "no such dump" : strerror(e));
		return e == ENOENT || e == ENOTDIR ? EXIT_NO
		       : e == EACCES || e == EPERM ? EXIT_REFUSED
						   : EXIT_BROKEN;
	}
	if (fstat(j->snapshot_fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		log_error("%s: not a file", j->snapshot_name);
		return EXIT_BROKEN;
	}
	/* What the daemon knows of the types' growth, if it does. */
	j->growth_fd = openat(
		j->dir_fd, "growth.json", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	for (int i = 0; i < N_FILES; i++) {
		j->fd[i] = openat(j->dir_fd, file_names[i],
			O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (j->fd[i] < 0) {
			int e = errno;

			log_error("%s/%s: cannot be made: %s%s", j->dir, file_names[i], strerror(e),
				e == EEXIST ? ": remove it to explain the dump again" : "");
			return e == EACCES || e == EPERM || e == EROFS ? EXIT_REFUSED : EXIT_BROKEN;
		}
		j->made[i] = true;
	}
	return -1;
}

static void remove_file(struct job *j, int i)
{
	if (j->made[i])
		unlinkat(j->dir_fd, file_names[i], 0);
	j->made[i] = false;
}

static int write_whole(int fd, const char *text, size_t n, const char *name, struct err *err)
{
	for (size_t done = 0; done < n;) {
		ssize_t k = pwrite(fd, text + done, n - done, (off_t)done);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return err_set(err, -EIO, "cannot write %s: %s", name,
				k < 0 ? strerror(errno) : "nothing was taken");
		done += (size_t)k;
	}
	if (ftruncate(fd, (off_t)n) < 0 || fsync(fd) < 0)
		return err_set(err, -EIO, "cannot write %s: %s", name, strerror(errno));
	return 0;
}

/* ---- the second process: the answer -------------------------------------------------------- */

struct answer {
	json_t *meta;
	struct explanation x;
	char path[N_FILES][PATH_MAX + 16], snapshot[PATH_MAX + 16];
};

static int load(const struct worker *w, struct answer *a, struct err *err)
{
	const struct job *j = w->arg;
	_cleanup_(snapshot_release) struct snapshot s = {0};
	struct explain_options o = {.types = j->args.types,
		.grown = j->args.grown,
		.n_types = j->args.n_types,
		.max_paths = j->args.max_paths,
		.max_holders = EXPLAIN_HOLDERS};
	const volatile sig_atomic_t *stop = worker_clock(w);
	struct graph g;
	int rc;

	rc = snapshot_load(&s, j->snapshot_fd, j->snapshot_name, j->args.memory_bytes / 4 * 3, err);
	if (rc < 0)
		return rc;
	a->meta = json_loads(s.meta, 0, NULL);
	if (!json_is_object(a->meta)) {
		json_decref(a->meta);
		a->meta = NULL; /* what it would have said is null */
	}
	o.partial = json_is_object(json_object_get(a->meta, "truncated"));
	rc = graph_build(&g, &s, err);
	if (rc < 0)
		return rc;
	g.stop = stop;
	rc = graph_index_referrers(&g, err);
	if (rc == 0)
		rc = explain(&a->x, &g, &o, err);
	graph_release(&g);
	return rc;
}

static int write_json(const struct job *j, const struct answer *a,
	const struct explain_document *doc, struct err *err)
{
	json_t *json = explain_json(&a->x, doc);
	char *text = json ? json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
	int rc = -ENOMEM;

	json_decref(json);
	if (text)
		rc = write_whole(j->fd[FILE_JSON], text, strlen(text), file_names[FILE_JSON], err);
	else
		err_set(err, rc, "not enough memory for %s", file_names[FILE_JSON]);
	free(text);
	return rc;
}

static int write_dot(const struct job *j, const struct answer *a, struct err *err)
{
	_cleanup_fclose_ FILE *f = worker_stream(j->fd[FILE_DOT], "w");
	_cleanup_free_ char *caption = report_caption(a->meta);
	int rc;

	if (!f)
		return err_set(
			err, -errno, "cannot write %s: %s", file_names[FILE_DOT], strerror(errno));
	rc = render_dot(f, &a->x, caption, NULL, err);
	if (rc == 0 && fsync(j->fd[FILE_DOT]) < 0)
		rc = err_set(
			err, -errno, "cannot write %s: %s", file_names[FILE_DOT], strerror(errno));
	return rc;
}

static json_t *read_growth(const struct job *j)
{
	_cleanup_free_ char *text =
		j->growth_fd >= 0 ? worker_read(j->growth_fd, GROWTH_MAX) : NULL;

	return text ? json_loads(text, 0, NULL) : NULL;
}

static int write_html(const struct job *j, const struct answer *a,
	const struct explain_document *doc, struct err *err)
{
	_cleanup_free_ char *svg = doc->svg ? worker_read(j->fd[FILE_SVG], SVG_MAX) : NULL;
	_cleanup_fclose_ FILE *f = worker_stream(j->fd[FILE_HTML], "w");
	int rc;

	if (!f)
		return err_set(
			err, -errno, "cannot write %s: %s", file_names[FILE_HTML], strerror(errno));
	rc = report_write(f, &a->x, doc, svg, err);
	if (rc == 0 && fsync(j->fd[FILE_HTML]) < 0)
		rc = err_set(
			err, -errno, "cannot write %s: %s", file_names[FILE_HTML], strerror(errno));
	return rc;
}

static int answer(const struct worker *w, int talk, struct err *err)
{
	static struct answer a; /* ends with the process */
	const struct job *j = w->arg;
	struct explain_document doc = {
		.id = j->args.id, .trigger = j->args.trigger, .svg_reason = "the picture was not finished"};
	struct worker_outcome o = {0};
	int rc;

	snprintf(a.snapshot, sizeof(a.snapshot), "%s/snapshot", j->final_dir);
	for (int i = 0; i < N_FILES; i++)
		snprintf(a.path[i], sizeof(a.path[i]), "%s/%s", j->final_dir, file_names[i]);
	rc = load(w, &a, err);
	if (rc < 0)
		return rc;
	doc.meta = a.meta;
	doc.snapshot = a.snapshot;
	doc.json = a.path[FILE_JSON];
	rc = write_json(j, &a, &doc, err);
	if (rc < 0)
		return rc;

	rc = write_dot(j, &a, err);
	if (rc < 0) {
		snprintf(o.reason, sizeof(o.reason), "%.255s", err->msg);
	} else {
		doc.dot = a.path[FILE_DOT];
		rc = worker_draw(talk, &o, err);
		if (rc < 0)
			return rc;
	}
	doc.svg = o.drawn ? a.path[FILE_SVG] : NULL;
	doc.svg_reason = o.drawn ? NULL : o.reason;
	doc.html = a.path[FILE_HTML];
	doc.growth = read_growth(j);
	rc = write_html(j, &a, &doc, err);
	if (rc == 0)
		rc = write_json(j, &a, &doc, err);
	return rc;
}

static int run(struct job *j)
{
	struct worker w = {.name = j->snapshot_name,
		.memory_bytes = j->args.memory_bytes,
		.time = j->args.time,
		.dot_fd = j->fd[FILE_DOT],
		.picture_fd = j->fd[FILE_SVG],
		.format = "svg",
		.answer = answer,
		.arg = j};
	struct worker_outcome o;
	int rc = worker_run(&w, &o);

	if (rc == EXIT_FINE && !o.drawn)
		remove_file(j, FILE_SVG);
	return rc;
}

int main(int argc, char **argv)
{
	static struct job j = {.dir_fd = -1, .snapshot_fd = -1, .growth_fd = -1};
	char whole[PATH_MAX];
	int rc;

	log_open("pyleak-explain", LOG_INFO);
	umask(0077);
	signal(SIGPIPE, SIG_IGN);
	/* Nothing of the environment has a say in how Graphviz and the fonts are set up. */
	clearenv();
	setenv("HOME", "/nonexistent", 1);
	if (argc > 1 && !strcmp(argv[1], "ask"))
		return ask_main(argc - 1, argv + 1);
	rc = arguments_parse(&j.args, ARGUMENTS_DUMP, argc, argv);
	if (rc >= 0)
		return rc;
	if (j.args.n_words != 1) {
		log_error("%s; see --help", j.args.n_words ? "one folder only"
							   : "the folder with the snapshot is missing");
		return EXIT_USAGE;
	}
	j.dir = j.args.words[0];
	rc = open_files(&j);
	if (rc < 0) {
		if (!realpath(j.dir, whole))
			snprintf(whole, sizeof(whole), "%.4095s", j.dir);
		if (!j.args.id)
			j.args.id = strdup(basename(whole));
		if (!realpath(j.dir, whole))
			snprintf(whole, sizeof(whole), "%.4095s", j.dir);
		snprintf(j.final_dir, sizeof(j.final_dir), "%s",
			j.args.final_dir ? j.args.final_dir : whole);
		rc = run(&j);
	}
	if (rc != EXIT_FINE) {
		for (int i = 0; i < N_FILES; i++)
			remove_file(&j, i);
	} else if (fsync(j.dir_fd) < 0) {
		log_error("%s: cannot be made durable: %s", j.dir, strerror(errno));
		rc = EXIT_BROKEN;
	}
	return rc;
}
