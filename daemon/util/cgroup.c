/* SPDX-License-Identifier: MIT */
#include "daemon/util/cgroup.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "daemon/util/macros.h"

static char root[512] = "";

void cgroup_set_root(const char *path)
{
	snprintf(root, sizeof(root), "%s", path);
}

static bool read_text(const char *path, char *buf, size_t n)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t done = 0;

	if (fd < 0)
		return false;
	while (done < n - 1) {
		ssize_t r = read(fd, buf + done, n - 1 - done);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			break;
		done += (size_t)r;
	}
	buf[done] = '\0';
	return done > 0;
}

/* "max" and v1's "no limit" (close to 2^63) are UINT64_MAX. */
static bool read_number(const char *dir, const char *name, uint64_t *ret)
{
	char path[1200], buf[64], *end;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (!read_text(path, buf, sizeof(buf)))
		return false;
	if (strncmp(buf, "max", 3) == 0) {
		*ret = UINT64_MAX;
		return true;
	}
	errno = 0;
	*ret = strtoull(buf, &end, 10);
	if (end == buf || errno)
		return false;
	if (*ret >= (uint64_t)1 << 62)
		*ret = UINT64_MAX;
	return true;
}

static uint64_t stat_field(const char *dir, const char *key)
{
	char path[1200], buf[16384];
	size_t n = strlen(key);

	snprintf(path, sizeof(path), "%s/memory.stat", dir);
	if (!read_text(path, buf, sizeof(buf)))
		return 0;
	for (const char *p = buf; p; p = strchr(p, '\n'), p = p ? p + 1 : NULL)
		if (strncmp(p, key, n) == 0 && p[n] == ' ')
			return strtoull(p + n + 1, NULL, 10);
	return 0;
}

static bool has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = list; (p = strstr(p, word)); p += n)
		if ((p == list || p[-1] == ',') && (p[n] == ',' || p[n] == '\0' || p[n] == '\n'))
			return true;
	return false;
}

/* Path of pid's group in the hierarchy of the controller. */
static bool group_path(pid_t pid, const char *controller, char *ret, size_t n, bool *ret_v2)
{
	char path[600], buf[16384];
	bool found = false;

	snprintf(path, sizeof(path), "%s/proc/%d/cgroup", root, (int)pid);
	if (!read_text(path, buf, sizeof(buf)))
		return false;
	for (char *save = NULL, *line = strtok_r(buf, "\n", &save); line;
		line = strtok_r(NULL, "\n", &save)) {
		char *names = strchr(line, ':'), *where = names ? strchr(names + 1, ':') : NULL;

		if (!where)
			continue;
		*where++ = '\0';
		names++;
		if (controller && has_word(names, controller)) {
			snprintf(ret, n, "%s", where);
			*ret_v2 = false;
			return true;
		}
		if (names[0] == '\0') { /* 0::/path, unless a v1 hierarchy has the controller */
			snprintf(ret, n, "%s", where);
			*ret_v2 = true;
			found = true;
		}
	}
	return found;
}

/* Mount point of that hierarchy and which of its folders is mounted there. */
static bool mount_point(const char *controller, bool v2, char *point, size_t n, char *top, size_t m)
{
	_cleanup_fclose_ FILE *f = NULL;
	_cleanup_free_ char *line = NULL;
	char path[600];
	size_t cap = 0;

	snprintf(path, sizeof(path), "%s/proc/self/mountinfo", root);
	f = fopen(path, "re");
	while (f && getline(&line, &cap, f) > 0) {
		char dir[512], at[512], type[32], super[256];
		char *dash = strstr(line, " - ");

		if (!dash || sscanf(line, "%*s %*s %*s %511s %511s", dir, at) != 2 ||
			sscanf(dash + 3, "%31s %*s %255s", type, super) != 2)
			continue;
		if (v2 ? strcmp(type, "cgroup2") != 0
		       : strcmp(type, "cgroup") != 0 || !has_word(super, controller))
			continue;
		snprintf(point, n, "%s", at);
		snprintf(top, m, "%s", dir);
		return true;
	}
	return false;
}

void cgroup_find(pid_t pid, const char *controller, struct cgroup *ret)
{
	char path[512], point[512], top[512], dir[1100];
	size_t skip, base;
	bool v2;

	memset(ret, 0, sizeof(*ret));
	if (!group_path(pid, controller, path, sizeof(path), &v2) ||
		!mount_point(controller, v2, point, sizeof(point), top, sizeof(top)))
		return;
	ret->v2 = v2;
	skip = strcmp(top, "/") == 0 ? 0 : strlen(top);
	if (strncmp(path, top, skip) != 0 || strstr(path, "/.."))
		skip = strlen(path); /* out of sight from here: only what is mounted */
	base = (size_t)snprintf(dir, sizeof(dir), "%s%s", root, point);
	if (base >= sizeof(dir) || (size_t)snprintf(dir + base, sizeof(dir) - base, "%s",
					   path + skip) >= sizeof(dir) - base)
		return;
	for (size_t end = strlen(dir); ret->n < CGROUP_LEVELS && end >= base;) {
		while (end > base && dir[end - 1] == '/')
			end--;
		dir[end] = '\0';
		snprintf(ret->dir[ret->n++], sizeof(ret->dir[0]), "%s", dir);
		if (end == base)
			break;
		while (end > base && dir[end - 1] != '/')
			end--;
	}
}

static void host_room(struct memory_room *ret)
{
	char path[600], buf[8192];
	uint64_t total = 0, available = 0;
	const char *p;

	snprintf(path, sizeof(path), "%s/proc/meminfo", root);
	if (read_text(path, buf, sizeof(buf))) {
		if ((p = strstr(buf, "MemTotal:")))
			total = strtoull(p + 9, NULL, 10) << 10;
		if ((p = strstr(buf, "MemAvailable:")))
			available = strtoull(p + 13, NULL, 10) << 10;
	}
	*ret = (struct memory_room){.limit_bytes = total, .free_bytes = available};
}

/* False: the group has no limit, or none that can be read. */
static bool read_memory(const struct cgroup *g, int i, uint64_t *ret_limit, uint64_t *ret_used)
{
	const char *dir = g->dir[i];
	uint64_t high;

	if (!read_number(dir, g->v2 ? "memory.max" : "memory.limit_in_bytes", ret_limit))
		*ret_limit = UINT64_MAX;
	if (g->v2 && g->high && read_number(dir, "memory.high", &high))
		*ret_limit = MIN(*ret_limit, high);
	return *ret_limit != UINT64_MAX && *ret_limit != 0 &&
	       read_number(dir, g->v2 ? "memory.current" : "memory.usage_in_bytes", ret_used);
}

void cgroup_memory_room(
	const struct cgroup *g, struct memory_room *ret_group, struct memory_room *ret_host)
{
	double least = 2;

	host_room(ret_host);
	*ret_group = (struct memory_room){0};
	for (int i = 0; i < g->n; i++) {
		uint64_t limit, used, cache, room;
		double share;

		if (!read_memory(g, i, &limit, &used))
			continue;
		cache = stat_field(g->dir[i], g->v2 ? "inactive_file" : "total_inactive_file");
		used -= MIN(used, cache);
		room = limit > used ? limit - used : 0;
		share = (double)room / (double)limit;
		if (share < least) {
			least = share;
			*ret_group = (struct memory_room){.limit_bytes = limit, .free_bytes = room};
		}
	}
}

bool cgroup_memory_plenty(const struct cgroup *g, double share, uint64_t least_bytes)
{
	for (int i = 0; i < g->n; i++) {
		uint64_t limit, used;

		if (read_memory(g, i, &limit, &used) &&
			(used > limit ||
				limit - used < MAX((uint64_t)(share * (double)limit), least_bytes)))
			return false;
	}
	return true;
}

/* "full avg10=0.12 avg60=0.00 avg300=0.00 total=12345", behind a line that begins with "some". */
static void read_pressure(const char *path, struct memory_pressure *worst)
{
	char buf[512];
	const char *full;
	double percent;
	uint64_t us;

	if (!read_text(path, buf, sizeof(buf)) || !(full = strstr(buf, "full ")) ||
		sscanf(full, "full avg10=%lf avg60=%*f avg300=%*f total=%" SCNu64, &percent, &us) != 2)
		return;
	worst->full_percent = MAX(worst->full_percent, percent);
	worst->full_us = MAX(worst->full_us, us);
}

void cgroup_memory_pressure(const struct cgroup *g, struct memory_pressure *ret_group,
	struct memory_pressure *ret_host)
{
	char path[1200];

	*ret_group = *ret_host = (struct memory_pressure){0};
	snprintf(path, sizeof(path), "%s/proc/pressure/memory", root);
	read_pressure(path, ret_host);
	for (int i = 0; i < g->n; i++) {
		snprintf(path, sizeof(path), "%s/memory.pressure", g->dir[i]);
		read_pressure(path, ret_group);
	}
}

uint64_t cgroup_pids_free(const struct cgroup *g)
{
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < g->n; i++) {
		uint64_t max, now;

		if (!read_number(g->dir[i], "pids.max", &max) || max == UINT64_MAX ||
			!read_number(g->dir[i], "pids.current", &now))
			continue;
		least = MIN(least, max > now ? max - now : 0);
	}
	return least;
}
