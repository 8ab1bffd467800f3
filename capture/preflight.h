/* SPDX-License-Identifier: MIT */
/*
 * Everything that can be known before the target is touched, by reading only. What fails here is
 * a refusal in words, and the target has not noticed anything.
 */
#ifndef PYLEAK_CAPTURE_PREFLIGHT_H
#define PYLEAK_CAPTURE_PREFLIGHT_H

#include "daemon/util/cgroup.h"
#include "capture/job.h"

/* The control groups that limit a target's memory (v1 or v2), and those that tell how hard it is to get. */
struct memory_groups {
	struct cgroup limits, pressure;
};

/* Fills j->info, facts, python, rings, places, predicted_ns. -ESRCH, -ENOEXEC: nothing to
 * capture; other errors: a guard said no, err says which and what to do. */
int preflight(struct job *j, struct memory_groups *ret_memory, struct err *err);

/* Start of the program's stack (field 28 of /proc/PID/stat): another one after an exec. */
int preflight_stack_start(pid_t pid, uint64_t *ret);

/* Whether a /proc/PID/status says that the process has a shadow stack. */
bool preflight_shadow_stack(const char *status);

#endif
