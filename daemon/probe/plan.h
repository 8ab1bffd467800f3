/* SPDX-License-Identifier: MIT */
/*
 * Where probes go. PURE over an ELF image: which functions of a CPython build make and free
 * objects, and on which instruction of each the breakpoint stands.
 *
 * The instruction decides what a hit costs: the kernel emulates `push reg`, `nop` and relative
 * jumps and calls in place (arch/x86/kernel/uprobes.c, push_xol_ops and branch_xol_ops; 0.4 us);
 * anything else is stepped out of line, which costs twice that on bare metal and forty times that
 * in some virtual machines. So the first such instruction is taken on the straight line from the
 * entry on which the argument is still in a register and nothing has been written to memory yet,
 * other than saved registers: in PyObject_GC_Del the rings must still be whole, the census walks
 * them there.
 *
 * An allocator may have others in front of it. If a birth function calls or jumps to another
 * allocator with its type (the local _PyType_AllocNoTrack behind PyType_GenericAlloc, which
 * callers inside an LTO build use past the exported one), only the inner one is probed: an object
 * must pass exactly one birth site.
 */
#ifndef PYLEAK_PROBE_PLAN_H
#define PYLEAK_PROBE_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/python/elf_image.h"
#include "daemon/util/err.h"

#define PLAN_SITES_MAX 32

enum plan_kind {
	PLAN_BIRTH, /* the argument is a type */
	PLAN_DEATH, /* the argument is an object known to the collector */
};

/* An instruction within a function. */
struct plan_place {
	uint32_t delta; /* bytes from the function's entry */
	uint8_t reg;    /* enum pyleak_reg: where the first argument is */
	bool stepped;   /* not emulated by the kernel */
	char insn[16];  /* "push", "jne", … */
};

struct plan_site {
	char function[64]; /* symbol, or "behind SYMBOL" for a local function */
	uint64_t vaddr;    /* of the function's entry */
	uint64_t offset;   /* in the file, of the instruction */
	enum plan_kind kind;
	struct plan_place place;
};

struct plan {
	struct plan_site v[PLAN_SITES_MAX];
	size_t n;
};

/* -ENOENT: no birth or no death function found; -EOPNOTSUPP: not x86-64. */
int plan_make(const struct elf_image *e, struct plan *ret, struct err *err);

/* One more birth function: one that stands in a tp_alloc slot and has no symbol, such as dict's from
 * 3.11 on. Nothing is added if it is planned already, or lies behind one that is. */
int plan_add_birth(const struct elf_image *e, struct plan *p, const char *name, uint64_t vaddr,
	struct err *err);

/* "2 birth sites (PyType_GenericAlloc+0 push, …), 1 death site (…)". Returns buf. */
char *plan_describe(const struct plan *p, char *buf, size_t n);

/* Whether its births come through tp_alloc: instances of classes, and little else that is hot. */
bool plan_makes_instances(const struct plan_site *s);

/* The two questions behind it, on bytes of a function that begins at vaddr. */

/* The place for a breakpoint in code (n bytes, the first size of which are the function; 0: not
 * known). Always finds one: the entry, stepped, if nothing better. -EINVAL: not even the first
 * instruction can be decoded; -ENOMEM. */
int plan_place(const uint8_t *code, size_t n, size_t size, uint64_t vaddr, struct plan_place *ret);

/* Whether it loads tp_basicsize, tp_itemsize and tp_flags through its first argument before it
 * calls anything or returns: an allocator. */
bool plan_is_allocator(const uint8_t *code, size_t n, uint64_t vaddr);

#endif
