/* SPDX-License-Identifier: MIT */
#include "ctl/save.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/util/macros.h"

#define COPY_BYTES 65536

static int write_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t k = write(fd, p, n);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		p += k;
		n -= k;
	}
	return 0;
}

static int copy(int from, int to, uint64_t *ret_bytes)
{
	uint64_t at = 0;
	char buf[COPY_BYTES];

	for (;;) {
		/* From the start, wherever the sender left it. */
		ssize_t n = pread(from, buf, sizeof(buf), (off_t)at);
		int r;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		r = write_all(to, buf, n);
		if (r)
			return r;
		at += n;
	}
	*ret_bytes = at;
	return 0;
}

static int save_to_device(int fd, const char *path, uint64_t *ret_bytes)
{
	_cleanup_close_ int to = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);

	return to < 0 ? -errno : copy(fd, to, ret_bytes);
}

/* Beside the target, then renamed over it. */
static int save_beside(int fd, const char *path, uint64_t *ret_bytes)
{
	const char *slash = strrchr(path, '/');
	_cleanup_close_ int to = -1;
	char temp[PATH_MAX];
	int n, r;

	n = snprintf(temp, sizeof(temp), "%.*s.pyleakctl-XXXXXX",
		(int)(slash ? slash + 1 - path : 0), path);
	if (n < 0 || (size_t)n >= sizeof(temp))
		return -ENAMETOOLONG;
	to = mkostemp(temp, O_CLOEXEC); /* O_EXCL, 0600 */
	if (to < 0)
		return -errno;
	r = copy(fd, to, ret_bytes);
	if (!r && fsync(to) < 0)
		r = -errno;
	if (!r && rename(temp, path) < 0)
		r = -errno;
	if (r)
		unlink(temp);
	return r;
}

int save_file(int fd, const char *path, uint64_t *ret_bytes, struct err *err)
{
	char real[PATH_MAX];
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "what pyleakd sent is not a file");
	if (stat(path, &st) < 0) {
		r = errno == ENOENT ? save_beside(fd, path, ret_bytes) : -errno;
	} else if (S_ISDIR(st.st_mode)) {
		r = -EISDIR;
	} else if (!S_ISREG(st.st_mode)) {
		r = save_to_device(fd, path, ret_bytes);
	} else {
		/* Through a link: what it points to is replaced, not the link. */
		r = realpath(path, real) ? save_beside(fd, real, ret_bytes) : -errno;
	}
	if (r)
		return err_set(err, r, "cannot write %s: %s", path, strerror(-r));
	return 0;
}
