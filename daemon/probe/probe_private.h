/* SPDX-License-Identifier: MIT */
/*
 * What the files of this folder share; nobody else includes it.
 *
 *   probe.c     the BPF object, the slots of its targets, events
 *   attach.c    from a plan to a target
 *   scope.c     what of it is attached
 *   links.c     uprobe_multi links, or perf uprobes where there are none
 *   untracked.c types that the collector does not know, and those of extensions
 *   children.c  breakpoints that forked children inherited
 *   counters.c  reading a target's counters, classes that have died
 *   census.c    arming a census and collecting its result
 */
#ifndef PYLEAK_PROBE_PRIVATE_H
#define PYLEAK_PROBE_PRIVATE_H

#include "bpf/pyleak.skel.h"
#include "daemon/probe/plan.h"
#include "daemon/probe/probe.h"
#include "daemon/util/u64map.h"
#include "include/pyleak/counts.h"

struct gone {
	uint64_t type;
	struct pyleak_count count;
	uint32_t epoch; /* the target's when it died */
};

struct gone_list {
	struct gone *v;
	size_t n, cap;
	uint64_t dropped;
};

struct links {
	struct bpf_link **v;
	size_t n;
};

struct file_id {
	dev_t dev;
	ino_t ino;
};

/* See untracked.c. */
struct untracked_site {
	uint64_t address; /* of the function, in the target */
	int fd;           /* the file that holds it */
	unsigned long offset;
	uint8_t reg;
};

struct untracked {
	struct links links;
	struct untracked_site v[64];
	size_t n;
	struct u64map since; /* incarnation of a type -> births when its deaths began to be seen */
};

/* A type that is counted at its own functions. */
struct own {
	uint64_t incarnation, make, end;
	bool on; /* both are attached */
	bool refused;
};

struct probe_target {
	struct probe *probe;
	const struct python *py;
	struct probe_target_options options;
	struct plan plan;
	struct python_rings rings;
	bool has_rings; /* and they are all there is to walk */
	uint32_t slot;
	int counts; /* map: type -> struct pyleak_count */
	unsigned counts_max; /* entries it has room for */
	enum probe_scope scope;
	struct links links[PYLEAK_N_GROUPS];
	bool no_follow;
	struct untracked untracked;
	struct own owns[64];
	size_t n_owns;

	struct file_id program, file; /* what the process executes; what holds CPython */
	bool inherited;               /* some child has its breakpoints */
	uint64_t children, sweeps, sweep_ns;

	struct gone_list gone; /* not yet reported by probe_target_read() */
	uint64_t told_dropped; /* by the last of them */

	uint64_t limit;     /* hits at which it is; UINT64_MAX: never */
	bool limit_reached; /* on_limit is due */
	uint32_t armed;  /* number of the census that is out, 0: none */
	uint64_t armed_ns;
	uint32_t number; /* last one given */
	bool ready;      /* its result is here and waits for probe_dispatch(): */
	struct census_result result;
	struct census_type *result_types;
};

/* See children.c. */
struct children {
	pid_t *known; /* processes that were looked at, sorted */
	size_t n;
	unsigned long last_pid;
	bool again; /* one of them has to be looked at once more */
	uint64_t not_before_ns, delay_ns;
};

struct probe {
	struct pyleak_bpf *bpf;
	struct closers *closers;
	bool perf;           /* one perf uprobe a site instead of uprobe_multi links */
	struct err no_multi; /* why, if nobody asked for it */
	struct children children;
	struct ring_buffer *ring;
	int epoll, wake;
	unsigned max_targets, max_types;
	struct pyleak_target *shared; /* the array, mapped; one slot more than max_targets */
	size_t shared_bytes;
	struct probe_target **targets; /* by slot */
	bool *leaving; /* by slot: links of the target that had it last are still there */
	uint64_t cost_ns, cost_stepped_ns;
};

/* ---- probe.c ---- */

/* Why BPF was refused: names the capability that is missing, if one is. Returns -EPERM. */
int probe_refused(const struct probe *p, struct err *err, const char *what);

/* The slot's hash, made and hung into the outer map: a descriptor of the caller's. */
int slot_counts(struct probe *p, uint32_t slot, unsigned types);
/* The two halves of that. A map for so many types, a descriptor of the caller's; and hung in. */
int counts_map(unsigned types);
int slot_hang(struct probe *p, uint32_t slot, int counts);
/* Who is to be counted in this slot, see struct pyleak_target. Does not switch it on. */
int slot_identity(struct probe *p, uint32_t slot, pid_t pid, uint32_t *ret_tgid);
/* From here on its hits count: all sites at the same instant. */
void slot_enable(struct probe *p, uint32_t slot, uint32_t tgid);
void slot_disable(struct probe *p, uint32_t slot);
/* After its links are gone. */
void slot_clear(struct probe *p, uint32_t slot);
uint64_t slot_hits(const struct probe *p, uint32_t slot);

/* Takes in all events; answered censuses become results. */
int probe_drain(struct probe *p);

/* ---- scope.c ---- */

/* All that is attached, moved to `to`, where it cannot be moved detached. */
void target_links_take(struct probe_target *t, struct links *to);

/* ---- links.c ---- */

/* Puts a program on n places of the file at path, in process pid, and adds the links. */
int links_attach(struct probe *p, struct bpf_program *prog, pid_t pid, const char *path,
	const unsigned long *offsets, const __u64 *cookies, size_t n, struct links *l);
/* Detaches all of them, as fast as if there were only one. */
void links_release(struct links *l);
/* The same in the background, if that can be had; *busy (or NULL) is true until it is done. */
void links_release_later(struct probe *p, struct links *l, bool *busy);
int closers_new(struct closers **ret);
/* Waits until all is detached. */
void closers_free(struct closers *c);
/* CPU time that the last release in the background took. */
uint64_t closers_took_ns(struct closers *c);
int links_move(struct links *to, struct links *from);

/* ---- untracked.c ---- */

struct entry;

/* Attaches to the deaths of types without collector that many were born of, a few at a time. */
int untracked_follow(struct probe_target *t, const struct entry *v, size_t n);
/* Births since deaths are seen as well, and those; 0 where they cannot be; false: it is not known yet. */
bool untracked_flow(const struct probe_target *t, const struct pyleak_count *c,
	uint64_t *ret_births, uint64_t *ret_deaths);
/* Attaches what probe_target_own() has asked for, a few at a time. */
void own_follow(struct probe_target *t);
/* What was counted there, up to a census: epoch, or 0, until now. False: it is not counted. */
bool own_read(const struct probe_target *t, uint64_t incarnation, uint32_t epoch,
	uint64_t *ret_births, uint64_t *ret_deaths);
void own_forget(struct probe_target *t, uint64_t incarnation);
void own_release(struct probe_target *t);
/* As sweep() in children.c, for the files that these deaths are in. */
int untracked_sweep(struct probe_target *t);
/* Lets go of those deaths in the background. They are followed anew when next asked to. */
void untracked_let_go(struct probe_target *t);
/* Its links are the caller's. */
void untracked_release(struct untracked *u);

/* ---- children.c ---- */

/* Notes by what its children are recognised. */
int children_identify(struct probe_target *t);
void children_release(struct children *c);

/* ---- counters.c ---- */

struct entry {
	uint64_t type;
	struct pyleak_count count;
};

/* All entries of the target's hash, in no order. *ret is malloc'ed. */
int counters_read(const struct probe_target *t, struct entry **ret, size_t *ret_n);
/* Whether it says something. Types whose deaths nobody sees do not: their births alone would
 * look like a leak. */
bool counters_worth_telling(const struct pyleak_count *c);
/* A class has died: kept until the next probe_target_read(). */
void counters_gone(struct gone_list *g, const struct pyleak_event *e);

/* ---- census.c ---- */

/* Turns an answered census into a result that waits for probe_dispatch(). */
int census_finish(struct probe_target *t);

#endif
