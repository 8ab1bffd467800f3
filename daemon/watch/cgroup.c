/* SPDX-License-Identifier: MIT */
#include "daemon/watch/cgroup.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "daemon/python/proc.h"
#include "daemon/util/macros.h"

#define CGROUP_ROOT "/sys/fs/cgroup"
#define NO_LIMIT    (1ULL << 60) /* v1 says 0x7ffffffffffff000, v2 "max" */

static bool read_u64(const char *dir, const char *file, uint64_t *ret)
{
	_cleanup_fclose_ FILE *f = NULL;
	unsigned long long v;
	char path[1024];

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, file) >= sizeof(path))
		return false;
	f = fopen(path, "re");
	if (!f || fscanf(f, "%llu", &v) != 1)
		return false;
	*ret = v;
	return true;
}

static uint64_t read_inactive_file(const char *dir, const char *key)
{
	_cleanup_fclose_ FILE *f = NULL;
	char path[1024], line[128];
	size_t n = strlen(key);

	if ((size_t)snprintf(path, sizeof(path), "%s/memory.stat", dir) >= sizeof(path))
		return 0;
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, n) && line[n] == ' ')
			return strtoull(line + n, NULL, 10);
	return 0;
}

static double share_of(const char *dir, bool v2)
{
	uint64_t limit, usage, cache;

	if (!read_u64(dir, v2 ? "memory.max" : "memory.limit_in_bytes", &limit) ||
		limit >= NO_LIMIT || !limit ||
		!read_u64(dir, v2 ? "memory.current" : "memory.usage_in_bytes", &usage))
		return -1;
	cache = read_inactive_file(dir, v2 ? "inactive_file" : "total_inactive_file");
	return (double)(usage > cache ? usage - cache : 0) / (double)limit;
}

double cgroup_memory_share(pid_t pid)
{
	_cleanup_fclose_ FILE *f = NULL;
	char path[64], line[768];
	double worst = -1;

	snprintf(path, sizeof(path), "%s/%d/cgroup", proc_root(), pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		/* "0::/path" is v2, "N:…memory…:/path" v1 (cgroups(7)) */
		char *controllers = strchr(line, ':'), *group;
		char dir[1024];
		bool v2;

		group = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!group)
			continue;
		*group++ = 0;
		group[strcspn(group, "\n")] = 0;
		controllers++;
		v2 = !*controllers;
		if (!v2 && !strstr(controllers, "memory"))
			continue;
		if (strstr(group, ".."))
			continue;
		/* Limits apply from every level above, too. */
		for (;;) {
			double s;
			char *slash;

			if ((size_t)snprintf(dir, sizeof(dir), "%s%s%s", CGROUP_ROOT,
				    v2 ? "" : "/memory", group) < sizeof(dir)) {
				s = share_of(dir, v2);
				worst = MAX(worst, s);
			}
			slash = strrchr(group, '/');
			if (!slash || !*group)
				break;
			*slash = 0;
		}
	}
	return worst;
}
