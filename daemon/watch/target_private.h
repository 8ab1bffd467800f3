/* SPDX-License-Identifier: MIT */
/*
 * What the files that make up a target share; nobody else includes it.
 *
 *   target.c        its life, samples, censuses
 *   target_types.c  its types: levels, flows, what they are worth
 *   target_budget.c what is attached, and when
 *   target_blocks.c levels of what the collector does not track
 *   target_kept.c   what outlives the daemon, and the process
 */
#ifndef PYLEAK_WATCH_TARGET_PRIVATE_H
#define PYLEAK_WATCH_TARGET_PRIVATE_H

#include <time.h>

#include "daemon/watch/target.h"

struct waiter {
	struct waiter *next;
	void (*f)(void *arg, bool ok);
	void *arg;
};

struct target_budget {
	struct governor g;
	sd_event_source *look;
	clockid_t cpu_clock;
	uint64_t began_ns;
	bool failed; /* to attach, the last time */

	/* Since when these are attached without a break; 0: they are not. */
	int64_t instances_since_ms, births_since_ms, all_since_ms;

	/* Everything is attached: how long so far, and since when, 0: it is not; the target's CPU time
	 * and what was spent on it then. */
	uint64_t seen_ns, seen_since_ns, seen_cpu_ns, seen_spent_ns;

	/* Windows: seconds of CPU that the target used for itself in them and that were spent on it,
	 * sums that fade; see target_budget_rate(). */
	uint64_t asked_cpu_ns; /* the target's time when what somebody asked for began */
	bool for_asker;        /* everything is attached since somebody waits */
	unsigned windows;
	double own, own_cost, own_squares;
	double own_rate; /* CPU seconds a second, of late; < 0: not known */
	uint64_t sampled_ns, sampled_cpu_ns, sampled_spent_ns;

	struct pace_turn turn; /* for a window */
	uint64_t validated_ns;
	uint64_t census_cost_ns; /* of walking all objects once, the last time */
	int64_t given_up_ms; /* no census in a window until then: the last one was cut short */

	enum governor_scope told;
	uint64_t told_ns;
};

struct target {
	struct target_options o;
	struct proc_info info;
	struct python *py;
	struct probe_target *pt;
	struct track *track;
	char sites[768];
	char service[256];
	bool ended;        /* the process is gone */
	struct {           /* from the store, see target_kept.c */
		struct store_series *series;
		struct store_service *services;
		size_t n_series, n_services;
		int64_t saved_ms;
	} kept;
	unsigned recorded; /* its number in the recording; 0: it is in none */
	int pidfd;
	uint64_t start_stack; /* changes when the process executes another program */

	uint64_t subtype_dealloc; /* see types_close(); 0: not known yet */
	struct target_type **types; /* live ones, in no special order */
	size_t n_types, cap_types;
	struct u64map by_addr; /* type address -> struct target_type */
	uint64_t serial, dropped_types, censuses;
	bool sets_full; /* told: no more types are counted at functions of their own */

	struct {                  /* levels of what the collector does not track */
		bool running;     /* a reading is on its way */
		bool asked;       /* and somebody waits for it */
		struct pace_turn turn;
		uint64_t next_ns; /* not before, CLOCK_MONOTONIC; and see target_blocks_due() */
		uint64_t cpu_ns;  /* the target's own time when it began */
		bool all;         /* it counts every type, not only those */
		unsigned found;   /* readings in a row that found types, the last one included */
		int64_t all_ms;   /* the last one of that kind; 0: none */
		char reason[256]; /* why there are none; "" */
	} blocks;

	struct target_budget budget;
	struct target_census census;
	struct pace_turn walk_turn; /* to have its rings read from outside */
	struct {                    /* when the last census from outside began, if one was tried, and right: */
		bool tried, known;
		uint64_t cpu_ns, hits;
	} still;
	uint64_t walk_ns; /* not before, CLOCK_MONOTONIC, unless somebody waits */
	bool armed; /* a census is on its way */
	int64_t armed_ms;
	unsigned tries;   /* that told too little, before it */
	bool estimated;   /* the last one that was taken */
	unsigned steps;   /* it had taken when last looked at */
	int64_t due_ms;   /* the next one not before, unless somebody asks */
	int64_t retry_ms; /* TOO_LARGE: not before */
	int64_t retry_delay_ms;
	int64_t sampled_ms;
	int64_t looked_ms;

	struct probe_totals totals;
	bool read; /* counters have been, when there were so many hits */
	uint64_t read_hits;
	uint64_t prev_hits;

	struct waiter *waiters; /* for a census */
	struct waiter *readers; /* for a reading, and a census after it */
	struct waiter *late;    /* for the one after that: it began too early for them */
	bool read_again;        /* it has found types that it did not count */
	uint64_t asked_ns;      /* what somebody asks for not before, CLOCK_MONOTONIC */
	sd_event_source *tick, *idle, *refresh, *exit_source;
};

/* ---- target_types.c ---- */

struct target_type *type_find(struct target *t, uint64_t addr);
/* NULL: no room. */
struct target_type *type_new(struct target *t, uint64_t addr);
/* A type that was found in memory. True: it is one, and was not known. */
bool type_found(struct target *t, uint64_t addr);
/* Reads its name, unless that is known. */
void type_name(struct target *t, struct target_type *ty);
void types_release(struct target *t);
#define DOUBT 64 /* objects, or 1 %, that what is found in memory may be off */

/* Finds out of which types every birth and death is counted, and which an extension frees. */
void types_close(struct target *t);
/*
 * A foreign type is counted at the sites that all types pass, and at its own functions. Of births and
 * deaths each one or the other is right, or none: four sets, a law each. Of those that are proven,
 * the one that has seen most is the type's: whose dead are kept and used again satisfy the law at the
 * sites, too, as long as as many are kept.
 */
enum {
	SETS_OWN_BIRTHS = 1,
	SETS_OWN_DEATHS = 2,
	N_SETS = 4,
};

struct target_sets {
	unsigned chosen;
	struct law law[N_SETS]; /* but for that of the chosen one, which is the type's */
	/* As last read; [0]: at the sites, [1]: at its own functions; they begin as one. */
	uint64_t births[2], deaths[2];
	uint64_t births0, deaths0; /* added to what its own functions have seen */
	bool compared; /* who has seen more, since a census at which they stood at these: */
	uint64_t births_from[2], deaths_from[2];
};

/* Instances were seen that no census finds: from now on they are counted where they lie. */
void type_hides(struct target_type *ty);
/* Not everything is counted any more: levels rest until the next census. */
void types_gap(struct target *t);
/* Forgets classes that have died while nobody saw it. */
void types_validate(struct target *t);
/* Reads the counters of all types; forgets those that have died. */
int read_counters(struct target *t);
/* What a census says of a type: between min and max were alive. */
void type_census(
	struct target_type *ty, uint64_t min, uint64_t max, uint64_t births, uint64_t deaths);
/* The same where it has found some, or some were counted; min and max as they are after doubt. */
void type_census_found(struct target_type *ty, uint64_t min, uint64_t max, const struct census_type *k);
/* The last sample is the last census itself. */
bool at_census(const struct target *t);

/* ---- target_blocks.c ---- */

/* Finds the types that every Python has. */
void target_blocks_init(struct target *t);
/* Asks for a reading; target_blocks_done() follows. -EBUSY: one is on its way. */
int target_blocks_start(struct target *t);
/* Of a type that a reading has spoken of: live objects now, and how far that may be off. */
int64_t target_blocks_level(
	const struct target *t, const struct target_type *ty, int64_t *ret_bound);
/* Whether it is time for one that nobody waits for. */
bool target_blocks_due(struct target *t);

/* ---- target_budget.c ---- */

/* After everything was attached for the first time. */
int target_budget_init(struct target *t);
void target_budget_configure(struct target *t);
void target_budget_release(struct target *t);
/* Now, not when it is due. */
void target_budget_look(struct target *t);
/* With each sample. */
void target_budget_sampled(struct target *t);
/* What somebody asked for begins. And whether the target has done nothing since. */
void target_budget_asked(struct target *t);
bool target_budget_idle(const struct target *t);
/* CPU time that it has used so far. */
uint64_t target_budget_cpu_ns(const struct target *t);
/* The same without what was spent on it, as of the last reading of the counters. */
uint64_t target_budget_own_cpu_ns(const struct target *t);
/* Of late it has mostly waited for something to do. */
bool target_budget_waits(const struct target *t);
/* A census in a window was not done when that ended. */
void target_budget_cut_short(struct target *t);
/* Whether births of the type, or births and deaths of all, were counted without a break since. */
bool target_budget_births_since(const struct target *t, const struct target_type *ty, int64_t ms);
bool target_budget_all_since(const struct target *t, int64_t ms);
/* Births or deaths a second, from what windows have seen; < 0: cannot be told. *ret_bound is how far
 * that may be off, two standard errors; -1: not known yet. */
double target_budget_rate(const struct target *t, const struct target_type *ty, bool deaths,
	double *ret_bound);

/* ---- target_kept.c ---- */

/* Reads what the store has of this process and of its service. */
void target_kept_load(struct target *t);
/* Of a type that is new to the track: what it was when the daemon ended, and what to expect of it. */
void target_kept_type(struct target *t, struct target_type *ty);
/* Writes it, now and then; and at the end. */
void target_kept_sampled(struct target *t);
void target_kept_end(struct target *t);

/* ---- target.c ---- */

/* Arms a census if there can be one. */
bool target_start_census(struct target *t);
/* There is none in a window, because it would not fit into that. */
void target_census_left_out(struct target *t);
bool target_census_is_recent(const struct target *t);
/* Who has not asked for its turn for so long does not want it any more. */
uint64_t target_patience_ns(const struct target *t);
/* It will not be answered: there are not enough probes for it any more. */
void target_census_cut_short(struct target *t);

/* A reading has ended. */
void target_blocks_done(struct target *t);
/* What somebody has asked for took so much of the daemon's time. */
void target_asked_took(struct target *t, uint64_t took_ns);

#endif
