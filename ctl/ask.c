/* SPDX-License-Identifier: MIT */
#include "ctl/ask.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "ctl/daemon.h"
#include "ctl/save.h"
#include "ctl/show.h"
#include "ctl/text.h"
#include "ctl/worker.h"
#include "daemon/util/macros.h"
#include "daemon/util/units.h"
#include "pyleak/control.h"

#define ARGS_MAX       150
#define JSON_LIST_MAX  "100" /* of holders, unless -n says something else */
#define ANSWER_MAX     (64u << 20)

struct question {
	const char *verb;
	const char *formats; /* endings of -o, each with a blank behind */
	bool has_picture;
	bool needs_object; /* --type or --addr */
	bool json_limited; /* a list that nobody wants whole */
	void (*show)(struct ctl *c, const json_t *answer);
};

struct dump {
	const char *name; /* as it was given, for messages */
	int fd;
};

static void dump_close(struct dump *d)
{
	if (d->fd >= 0)
		close(d->fd);
}

/* ---- which dump ----------------------------------------------------------------------------- */

static int open_path(struct ctl *c, const char *path, int *ret)
{
	char inside[PATH_MAX];
	struct stat st;
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
		/* The folder of a dump, as `dumps path` prints it. */
		close(fd);
		snprintf(inside, sizeof(inside), "%s/snapshot", path);
		fd = open(inside, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		path = inside;
	}
	if (fd < 0)
		return ctl_fail(c,
			errno == EACCES || errno == EPERM ? EXIT_REFUSED : EXIT_NO,
			"%s: no such dump: %s", path, strerror(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return ctl_fail(c, EXIT_NO, "%s: not a snapshot: no regular file", path);
	}
	*ret = fd;
	return 0;
}

static int open_dump(struct ctl *c, const char *name, struct dump *ret)
{
	_cleanup_(json_decrefp) json_t *result = NULL;
	struct err err = {{0}};
	json_t *args;
	int r;

	*ret = (struct dump){name, -1};
	if (strchr(name, '/') || access(name, F_OK) == 0)
		return open_path(c, name, &ret->fd);
	args = json_pack("{s:s, s:s}", "id", name, "file", "snapshot");
	r = daemon_call(c, "dumps.show", args, false, &result, &ret->fd, &err);
	if (r)
		return ctl_fail(c, r, "%s: no such file, and as an id of a dump: %s", name, err.msg);
	if (ret->fd < 0)
		return ctl_fail(c, EXIT_BROKEN, "dump %s: pyleakd sent no file", name);
	if (lseek(ret->fd, 0, SEEK_SET) < 0)
		return ctl_fail(c, EXIT_BROKEN, "dump %s: %s", name, strerror(errno));
	return 0;
}

/* ---- where to ------------------------------------------------------------------------------- */

static const char *ending(const char *path)
{
	const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');

	return dot ? dot + 1 : "";
}

/* The ending, in small letters, if the question can answer in that format; else NULL. */
static const char *format_of(const struct question *q, const char *path, char buf[32])
{
	const char *e = ending(path), *known = q->formats;

	if (!*e || strlen(e) > 30)
		return NULL;
	for (size_t i = 0; i <= strlen(e); i++)
		buf[i] = (char)(e[i] >= 'A' && e[i] <= 'Z' ? e[i] | 0x20 : e[i]);
	while ((known = strstr(known, buf)) != NULL) {
		if ((known == q->formats || known[-1] == ' ') && known[strlen(buf)] == ' ')
			return buf;
		known++;
	}
	return NULL;
}

/* A file without a name, near the one that it will be copied to: a large one has no place in
 * memory. */
static int open_output(const char *path)
{
	_cleanup_free_ char *copy = strdup(path);
	int fd = copy ? open(dirname(copy), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : -1;

	return fd >= 0 ? fd : memfd_create("output", MFD_CLOEXEC);
}

static bool in_path(const char *program)
{
	const char *path = getenv("PATH");
	char file[PATH_MAX];

	while (path && *path) {
		size_t n = strcspn(path, ":");

		if (n && (size_t)snprintf(file, sizeof(file), "%.*s/%s", (int)n, path, program) <
				sizeof(file) &&
			access(file, X_OK) == 0)
			return true;
		path += n + (path[n] == ':');
	}
	return false;
}

static bool has_viewer(void)
{
	const char *x = getenv("DISPLAY"), *wayland = getenv("WAYLAND_DISPLAY");

	return ((x && *x) || (wayland && *wayland)) && in_path("xdot");
}

static int start_viewer(struct ctl *c, const char *path)
{
	pid_t pid;

	fputs("Spawning graph viewer (xdot)\n", c->out);
	fflush(c->out);
	fflush(c->err);
	pid = fork();
	if (pid == 0) {
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);

		/* It outlives this program. */
		setsid();
		for (int i = 0; i < 3 && null >= 0; i++)
			dup2(null, i);
		execlp("xdot", "xdot", path, (char *)NULL);
		_exit(EXIT_BROKEN);
	}
	return pid < 0 ? ctl_fail(c, EXIT_BROKEN, "cannot start xdot: %s", strerror(errno)) : 0;
}

/* ---- the answer ----------------------------------------------------------------------------- */

/* As it is, but for what could act on a terminal: who wrote it has read a hostile file. */
static int copy_answer(struct ctl *c, int fd)
{
	char buf[65536];
	off_t at = 0;

	for (;;) {
		ssize_t n = pread(fd, buf, sizeof(buf), at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return ctl_fail(c, EXIT_BROKEN, "cannot read the answer: %s", strerror(errno));
		if (n == 0)
			return 0;
		for (ssize_t i = 0; i < n; i++) {
			unsigned char b = (unsigned char)buf[i];

			if ((b < 0x20 && b != '\n') || b == 0x7f)
				buf[i] = '?';
		}
		if (fwrite(buf, 1, (size_t)n, c->out) != (size_t)n)
			return 0; /* ctl_main() tells */
		at += n;
	}
}

static int show_answer(struct ctl *c, const struct question *q, int fd)
{
	_cleanup_(json_decrefp) json_t *answer = NULL;
	struct stat st;
	json_error_t e;

	if (c->json)
		return copy_answer(c, fd);
	if (fstat(fd, &st) < 0 || st.st_size > ANSWER_MAX)
		return ctl_fail(c, EXIT_BROKEN, "the answer is too long to show: use --json or -n");
	if (lseek(fd, 0, SEEK_SET) == 0)
		answer = json_loadfd(fd, 0, &e);
	if (!json_is_object(answer))
		return ctl_fail(c, EXIT_BROKEN, "pyleak-explain's answer makes no sense: %s", e.text);
	q->show(c, answer);
	return 0;
}

static void tell_saved(
	struct ctl *c, const char *format, const char *path, size_t boxes, uint64_t bytes)
{
	const char *name = ctl_clean(c, path);
	char size[TEXT_MAX];

	if (c->json)
		return;
	if (!strcmp(format, "dot"))
		fprintf(c->out, "Graph written to %s (%zu nodes)\n", name, boxes);
	else if (!strcmp(format, "html"))
		fprintf(c->out, "Report written to %s\n", name);
	else if (!strcmp(format, "json"))
		fprintf(c->out, "Answer written to %s\n", name);
	else if (!strcmp(format, "heapsnapshot"))
		fprintf(c->out,
			"Heap snapshot written to %s (%s): load it in the Memory panel of "
			"Chrome's developer tools\n",
			name, format_size(size, sizeof(size), bytes));
	else
		fprintf(c->out, "Image generated as %s\n", name);
}

/* ---- asking --------------------------------------------------------------------------------- */

struct asked {
	const struct question *q;
	const struct options *o;
	struct dump dumps[2];
	const char *format; /* NULL: text or JSON on the terminal */
	const char *limit;
};

static int call(struct ctl *c, const struct asked *a, int answer, int output, size_t *ret_boxes)
{
	const struct options *o = a->o;
	const char *argv[ARGS_MAX];
	struct wait wait = wait_begin(c, "reading the dump");
	struct worker_call w = {.argv = argv,
		.answer_fd = answer,
		.output_fd = output,
		.snapshot_fds = {a->dumps[0].fd, a->dumps[1].fd},
		.tick_ms = c->err_terminal ? 250 : 0,
		.on_wait = wait_on,
		.arg = &wait};
	struct err err = {{0}};
	int n = 0, r;

	for (unsigned i = 0; i < o->n_types; i++) {
		argv[n++] = "--type";
		argv[n++] = o->types[i];
	}
	for (unsigned i = 0; i < o->n_addrs; i++) {
		argv[n++] = "--addr";
		argv[n++] = o->addrs[i];
	}
	if (o->max_depth) {
		argv[n++] = "--max-depth";
		argv[n++] = o->max_depth;
	}
	if (o->too_many) {
		argv[n++] = "--too-many";
		argv[n++] = o->too_many;
	}
	if (o->deadline) {
		argv[n++] = "--deadline";
		argv[n++] = o->deadline;
	}
	argv[n++] = "--limit";
	argv[n++] = a->limit;
	if (a->format && strcmp(a->format, "json")) {
		argv[n++] = "--format";
		argv[n++] = a->format;
	}
	argv[n++] = "--";
	/* Exporting is a question of its own, wherever -o stands. */
	argv[n++] = a->format && !strcmp(a->format, "heapsnapshot") ? "export" : a->q->verb;
	for (int i = 0; i < 2 && a->dumps[i].fd >= 0; i++)
		argv[n++] = a->dumps[i].name;
	argv[n] = NULL;
	r = worker_call(&w, &err);
	wait_end(&wait);
	*ret_boxes = w.boxes;
	return r ? ctl_fail(c, r, "%s", err.msg) : 0;
}

/* What is asked for on a display and not saved: the picture, for xdot. */
static int view(struct ctl *c, const struct asked *a, int answer)
{
	char path[] = "/tmp/pyleak-XXXXXX.dot";
	_cleanup_close_ int fd = mkostemps(path, 4, O_CLOEXEC);
	size_t boxes;
	int r;

	if (fd < 0)
		return ctl_fail(c, EXIT_BROKEN, "cannot write %s: %s", path, strerror(errno));
	r = call(c, a, answer, fd, &boxes);
	if (r) {
		unlink(path);
		return r;
	}
	tell_saved(c, "dot", path, boxes, 0);
	return start_viewer(c, path);
}

static int save(struct ctl *c, const struct asked *a, int answer)
{
	_cleanup_close_ int output = open_output(a->o->output);
	bool is_answer = !strcmp(a->format, "json");
	struct err err = {{0}};
	uint64_t bytes;
	size_t boxes;
	int r;

	if (output < 0)
		return ctl_fail(c, EXIT_BROKEN, "cannot make a file: %s", strerror(errno));
	r = call(c, a, answer, output, &boxes);
	if (r)
		return r;
	if (save_file(is_answer ? answer : output, a->o->output, &bytes, &err) < 0)
		return ctl_fail(c, EXIT_BROKEN, "%s", err.msg);
	tell_saved(c, a->format, a->o->output, boxes, bytes);
	return c->json && a->q->show ? show_answer(c, a->q, answer) : 0;
}

static int run_question(struct ctl *c, const struct options *o, const struct question *q)
{
	_cleanup_close_ int answer = memfd_create("answer", MFD_CLOEXEC);
	_cleanup_(dump_close) struct dump first = {NULL, -1}, second = {NULL, -1};
	struct asked a = {.q = q, .o = o};
	char format[32], limit[24];
	size_t boxes;
	int r;

	if (answer < 0)
		return ctl_fail(c, EXIT_BROKEN, "out of memory");
	if (q->needs_object && !o->n_types && !o->n_addrs)
		return ctl_fail(c, EXIT_USAGE,
			"%s: of what? %s DUMP --type T, or --addr A", q->verb, q->verb);
	if (o->output) {
		a.format = format_of(q, o->output, format);
		if (!a.format)
			return ctl_fail(c, EXIT_USAGE,
				"-o %s: %s writes files that end in one of: %s", o->output, q->verb,
				q->formats);
	}
	r = open_dump(c, o->words[0], &first);
	if (!r && o->n_words > 1)
		r = open_dump(c, o->words[1], &second);
	if (r)
		return r;
	a.dumps[0] = first;
	a.dumps[1] = second;
	/* A list for a person ends somewhere; one for a program is whole. */
	snprintf(limit, sizeof(limit), "%lld", (long long)o->n);
	a.limit = limit;
	if (!(o->given & OPTION_BIT(OPTION_N)) &&
		(c->json || (a.format && !strcmp(a.format, "json"))))
		a.limit = q->json_limited ? JSON_LIST_MAX : "0";
	if (a.format)
		return save(c, &a, answer);
	if (q->has_picture && !c->json && has_viewer()) {
		a.format = "dot";
		return view(c, &a, answer);
	}
	r = call(c, &a, answer, -1, &boxes);
	return r ? r : show_answer(c, q, answer);
}

/* What the daemon has no file of is made from those that it has. */
int ask_dump_file(
	struct ctl *c, const struct options *o, const char *id, bool *ret_made, json_t **ret_result)
{
	static const struct question picture = {
		.verb = "picture", .formats = "png pdf heapsnapshot "};
	_cleanup_close_ int answer = -1;
	_cleanup_(dump_close) struct dump dump = {id, -1};
	struct asked a = {.q = &picture, .o = o, .limit = "0"};
	char format[32];
	int r;

	a.format = format_of(&picture, o->output, format);
	*ret_made = a.format != NULL;
	if (!a.format)
		return 0;
	answer = memfd_create("answer", MFD_CLOEXEC);
	if (answer < 0)
		return ctl_fail(c, EXIT_BROKEN, "out of memory");
	r = daemon_ask(c, "dumps.show",
		json_pack("{s:s, s:s}", "id", id, "file",
			strcmp(format, "heapsnapshot") ? "dot" : "snapshot"),
		false, ret_result, &dump.fd);
	if (r)
		return r;
	if (dump.fd < 0 || lseek(dump.fd, 0, SEEK_SET) < 0)
		return ctl_fail(c, EXIT_BROKEN, "dump %s: pyleakd sent no file", id);
	a.dumps[0] = dump;
	a.dumps[1].fd = -1;
	return save(c, &a, answer);
}

#define QUESTION(name, ...)                                                                        \
	int ask_##name(struct ctl *c, const struct options *o)                                     \
	{                                                                                          \
		static const struct question q = {.verb = #name, __VA_ARGS__};                     \
                                                                                                   \
		return run_question(c, o, &q);                                                     \
	}

QUESTION(chain, .formats = "dot svg png pdf html json heapsnapshot ", .has_picture = true,
	.needs_object = true, .show = show_chain)
QUESTION(backrefs, .formats = "dot svg png pdf json heapsnapshot ", .has_picture = true,
	.needs_object = true, .show = show_web)
QUESTION(refs, .formats = "dot svg png pdf json heapsnapshot ", .has_picture = true,
	.needs_object = true, .show = show_web)
QUESTION(types, .formats = "json heapsnapshot ", .show = show_types)
QUESTION(instances, .formats = "json ", .needs_object = true, .show = show_instances)
QUESTION(diff, .formats = "json ", .show = show_diff)
QUESTION(dominators, .formats = "json ", .json_limited = true, .show = show_dominators)
QUESTION(leaking, .formats = "json ", .show = show_leaking)
QUESTION(cycles, .formats = "json ", .show = show_cycles)
