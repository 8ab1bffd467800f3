/* SPDX-License-Identifier: MIT */
/*
 * What of a target's plan is attached. Sites come in groups, one link each, so that some can be let
 * go of while others stay: births of instances are the fewest and tell most, deaths the most.
 */
#include <bpf/libbpf.h>
#include <string.h>

#include "daemon/probe/probe_private.h"

_Static_assert(PROBE_GROUPS == PYLEAK_N_GROUPS, "a scope has as many groups as its number says");

static enum pyleak_group group_of(const struct plan_site *s)
{
	if (s->kind == PLAN_DEATH)
		return PYLEAK_GROUP_DEATHS;
	return plan_makes_instances(s) ? PYLEAK_GROUP_INSTANCES : PYLEAK_GROUP_CONTAINERS;
}

static int attach_group(struct probe_target *t, enum pyleak_group group, struct err *err)
{
	struct bpf_program *prog = group == PYLEAK_GROUP_DEATHS ? t->probe->bpf->progs.on_death
								: t->probe->bpf->progs.on_birth;
	unsigned long offsets[PLAN_SITES_MAX];
	__u64 cookies[PLAN_SITES_MAX];
	char path[64];
	size_t n = 0;
	int r;

	if (t->links[group].n)
		return 0;
	for (size_t i = 0; i < t->plan.n; i++) {
		const struct plan_site *s = &t->plan.v[i];

		if (group_of(s) != group)
			continue;
		offsets[n] = s->offset;
		cookies[n++] = PYLEAK_COOKIE(t->slot, s->place.reg, s->place.stepped, group);
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", t->py->fd);
	r = links_attach(
		t->probe, prog, t->py->id.pid, path, offsets, cookies, n, &t->links[group]);
	if (!r)
		return 0;
	links_release(&t->links[group]); /* perf: some may be there */
	if (r == -EPERM || r == -EACCES)
		return probe_refused(t->probe, err, "attaching probes");
	if (r == -ESRCH)
		return err_set(err, r, "pid %d has exited", t->py->id.pid);
	return err_set(err, r, "attaching %zu probes to %s of pid %d: %s", n, t->py->path,
		t->py->id.pid, strerror(-r));
}

int probe_target_set_scope(struct probe_target *t, enum probe_scope scope, struct err *err)
{
	struct links extra = {0};
	int r = 0;

	if (scope < t->scope) {
		if (t->scope == PROBE_EVERYTHING) {
			if (probe_census_out(t))
				probe_census_cancel(t);
			untracked_let_go(t);
		}
		t->scope = scope;
		for (int i = (int)scope; i < PROBE_GROUPS; i++)
			if (links_move(&extra, &t->links[i]))
				links_release(&t->links[i]);
		links_release_later(t->probe, &extra, NULL);
		return 0;
	}
	/* Deaths first: a birth whose death is not seen would stay for ever. */
	for (int i = (int)scope; i-- > (int)t->scope && !r;)
		r = attach_group(t, (enum pyleak_group)i, err);
	if (r) {
		for (int i = (int)t->scope; i < PROBE_GROUPS; i++)
			links_release(&t->links[i]);
		return r;
	}
	t->scope = scope;
	return 0;
}

enum probe_scope probe_target_scope(const struct probe_target *t)
{
	return t->scope;
}

void probe_target_follow(struct probe_target *t, bool follow)
{
	t->no_follow = !follow;
}

void target_links_take(struct probe_target *t, struct links *to)
{
	for (int i = 0; i < PROBE_GROUPS; i++)
		if (links_move(to, &t->links[i]))
			links_release(&t->links[i]);
	if (links_move(to, &t->untracked.links))
		links_release(&t->untracked.links);
	t->scope = PROBE_NOTHING;
}

/* ---- the bill ---- */

void probe_target_hits(const struct probe_target *t, uint64_t ret[PROBE_GROUPS])
{
	const struct pyleak_target *s = &t->probe->shared[t->slot];

	for (int i = 0; i < PROBE_GROUPS; i++)
		ret[i] = __atomic_load_n(&s->hits_of[i], __ATOMIC_RELAXED);
}

uint64_t probe_target_spent_ns(const struct probe_target *t)
{
	const struct pyleak_target *s = &t->probe->shared[t->slot];
	uint64_t hits = slot_hits(t->probe, t->slot);
	uint64_t stepped = __atomic_load_n(&s->hits_stepped, __ATOMIC_RELAXED);

	return (hits > stepped ? hits - stepped : 0) * t->probe->cost_ns +
	       stepped * t->probe->cost_stepped_ns + t->sweep_ns +
	       __atomic_load_n(&s->census_ns, __ATOMIC_RELAXED);
}

void probe_target_set_limit(struct probe_target *t, uint64_t hits)
{
	t->limit = hits;
	__atomic_store_n(&t->probe->shared[t->slot].limit, hits, __ATOMIC_SEQ_CST);
}
