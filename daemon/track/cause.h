/* SPDX-License-Identifier: MIT */
/*
 * Which suspects of one target have one cause: a Session that is never dropped, its dict, its strings.
 * PURE.
 *
 * A built-in type says little (everything is made of dicts), so one that grows in step with a suspect
 * class is that class's companion: over the time looked at, what share of its growth it had reached
 * when differs by no more than CAUSE_SHAPE. Two classes are told to have one cause only where more than
 * that speaks for it, for all that grows evenly looks alike: how much they grow from one moment to the
 * next goes up and down together. Then the one of which there are fewer leads, as the holder of
 * many does. Where only built-in ones grow, what says least about the cause (str, then dict) follows.
 */
#ifndef PYLEAK_TRACK_CAUSE_H
#define PYLEAK_TRACK_CAUSE_H

#include <stddef.h>

#include "daemon/track/track.h"

#define CAUSE_SHAPE 0.15

struct cause_suspect {
	const struct track_type *ty; /* with a verdict */
	size_t leader;               /* filled in: index of the one it grows with; its own if it leads */
};

/* Looks at the growth since since_ms. -ENOMEM: then everybody leads. */
int cause_group(struct cause_suspect *v, size_t n, int64_t since_ms);

/* Whether the type has no module ("dict"), or one of CPython's for parts ("_thread.lock"). */
bool cause_is_builtin(const struct track_type *ty);

#endif
