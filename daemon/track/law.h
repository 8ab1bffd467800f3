/* SPDX-License-Identifier: MIT */
/*
 * The conservation law of one type: births - deaths = change of the census. PURE. It proves or
 * refutes what is counted, tells how far a level between two censuses can be trusted, and gives
 * the side that a build hides (inlined allocators, free lists) from the side that it shows.
 *
 * A census may be an interval: between min and max were alive at its instant. While the law holds,
 * `live - births + deaths` is one number, the level before anything was counted, so every census
 * narrows it further; when two censuses leave no number that fits both, the law is broken, by as
 * much as lies between them.
 *
 * Exact is a type only when LAW_PROOF births and LAW_PROOF deaths obeyed the law between censuses
 * of width 0 and another window, with births and deaths of its own, confirmed it: a quiet type
 * fits anything by accident. A broken law is an estimate until it is proven anew.
 */
#ifndef PYLEAK_TRACK_LAW_H
#define PYLEAK_TRACK_LAW_H

#include <stdbool.h>
#include <stdint.h>

#define LAW_PROOF 1000

enum law_blind {
	LAW_SEES_BOTH,
	LAW_BLIND_BIRTHS, /* births are missing: they are deaths + change of the census */
	LAW_BLIND_DEATHS, /* deaths are missing: they are births - change of the census */
};

/* Zero-initialised is a type of which nothing is known. Read through the functions below. */
struct law {
	/* The owner's, before the first census. So many objects may lie in a free list of the
	 * interpreter's own: what goes in there and comes out again is not counted as death and birth.
	 * And whether all other births and deaths pass sites, because of what the type is, not because
	 * it looks so: then what censuses say of it may be narrowed by what others have said. */
	uint64_t slack;
	bool closed;

	bool begun;              /* a census has spoken of it */
	uint64_t min, max;       /* the last one */
	uint64_t births, deaths; /* counters at its instant */
	/* Bounds of a number from which live - births + deaths is never less, and at most `slack`
	 * more. */
	int64_t base_min, base_max;

	/* Proof: what obeyed the law since it was last broken, between censuses of width 0. */
	bool sharp;                          /* there was one */
	uint64_t sharp_births, sharp_deaths; /* counters at the last of them */
	uint64_t proof_births, proof_deaths;
	bool confirmed;

	/* Doubt: the largest miss of late. It goes by evidence, not by time: halved when LAW_PROOF
	 * births and deaths have missed by less than half of it. */
	uint64_t bound;
	uint64_t doubt_births, doubt_deaths, doubt_worst;
	bool tested;   /* the law was tried on LAW_PROOF of both, so that `bound` means something */
	uint64_t step; /* largest change of late from one census to the next, halved likewise */
	uint64_t tried_births, tried_deaths;

	/* Misses of one sign in a row: what a blind side looks like. */
	enum law_blind blind;
	int64_t run;                          /* their sum, > 0: births are missing */
	unsigned run_windows;                 /* and number */
	int64_t hidden_births, hidden_deaths; /* what the counters did not show, up to now */

	bool gap; /* not everything was counted since the last census */
};

/* A census: between min and max were alive when births and deaths had been counted. */
void law_census(struct law *l, uint64_t min, uint64_t max, uint64_t births, uint64_t deaths);

/* A census that may miss up to `doubt` objects has found none, and neither births nor deaths were counted since the
 * one before: at most so many are alive. */
uint64_t law_unseen(const struct law *l, uint64_t doubt);

/* From here on, or for some time that is over, not everything was counted: nothing is concluded from
 * the last census to the next, and until then the level is the last one's. What was proven before
 * of the pair of sites stays proven. */
void law_gap(struct law *l);

/* The level at the last census lies between these: what that census said, narrowed by those before it
 * where the type is closed and the law has held. Needs `begun`. */
void law_census_range(const struct law *l, uint64_t *ret_min, uint64_t *ret_max);

/* The next census's interval will be narrowed to this at least; UINT64_MAX: not at all. */
uint64_t law_width(const struct law *l);

/* The middle of that and how far it may be off. Needs `begun`. */
int64_t law_census_level(const struct law *l, int64_t *ret_bound);

/* The level now that births and deaths are counted, and how far it may be off. Where the counters
 * have predicted worse than the last census itself would have, it is that census. Needs `begun`. */
int64_t law_level(const struct law *l, uint64_t births, uint64_t deaths, int64_t *ret_bound);

/* Every birth and every death is counted: the level between censuses is exact. */
bool law_proven(const struct law *l);

enum law_blind law_blind(const struct law *l);

/* Births and deaths since attach, with those that were not seen but must have been: where the side
 * is blind all of them as of the last census, else what free lists gave and took at the least.
 * Neither ever goes back. */
uint64_t law_births(const struct law *l, uint64_t births);
uint64_t law_deaths(const struct law *l, uint64_t deaths);

#endif
