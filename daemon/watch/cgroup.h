/* SPDX-License-Identifier: MIT */
/*
 * How much of its memory limit a process's control group uses, cgroup v2 and v1.
 */
#ifndef PYLEAK_WATCH_CGROUP_H
#define PYLEAK_WATCH_CGROUP_H

#include <sys/types.h>

/* Usage without inactive file cache, as a share of the tightest limit on the way up to the root;
 * -1 if there is no limit or it cannot be read. */
double cgroup_memory_share(pid_t pid);

#endif
