/* SPDX-License-Identifier: MIT */
/*
 * One watched process: its Python, its probes, its levels and its series. Ties together what the
 * other modules know; holds no policy of which processes are watched (watch.c) and no wording of
 * answers (answers.c).
 *
 * What is attached follows the budget: every site for good where that fits, else all of them in short
 * windows (target_budget.c).
 *
 * Every growth.interval the target takes one sample. With a census when there can be one: on probe
 * hits, or from outside when none comes within two seconds and its turn has come, or when it has not run
 * since; else from the counters alone, as while
 * a census in steps is on its way, and after one until what it cost has been saved up. What the
 * collector does not track is counted in the target's memory, now and then (reader.h).
 */
#ifndef PYLEAK_WATCH_TARGET_H
#define PYLEAK_WATCH_TARGET_H

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "daemon/budget/governor.h"
#include "daemon/budget/pace.h"
#include "daemon/config/config.h"
#include "daemon/probe/probe.h"
#include "daemon/python/python.h"
#include "daemon/record/record.h"
#include "daemon/store/store.h"
#include "daemon/track/law.h"
#include "daemon/track/track.h"
#include "daemon/util/u64map.h"
#include "daemon/watch/reader.h"

struct target;

/* What is known of one type of one target. */
struct target_type {
	uint64_t serial; /* key in the track; never used twice */
	uint64_t addr;
	uint64_t incarnation; /* of the counters; 0: no hit seen yet */
	bool named;           /* info was read */
	bool always_tracked;  /* the census sees every live one */
	/* The collector knows the type, but its instances end in code of an extension, which may leave
	 * some of them out of its sight and keep dead ones to use them again. `hides`: some were
	 * seen alive that it does not track; `whole`: none at all, the last time. */
	bool foreign, hides, whole;
	bool sets_asked;
	struct target_sets *sets; /* counters of a foreign one to choose from; NULL: no choice */
	bool gone;            /* the type itself has died */
	struct {            /* as struct python_type, in less room: there are many */
		const char *name; /* "" while it is not known */
		uint64_t flags;
		int64_t basicsize, itemsize;
		bool heap;
	} info;
	struct track_type *track;

	uint64_t births, deaths;           /* counted since attach, as last read */
	uint64_t read_births;              /* as the probes have them, which may begin anew */
	double birth_rate, death_rate;     /* a second, over the last sample's interval; < 0: unknown */
	double birth_bound, death_bound;   /* how far they may be off; -1: unknown */
	uint64_t rate_births, rate_deaths; /* where that began: law_births(), law_deaths() */
	int64_t rate_ms;
	bool instances; /* its births are known from PROBE_INSTANCES on */
	bool looked_at_dealloc;
	uint64_t print; /* by which a class is known again, see types_validate() */
	struct target_seen {
		uint64_t births, deaths;    /* counters when everything was attached last */
		double n[2], nn[2], nc[2];  /* births and deaths in windows: sums that fade, of
					     * them, of their squares, of them times CPU seconds */
	} seen;

	bool census;            /* a census has spoken of it */
	uint64_t census_serial; /* the last one that found any alive */
	uint64_t live;          /* tracked objects then, at most live_bound off */
	uint64_t live_bound;
	struct law law; /* from census to census: quality, bounds, sides that are not seen */

	struct { /* of a type that is counted where its objects lie, see target_type_in_blocks() */
		bool known; /* a reading has spoken of it, and with it `law` */
		bool asked; /* by the one under way, when these stood in the counters: */
		uint64_t births, deaths;
		uint64_t cpu_ns; /* the target's own time when the reading began */
		bool measured;   /* from one to the next; else a guess, from how it came to its level: */
		double drift;    /* objects a ns of its own time, of late */
	} blocks;
};

enum target_census_state {
	TARGET_CENSUS_NONE, /* none yet */
	TARGET_CENSUS_OK,
	TARGET_CENSUS_TOO_LARGE, /* not even in steps: off, retried now and then */
	TARGET_CENSUS_NO_RINGS,  /* this build keeps its objects in another way */
	TARGET_CENSUS_MISSED, /* the last one failed: a fault, or a heap that would not hold still */
};

struct target_census {
	enum target_census_state state;
	char reason[256]; /* in words, unless OK */
	int64_t at_ms;    /* of the last one that worked; 0: none */
	uint64_t objects;
	uint64_t width;        /* sum of how far its numbers may be apart, all types; 0: exact */
	uint64_t pause_ns_max; /* longest step so far, of those given up as well */
	enum census_way way;   /* of the last one that worked */
	unsigned steps;
	bool estimate;                     /* it may be wrong: see struct census_result */
	uint64_t restarts[CENSUS_REASONS]; /* why censuses had to begin anew, all so far */
};

/* What all targets share: of the daemon's own time, in turns. What somebody asks for takes none of it: that is
 * at the expense of the target's own, so that whoever asks all the time has to wait and the others do not. */
struct target_turns {
	struct pace readings; /* of memory, for what the collector does not track */
	struct pace walks;    /* of the rings of a target that stands still */
	struct pace windows;  /* to attach and to let go */
	unsigned reading;     /* readings under way that nobody asked for */
};

struct target_options {
	const struct config *config;
	struct probe *probe;
	struct reader *reader;
	struct target_turns *turns;
	struct record_writer *record;
	struct store *store;
	sd_event *event;
	void *userdata;
	void (*on_sample)(
		struct target *t, void *userdata); /* a sample was taken, verdicts are new */
	/* The process ended or executed another program: free the target. */
	void (*on_gone)(struct target *t, const char *why, void *userdata);
};

/* Looks at the process, attaches, starts sampling. Errors as python_open() and probe_attach(). */
int target_open(pid_t pid, const struct target_options *o, struct target **ret, struct err *err);
void target_free(struct target *t);

/* New settings after a reload. */
void target_configure(struct target *t, const struct config *c);

const struct proc_info *target_info(const struct target *t);
const struct python *target_python(const struct target *t);
struct track *target_track(const struct target *t);
const struct target_census *target_census(const struct target *t);
const struct config *target_config(const struct target *t);
/* A name for the service that stays the same when the process is restarted: unit, or exe and command line. */
const char *target_service(const struct target *t);
const char *target_sites(const struct target *t); /* what is attached where */

/* Of when the levels are, ms since the epoch; 0: none yet. */
int64_t target_sampled_ms(const struct target *t);
/* Of when the process itself was looked at last: its memory, its verdicts. */
int64_t target_looked_ms(const struct target *t);

/* Cost of watching as a share of the CPU time that the target used for itself over the last ten
 * seconds; < 0: it used none. */
double target_overhead(const struct target *t);
/* Of probes, so far. */
uint64_t target_hits(const struct target *t);
/* What is attached, and why. */
const struct governor *target_governor(const struct target *t);
/* Every birth and death is counted, for good as far as one can tell; else in windows at the most. */
bool target_counts_all(const struct target *t);
/* Of the time since it is watched, in which every birth and death was counted: 0..1. */
double target_observed_share(const struct target *t);
/* Events and types lost because a table was full, so far. Levels rest after each loss, until a census has
 * the truth; allocs and frees stay too few. */
uint64_t target_dropped(const struct target *t);
/* As of the last sample. */
const struct probe_totals *target_totals(const struct target *t);
/* growth.window */
int64_t target_window_ms(const struct target *t);
uint64_t target_rss_bytes(const struct target *t);

/* Types: NULL-terminated iteration by index. */
size_t target_type_count(const struct target *t);
const struct target_type *target_type_at(const struct target *t, size_t i);

/* A sample now, with a census if there can be one; f is called when it is there (ok) or not. Asked again and
 * again it takes a tenth of a CPU, and is later. */
void target_refresh(struct target *t, void (*f)(void *arg, bool ok), void *arg);
/* The one who waits is gone. */
void target_refresh_forget(struct target *t, void *arg);

/* Why there are no levels of what the collector does not track, or "". */
const char *target_blocks_reason(const struct target *t);

/* Whether the census does not see all its instances, so that they are counted in the target's
 * memory: types without the collector, and dicts and tuples, which leave its sight. */
bool target_type_in_blocks(const struct target_type *ty);
/* Whether what is known of the type is enough to judge it: of the rest, one side of the counting is known
 * to be blind and no census backs it. */
bool target_type_judged(const struct target_type *ty);
/* Live objects of the type now, or TRACK_UNKNOWN; *ret_bound is its possible error, or -1. */
int64_t target_type_level(const struct target *t, const struct target_type *ty, int64_t *ret_bound);
enum track_quality target_type_quality(const struct target *t, const struct target_type *ty);
/* Births and deaths since attach, those that are not seen but can be told included; false: nothing
 * can be said of them, no site of this build sees either although the census changes. */
bool target_type_flow(const struct target_type *ty, uint64_t *ret_births, uint64_t *ret_deaths);
enum track_quality target_type_rates_quality(const struct target *t, const struct target_type *ty);

#endif
