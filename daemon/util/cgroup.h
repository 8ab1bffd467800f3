/* SPDX-License-Identifier: MIT */
/*
 * What the control groups of a process, v1 or v2, leave room for: memory and processes; and how hard
 * memory is to get. Every level up
 * to the mount point counts. Files that are not there or cannot be read limit nothing.
 */
#ifndef PYLEAK_UTIL_CGROUP_H
#define PYLEAK_UTIL_CGROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define CGROUP_LEVELS 16

struct cgroup {
	char dir[CGROUP_LEVELS][1100]; /* innermost first */
	int n;
	bool v2;
	bool high; /* memory.high counts as a limit, too: above it everybody is slowed down */
};

struct memory_room {
	uint64_t limit_bytes; /* 0: no limit known */
	uint64_t free_bytes;  /* below it, inactive file cache counted as free */
};

/* Folders of pid's group for a controller ("memory", "pids"), or of its v2 group (NULL), which may be
 * another one beside v1; n is 0 if there is none. */
void cgroup_find(pid_t pid, const char *controller, struct cgroup *ret);

/* The group with the least free share (limit 0 if none has a limit), and the host itself. */
void cgroup_memory_room(
	const struct cgroup *g, struct memory_room *ret_group, struct memory_room *ret_host);

/* Whether every group has that share of its limit free, and at least that many bytes, file cache
 * counted as used: a cheap look (memory.stat makes the kernel sum up over all processors). */
bool cgroup_memory_plenty(const struct cgroup *g, double share, uint64_t least_bytes);

/*
 * Pressure stall information (Documentation/accounting/psi.rst): the time in which nobody in a group,
 * or on the host, could run because all of them waited for memory.
 */
struct memory_pressure {
	double full_percent; /* of the last ten seconds */
	uint64_t full_us;    /* in all */
};

/* The worst of v2 groups and of the host; zeros where the kernel does not say. Files of v1 do not: where
 * that has the limits, pressure is still told by the v2 group of the same process. */
void cgroup_memory_pressure(const struct cgroup *g, struct memory_pressure *ret_group,
	struct memory_pressure *ret_host);

/* How many more processes pids.max allows; UINT64_MAX: no limit. */
uint64_t cgroup_pids_free(const struct cgroup *g);

/* Tests set another root for /proc and the groups' mount points; default "". */
void cgroup_set_root(const char *path);

#endif
