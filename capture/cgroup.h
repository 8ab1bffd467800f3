/* SPDX-License-Identifier: MIT */
/*
 * What the target's control groups, v1 or v2, leave room for: memory and processes. Every level up
 * to the mount point counts. Files that are not there or cannot be read limit nothing.
 */
#ifndef PYLEAK_CAPTURE_CGROUP_H
#define PYLEAK_CAPTURE_CGROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define CGROUP_LEVELS 16

struct cgroup {
	char dir[CGROUP_LEVELS][1100]; /* innermost first */
	int n;
	bool v2;
};

struct memory_room {
	uint64_t limit_bytes; /* of the group with the least free share; or of the host */
	uint64_t free_bytes;  /* below that limit, inactive file cache counted as free */
	bool host;            /* the host itself is the tightest */
};

/* Folders of pid's group for a controller ("memory", "pids"); n is 0 if there is none. */
void cgroup_find(pid_t pid, const char *controller, struct cgroup *ret);

/* The tightest of the groups and the host's MemAvailable. */
void cgroup_memory_room(const struct cgroup *g, struct memory_room *ret);

/* How many more processes pids.max allows; UINT64_MAX: no limit. */
uint64_t cgroup_pids_free(const struct cgroup *g);

/* Tests set another root for /proc and the groups' mount points; default "". */
void cgroup_set_root(const char *path);

#endif
