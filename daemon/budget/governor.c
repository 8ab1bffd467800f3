/* SPDX-License-Identifier: MIT */
#include "daemon/budget/governor.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "daemon/util/macros.h"

#define SECOND_NS     UINT64_C(1000000000)
#define SLICE_NS      (SECOND_NS / 4)
#define SLICES_1S     4
#define OVER_10S      1.3   /* times the share, of what may be ordered */
#define OVER_1S       0.055 /* of what was used in it */
#define FITS          0.9 /* of the share: goes on */
#define FITS_AGAIN    0.7 /* of the share: may be attached for good */
#define WINDOW_PART   4   /* a window takes this part of what ten seconds allow */
#define WINDOW_MAX_NS UINT64_C(10000000) /* what happens in a window is that much slower */
#define USEFUL_NS     UINT64_C(1000000)  /* a window of less shows nothing */
#define NEWS_NS       UINT64_C(1000000)
#define HITS_TO_TELL  500 /* before a rate is believed */
#define LOOK_NS       SECOND_NS
#define LOOK_CALM_NS  (5 * SECOND_NS)

const char *governor_scope_name(enum governor_scope s)
{
	static const char *const names[] = {"nothing", "instances", "births", "everything"};

	return (unsigned)s < ARRAY_SIZE(names) ? names[s] : "";
}

void governor_init(struct governor *g, const struct governor_config *c)
{
	*g = (struct governor){.config = *c, .scope = GOVERNOR_EVERYTHING};
	for (int i = 0; i < GOVERNOR_GROUPS; i++)
		g->rate[i] = -1;
}

void governor_configure(struct governor *g, const struct governor_config *c)
{
	g->config = *c;
}

/* Of the last n slices, the one that is open included. */
static double last(const struct governor *g, const uint64_t *v, unsigned n)
{
	uint64_t s = 0;

	for (unsigned i = 0; i < n; i++)
		s += v[(g->slice + GOVERNOR_SLICES - i) % GOVERNOR_SLICES];
	return (double)s;
}

static double ten_seconds(const struct governor *g, const uint64_t *v)
{
	return last(g, v, GOVERNOR_SLICES);
}

/* Opens the slices up to now. */
static void turn(struct governor *g, uint64_t now_ns)
{
	uint64_t slice = now_ns / SLICE_NS;

	if (!g->begun)
		g->slice = slice;
	for (unsigned i = 0; g->slice < slice && i < GOVERNOR_SLICES; i++) {
		g->slice++;
		g->used[g->slice % GOVERNOR_SLICES] = g->spent[g->slice % GOVERNOR_SLICES] = 0;
	}
	if (g->slice != slice) { /* longer ago than the ring */
		memset(g->used, 0, sizeof(g->used));
		memset(g->spent, 0, sizeof(g->spent));
		g->slice = slice;
	}
}

/* What may be spent now without breaking a promise; 0 if nothing. */
static uint64_t allowance(const struct governor *g, bool wanted)
{
	double least = (double)(wanted ? GOVERNOR_ASKED_NS : GOVERNOR_FLOOR_NS);
	double ten = OVER_10S * g->config.share * ten_seconds(g, g->used);
	double one = OVER_1S * last(g, g->used, SLICES_1S + 1);

	ten = MAX(ten, least) - ten_seconds(g, g->spent);
	one = MAX(one, least) - last(g, g->spent, SLICES_1S + 1);
	return (uint64_t)MAX(MIN(ten, one), 0.0);
}

double governor_cost(const struct governor *g, enum governor_scope s)
{
	double hits = 0;

	for (int i = 0; i < (int)s; i++) {
		if (g->rate[i] < 0)
			return -1;
		hits += g->rate[i];
	}
	return hits * (double)g->config.hit_ns / SECOND_NS;
}

double governor_spending(const struct governor *g)
{
	double spent = ten_seconds(g, g->spent);
	/* What a hit costs is not known well enough to tell more than fifty times. */
	double used = MAX(ten_seconds(g, g->used), spent / 50);

	return used > 0 ? spent / used : -1;
}

/* What will be spent from the order to let go of a scope until that is done: of that time as much is
 * the trap's as the target then runs, which it does no more than twice as much as of late. */
static uint64_t tail_ns(const struct governor *g, enum governor_scope s)
{
	double cost = governor_cost(g, s);
	double busy = MIN(2 * MAX(ten_seconds(g, g->used) / (GOVERNOR_SLICES * SLICE_NS),
				      last(g, g->used, SLICES_1S) / SECOND_NS),
		1.0);

	return g->config.move_ns +
	       (uint64_t)(cost > 0 ? busy * cost / (1 + cost) * (double)g->config.let_go_ns : 0);
}

/* Whether enough was seen since then to tell rates from. */
static bool told(const struct governor *g)
{
	uint64_t hits = 0;

	for (int i = 0; i < (int)g->scope; i++)
		hits += g->hits[i] - MIN(g->since_hits[i], g->hits[i]);
	return hits >= HITS_TO_TELL || g->since_used_ns >= SECOND_NS / 10;
}

/* What came since the last look, over the slices since then. */
static void spread(const struct governor *g, uint64_t *slices, uint64_t v)
{
	uint64_t n = g->slice - MIN(g->now_ns / SLICE_NS, g->slice) + 1;

	n = MIN(n, (uint64_t)GOVERNOR_SLICES);
	for (uint64_t i = 0; i < n; i++)
		slices[(g->slice - i) % GOVERNOR_SLICES] += v / n;
}

static void take_in(struct governor *g, const struct governor_look *l)
{
	uint64_t cpu = l->cpu_ns - MIN(g->cpu_ns, l->cpu_ns);
	uint64_t spent = l->spent_ns - MIN(g->spent_ns, l->spent_ns);
	uint64_t used = cpu - MIN(spent, cpu);

	turn(g, l->now_ns);
	if (!g->begun) {
		used = spent = 0; /* of before */
		memcpy(g->since_hits, l->hits, sizeof(l->hits));
		g->since_ns = l->now_ns;
		g->begun = true;
	}
	spread(g, g->used, used);
	if (l->now_ns - g->now_ns >= g->look_ns)
		spread(g, g->spent, spent);
	else /* not just as always, so just now */
		g->spent[g->slice % GOVERNOR_SLICES] += spent;
	g->since_used_ns += used;
	g->since_spent_ns += spent;
	g->now_ns = l->now_ns;
	g->cpu_ns = l->cpu_ns;
	g->spent_ns = l->spent_ns;
	memcpy(g->hits, l->hits, sizeof(l->hits));

	if (!told(g))
		return;
	for (int i = 0; i < (int)g->scope; i++)
		g->rate[i] = (double)(l->hits[i] - MIN(g->since_hits[i], l->hits[i])) * SECOND_NS /
			     (double)MAX(g->since_used_ns, (uint64_t)1);
}

static void move_to(struct governor *g, enum governor_scope s)
{
	g->scope = s;
	g->since_ns = g->now_ns;
	g->since_used_ns = g->since_spent_ns = 0;
	memcpy(g->since_hits, g->hits, sizeof(g->hits));
}

/* The widest scope below everything that fits for good. */
static enum governor_scope narrower(const struct governor *g)
{
	for (enum governor_scope s = GOVERNOR_BIRTHS; s > GOVERNOR_NOTHING; s--) {
		double cost = governor_cost(g, s);

		if (cost >= 0 && cost <= FITS_AGAIN * g->config.share)
			return s;
	}
	return GOVERNOR_NOTHING;
}

static uint64_t hits_for(const struct governor *g, uint64_t spend_ns)
{
	return MAX(spend_ns / MAX(g->config.hit_ns, (uint64_t)1), (uint64_t)1);
}

/* Twice what is expected to be spent within look_ns, and a little: more is news. */
static uint64_t news_ns(const struct governor *g, uint64_t look_ns)
{
	double expected = MAX(governor_cost(g, g->scope), 0.0) * last(g, g->used, SLICES_1S) /
			  SECOND_NS * (double)look_ns;

	return (uint64_t)(2 * expected) + NEWS_NS;
}

static struct governor_order order(const struct governor *g, bool window, uint64_t spend_ns)
{
	struct governor_order o = {.scope = g->scope,
		.window = window,
		.hits = hits_for(g, spend_ns),
		.look_ns = LOOK_NS};

	if (g->scope == GOVERNOR_NOTHING)
		o.hits = UINT64_MAX;
	return o;
}

void governor_moved(struct governor *g, const struct governor_look *l)
{
	take_in(g, l);
	move_to(g, g->scope);
}

/* What is spent in so little CPU time that nobody can tell. */
static bool negligible(const struct governor *g, double cost)
{
	return cost >= 0 &&
	       cost * ten_seconds(g, g->used) <= FITS_AGAIN * (double)GOVERNOR_FLOOR_NS;
}

/* Everything is attached. False: it cannot stay so. */
static bool stay(struct governor *g, uint64_t may, uint64_t part, struct governor_order *ret)
{
	uint64_t tail = tail_ns(g, GOVERNOR_EVERYTHING);
	double cost = governor_cost(g, GOVERNOR_EVERYTHING);
	bool fits = (cost >= 0 && cost <= (g->window ? FITS_AGAIN : FITS) * g->config.share) ||
		    negligible(g, cost);

	if (may <= tail || (!fits && g->since_spent_ns >= part))
		return false;
	*ret = order(g, false, MIN(may - tail, part - MIN(g->since_spent_ns, part)));
	if (!fits)
		return true;
	g->window = false;
	g->misses = 0;
	if (cost < FITS_AGAIN * g->config.share / 2)
		ret->look_ns = LOOK_CALM_NS;
	ret->hits = hits_for(g, MIN(may - tail, news_ns(g, ret->look_ns)));
	if (told(g))
		move_to(g, g->scope); /* rates since the last look */
	return true;
}

static struct governor_order decide(struct governor *g, const struct governor_look *l)
{
	struct governor_order o;
	uint64_t may, tail, part, rest, rested;
	bool due;
	double overdue;

	take_in(g, l);
	if (g->config.share <= 0) {
		move_to(g, GOVERNOR_EVERYTHING);
		g->window = false;
		return (struct governor_order){
			.scope = GOVERNOR_EVERYTHING, .hits = UINT64_MAX, .look_ns = LOOK_NS};
	}
	may = allowance(g, l->wanted);
	part = (uint64_t)(g->config.share * ten_seconds(g, g->used)) / WINDOW_PART;
	part = MIN(MAX(part, GOVERNOR_FLOOR_NS / 2), WINDOW_MAX_NS);

	if (g->scope == GOVERNOR_EVERYTHING) {
		if (stay(g, may, part, &o))
			return o;
		g->window = false;
		g->misses++;
		move_to(g, narrower(g));
	} else if (g->scope != GOVERNOR_NOTHING &&
		   (may <= tail_ns(g, g->scope) ||
			   governor_cost(g, g->scope) > FITS * g->config.share)) {
		move_to(g, GOVERNOR_NOTHING);
	}
	tail = tail_ns(g, GOVERNOR_EVERYTHING);
	/* Long overdue: what was seen is the less true the longer it is ago, a storm may be over. */
	overdue = (double)(g->now_ns - g->since_ns) / (2.0 * (double)MAX(l->rest_ns, SECOND_NS));
	if (g->scope == GOVERNOR_NOTHING && overdue > 1)
		tail = (uint64_t)((double)tail * pow(0.5, overdue));
	rest = MIN(l->rest_ns, 2 * SECOND_NS << MIN(g->misses, 8u)); /* sooner, at first */
	rested = g->now_ns - g->since_ns;
	due = (l->wanted || rested >= rest) && may >= tail + USEFUL_NS;
	if (due && (l->wanted || l->turn)) {
		g->settled = g->scope;
		move_to(g, GOVERNOR_EVERYTHING);
		g->window = true;
		g->windows++;
		return order(g, true, MIN(may - tail, part));
	}
	if (g->scope != GOVERNOR_NOTHING && told(g)) { /* rates since the last look */
		uint64_t since_ns = g->since_ns;

		move_to(g, g->scope);
		g->since_ns = since_ns;
	}
	tail = tail_ns(g, g->scope);
	o = order(g, false, MIN(may > tail ? may - tail : 1, news_ns(g, LOOK_NS)));
	o.waits = due;
	/* Nothing can happen for long; then what it used last is to be known well. */
	if (g->scope == GOVERNOR_NOTHING && rest > rested + GOVERNOR_SLICES * SLICE_NS)
		o.look_ns = LOOK_CALM_NS;
	return o;
}

struct governor_order governor_decide(struct governor *g, const struct governor_look *l)
{
	struct governor_order o = decide(g, l);

	g->look_ns = o.look_ns;
	return o;
}

char *governor_reason(const struct governor *g, char *buf, size_t n)
{
	static const char *const rest[] = {
		"all are counted in short windows",
		"births of instances are counted all the time, all others in short windows",
		"births are counted all the time, deaths in short windows",
	};
	double all = governor_cost(g, GOVERNOR_EVERYTHING);
	enum governor_scope scope = g->window ? g->settled : g->scope;
	char cost[64];

	if (all >= 1)
		snprintf(cost, sizeof(cost), "more CPU time than it uses itself");
	else
		snprintf(cost, sizeof(cost), "%.3g %% of its CPU time", all * 100);
	if (g->config.share <= 0)
		snprintf(buf, n, "every birth and death is counted, budget.cpu is unlimited");
	else if (scope == GOVERNOR_EVERYTHING)
		snprintf(buf, n, "every birth and death is counted, within budget.cpu (%.3g %%)",
			g->config.share * 100);
	else if (all < 0)
		snprintf(buf, n,
			"what it would cost to count every birth and death is not known yet: %s",
			rest[scope]);
	else
		snprintf(buf, n,
			"to count every birth and death would cost %s, budget.cpu is %.3g %%: %s",
			cost, g->config.share * 100, rest[scope]);
	return buf;
}
