/* SPDX-License-Identifier: MIT */
#include "graph/worker.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "daemon/util/log.h"
#include "graph/render.h"
#include "graph/sandbox.h"
#include "include/pyleak/control.h"

#ifdef __SANITIZE_ADDRESS__
#define DRAW_MEMORY 0
#else
#define DRAW_MEMORY (1ull << 30)
#endif
#define DRAW_CPU_S  15
#define NS_PER_S    1000000000u

/* Of the CPU time, until what is known so far is the answer; the rest is for saying it. */
#define STOP_SHARE 0.7
#define DRAW_WALL_S 30

FILE *worker_stream(int fd, const char *mode)
{
	int copy = dup(fd);
	FILE *f = copy >= 0 ? fdopen(copy, mode) : NULL;

	if (!f && copy >= 0)
		close(copy);
	return f;
}

char *worker_read(int fd, size_t max)
{
	struct stat st;
	char *text;
	size_t n, done = 0;

	if (fstat(fd, &st) < 0 || st.st_size < 0 || (uint64_t)st.st_size > max)
		return NULL;
	n = (size_t)st.st_size;
	text = malloc(n + 1);
	while (text && done < n) {
		ssize_t k = pread(fd, text + done, n - done, (off_t)done);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			break;
		done += (size_t)k;
	}
	if (text)
		text[done] = 0;
	return text;
}

/* ---- the second process: the answer -------------------------------------------------------- */

static volatile sig_atomic_t stop;

static void on_timer(int signo)
{
	(void)signo;
	stop = 1;
}

struct worker_time worker_time_limit(uint64_t ns)
{
	uint64_t s = MAX(ns / NS_PER_S, 1u);

	return (struct worker_time){.endless = !ns,
		.limit_s = ns ? s : 0,
		.stop_ns = (uint64_t)((double)s * STOP_SHARE * NS_PER_S)};
}

struct worker_time worker_time_to_answer(uint64_t ns)
{
	/* Saying it may take long after a short search, too. */
	uint64_t s = MAX((uint64_t)((double)ns / STOP_SHARE), (uint64_t)WORKER_CPU_DEFAULT_NS) / NS_PER_S;

	return (struct worker_time){.limit_s = s, .stop_ns = ns};
}

const volatile sig_atomic_t *worker_clock(const struct worker *w)
{
	uint64_t us = w->time.stop_ns / 1000;
	struct itimerval t = {.it_value = {
				      .tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000)}};

	if (w->time.endless)
		return &stop;
	stop = !us; /* a timer of 0 never rings */
	signal(SIGPROF, on_timer);
	(void)setitimer(ITIMER_PROF, &t, NULL);
	return &stop;
}

static int answer_main(const struct worker *w, pid_t parent, int talk)
{
	struct err err = {{0}};
	int rc = sandbox_begin(parent, w->memory_bytes, w->time.limit_s, &err);

	if (rc == 0 && sandbox_close(&err) < 0)
		log_warning("%s: going on without", err.msg);
	if (rc == 0)
		rc = w->answer(w, talk, &err);
	if (rc < 0)
		log_error("%s", err.msg);
	return rc == -ENOENT ? EXIT_NO : rc < 0 ? EXIT_BROKEN : EXIT_FINE;
}

int worker_draw(int talk, struct worker_outcome *o, struct err *err)
{
	char go = 1;

	if (write(talk, &go, 1) != 1 || read(talk, o, sizeof(*o)) != sizeof(*o))
		return err_set(err, -EPIPE, "whoever asked for this is gone");
	o->reason[sizeof(o->reason) - 1] = 0;
	return 0;
}

/* ---- the third process: the picture -------------------------------------------------------- */

static int draw(const struct worker *w, pid_t parent, struct err *err)
{
	_cleanup_fclose_ FILE *dot = worker_stream(w->dot_fd, "r");
	_cleanup_fclose_ FILE *picture = worker_stream(w->picture_fd, "w");
	int rc;

	if (!dot || !picture)
		return err_set(err, -errno, "cannot open the picture's files: %s", strerror(errno));
	rewind(dot);
	rc = sandbox_begin(parent, DRAW_MEMORY, DRAW_CPU_S, err);
	if (rc == 0)
		rc = render_warm_up(w->format, err);
	if (rc == 0)
		(void)sandbox_close(err); /* without one the rest of the sandbox has to do */
	if (rc == 0)
		rc = render_picture(dot, picture, w->format, err);
	if (rc == 0 && fsync(w->picture_fd) < 0 && errno != EINVAL)
		rc = err_set(err, -errno, "cannot write the picture: %s", strerror(errno));
	return rc;
}

static int draw_main(const struct worker *w, pid_t parent, int talk)
{
	struct worker_outcome o = {0};
	struct err err = {{0}};
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	/* The font library complains about caches that it cannot write. */
	if (null >= 0)
		dup2(null, STDERR_FILENO);
	alarm(DRAW_WALL_S);
	o.drawn = draw(w, parent, &err) == 0;
	if (!o.drawn)
		snprintf(o.reason, sizeof(o.reason), "%.255s", err.msg);
	return write(talk, &o, sizeof(o)) == sizeof(o) ? EXIT_FINE : EXIT_BROKEN;
}

/* ---- the first process --------------------------------------------------------------------- */

static pid_t start(
	const struct worker *w, int (*run)(const struct worker *, pid_t, int), int *ret_talk)
{
	pid_t parent = getpid(), pid;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		int rc;

		close(pair[0]);
		rc = run(w, parent, pair[1]);
		fflush(NULL);
		_exit(rc); /* Graphviz's and the font library's exit handlers have nothing to do */
	}
	close(pair[1]);
	if (pid < 0)
		close(pair[0]);
	else
		*ret_talk = pair[0];
	return pid;
}

static int wait_for(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return 0;
	}
	return status;
}

static void run_draw(const struct worker *w, struct worker_outcome *o)
{
	_cleanup_close_ int talk = -1;
	pid_t pid = start(w, draw_main, &talk);
	int status;

	*o = (struct worker_outcome){0};
	if (pid < 0) {
		snprintf(o->reason, sizeof(o->reason), "cannot start a process to draw it: %s",
			strerror(errno));
		return;
	}
	if (read(talk, o, sizeof(*o)) != sizeof(*o)) {
		/* What it began to write counts for nothing. */
		*o = (struct worker_outcome){0};
	}
	o->reason[sizeof(o->reason) - 1] = 0;
	status = wait_for(pid);
	if (WIFSIGNALED(status) && !o->drawn)
		snprintf(o->reason, sizeof(o->reason),
			WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGALRM
				? "drawing it took too long"
				: "Graphviz was ended by signal %d",
			WTERMSIG(status));
	else if (!o->drawn && !*o->reason)
		snprintf(o->reason, sizeof(o->reason), "Graphviz ended without a word");
}

int worker_run(const struct worker *w, struct worker_outcome *o)
{
	_cleanup_close_ int talk = -1;
	pid_t pid = start(w, answer_main, &talk);
	int status;
	char go;

	*o = (struct worker_outcome){0};
	if (pid < 0) {
		log_error("cannot start a process to read the snapshot in: %s", strerror(errno));
		return EXIT_BROKEN;
	}
	if (read(talk, &go, 1) == 1) {
		run_draw(w, o);
		if (write(talk, o, sizeof(*o)) < 0)
			o->drawn = false; /* it is gone, which its status tells */
	}
	status = wait_for(pid);
	if (WIFSIGNALED(status)) {
		int s = WTERMSIG(status);

		log_error("%s: reading it was ended by signal %d (%s)%s", w->name, s, strsignal(s),
			s == SIGXCPU   ? ": raise --cpu"
			: s == SIGKILL ? ": out of memory?"
				       : "");
		return EXIT_BROKEN;
	}
	return WEXITSTATUS(status);
}
