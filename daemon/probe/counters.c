/* SPDX-License-Identifier: MIT */
#include <bpf/bpf.h>
#include <string.h>

#include "daemon/probe/probe_private.h"
#include "daemon/util/u64map.h"

#define GONE_MAX 65536 /* dead classes kept between two reads */
#define BATCH    1024

/* All entries of the target's hash, in no order. *ret is malloc'ed. */
int counters_read(const struct probe_target *t, struct entry **ret, size_t *ret_n)
{
	LIBBPF_OPTS(bpf_map_batch_opts, o);
	_cleanup_free_ uint64_t *keys = NULL;
	_cleanup_free_ struct pyleak_count *values = NULL;
	_cleanup_free_ struct entry *v = NULL;
	size_t n = 0, cap = 0, batch = BATCH;
	__u32 token = 0;
	bool first = true;

	for (int r = 0; r != -ENOENT; first = first && r == -ENOSPC) {
		struct entry *bigger;
		__u32 got = (__u32)batch;

		if (!keys) {
			keys = calloc(batch, sizeof(*keys));
			values = calloc(batch, sizeof(*values));
			if (!keys || !values)
				return -ENOMEM;
		}
		r = bpf_map_lookup_batch(
			t->counts, first ? NULL : &token, &token, keys, values, &got, &o);
		if (r == -ENOSPC) { /* one bucket of the hash holds more than fit */
			batch *= 4;
			if (batch > (size_t)PYLEAK_MAX_TYPES * 4)
				return -ENOSPC;
			freep(&keys);
			freep(&values);
			keys = NULL;
			values = NULL;
			continue;
		}
		if (r && r != -ENOENT)
			return r;
		if (n + got > cap) {
			cap = MAX(cap * 2, n + got);
			bigger = realloc(v, cap * sizeof(*v));
			if (!bigger)
				return -ENOMEM;
			v = bigger;
		}
		for (__u32 i = 0; i < got; i++)
			v[n++] = (struct entry){.type = keys[i], .count = values[i]};
	}
	*ret = TAKE_PTR(v);
	*ret_n = n;
	return 0;
}

/* Whether it says something. Types whose deaths nobody sees do not: their births alone would
 * look like a leak. */
bool counters_worth_telling(const struct pyleak_count *c)
{
	return c->flags & PYLEAK_COUNT_GC;
}

void counters_gone(struct gone_list *g, const struct pyleak_event *e)
{
	struct gone *bigger;
	size_t cap;

	if (g->n == g->cap) {
		cap = g->cap ? g->cap * 2 : 64;
		bigger = cap <= GONE_MAX ? realloc(g->v, cap * sizeof(*bigger)) : NULL;
		if (!bigger) {
			g->dropped++;
			return;
		}
		g->v = bigger;
		g->cap = cap;
	}
	g->v[g->n++] = (struct gone){.type = e->type, .count = e->count, .epoch = e->epoch};
}

/* The incarnations that have died, as a set. */
static int gone_set(const struct gone_list *g, struct u64map *ret)
{
	int r = u64map_reserve(ret, g->n);

	for (size_t i = 0; i < g->n && !r; i++)
		r = u64map_put(ret, g->v[i].count.incarnation, i + 1);
	return r;
}

/* What was counted in the old table after it was copied; and who has died since, lest an entry of a dead
 * class waits for the next one at its address. A program that is about to count there right now is
 * missed. */
static void counts_carry(int from, int to, const struct entry *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct pyleak_count old, c;

		if (bpf_map_lookup_elem(from, &v[i].type, &old)) {
			bpf_map_delete_elem(to, &v[i].type);
			continue;
		}
		if (bpf_map_lookup_elem(to, &v[i].type, &c) ||
			(old.births == v[i].count.births && old.deaths == v[i].count.deaths))
			continue;
		c.births += old.births - v[i].count.births;
		c.deaths += old.deaths - v[i].count.deaths;
		bpf_map_update_elem(to, &v[i].type, &c, BPF_EXIST);
	}
}

/* Room for four times as many types, before the table is full. Where there is no memory for that it goes
 * on with what it has. True: it has grown. */
static bool counts_grow(struct probe_target *t, const struct entry *v, size_t n)
{
	struct pyleak_target *s = &t->probe->shared[t->slot];
	_cleanup_close_ int old = -1;
	unsigned room = MIN(4 * t->counts_max, t->probe->max_types);
	int fd, r = 0;

	if (n < t->counts_max / 4 * 3 || room <= t->counts_max)
		return false;
	fd = counts_map(room);
	if (fd < 0)
		return false;
	for (size_t i = 0; i < n && !r; i++)
		r = bpf_map_update_elem(fd, &v[i].type, &v[i].count, BPF_ANY);
	if (!r)
		r = slot_hang(t->probe, t->slot, fd);
	if (r) {
		close(fd);
		return false;
	}
	old = t->counts;
	t->counts = fd;
	t->counts_max = room;
	/* What was lost has been made up for by a gap. */
	__atomic_store_n(&s->dropped, 0, __ATOMIC_SEQ_CST);
	counts_carry(old, fd, v, n);
	return true;
}

void probe_target_forget(struct probe_target *t, uint64_t type)
{
	struct pyleak_count c;

	if (bpf_map_lookup_elem(t->counts, &type, &c) == 0)
		own_forget(t, c.incarnation);
	bpf_map_delete_elem(t->counts, &type);
}

int probe_target_read(struct probe_target *t, struct probe_count **ret, size_t *ret_n,
	struct probe_totals *ret_totals)
{
	const struct pyleak_target *s = &t->probe->shared[t->slot];
	_cleanup_free_ struct probe_count *out = NULL;
	_cleanup_free_ struct entry *v = NULL;
	_cleanup_(u64map_release) struct u64map gone = {0};
	size_t n, n_out = 0;
	bool grown = false;
	int r;

	/* The entries first, the dead after: what dies in between is in both, never in none. */
	r = counters_read(t, &v, &n);
	if (!r)
		grown = counts_grow(t, v, n);
	if (!r)
		r = probe_drain(t->probe);
	if (!r)
		r = gone_set(&t->gone, &gone);
	if (!r && t->scope == PROBE_EVERYTHING && !t->no_follow) {
		own_follow(t);
		r = untracked_follow(t, v, n);
	}
	if (r)
		return r;
	out = calloc(n + t->gone.n + 1, sizeof(*out));
	if (!out)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		const struct pyleak_count *c = &v[i].count;

		uint64_t births = c->births, deaths = c->deaths;

		if ((counters_worth_telling(c) || untracked_flow(t, c, &births, &deaths)) &&
			!u64map_get(&gone, c->incarnation))
			out[n_out++] = (struct probe_count){.type = v[i].type,
				.incarnation = c->incarnation,
				.births = births,
				.deaths = deaths,
				.instances = !(c->flags & PYLEAK_COUNT_CONTAINER)};
		else
			continue;
		out[n_out - 1].own = own_read(t, c->incarnation, 0, &out[n_out - 1].own_births,
			&out[n_out - 1].own_deaths);
	}
	for (size_t i = 0; i < t->gone.n; i++) {
		const struct pyleak_count *c = &t->gone.v[i].count;
		uint64_t births = c->births, deaths = c->deaths;

		if (counters_worth_telling(c) || untracked_flow(t, c, &births, &deaths))
			out[n_out++] = (struct probe_count){.type = t->gone.v[i].type,
				.incarnation = c->incarnation,
				.births = births,
				.deaths = deaths,
				.gone = true};
		u64map_remove(&t->untracked.since, c->incarnation);
		own_forget(t, c->incarnation);
	}
	t->gone.n = 0;
	if (ret_totals) {
		*ret_totals = (struct probe_totals){.children = t->children};
		ret_totals->hits = slot_hits(t->probe, t->slot);
		ret_totals->dropped = __atomic_load_n(&s->dropped, __ATOMIC_RELAXED) +
				      __atomic_load_n(&s->lost, __ATOMIC_RELAXED) + t->gone.dropped;
		ret_totals->gap = grown || ret_totals->dropped != t->told_dropped;
		t->told_dropped = ret_totals->dropped;
		ret_totals->run_ns = probe_target_spent_ns(t);
		if (t->children)
			ret_totals->children_delay_ns = t->probe->children.delay_ns;
	}
	*ret = TAKE_PTR(out);
	*ret_n = n_out;
	return 0;
}
