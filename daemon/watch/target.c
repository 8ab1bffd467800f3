/* SPDX-License-Identifier: MIT */
#include <string.h>
#include <sys/syscall.h>

#include "daemon/util/log.h"
#include "daemon/util/units.h"
#include "daemon/watch/target_private.h"

#define CENSUS_MAX_MS         (10 * 60 * 1000LL) /* a census that takes longer is given up */
#define ESTIMATE_OBJECTS      64ULL      /* an estimate's numbers may be off so far, or 2 % */
#define FRESH_MS              10000LL    /* a reading that answers who waits */
#define ASKED_REST            9          /* times what that took, until the next one: a tenth of a CPU */
#define ASKED_MAX_NS          UINT64_C(30000000000)
#define IDLE_US               2000000ULL /* no hit for so long: read the rings from outside */
#define OUTSIDE_OBJECTS_MAX   2000000ULL
#define OUTSIDE_TRIES         3
#define WALK_OBJECTS_MAX      50000ULL /* that nobody waits for: others must not wait for it either */
#define PATIENCE_NS           UINT64_C(15000000000) /* it is looked at every five seconds at the least */
#define WALK_RETRY_NS         UINT64_C(600000000000)
#define CENSUS_OLD            13 /* growth.intervals: two windows have passed without one */
#define TOO_LARGE_RETRY_FIRST (10 * 60 * 1000LL) /* ms; doubled each time, up to a day */
#define TOO_LARGE_RETRY_MAX   (24 * 3600 * 1000LL)

/* ---- samples ------------------------------------------------------------------------------- */

static void answer(struct waiter *w, bool ok)
{
	while (w) {
		struct waiter *next = w->next;

		w->f(w->arg, ok);
		free(w);
		w = next;
	}
}

static void answer_waiters(struct target *t, bool ok)
{
	answer(TAKE_PTR(t->waiters), ok);
}

/* What the load shows in, outside of the heap; needs the time of the sample before. */
static void take_gauges(struct target *t, int64_t at_ms)
{
	struct track_gauges g = {.value = {[TRACK_THREADS] = t->info.threads, [TRACK_FILES] = t->info.files},
		.counted = target_budget_all_since(t, t->sampled_ms)};

	track_gauges(t->track, at_ms, &g);
	record_gauges(t->o.record, t->recorded, &g);
}

static void type_rates(struct target *t, struct target_type *ty, int64_t at_ms)
{
	bool all = target_budget_all_since(t, ty->rate_ms);
	bool births_all = target_budget_births_since(t, ty, ty->rate_ms);
	uint64_t births, deaths;

	/* The side that is not seen is known from census to census only. */
	if (all && law_blind(&ty->law) != LAW_SEES_BOTH && !at_census(t))
		return;
	target_type_flow(ty, &births, &deaths);
	if (ty->rate_ms && at_ms > ty->rate_ms) {
		double secs = (double)(at_ms - ty->rate_ms) / 1000;

		ty->birth_rate = (double)(births - ty->rate_births) / secs;
		ty->death_rate = (double)(deaths - ty->rate_deaths) / secs;
		ty->birth_bound = ty->death_bound = 0;
		if (!births_all)
			ty->birth_rate = target_budget_rate(t, ty, false, &ty->birth_bound);
		if (!all)
			ty->death_rate = target_budget_rate(t, ty, true, &ty->death_bound);
	}
	ty->rate_births = births;
	ty->rate_deaths = deaths;
	ty->rate_ms = at_ms;
}

/* Puts what is known now into the series. */
static void take_levels(struct target *t, int64_t at_ms)
{
	take_gauges(t, at_ms);
	t->sampled_ms = at_ms;
	for (size_t i = 0; i < t->n_types; i++) {
		struct target_type *ty = t->types[i];
		struct track_point p = {.at_ms = at_ms};

		if (!ty->track)
			continue;
		target_type_flow(ty, &p.births, &p.deaths);
		p.count = target_type_level(t, ty, &p.bound);
		/* Births less deaths say nothing where they are seen in windows only, nor where most go by free
		 * lists or in specialised instructions: such a type begins with the first reading. */
		if (p.count == TRACK_UNKNOWN && (!target_counts_all(t) || target_type_in_blocks(ty)))
			continue;
		track_sample(t->track, ty->track, &p);
		record_point(t->o.record, t->recorded, ty->serial, ty->info.name, target_type_judged(ty), &p);
	}
	record_sample(t->o.record, t->recorded, at_ms);
}

static void take_sample(struct target *t, int64_t at_ms, bool levels)
{
	t->looked_ms = at_ms;
	target_budget_sampled(t);
	proc_info_update(&t->info);
	if (levels)
		take_levels(t, at_ms);
	for (size_t i = 0; i < t->n_types; i++)
		type_rates(t, t->types[i], at_ms);
	target_kept_sampled(t);
	if (t->o.on_sample)
		t->o.on_sample(t, t->o.userdata);
}

static void end_sample(struct target *t)
{
	t->armed = false;
	sd_event_source_set_enabled(t->idle, SD_EVENT_OFF);
}

static void sample_without_census(struct target *t)
{
	/* Where nothing is counted on from the last census or reading, the levels are still theirs. */
	bool all = target_counts_all(t);

	end_sample(t);
	if (read_counters(t) == 0)
		take_sample(t, now_realtime_ms(), all || !t->sampled_ms);
	answer_waiters(t, !all && t->waiters && now_realtime_ms() - t->blocks.all_ms < FRESH_MS);
}

uint64_t target_patience_ns(const struct target *t)
{
	return MAX(3 * t->o.config->growth_interval_ns, PATIENCE_NS);
}

bool target_census_is_recent(const struct target *t)
{
	int64_t age_ms = now_realtime_ms() - t->census.at_ms;

	return t->census.state == TARGET_CENSUS_OK &&
	       age_ms <= (int64_t)(CENSUS_OLD * t->o.config->growth_interval_ns / 1000000);
}

void target_census_left_out(struct target *t)
{
	if (t->census.state == TARGET_CENSUS_NO_RINGS || target_census_is_recent(t))
		return;
	t->census.state = TARGET_CENSUS_MISSED;
	snprintf(t->census.reason, sizeof(t->census.reason),
		"no census: to walk its heap would cost more than budget.cpu allows at a time; "
		"levels are estimates, read from its memory");
}

void target_census_cut_short(struct target *t)
{
	target_budget_cut_short(t);
	target_census_left_out(t);
	sample_without_census(t);
}

static const char *fault_text(int fault)
{
	switch (fault) {
	case -ESTALE:
		return "its two passes contradict each other";
	case -ENOSPC:
		return "there was no room for the counters of a type, or a type could not be read";
	case -EMLINK:
		return "the process has begun another interpreter";
	default:
		return strerror(-fault);
	}
}

static void no_census_reason(struct target *t, const struct census_result *r)
{
	char *to = t->census.reason, pause[32];
	size_t n = sizeof(t->census.reason), at;

	format_duration(pause, sizeof(pause), t->o.config->budget_pause_ns);
	if (r->status == CENSUS_TOO_LARGE) {
		snprintf(to, n,
			"no census: the heap is too large for one walk within budget.pause (%s), "
			"and in this build the collector's work cannot be seen between two; a dump "
			"gives the levels",
			pause);
		return;
	}
	at = (size_t)snprintf(to, n,
		"no census: the heap is too large for one walk within budget.pause (%s), and walks "
		"in steps were cut short",
		pause);
	for (unsigned i = 0; i < CENSUS_REASONS && at < n; i++)
		if (r->restarts[i])
			at += (size_t)snprintf(
				to + at, n - at, " %u x by %s,", r->restarts[i], census_reason(i));
	if (at < n)
		snprintf(to + at, n - at, " a dump gives the levels");
}

/* It says little of what counting has not told already, and the next one may say more. */
static bool too_wide(struct target *t, const struct census_result *r)
{
	uint64_t width = 0;

	if (r->way != CENSUS_STEPWISE || !target_counts_all(t) || t->tries + 1 >= CENSUS_TRIES)
		return false;
	if (r->estimate && t->estimated)
		return false; /* its young rings are always that large */
	for (size_t i = 0; i < r->n_types; i++) {
		const struct census_type *k = &r->types[i];
		const struct target_type *ty = type_find(t, k->type);
		uint64_t w = k->live_max - k->live_min;

		width += ty && ty->always_tracked ? MIN(w, law_width(&ty->law)) : w;
	}
	if (!r->estimate && (double)width <= CENSUS_WIDE * (double)r->objects)
		return false;
	t->tries++;
	t->census.restarts[CENSUS_TOO_WIDE]++;
	return true;
}

static void on_census(struct probe_target *pt, const struct census_result *r, void *userdata)
{
	struct target *t = userdata;
	struct target_census *c = &t->census;
	bool outside = r->way == CENSUS_OUTSIDE;
	int64_t due_ms = t->tries ? t->due_ms : 0;

	end_sample(t);
	if (r->status == CENSUS_OK)
		t->budget.census_cost_ns = r->cost_ns / (r->way == CENSUS_STEPWISE ? 2 : 1);
	c->pause_ns_max = MAX(c->pause_ns_max, r->pause_ns);
	for (unsigned i = 0; i < CENSUS_REASONS; i++)
		c->restarts[i] += r->restarts[i];
	/* One step costs less than the sample around it; what many cost is saved up first. */
	t->due_ms = 0;
	if (r->way == CENSUS_STEPWISE && t->o.config->budget_cpu > 0)
		t->due_ms = MAX(due_ms, now_realtime_ms()) +
			    (int64_t)((double)r->cost_ns / 1e6 / t->o.config->budget_cpu);
	if (r->status == CENSUS_TOO_LARGE && !target_counts_all(t)) {
		target_budget_cut_short(t); /* it was one step or nothing */
		target_census_left_out(t);
	} else if (r->status == CENSUS_TOO_LARGE || r->status == CENSUS_RESTARTS) {
		t->retry_delay_ms = t->retry_delay_ms
					    ? MIN(2 * t->retry_delay_ms, TOO_LARGE_RETRY_MAX)
					    : TOO_LARGE_RETRY_FIRST;
		t->retry_ms = r->at_ms + t->retry_delay_ms;
		c->state = TARGET_CENSUS_TOO_LARGE;
		no_census_reason(t, r);
		log_info("pid %d: %s", t->info.id.pid, c->reason);
	} else if (r->status != CENSUS_OK) {
		c->state = TARGET_CENSUS_MISSED;
		snprintf(c->reason, sizeof(c->reason),
			"the last census was discarded: %s; the next one is due with the next sample",
			fault_text(r->fault));
	}
	if (r->status != CENSUS_OK) {
		t->tries = 0;
		sample_without_census(t);
		return;
	}
	if (too_wide(t, r) && target_start_census(t))
		return;
	t->tries = 0;
	t->estimated = r->estimate;
	if (read_counters(t)) {
		answer_waiters(t, false);
		return;
	}
	t->censuses++;
	c->width = 0;
	for (size_t i = 0; i < r->n_types; i++) {
		const struct census_type *k = &r->types[i];
		struct target_type *ty = type_find(t, k->type);
		uint64_t doubt = r->estimate ? MAX(k->live_max / 50, ESTIMATE_OBJECTS) : 0;
		uint64_t min = k->live_min > doubt ? k->live_min - doubt : 0;
		uint64_t max = k->live_max + doubt;

		if (!ty)
			ty = type_new(t, k->type);
		if (!ty)
			continue;
		type_name(t, ty);
		/* Not in the ones before: there was nothing of it then. */
		if (!ty->census && t->censuses > 1)
			type_census(ty, 0, 0, 0, 0);
		type_census_found(ty, min, max, k);
		c->width += 2 * ty->live_bound;
		ty->census_serial = t->censuses;
	}
	/* Not in this census: none was alive then, as far as it can tell, and none was ever counted until
	 * then; what was born since comes with the next one. */
	for (size_t i = 0; i < t->n_types; i++) {
		struct target_type *ty = t->types[i];

		if (ty->census_serial == t->censuses)
			continue;
		if (!ty->census && t->censuses > 1)
			type_census(ty, 0, 0, 0, 0);
		type_census(ty, 0, r->estimate ? law_unseen(&ty->law, ESTIMATE_OBJECTS) : 0,
			outside ? ty->births : ty->law.births, outside ? ty->deaths : ty->law.deaths);
	}
	types_close(t);
	t->retry_delay_ms = 0;
	c->state = TARGET_CENSUS_OK;
	c->reason[0] = 0;
	c->at_ms = r->at_ms;
	c->objects = r->objects;
	c->way = r->way;
	c->steps = r->steps;
	c->estimate = r->estimate;
	/* Samples from counters may have been taken since its instant. */
	take_sample(t, r->at_ms >= t->sampled_ms ? r->at_ms : now_realtime_ms(), true);
	/* What was lost since the last reading may have been after the census's instant. */
	if (probe_target_scope(t->pt) != PROBE_EVERYTHING || t->totals.gap)
		types_gap(t);
	answer_waiters(t, true);
}

/* Not a nanosecond has it run since its rings were read, and no hit has come: they are as they were. */
static bool stands_still(const struct target *t)
{
	return t->still.known && t->census.state == TARGET_CENSUS_OK && t->census.way == CENSUS_OUTSIDE &&
	       t->still.hits == target_hits(t) && t->still.cpu_ns == target_budget_cpu_ns(t);
}

/* The last census is right now as well. */
static void census_again(struct target *t)
{
	t->census.at_ms = now_realtime_ms();
	take_sample(t, t->census.at_ms, true);
	answer_waiters(t, true);
}

static int walk(struct target *t, uint64_t objects_max, int tries)
{
	uint64_t cpu_ns = target_budget_cpu_ns(t), hits = target_hits(t);
	int r = probe_census_outside(t->pt, objects_max, tries);

	t->still.tried = true;
	t->still.known = r == 0;
	t->still.cpu_ns = cpu_ns;
	t->still.hits = hits;
	return r;
}

static void walked(struct target *t, uint64_t began_ns, bool asked)
{
	uint64_t now = now_monotonic_ns();

	pace_turn_end(&t->o.turns->walks, &t->walk_turn);
	if (asked)
		target_asked_took(t, now - began_ns);
	else
		pace_spend(&t->o.turns->walks, now, now - began_ns);
}

static void census_outside(struct target *t)
{
	uint64_t began = now_monotonic_ns();
	bool asked = t->waiters;
	int r;

	if (stands_still(t)) {
		census_again(t);
		return;
	}
	/* Others must not wait for it, unless somebody waits for this one; and nothing is known before the first. */
	if (!asked && t->still.tried &&
		!pace_turn_come(&t->o.turns->walks, &t->walk_turn, began, target_patience_ns(t))) {
		sample_without_census(t);
		return;
	}
	r = walk(t, OUTSIDE_OBJECTS_MAX, OUTSIDE_TRIES);
	walked(t, began, asked);
	if (r == 0)
		return;                                   /* on_census has run */
	if (t->census.state == TARGET_CENSUS_TOO_LARGE) { /* its reason stands */
		sample_without_census(t);
		return;
	}
	t->census.state = TARGET_CENSUS_MISSED;
	snprintf(t->census.reason, sizeof(t->census.reason),
		r == -E2BIG ? "the heap of this idle process has more than %llu objects, too many "
			      "to read from "
			      "outside; a dump gives the levels"
		: r == -ENODATA
			? "part of the memory of this idle process is swapped out, and reading it would bring it "
			  "back; a dump gives the levels"
			: "the heap would not hold still while it was read from outside",
		(unsigned long long)OUTSIDE_OBJECTS_MAX);
	sample_without_census(t);
}

static uint64_t idle_wait(const struct target *t)
{
	return MIN(IDLE_US, t->o.config->growth_interval_ns / 2000);
}

static int on_idle(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct target *t = userdata;
	unsigned steps;

	if (!t->armed)
		return 0;
	steps = probe_census_steps(t->pt);
	if (steps > t->steps && now_realtime_ms() < t->armed_ms + CENSUS_MAX_MS) {
		t->steps = steps;
		sd_event_source_set_time_relative(t->idle, idle_wait(t));
		sd_event_source_set_enabled(t->idle, SD_EVENT_ONESHOT);
		return 0;
	}
	probe_census_cancel(t->pt);
	t->armed = false;
	census_outside(t);
	return 0;
}

/* Of one that mostly waits, levels can be had from outside, between two of its requests. */
static bool walk_from_outside(struct target *t)
{
	struct pace *p = &t->o.turns->walks;
	uint64_t began = now_monotonic_ns();
	bool asked = t->waiters && target_budget_idle(t);
	int r;

	if (!asked &&
		(began < t->walk_ns || !target_budget_waits(t) ||
			!pace_turn_come(p, &t->walk_turn, began, target_patience_ns(t))))
		return false;
	r = walk(t, asked ? OUTSIDE_OBJECTS_MAX : WALK_OBJECTS_MAX, asked ? OUTSIDE_TRIES : 1);
	walked(t, began, asked);
	if (r == -E2BIG || r == -ENODATA)
		t->walk_ns = began + WALK_RETRY_NS;
	return r == 0;
}

/* A census when the next window opens, at once if somebody waits for it, or in a single hit of those
 * sites that are attached all the time. */
static void start_sample_in_windows(struct target *t)
{
	bool none = probe_target_scope(t->pt) == PROBE_NOTHING;

	if (!t->armed && walk_from_outside(t))
		return; /* on_census() has run */
	if (t->waiters)
		target_budget_look(t);
	if (!t->armed && (none || t->waiters || now_realtime_ms() < t->budget.given_up_ms ||
				 !target_start_census(t)))
		sample_without_census(t);
}

static void start_sample(struct target *t)
{
	int64_t now = now_realtime_ms();

	if (t->armed)
		return;
	if (t->census.state == TARGET_CENSUS_NO_RINGS) {
		sample_without_census(t);
		return;
	}
	if (!target_counts_all(t)) {
		start_sample_in_windows(t);
		return;
	}
	if (t->census.state == TARGET_CENSUS_TOO_LARGE && now < t->retry_ms) {
		uint64_t before = t->prev_hits;

		if (read_counters(t) == 0 && t->totals.hits == before)
			census_outside(t); /* idle: costs the target nothing */
		else
			sample_without_census(t);
		t->prev_hits = t->totals.hits;
		return;
	}
	if ((now < t->due_ms && !t->waiters) || !target_start_census(t))
		sample_without_census(t);
}

bool target_start_census(struct target *t)
{
	if (t->armed || t->census.state == TARGET_CENSUS_NO_RINGS ||
		probe_census_arm(t->pt, t->o.config->budget_pause_ns))
		return false;
	t->armed = true;
	t->armed_ms = now_realtime_ms();
	t->steps = 0;
	sd_event_source_set_time_relative(t->idle, idle_wait(t));
	sd_event_source_set_enabled(t->idle, SD_EVENT_ONESHOT);
	return true;
}

void target_asked_took(struct target *t, uint64_t took_ns)
{
	uint64_t now = now_monotonic_ns();

	t->asked_ns = MIN(MAX(t->asked_ns, now) + took_ns * ASKED_REST, now + ASKED_MAX_NS);
}

/* For those who wait, as soon as what they asked for before has been made up for. */
static void refresh_start(struct target *t)
{
	if (now_monotonic_ns() < t->asked_ns) {
		sd_event_source_set_time(t->refresh, t->asked_ns / 1000 + 1);
		sd_event_source_set_enabled(t->refresh, SD_EVENT_ONESHOT);
		return;
	}
	target_budget_asked(t);
	if (target_blocks_start(t))
		target_blocks_done(t);
}

static int on_refresh(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct target *t = userdata;

	if (t->readers && !t->blocks.running)
		refresh_start(t);
	return 0;
}

void target_refresh(struct target *t, void (*f)(void *arg, bool ok), void *arg)
{
	struct waiter **to = t->blocks.running ? &t->late : &t->readers;
	struct waiter *w = calloc(1, sizeof(*w));

	if (!w) {
		f(arg, false);
		return;
	}
	*w = (struct waiter){*to, f, arg};
	*to = w;
	if (!t->blocks.running)
		refresh_start(t);
}

void target_blocks_done(struct target *t)
{
	struct waiter **last = &t->waiters;

	if (!target_counts_all(t) && t->blocks.all_ms > t->sampled_ms)
		take_sample(t, t->blocks.all_ms, true);
	if (t->read_again) {
		t->read_again = false;
		if (target_blocks_start(t) == 0)
			return;
	}
	if (t->readers) {
		while (*last)
			last = &(*last)->next;
		*last = TAKE_PTR(t->readers);
		start_sample(t);
	}
	if (t->late) {
		t->readers = TAKE_PTR(t->late);
		refresh_start(t);
	}
}

static void waiters_forget(struct waiter **p, const void *arg)
{
	while (*p) {
		struct waiter *w = *p;

		if (w->arg == arg) {
			*p = w->next;
			free(w);
		} else {
			p = &w->next;
		}
	}
}

void target_refresh_forget(struct target *t, void *arg)
{
	waiters_forget(&t->waiters, arg);
	waiters_forget(&t->readers, arg);
	waiters_forget(&t->late, arg);
}

/* ---- life ---------------------------------------------------------------------------------- */

/* Field 28 of /proc/PID/stat: where the main stack began. Another one after an exec. */
static uint64_t start_stack(pid_t pid)
{
	char path[64], buf[1024], *p;
	_cleanup_fclose_ FILE *f = NULL;
	size_t n;

	snprintf(path, sizeof(path), "%s/%d/stat", proc_root(), pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	n = fread(buf, 1, sizeof(buf) - 1, f);
	buf[n] = 0;
	p = strrchr(buf, ')');
	for (int field = 2; p && field < 28; field++)
		p = strchr(p + 1, ' ');
	return p ? strtoull(p, NULL, 10) : 0;
}

static int on_tick(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct target *t = userdata;

	sd_event_source_set_time_relative(s, t->o.config->growth_interval_ns / 1000);
	sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
	if (start_stack(t->info.id.pid) != t->start_stack) {
		t->ended = true;
		t->o.on_gone(t, "it executed another program", t->o.userdata);
		return 0;
	}
	if (target_blocks_due(t))
		target_blocks_start(t);
	if (t->armed && probe_census_steps(t->pt) > 1) {
		if (read_counters(t) == 0) /* steps are on their way */
			take_sample(t, now_realtime_ms(), true);
		return 0;
	}
	start_sample(t);
	return 0;
}

static int on_exit_fd(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	struct target *t = userdata;

	t->ended = true;
	t->o.on_gone(t, "it ended", t->o.userdata);
	return 0;
}

static void on_limit(struct probe_target *pt, void *userdata)
{
	target_budget_look(userdata);
}

static struct track_config growth_of(const struct config *c)
{
	return (struct track_config){
		.interval_ms = c->growth_interval_ns / 1000000,
		.warmup_ms = c->growth_warmup_ns / 1000000,
		.window_ms = c->growth_window_ns / 1000000,
		.min_objects = c->growth_min_objects,
	};
}

static void name_service(struct target *t)
{
	const struct proc_info *p = &t->info;

	if (p->unit[0])
		snprintf(t->service, sizeof(t->service), "%s", p->unit);
	else
		snprintf(t->service, sizeof(t->service), "%.100s %.150s", p->exe, p->cmdline);
}

int target_open(pid_t pid, const struct target_options *o, struct target **ret, struct err *err)
{
	struct probe_target_options po = {.on_census = on_census, .on_limit = on_limit};
	struct track_config tc;
	struct target *t;
	int r;

	t = calloc(1, sizeof(*t));
	if (!t)
		return err_set(err, -ENOMEM, "out of memory");
	t->o = *o;
	t->pidfd = -1;
	po.userdata = t;
	r = python_open(pid, &t->py, err);
	if (r)
		goto fail;
	r = proc_info_get(pid, &t->info, err);
	if (r)
		goto fail;
	t->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (t->pidfd < 0) {
		r = err_set(err, -errno, "pid %d: pidfd_open: %m", pid);
		goto fail;
	}
	t->start_stack = start_stack(pid);
	name_service(t);
	target_kept_load(t);
	tc = growth_of(o->config);
	r = track_new(&tc, (int64_t)t->info.start_realtime_ms, &t->track);
	if (r) {
		err_set(err, r, "out of memory");
		goto fail;
	}
	r = probe_attach(o->probe, t->py, &po, &t->pt, err);
	if (r)
		goto fail;
	probe_target_describe(t->pt, t->sites, sizeof(t->sites));
	target_blocks_init(t);
	if (probe_census_arm(t->pt, o->config->budget_pause_ns) == -EPROTO) {
		struct python_rings rings;
		struct err why = {""};

		t->census.state = TARGET_CENSUS_NO_RINGS;
		if (python_find_rings(t->py, &rings, &why) == 0)
			err_set(&why, -EPROTO,
				"it has %d interpreters, and only one of them could be walked",
				t->py->interpreters);
		snprintf(t->census.reason, sizeof(t->census.reason), "no census: %.200s", why.msg);
	} else {
		probe_census_cancel(t->pt);
		snprintf(t->census.reason, sizeof(t->census.reason),
			"the first census is on its way");
	}
	r = sd_event_add_time_relative(
		o->event, &t->idle, CLOCK_MONOTONIC, UINT64_MAX / 4, 20000, on_idle, t);
	if (r >= 0)
		r = sd_event_source_set_enabled(t->idle, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_add_time_relative(
			o->event, &t->refresh, CLOCK_MONOTONIC, UINT64_MAX / 4, 5000, on_refresh, t);
	if (r >= 0)
		r = sd_event_source_set_enabled(t->refresh, SD_EVENT_OFF);
	if (r >= 0)
		r = target_budget_init(t);
	if (r >= 0)
		r = sd_event_add_time_relative(
			o->event, &t->tick, CLOCK_MONOTONIC, 0, 20000, on_tick, t);
	if (r >= 0)
		r = sd_event_add_io(o->event, &t->exit_source, t->pidfd, EPOLLIN, on_exit_fd, t);
	if (r < 0) {
		err_set(err, r, "event loop: %s", strerror(-r));
		goto fail;
	}
	record_config(o->record, &tc);
	t->recorded = record_target(o->record, pid, (int64_t)t->info.start_realtime_ms, t->service);
	*ret = t;
	return 0;
fail:
	target_free(t);
	return r;
}

void target_free(struct target *t)
{
	if (!t)
		return;
	target_kept_end(t);
	record_target_gone(t->o.record, t->recorded);
	reader_forget(t->o.reader, t);
	t->o.turns->reading -= t->blocks.running && !t->blocks.asked;
	target_budget_release(t);
	pace_turn_end(&t->o.turns->walks, &t->walk_turn);
	pace_turn_end(&t->o.turns->readings, &t->blocks.turn);
	answer_waiters(t, false);
	answer(TAKE_PTR(t->readers), false);
	answer(TAKE_PTR(t->late), false);
	sd_event_source_disable_unref(t->tick);
	sd_event_source_disable_unref(t->idle);
	sd_event_source_disable_unref(t->refresh);
	sd_event_source_disable_unref(t->exit_source);
	probe_target_free(t->pt);
	types_release(t);
	track_free(t->track);
	python_free(t->py);
	closep(&t->pidfd);
	free(t);
}

void target_configure(struct target *t, const struct config *c)
{
	struct track_config tc = growth_of(c);

	if (t->o.config->budget_pause_ns < c->budget_pause_ns)
		t->retry_ms = 0; /* a longer pause is allowed now: try at once */
	t->o.config = c;
	track_configure(t->track, &tc);
	record_config(t->o.record, &tc);
	target_budget_configure(t);
}

const struct proc_info *target_info(const struct target *t)
{
	return &t->info;
}

const struct python *target_python(const struct target *t)
{
	return t->py;
}

struct track *target_track(const struct target *t)
{
	return t->track;
}

const struct target_census *target_census(const struct target *t)
{
	return &t->census;
}

const char *target_blocks_reason(const struct target *t)
{
	return t->blocks.reason;
}

const struct config *target_config(const struct target *t)
{
	return t->o.config;
}

const char *target_service(const struct target *t)
{
	return t->service;
}

const char *target_sites(const struct target *t)
{
	return t->sites;
}

int64_t target_sampled_ms(const struct target *t)
{
	return t->sampled_ms;
}

int64_t target_window_ms(const struct target *t)
{
	return (int64_t)(t->o.config->growth_window_ns / 1000000);
}

int64_t target_looked_ms(const struct target *t)
{
	return t->looked_ms;
}

uint64_t target_dropped(const struct target *t)
{
	return t->totals.dropped + t->dropped_types;
}

const struct probe_totals *target_totals(const struct target *t)
{
	return &t->totals;
}

uint64_t target_rss_bytes(const struct target *t)
{
	return t->info.rss_bytes;
}

size_t target_type_count(const struct target *t)
{
	return t->n_types;
}

const struct target_type *target_type_at(const struct target *t, size_t i)
{
	return i < t->n_types ? t->types[i] : NULL;
}
