/* SPDX-License-Identifier: MIT */
#include "ctl/client.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "daemon/util/macros.h"
#include "daemon/util/units.h"
#include "pyleak/control.h"

#define CONNECT_TIMEOUT_S 10
#define READ_BYTES        65536

struct client {
	int fd;
	char *path;
	char *buf;
	size_t len, cap, scanned; /* no newline before scanned */
	int passed_fd;
};

void client_close(struct client *c)
{
	if (!c)
		return;
	if (c->fd >= 0)
		close(c->fd);
	if (c->passed_fd >= 0)
		close(c->passed_fd);
	free(c->path);
	free(c->buf);
	free(c);
}

void client_closep(struct client **c)
{
	client_close(*c);
}

#define fail(err, code, ...) (err_set(err, 0, __VA_ARGS__), (code))

static int connect_error(const char *path, int e, struct err *err)
{
	switch (e) {
	case ENOENT:
	case ECONNREFUSED:
		return fail(err, EXIT_UNREACHABLE,
			"pyleakd does not run (nobody listens at %s): start it, for example with "
			"systemctl start pyleakd, or name its socket with --socket",
			path);
	case EACCES:
	case EPERM:
		return fail(err, EXIT_REFUSED,
			"%s: permission denied to connect: ask as root, or as a user who may enter "
			"that folder",
			path);
	case EAGAIN:
	case ETIMEDOUT:
		return fail(err, EXIT_UNREACHABLE,
			"pyleakd at %s does not answer: see journalctl -u pyleakd", path);
	default:
		return fail(err, EXIT_UNREACHABLE, "cannot connect to pyleakd at %s: %s", path,
			strerror(e));
	}
}

int client_open(const char *path, struct client **ret, struct err *err)
{
	struct timeval timeout = {.tv_sec = CONNECT_TIMEOUT_S};
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	_cleanup_(client_closep) struct client *c = calloc(1, sizeof(*c));

	if (!c)
		return fail(err, EXIT_BROKEN, "out of memory");
	c->fd = c->passed_fd = -1;
	if (strlen(path) >= sizeof(sun.sun_path))
		return fail(err, EXIT_USAGE, "--socket: a socket's path has at most %zu bytes",
			sizeof(sun.sun_path) - 1);
	strcpy(sun.sun_path, path);
	c->path = strdup(path);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (!c->path || c->fd < 0)
		return fail(err, EXIT_BROKEN, "cannot make a socket: %s", strerror(errno));
	/* Else connect() waits without end for a daemon that hangs. */
	setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	if (connect(c->fd, (struct sockaddr *)&sun, sizeof(sun)) < 0)
		return connect_error(path, errno, err);
	*ret = TAKE_PTR(c);
	return EXIT_FINE;
}

static int hung_up(struct client *c, struct err *err)
{
	return fail(err, EXIT_UNREACHABLE,
		"pyleakd at %s hung up before it answered: was it stopped? See journalctl -u "
		"pyleakd",
		c->path);
}

static int send_request(struct client *c, const struct client_call *call, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	size_t len, sent = 0;
	json_t *j;

	j = json_pack("{sssO*}", "verb", call->verb, "args", call->args);
	text = j ? json_dumps(j, JSON_COMPACT) : NULL;
	json_decref(j);
	if (!text)
		return fail(err, EXIT_USAGE, "an argument is not UTF-8 text");
	len = strlen(text);
	if (len >= CONTROL_REQUEST_MAX)
		return fail(err, EXIT_USAGE, "the arguments are too long");
	text[len++] = '\n'; /* in place of the end of the string */
	while (sent < len) {
		ssize_t n = send(c->fd, text + sent, len - sent, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) /* its refusal may be there to read */
			return errno == EPIPE || errno == ECONNRESET ? EXIT_FINE : hung_up(c, err);
		sent += n;
	}
	return EXIT_FINE;
}

static void take_descriptors(struct client *c, struct msghdr *m)
{
	for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		size_t n;

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(int));
			if (c->passed_fd >= 0)
				close(c->passed_fd);
			c->passed_fd = fd;
		}
	}
}

/* Reads once. */
static int receive(struct client *c, struct err *err)
{
	union {
		char buf[CMSG_SPACE(4 * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov;
	struct msghdr m = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf)};
	ssize_t n;

	if (c->len > CONTROL_LINE_MAX)
		return fail(err, EXIT_BROKEN, "pyleakd's answer is longer than %u MiB",
			CONTROL_LINE_MAX >> 20);
	if (c->cap - c->len < READ_BYTES) {
		size_t cap = MAX(c->cap * 2, (size_t)2 * READ_BYTES);
		char *bigger = realloc(c->buf, cap);

		if (!bigger)
			return fail(err, EXIT_BROKEN, "out of memory");
		c->buf = bigger;
		c->cap = cap;
	}
	iov = (struct iovec){c->buf + c->len, c->cap - c->len};
	n = recvmsg(c->fd, &m, MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? EXIT_FINE : hung_up(c, err);
	take_descriptors(c, &m);
	if (n == 0)
		return hung_up(c, err);
	c->len += n;
	return EXIT_FINE;
}

/* The next line as JSON; NULL in *ret: not there yet. */
static int next_message(struct client *c, json_t **ret, struct err *err)
{
	char *end =
		c->len > c->scanned ? memchr(c->buf + c->scanned, '\n', c->len - c->scanned) : NULL;
	json_error_t e;
	size_t len;

	*ret = NULL;
	if (!end) {
		c->scanned = c->len;
		return EXIT_FINE;
	}
	len = end - c->buf;
	*ret = json_loadb(c->buf, len, 0, &e);
	c->len -= len + 1;
	c->scanned = 0;
	memmove(c->buf, end + 1, c->len);
	if (!json_is_object(*ret)) {
		json_decref(*ret);
		*ret = NULL;
		return fail(err, EXIT_BROKEN,
			"what listens at %s does not speak pyleakd's language: is it pyleakd?",
			c->path);
	}
	return EXIT_FINE;
}

static int take_reply(json_t *message, json_t **ret, struct err *err)
{
	const char *error = json_string_value(json_object_get(message, "error"));
	json_t *result = json_object_get(message, "result");
	int code;

	if (json_is_true(json_object_get(message, "ok")) && result) {
		*ret = json_incref(result);
		return EXIT_FINE;
	}
	code = (int)json_integer_value(json_object_get(message, "exit"));
	return fail(err, code > 0 && code < 126 ? code : EXIT_BROKEN, "%s",
		error ?: "pyleakd failed without a word");
}

/* Waits for input; EXIT_FINE also when only a tick has passed. */
static int await(struct client *c, const struct client_call *call, uint64_t since_ns,
	bool *ret_ready, struct err *err)
{
	int timeout = call->tick_ms ?: -1, n;
	struct pollfd p = {c->fd, POLLIN, 0};

	if (call->silence_ms) {
		int64_t left =
			call->silence_ms - (int64_t)((now_monotonic_ns() - since_ns) / 1000000);

		if (left <= 0)
			return fail(err, EXIT_UNREACHABLE,
				"pyleakd at %s does not answer (waited %d s): see journalctl -u "
				"pyleakd",
				c->path, call->silence_ms / 1000);
		timeout = timeout < 0 ? (int)left : MIN(timeout, (int)left);
	}
	n = poll(&p, 1, timeout);
	if (n < 0 && errno != EINTR)
		return fail(err, EXIT_BROKEN, "poll: %s", strerror(errno));
	*ret_ready = n > 0;
	return EXIT_FINE;
}

int client_call(struct client *c, const struct client_call *call, json_t **ret, int *ret_fd,
	struct err *err)
{
	uint64_t since = now_monotonic_ns();
	int r = send_request(c, call, err);

	if (ret_fd)
		*ret_fd = -1;
	while (!r) {
		json_t *message = NULL;
		const char *progress;
		bool ready = false;

		r = next_message(c, &message, err);
		if (!r && !message) {
			r = await(c, call, since, &ready, err);
			if (!r && ready) {
				r = receive(c, err);
				since = now_monotonic_ns();
			} else if (!r && call->on_wait) {
				call->on_wait(call->arg, NULL);
			}
			continue;
		}
		progress = json_string_value(json_object_get(message, "progress"));
		if (r || !progress) {
			if (!r)
				r = take_reply(message, ret, err);
			json_decref(message);
			break;
		}
		if (call->on_wait)
			call->on_wait(call->arg, progress);
		json_decref(message);
	}
	if (!r && ret_fd)
		*ret_fd = TAKE_FD(c->passed_fd);
	return r;
}
