/* SPDX-License-Identifier: MIT */
/*
 * Kernel <-> daemon: what the BPF programs in bpf/ and daemon/probe share.
 *
 * Every target has a slot. A slot has one `struct pyleak_target` in an array (mapped into the
 * daemon: arming a census is a store, no system call) and one hash of its own, type address ->
 * `struct pyleak_count`, as an inner map. Its own, so that a target that makes classes without end
 * fills nobody else's table, so that reading a target costs its own types only, and so that
 * forgetting it is one call. Not per-CPU: the GIL serialises a target anyway, and a per-CPU value
 * is paid for every *possible* CPU (64 bytes x 256 CPUs x 2000 types x 64 targets is 2 GB).
 */
#ifndef PYLEAK_COUNTS_H
#define PYLEAK_COUNTS_H

#include <linux/types.h>

#define PYLEAK_MAX_TARGETS 256 /* slots; one more is the daemon's own, for calibration */
#define PYLEAK_MAX_TYPES   131072
#define PYLEAK_MAX_OWN     4096 /* of all targets */
#define PYLEAK_RING_BYTES  (1 << 20)

/* The cookie of a site: slot, which register of pt_regs holds the argument (enum pyleak_reg),
 * whether the kernel has to single-step the instruction under the probe, and for whose sake the site
 * is there (enum pyleak_group). */
#define PYLEAK_COOKIE(slot, reg, stepped, group)                                                   \
	((__u64)(slot) | (__u64)(reg) << 16 | (__u64) !!(stepped) << 24 | (__u64)(group) << 25)
#define PYLEAK_COOKIE_SLOT(c)    ((__u32)((c)&0xffff))
#define PYLEAK_COOKIE_REG(c)     ((__u32)((c) >> 16 & 0xff))
#define PYLEAK_COOKIE_STEPPED(c) ((__u32)((c) >> 24 & 1))
#define PYLEAK_COOKIE_GROUP(c)   ((__u32)((c) >> 25 & 3))

/* What is attached together, and billed apart. */
enum pyleak_group {
	PYLEAK_GROUP_INSTANCES,  /* births through tp_alloc: instances of classes, most of all */
	PYLEAK_GROUP_CONTAINERS, /* the other births */
	PYLEAK_GROUP_DEATHS,
	PYLEAK_N_GROUPS,
};

/* x86-64 numbering of general registers, as in ModRM. */
enum pyleak_reg {
	PYLEAK_RAX,
	PYLEAK_RCX,
	PYLEAK_RDX,
	PYLEAK_RBX,
	PYLEAK_RSP,
	PYLEAK_RBP,
	PYLEAK_RSI,
	PYLEAK_RDI,
	PYLEAK_R8,
	PYLEAK_R9,
	PYLEAK_R10,
	PYLEAK_R11,
	PYLEAK_R12,
	PYLEAK_R13,
	PYLEAK_R14,
	PYLEAK_R15,
	PYLEAK_N_REGS,
};

/*
 * Counters of one type. The key is the type's address, `incarnation` tells apart the types that
 * lived there one after the other: it is given when the entry is made and never used again.
 *
 * The census instant. A census hit first advances the target's `epoch`, then walks. The first
 * count of an entry in a new epoch copies births and deaths to births_at and deaths_at before it
 * adds (and stores `epoch` after that). So at any later time the counters at the instant of
 * census E are births_at, deaths_at where epoch == E, else births and deaths themselves: nobody has
 * touched them since. A reader that races with a hit looks the entry up again: a copy that was begun
 * after the stamp was seen is whole, and so is one after which the stamp was not yet there.
 */
struct pyleak_count {
	__u64 incarnation;
	__u64 births, deaths;
	__u64 births_at, deaths_at;
	/* What the census found, see struct pyleak_census: */
	__u64 live;     /* its forward pass, if live_run is the census's run; else none */
	__u64 live_min; /* its backward pass, if live_stamp is the census's stamp; else none */
	__u32 epoch;
	__u32 live_run;
	__u32 live_stamp;
	__u32 flags; /* enum pyleak_count_flags, read from the type when the entry was made */
};

/*
 * The same of a type of an extension, counted at two functions of its own, in tp_new and in tp_dealloc:
 * it may keep its dead to use them again, or not ask CPython for memory at all. The daemon makes the
 * entry, keyed by incarnation; what was counted at a census's instant is told as above.
 */
struct pyleak_own {
	__u64 make, end; /* the functions */
	__u64 births, deaths;
	__u64 births_at, deaths_at;
	__u32 epoch;
	__u32 pad;
};

enum pyleak_count_flags {
	PYLEAK_COUNT_GC = 1,   /* instances are known to the collector, so their deaths are seen */
	PYLEAK_COUNT_META = 2, /* instances are types themselves */
	PYLEAK_COUNT_CONTAINER = 4, /* born at a site of PYLEAK_GROUP_CONTAINERS as well */
};

enum pyleak_census_status {
	PYLEAK_CENSUS_OK,
	PYLEAK_CENSUS_RESTARTS,  /* given up: began anew too often, `restarts` says why */
	PYLEAK_CENSUS_FULL,      /* no room for a type's counters */
	PYLEAK_CENSUS_TOO_LARGE, /* more than one step, and the collector's books are not known */
};

/* Why a census had to begin anew. */
enum pyleak_restart {
	PYLEAK_RESTART_COLLECTION, /* a full collection put the rings in another order */
	PYLEAK_RESTART_FREEZE,     /* gc.freeze() or gc.unfreeze() moved everything */
	PYLEAK_RESTART_YOUNG,      /* a collection while the middle or the young ring was walked in steps */
	PYLEAK_RESTART_LOST,       /* none of the nodes a step ended at is there any more */
	PYLEAK_RESTART_REUSED,     /* where the step ended lives another object now */
	PYLEAK_RESTART_PROMOTED,   /* or perhaps: too much was promoted to tell */
	PYLEAK_RESTART_RING,       /* the walk arrived at another ring's head */
	PYLEAK_RESTART_LINK,       /* a back link did not lead where the walk came from */
	PYLEAK_RESTART_FAULT,      /* a node could not be read */
	PYLEAK_N_RESTARTS,
};

enum pyleak_census_flags {
	PYLEAK_CENSUS_YOUNG =
		1, /* the young ring in steps: reused memory cannot be told apart there */
};

/*
 * A census walks forward through the rings, oldest first, in steps; the hit in which it reaches the
 * end is its instant t1. That gives W, a type's objects alive at t1 and those that were visited and
 * have died since. The closing step's own share is exact; from where it began the census walks back,
 * which gives B, those alive at t1 less those that died before they were reached. So per type
 * B <= alive at t1 <= W, and a census of one step has W = B. See bpf/census.bpf.h.
 */
struct pyleak_census {
	__u32 number;     /* as armed; stored last, the rest is valid once it is there */
	__u32 epoch;      /* of the counters, began at t1 */
	__u32 run, stamp; /* of what was found, see struct pyleak_count */
	__u32 status;
	__u32 flags;
	__u32 steps; /* of all attempts */
	__u32 restarts[PYLEAK_N_RESTARTS];
	__u64 start_ns; /* CLOCK_MONOTONIC, of the closing step: t1 */
	__u64 end_ns;   /* of the last step */
	__u64 pause_ns; /* longest step */
	__u64 close_ns; /* the closing step */
	__u64 cost_ns;  /* all steps together */
	__u64 objects;  /* by the forward pass */
};

/* One watched process. The daemon writes what stands above the line before it enables the slot and
 * the budget before it sets `armed`; the programs write the rest. */
struct pyleak_target {
	/* Whom to count: tgid as the target's own pid namespace numbers it. That namespace is named
	 * by device and inode of /proc/PID/ns/pid, so it is right wherever the daemon itself is. */
	__u64 pidns_dev, pidns_ino;
	__u32 tgid;      /* 0: nothing is counted in this slot */
	__u32 root_tgid; /* the same in the first namespace, noted by the first hit; 0 before */
	__u64 head[4]; /* rings in the order of the walk: permanent, old, middle, young; 0: none */
	__u64 collecting; /* address of the int that is not 0 while the collector runs */
	/* How often each generation was collected: a 64-bit number at `collections`, plus 64 times
	 * the byte at `collections_slot` unless that is 0. In the order of the generations. */
	__u64 collections[3], collections_slot[3];
	__u64 pending; /* address of how many were moved to the old ring since its collection; 0:
			* all these are not known, and there can be no second step */
	__u64 young_count; /* address of how many were born into the young ring, net (int) */
	/* ---- */
	__u64 budget_ns;  /* how long a step of a census may take */
	__u64 close_ns;   /* and the closing one */
	__u64 close_type; /* for tests: only a birth of this type closes a census; 0: any hit */
	__u64 limit; /* hits at which an event is due: what may be spent is spent; taken by setting
		      * UINT64_MAX */
	__u32 armed; /* not 0: number of the census wanted; the program takes it by setting 0 */
	__u32 epoch; /* censuses begun */
	__u64 hits, hits_stepped;
	__u64 hits_of[PYLEAK_N_GROUPS];
	__u64 dropped; /* hits not counted: table full, or the type could not be read */
	__u64 lost;    /* dead classes that could not be told because the ring buffer was full */
	struct pyleak_census census; /* the last one */
	__u64 armed_ns;  /* CLOCK_MONOTONIC, when `armed` was set, or when the next step is due */
	__u64 census_ns; /* spent in censuses so far */
	__u32 stepping;  /* number of the census that is under way, 0: none */
	__u32 census_steps; /* so far */
	__u32 runs;
	__u32 pad2[5]; /* whole cache lines: neighbours in the array run on other CPUs */
};

enum pyleak_event_kind {
	PYLEAK_EVENT_CENSUS = 1, /* one has ended, see the slot's `census` */
	PYLEAK_EVENT_GONE,       /* a class has died; its entry has been removed */
	PYLEAK_EVENT_LIMIT,      /* the target's hits have reached its limit */
};

struct pyleak_event {
	__u32 kind;
	__u32 slot;
	/* of a class that died: */
	__u64 type;
	struct pyleak_count count;
	__u32 epoch; /* the target's at its death */
	__u32 pad;
};

_Static_assert(sizeof(struct pyleak_count) == 72, "kernel and daemon must agree");
_Static_assert(sizeof(struct pyleak_own) == 56, "kernel and daemon must agree");
_Static_assert(sizeof(struct pyleak_target) == 384, "kernel and daemon must agree");
_Static_assert(sizeof(struct pyleak_event) == 96, "kernel and daemon must agree");

#endif
