/* SPDX-License-Identifier: MIT */
#include "daemon/track/law.h"

#include <stdlib.h>

#include "daemon/util/macros.h"

/* Misses of one sign in a row that make a side blind. More than a free list can hide in most
 * types (80 lists, 80 dicts), and more often than one being filled or emptied would. */
#define BLIND_MIN     256
#define BLIND_WINDOWS 3

/* Counts and levels come from a process that may be anything: beyond this they are cut, and no sum
 * of a few of them overflows. */
#define LEVEL_MAX (INT64_C(1) << 60)

static int64_t clamp(uint64_t v)
{
	return (int64_t)MIN(v, (uint64_t)LEVEL_MAX);
}

static int64_t net(uint64_t births, uint64_t deaths)
{
	return clamp(births) - clamp(deaths);
}

/* What the counters did not show in a window, from the sign of its miss. */
static void look_for_blind_side(struct law *l, int64_t miss)
{
	if (miss > 0)
		l->hidden_births += miss;
	else
		l->hidden_deaths -= miss;
	l->hidden_births = MIN(l->hidden_births, LEVEL_MAX);
	l->hidden_deaths = MIN(l->hidden_deaths, LEVEL_MAX);

	/* Free lists give and take: a miss that takes back part of the last ones ends the run. */
	if ((miss > 0) != (l->run > 0) && llabs(miss) > llabs(l->run) / 16) {
		l->run = 0;
		l->run_windows = 0;
		l->blind = LAW_SEES_BOTH;
	}
	l->run = MAX(MIN(l->run + miss, LEVEL_MAX), -LEVEL_MAX);
	/* One large miss and two small ones are no habit. */
	l->run_windows += (miss > 0) == (l->run > 0) && llabs(miss) >= llabs(l->run) / 16;
	if (l->run > 0 && (!l->births || (l->run >= BLIND_MIN && l->run_windows >= BLIND_WINDOWS)))
		l->blind = LAW_BLIND_BIRTHS;
	else if (l->run < 0 &&
		 (!l->deaths || (l->run <= -BLIND_MIN && l->run_windows >= BLIND_WINDOWS)))
		l->blind = LAW_BLIND_DEATHS;
}

/* The law was tried on so many births and deaths and missed by so much. */
static void weigh(struct law *l, uint64_t births, uint64_t deaths, uint64_t miss)
{
	l->tried_births += births;
	l->tried_deaths += deaths;
	l->tested = l->tried_births >= LAW_PROOF && l->tried_deaths >= LAW_PROOF;
	if (miss > l->bound / 2) {
		l->bound = MAX(l->bound, miss);
		l->doubt_births = l->doubt_deaths = l->doubt_worst = 0;
		return;
	}
	l->doubt_births += births;
	l->doubt_deaths += deaths;
	l->doubt_worst = MAX(l->doubt_worst, miss);
	if (l->doubt_births < LAW_PROOF || l->doubt_deaths < LAW_PROOF)
		return;
	l->bound = MAX(l->bound / 2, l->doubt_worst);
	l->doubt_births = l->doubt_deaths = l->doubt_worst = 0;
}

static void prove(struct law *l, bool sharp, uint64_t births, uint64_t deaths)
{
	uint64_t b = births - l->sharp_births, d = deaths - l->sharp_deaths;

	if (!sharp)
		return;
	if (l->sharp && !l->confirmed && l->proof_births >= LAW_PROOF &&
		l->proof_deaths >= LAW_PROOF && b && d) {
		l->confirmed = true;
		l->bound = 0;
		l->blind = LAW_SEES_BOTH;
		l->run = 0;
		l->run_windows = 0;
	}
	if (l->sharp) {
		l->proof_births += b;
		l->proof_deaths += d;
	}
	l->sharp = true;
	l->sharp_births = births;
	l->sharp_deaths = deaths;
}

void law_census(struct law *l, uint64_t min, uint64_t max, uint64_t births, uint64_t deaths)
{
	int64_t base_min, base_max, miss = 0;
	bool sharp;

	max = MAX(min, max);
	sharp = min == max;
	base_min = clamp(min) - net(births, deaths) - clamp(l->slack);
	base_max = clamp(max) - net(births, deaths);
	/* Counters only go up: if they do not, this is not the type that it was. */
	if (l->begun && (births < l->births || deaths < l->deaths))
		*l = (struct law){.slack = l->slack, .closed = l->closed};
	if (l->begun) {
		uint64_t step = (uint64_t)MAX(
			llabs(clamp(max) - clamp(l->max)), llabs(clamp(min) - clamp(l->min)));

		l->step = MAX(step, l->step / 2);
	}
	if (l->begun && !l->gap) {
		uint64_t b = births - l->births, d = deaths - l->deaths;

		if (base_min > l->base_max)
			miss = base_min - l->base_max;
		else if (base_max < l->base_min)
			miss = base_max - l->base_min;
		l->births = births; /* the blind side is one of which nothing was counted so far */
		l->deaths = deaths;
		if (miss)
			look_for_blind_side(l, miss);
		weigh(l, b, d, (uint64_t)llabs(miss));
	}
	if (l->begun && l->gap) {
		l->base_min = base_min;
		l->base_max = base_max;
		l->sharp = false; /* what was counted till here proves nothing */
	} else if (!l->begun || miss) {
		l->base_min = base_min;
		l->base_max = base_max;
		l->sharp = l->confirmed = false;
		l->proof_births = l->proof_deaths = 0;
	} else {
		l->base_min = MAX(l->base_min, base_min);
		l->base_max = MIN(l->base_max, base_max);
	}
	prove(l, sharp, births, deaths);
	l->begun = true;
	l->gap = false;
	l->min = min;
	l->max = max;
	l->births = births;
	l->deaths = deaths;
}

uint64_t law_unseen(const struct law *l, uint64_t doubt)
{
	return l->begun ? MIN(l->max, doubt) : 0;
}

void law_gap(struct law *l)
{
	l->gap = true;
}

bool law_proven(const struct law *l)
{
	return l->confirmed && !l->bound && !l->slack && l->base_min == l->base_max && !l->gap;
}

static bool narrows(const struct law *l)
{
	return l->closed && l->tested && !l->bound && l->blind == LAW_SEES_BOTH;
}

uint64_t law_width(const struct law *l)
{
	return narrows(l) ? (uint64_t)(l->base_max - l->base_min) + l->slack : UINT64_MAX;
}

void law_census_range(const struct law *l, uint64_t *ret_min, uint64_t *ret_max)
{
	int64_t n = net(l->births, l->deaths);

	*ret_min = l->min;
	*ret_max = l->max;
	if (!narrows(l))
		return;
	/* Not empty: a census that leaves nothing breaks the law, and is the base from then on. */
	*ret_min = MAX(l->min, (uint64_t)MAX(l->base_min + n, (int64_t)0));
	*ret_max = MIN(l->max, (uint64_t)MAX(l->base_max + clamp(l->slack) + n, (int64_t)0));
	*ret_max = MAX(*ret_min, *ret_max);
}

int64_t law_census_level(const struct law *l, int64_t *ret_bound)
{
	uint64_t min, max;

	law_census_range(l, &min, &max);
	if (ret_bound)
		*ret_bound = clamp(max - min + 1) / 2;
	return clamp(min) + clamp(max - min) / 2;
}

int64_t law_level(const struct law *l, uint64_t births, uint64_t deaths, int64_t *ret_bound)
{
	uint64_t b = births - l->births, d = deaths - l->deaths;
	int64_t level, bound;

	if (l->gap || (l->blind != LAW_SEES_BOTH && l->step <= l->bound)) {
		level = law_census_level(l, &bound);
		bound += clamp(l->step);
	} else {
		int64_t base_max = l->base_max + clamp(l->slack);

		level = l->base_min + (base_max - l->base_min) / 2 + net(births, deaths);
		bound = (base_max - l->base_min + 1) / 2;
		if (!law_proven(l))
			/* Untried counters may be wrong in all that they say. */
			bound += clamp(l->tested ? l->bound : MAX(l->bound, MAX(b, d)));
	}
	if (ret_bound)
		*ret_bound = bound;
	return MAX(level, (int64_t)0);
}

enum law_blind law_blind(const struct law *l)
{
	return l->blind;
}

uint64_t law_births(const struct law *l, uint64_t births)
{
	return births + (uint64_t)l->hidden_births;
}

uint64_t law_deaths(const struct law *l, uint64_t deaths)
{
	return deaths + (uint64_t)l->hidden_deaths;
}
