/* SPDX-License-Identifier: MIT */
#include "ctl/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "daemon/util/helper.h"
#include "daemon/util/macros.h"
#include "pyleak/control.h"

#define PROGRAM  "pyleak-explain"
#define ARGS_MAX 160
#define FIRST_FD 3 /* answer, output, snapshots: graph/ask_main.h */
#define N_FDS    4

/* What comes through a pipe, line by line. */
struct lines {
	int fd;
	char buf[1024], last[512]; /* the last whole line */
	size_t n;
	bool open;
};

/* 1: a whole line is in last; 0: not yet. */
static int take_line(struct lines *l)
{
	char *end = memchr(l->buf, '\n', l->n);
	size_t len;

	if (!end && l->n < sizeof(l->buf))
		return 0;
	len = end ? (size_t)(end - l->buf) : l->n;
	snprintf(l->last, sizeof(l->last), "%.*s", (int)MIN(len, sizeof(l->last) - 1), l->buf);
	len += end != NULL;
	l->n -= len;
	memmove(l->buf, l->buf + len, l->n);
	return 1;
}

static void read_more(struct lines *l)
{
	ssize_t n = read(l->fd, l->buf + l->n, sizeof(l->buf) - l->n);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0)
		l->open = false;
	else
		l->n += (size_t)n;
}

static void on_line(struct worker_call *w, const char *line)
{
	if (strncmp(line, "boxes ", 6) == 0)
		w->boxes = strtoul(line + 6, NULL, 10);
	else if (w->on_wait)
		w->on_wait(w->arg, line);
}

/* In the child: the descriptors to their places, nothing else open. */
_Noreturn static void become(const char *program, char *const *argv, const int *from, int out,
	int errors, pid_t parent)
{
	int high[N_FDS + 2], n = 0;

	/* Out of the way first, so that none is overwritten before it was moved. */
	for (int i = 0; i < N_FDS; i++)
		high[n++] = from[i] < 0 ? -1 : fcntl(from[i], F_DUPFD_CLOEXEC, 64);
	high[n++] = fcntl(out, F_DUPFD_CLOEXEC, 64);
	high[n++] = fcntl(errors, F_DUPFD_CLOEXEC, 64);
	for (int i = 0; i < N_FDS; i++) {
		if (high[i] >= 0 && dup2(high[i], FIRST_FD + i) < 0)
			_exit(EXIT_BROKEN);
	}
	if (dup2(high[N_FDS], STDOUT_FILENO) < 0 || dup2(high[N_FDS + 1], STDERR_FILENO) < 0)
		_exit(EXIT_BROKEN);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(EXIT_BROKEN);
	execv(program, argv);
	dprintf(STDERR_FILENO, "%s: cannot be started: %s\n", program, strerror(errno));
	_exit(EXIT_BROKEN);
}

static int spawn(const struct worker_call *w, int *out, int *errors, pid_t *ret, struct err *err)
{
	const int from[N_FDS] = {w->answer_fd, w->output_fd, w->snapshot_fds[0], w->snapshot_fds[1]};
	int out_pipe[2], error_pipe[2];
	char program[PATH_MAX];
	const char *argv[ARGS_MAX];
	pid_t parent = getpid();
	size_t n = 0;

	if (helper_path(PROGRAM, program, sizeof(program)) < 0)
		return err_set(err, -ENOENT,
			PROGRAM " is neither beside pyleakctl nor in " PYLEAK_LIBEXECDIR
				": run make install");
	argv[n++] = program;
	argv[n++] = "ask";
	for (const char *const *a = w->argv; *a && n + 1 < ARGS_MAX; a++)
		argv[n++] = *a;
	argv[n] = NULL;
	if (pipe2(out_pipe, O_CLOEXEC) < 0)
		return err_set(err, -errno, "cannot make a pipe: %s", strerror(errno));
	if (pipe2(error_pipe, O_CLOEXEC) < 0) {
		close(out_pipe[0]);
		close(out_pipe[1]);
		return err_set(err, -errno, "cannot make a pipe: %s", strerror(errno));
	}
	*ret = fork();
	if (*ret == 0)
		become(program, (char *const *)argv, from, out_pipe[1], error_pipe[1], parent);
	close(out_pipe[1]);
	close(error_pipe[1]);
	*out = out_pipe[0];
	*errors = error_pipe[0];
	if (*ret < 0)
		return err_set(err, -errno, "cannot start " PROGRAM ": %s", strerror(errno));
	return 0;
}

/* Until both pipes are closed, which is when it and all that it started have ended. */
static void listen_to(struct worker_call *w, struct lines *out, struct lines *errors)
{
	while (out->open || errors->open) {
		struct pollfd p[2] = {{out->open ? out->fd : -1, POLLIN, 0},
			{errors->open ? errors->fd : -1, POLLIN, 0}};
		int n = poll(p, 2, w->tick_ms > 0 ? w->tick_ms : -1);

		if (n < 0 && errno != EINTR)
			return;
		if (n <= 0) {
			if (w->on_wait)
				w->on_wait(w->arg, NULL);
			continue;
		}
		if (p[0].revents)
			read_more(out);
		if (p[1].revents)
			read_more(errors);
		while (take_line(out))
			on_line(w, out->last);
		while (take_line(errors))
			;
	}
}

int worker_call(struct worker_call *w, struct err *err)
{
	_cleanup_close_ int out_fd = -1, error_fd = -1;
	struct lines out = {.open = true}, errors = {.open = true};
	int status = 0;
	pid_t pid = -1;
	const char *text;

	if (spawn(w, &out_fd, &error_fd, &pid, err) < 0)
		return EXIT_BROKEN;
	out.fd = out_fd;
	errors.fd = error_fd;
	listen_to(w, &out, &errors);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_FINE)
		return EXIT_FINE;
	text = errors.last;
	if (strncmp(text, PROGRAM ": ", strlen(PROGRAM ": ")) == 0)
		text += strlen(PROGRAM ": ");
	if (WIFSIGNALED(status))
		err_set(err, 0, PROGRAM " was ended by signal %d", WTERMSIG(status));
	else
		err_set(err, 0, "%s", *text ? text : PROGRAM " failed without a word");
	return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_BROKEN;
}
