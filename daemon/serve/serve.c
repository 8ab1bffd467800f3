/* SPDX-License-Identifier: MIT */
/*
 * Every byte here comes from somebody who may be hostile: anybody on the host can connect. So
 * each connection has one input buffer of a request's size, one request in flight, a bounded
 * output queue and a deadline for whatever it owes us, and nothing in here blocks.
 */
#include "daemon/serve/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include "daemon/util/macros.h"
#include "daemon/util/units.h"
#include "pyleak/control.h"

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

#define CONNECTIONS_MAX 64
/* Root must get in while a user fills what is left. */
#define CONNECTIONS_MAX_UNPRIVILEGED 48
#define CONNECTIONS_MAX_PER_UID      16
/* Output of all connections together; a reply above that becomes an error. */
#define QUEUED_MAX ((size_t)64 << 20)
/* A connection with that much unread output gets no further request served and no progress. */
#define OUTPUT_HIGH        ((size_t)64 << 10)
#define REQUEST_TIMEOUT_US (30 * 1000000ULL)
#define IDLE_TIMEOUT_US    (300 * 1000000ULL)
#define GROUP_CACHE_NS     (10 * 1000000000ULL)
#define ACCEPT_BATCH       16

struct chunk {
	struct chunk *next;
	int fd; /* to go with the first byte, or -1 */
	size_t len, sent;
	char data[];
};

struct serve_request {
	struct conn *c; /* NULL once the client has hung up */
	void (*on_hangup)(void *);
	void *arg;
};

struct conn {
	struct serve *s;
	struct conn *prev, *next;
	int fd;
	struct serve_peer peer;
	sd_event_source *io, *timer;
	struct conn *next_turn; /* behind it in serve.turns */
	bool waits;             /* it is in there */
	struct serve_request *request;
	struct chunk *out, **out_tail;
	size_t out_bytes;
	uint64_t idle_since, half_since, out_since; /* CLOCK_MONOTONIC, us */
	bool half;       /* an unfinished line is in `in`, or is being skipped */
	bool skipping;   /* the line is too long: throw away up to its end */
	bool eof;        /* the client sends no more, but may still read */
	bool dead;       /* to be freed when control is back in the event loop */
	bool processing; /* a handler may be on the stack */
	size_t in_len;
	char in[CONTROL_REQUEST_MAX];
};

struct serve {
	sd_event *event;
	char *path; /* to be removed at the end, NULL if the socket is systemd's */
	dev_t dev;
	ino_t ino;
	int fd, spare_fd;
	sd_event_source *io;
	serve_handler handler;
	void *userdata;
	struct conn *conns;
	struct conn *turns, **turns_tail; /* what can go on without anything new from its client */
	sd_event_source *turn;
	unsigned n_conns, n_unprivileged;
	size_t queued;
	uint64_t request_timeout_us, idle_timeout_us;
	const char *group_name;
	gid_t group;
	bool have_group;
	uint64_t group_at_ns;
};

static uint64_t now_us(void)
{
	return now_monotonic_ns() / 1000;
}

/* ---- who is it ------------------------------------------------------------------------------ */

/* The group database may be slow (LDAP): asked at most every ten seconds, never for root. */
static bool find_group(struct serve *s, gid_t *ret)
{
	uint64_t now = now_monotonic_ns();

	if (!s->group_at_ns || now - s->group_at_ns > GROUP_CACHE_NS) {
		struct group g, *found = NULL;
		char buf[16384];

		/* ERANGE (a group with a great many members) counts as "no such group": the safe side. */
		s->have_group =
			getgrnam_r(s->group_name, &g, buf, sizeof(buf), &found) == 0 && found;
		if (s->have_group)
			s->group = found->gr_gid;
		s->group_at_ns = now;
	}
	*ret = s->group;
	return s->have_group;
}

static bool has_supplementary_group(int fd, gid_t gid)
{
	_cleanup_free_ gid_t *list = NULL;
	socklen_t len = 64 * sizeof(gid_t);

	for (int tries = 0; tries < 3; tries++) {
		free(list);
		list = malloc(len);
		if (!list)
			return false;
		if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, list, &len) == 0)
			break;
		if (errno != ERANGE) /* else len says what is needed */
			return false;
		if (tries == 2)
			return false;
	}
	for (size_t i = 0; i < len / sizeof(gid_t); i++)
		if (list[i] == gid)
			return true;
	return false;
}

static int identify(struct serve *s, int fd, struct serve_peer *ret)
{
	socklen_t len = sizeof(struct ucred);
	struct ucred cred;
	gid_t group;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	*ret = (struct serve_peer){.pid = cred.pid, .uid = cred.uid, .gid = cred.gid};
	ret->privileged =
		cred.uid == 0 || (find_group(s, &group) &&
					 (cred.gid == group || has_supplementary_group(fd, group)));
	return 0;
}

/* ---- output --------------------------------------------------------------------------------- */

static void chunk_free(struct chunk *k)
{
	if (k->fd >= 0)
		close(k->fd);
	free(k);
}

static ssize_t chunk_send(int fd, struct chunk *k)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {k->data + k->sent, k->len - k->sent};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (k->fd >= 0 && !k->sent) {
		struct cmsghdr *c;

		m.msg_control = control.buf;
		m.msg_controllen = sizeof(control.buf);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &k->fd, sizeof(int));
	}
	return sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void conn_flush(struct conn *c)
{
	while (c->out && !c->dead) {
		struct chunk *k = c->out;
		ssize_t n = chunk_send(c->fd, k);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			if (errno != EAGAIN)
				c->dead = true;
			return;
		}
		k->sent += n;
		c->out_since = now_us();
		if (k->sent < k->len)
			continue;
		c->out = k->next;
		if (!c->out)
			c->out_tail = &c->out;
		c->out_bytes -= k->len;
		c->s->queued -= k->len;
		chunk_free(k);
	}
}

/* Queues text and a newline. fd is duplicated: the caller's may be closed before it is sent. */
static int conn_queue(struct conn *c, const char *text, int fd)
{
	size_t len = strlen(text) + 1;
	struct chunk *k = malloc(sizeof(*k) + len);
	int r;

	if (!k)
		return -ENOMEM;
	*k = (struct chunk){.fd = -1, .len = len};
	memcpy(k->data, text, len - 1);
	k->data[len - 1] = '\n';
	if (fd >= 0) {
		k->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
		if (k->fd < 0) {
			r = -errno;
			free(k);
			return r;
		}
	}
	if (!c->out)
		c->out_since = now_us();
	*c->out_tail = k;
	c->out_tail = &k->next;
	c->out_bytes += len;
	c->s->queued += len;
	return 0;
}

/* jansson takes UTF-8 only, and messages may quote what a target calls itself. */
static json_t *json_text(const char *s)
{
	json_t *j = json_string(s);
	_cleanup_free_ char *copy = NULL;

	if (j)
		return j;
	copy = strdup(s);
	if (!copy)
		return NULL;
	for (char *p = copy; *p; p++)
		if (*p & 0x80)
			*p = '?';
	return json_string(copy);
}

static char *error_text(int exit_code, const char *message)
{
	json_t *j = json_pack("{sbsiso}", "ok", 0, "exit", exit_code, "error", json_text(message));
	char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;

	json_decref(j);
	return text;
}

/* Without memory for a reply there is only hanging up, which the client understands. */
static void conn_queue_error(struct conn *c, int exit_code, const char *message)
{
	_cleanup_free_ char *text = error_text(exit_code, message);

	if (!text || conn_queue(c, text, -1) < 0)
		c->dead = true;
}

/* ---- turns ---------------------------------------------------------------------------------- */

/* Its next step is taken from the event loop, after that of those who wait already. Who sends many requests
 * at once gets one served a turn, and all other events of the daemon come first. */
static void conn_later(struct conn *c)
{
	struct serve *s = c->s;

	if (c->waits)
		return;
	c->waits = true;
	c->next_turn = NULL;
	*s->turns_tail = c;
	s->turns_tail = &c->next_turn;
	sd_event_source_set_enabled(s->turn, SD_EVENT_ON);
}

static void conn_not_later(struct conn *c)
{
	struct serve *s = c->s;
	struct conn **at = &s->turns;

	if (!c->waits)
		return;
	while (*at != c)
		at = &(*at)->next_turn;
	*at = c->next_turn;
	if (!*at)
		s->turns_tail = at;
	c->waits = false;
}

/* ---- life and death of a connection --------------------------------------------------------- */

static void request_hangup(struct conn *c)
{
	struct serve_request *q = TAKE_PTR(c->request);

	if (!q)
		return;
	q->c = NULL;
	if (!q->on_hangup)
		return; /* whoever has it will reply some day; that frees it */
	q->on_hangup(q->arg);
	free(q);
}

static void conn_free(struct conn *c)
{
	struct serve *s = c->s;

	request_hangup(c);
	conn_not_later(c);
	sd_event_source_disable_unref(c->io);
	sd_event_source_disable_unref(c->timer);
	close(c->fd);
	while (c->out) {
		struct chunk *k = c->out;

		c->out = k->next;
		s->queued -= k->len;
		chunk_free(k);
	}
	if (c->prev)
		c->prev->next = c->next;
	else
		s->conns = c->next;
	if (c->next)
		c->next->prev = c->prev;
	s->n_conns--;
	s->n_unprivileged -= !c->peer.privileged;
	free(c);
}

/* Arms what the connection waits for now: input, output, a deadline. */
static void conn_rearm(struct conn *c)
{
	uint32_t events = 0;
	uint64_t deadline = UINT64_MAX;

	if (c->dead) {
		conn_later(c);
		return;
	}
	if (!c->eof && c->in_len < sizeof(c->in))
		events |= EPOLLIN;
	if (c->out) {
		events |= EPOLLOUT;
		deadline = c->out_since + c->s->request_timeout_us;
	}
	if (!c->request) {
		if (c->half)
			deadline = MIN(deadline, c->half_since + c->s->request_timeout_us);
		else if (!c->out)
			deadline = c->idle_since + c->s->idle_timeout_us;
	}
	sd_event_source_set_io_events(c->io, events); /* EPOLLHUP comes unasked */
	if (deadline == UINT64_MAX) {
		sd_event_source_set_enabled(c->timer, SD_EVENT_OFF);
	} else {
		sd_event_source_set_time(c->timer, deadline);
		sd_event_source_set_enabled(c->timer, SD_EVENT_ONESHOT);
	}
}

/* ---- requests ------------------------------------------------------------------------------- */

static void conn_request(struct conn *c, const char *line, size_t len)
{
	json_error_t e;
	json_t *root = json_loadb(line, len, JSON_REJECT_DUPLICATES, &e), *args, *empty = NULL;
	const char *verb;

	if (!json_is_object(root)) {
		char message[300];

		if (root)
			snprintf(message, sizeof(message),
				"request is not a JSON object: send {\"verb\": …, \"args\": {…}}");
		else
			snprintf(message, sizeof(message),
				"request is not JSON (byte %d: %.150s): send one object a line",
				e.position, e.text);
		conn_queue_error(c, EXIT_USAGE, message);
		goto out;
	}
	verb = json_string_value(json_object_get(root, "verb"));
	args = json_object_get(root, "args");
	if (!verb || (args && !json_is_object(args))) {
		conn_queue_error(c, EXIT_USAGE,
			verb ? "\"args\" of the request is not an object"
			     : "request has no \"verb\": send {\"verb\": …, \"args\": {…}}");
		goto out;
	}
	if (!args)
		args = empty = json_object();
	c->request = args ? calloc(1, sizeof(*c->request)) : NULL;
	if (!c->request) {
		conn_queue_error(c, EXIT_BROKEN, "pyleakd is out of memory");
		goto out;
	}
	c->request->c = c;
	c->s->handler(c->request, verb, args, &c->peer, c->s->userdata);
out:
	json_decref(empty);
	json_decref(root);
}

/* Serves the first of the lines that have come, if the client takes the answers. */
static void conn_process(struct conn *c)
{
	char *end = NULL;

	if (!c->dead && !c->request && c->out_bytes < OUTPUT_HIGH)
		end = memchr(c->in, '\n', c->in_len);
	if (end) {
		size_t done = (size_t)(end + 1 - c->in);

		c->processing = true;
		c->half = false;
		c->idle_since = now_us();
		if (c->skipping)
			c->skipping = false;
		else
			conn_request(c, c->in, (size_t)(end - c->in));
		if (c->out)
			conn_flush(c);
		c->processing = false;
		c->in_len -= done;
		memmove(c->in, c->in + done, c->in_len);
	}
	if (c->dead || c->request || c->out_bytes >= OUTPUT_HIGH)
		return;
	if (memchr(c->in, '\n', c->in_len)) {
		conn_later(c);
		return;
	}
	/* What is left is the beginning of a line. */
	if (c->skipping || c->in_len == sizeof(c->in)) {
		if (!c->skipping)
			conn_queue_error(c, EXIT_USAGE, "request is longer than 64 KiB");
		c->skipping = true;
		c->in_len = 0;
		conn_flush(c);
	}
	if (!c->half && (c->in_len || c->skipping)) {
		c->half = true;
		c->half_since = now_us();
	}
	if (c->eof && !c->out)
		c->dead = true;
}

static void conn_read(struct conn *c)
{
	ssize_t n = read(c->fd, c->in + c->in_len, sizeof(c->in) - c->in_len);

	if (n > 0)
		c->in_len += n;
	else if (n == 0)
		c->eof = true;
	else if (errno != EAGAIN && errno != EINTR)
		c->dead = true;
}

static void conn_step(struct conn *c)
{
	if (!c->dead)
		conn_process(c);
	if (c->dead)
		conn_free(c);
	else
		conn_rearm(c);
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *arg)
{
	struct conn *c = arg;

	/* Both directions closed: nobody reads an answer. A client that only stopped sending
	 * (shutdown) shows as end of file on reading, and is served to the end. */
	if (revents & (EPOLLHUP | EPOLLERR)) {
		conn_free(c);
		return 0;
	}
	if (revents & EPOLLOUT)
		conn_flush(c);
	if (revents & EPOLLIN && !c->dead && c->in_len < sizeof(c->in))
		conn_read(c);
	conn_step(c);
	return 0;
}

static int on_turn(sd_event_source *source, void *arg)
{
	struct serve *s = arg;
	struct conn *c = s->turns;

	if (c) {
		conn_not_later(c);
		conn_step(c);
	}
	if (!s->turns)
		sd_event_source_set_enabled(source, SD_EVENT_OFF);
	return 0;
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *arg)
{
	struct conn *c = arg;

	/* A courtesy, if there is room for it. */
	if (!c->out && c->half) {
		conn_queue_error(c, EXIT_USAGE, "request was not finished in time");
		conn_flush(c);
	}
	conn_free(c);
	return 0;
}

/* The end of a request, from wherever the handler's owner is. */
static void request_finish(struct conn *c)
{
	c->idle_since = now_us();
	if (c->processing)
		return;
	conn_flush(c);
	conn_rearm(c);
	/* The next request may have come already. Its handler is called from the event loop, not
	 * from in here. */
	conn_later(c);
}

void serve_reply(struct serve_request *q, json_t *result, int fd)
{
	_cleanup_free_ char *text = NULL;
	json_t *reply = NULL;
	struct conn *c;
	int r;

	if (!q || !q->c) {
		json_decref(result);
		free(q);
		return;
	}
	if (result)
		reply = json_pack("{sbso}", "ok", 1, "result", result);
	if (reply)
		text = json_dumps(reply, JSON_COMPACT);
	json_decref(reply);
	if (!text) {
		serve_reply_error(
			q, EXIT_BROKEN, "pyleakd could not build the answer: out of memory");
		return;
	}
	if (strlen(text) >= CONTROL_LINE_MAX) {
		serve_reply_error(q, EXIT_BROKEN,
			"the answer is longer than %u MiB: ask for less (-n, --since, --step)",
			CONTROL_LINE_MAX >> 20);
		return;
	}
	if (q->c->s->queued + strlen(text) > QUEUED_MAX) {
		serve_reply_error(q, EXIT_BROKEN,
			"pyleakd has too many answers that nobody reads: try again in a minute");
		return;
	}
	r = conn_queue(q->c, text, fd);
	if (r < 0) {
		serve_reply_error(
			q, EXIT_BROKEN, "pyleakd could not send the answer: %s", strerror(-r));
		return;
	}
	c = q->c;
	c->request = NULL;
	free(q);
	request_finish(c);
}

void serve_reply_error(struct serve_request *q, int exit_code, const char *fmt, ...)
{
	struct conn *c;

	if (q && q->c) {
		char message[1024];
		va_list ap;

		va_start(ap, fmt);
		vsnprintf(message, sizeof(message), fmt, ap);
		va_end(ap);
		c = q->c;
		conn_queue_error(c, exit_code, message);
		c->request = NULL;
		request_finish(c);
	}
	free(q);
}

void serve_progress(struct serve_request *q, const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL;
	char message[512];
	va_list ap;
	json_t *j;

	if (!q || !q->c || q->c->dead || q->c->out_bytes >= OUTPUT_HIGH)
		return;
	va_start(ap, fmt);
	vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	j = json_pack("{so}", "progress", json_text(message));
	if (j)
		text = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	if (!text || conn_queue(q->c, text, -1) < 0)
		return;
	conn_flush(q->c);
	conn_rearm(q->c);
}

void serve_request_on_hangup(struct serve_request *q, void (*f)(void *), void *arg)
{
	q->on_hangup = f;
	q->arg = arg;
}

/* ---- accepting ------------------------------------------------------------------------------ */

static const char *refuse_reason(struct serve *s, const struct serve_peer *peer)
{
	unsigned same = 0;

	if (s->n_conns >= CONNECTIONS_MAX)
		return "pyleakd has 64 connections already: try again later";
	if (peer->privileged)
		return NULL;
	if (s->n_unprivileged >= CONNECTIONS_MAX_UNPRIVILEGED)
		return "pyleakd has too many connections of ordinary users: try again later";
	for (struct conn *c = s->conns; c; c = c->next)
		same += c->peer.uid == peer->uid;
	if (same >= CONNECTIONS_MAX_PER_UID)
		return "pyleakd has 16 connections of this user already: close one";
	return NULL;
}

static int conn_new(struct serve *s, int fd, const struct serve_peer *peer)
{
	struct conn *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->s = s;
	c->fd = fd;
	c->peer = *peer;
	c->out_tail = &c->out;
	c->idle_since = now_us();
	r = sd_event_add_io(s->event, &c->io, fd, EPOLLIN, on_io, c);
	if (r >= 0)
		r = sd_event_add_time(
			s->event, &c->timer, CLOCK_MONOTONIC, UINT64_MAX, 100000, on_timeout, c);
	if (r < 0) {
		sd_event_source_disable_unref(c->io);
		sd_event_source_disable_unref(c->timer);
		free(c);
		return r;
	}
	c->next = s->conns;
	if (c->next)
		c->next->prev = c;
	s->conns = c;
	s->n_conns++;
	s->n_unprivileged += !peer->privileged;
	conn_rearm(c);
	return 0;
}

static void accepted(struct serve *s, int accepted_fd)
{
	_cleanup_close_ int fd = accepted_fd;
	_cleanup_free_ char *text = NULL;
	struct serve_peer peer;
	const char *why;

	if (identify(s, fd, &peer) < 0)
		return;
	why = refuse_reason(s, &peer);
	if (!why && conn_new(s, fd, &peer) >= 0) {
		TAKE_FD(fd);
		return;
	}
	text = error_text(EXIT_REFUSED, why ?: "pyleakd is out of memory");
	if (text) {
		struct iovec iov[] = {{text, strlen(text)}, {(char *)"\n", 1}};
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = ARRAY_SIZE(iov)};

		/* A fresh socket's buffer is empty; if it fails all the same, they see a hangup. */
		(void)!sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
}

static int on_accept(sd_event_source *source, int lfd, uint32_t revents, void *arg)
{
	struct serve *s = arg;

	for (int i = 0; i < ACCEPT_BATCH; i++) {
		int fd = accept4(lfd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			accepted(s, fd);
			continue;
		}
		if ((errno == EMFILE || errno == ENFILE) && s->spare_fd >= 0) {
			/* Out of descriptors: the one kept for this turns the client away,
			 * else the listening socket would stay ready and the loop spin. */
			close(s->spare_fd);
			fd = accept4(lfd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
			if (fd >= 0)
				close(fd);
			s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
			continue;
		}
		break; /* EAGAIN, or the client that was waiting is gone */
	}
	return 0;
}

/* ---- opening -------------------------------------------------------------------------------- */

/* Is somebody behind the socket file? 0: no, it is stale; else -EADDRINUSE and the like. */
static int probe_socket(const char *path, const struct sockaddr_un *sun, struct err *err)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	socklen_t len = sizeof(struct ucred);
	struct ucred cred;

	if (fd < 0)
		return err_set(err, -errno, "cannot make a socket: %s", strerror(errno));
	if (connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) < 0) {
		if (errno == ECONNREFUSED || errno == ENOENT)
			return 0;
		if (errno == EAGAIN)
			return err_set(err, -EADDRINUSE,
				"%s: a daemon listens there already, and does not answer: stop it, "
				"or use --socket",
				path);
		return err_set(err, -errno,
			"%s: cannot tell whether a daemon listens there: %s: remove it, or use "
			"--socket",
			path, strerror(errno));
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		cred.pid = 0;
	return err_set(err, -EADDRINUSE,
		"%s: pid %d listens there already: stop it, or use --socket", path, cred.pid);
}

static int make_folder(const char *path, struct err *err)
{
	_cleanup_free_ char *dir = strdup(path);
	char *slash = dir ? strrchr(dir, '/') : NULL;

	if (!dir)
		return -ENOMEM;
	if (!slash || slash == dir)
		return 0;
	*slash = 0;
	if (mkdir(dir, 0755) < 0) {
		if (errno == EEXIST)
			return 0;
		return err_set(err, -errno, "cannot make folder %s for the control socket: %s", dir,
			strerror(errno));
	}
	if (chmod(dir, 0755) < 0) /* whatever the umask */
		return err_set(err, -errno, "%s: %s", dir, strerror(errno));
	return 0;
}

static int clear_path(const char *path, const struct sockaddr_un *sun, struct err *err)
{
	struct stat before, st;
	int r;

	if (lstat(path, &before) < 0)
		return errno == ENOENT ? 0 : err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (!S_ISSOCK(before.st_mode))
		return err_set(err, -EEXIST,
			"%s: exists and is not a socket: remove it, or use --socket", path);
	r = probe_socket(path, sun, err);
	if (r)
		return r;
	/* Another daemon may have put its own there since. */
	if (lstat(path, &st) < 0 || st.st_ino != before.st_ino || st.st_dev != before.st_dev)
		return probe_socket(path, sun, err);
	if (unlink(path) < 0 && errno != ENOENT)
		return err_set(err, -errno, "%s: cannot remove the stale socket: %s", path,
			strerror(errno));
	return 0;
}

static int listen_at(struct serve *s, const char *path, struct err *err)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct stat st;
	int r;

	if (strlen(path) >= sizeof(sun.sun_path))
		return err_set(err, -ENAMETOOLONG, "%s: a socket's path has at most %zu bytes",
			path, sizeof(sun.sun_path) - 1);
	strcpy(sun.sun_path, path);
	r = make_folder(path, err);
	if (!r)
		r = clear_path(path, &sun, err);
	if (r)
		return r;
	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->fd < 0)
		return err_set(err, -errno, "cannot make a socket: %s", strerror(errno));
	if (bind(s->fd, (struct sockaddr *)&sun, sizeof(sun)) < 0)
		return err_set(err, -errno, "%s: cannot make the control socket: %s", path,
			strerror(errno));
	s->path = strdup(path);
	if (!s->path || stat(path, &st) < 0) {
		r = s->path ? -errno : -ENOMEM;
		unlink(path);
		return err_set(err, r, "%s: %s", path, strerror(-r));
	}
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	/* Everybody may knock; each request is authorised. Nobody gets in before listen(). */
	if (chmod(path, 0666) < 0 || listen(s->fd, 64) < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	return 0;
}

/* A listening socket that systemd passed, or -1. */
static int passed_socket(void)
{
	int n = sd_listen_fds(0);

	for (int fd = SD_LISTEN_FDS_START; fd < SD_LISTEN_FDS_START + n; fd++) {
		int flags;

		if (sd_is_socket_unix(fd, SOCK_STREAM, 1, NULL, 0) <= 0)
			continue;
		flags = fcntl(fd, F_GETFL);
		if (flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0)
			return fd;
	}
	return -1;
}

int serve_open(sd_event *event, const char *path, serve_handler handler, void *userdata,
	struct serve **ret, struct err *err)
{
	struct serve *s = calloc(1, sizeof(*s));
	int r = 0;

	if (!s)
		return err_set(err, -ENOMEM, "out of memory");
	s->event = sd_event_ref(event);
	s->handler = handler;
	s->userdata = userdata;
	s->group_name = "pyleak";
	s->request_timeout_us = REQUEST_TIMEOUT_US;
	s->idle_timeout_us = IDLE_TIMEOUT_US;
	s->turns_tail = &s->turns;
	s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	s->fd = passed_socket();
	if (s->fd < 0)
		r = listen_at(s, path, err);
	if (!r) {
		r = sd_event_add_io(event, &s->io, s->fd, EPOLLIN, on_accept, s);
		if (r >= 0)
			r = sd_event_add_defer(event, &s->turn, on_turn, s);
		/* A deferred source is always ready: among its like it would come before all others. */
		if (r >= 0)
			r = sd_event_source_set_priority(s->turn, SD_EVENT_PRIORITY_NORMAL + 1);
		if (r >= 0)
			r = sd_event_source_set_enabled(s->turn, SD_EVENT_OFF);
		if (r < 0)
			err_set(err, r, "cannot watch the control socket: %s", strerror(-r));
	}
	if (r < 0) {
		serve_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

void serve_set_timeouts(struct serve *s, uint64_t request_us, uint64_t idle_us)
{
	s->request_timeout_us = request_us;
	s->idle_timeout_us = idle_us;
}

void serve_set_group(struct serve *s, const char *name)
{
	s->group_name = name;
	s->group_at_ns = 0;
}

void serve_free(struct serve *s)
{
	if (!s)
		return;
	while (s->conns) {
		struct conn *c = s->conns;

		if (c->request) {
			conn_queue_error(c, EXIT_UNREACHABLE, "pyleakd is being stopped");
			conn_flush(c);
		}
		conn_free(c);
	}
	sd_event_source_disable_unref(s->io);
	sd_event_source_disable_unref(s->turn);
	if (s->fd >= 0)
		close(s->fd);
	if (s->spare_fd >= 0)
		close(s->spare_fd);
	if (s->path) {
		struct stat st;

		/* Only our own file: somebody may have replaced it. */
		if (lstat(s->path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino)
			unlink(s->path);
		free(s->path);
	}
	sd_event_unref(s->event);
	free(s);
}
