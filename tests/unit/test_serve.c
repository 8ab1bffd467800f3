/* SPDX-License-Identifier: MIT */
/*
 * The control socket against clients that behave and clients that don't: a real socket in a
 * folder of its own, a real event loop, the clients in this process (or in a child, where another
 * user is needed).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/serve/serve.h"
#include "daemon/util/macros.h"
#include "daemon/util/units.h"
#include "pyleak/control.h"

#define PATIENCE_NS (10 * 1000000000ULL)

struct fixture {
	char dir[80], path[PATH_MAX];
	sd_event *event;
	struct serve *s;
	unsigned calls;
	struct serve_request *kept;
	struct serve_peer peer;
	unsigned hangups;
	int fds_before;
};

static int count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void on_hangup(void *arg)
{
	struct fixture *f = arg;

	f->hangups++;
	f->kept = NULL;
}

static void handler(struct serve_request *q, const char *verb, json_t *args,
	const struct serve_peer *peer, void *userdata)
{
	struct fixture *f = userdata;

	f->calls++;
	f->peer = *peer;
	assert_true(json_is_object(args));
	if (!strcmp(verb, "echo")) {
		serve_reply(q, json_incref(args), -1);
	} else if (!strcmp(verb, "keep") || !strcmp(verb, "keep-quietly")) {
		f->kept = q;
		if (!strcmp(verb, "keep"))
			serve_request_on_hangup(q, on_hangup, f);
	} else if (!strcmp(verb, "big")) {
		size_t n = (size_t)json_integer_value(json_object_get(args, "bytes"));
		char *text = malloc(n);

		memset(text, 'b', n);
		serve_reply(q, json_stringn(text, n), -1);
		free(text);
	} else if (!strcmp(verb, "file")) {
		int fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		serve_progress(q, "opening");
		serve_reply(q, json_pack("{ss}", "name", "folder"), fd);
		close(fd); /* it was ours; the client's must be good all the same */
	} else {
		serve_reply_error(q, EXIT_NO, "no \xff such verb");
	}
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err;

	f->fds_before = count_fds();
	snprintf(f->dir, sizeof(f->dir), "%s/pyleak-serve-XXXXXX", getenv("TMPDIR") ?: "/tmp");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/run/control.sock", f->dir);
	assert_true(sd_event_new(&f->event) >= 0);
	assert_int_equal(serve_open(f->event, f->path, handler, f, &f->s, &err), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char run[PATH_MAX];

	serve_free(f->s);
	sd_event_unref(f->event);
	assert_int_equal(access(f->path, F_OK), -1);
	snprintf(run, sizeof(run), "%s/run", f->dir);
	rmdir(run);
	assert_int_equal(rmdir(f->dir), 0); /* and it left nothing else */
	assert_int_equal(count_fds(), f->fds_before);
	free(f);
	return 0;
}

static struct sockaddr_un address(const char *path)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	assert_true(strlen(path) < sizeof(sun.sun_path));
	strcpy(sun.sun_path, path);
	return sun;
}

static int try_connect(const char *path)
{
	struct sockaddr_un sun = address(path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0) {
		int r = -errno;

		close(fd);
		return r;
	}
	return fd;
}

static int dial(struct fixture *f)
{
	int fd = try_connect(f->path);

	assert_true(fd >= 0);
	return fd;
}

static void pump(struct fixture *f, unsigned ms)
{
	uint64_t end = now_monotonic_ns() + ms * 1000000ULL;

	do {
		assert_true(sd_event_run(f->event, 5000) >= 0);
	} while (now_monotonic_ns() < end);
}

static void send_bytes(struct fixture *f, int fd, const char *p, size_t n)
{
	uint64_t end = now_monotonic_ns() + PATIENCE_NS;

	while (n) {
		ssize_t k = send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (k > 0) {
			p += k;
			n -= k;
			continue;
		}
		assert_int_equal(errno, EAGAIN);
		assert_true(now_monotonic_ns() < end);
		sd_event_run(f->event, 5000);
	}
}

static void say(struct fixture *f, int fd, const char *text)
{
	send_bytes(f, fd, text, strlen(text));
}

/* The next line, or NULL at end of file. Takes no byte of what follows. A descriptor that comes
 * with the first byte goes to *ret_fd. */
static char *listen_line(struct fixture *f, int fd, int *ret_fd)
{
	uint64_t end = now_monotonic_ns() + PATIENCE_NS;
	size_t n = 0, cap = 65536;
	char *line = malloc(cap + 1);

	for (;;) {
		char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
		struct iovec iov = {line + n, cap - n};
		struct msghdr m = {.msg_iov = &iov,
			.msg_iovlen = 1,
			.msg_control = control,
			.msg_controllen = sizeof(control)};
		/* A peek first: it shows where the line ends. */
		ssize_t k = recv(fd, line + n, cap - n, MSG_DONTWAIT | MSG_PEEK);
		char *newline = k > 0 ? memchr(line + n, '\n', k) : NULL;
		struct cmsghdr *c;

		if (k == 0 || (k < 0 && errno == ECONNRESET)) {
			assert_int_equal(n, 0);
			free(line);
			return NULL;
		}
		if (k < 0) {
			assert_int_equal(errno, EAGAIN);
			assert_true(now_monotonic_ns() < end);
			sd_event_run(f->event, 5000);
			continue;
		}
		iov.iov_len = newline ? (size_t)(newline + 1 - (line + n)) : (size_t)k;
		k = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		assert_true(k > 0);
		c = CMSG_FIRSTHDR(&m);
		if (c) {
			assert_int_equal(c->cmsg_type, SCM_RIGHTS);
			assert_int_equal(n, 0);
			assert_non_null(ret_fd);
			memcpy(ret_fd, CMSG_DATA(c), sizeof(int));
		}
		n += k;
		if (line[n - 1] == '\n') {
			line[n - 1] = 0;
			return line;
		}
		if (n == cap)
			line = realloc(line, (cap *= 2) + 1);
	}
}

static json_t *listen_json(struct fixture *f, int fd)
{
	char *line = listen_line(f, fd, NULL);
	json_t *j;

	assert_non_null(line);
	j = json_loads(line, 0, NULL);
	assert_non_null(j);
	free(line);
	return j;
}

static void expect_error(struct fixture *f, int fd, int exit_code, const char *part)
{
	json_t *j = listen_json(f, fd);

	assert_true(json_is_false(json_object_get(j, "ok")));
	assert_int_equal(json_integer_value(json_object_get(j, "exit")), exit_code);
	if (part && !strstr(json_string_value(json_object_get(j, "error")), part))
		fail_msg("\"%s\" is not in \"%s\"", part,
			json_string_value(json_object_get(j, "error")));
	json_decref(j);
}

static void expect_echo(struct fixture *f, int fd, int value)
{
	json_t *j = listen_json(f, fd);

	assert_true(json_is_true(json_object_get(j, "ok")));
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(j, "result"), "x")), value);
	json_decref(j);
}

static void expect_end(struct fixture *f, int fd)
{
	char *line = listen_line(f, fd, NULL);

	if (line)
		fail_msg("still there: %s", line);
}

/* ---- the tests ------------------------------------------------------------------------------ */

static void test_modes(void **state)
{
	struct fixture *f = *state;
	char run[PATH_MAX];
	struct stat st;

	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0666);
	snprintf(run, sizeof(run), "%s/run", f->dir);
	assert_int_equal(stat(run, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0755);
}

static void test_one_after_the_other(void **state)
{
	struct fixture *f = *state;
	int fd = dial(f);

	say(f, fd, "{\"verb\":\"echo\",\"args\":{\"x\":1}}\n");
	expect_echo(f, fd, 1);
	assert_int_equal(f->peer.pid, getpid());
	assert_int_equal(f->peer.uid, geteuid());
	assert_int_equal(f->peer.gid, getegid());
	if (geteuid() == 0)
		assert_true(f->peer.privileged);
	/* without args; and two at once, the second one waits */
	say(f, fd, "{\"verb\":\"echo\"}\n{\"verb\":\"echo\",\"args\":{\"x\":3}}\n");
	expect_echo(f, fd, 0);
	expect_echo(f, fd, 3);
	say(f, fd, "{\"verb\":\"nope\"}\n");
	expect_error(f, fd, EXIT_NO, "no ? such verb"); /* what is not UTF-8 gets through as '?' */
	close(fd);
}

/* Who sends many requests at once keeps nobody waiting, not one who sends two either. */
static void test_many_at_once(void **state)
{
	static const char one[] = "{\"verb\":\"echo\",\"args\":{\"x\":1}}\n";
	const size_t n = sizeof(one) - 1;
	struct fixture *f = *state;
	int greedy = dial(f), other = dial(f);
	char *many = malloc(1000 * n + 1);

	pump(f, 1);
	for (int i = 0; i < 1000; i++)
		memcpy(many + i * n, one, n + 1);
	say(f, greedy, many); /* in one piece: all of it has come before anything is served */
	say(f, other, "{\"verb\":\"echo\",\"args\":{\"x\":2}}\n{\"verb\":\"echo\",\"args\":{\"x\":3}}\n");
	expect_echo(f, other, 2);
	expect_echo(f, other, 3);
	assert_in_range(f->calls, 1, 10);
	for (int i = 0; i < 1000; i++)
		expect_echo(f, greedy, 1);
	assert_int_equal(f->calls, 1002);
	free(many);
	close(greedy);
	close(other);
}

static void test_in_pieces(void **state)
{
	static const char text[] = "{\"verb\":\"echo\",\"args\":{\"x\":7}}\n";
	struct fixture *f = *state;
	int fd = dial(f);

	for (size_t i = 0; i < sizeof(text) - 1; i++) {
		assert_int_equal(f->calls, 0);
		send_bytes(f, fd, text + i, 1);
		pump(f, 1);
	}
	expect_echo(f, fd, 7);
	close(fd);
}

static void test_malformed(void **state)
{
	static const char *const lines[] = {"\n", "hello\n", "{\n", "[]\n", "7\n", "null\n", "{}\n",
		"{\"verb\":7}\n", "{\"verb\":\"echo\",\"args\":[]}\n",
		"{\"verb\":\"echo\",\"verb\":\"echo\"}\n", "{\"verb\":\"e\\u0000\"}\n",
		"{\"verb\":\"\xff\"}\n", "{\"verb\":\"echo\"} x\n"};
	struct fixture *f = *state;
	int fd = dial(f);

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		say(f, fd, lines[i]);
		expect_error(f, fd, EXIT_USAGE, NULL);
	}
	send_bytes(f, fd, "{\"verb\":\0\"echo\"}\n", 17);
	expect_error(f, fd, EXIT_USAGE, NULL);
	assert_int_equal(f->calls, 0);
	say(f, fd, "{\"verb\":\"echo\",\"args\":{\"x\":1}}\n");
	expect_echo(f, fd, 1);
	close(fd);
}

static void test_deeply_nested(void **state)
{
	struct fixture *f = *state;
	char *text = malloc(60001);
	int fd = dial(f);

	memset(text, '[', 60000);
	text[60000] = '\n';
	send_bytes(f, fd, text, 60001);
	expect_error(f, fd, EXIT_USAGE, NULL);
	free(text);
	close(fd);
}

static void test_noise(void **state)
{
	struct fixture *f = *state;
	uint32_t x = 12345;

	for (int round = 0; round < 50; round++) {
		char noise[4096];
		int fd = dial(f);

		for (size_t i = 0; i < sizeof(noise); i++) {
			x = x * 1664525 + 1013904223;
			noise[i] = (char)(x >> 24);
		}
		send_bytes(f, fd, noise, sizeof(noise));
		pump(f, 1);
		close(fd);
	}
	assert_int_equal(f->calls, 0);
	test_one_after_the_other(state);
}

static void test_long_lines(void **state)
{
	struct fixture *f = *state;
	char *text = malloc(300000);
	int fd = dial(f), n;

	/* The longest there may be, then a byte more, then much more. */
	n = sprintf(text, "{\"verb\":\"echo\",\"args\":{\"x\":5,\"pad\":\"");
	memset(text + n, 'p', 300000 - n);
	memcpy(text + CONTROL_REQUEST_MAX - 4, "\"}}\n", 4);
	send_bytes(f, fd, text, CONTROL_REQUEST_MAX);
	expect_echo(f, fd, 5);
	memcpy(text + CONTROL_REQUEST_MAX - 4, "p\"}}\n", 5);
	send_bytes(f, fd, text, CONTROL_REQUEST_MAX + 1);
	expect_error(f, fd, EXIT_USAGE, "64 KiB");
	memset(text, 'x', 300000);
	send_bytes(f, fd, text, 300000);
	say(f, fd, "\n{\"verb\":\"echo\",\"args\":{\"x\":6}}\n");
	expect_error(f, fd, EXIT_USAGE, "64 KiB");
	expect_echo(f, fd, 6);
	assert_int_equal(f->calls, 2);
	free(text);
	close(fd);
}

static void test_timeouts(void **state)
{
	struct fixture *f = *state;
	int half, silent, busy, drip;
	uint64_t start = now_monotonic_ns();

	serve_set_timeouts(f->s, 300000, 600000);
	half = dial(f);
	silent = dial(f);
	busy = dial(f);
	drip = dial(f);
	say(f, half, "{\"verb\":");
	say(f, busy, "{\"verb\":\"keep\"}\n");
	/* One byte now and then does not keep a half request alive. */
	for (int i = 0; i < 10; i++) {
		if (send(drip, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
		pump(f, 100);
	}
	expect_error(f, drip, EXIT_USAGE, "in time");
	expect_end(f, drip);
	expect_error(f, half, EXIT_USAGE, "in time");
	expect_end(f, half);
	expect_end(f, silent);
	assert_true(now_monotonic_ns() - start > 590000000);
	/* A request that takes long is nobody's fault. */
	assert_non_null(f->kept);
	serve_reply(f->kept, json_pack("{si}", "x", 9), -1);
	expect_echo(f, busy, 9);
	close(half);
	close(silent);
	close(busy);
	close(drip);
}

static void test_answers_nobody_reads(void **state)
{
	struct fixture *f = *state;
	char request[64];
	int fd = dial(f);

	snprintf(request, sizeof(request), "{\"verb\":\"big\",\"args\":{\"bytes\":%d}}\n", 1 << 20);
	for (int i = 0; i < 20; i++)
		say(f, fd, request);
	pump(f, 50);
	assert_int_equal(f->calls, 1); /* the others wait until this answer is taken */
	for (int i = 0; i < 20; i++) {
		char *line = listen_line(f, fd, NULL);

		assert_non_null(line);
		assert_in_range(strlen(line), 1 << 20, (1 << 20) + 100);
		free(line);
	}
	assert_int_equal(f->calls, 20);
	/* And one that takes nothing at all is dropped. */
	serve_set_timeouts(f->s, 200000, 600000);
	say(f, fd, request);
	pump(f, 500);
	for (;;) {
		char buf[65536];
		ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

		if (n == 0)
			break;
		assert_true(n > 0); /* EAGAIN would say that the connection lives */
	}
	close(fd);
}

static void test_too_long_answer(void **state)
{
	struct fixture *f = *state;
	char request[64];
	int fd = dial(f);

	snprintf(request, sizeof(request), "{\"verb\":\"big\",\"args\":{\"bytes\":%d}}\n",
		CONTROL_LINE_MAX);
	say(f, fd, request);
	expect_error(f, fd, EXIT_BROKEN, "16 MiB");
	say(f, fd, "{\"verb\":\"echo\",\"args\":{\"x\":1}}\n");
	expect_echo(f, fd, 1);
	close(fd);
}

static void test_unread_answers_of_many(void **state)
{
	struct fixture *f = *state;
	int fds[6];

	/* 6 x 15 MiB is above what may be queued in all. */
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = dial(f);
		say(f, fds[i], "{\"verb\":\"big\",\"args\":{\"bytes\":15728640}}\n");
		pump(f, 20);
	}
	expect_error(f, fds[5], EXIT_BROKEN, "nobody reads");
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	pump(f, 20);
	fds[0] = dial(f);
	say(f, fds[0], "{\"verb\":\"big\",\"args\":{\"bytes\":1000}}\n");
	json_decref(listen_json(f, fds[0])); /* all of it was given back */
	close(fds[0]);
}

static void test_progress(void **state)
{
	struct fixture *f = *state;
	int fd = dial(f);
	json_t *j;

	say(f, fd, "{\"verb\":\"keep\"}\n{\"verb\":\"echo\",\"args\":{\"x\":2}}\n");
	pump(f, 10);
	assert_non_null(f->kept);
	serve_progress(f->kept, "%d objects", 5);
	j = listen_json(f, fd);
	assert_string_equal(json_string_value(json_object_get(j, "progress")), "5 objects");
	json_decref(j);
	/* Without a reader progress is dropped instead of piled up. */
	for (int i = 0; i < 20000; i++)
		serve_progress(f->kept, "%0400d", i);
	serve_reply(f->kept, json_pack("{si}", "x", 1), -1);
	for (int i = 0;; i++) {
		j = listen_json(f, fd);
		if (!json_object_get(j, "progress"))
			break;
		json_decref(j);
		assert_in_range(i, 0, 2000);
	}
	json_decref(j);
	expect_echo(f, fd, 2); /* the request that waited behind it */
	close(fd);
}

static void test_hangup(void **state)
{
	struct fixture *f = *state;
	struct serve_request *q;
	int fd = dial(f);

	say(f, fd, "{\"verb\":\"keep\"}\n");
	pump(f, 10);
	assert_non_null(f->kept);
	assert_int_equal(f->hangups, 0);
	close(fd);
	pump(f, 10);
	assert_int_equal(f->hangups, 1);

	/* Nobody to tell: the late reply must find that out. */
	fd = dial(f);
	say(f, fd, "{\"verb\":\"keep-quietly\"}\n");
	pump(f, 10);
	q = TAKE_PTR(f->kept);
	assert_non_null(q);
	close(fd);
	pump(f, 10);
	serve_progress(q, "still at it");
	serve_reply(q, json_object(), -1);

	fd = dial(f);
	say(f, fd, "{\"verb\":\"keep-quietly\"}\n");
	pump(f, 10);
	close(fd);
	serve_reply_error(
		TAKE_PTR(f->kept), EXIT_NO, "it"); /* before the loop has seen the hangup */
	pump(f, 10);
	assert_int_equal(f->hangups, 1);
}

static void test_half_close(void **state)
{
	struct fixture *f = *state;
	int fd = dial(f);

	say(f, fd, "{\"verb\":\"echo\",\"args\":{\"x\":1}}\n{\"verb\":\"keep\"}\n");
	shutdown(fd, SHUT_WR);
	expect_echo(f, fd, 1);
	pump(f, 10);
	assert_non_null(f->kept);
	assert_int_equal(f->hangups, 0);
	serve_reply(f->kept, json_pack("{si}", "x", 2), -1);
	expect_echo(f, fd, 2);
	expect_end(f, fd);
	close(fd);
}

static void test_file(void **state)
{
	struct fixture *f = *state;
	int fd = dial(f), passed = -1;
	struct stat a, b;
	char *line;

	say(f, fd, "{\"verb\":\"file\"}\n");
	line = listen_line(f, fd, &passed);
	assert_int_equal(passed, -1); /* it comes with the answer, not before */
	assert_string_equal(line, "{\"progress\":\"opening\"}");
	free(line);
	line = listen_line(f, fd, &passed);
	assert_string_equal(line, "{\"ok\":true,\"result\":{\"name\":\"folder\"}}");
	free(line);
	assert_true(passed >= 0);
	assert_int_equal(fstat(passed, &a), 0);
	assert_int_equal(stat(f->dir, &b), 0);
	assert_int_equal(a.st_ino, b.st_ino);
	close(passed);
	/* One that is never taken must not stay open: teardown counts. */
	say(f, fd, "{\"verb\":\"file\"}\n");
	pump(f, 10);
	close(fd);
	pump(f, 10);
}

static void test_stopped_with_a_request_in_flight(void **state)
{
	struct fixture *f = *state;
	int fd = dial(f), idle = dial(f);

	say(f, fd, "{\"verb\":\"keep\"}\n");
	pump(f, 10);
	assert_non_null(f->kept);
	serve_free(f->s);
	f->s = NULL;
	assert_int_equal(f->hangups, 1);
	expect_error(f, fd, EXIT_UNREACHABLE, "stopped");
	expect_end(f, fd);
	expect_end(f, idle);
	close(fd);
	close(idle);
}

static int fill(struct fixture *f, int *fds, int max)
{
	for (int i = 0; i < max; i++) {
		json_t *j;

		fds[i] = dial(f);
		send(fds[i], "{\"verb\":\"echo\"}\n", 16, MSG_NOSIGNAL);
		j = listen_json(f, fds[i]);
		if (json_is_false(json_object_get(j, "ok"))) {
			assert_int_equal(
				json_integer_value(json_object_get(j, "exit")), EXIT_REFUSED);
			json_decref(j);
			expect_end(f, fds[i]);
			return i;
		}
		json_decref(j);
	}
	return max;
}

static void test_many(void **state)
{
	struct fixture *f = *state;
	int fds[80], n, fd;

	memset(fds, -1, sizeof(fds));
	n = fill(f, fds, ARRAY_SIZE(fds));
	assert_int_equal(n, f->peer.privileged ? 64 : 16);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	pump(f, 20);
	fd = dial(f);
	say(f, fd, "{\"verb\":\"echo\",\"args\":{\"x\":1}}\n");
	expect_echo(f, fd, 1);
	close(fd);
}

static void test_one_user_does_not_lock_out_root(void **state)
{
	struct fixture *f = *state;
	int status, fd, pipes[2];
	pid_t child;
	char c;

	if (geteuid() != 0) {
		print_message("cannot run here: needs root to become two users\n");
		skip();
	}
	assert_int_equal(chmod(f->dir, 0755), 0);
	assert_int_equal(pipe(pipes), 0);
	child = fork();
	if (!child) {
		if (setgid(65534) || setuid(65534))
			_exit(1);
		for (int i = 0; i < 60; i++)
			if (try_connect(f->path) < 0)
				_exit(2);
		if (write(pipes[1], "x", 1) != 1)
			_exit(3);
		for (;;)
			pause();
	}
	close(pipes[1]);
	pump(f, 100);
	assert_int_equal(read(pipes[0], &c, 1), 1);
	pump(f, 100);
	fd = dial(f);
	say(f, fd, "{\"verb\":\"echo\",\"args\":{\"x\":1}}\n");
	expect_echo(f, fd, 1);
	assert_true(f->peer.privileged);
	close(fd);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, &status, 0), child);
	close(pipes[0]);
	pump(f, 20);
}

/* Who connects is privileged? As user 65534 with these groups. */
static bool is_privileged(struct fixture *f, gid_t gid, size_t n_groups, const gid_t *groups)
{
	pid_t child = fork();
	int status;

	if (!child) {
		char buf[256];
		int fd;

		if (setgroups(n_groups, groups) || setgid(gid) || setuid(65534))
			_exit(1);
		fd = try_connect(f->path);
		if (fd < 0 || send(fd, "{\"verb\":\"echo\"}\n", 16, MSG_NOSIGNAL) != 16)
			_exit(2);
		_exit(recv(fd, buf, sizeof(buf), 0) > 0 ? 0 : 3);
	}
	while (waitpid(child, &status, WNOHANG) == 0)
		pump(f, 5);
	assert_int_equal(status, 0);
	assert_int_equal(f->peer.uid, 65534);
	assert_int_equal(f->peer.gid, gid);
	assert_int_equal(f->peer.pid, child);
	return f->peer.privileged;
}

static void test_privilege(void **state)
{
	struct fixture *f = *state;
	struct group *g = getgrnam("daemon");
	gid_t many[200];

	if (geteuid() != 0 || !g) {
		print_message("cannot run here: needs root to become another user\n");
		skip();
	}
	assert_int_equal(chmod(f->dir, 0755), 0);
	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = 70000 + i;
	assert_false(is_privileged(f, 65534, 0, NULL));
	assert_false(is_privileged(f, g->gr_gid, 0, NULL)); /* the group is another one */
	serve_set_group(f->s, "daemon");
	assert_true(is_privileged(f, g->gr_gid, 0, NULL));
	assert_false(is_privileged(f, 65534, 0, NULL));
	assert_false(is_privileged(f, 65534, ARRAY_SIZE(many), many));
	many[ARRAY_SIZE(many) - 1] = g->gr_gid;
	assert_true(is_privileged(f, 65534, ARRAY_SIZE(many), many));
	serve_set_group(f->s, "no-such-group");
	assert_false(is_privileged(f, g->gr_gid, ARRAY_SIZE(many), many));
}

/* A server without descriptors to spare, in a child: it turns clients away instead of spinning,
 * and serves again when there are some. */
static void test_out_of_descriptors(void **state)
{
	struct fixture *f = *state;
	char path[PATH_MAX], buf[256];
	int fds[20], n_served = 0, n_away = 0, ready[2], status;
	struct rusage usage;
	pid_t child;

	snprintf(path, sizeof(path), "%s/tight.sock", f->dir);
	assert_int_equal(pipe(ready), 0);
	child = fork();
	if (!child) {
		sd_event *event;
		struct serve *s;
		struct rlimit limit;

		if (sd_event_new(&event) < 0 || serve_open(event, path, handler, f, &s, NULL))
			_exit(1);
		limit.rlim_cur = limit.rlim_max = dup(0) + 5; /* the next free one, and four more */
		if (setrlimit(RLIMIT_NOFILE, &limit) || write(ready[1], "x", 1) != 1)
			_exit(2);
		sd_event_loop(event);
		_exit(3);
	}
	assert_int_equal(read(ready[0], buf, 1), 1);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		struct timeval patience = {.tv_sec = 10};
		ssize_t k;

		fds[i] = try_connect(path);
		assert_true(fds[i] >= 0);
		setsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		send(fds[i], "{\"verb\":\"echo\"}\n", 16, MSG_NOSIGNAL);
		k = recv(fds[i], buf, sizeof(buf), 0);
		if (k > 0)
			n_served++;
		else if (k == 0 || errno == ECONNRESET)
			n_away++;
		else
			fail_msg("no answer and no hangup: %s", strerror(errno));
	}
	assert_in_range(n_served, 1, 5);
	assert_int_equal(n_served + n_away, ARRAY_SIZE(fds));
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	usleep(300000);
	fds[0] = try_connect(path);
	assert_true(fds[0] >= 0);
	assert_int_equal(send(fds[0], "{\"verb\":\"echo\"}\n", 16, MSG_NOSIGNAL), 16);
	assert_true(recv(fds[0], buf, sizeof(buf), 0) > 0);
	close(fds[0]);
	kill(child, SIGKILL);
	assert_int_equal(wait4(child, &status, 0, &usage), child);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(usage.ru_utime.tv_sec, 0); /* it did not spin */
	close(ready[0]);
	close(ready[1]);
	unlink(path);
}

static void test_live_socket(void **state)
{
	struct fixture *f = *state;
	struct serve *second = NULL;
	char pid[32];
	struct err err;
	int fd;

	assert_int_equal(serve_open(f->event, f->path, handler, f, &second, &err), -EADDRINUSE);
	assert_null(second);
	snprintf(pid, sizeof(pid), "pid %d ", getpid());
	assert_non_null(strstr(err.msg, pid));
	assert_non_null(strstr(err.msg, f->path));
	/* and it does no harm to the first */
	fd = dial(f);
	say(f, fd, "{\"verb\":\"echo\",\"args\":{\"x\":1}}\n");
	expect_echo(f, fd, 1);
	close(fd);
}

static void test_stale_socket(void **state)
{
	struct fixture *f = *state;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct serve *second = NULL;
	struct sockaddr_un sun;
	char path[PATH_MAX];
	struct err err;

	snprintf(path, sizeof(path), "%s/stale.sock", f->dir);
	sun = address(path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	close(fd); /* as after a SIGKILL: the file stays */
	assert_int_equal(serve_open(f->event, path, handler, f, &second, &err), 0);
	fd = try_connect(path);
	assert_true(fd >= 0);
	close(fd);
	serve_free(second);
	assert_int_equal(access(path, F_OK), -1);
}

static void test_bad_paths(void **state)
{
	struct fixture *f = *state;
	struct serve *s = NULL;
	char path[PATH_MAX];
	struct stat st;
	struct err err;
	int fd;

	snprintf(path, sizeof(path), "%s/file", f->dir);
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	assert_int_equal(serve_open(f->event, path, handler, f, &s, &err), -EEXIST);
	assert_non_null(strstr(err.msg, path));
	assert_int_equal(stat(path, &st), 0);
	unlink(path);

	snprintf(path, sizeof(path), "%s/no/such/folder/x.sock", f->dir);
	assert_int_equal(serve_open(f->event, path, handler, f, &s, &err), -ENOENT);
	assert_non_null(strstr(err.msg, f->dir));

	memset(path, 'p', 200);
	path[200] = 0;
	assert_int_equal(serve_open(f->event, path, handler, f, &s, &err), -ENAMETOOLONG);
	assert_null(s);
}

static void test_replaced_socket_stays(void **state)
{
	struct fixture *f = *state;
	struct serve *s = NULL;
	char path[PATH_MAX];
	struct err err;
	int fd;

	/* Somebody has put something else at the path: that is not ours to remove. */
	snprintf(path, sizeof(path), "%s/x.sock", f->dir);
	assert_int_equal(serve_open(f->event, path, handler, f, &s, &err), 0);
	/* a new file first, so that it cannot get the same inode number */
	char other[PATH_MAX];
	snprintf(other, sizeof(other), "%s/other", f->dir);
	fd = open(other, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	assert_int_equal(rename(other, path), 0);
	serve_free(s);
	assert_int_equal(access(path, F_OK), 0);
	unlink(path);
}

/* In a child, because descriptor 3 and the environment are the process's. */
static void test_socket_from_systemd(void **state)
{
	struct fixture *f = *state;
	char path[PATH_MAX];
	int status;
	pid_t child;

	snprintf(path, sizeof(path), "%s/passed.sock", f->dir);
	child = fork();
	if (!child) {
		struct sockaddr_un sun = address(path);
		int fd = socket(AF_UNIX, SOCK_STREAM, 0), client;
		struct serve *s = NULL;
		sd_event *event = NULL;
		char pid[16], buf[256];

		if (bind(fd, (struct sockaddr *)&sun, sizeof(sun)) || listen(fd, 5))
			_exit(1);
		if (fd != 3 && dup2(fd, 3) != 3)
			_exit(2);
		snprintf(pid, sizeof(pid), "%d", getpid());
		setenv("LISTEN_PID", pid, 1);
		setenv("LISTEN_FDS", "1", 1);
		if (sd_event_new(&event) < 0 ||
			serve_open(event, "/nonexistent/x", handler, f, &s, NULL))
			_exit(3);
		client = try_connect(path);
		if (client < 0 || send(client, "{\"verb\":\"echo\"}\n", 16, 0) != 16)
			_exit(4);
		for (int i = 0; i < 10; i++)
			sd_event_run(event, 5000);
		if (recv(client, buf, sizeof(buf), MSG_DONTWAIT) <= 0)
			_exit(5);
		serve_free(s);
		_exit(access(path, F_OK) == 0 ? 0 : 6); /* the file is systemd's */
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	unlink(path);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_modes),
		T(test_one_after_the_other),
		T(test_many_at_once),
		T(test_in_pieces),
		T(test_malformed),
		T(test_deeply_nested),
		T(test_noise),
		T(test_long_lines),
		T(test_timeouts),
		T(test_answers_nobody_reads),
		T(test_too_long_answer),
		T(test_unread_answers_of_many),
		T(test_progress),
		T(test_hangup),
		T(test_half_close),
		T(test_file),
		T(test_stopped_with_a_request_in_flight),
		T(test_many),
		T(test_one_user_does_not_lock_out_root),
		T(test_privilege),
		T(test_out_of_descriptors),
		T(test_live_socket),
		T(test_stale_socket),
		T(test_bad_paths),
		T(test_replaced_socket_stays),
		T(test_socket_from_systemd),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
