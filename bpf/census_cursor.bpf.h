/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Between two steps of a census the target goes on, and nodes where a step ended die. What it takes
 * to go on soundly from one of them, or to know that one cannot. Included by census.bpf.h only.
 */
#ifndef PYLEAK_CENSUS_CURSOR_BPF_H
#define PYLEAK_CENSUS_CURSOR_BPF_H

#include "bpf/census_walk.bpf.h"

/* No cursor is left in the last so many nodes of the old ring. */
#define TAIL 4096
/* So many nodes are searched for a cursor that came back as another object: some 0.3 ms. */
#define PROMOTED_MAX 8192

#define TPFLAGS_IMMUTABLETYPE (1UL << 8) /* from 3.10 on: not made by a class statement */
#define TPFLAGS_HEAPTYPE      (1UL << 9)

static __always_inline __u32 filter_bit(__u64 node)
{
	return (node >> 4 ^ node >> 14) & 4095;
}

struct dying {
	__u64 node;
	__u32 slot;
	__u32 pad;
};

static long cursor_kill(__u32 i, struct dying *d)
{
	struct progress *p = bpf_map_lookup_elem(&progresses, &d->slot);
	struct cursor *c;

	if (!p)
		return 1;
	c = &p->window[i & (WINDOW - 1)];
	if (c->node == d->node)
		c->node = 0;
	return 0;
}

/* An object dies in the midst of a census: it is no cursor any more, whoever lives there next. */
__noinline int cursor_dies(__u32 slot, __u64 object)
{
	struct dying d = {.node = object - GC_HEAD_BYTES, .slot = slot};
	struct progress *p = bpf_map_lookup_elem(&progresses, &slot);
	__u32 bit = filter_bit(d.node);

	if (p && p->filter[bit >> 6 & 63] & 1UL << (bit & 63))
		bpf_loop(WINDOW, cursor_kill, &d, 0);
	return 0;
}

struct filling {
	__u32 slot, n;
};

static long filter_add(__u32 i, struct filling *f)
{
	struct progress *p = bpf_map_lookup_elem(&progresses, &f->slot);
	__u32 bit;

	if (!p || i >= f->n)
		return 1;
	bit = filter_bit(p->window[(p->n_window - 1 - i) & (WINDOW - 1)].node);
	p->filter[bit >> 6 & 63] |= 1UL << (bit & 63);
	return 0;
}

__noinline int filter_fill(__u32 slot)
{
	struct progress *p = bpf_map_lookup_elem(&progresses, &slot);
	struct filling f = {.slot = slot};

	if (!p)
		return 0;
	f.n = p->n_window;
	__builtin_memset(p->filter, 0, sizeof(p->filter));
	bpf_loop(WINDOW, filter_add, &f, 0);
	return 0;
}

/*
 * What these loops find, for whoever holds `walking`. Not on the stack: verifiers before Linux 6.7 look
 * at a callback as if it ran once, and take out what a later run would need: there a value that stands
 * on the stack is known, and what depends on another one is dead code.
 */
static struct picking {
	__u64 node;
	__u64 anchor;
	__u32 slot;
	__u32 n;      /* newer ones that are gone */
	__u32 reused; /* another type lives there */
	__u32 want_anchor;
} pick USED;

static struct seeking {
	__u64 at, head, node;
	__u32 found, failed;
	__u32 link; /* seek_on(): offset of the link to follow */
} seek USED;

/* Newest first: the first that is still linked where it stood. And, if wanted, the first from there
 * on whose type frees its objects where it is seen. */
static long cursor_pick(__u32 i, void *unused)
{
	struct picking *k = &pick;
	__u32 slot = k->slot;
	struct progress *p = bpf_map_lookup_elem(&progresses, &slot);
	__u64 node[4], link = 0, flags = 0;
	struct cursor c;

	if (!p || i >= p->n_window)
		return 1;
	c = p->window[(p->n_window - 1 - i) & (WINDOW - 1)];
	if (!c.node || read_user(node, sizeof(node), c.node) || !LINK(node[0]) || !LINK(node[1]))
		return 0;
	if (read_user(&link, sizeof(link), LINK(node[0]) + 8) || LINK(link) != c.node)
		return 0;
	if (read_user(&link, sizeof(link), LINK(node[1])) || LINK(link) != c.node)
		return 0;
	if (!k->node) {
		k->node = c.node;
		k->n = i;
		if (node[3] != c.type)
			k->reused = 1;
		if (k->reused || !k->want_anchor)
			return 1;
	}
	if (node[3] != c.type || read_user(&flags, sizeof(flags), c.type + OFF_TP_FLAGS) ||
		(flags & (TPFLAGS_HEAPTYPE | TPFLAGS_IMMUTABLETYPE)) != TPFLAGS_HEAPTYPE)
		return 0;
	k->anchor = c.node;
	return 1;
}

static __always_inline void cursor_find(__u32 slot, int want_anchor)
{
	pick.node = pick.anchor = 0;
	pick.slot = slot;
	pick.n = pick.reused = 0;
	pick.want_anchor = want_anchor;
	bpf_loop(WINDOW, cursor_pick, 0, 0);
}

static long seek_back(__u32 i, void *unused)
{
	struct seeking *s = &seek;
	__u64 prev;

	if (read_user(&prev, sizeof(prev), s->at + 8)) {
		s->failed = 1;
		return 1;
	}
	prev = LINK(prev);
	if (prev == s->head)
		return 1;
	s->at = prev;
	s->found = prev == s->node;
	return s->found != 0;
}

static long seek_on(__u32 i, void *unused)
{
	struct seeking *s = &seek;
	__u64 next;

	s->found = s->at == s->node;
	if (s->found || read_user(&next, sizeof(next), s->at + s->link))
		return 1;
	s->at = LINK(next);
	return 0;
}

/*
 * Types with free lists (list, dict, tuple) are freed without a hit, and the next object of the type
 * looks just like the one that stood there. But it is born into the youngest ring: from there a walk
 * arrives at a wrong head, unless collections have moved it to the end of the old ring. After one
 * a cursor must be proven to stand where it stood: either next to one of a class of the program's
 * own (whose instances die at a hit: subtype_dealloc() calls tp_free, PyObject_GC_Del), or by not
 * being among what was moved, n nodes.
 */
static __always_inline int is_anchored(__u32 back)
{
	seek.node = pick.node;
	seek.at = pick.anchor;
	seek.link = back ? 8 : 0;
	seek.found = 0;
	bpf_loop(WINDOW + 1, seek_on, 0, 0);
	return seek.found;
}

/* In the young ring that is where the walk is on its way to. Where there is no such class nearby it
 * cannot be told: the census is an estimate. */
static __always_inline int was_born_again(__u32 back)
{
	return pick.anchor && !is_anchored(back) ? 1 + PYLEAK_RESTART_REUSED : 0;
}

static __always_inline int was_promoted(__u64 head, __u64 n, __u32 back)
{
	if (pick.anchor && is_anchored(back))
		return 0;
	if (n > PROMOTED_MAX)
		return 1 + PYLEAK_RESTART_PROMOTED;
	seek.node = pick.node;
	seek.at = seek.head = head;
	seek.found = seek.failed = 0;
	bpf_loop(n, seek_back, 0, 0);
	if (seek.failed)
		return 1 + PYLEAK_RESTART_FAULT;
	return seek.found ? 1 + PYLEAK_RESTART_REUSED : 0;
}

/* Two nodes some way before the end of a ring, the second in case the first one dies. */
static __always_inline void mark_tail(struct progress *p, __u64 head)
{
	seek.at = seek.head = head;
	seek.node = 0;
	bpf_loop(TAIL / 2, seek_back, 0, 0);
	p->tail[1] = seek.at == head ? 0 : seek.at;
	bpf_loop(TAIL / 2, seek_back, 0, 0);
	p->tail[0] = seek.at == head ? 0 : seek.at;
}

#endif
