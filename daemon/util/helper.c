/* SPDX-License-Identifier: MIT */
#include "daemon/util/helper.h"

#include <limits.h>
#include <string.h>

#include "daemon/util/macros.h"

int helper_path(const char *name, char *buf, size_t n)
{
	char self[PATH_MAX];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (len > 0) {
		self[len] = 0;
		slash = strrchr(self, '/');
		if (slash &&
			(size_t)snprintf(buf, n, "%.*s/%s", (int)(slash - self), self, name) < n &&
			access(buf, X_OK) == 0)
			return 0;
		if (slash &&
			(size_t)snprintf(buf, n, "%.*s/../libexec/pyleak/%s", (int)(slash - self),
				self, name) < n &&
			access(buf, X_OK) == 0)
			return 0;
	}
	if ((size_t)snprintf(buf, n, "%s/%s", PYLEAK_LIBEXECDIR, name) < n &&
		access(buf, X_OK) == 0)
		return 0;
	return -ENOENT;
}
