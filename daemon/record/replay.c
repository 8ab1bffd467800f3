/* SPDX-License-Identifier: MIT */
#include "daemon/record/replay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/track/cause.h"
#include "daemon/util/macros.h"
#include "daemon/util/u64map.h"

struct run {
	struct replay *r;
	bool changed; /* a verdict, in the sample under way */
	enum track_verdict_kind *was; /* of each type of the target under way, before it */
	size_t cap_was;
};

static void settings_apply(struct replay *r, const struct track_config *c)
{
	const struct replay_settings *s = &r->settings;

	r->config = *c;
	if (s->interval_ms)
		r->config.interval_ms = s->interval_ms;
	if (s->window_ms)
		r->config.window_ms = s->window_ms;
	if (s->min_objects)
		r->config.min_objects = s->min_objects;
	if (s->warmup_ms >= 0)
		r->config.warmup_ms = (uint64_t)s->warmup_ms;
}

static int on_config(void *arg, const struct track_config *c)
{
	struct run *run = arg;

	settings_apply(run->r, c);
	for (unsigned i = 0; i < run->r->n_targets; i++)
		track_configure(run->r->targets[i].track, &run->r->config);
	return 0;
}

static int on_target(void *arg, unsigned target, pid_t pid, int64_t start_ms, const char *service)
{
	struct replay *r = ((struct run *)arg)->r;
	struct replay_target *v = reallocarray(r->targets, target, sizeof(*v)), *t;

	if (!v)
		return -ENOMEM;
	r->targets = v;
	t = &v[target - 1];
	*t = (struct replay_target){.pid = pid, .start_ms = start_ms};
	memset(t->gauge_min, -1, sizeof(t->gauge_min));
	memset(t->gauge_max, -1, sizeof(t->gauge_max));
	r->n_targets = target;
	t->service = strdup(service);
	t->keys = calloc(1, sizeof(*t->keys));
	return t->service && t->keys ? track_new(&r->config, start_ms, &t->track) : -ENOMEM;
}

static int on_type(void *arg, unsigned target, uint64_t key, const char *name)
{
	struct replay_target *t = &((struct run *)arg)->r->targets[target - 1];
	struct replay_type *v;

	if (t->n_types % 64 == 0) {
		v = reallocarray(t->types, t->n_types + 64, sizeof(*v));
		if (!v)
			return -ENOMEM;
		t->types = v;
	}
	v = &t->types[t->n_types++];
	*v = (struct replay_type){.ty = track_type_get(t->track, key, name)};
	return v->ty ? u64map_put(t->keys, key, t->n_types) : -ENOMEM;
}

static struct replay_type *type_of(const struct replay_target *t, uint64_t key)
{
	return &t->types[*u64map_get(t->keys, key) - 1];
}

static int on_judged(void *arg, unsigned target, uint64_t key)
{
	type_of(&((struct run *)arg)->r->targets[target - 1], key)->judged = true;
	return 0;
}

static int on_gauges(void *arg, unsigned target, int64_t at_ms, const struct track_gauges *g)
{
	struct replay_target *t = &((struct run *)arg)->r->targets[target - 1];

	for (int i = 0; i < TRACK_GAUGES; i++) {
		if (g->value[i] < 0)
			continue;
		if (t->gauge_min[i] < 0 || g->value[i] < t->gauge_min[i])
			t->gauge_min[i] = g->value[i];
		t->gauge_max[i] = MAX(t->gauge_max[i], g->value[i]);
	}
	track_gauges(t->track, at_ms, g);
	return 0;
}

static int on_point(void *arg, unsigned target, uint64_t key, const struct track_point *p)
{
	struct run *run = arg;
	struct replay_target *t = &run->r->targets[target - 1];
	struct replay_type *ty = type_of(t, key);
	size_t i = (size_t)(ty - t->types);
	enum track_verdict_kind was = track_type_verdict(ty->ty)->kind;

	if (i >= run->cap_was) {
		size_t cap = MAX(2 * run->cap_was, i + 64);
		enum track_verdict_kind *v = reallocarray(run->was, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		memset(v + run->cap_was, 0, (cap - run->cap_was) * sizeof(*v));
		run->was = v;
		run->cap_was = cap;
	}
	run->was[i] = was;
	run->changed |= track_sample(t->track, ty->ty, p) && ty->judged;
	return 0;
}

static int add_event(struct replay *r, const struct replay_event *e)
{
	struct replay_event *v;

	if (r->n_events == REPLAY_EVENTS)
		return 0;
	if (r->n_events % 64 == 0) {
		v = reallocarray(r->events, r->n_events + 64, sizeof(*v));
		if (!v)
			return -ENOMEM;
		r->events = v;
	}
	r->events[r->n_events] = *e;
	r->events[r->n_events].reason = strdup(track_type_verdict(e->type)->reason);
	return r->events[r->n_events++].reason ? 0 : -ENOMEM;
}

/* Which of them lead now; *ret is malloc'ed. */
static int group(const struct replay *r, const struct replay_target *t, int64_t at_ms,
	struct cause_suspect **ret, size_t *ret_n)
{
	struct cause_suspect *v = calloc(t->n_types + 1, sizeof(*v));
	size_t n = 0;

	if (!v)
		return -ENOMEM;
	for (size_t i = 0; i < t->n_types; i++)
		if (t->types[i].judged && track_type_verdict(t->types[i].ty)->kind != TRACK_NONE)
			v[n++] = (struct cause_suspect){.ty = t->types[i].ty};
	if (cause_group(v, n, MAX(at_ms, 0) - (int64_t)MIN(r->config.window_ms, (uint64_t)INT64_MAX / 2))) {
		free(v);
		return -ENOMEM;
	}
	*ret = v;
	*ret_n = n;
	return 0;
}

static const char *suppressed(
	const struct replay *r, const struct replay_target *t, const struct track_type *ty, int64_t at_ms)
{
	if (!r->settings.suppressed)
		return NULL;
	return r->settings.suppressed(
		r->settings.arg, t->service, track_type_name(ty), track_type_verdict(ty)->count, at_ms);
}

static int tell_changes(struct run *run, unsigned target, int64_t at_ms)
{
	struct replay *r = run->r;
	struct replay_target *t = &r->targets[target - 1];
	_cleanup_free_ struct cause_suspect *v = NULL;
	size_t n = 0;
	int rc = group(r, t, at_ms, &v, &n);

	for (size_t i = 0; i < t->n_types && i < run->cap_was && !rc; i++) {
		const struct track_verdict *k = track_type_verdict(t->types[i].ty);
		struct replay_event e = {.at_ms = at_ms, .target = target, .type = t->types[i].ty,
			.kind = k->kind, .count = k->count, .delta = k->delta,
			.rate_per_hour = k->rate_per_hour, .confidence = k->confidence};

		e.suppressed = suppressed(r, t, e.type, at_ms);
		if (!t->types[i].judged || (run->was[i] == k->kind && !(t->types[i].silent && !e.suppressed)))
			continue;
		t->types[i].silent = e.suppressed && k->kind != TRACK_NONE;
		for (size_t c = 0; c < n; c++)
			if (v[c].ty == e.type && v[c].leader != c)
				e.leader = track_type_name(v[v[c].leader].ty);
		rc = add_event(r, &e);
	}
	return rc;
}

static int on_sample(void *arg, unsigned target, int64_t at_ms)
{
	struct run *run = arg;
	struct replay_target *t = &run->r->targets[target - 1];
	int rc = 0;

	if (!t->samples++)
		t->first_ms = at_ms;
	t->last_ms = at_ms;
	for (size_t i = 0; i < t->n_types; i++)
		run->changed |= t->types[i].silent && !suppressed(run->r, t, t->types[i].ty, at_ms);
	if (run->changed)
		rc = tell_changes(run, target, at_ms);
	run->changed = false;
	for (size_t i = 0; i < t->n_types && i < run->cap_was; i++)
		run->was[i] = track_type_verdict(t->types[i].ty)->kind;
	return rc;
}

int replay_run(FILE *f, const struct replay_settings *s, struct replay *ret, struct err *err)
{
	struct track_config none = {.interval_ms = 10000, .window_ms = 1800000, .min_objects = 1000};
	struct run run = {.r = ret};
	struct record_handler h = {.arg = &run,
		.config = on_config,
		.target = on_target,
		.type = on_type,
		.judged = on_judged,
		.gauges = on_gauges,
		.point = on_point,
		.sample = on_sample};
	int rc;

	*ret = (struct replay){.settings = *s};
	settings_apply(ret, &none);
	rc = record_read(f, &h, err);
	free(run.was);
	if (rc == -EBADMSG && ret->n_targets && ret->targets[0].samples) {
		ret->cut = true;
		return 0;
	}
	if (rc) {
		if (rc == -ENOMEM && !err->msg[0])
			err_set(err, rc, "out of memory");
		replay_release(ret);
	}
	return rc;
}

void replay_release(struct replay *r)
{
	for (unsigned i = 0; i < r->n_targets; i++) {
		struct replay_target *t = &r->targets[i];

		track_free(t->track);
		free(t->service);
		free(t->types);
		if (t->keys)
			u64map_release(t->keys);
		free(t->keys);
	}
	for (size_t i = 0; i < r->n_events; i++)
		free(r->events[i].reason);
	free(r->targets);
	free(r->events);
	memset(r, 0, sizeof(*r));
}
