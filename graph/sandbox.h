/* SPDX-License-Identifier: MIT */
/*
 * The cell in which hostile files are read: limits on memory and time, no privileges, and a filter
 * that leaves a process its memory and the descriptors it has, nothing else: no file is opened, no
 * program run, no socket made, no other process touched.
 */
#ifndef PYLEAK_GRAPH_SANDBOX_H
#define PYLEAK_GRAPH_SANDBOX_H

#include <stdint.h>

#include "daemon/util/err.h"

/* Limits, no core, no new privileges, death with the parent (whose pid is given), and, where this
 * process may, nobody's uid and no capabilities. Files can still be opened. 0 for a limit: none. */
int sandbox_begin(pid_t parent, uint64_t memory_bytes, uint64_t cpu_seconds, struct err *err);

/* The filter. -ENOTSUP: this kernel has none; the rest holds. */
int sandbox_close(struct err *err);

#endif
