/* SPDX-License-Identifier: MIT */
/*
 * The suspects of a target: its types with a verdict, those of one cause together
 * (daemon/track/cause.h). Who leads is told of, alerted for and dumped; its companions are named with
 * it.
 */
#ifndef PYLEAK_WATCH_SUSPECTS_H
#define PYLEAK_WATCH_SUSPECTS_H

#include <jansson.h>

#include "daemon/watch/target.h"

struct suspect {
	const struct target_type *ty;
	const struct track_verdict *verdict;
	size_t leader; /* index of the suspect that it grows with; its own if it leads */
	bool tell;     /* it leads, and growth.suppress does not name it */
};

/* In no special order; *ret is malloc'ed. -ENOMEM. */
int suspects_of(const struct target *t, struct suspect **ret, size_t *ret_n);

/* By how many a type of that name has grown since a window before it was first suspect; 0: it is no
 * suspect. */
uint64_t suspects_grown(
	const struct target *t, const struct suspect *v, size_t n, const char *name);

/* How the types of these names grew so far, for the page of a dump: [{"type": …, "points":
 * [[ms, count], …]}, …], at most some hundred points each. NULL: nothing is known, or out of
 * memory. */
json_t *suspects_growth(const struct target *t, const char *const *names, size_t n);

#endif
