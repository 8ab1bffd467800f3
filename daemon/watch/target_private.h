/* SPDX-License-Identifier: MIT */
/*
 * What the files that make up a target share; nobody else includes it.
 *
 *   target.c        its life, samples, censuses
 *   target_types.c  its types: levels, flows, what they are worth
 *   target_blocks.c levels of what the collector does not track
 */
#ifndef PYLEAK_WATCH_TARGET_PRIVATE_H
#define PYLEAK_WATCH_TARGET_PRIVATE_H

#include "daemon/watch/target.h"

struct waiter {
	struct waiter *next;
	void (*f)(void *arg, bool ok);
	void *arg;
};

struct target {
	struct target_options o;
	struct proc_info info;
	struct python *py;
	struct probe_target *pt;
	struct track *track;
	char sites[768];
	int pidfd;
	uint64_t start_stack; /* changes when the process executes another program */

	struct target_type **types; /* live ones, in no special order */
	size_t n_types, cap_types;
	struct u64map by_addr; /* type address -> struct target_type */
	uint64_t serial, dropped_types, censuses;

	struct {                  /* levels of what the collector does not track */
		bool running;     /* a reading is on its way */
		uint64_t took_ns; /* the last one */
		uint64_t next_ns; /* not before, CLOCK_MONOTONIC; and see target_blocks_due() */
		char reason[256]; /* why there are none; "" */
	} blocks;

	struct target_census census;
	bool armed; /* a census is on its way */
	int64_t armed_ms;
	unsigned steps;   /* it had taken when last looked at */
	int64_t due_ms;   /* the next one not before, unless somebody asks */
	int64_t retry_ms; /* TOO_LARGE: not before */
	int64_t retry_delay_ms;
	int64_t sampled_ms;

	struct probe_totals totals;
	uint64_t prev_run_ns, prev_cpu_ns, prev_hits;
	double overhead;

	struct waiter *waiters; /* for a census */
	struct waiter *readers; /* for a reading, and a census after it */
	bool read_again;        /* the one under way is too old for them */
	sd_event_source *tick, *idle, *exit_source;
};

/* ---- target_types.c ---- */

struct target_type *type_find(struct target *t, uint64_t addr);
/* NULL: no room. */
struct target_type *type_new(struct target *t, uint64_t addr);
/* Reads its name, unless that is known. */
void type_name(struct target *t, struct target_type *ty);
void types_release(struct target *t);
/* Reads the counters of all types; forgets those that have died. */
int read_counters(struct target *t);
/* What a census says of a type: between min and max were alive. */
void type_census(struct target_type *ty, uint64_t live, uint64_t min, uint64_t max, uint64_t births,
	uint64_t deaths);
/* The last sample is the last census itself. */
bool at_census(const struct target *t);

/* ---- target_blocks.c ---- */

/* Finds the types that every Python has. */
void target_blocks_init(struct target *t);
/* Asks for a reading; target_blocks_done() follows. -EBUSY: one is on its way. */
int target_blocks_start(struct target *t);
/* Of a type that a reading has spoken of: live objects now; *ret_bound is -1 where there is none. */
int64_t target_blocks_level(const struct target_type *ty, int64_t *ret_bound);
/* Whether it is time for one that nobody waits for. */
bool target_blocks_due(const struct target *t);

/* ---- target.c ---- */

/* A reading has ended. */
void target_blocks_done(struct target *t);

#endif
