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

/* Kept whole: taken to pieces, its parts are not what the object's BTF says of it. */
#define USED __attribute__((used))

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

/*
 * Memory as it was read in this walk: what a node costs is one call of the kernel's, and in a heap that
 * lies in order the neighbours of a node come next, or soon (each size of object has pools of its own, so
 * a ring goes to and fro between some of them). Where that does not pay nodes are read one by one; it
 * is tried again every LINES_REST of them. `walking` and the number of the walk as above.
 */
#define LINE_BYTES 1024
#define LINE_WORDS (LINE_BYTES / 8)
#define LINES      32
#define LINES_TRY  32 /* lines read in vain, on balance, before that ends */
#define LINES_REST 1024
#define NODE_WORDS 4 /* next, prev, reference count, type */

static struct line {
	__u64 word[LINE_WORDS];
	__u64 at;
	__u32 walk;
} lines[LINES];
static __u64 lone_node[NODE_WORDS];

struct cursor {
	__u64 node, type;
};

/*
 * One step, of whoever holds `walking`. Not on the stack: up to Linux 6.9 frames are rounded up to 32
 * bytes, and those of a chain of calls must not take more than 512.
 */
static struct walk {
	__u32 slot, run, number, stamp;
	__u32 back;            /* against the order */
	__u32 full;            /* no room for a type's counters */
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
	__u32 lines,
		rest; /* lines to be read in vain before nodes are read one by one; so many of them */
} walk USED;

/* A census under way, one a slot. Where it began and what the rings looked like at its last step. */
struct progress {
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

__noinline int tally_flush(__u64 type, __u32 n)
{
	struct walk *w = &walk;
	__u32 slot = w->slot;
	void *counts = bpf_map_lookup_elem(&counts_of, &slot);
	struct pyleak_target *t = bpf_map_lookup_elem(&targets, &slot);
	struct pyleak_count *c = counts && t ? count_of(counts, type, t->epoch) : 0;

	if (!c) {
		w->full = 1;
		return 0;
	}
	if (c->live_run != w->run) {
		c->live = 0;
		c->live_run = w->run;
	}
	/* Every forward step has a stamp of its own, so that its share stands in live_min if it
	 * turns out to be the closing one; the backward pass goes on with that. */
	if (c->live_stamp != w->stamp) {
		c->live_min = 0;
		c->live_stamp = w->stamp;
	}
	c->live_min += n;
	if (!w->back)
		c->live += n;
	return 0;
}

static __always_inline void tally_add(__u64 type)
{
	struct tally *y = &tallies[(type >> 4 ^ type >> 16) & (CACHE_SLOTS - 1)];

	if (y->type == type && y->walk == walk.number) {
		y->n++;
		return;
	}
	if (y->walk == walk.number)
		tally_flush(y->type, y->n);
	y->type = type;
	y->n = 1;
	y->walk = walk.number;
}

static long drain(__u32 i, void *unused)
{
	struct tally *y = &tallies[i & (CACHE_SLOTS - 1)];

	if (y->walk == walk.number)
		tally_flush(y->type, y->n);
	return walk.full != 0;
}

static __always_inline void record(__u64 type)
{
	__u32 slot = walk.slot;
	struct progress *p = bpf_map_lookup_elem(&progresses, &slot);
	struct cursor *c;

	if (!p)
		return;
	c = &p->window[walk.n_window++ & (WINDOW - 1)];
	c->node = walk.cur;
	c->type = type;
}

static __always_inline long walk_fails(enum pyleak_restart why)
{
	walk.restart = why + 1;
	return 1;
}

/* The node at `cur` if it lies in a line, else NULL. */
static __always_inline const __u64 *read_line(void)
{
	struct walk *w = &walk;
	__u64 at = w->cur & ~(LINE_BYTES - 1UL);
	__u32 i = w->cur >> 3 & (LINE_WORDS - 1);
	struct line *l = &lines[(at / LINE_BYTES ^ at >> 14) & (LINES - 1)];

	barrier_var(i); /* what is compared is what is used: compilers like to do the sum twice */
	if (w->cur & 7 || i > LINE_WORDS - NODE_WORDS)
		return 0;
	if (l->at == at && l->walk == w->number) {
		if (w->lines < LINES_TRY)
			w->lines++;
		return &l->word[i];
	}
	if (--w->lines == 0)
		w->rest = LINES_REST;
	l->walk = 0;
	if (bpf_probe_read_user(l->word, LINE_BYTES, (void *)at))
		return 0;
	l->at = at;
	l->walk = w->number;
	return &l->word[i];
}

/* Not into the stack: verifiers of Linux 6.18 end with an error of their own at a callback's that only
 * helpers write to on some of its paths. */
static __always_inline const __u64 *read_node(void)
{
	struct walk *w = &walk;
	const __u64 *node = 0;

	if (w->lines)
		node = read_line();
	else if (--w->rest == 0)
		w->lines = LINES_TRY;
	if (node)
		return node;
	if (!bpf_probe_read_user(lone_node, sizeof(lone_node), (void *)w->cur))
		return lone_node;
	w->check = 1; /* this may wait for a disk */
	return bpf_copy_from_user(lone_node, sizeof(lone_node), (void *)w->cur) ? 0 : lone_node;
}

static long visit(__u32 i, void *unused)
{
	struct walk *w = &walk;
	const __u64 *node;

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
		return walk_fails(PYLEAK_RESTART_RING);
	node = read_node();
	if (!node)
		return walk_fails(PYLEAK_RESTART_FAULT);
	if (LINK(node[w->back ? 0 : 1]) != w->from)
		return walk_fails(PYLEAK_RESTART_LINK);
	if (w->cur != w->skip) {
		tally_add(node[3]);
		w->objects++;
		if (w->record_all || w->record)
			record(node[3]);
	}
	w->from = w->cur;
	w->on = 1;
	w->cur = LINK(node[w->back ? 1 : 0]);
	if (w->record) {
		if (--w->record == 0)
			w->stopped = 1;
	} else if (--w->check == 0) {
		w->check = CLOCK_EVERY;
		if (bpf_ktime_get_ns() > w->deadline_ns)
			w->record = WINDOW;
	}
	return w->full || w->stopped;
}

/* The rest of the step's ring: behind `from` if it is on, else all of it. Sets ended, stopped,
 * full or restart; none of them if bpf_loop() came to its own end. */
static __always_inline void walk_ring(void)
{
	struct walk *w = &walk;
	__u64 first = 0;

	w->head = w->heads[w->ring & (RINGS - 1)];
	w->ended = !w->head;
	if (w->ended)
		return;
	if (!w->on)
		w->from = w->head;
	if (read_user(&first, sizeof(first), w->from + (w->back ? 8 : 0)))
		walk_fails(PYLEAK_RESTART_FAULT);
	w->cur = LINK(first);
	if (!w->restart)
		bpf_loop(LOOP_MAX, visit, 0, 0);
}

#endif
