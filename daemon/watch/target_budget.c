/* SPDX-License-Identifier: MIT */
/*
 * What is attached to a target, and when: carries out what the governor decides (daemon/budget), and
 * keeps apart what was counted all the time and what was seen in windows only.
 */
#include <math.h>
#include <string.h>
#include <time.h>

#include "daemon/util/log.h"
#include "daemon/util/units.h"
#include "daemon/watch/target_private.h"

#define MOVE_NS        UINT64_C(300000) /* of the target's time, beside hits: bench/overhead */
/* Until the last breakpoint is gone, the daemon's waking up included: docs/probe.md. Perf uprobes go one by
 * one, each after a wait of the kernel's: a storm has no windows then. */
#define LET_GO_NS      UINT64_C(15000000)
#define LET_GO_PERF_NS UINT64_C(2500000000)
/* So many growth.intervals between two windows. What a target does in one of some ten milliseconds takes
 * longer: with the default of 10 s those are fewer than one request in a thousand. */
#define WINDOW_INTERVALS 6
#define NODE_NS        50               /* what a census takes for an object until that is known */
#define GIVEN_UP_MS    (10 * 60 * 1000LL)
#define VALIDATE_NS    UINT64_C(10000000000)
#define FADE           0.9 /* of what older windows saw, from one to the next */
#define WINDOWS_FEW    3
#define WAITS          0.25 /* of a CPU at most, or it hardly ever stands still for long enough */
#define COST_DOUBT     0.25 /* of what hits are said to have cost */
#define COST_SHARE_MAX 5.0 /* times what the target used for itself: nothing can be told of that */

_Static_assert((int)GOVERNOR_NOTHING == (int)PROBE_NOTHING &&
		       (int)GOVERNOR_INSTANCES == (int)PROBE_INSTANCES &&
		       (int)GOVERNOR_BIRTHS == (int)PROBE_BIRTHS &&
		       (int)GOVERNOR_EVERYTHING == (int)PROBE_EVERYTHING &&
		       (int)GOVERNOR_GROUPS == (int)PROBE_GROUPS,
	"the governor decides on what probes do");

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec ts = {0};

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* A process that is about to go may have no clock any more. */
static uint64_t later(uint64_t now, uint64_t then)
{
	return now > then ? now - then : 0;
}

/* ---- what was seen ------------------------------------------------------------------------- */

/* From here on everything is counted. */
static void seen_begin(struct target *t)
{
	struct target_budget *b = &t->budget;

	for (size_t i = 0; i < t->n_types; i++) {
		t->types[i]->seen.births = t->types[i]->births;
		t->types[i]->seen.deaths = t->types[i]->deaths;
	}
	b->seen_since_ns = now_monotonic_ns();
	b->seen_cpu_ns = clock_ns(b->cpu_clock);
	b->seen_spent_ns = probe_target_spent_ns(t->pt);
}

static void fade(struct target_seen *s)
{
	s->n[0] *= FADE;
	s->n[1] *= FADE;
	for (int k = 0; k < 2; k++) {
		s->nn[k] *= FADE * FADE;
		s->nc[k] *= FADE * FADE;
	}
}

/* A window has ended; what was counted in it becomes part of the rates. */
static void seen_end(struct target *t)
{
	struct target_budget *b = &t->budget;
	uint64_t now = now_monotonic_ns(), cpu = later(clock_ns(b->cpu_clock), b->seen_cpu_ns);
	uint64_t spent = later(probe_target_spent_ns(t->pt), b->seen_spent_ns);
	double own = (double)later(cpu, spent) / 1e9;

	b->seen_ns += now - b->seen_since_ns;
	b->seen_since_ns = 0;
	b->windows++;
	b->own *= FADE;
	b->own_cost *= FADE;
	b->own_squares *= FADE * FADE;
	b->own += own;
	b->own_cost += (double)spent / 1e9;
	b->own_squares += own * own;
	for (size_t i = 0; i < t->n_types; i++) {
		struct target_type *ty = t->types[i];
		double n[2] = {(double)(ty->births - MIN(ty->seen.births, ty->births)),
			(double)(ty->deaths - MIN(ty->seen.deaths, ty->deaths))};

		fade(&ty->seen);
		for (int k = 0; k < 2; k++) {
			ty->seen.n[k] += n[k];
			ty->seen.nn[k] += n[k] * n[k];
			ty->seen.nc[k] += n[k] * own;
		}
	}
}

/*
 * A ratio estimate: what was seen per CPU second that the target used for itself, times those per
 * second now. Two standard errors, from how much the windows differ (no better than the count of what
 * was seen); and what hits cost is known to COST_DOUBT only, so what the target used for itself
 * is not known better either.
 */
double target_budget_rate(
	const struct target *t, const struct target_type *ty, bool deaths, double *ret_bound)
{
	const struct target_budget *b = &t->budget;
	const struct target_seen *s = &ty->seen;
	double rate, var, doubt;

	*ret_bound = -1;
	if (b->windows < WINDOWS_FEW || b->own <= 0 || b->own_cost > COST_SHARE_MAX * b->own || b->own_rate < 0)
		return -1;
	rate = s->n[deaths] / b->own;
	var = s->nn[deaths] - 2 * rate * s->nc[deaths] + rate * rate * b->own_squares;
	var = MAX(var, s->n[deaths] + 1) / (b->own * b->own);
	doubt = rate * COST_DOUBT * b->own_cost / b->own;
	*ret_bound = (2 * sqrt(var) + doubt) * b->own_rate;
	return rate * b->own_rate;
}

double target_observed_share(const struct target *t)
{
	const struct target_budget *b = &t->budget;
	uint64_t now = now_monotonic_ns(), all = now - b->began_ns;
	uint64_t seen = b->seen_ns + (b->seen_since_ns ? now - b->seen_since_ns : 0);

	return all ? MIN((double)seen / (double)all, 1.0) : 1;
}

bool target_counts_all(const struct target *t)
{
	return probe_target_scope(t->pt) == PROBE_EVERYTHING && !t->budget.g.window;
}

bool target_budget_births_since(const struct target *t, const struct target_type *ty, int64_t ms)
{
	const struct target_budget *b = &t->budget;
	int64_t since = b->births_since_ms;

	/* Of a class that a class statement has made; others may be born elsewhere as well, and nobody
	 * has seen it yet. */
	if (!since && ty->instances && ty->info.heap && ty->law.closed)
		since = b->instances_since_ms;
	return since && since <= ms;
}

bool target_budget_all_since(const struct target *t, int64_t ms)
{
	return t->budget.all_since_ms && t->budget.all_since_ms <= ms;
}

/* ---- moving -------------------------------------------------------------------------------- */

static void since(int64_t *at, bool is)
{
	if (!is)
		*at = 0;
	else if (!*at)
		*at = now_realtime_ms();
}

static void note_scope(struct target *t)
{
	enum probe_scope s = probe_target_scope(t->pt);

	since(&t->budget.instances_since_ms, s >= PROBE_INSTANCES);
	since(&t->budget.births_since_ms, s >= PROBE_BIRTHS);
	since(&t->budget.all_since_ms, s == PROBE_EVERYTHING);
}

static void attach_all(struct target *t, struct err *err)
{
	/* Followed when it is known that they may stay. */
	probe_target_follow(t->pt, false);
	if (probe_target_set_scope(t->pt, PROBE_EVERYTHING, err))
		return;
	if (now_monotonic_ns() - t->budget.validated_ns > VALIDATE_NS) {
		t->budget.validated_ns = now_monotonic_ns();
		types_validate(t);
	}
	read_counters(t);
	seen_begin(t);
}

static void let_go(struct target *t, enum probe_scope s)
{
	bool armed = t->armed && probe_census_out(t->pt);

	/* First of all: until the breakpoints are gone every moment costs. */
	probe_target_set_scope(t->pt, s, NULL);
	read_counters(t);
	seen_end(t);
	types_gap(t);
	if (armed)
		target_census_cut_short(t);
}

/* What a move took of the daemon's own time; what has been let go of is still being taken out. */
static void move_paid(struct target *t, enum probe_scope was, uint64_t took_ns)
{
	if (was == PROBE_EVERYTHING)
		took_ns += probe_let_go_ns(t->o.probe);
	else
		t->budget.for_asker = t->waiters;
	if (t->budget.for_asker)
		target_asked_took(t, took_ns);
	else
		pace_spend(&t->o.turns->windows, now_monotonic_ns(), took_ns);
}

static void move_to(struct target *t, enum probe_scope s)
{
	enum probe_scope was = probe_target_scope(t->pt);
	uint64_t began = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	struct err err = {""};

	if (s == PROBE_EVERYTHING)
		attach_all(t, &err);
	else if (was == PROBE_EVERYTHING)
		let_go(t, s);
	else
		probe_target_set_scope(t->pt, s, &err);
	note_scope(t);
	move_paid(t, was, clock_ns(CLOCK_THREAD_CPUTIME_ID) - began);
	if (err.msg[0] && !t->budget.failed)
		log_warning("pid %d: %s", t->info.id.pid, err.msg);
	t->budget.failed = err.msg[0];
}

static struct governor_look look_now(const struct target *t)
{
	const struct target_budget *b = &t->budget;
	struct governor_look l = {.now_ns = now_monotonic_ns(),
		.cpu_ns = clock_ns(b->cpu_clock),
		.spent_ns = probe_target_spent_ns(t->pt),
		.rest_ns = WINDOW_INTERVALS * t->o.config->growth_interval_ns,
		.wanted = t->waiters != NULL};

	probe_target_hits(t->pt, l.hits);
	return l;
}

/* Everything is attached for a moment in which so much may be spent: is a census possible? */
static void window_opened(struct target *t, uint64_t spend_ns)
{
	uint64_t node_ns = t->census.objects && t->budget.census_cost_ns
				   ? t->budget.census_cost_ns / t->census.objects
				   : NODE_NS;
	uint64_t walk_ns = t->census.objects * MAX(node_ns, (uint64_t)1);

	bool fits = walk_ns <= t->o.config->budget_pause_ns || 2 * walk_ns <= spend_ns / 2;

	if (fits && (now_realtime_ms() >= t->budget.given_up_ms || t->waiters))
		target_start_census(t);
	else
		target_census_left_out(t);
}

void target_budget_asked(struct target *t)
{
	t->budget.asked_cpu_ns = clock_ns(t->budget.cpu_clock);
}

bool target_budget_idle(const struct target *t)
{
	return clock_ns(t->budget.cpu_clock) == t->budget.asked_cpu_ns;
}

uint64_t target_budget_cpu_ns(const struct target *t)
{
	return clock_ns(t->budget.cpu_clock);
}

uint64_t target_budget_own_cpu_ns(const struct target *t)
{
	return later(clock_ns(t->budget.cpu_clock), probe_target_spent_ns(t->pt));
}

bool target_budget_waits(const struct target *t)
{
	return t->budget.own_rate >= 0 && t->budget.own_rate < WAITS;
}

void target_budget_cut_short(struct target *t)
{
	t->budget.given_up_ms = now_realtime_ms() + GIVEN_UP_MS;
}

static void tell(struct target *t)
{
	const struct governor *g = &t->budget.g;
	enum governor_scope told = g->window ? GOVERNOR_NOTHING : g->scope;
	char reason[256];

	/* Windows come and go; and nobody wants to hear of what lasted for seconds only. */
	if (g->window || told == t->budget.told ||
		now_monotonic_ns() - t->budget.told_ns < UINT64_C(60000000000))
		return;
	t->budget.told = told;
	t->budget.told_ns = now_monotonic_ns();
	log_info("pid %d: %s", t->info.id.pid, governor_reason(g, reason, sizeof(reason)));
}

static uint64_t total(const struct governor_look *l)
{
	uint64_t n = 0;

	for (int i = 0; i < GOVERNOR_GROUPS; i++)
		n += l->hits[i];
	return n;
}

static struct governor_order decide(struct target *t, struct governor_look *l)
{
	struct target_budget *b = &t->budget;
	struct pace *p = &t->o.turns->windows;
	struct governor_order o = governor_decide(&b->g, l);

	if (!o.waits) {
		pace_turn_end(p, &b->turn);
	} else if (pace_turn_come(p, &b->turn, l->now_ns, target_patience_ns(t))) {
		l->turn = true;
		o = governor_decide(&b->g, l);
		pace_turn_end(p, &b->turn);
	}
	return o;
}

void target_budget_look(struct target *t)
{
	struct target_budget *b = &t->budget;
	struct governor_look l = look_now(t);
	struct governor_order o = decide(t, &l);

	if ((int)o.scope != (int)probe_target_scope(t->pt)) {
		move_to(t, (enum probe_scope)o.scope);
		l = look_now(t);
		governor_moved(&b->g, &l);
	}
	probe_target_set_limit(t->pt, o.hits == UINT64_MAX ? UINT64_MAX : total(&l) + o.hits);
	sd_event_source_set_time_relative(b->look, o.look_ns / 1000);
	sd_event_source_set_enabled(b->look, SD_EVENT_ONESHOT);
	if (o.window)
		window_opened(t, o.hits * b->g.config.hit_ns);
	if (target_counts_all(t))
		probe_target_follow(t->pt, true);
	tell(t);
}

static int on_look(sd_event_source *s, uint64_t usec, void *userdata)
{
	target_budget_look(userdata);
	return 0;
}

/* ---- life ---------------------------------------------------------------------------------- */

static struct governor_config config_of(const struct target *t)
{
	return (struct governor_config){.share = t->o.config->budget_cpu,
		.hit_ns = probe_cost_ns(t->o.probe, false),
		.move_ns = MOVE_NS,
		.let_go_ns = strcmp(probe_way(t->o.probe), "perf") ? LET_GO_NS : LET_GO_PERF_NS};
}

int target_budget_init(struct target *t)
{
	struct target_budget *b = &t->budget;
	struct governor_config c = config_of(t);
	int r;

	if (clock_getcpuclockid(t->info.id.pid, &b->cpu_clock))
		return -ESRCH;
	governor_init(&b->g, &c);
	b->told = GOVERNOR_EVERYTHING;
	b->began_ns = now_monotonic_ns();
	b->own_rate = -1;
	seen_begin(t);
	note_scope(t);
	r = sd_event_add_time_relative(
		t->o.event, &b->look, CLOCK_MONOTONIC, 0, 5000, on_look, t);
	if (r < 0)
		return r;
	target_budget_look(t);
	return 0;
}

void target_budget_configure(struct target *t)
{
	struct governor_config c = config_of(t);

	governor_configure(&t->budget.g, &c);
	target_budget_look(t);
}

/* How much of a CPU the target uses for itself, over the time between two samples. */
void target_budget_sampled(struct target *t)
{
	struct target_budget *b = &t->budget;
	uint64_t now = now_monotonic_ns(), cpu = clock_ns(b->cpu_clock);
	uint64_t spent = probe_target_spent_ns(t->pt);

	if (b->sampled_ns && now > b->sampled_ns) {
		uint64_t used = later(later(cpu, b->sampled_cpu_ns),
			later(spent, b->sampled_spent_ns));

		b->own_rate = (double)used / (double)(now - b->sampled_ns);
	}
	b->sampled_ns = now;
	b->sampled_cpu_ns = cpu;
	b->sampled_spent_ns = spent;
}

void target_budget_release(struct target *t)
{
	pace_turn_end(&t->o.turns->windows, &t->budget.turn);
	sd_event_source_disable_unref(t->budget.look);
	t->budget.look = NULL;
}

double target_overhead(const struct target *t)
{
	return governor_spending(&t->budget.g);
}

uint64_t target_hits(const struct target *t)
{
	struct governor_look l = {0};

	probe_target_hits(t->pt, l.hits);
	return total(&l);
}

const struct governor *target_governor(const struct target *t)
{
	return &t->budget.g;
}
