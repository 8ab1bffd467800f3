/* SPDX-License-Identifier: MIT */
/* Writing the snapshot file (include/pyleak/snapshot.h). */
#ifndef PYLEAK_CAPTURE_SNAPSHOT_H
#define PYLEAK_CAPTURE_SNAPSHOT_H

#include "capture/graph.h"
#include "capture/job.h"
#include "capture/strings.h"

/* at_ms: the instant the snapshot speaks of. -EIO, -ENOSPC, -ENOMEM. */
int snapshot_write(const struct job *j, const struct graph *g, const struct strings *s,
	int64_t at_ms, struct err *err);

#endif
