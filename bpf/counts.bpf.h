/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Per-type counters of a target: who was hit, which type, count it, and what happens when a class
 * itself dies. Included by pyleak.bpf.c only.
 */
#ifndef PYLEAK_COUNTS_BPF_H
#define PYLEAK_COUNTS_BPF_H

#include "include/pyleak/counts.h"

/* The only facts about CPython used here; all of them hold from 3.8 to 3.15. */
#define OFF_OB_TYPE           8
#define OFF_TP_DEALLOC        48
#define OFF_TP_FLAGS          168
#define TPFLAGS_HAVE_GC       (1UL << 14)
#define TPFLAGS_TYPE_SUBCLASS (1UL << 31)

#define SITE_BYTES 128 /* a site is not further from the entry of its function: plan.c */

#define barrier() asm volatile("" ::: "memory")

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set by the daemon before loading */
	__type(key, __u32);
	__type(value, struct pyleak_target);
} targets SEC(".maps");

struct counts {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* the daemon makes the real ones, one a target */
	__uint(key_size, sizeof(__u64));
	__uint(value_size, sizeof(struct pyleak_count));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1); /* set by the daemon before loading */
	__type(key, __u32);
	__array(values, struct counts);
} counts_of SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PYLEAK_MAX_OWN);
	__type(key, __u64); /* incarnation */
	__type(value, struct pyleak_own);
} owns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, PYLEAK_RING_BYTES);
} events SEC(".maps");

__u64 incarnations;

/* The site's argument. By inline assembly, because an offset that is not constant (which clang
 * makes out of the switch otherwise) is refused on a context pointer. */
#define READ_REG(field)                                                                            \
	asm volatile("%[v] = *(u64 *)(%[c] + %[o])"                                                \
		     : [v] "=r"(v)                                                                 \
		     : [c] "r"(ctx), [o] "i"(__builtin_offsetof(struct pt_regs, field)))

static __always_inline __u64 site_argument(struct pt_regs *ctx, __u32 reg)
{
	__u64 v = 0;

	switch (reg) {
	case PYLEAK_RDI:
		READ_REG(rdi);
		break;
	case PYLEAK_RBX:
		READ_REG(rbx);
		break;
	case PYLEAK_RBP:
		READ_REG(rbp);
		break;
	case PYLEAK_R12:
		READ_REG(r12);
		break;
	case PYLEAK_R13:
		READ_REG(r13);
		break;
	case PYLEAK_R14:
		READ_REG(r14);
		break;
	case PYLEAK_R15:
		READ_REG(r15);
		break;
	case PYLEAK_RAX:
		READ_REG(rax);
		break;
	case PYLEAK_RCX:
		READ_REG(rcx);
		break;
	case PYLEAK_RDX:
		READ_REG(rdx);
		break;
	case PYLEAK_RSI:
		READ_REG(rsi);
		break;
	case PYLEAK_R8:
		READ_REG(r8);
		break;
	case PYLEAK_R9:
		READ_REG(r9);
		break;
	case PYLEAK_R10:
		READ_REG(r10);
		break;
	case PYLEAK_R11:
		READ_REG(r11);
		break;
	}
	return v;
}

/*
 * The target, if the current task belongs to it. The kernel filters too, by task or by memory map
 * depending on its version; a forked child, which inherits the breakpoints, must never be counted,
 * so it is checked here again. To ask for its number in another namespace takes some 20 ns of 450,
 * so that is done once and the number in the first one, which is as good, is noted.
 */
static __always_inline struct pyleak_target *target_of_hit(__u32 slot)
{
	struct bpf_pidns_info ns = {};
	struct pyleak_target *t = bpf_map_lookup_elem(&targets, &slot);

	__u32 root_tgid = bpf_get_current_pid_tgid() >> 32;

	if (!t || !t->tgid)
		return 0;
	if (t->root_tgid)
		return t->root_tgid == root_tgid ? t : 0;
	if (bpf_get_ns_current_pid_tgid(t->pidns_dev, t->pidns_ino, &ns, sizeof(ns)))
		return 0;
	if (ns.tgid != t->tgid)
		return 0;
	t->root_tgid = root_tgid;
	return t;
}

/* A page that is not there is faulted in: the programs are sleepable. */
static __always_inline long read_user(void *to, __u32 n, __u64 from)
{
	if (!bpf_probe_read_user(to, n, (void *)from))
		return 0;
	return bpf_copy_from_user(to, n, (void *)from);
}

/* The counters of a type, made if they are not there. NULL: table full, or not readable. */
static __always_inline struct pyleak_count *count_of(void *counts, __u64 type, __u32 epoch)
{
	struct pyleak_count *c = bpf_map_lookup_elem(counts, &type);
	struct pyleak_count fresh = {.epoch = epoch};
	__u64 flags = 0;

	if (c)
		return c;
	if (!type || read_user(&flags, sizeof(flags), type + OFF_TP_FLAGS))
		return 0;
	if (flags & TPFLAGS_HAVE_GC)
		fresh.flags |= PYLEAK_COUNT_GC;
	if (flags & TPFLAGS_TYPE_SUBCLASS)
		fresh.flags |= PYLEAK_COUNT_META;
	fresh.incarnation = __sync_fetch_and_add(&incarnations, 1) + 1;
	bpf_map_update_elem(counts, &type, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(counts, &type);
}

/* Before the first count in an epoch: what stood there when the epoch began. See counts.h. */
#define STAMP(c, now)                                                                              \
	do {                                                                                       \
		if ((c)->epoch == (now))                                                           \
			break;                                                                     \
		(c)->births_at = (c)->births;                                                      \
		(c)->deaths_at = (c)->deaths;                                                      \
		barrier();                                                                         \
		(c)->epoch = (now);                                                                \
		barrier();                                                                         \
	} while (0)

static __always_inline void count_stamp(struct pyleak_count *c, __u32 epoch)
{
	STAMP(c, epoch);
}

static __always_inline struct pyleak_own *own_of(const struct pyleak_count *c)
{
	__u64 incarnation = c->incarnation;

	return bpf_map_lookup_elem(&owns, &incarnation);
}

/*
 * An object of a metatype has died: a class. Its own counters end here, before its memory can
 * become another class. The event goes out first and the entry after, so that a reader who misses
 * the entry finds the event. Without room for the event the entry goes all the same and `lost` says
 * so: that loses the dead class's last counts, but never mixes them with the next one's.
 */
static __always_inline void class_gone(
	struct pyleak_target *t, void *counts, __u32 slot, __u64 type)
{
	struct pyleak_count *c = bpf_map_lookup_elem(counts, &type);
	struct pyleak_event *e;

	if (!c)
		return;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (e) {
		e->kind = PYLEAK_EVENT_GONE;
		e->slot = slot;
		e->type = type;
		__builtin_memcpy(&e->count, c, sizeof(*c));
		e->epoch = t->epoch;
		e->pad = 0;
		/* Programs that make classes by the thousand should not wake the daemon for each. */
		bpf_ringbuf_submit(
			e, bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > PYLEAK_RING_BYTES / 4
				   ? BPF_RB_FORCE_WAKEUP
				   : BPF_RB_NO_WAKEUP);
	} else {
		__sync_fetch_and_add(&t->lost, 1);
	}
	bpf_map_delete_elem(counts, &type);
}

#endif
