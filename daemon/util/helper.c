/* SPDX-License-Identifier: MIT */
#include "daemon/util/helper.h"

#include <limits.h>
#include <string.h>

#include "daemon/util/macros.h"

int helper_path(const char *name, char *buf, size_t n)
{
	static const char *const places[] = {"", "../libexec/pyleak/", "../sbin/"};
	char self[PATH_MAX];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	self[MAX(len, 0)] = 0;
	slash = strrchr(self, '/');
	for (size_t i = 0; slash && i < ARRAY_SIZE(places); i++)
		if ((size_t)snprintf(buf, n, "%.*s/%s%s", (int)(slash - self), self, places[i], name) < n &&
			access(buf, X_OK) == 0)
			return 0;
	if ((size_t)snprintf(buf, n, "%s/%s", PYLEAK_LIBEXECDIR, name) < n &&
		access(buf, X_OK) == 0)
		return 0;
	return -ENOENT;
}
