/* SPDX-License-Identifier: MIT */
/*
 * How much may be attached to a target, and for how long, so that watching it costs no more than
 * its share (budget.cpu) of the CPU time that the target uses for itself. PURE: no I/O, no clock.
 *
 * A hit costs the same whatever is done with it (the trap is the cost), so to spend less is to be
 * attached to less, or for less time. The governor looks at what the target has used and what was
 * spent on it: when the hits reach what it has allowed (the BPF programs raise an event), and now
 * and then. What fits is left attached. What does not is taken away, and comes back for a moment
 * (a window) every `rest_ns`, to see what is being made and whether it fits by now.
 *
 *   everything   all births and deaths: levels can be counted on from a census
 *   births       births only; deaths, the hotter half of them, are known from census to census
 *   instances    births of instances of classes only
 *   nothing      levels by the census of a window, or read from the target's memory
 *
 * What it keeps: over any 10 s no more than 1.3 times the share and over any 1 s no more than 5.5 %
 * are ordered to be spent; the rest of what is promised (1.5 times, 10 %) is for the time that it
 * takes to let go. An idle target has a little to spend all the same (GOVERNOR_FLOOR_NS).
 */
#ifndef PYLEAK_BUDGET_GOVERNOR_H
#define PYLEAK_BUDGET_GOVERNOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GOVERNOR_SLICES   40                /* of a quarter of a second */
#define GOVERNOR_FLOOR_NS UINT64_C(4000000)  /* in 10 s, of a target that does nothing */
#define GOVERNOR_ASKED_NS UINT64_C(10000000) /* in 10 s, where somebody waits for an answer */

enum governor_scope {
	GOVERNOR_NOTHING,
	GOVERNOR_INSTANCES,
	GOVERNOR_BIRTHS,
	GOVERNOR_EVERYTHING,
};
/* "nothing", "instances", "births", "everything" */
const char *governor_scope_name(enum governor_scope s);

enum governor_group { /* hits are told apart by these; a scope has all up to its own */
	GOVERNOR_OF_INSTANCES,
	GOVERNOR_OF_CONTAINERS,
	GOVERNOR_OF_DEATHS,
	GOVERNOR_GROUPS,
};

struct governor_config {
	double share;     /* of the target's CPU time, 0.01 is 1 %; 0 or less: no limit */
	uint64_t hit_ns;  /* what a hit costs, as measured on this host */
	uint64_t move_ns; /* what attaching and detaching cost the target, beside hits */
	uint64_t let_go_ns; /* from the order to let go until the last breakpoint is gone */
};

struct governor {
	struct governor_config config;
	enum governor_scope scope;
	bool window; /* everything is attached, for a moment */
	enum governor_scope settled; /* what it was before that */
	bool begun;
	uint64_t look_ns; /* as ordered: a look before that is because of the hits */
	uint64_t now_ns, cpu_ns, spent_ns, hits[GOVERNOR_GROUPS]; /* at the last look */

	/* By slices, a ring: what the target used for itself, what was spent on it. */
	uint64_t slice, used[GOVERNOR_SLICES], spent[GOVERNOR_SLICES];

	/* Since the scope is what it is. */
	uint64_t since_ns, since_used_ns, since_spent_ns, since_hits[GOVERNOR_GROUPS];
	uint64_t windows;
	unsigned misses; /* times that everything did not fit, since it last did */

	double rate[GOVERNOR_GROUPS]; /* hits a second of its CPU time; < 0: not known yet */
};

/* What is so now. Counters go up only. */
struct governor_look {
	uint64_t now_ns;
	uint64_t cpu_ns;   /* used by the target, what was spent on it included */
	uint64_t spent_ns; /* on it: hits, censuses, ... */
	uint64_t hits[GOVERNOR_GROUPS];
	uint64_t rest_ns;  /* between two windows; at first they come sooner */
	bool turn;        /* a window may be opened: others do not want one more urgently */
	bool wanted;      /* somebody waits for one: as soon as it can be afforded */
};

struct governor_order {
	enum governor_scope scope;
	bool window;      /* a census is worth it now */
	bool waits;       /* for its turn to open one */
	uint64_t hits;    /* look again after so many; UINT64_MAX: no matter how many */
	uint64_t look_ns; /* look again after so long at the latest */
};

void governor_init(struct governor *g, const struct governor_config *c);
void governor_configure(struct governor *g, const struct governor_config *c);

/* What to attach now. */
struct governor_order governor_decide(struct governor *g, const struct governor_look *l);
/* The scope that was ordered is attached now: it takes some time, in which the target went on. */
void governor_moved(struct governor *g, const struct governor_look *l);

/* With this attached for good it would cost this share of the target's CPU time; < 0: not known. */
double governor_cost(const struct governor *g, enum governor_scope s);

/* Over the last ten seconds: what was spent as a share of what the target used; < 0: it used none. */
double governor_spending(const struct governor *g);

/* Why it is so, in words. Returns buf. */
char *governor_reason(const struct governor *g, char *buf, size_t n);

#endif
