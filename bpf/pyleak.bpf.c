/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The programs under the probes. A birth site has the type in its argument, a death site the
 * object. Which target, which register, is in the cookie of the site. Both return 0 always: 1
 * would take the breakpoint out.
 *
 * Sleepable (".s"), so that the census can fault pages in and the kernel may preempt it; per hit
 * the difference is not measurable.
 */
#include <linux/bpf.h>
#include <asm/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "bpf/counts.bpf.h"
#include "bpf/census.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Wakes the daemon. Without room for the event it is awake anyway, and looks at every target. */
static __always_inline void limit_reached(__u32 slot)
{
	struct pyleak_event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e)
		return;
	e->kind = PYLEAK_EVENT_LIMIT;
	e->slot = slot;
	bpf_ringbuf_submit(e, BPF_RB_FORCE_WAKEUP);
}

static __always_inline void hit(struct pyleak_target *t, __u32 slot, __u64 cookie)
{
	__u64 hits = __sync_fetch_and_add(&t->hits, 1) + 1, limit = t->limit;
	__u32 group = PYLEAK_COOKIE_GROUP(cookie);

	if (PYLEAK_COOKIE_STEPPED(cookie))
		__sync_fetch_and_add(&t->hits_stepped, 1);
	if (group < PYLEAK_N_GROUPS)
		__sync_fetch_and_add(&t->hits_of[group], 1);
	if (hits >= limit && __sync_val_compare_and_swap(&t->limit, limit, (__u64)-1) == limit)
		limit_reached(slot);
}

/* Whether a birth at an allocator was counted before, at the type's own function. */
static __always_inline int is_born_already(void *counts, __u64 type)
{
	struct pyleak_count *c = bpf_map_lookup_elem(counts, &type);

	return c && own_of(c);
}

SEC("uprobe.multi.s")
int on_birth(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), type;
	__u32 slot = PYLEAK_COOKIE_SLOT(cookie);
	struct pyleak_target *t = target_of_hit(slot);
	void *counts = bpf_map_lookup_elem(&counts_of, &slot);
	struct pyleak_count *c;

	if (!t || !counts)
		return 0;
	hit(t, slot, cookie);
	type = site_argument(ctx, PYLEAK_COOKIE_REG(cookie));
	/* Before this birth is counted: the object is in no ring yet. */
	if (t->armed && !is_born_already(counts, type))
		census(t, slot, type, 0, 0);
	c = count_of(counts, type, t->epoch);
	if (!c) {
		__sync_fetch_and_add(&t->dropped, 1);
		return 0;
	}
	count_stamp(c, t->epoch);
	if (PYLEAK_COOKIE_GROUP(cookie) == PYLEAK_GROUP_CONTAINERS &&
		!(c->flags & PYLEAK_COUNT_CONTAINER))
		c->flags |= PYLEAK_COUNT_CONTAINER;
	__sync_fetch_and_add(&c->births, 1);
	return 0;
}

/* At the function that a type has in its tp_new slot. */
SEC("uprobe.multi.s")
int on_new(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), type;
	__u32 slot = PYLEAK_COOKIE_SLOT(cookie);
	struct pyleak_target *t = target_of_hit(slot);
	void *counts = bpf_map_lookup_elem(&counts_of, &slot);
	struct pyleak_count *c;
	struct pyleak_own *o;

	if (!t || !counts)
		return 0;
	hit(t, slot, cookie);
	type = site_argument(ctx, PYLEAK_COOKIE_REG(cookie));
	c = bpf_map_lookup_elem(counts, &type);
	o = c ? own_of(c) : 0;
	/* Where it has another function there, that has called this one. */
	if (!o || ctx->rip - o->make >= SITE_BYTES)
		return 0;
	STAMP(o, t->epoch);
	__sync_fetch_and_add(&o->births, 1);
	return 0;
}

/*
 * At the function that a type has in its tp_dealloc slot: an object that the collector does not
 * know, or one of an extension's. Where the type has another function there, this one was called by
 * that, and does not speak for it.
 */
SEC("uprobe.multi.s")
int on_dealloc(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), type = 0, dealloc = 0;
	__u32 slot = PYLEAK_COOKIE_SLOT(cookie);
	struct pyleak_target *t = target_of_hit(slot);
	void *counts = bpf_map_lookup_elem(&counts_of, &slot);
	struct pyleak_count *c;
	struct pyleak_own *o;

	if (!t || !counts)
		return 0;
	hit(t, slot, cookie);
	if (read_user(&type, sizeof(type),
		    site_argument(ctx, PYLEAK_COOKIE_REG(cookie)) + OFF_OB_TYPE))
		return 0;
	c = bpf_map_lookup_elem(counts, &type);
	if (c && c->flags & PYLEAK_COUNT_GC) {
		o = own_of(c);
		if (o && ctx->rip - o->end < SITE_BYTES) {
			STAMP(o, t->epoch);
			__sync_fetch_and_add(&o->deaths, 1);
		}
		return 0;
	}
	if (!c || read_user(&dealloc, sizeof(dealloc), type + OFF_TP_DEALLOC) ||
		ctx->rip - dealloc >= SITE_BYTES)
		return 0;
	count_stamp(c, t->epoch);
	__sync_fetch_and_add(&c->deaths, 1);
	return 0;
}

SEC("uprobe.multi.s")
int on_death(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), op, type = 0;
	__u32 slot = PYLEAK_COOKIE_SLOT(cookie);
	struct pyleak_target *t = target_of_hit(slot);
	void *counts = bpf_map_lookup_elem(&counts_of, &slot);
	struct pyleak_count *c = 0;

	if (!t || !counts)
		return 0;
	hit(t, slot, cookie);
	op = site_argument(ctx, PYLEAK_COOKIE_REG(cookie));
	if (t->stepping)
		cursor_dies(slot, op);
	if (!read_user(&type, sizeof(type), op + OFF_OB_TYPE))
		c = count_of(counts, type, t->epoch);
	if (c) {
		count_stamp(c, t->epoch);
		__sync_fetch_and_add(&c->deaths, 1);
	} else {
		__sync_fetch_and_add(&t->dropped, 1);
	}
	/* Whether it was a class cannot be told without its metatype's entry: then look, too. */
	if (!c || c->flags & PYLEAK_COUNT_META)
		class_gone(t, counts, slot, op);
	/*
	 * A census prefers a birth. A death is often one of several under way (an instance has left
	 * the rings already while its attributes are freed one by one), and those neither are in the
	 * rings nor count as dead yet: off by their number. So wait for a birth first.
	 */
	if (t->armed)
		census(t, slot, type, op, CENSUS_PATIENCE_NS);
	return 0;
}
