/* SPDX-License-Identifier: MIT */
/*
 * The target's transparent huge pages. A fork leaves them whole, but shared: the first write to one
 * while the copy lives splits it into 512 small ones. khugepaged joins them in its own time, or,
 * with defrag off, never. So they are noted before the fork, and those that were split are asked for
 * again from outside when the copy is gone.
 */
#ifndef PYLEAK_CAPTURE_HUGE_H
#define PYLEAK_CAPTURE_HUGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct huge_area {
	uint64_t start, end, bytes; /* bytes of it are in huge pages */
};

struct huge {
	struct huge_area *v;
	size_t n, cap;
};

/* Which areas of pid have huge pages. Reads page tables: not while it stands still. */
int huge_read(pid_t pid, struct huge *ret);
void huge_release(struct huge *h);

/* Whether an area is to be asked for again, and which part of it: it was huge all but whole (nine
 * tenths of what huge pages can cover), and now less of it is. */
bool huge_is_lost(const struct huge_area *before, const struct huge *now, uint64_t *ret_start, uint64_t *ret_end);

/* Asks for those that are there no more (MADV_COLLAPSE, Linux 6.1), until until_ns (monotonic).
 * How many bytes are in huge pages again, or a negative errno. */
int64_t huge_restore(pid_t pid, int pidfd, const struct huge *before, uint64_t until_ns);

#endif
