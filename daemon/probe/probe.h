/* SPDX-License-Identifier: MIT */
/*
 * The kernel side: BPF programs on allocation and deallocation sites of a target, per-type
 * counters, and the census. One `struct probe` a daemon (it owns the BPF object and its maps), one
 * `struct probe_target` a watched process (it owns the links). Nothing is pinned: when the daemon
 * dies, the kernel detaches everything.
 *
 * Phases: probe_open (load) -> probe_attach (plan sites, attach) -> read, arm a census -> free.
 */
#ifndef PYLEAK_PROBE_PROBE_H
#define PYLEAK_PROBE_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/python/python.h"
#include "daemon/util/err.h"

struct plan;
struct probe;
struct probe_target;

struct probe_options {
	unsigned max_targets; /* slots; default and at most PYLEAK_MAX_TARGETS */
	unsigned max_types;   /* counters a target; default 65536 when 0, at most PYLEAK_MAX_TYPES.
			       * Memory is taken as types turn up: some 150 bytes each. */
	bool perf; /* perf uprobes even where there are uprobe_multi links; so does PYLEAK_FORCE_PERF=1
		    * in the environment, for tests */
};

/* Loads the BPF object. -EPERM: which capability is missing; -EOPNOTSUPP: which kernel feature,
 * found by trying it, never by version. */
int probe_open(const struct probe_options *o, struct probe **ret, struct err *err);
void probe_free(struct probe *p);
void probe_freep(struct probe **p);

/* Readable when a census has ended, a limit is reached or a class has died; then call
 * probe_dispatch(), which calls the targets' callbacks. Never blocks. */
int probe_fd(const struct probe *p);
int probe_dispatch(struct probe *p);

/* What a hit costs the target on this host, measured at probe_open(): on an instruction that the
 * kernel emulates, or on one that it single-steps. */
uint64_t probe_cost_ns(const struct probe *p, bool stepped);
/* Of the daemon's own CPU time, what it took of late to let go of a target in the background. */
uint64_t probe_let_go_ns(const struct probe *p);

/* How probes are attached: "uprobe_multi", or "perf" on kernels where such links are missing or
 * filter by thread. */
const char *probe_way(const struct probe *p);
/* Why it is "perf" although that was not asked for, or "". */
const char *probe_way_reason(const struct probe *p);
/* "libbpf v1.4" */
const char *probe_library(void);

/* ---- scope ---- */

/* What is attached to a target; each has all of those before it. */
enum probe_scope {
	PROBE_NOTHING,
	PROBE_INSTANCES,  /* births of what tp_alloc makes: instances of classes, above all */
	PROBE_BIRTHS,     /* births of lists, dicts, ..., too */
	PROBE_EVERYTHING, /* and deaths */
};
#define PROBE_GROUPS 3 /* of sites: a scope has as many of them */

/* Attaches what is missing and lets go of what is too much. To attach takes some milliseconds and is
 * done when this returns. To let go does not wait: the breakpoints go in the background, within
 * milliseconds, and hits until then are billed and counted. A census that is out is taken back if
 * the scope becomes less than everything, as it could not go on.
 * Errors are those of probe_attach(); what was attached before still is. */
int probe_target_set_scope(struct probe_target *t, enum probe_scope s, struct err *err);
enum probe_scope probe_target_scope(const struct probe_target *t);

/* Whether deaths of types without collector are followed, each with a probe of its own: at the next
 * probe_target_read() while everything is attached. So it is until told otherwise; not worth it for
 * a moment. */
void probe_target_follow(struct probe_target *t, bool follow);

/* Hits so far, by group of sites: instances, other births, deaths. */
void probe_target_hits(const struct probe_target *t, uint64_t ret[PROBE_GROUPS]);
/* What watching has cost the target so far, an estimate: see struct probe_totals. */
uint64_t probe_target_spent_ns(const struct probe_target *t);
/* on_limit is called once, when the target's hits, all groups, reach this number; UINT64_MAX:
 * never. */
void probe_target_set_limit(struct probe_target *t, uint64_t hits);

/* Lets go of all targets at once, which takes no longer than one of them would alone. They can
 * still be read; probe_target_free() stays to be called. */
void probe_detach_all(struct probe *p);

/* ---- forked children ---- */

#define PROBE_CHILDREN_MS 400

/*
 * A child that a target forks inherits its breakpoints and would trap on them for ever, though its
 * hits are not counted. Call this every PROBE_CHILDREN_MS: it looks at new processes (one small
 * read where nobody has forked) and takes the breakpoints out of those that should not have any.
 * Nothing is lost or counted twice meanwhile. Children are cleaned within a second; where targets
 * fork so often that this would take more than a quarter of the daemon's time, later: see
 * probe_totals. An error is worth a line in the log, once.
 */
int probe_clean_children(struct probe *p);

/* ---- census ---- */

enum census_status {
	CENSUS_OK,
	CENSUS_TOO_LARGE, /* the heap needs more than one step, and this build allows no more */
	CENSUS_RESTARTS,  /* given up: had to begin anew too often, see restarts */
	CENSUS_FAULT,     /* what was found cannot be: try again later */
};

/* How a census was taken. */
enum census_way {
	CENSUS_ONE_SHOT, /* one hit within the budget: every interval has width 0 */
	CENSUS_STEPWISE, /* forward and back again in steps */
	CENSUS_OUTSIDE,  /* read from outside, no pause: see probe_census_outside() */
};

struct census_type {
	uint64_t type; /* address */
	/* Tracked objects at that instant: at least live_min, at most live_max; live is the middle,
	 * and it is exact if they are the same. */
	uint64_t live_min, live, live_max;
	uint64_t births, deaths; /* counters at the same instant, since attach */
	bool own;                /* and at the type's own functions, see probe_target_own(): */
	uint64_t own_births, own_deaths;
	uint64_t incarnation;    /* as in struct probe_count */
};

#define CENSUS_REASONS 10
#define CENSUS_WIDE    0.01 /* of all objects: a wider interval tells too little, */
#define CENSUS_TRIES   5    /* so it is worth a few more tries */

struct census_result {
	enum census_status status;
	enum census_way way;
	int fault; /* CENSUS_FAULT: -ESTALE, two passes contradict each other; -ENOSPC, no room for
			* a type's counters; -EMLINK, there is another interpreter since it was
			* armed; or why the counters could not be read */
	bool estimate;     /* the young rings were too large for one step: intervals may be wrong */
	int64_t at_ms;     /* realtime, of the instant */
	uint64_t at_ns;    /* CLOCK_MONOTONIC, when the closing step began */
	uint64_t pause_ns; /* longest step: how long the target's thread was held */
	uint64_t close_ns; /* the closing step */
	uint64_t cost_ns;  /* all steps together */
	uint64_t wall_ns;  /* from arming to the end */
	uint64_t objects;  /* walked forward */
	uint64_t width;    /* sum of live_max - live_min */
	unsigned steps;
	unsigned restarts[CENSUS_REASONS]; /* by reason, see census_reason(), CENSUS_TOO_WIDE excepted */
	const struct census_type *types;   /* valid during the callback */
	size_t n_types;
};

/* The reason that whoever armed it may have to begin anew, see CENSUS_WIDE. */
#define CENSUS_TOO_WIDE (CENSUS_REASONS - 1)
/* "full collection", ...: why a census had to begin anew; i < CENSUS_REASONS. */
const char *census_reason(unsigned i);
const char *census_way_name(enum census_way w); /* "one-shot", "stepwise", "outside" */

struct probe_target_options {
	void *userdata;
	void (*on_census)(struct probe_target *t, const struct census_result *r, void *userdata);
	void (*on_limit)(struct probe_target *t, void *userdata); /* see probe_target_set_limit() */
};

/* Plans the sites, attaches all of them with one uprobe_multi link per group. The python object
 * stays the caller's and must outlive the target. */
int probe_attach(struct probe *p, const struct python *py, const struct probe_target_options *o,
	struct probe_target **ret, struct err *err);
/* Detaches, the breakpoints in the background, and forgets the target's counters. NULL is fine. */
void probe_target_free(struct probe_target *t);

/* "3 birth sites (PyType_GenericAlloc+12 push, …), 2 death sites (…)": one line. Returns buf. */
char *probe_target_describe(const struct probe_target *t, char *buf, size_t n);
/* The same to be looked through. */
const struct plan *probe_target_plan(const struct probe_target *t);

/* Arms a census: hits at which the collector is idle walk the rings, in steps of at most budget_ns
 * with four times as long between them; the closing one may take 5 times the budget, or 5 ms if
 * that is less, or the budget if that is more. A heap that fits into the first step is done in it.
 * One at a time: -EBUSY; -EPROTO: the target's rings are not known; -EMLINK: it has
 * sub-interpreters, whose objects are in rings of their own and which from 3.12 on may allocate
 * during the walk; -ENOTCONN: nothing is attached. With less than everything attached there is no
 * second step. The result comes through on_census. probe_census_cancel() takes an unanswered
 * one back. */
int probe_census_arm(struct probe_target *t, uint64_t budget_ns);
void probe_census_cancel(struct probe_target *t);
/* Whether one is out that has not ended; its result may still wait for probe_dispatch(). */
bool probe_census_out(const struct probe_target *t);
/* Steps done of the census that is out; 0 if none is. */
unsigned probe_census_steps(const struct probe_target *t);
/* For tests: only the birth of an object of this type (address) closes a census; 0: any hit. */
void probe_census_close_at(struct probe_target *t, uint64_t type);

/* The same for a target that mostly waits: reads the rings from outside while it stands still
 * (python_read_levels()), with no pause. Calls on_census before it returns 0; -EAGAIN when it did not
 * stand still in any of so many tries; -E2BIG above max_objects; -ENODATA where part of it is swapped out. */
int probe_census_outside(struct probe_target *t, uint64_t max_objects, int tries);

/* ---- counters ---- */

struct probe_count {
	uint64_t type;           /* address of the type */
	uint64_t incarnation;    /* differs when the address was used again for another type */
	uint64_t births, deaths; /* since attach, or since this incarnation began */
	bool own;                /* it is counted at its own functions, too: */
	uint64_t own_births, own_deaths;
	bool instances; /* all births were at sites of PROBE_INSTANCES */
	bool gone;               /* the type has died: last report of it */
};

struct probe_totals {
	uint64_t hits;    /* probe hits of this target */
	uint64_t dropped; /* events not counted because a table was full, so far */
	bool gap; /* some hits or deaths since the last read may not be counted: one was, or has grown */
	uint64_t run_ns; /* time spent in our programs for this target, estimate: hits x cost a hit,
			 * and for cleaning its children */
	uint64_t children; /* processes that inherited its breakpoints and were freed of them */
	uint64_t children_delay_ns; /* how late they are freed now, see probe_clean_children() */
};

/*
 * Counts a type that the collector knows at two functions more: births at `make`, which stands in its
 * tp_new, and deaths at `end`, in its tp_dealloc or in that of the base which subtype_dealloc() calls.
 * For types of extensions, which may keep their dead to use them again, or take their memory
 * from elsewhere; who asks finds out which counters tell the truth. Attached with the next
 * probe_target_read() where deaths are followed; both numbers begin when both are.
 * -E2BIG: no room for more; -ENOENT: nothing is known of the type.
 */
int probe_target_own(struct probe_target *t, uint64_t type, uint64_t make, uint64_t end);

/* Forgets a type's counters: it has died while deaths were not seen. */
void probe_target_forget(struct probe_target *t, uint64_t type);

/* All types of the target with their counters now; *ret is malloc'ed. Types that the collector
 * knows, and of the others those whose deaths are seen, too (Decimal, hashes, numpy's arrays):
 * from then on, since births alone would look like a leak. Each dead one is
 * reported once; when reports were lost (`dropped` says so) an incarnation is just not there any
 * more. A dead target can still be read. */
int probe_target_read(struct probe_target *t, struct probe_count **ret, size_t *ret_n,
	struct probe_totals *ret_totals);

#endif
