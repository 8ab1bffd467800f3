/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The one-shot census: the whole walk over the collector's rings in one hit of a probe, in the
 * target's own context with its GIL held, so nothing moves meanwhile. Bounded by a time
 * budget, not by a guess: it is given up when the budget is used. Included by pyleak.bpf.c only.
 */
#ifndef PYLEAK_CENSUS_BPF_H
#define PYLEAK_CENSUS_BPF_H

#include "bpf/counts.bpf.h"

#define GC_HEAD_BYTES 16
#define RING_MAX      (1 << 23) /* where one bpf_loop() ends */
#define CACHE_SLOTS   512

/* How long a census waits for a birth before a death will do. */
#define CENSUS_PATIENCE_NS 100000000UL

/*
 * A direct-mapped cache in front of the hash, one for all targets: a walk takes `walking` first,
 * and a target that finds it taken tries again at its next hit. An entry is valid if it carries
 * the number of this walk, so that nothing has to be cleared.
 */
static struct tally {
	__u64 type;
	__u32 n;
	__u32 walk;
} tallies[CACHE_SLOTS];
static __u32 walking;
static __u32 walks;

struct walk {
	__u64 head, from, cur; /* ring, node before, node */
	__u64 skip;            /* node of the object whose death is the hit */
	__u64 objects;
	__u64 deadline_ns;
	__u32 status;
	__u32 ended; /* the ring's head was met again */
	__u32 slot, epoch, walk;
	__u32 check; /* look at the clock when this reaches 0 */
};

static __always_inline void tally_flush(struct walk *w, __u64 type, __u32 n)
{
	__u32 slot = w->slot;
	void *counts = bpf_map_lookup_elem(&counts_of, &slot);
	struct pyleak_count *c = counts ? count_of(counts, type, w->epoch) : 0;

	if (!c) {
		w->status = PYLEAK_CENSUS_FULL;
		return;
	}
	if (c->live_epoch != w->epoch) {
		c->live = 0;
		c->live_epoch = w->epoch;
	}
	c->live += n;
}

static long visit(__u32 i, struct walk *w)
{
	__u64 node[4]; /* next, prev, reference count, type */
	struct tally *y;

	if (w->cur == w->head) {
		w->ended = 1;
		return 1;
	}
	if (bpf_probe_read_user(node, sizeof(node), (void *)w->cur)) {
		if (bpf_copy_from_user(node, sizeof(node), (void *)w->cur)) {
			w->status = PYLEAK_CENSUS_FAULT;
			return 1;
		}
		w->check = 1; /* that may have waited for a disk */
	}
	if ((node[1] & ~3UL) != w->from) {
		w->status = PYLEAK_CENSUS_LINK;
		return 1;
	}
	if (w->cur != w->skip) {
		y = &tallies[(node[3] >> 4 ^ node[3] >> 16) & (CACHE_SLOTS - 1)];
		if (y->type == node[3] && y->walk == w->walk) {
			y->n++;
		} else {
			if (y->walk == w->walk)
				tally_flush(w, y->type, y->n);
			y->type = node[3];
			y->n = 1;
			y->walk = w->walk;
		}
		w->objects++;
	}
	w->from = w->cur;
	w->cur = node[0] & ~3UL;
	if (--w->check == 0) {
		w->check = 64;
		if (bpf_ktime_get_ns() > w->deadline_ns)
			w->status = PYLEAK_CENSUS_TOO_LARGE;
	}
	return w->status != PYLEAK_CENSUS_OK;
}

static long drain(__u32 i, struct walk *w)
{
	struct tally *y = &tallies[i & (CACHE_SLOTS - 1)];

	if (y->walk == w->walk)
		tally_flush(w, y->type, y->n);
	return w->status != PYLEAK_CENSUS_OK;
}

static __always_inline void walk_ring(struct walk *w, __u64 head)
{
	__u64 first = 0;

	if (!head || w->status != PYLEAK_CENSUS_OK)
		return;
	if (read_user(&first, sizeof(first), head)) {
		w->status = PYLEAK_CENSUS_FAULT;
		return;
	}
	w->head = head;
	w->from = head;
	w->cur = first & ~3UL;
	w->ended = 0;
	bpf_loop(RING_MAX, visit, w, 0);
	if (!w->ended && w->status == PYLEAK_CENSUS_OK)
		w->status = PYLEAK_CENSUS_TOO_LARGE;
}

/* Walks if a census is wanted and this is a moment for it; else the next hit asks again. */
static __always_inline void census(struct pyleak_target *t, __u32 slot, __u64 dying)
{
	struct walk w = {.slot = slot, .skip = dying - GC_HEAD_BYTES, .check = 64};
	__u32 number = t->armed, collecting = 1;
	struct pyleak_event *e;
	__u64 start_ns, slack_ns;

	/* While the collector runs, its rings are incomplete (and it frees objects, which is how
	 * we come here). */
	if (read_user(&collecting, sizeof(collecting), t->collecting) || collecting)
		return;
	if (__sync_val_compare_and_swap(&walking, 0, 1) != 0)
		return;
	if (__sync_val_compare_and_swap(&t->armed, number, 0) != number) { /* taken back */
		walking = 0;
		return;
	}

	start_ns = bpf_ktime_get_ns();
	/* The cache is emptied after the walk: up to 512 look-ups, some 50 us. */
	slack_ns = t->budget_ns / 8;
	if (slack_ns > 50000)
		slack_ns = 50000;
	w.deadline_ns = start_ns + t->budget_ns - slack_ns;
	w.epoch = t->epoch + 1;
	t->epoch = w.epoch;
	w.walk = ++walks;

	/* Oldest first; an object moves to an older ring only while the collector runs. */
	walk_ring(&w, t->head[0]);
	walk_ring(&w, t->head[1]);
	walk_ring(&w, t->head[2]);
	walk_ring(&w, t->head[3]);
	if (w.status == PYLEAK_CENSUS_OK)
		bpf_loop(CACHE_SLOTS, drain, &w, 0);

	t->census.epoch = w.epoch;
	t->census.status = w.status;
	t->census.start_ns = start_ns;
	t->census.end_ns = bpf_ktime_get_ns();
	t->census.objects = w.objects;
	barrier();
	t->census.number = number;
	walking = 0;

	/* Only to wake the daemon; when there is no room it is awake. Not reserved before the walk:
	 * a record that is reserved makes the ring readable, the daemon would spin meanwhile. */
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e)
		return;
	e->kind = PYLEAK_EVENT_CENSUS;
	e->slot = slot;
	bpf_ringbuf_submit(e, BPF_RB_FORCE_WAKEUP);
}

#endif
