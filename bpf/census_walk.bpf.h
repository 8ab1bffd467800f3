/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * One step of a census: from a node along the collector's rings, forward or back, counting objects
 * per type, until the time is used up. Included by census.bpf.h only.
 */
#ifndef PYLEAK_CENSUS_WALK_BPF_H
#define PYLEAK_CENSUS_WALK_BPF_H

#include "bpf/counts.bpf.h"

#define GC_HEAD_BYTES 16
#define LINK(word)    ((word) & ~3UL) /* the low bits are flags */
#define LOOP_MAX      (1 << 23)       /* where one bpf_loop() ends */
#define CACHE_SLOTS   512
#define WINDOW        256 /* cursors of which one must survive until the next step */
#define RINGS         4
#define RING_OLD      1
#define RING_MIDDLE   2
#define RING_YOUNG    3
#define CLOCK_EVERY   64 /* nodes between two looks at the clock */

/*
 * A direct-mapped cache in front of the hash, one for all targets: a step takes `walking` first,
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

struct cursor {
	__u64 node, type;
};

/* For whom tallies are kept: a function that the verifier looks at once takes it whole. */
struct tallying {
	__u32 slot, run, walk, stamp;
	__u32 back; /* against the order */
	__u32 full; /* no room for a type's counters */
};

/* One step. It lives in the slot's progress, and on the stack while it walks a ring: bpf_loop()
 * hands nothing else on. */
struct walk {
	struct tallying y;
	__u64 head, from, cur; /* ring, node before, node */
	__u64 skip;            /* node of the object whose death is the hit */
	__u64 heads[RINGS];
	__u64 tail[2];
	__u64 objects;
	__u64 deadline_ns; /* one of these: of a step, and of one that closes the census */
	__u64 step_ns, close_ns;
	__u32 restart;   /* 1 + enum pyleak_restart: cannot go on */
	__u32 may_close; /* this hit may be the closing one */
	__u32 ring, ended;
	__u32 on, n_window; /* as in struct progress */
	__u32 record;       /* the step's end: nodes to go, which become cursors */
	__u32 stopped;
	__u32 record_all, check;
};

/* A census under way, one a slot. Where it began and what the rings looked like at its last step. */
struct progress {
	struct walk walk;
	struct cursor window[WINDOW]; /* last nodes visited, a ring buffer; node 0: died */
	__u64 filter[64];             /* of their addresses, so that a death costs one look */
	__u64 tail[2]; /* nodes some way before the end of the ring, see mark_tail() */
	__u64 tail_pending;
	__u64 collections[3], pending, permanent[2], oldest;
	__u64 cost_ns, pause_ns, close_ns, start_ns, objects;
	__u64 node_ns; /* what a node costs, of late */
	__u64 middle;  /* objects in the middle ring, of late */
	__u64 middle_at;
	__u32 restarts[PYLEAK_N_RESTARTS];
	__u32 restarted;        /* their sum */
	__u32 steps, run_steps; /* of all tries, of this one */
	__u32 run, stamp;
	__u32 n_window; /* cursors ever entered: the next one goes to n_window % WINDOW */
	__u32 ring;     /* as in head[] */
	__u32 on;    /* in the midst of it: behind the newest cursor; else before its first node */
	__u32 back;  /* the second pass */
	__u32 young; /* the young ring is walked in steps as well */
	__u32 flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* set by the daemon before loading */
	__type(key, __u32);
	__type(value, struct progress);
} progresses SEC(".maps");

__noinline int tally_flush(struct tallying *y, __u64 type, __u32 n)
{
	struct pyleak_target *t;
	struct pyleak_count *c;
	void *counts;
	__u32 slot;

	if (!y)
		return 0;
	slot = y->slot;
	counts = bpf_map_lookup_elem(&counts_of, &slot);
	t = bpf_map_lookup_elem(&targets, &slot);
	c = counts && t ? count_of(counts, type, t->epoch) : 0;
	if (!c) {
		y->full = 1;
		return 0;
	}
	if (c->live_run != y->run) {
		c->live = 0;
		c->live_run = y->run;
	}
	/* Every forward step has a stamp of its own, so that its share stands in live_min if it
	 * turns out to be the closing one; the backward pass goes on with that. */
	if (c->live_stamp != y->stamp) {
		c->live_min = 0;
		c->live_stamp = y->stamp;
	}
	c->live_min += n;
	if (!y->back)
		c->live += n;
	return 0;
}

static __always_inline void tally_add(struct tallying *w, __u64 type)
{
	struct tally *y = &tallies[(type >> 4 ^ type >> 16) & (CACHE_SLOTS - 1)];

	if (y->type == type && y->walk == w->walk) {
		y->n++;
		return;
	}
	if (y->walk == w->walk)
		tally_flush(w, y->type, y->n);
	y->type = type;
	y->n = 1;
	y->walk = w->walk;
}

static long drain(__u32 i, struct tallying *w)
{
	struct tally *y = &tallies[i & (CACHE_SLOTS - 1)];

	if (y->walk == w->walk)
		tally_flush(w, y->type, y->n);
	return w->full != 0;
}

__noinline int tallies_drain(__u32 slot)
{
	struct progress *p = bpf_map_lookup_elem(&progresses, &slot);
	struct tallying y;

	if (!p)
		return 0;
	y = p->walk.y;
	if (!y.full)
		bpf_loop(CACHE_SLOTS, drain, &y, 0);
	p->walk.y.full = y.full;
	return 0;
}

static __always_inline void record(struct walk *w, __u64 type)
{
	__u32 slot = w->y.slot;
	struct progress *p = bpf_map_lookup_elem(&progresses, &slot);
	struct cursor *c;

	if (!p)
		return;
	c = &p->window[w->n_window++ & (WINDOW - 1)];
	c->node = w->cur;
	c->type = type;
}

static __always_inline long walk_fails(struct walk *w, enum pyleak_restart why)
{
	w->restart = why + 1;
	return 1;
}

static long visit(__u32 i, struct walk *w)
{
	__u64 node[4]; /* next, prev, reference count, type */

	if (w->cur == w->head) {
		w->ended = 1;
		return 1;
	}
	if (w->cur == w->tail[0] || w->cur == w->tail[1]) {
		if (!w->may_close) {
			w->stopped = 1;
			return 1;
		}
		/* What stands last dies first: no cursor is left here, so go on to the end. */
		w->deadline_ns = w->close_ns;
		w->record = 0;
	}
	if (w->cur == w->heads[0] || w->cur == w->heads[1] || w->cur == w->heads[2] ||
		w->cur == w->heads[3])
		return walk_fails(w, PYLEAK_RESTART_RING);
	if (bpf_probe_read_user(node, sizeof(node), (void *)w->cur)) {
		if (bpf_copy_from_user(node, sizeof(node), (void *)w->cur))
			return walk_fails(w, PYLEAK_RESTART_FAULT);
		w->check = 1; /* that may have waited for a disk */
	}
	if (LINK(node[w->y.back ? 0 : 1]) != w->from)
		return walk_fails(w, PYLEAK_RESTART_LINK);
	if (w->cur != w->skip) {
		tally_add(&w->y, node[3]);
		w->objects++;
		if (w->record_all || w->record)
			record(w, node[3]);
	}
	w->from = w->cur;
	w->on = 1;
	w->cur = LINK(node[w->y.back ? 1 : 0]);
	if (w->record) {
		if (--w->record == 0)
			w->stopped = 1;
	} else if (--w->check == 0) {
		w->check = CLOCK_EVERY;
		if (bpf_ktime_get_ns() > w->deadline_ns)
			w->record = WINDOW;
	}
	return w->y.full || w->stopped;
}

/* The rest of the step's ring: behind `from` if it is on, else all of it. Sets ended, stopped,
 * full or restart; none of them if bpf_loop() came to its own end. */
__noinline int walk_ring(__u32 slot)
{
	struct progress *p = bpf_map_lookup_elem(&progresses, &slot);
	struct walk w;
	__u64 first = 0;

	if (!p)
		return 0;
	w = p->walk;
	w.ended = 0;
	w.head = w.heads[w.ring & (RINGS - 1)];
	if (!w.head) {
		p->walk.ended = 1;
		return 0;
	}
	if (!w.on)
		w.from = w.head;
	if (read_user(&first, sizeof(first), w.from + (w.y.back ? 8 : 0)))
		walk_fails(&w, PYLEAK_RESTART_FAULT);
	w.cur = LINK(first);
	if (!w.restart)
		bpf_loop(LOOP_MAX, visit, &w, 0);
	p->walk = w;
	return 0;
}

#endif
