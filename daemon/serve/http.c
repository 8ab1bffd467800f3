/* SPDX-License-Identifier: MIT */
#include "daemon/serve/http.h"

#include <microhttpd.h>
#include <string.h>
#include <unistd.h>

#include "daemon/util/address.h"
#include "daemon/util/macros.h"

#define CONNECTIONS_MAX 16u
#define REQUEST_MAX     ((size_t)8192) /* bytes, with its headers */
#define TIMEOUT_S       10u

struct http {
	struct MHD_Daemon *mhd;
	sd_event_source *io, *timer;
	http_write write;
	void *userdata;
};

static enum MHD_Result answer(struct MHD_Connection *c, unsigned status, const char *type,
	const char *more, size_t n, char *text, enum MHD_ResponseMemoryMode mode)
{
	struct MHD_Response *r = MHD_create_response_from_buffer(n, text, mode);
	enum MHD_Result done = MHD_NO;

	if (!r) {
		if (mode == MHD_RESPMEM_MUST_FREE)
			free(text);
		return MHD_NO;
	}
	if (MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type) == MHD_YES &&
		(!more || MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, more) == MHD_YES))
		done = MHD_queue_response(c, status, r);
	MHD_destroy_response(r);
	return done;
}

static enum MHD_Result on_request(void *userdata, struct MHD_Connection *c, const char *url,
	const char *method, const char *version, const char *data, size_t *n_data, void **state)
{
	static char nothing[] = "there is nothing here, see /metrics\n", get[] = "GET, please\n";
	static const char plain[] = "text/plain; charset=utf-8";
	struct http *h = userdata;
	char *text = NULL;
	size_t n = 0;
	FILE *f;

	if (*n_data) { /* a body: not wanted, not read */
		*n_data = 0;
		return MHD_YES;
	}
	if (strcmp(method, MHD_HTTP_METHOD_GET) && strcmp(method, MHD_HTTP_METHOD_HEAD))
		return answer(c, MHD_HTTP_METHOD_NOT_ALLOWED, plain, "GET, HEAD", strlen(get), get,
			MHD_RESPMEM_PERSISTENT);
	if (strcmp(url, "/metrics"))
		return answer(c, MHD_HTTP_NOT_FOUND, plain, NULL, strlen(nothing), nothing,
			MHD_RESPMEM_PERSISTENT);
	f = open_memstream(&text, &n);
	if (!f)
		return MHD_NO;
	h->write(f, h->userdata);
	if (fclose(f)) {
		free(text);
		return MHD_NO;
	}
	return answer(c, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", NULL, n, text,
		MHD_RESPMEM_MUST_FREE);
}

static unsigned connections(const struct http *h)
{
	const union MHD_DaemonInfo *i = MHD_get_daemon_info(h->mhd, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);

	return i ? i->num_connections : 0;
}

static void go_on(struct http *h)
{
	MHD_UNSIGNED_LONG_LONG ms;
	unsigned before;

	/* When it has closed some, and they were too many, only the next run listens again. */
	do {
		before = connections(h);
		MHD_run(h->mhd);
	} while (connections(h) < before);
	if (MHD_get_timeout(h->mhd, &ms) == MHD_YES) {
		sd_event_source_set_time_relative(h->timer, ms * 1000);
		sd_event_source_set_enabled(h->timer, SD_EVENT_ONESHOT);
	} else {
		sd_event_source_set_enabled(h->timer, SD_EVENT_OFF);
	}
}

static int on_io(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	go_on(userdata);
	return 0;
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	go_on(userdata);
	return 0;
}

/* Our own socket, so that an error has a name. */
static int listen_at(const char *where, struct err *err)
{
	_cleanup_close_ int fd = -1;
	struct sockaddr_storage a;
	socklen_t n;
	int one = 1;

	if (address_parse(where, &a, &n))
		return err_set(err, -EINVAL,
			"%s: not an address and a port like 127.0.0.1:9477 or [::1]:9477", where);
	fd = socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
		bind(fd, (const struct sockaddr *)&a, n) || listen(fd, (int)CONNECTIONS_MAX)) {
		int r = -errno;

		return err_set(err, r, "cannot listen at %s for metrics: %s%s", where, strerror(-r),
			r == -EADDRINUSE     ? "; another program does"
			: r == -EAFNOSUPPORT ? "; pyleakd.service has no network, see METRICS in "
					       "pyleakd.yaml(5)"
					     : "");
	}
	return TAKE_FD(fd);
}

int http_open(sd_event *e, const char *where, http_write write, void *userdata, struct http **ret,
	struct err *err)
{
	struct http *h = calloc(1, sizeof(*h));
	const union MHD_DaemonInfo *info;
	int fd, r;

	if (!h)
		return err_set(err, -ENOMEM, "out of memory");
	h->write = write;
	h->userdata = userdata;
	fd = listen_at(where, err);
	if (fd < 0) {
		free(h);
		return fd;
	}
	h->mhd = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, on_request, h, MHD_OPTION_LISTEN_SOCKET,
		fd, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
		TIMEOUT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, REQUEST_MAX, MHD_OPTION_END);
	if (!h->mhd) {
		close(fd);
		free(h);
		return err_set(err, -EIO, "cannot serve metrics at %s", where);
	}
	info = MHD_get_daemon_info(h->mhd, MHD_DAEMON_INFO_EPOLL_FD);
	r = info ? sd_event_add_io(e, &h->io, info->epoll_fd, EPOLLIN, on_io, h) : -EIO;
	if (r >= 0)
		r = sd_event_add_time_relative(
			e, &h->timer, CLOCK_MONOTONIC, 0, 100000, on_timer, h);
	if (r < 0) {
		http_free(h);
		return err_set(err, r, "event loop: %s", strerror(-r));
	}
	*ret = h;
	return 0;
}

void http_free(struct http *h)
{
	if (!h)
		return;
	sd_event_source_disable_unref(h->io);
	sd_event_source_disable_unref(h->timer);
	if (h->mhd)
		MHD_stop_daemon(h->mhd);
	free(h);
}
