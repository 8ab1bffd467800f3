/* SPDX-License-Identifier: MIT */
#include <bpf/bpf.h>
#include <string.h>

#include "daemon/probe/probe_private.h"
#include "daemon/python/mem.h"
#include "daemon/util/u64map.h"
#include "daemon/util/units.h"

#define CLOSE_MAX_NS 5000000UL

_Static_assert((int)CENSUS_TOO_WIDE == (int)PYLEAK_N_RESTARTS, "one name each");

const char *census_reason(unsigned i)
{
	static const char *const names[] = {
		[PYLEAK_RESTART_COLLECTION] = "full collection",
		[PYLEAK_RESTART_FREEZE] = "gc.freeze or unfreeze",
		[PYLEAK_RESTART_YOUNG] = "collection while the younger generations were walked",
		[PYLEAK_RESTART_LOST] = "objects freed where a step ended",
		[PYLEAK_RESTART_REUSED] = "memory used again where a step ended",
		[PYLEAK_RESTART_PROMOTED] = "large promotion",
		[PYLEAK_RESTART_RING] = "arrived in another generation",
		[PYLEAK_RESTART_LINK] = "broken link",
		[PYLEAK_RESTART_FAULT] = "unreadable object",
		[CENSUS_TOO_WIDE] = "many objects freed while they were counted",
	};

	return i < ARRAY_SIZE(names) ? names[i] : "";
}

const char *census_way_name(enum census_way w)
{
	static const char *const names[] = {
		[CENSUS_ONE_SHOT] = "one-shot",
		[CENSUS_STEPWISE] = "stepwise",
		[CENSUS_OUTSIDE] = "outside",
	};

	return (unsigned)w < ARRAY_SIZE(names) ? names[w] : "";
}

static struct census_type census_type_at(const struct entry *e, const struct pyleak_census *at)
{
	const struct pyleak_count *c = &e->count;
	bool stamped = c->epoch == at->epoch;
	uint64_t max = c->live_run == at->run ? c->live : 0;
	uint64_t min = c->live_stamp == at->stamp ? c->live_min : 0;

	return (struct census_type){.type = e->type,
		.live_min = min,
		.live = min + (max - min) / 2,
		.live_max = max,
		.births = stamped ? c->births_at : c->births,
		.deaths = stamped ? c->deaths_at : c->deaths,
		.incarnation = c->incarnation};
}

/* The counters of every type as they stood at the census's instant, see struct pyleak_count. */
static int census_collect(struct probe_target *t, const struct pyleak_census *at)
{
	uint32_t epoch = at->epoch;
	_cleanup_free_ struct entry *v = NULL;
	_cleanup_free_ struct census_type *out = NULL;
	_cleanup_(u64map_release) struct u64map seen = {0};
	struct pyleak_count again;
	size_t n, n_out = 0;
	int r;

	r = counters_read(t, &v, &n);
	if (r)
		return r;
	for (size_t i = 0; i < n; i++) {
		/* A hit may have changed it while it was copied. Stamped at the first look: the
		 * second is whole. Not stamped at the second: the first is. Else a third. If it
		 * is gone, its event has the truth. */
		bool was = v[i].count.epoch == epoch;

		r = bpf_map_lookup_elem(t->counts, &v[i].type, &again);
		if (!r && again.epoch == epoch && !was)
			r = bpf_map_lookup_elem(t->counts, &v[i].type, &again);
		if (r || again.incarnation != v[i].count.incarnation)
			v[i].count.incarnation = 0;
		else if (again.epoch == epoch)
			v[i].count = again;
	}
	ring_buffer__consume(t->probe->ring);
	out = calloc(n + t->gone.n + 1, sizeof(*out));
	if (!out || u64map_reserve(&seen, n))
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		if (!v[i].count.incarnation || !counters_worth_telling(&v[i].count))
			continue;
		out[n_out] = census_type_at(&v[i], at);
		out[n_out].own = own_read(t, v[i].count.incarnation, epoch, &out[n_out].own_births,
			&out[n_out].own_deaths);
		if (!out[n_out].live_max && !out[n_out].births && !out[n_out].deaths &&
			!out[n_out].own_births)
			continue; /* came after the census, or was never counted */
		if (t->gone.n && u64map_put(&seen, v[i].count.incarnation, 1))
			return -ENOMEM;
		n_out++;
	}
	for (size_t i = 0; i < t->gone.n; i++) {
		struct entry e = {.type = t->gone.v[i].type, .count = t->gone.v[i].count};

		if (t->gone.v[i].epoch < epoch) /* had died before */
			continue;
		if (u64map_get(&seen, e.count.incarnation) || !counters_worth_telling(&e.count))
			continue;
		out[n_out] = census_type_at(&e, at);
		if (out[n_out].live_max || out[n_out].births || out[n_out].deaths)
			n_out++;
	}
	for (size_t i = 0; i < n_out; i++) {
		/* Cannot be: something broke the order of the rings and was not noticed. */
		if (out[i].live_min > out[i].live_max)
			return -ESTALE;
		t->result.width += out[i].live_max - out[i].live_min;
	}
	t->result_types = TAKE_PTR(out);
	t->result.types = t->result_types;
	t->result.n_types = n_out;
	return 0;
}

/* Turns an answered census into a result that waits for probe_dispatch(). */
int census_finish(struct probe_target *t)
{
	const struct pyleak_target *s = &t->probe->shared[t->slot];
	struct pyleak_census c = s->census;
	int r = 0;

	t->result = (struct census_result){
		.way = c.steps == 1 && c.pause_ns <= s->budget_ns ? CENSUS_ONE_SHOT
								  : CENSUS_STEPWISE,
		.estimate = c.flags & PYLEAK_CENSUS_YOUNG,
		.at_ns = c.start_ns,
		.pause_ns = c.pause_ns,
		.close_ns = c.close_ns,
		.cost_ns = c.cost_ns,
		.wall_ns = c.end_ns > t->armed_ns ? c.end_ns - t->armed_ns : 0,
		.objects = c.objects,
		.steps = c.steps,
	};
	for (unsigned i = 0; i < PYLEAK_N_RESTARTS; i++)
		t->result.restarts[i] = c.restarts[i];
	switch (c.status) {
	case PYLEAK_CENSUS_OK:
		t->result.at_ms =
			now_realtime_ms() - (int64_t)((now_monotonic_ns() - c.start_ns) / 1000000);
		r = census_collect(t, &c);
		if (r)
			t->result.status = CENSUS_FAULT;
		t->result.fault = r;
		break;
	case PYLEAK_CENSUS_RESTARTS:
		t->result.status = CENSUS_RESTARTS;
		break;
	case PYLEAK_CENSUS_TOO_LARGE:
		t->result.status = CENSUS_TOO_LARGE;
		break;
	default:
		t->result.status = CENSUS_FAULT;
		t->result.fault = -ENOSPC;
	}
	if (t->result.status != CENSUS_OK)
		t->result.at_ms = now_realtime_ms();
	t->ready = true;
	return r == -ENOMEM ? r : 0;
}

int probe_census_arm(struct probe_target *t, uint64_t budget_ns)
{
	struct pyleak_target *s = &t->probe->shared[t->slot];

	if (!t->has_rings)
		return -EPROTO;
	if (python_interpreters(t->py) > 1)
		return -EMLINK;
	if (t->armed)
		return -EBUSY;
	if (t->scope == PROBE_NOTHING)
		return -ENOTCONN;
	if (++t->number == 0)
		t->number = 1;
	t->armed = t->number;
	t->armed_ns = now_monotonic_ns();
	s->budget_ns = budget_ns;
	/* A second step has to know of deaths. */
	s->pending = t->scope == PROBE_EVERYTHING ? t->rings.pending : 0;
	s->close_ns = MAX(budget_ns, MIN(5 * budget_ns, CLOSE_MAX_NS));
	s->armed_ns = t->armed_ns;
	s->census_steps = 0;
	__atomic_store_n(&s->armed, t->number, __ATOMIC_SEQ_CST);
	return 0;
}

bool probe_census_out(const struct probe_target *t)
{
	return t->armed && !t->ready;
}

unsigned probe_census_steps(const struct probe_target *t)
{
	return t->armed ? __atomic_load_n(&t->probe->shared[t->slot].census_steps, __ATOMIC_RELAXED)
			: 0;
}

void probe_census_close_at(struct probe_target *t, uint64_t type)
{
	__atomic_store_n(&t->probe->shared[t->slot].close_type, type, __ATOMIC_SEQ_CST);
}

void probe_census_cancel(struct probe_target *t)
{
	__atomic_store_n(&t->probe->shared[t->slot].armed, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&t->probe->shared[t->slot].stepping, 0, __ATOMIC_SEQ_CST);
	/* If a step is under way its event may come, with a number that nobody waits for. */
	t->armed = 0;
	t->ready = false;
	free(t->result_types);
	t->result_types = NULL;
}

/* Gives a type that no hit has shown yet its entry, so that it has one identity from now on. */
static int entry_make(struct probe_target *t, uint64_t type, struct pyleak_count *ret)
{
	struct pyleak_target *s = &t->probe->shared[t->slot];
	struct pyleak_count c = {.epoch = __atomic_load_n(&s->epoch, __ATOMIC_SEQ_CST)};
	uint64_t flags;
	int r;

	r = mem_read_u64(t->py->id.pid, type + OFF_TP_FLAGS, &flags);
	if (r)
		return r;
	if (flags & TPFLAGS_HAVE_GC)
		c.flags |= PYLEAK_COUNT_GC;
	if (flags & TPFLAGS_TYPE_SUBCLASS)
		c.flags |= PYLEAK_COUNT_META;
	c.incarnation = __atomic_add_fetch(&t->probe->bpf->bss->incarnations, 1, __ATOMIC_SEQ_CST);
	r = bpf_map_update_elem(t->counts, &type, &c, BPF_NOEXIST);
	if (r && r != -EEXIST)
		return r;
	return bpf_map_lookup_elem(t->counts, &type, ret);
}

int probe_census_outside(struct probe_target *t, uint64_t max_objects, int tries)
{
	_cleanup_free_ struct python_level *levels = NULL;
	_cleanup_free_ struct census_type *out = NULL;
	struct census_result result = {.way = CENSUS_OUTSIDE};
	struct pyleak_count c;
	uint64_t before, objects;
	size_t n, n_out = 0;
	int r;

	if (!t->has_rings)
		return -EPROTO;
	if (python_interpreters(t->py) > 1)
		return -EMLINK;
	before = slot_hits(t->probe, t->slot);
	r = python_read_levels(t->py, &t->rings, tries, max_objects, &levels, &n, &objects);
	if (r)
		return r;
	result.at_ms = now_realtime_ms();
	result.at_ns = now_monotonic_ns();
	result.objects = objects;
	out = calloc(n + 1, sizeof(*out));
	if (!out)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		if (bpf_map_lookup_elem(t->counts, &levels[i].type, &c)) {
			r = entry_make(t, levels[i].type, &c);
			if (r)
				return r == -E2BIG ? -ENOSPC : -EAGAIN;
		}
		out[n_out++] = (struct census_type){.type = levels[i].type,
			.live_min = levels[i].count,
			.live = levels[i].count,
			.live_max = levels[i].count,
			.births = c.births,
			.deaths = c.deaths,
			.incarnation = c.incarnation};
		out[n_out - 1].own = own_read(t, c.incarnation, 0, &out[n_out - 1].own_births,
			&out[n_out - 1].own_deaths);
	}
	/* Levels and counters belong together only if nothing was born or died meanwhile. */
	if (slot_hits(t->probe, t->slot) != before)
		return -EAGAIN;
	result.types = out;
	result.n_types = n_out;
	if (t->options.on_census)
		t->options.on_census(t, &result, t->options.userdata);
	return 0;
}
