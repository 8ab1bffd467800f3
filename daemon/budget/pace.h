/* SPDX-License-Identifier: MIT */
/*
 * How often the daemon looks at its targets, so that looking at all of them together takes no more than
 * a share of one CPU: in turns, those first that have waited longest. PURE: no I/O, no clock.
 */
#ifndef PYLEAK_BUDGET_PACE_H
#define PYLEAK_BUDGET_PACE_H

#include <stdbool.h>
#include <stdint.h>

/* One that takes turns; zero-initialised it does not wait. While it does, it stays where it is. */
struct pace_turn {
	struct pace_turn *next;
	uint64_t asked_ns; /* last; 0: does not wait */
};

struct pace {
	double share;     /* of one CPU, 0.01 is 1 % */
	uint64_t next_ns; /* nobody's turn comes before */
	struct pace_turn *first, *last; /* of those that wait */
};

/* Whether its turn has come; from then on it is, until it ends it. One that has not asked again for
 * patience_ns is passed over. */
bool pace_turn_come(struct pace *p, struct pace_turn *t, uint64_t now_ns, uint64_t patience_ns);

/* It has looked, does not want to any more, or goes. */
void pace_turn_end(struct pace *p, struct pace_turn *t);

/* A look has taken so much CPU time, whether or not it had waited for its turn. Many that had not, since
 * somebody asked for them, keep the others waiting for a minute at the most. */
void pace_spend(struct pace *p, uint64_t now_ns, uint64_t took_ns);

#endif
