/* SPDX-License-Identifier: MIT */
/*
 * Making the frozen copy, and taking away what is left of it.
 *
 * clone(CLONE_FILES) with exit signal 0. CLONE_FILES: with a copy of the descriptor table a client's end
 * of file would wait for the copy to end. Exit signal 0: a server that calls waitpid(-1) for its
 * workers must not reap a stranger. Not CLONE_FS: with a root and working directory that are shared
 * setns() is refused, and an exec gains no privileges (fs/exec.c, check_unsafe_exec()).
 */
#ifndef PYLEAK_CAPTURE_FORK_H
#define PYLEAK_CAPTURE_FORK_H

#include "capture/job.h"
#include "capture/stop.h"

/* With the gate open and t stopped: makes the copy, lets the whole target go, and leaves the copy
 * stopped before its first instruction in j->child. Whatever happens, the target runs on.
 * -EAGAIN, -EBUSY: worth another try. */
int fork_target(struct job *j, struct stop *s, struct thread *t, struct err *err);

/* Kills the copy, if there is one, and reaps it in the target with one wait4() in a second short
 * stop; so it does with leftovers of helpers that died. Failing to reap is not an error: the
 * zombie has no memory, and the next capture sweeps it. Returns how many zombies are left. */
int fork_reap(struct job *j);

#endif
