/* SPDX-License-Identifier: MIT */
/*
 * A running CPython, seen from outside: which build it is, where its interpreter state and its
 * rings of tracked objects are, and what its types are called. Reads only.
 */
#ifndef PYLEAK_PYTHON_PYTHON_H
#define PYLEAK_PYTHON_PYTHON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/python/elf_image.h"
#include "daemon/python/layout.h"
#include "daemon/python/proc.h"

enum python_kind {
	PYTHON_STATIC, /* the interpreter is in the executable */
	PYTHON_SHARED, /* in a libpython3.X.so, python3 or an embedding program beside it */
};

struct python {
	struct proc_id id;
	enum python_kind kind;
	bool stripped;		/* no .symtab in the file */
	bool free_threaded;	/* python_open() refuses these */
	int major, minor, micro;
	char version[32];	/* "3.11.2", as Py_Version or the file tells; micro may be unknown: "3.8" */
	char path[256];		/* of the file that holds CPython, as the target sees it */
	char build_id[BUILD_ID_HEX_MAX];
	int fd;			/* that file, open read-only: uprobes attach through /proc/self/fd/N */
	struct elf_image *elf;
	uint64_t bias;		/* runtime address = ELF vaddr + bias */
	uint64_t runtime;	/* address of _PyRuntime, and its symbol size */
	uint64_t runtime_size;
	uint64_t interp;	/* main interpreter state */
	int interpreters;	/* how many there are now; only the main one is counted and walked */
	struct layout layout;
	uint64_t type_type;	/* address of PyType_Type */
};

/* Looks at process pid. On success the caller owns *ret and ends it with python_free().
 * -ESRCH no such process; -ENOEXEC not a Python (or one that has not initialised yet: -EAGAIN);
 * -EOPNOTSUPP a Python we do not support (too old, too new, free-threaded, 32-bit), by name;
 * -EACCES/-EPERM what is missing to look at it. */
int python_open(pid_t pid, struct python **ret, struct err *err);
void python_free(struct python *p);
void python_freep(struct python **p);

/* How many interpreters the process has now: sub-interpreters come and go. */
int python_interpreters(const struct python *p);

/* Cheap: whether the process maps something that looks like CPython (path of executable or of a
 * library contains "python"). For scanning /proc; no ELF file is read. */
bool python_looks_like(pid_t pid);

/* Runtime address of a symbol of the file that holds CPython; -ENOENT. */
int python_symbol(const struct python *p, const char *name, uint64_t *ret_addr, uint64_t *ret_size);

/* "CPython 3.11.2, static, stripped, /usr/bin/python3.11, build-id 1f2e…" in buf. Returns buf. */
char *python_describe(const struct python *p, char *buf, size_t n);

/* ---- the collector's rings ---- */

/*
 * Heads of the doubly linked lists that hold every tracked object: generations 0, 1, 2 and the
 * permanent one (gc.freeze). Node: next, prev (low two bits are flags), then the object, so
 * refcount at node+16, type at node+24. Found by their shape, without a version table
 * (DESIGN.md), then checked against it.
 */
struct python_rings {
	uint64_t head[4];	/* young, middle, old, permanent; permanent 0 if not found */
	uint64_t collecting;	/* address of gcstate->collecting (int) */
	/* Addresses of what tells that the collector has been at work, all 0 if not known. How often
	 * generation i was collected: a 64-bit number at collections[i]; or, where
	 * collections_slot[i] is not 0, 64 times the byte there further on (3.15). How many objects
	 * were moved to the old ring since that was last collected (64 bits). How many were born
	 * less died since generation 0 was (int). */
	uint64_t collections[3], collections_slot[3];
	uint64_t pending, young_count;
};

/* -EPROTO: no rings of the known shape (free-threaded, or an incremental collector). */
int python_find_rings(const struct python *p, struct python_rings *ret, struct err *err);

/* Whether o (an object address) is a type: type(type(x)) ends at `type`. Three reads. */
bool python_is_type(const struct python *p, uint64_t o);

/* ---- names ---- */

#define TYPE_NAME_MAX 256

struct python_type {
	char name[TYPE_NAME_MAX]; /* "module.QualName"; built-ins without module: "dict" */
	uint64_t flags;		  /* tp_flags */
	int64_t basicsize, itemsize;
	bool heap;		  /* made by a class statement or PyType_FromSpec */
};

/* Reads name, flags and sizes of the type at addr. Control characters and invalid UTF-8 in names
 * are replaced by '?'. -ESTALE: what is there is not a type (any more). */
int python_type_read(const struct python *p, uint64_t addr, struct python_type *ret);

/* Text of a str object, UTF-8, at most n - 1 bytes. -EINVAL: not a str; -ENAMETOOLONG. */
int python_str_read(const struct python *p, uint64_t addr, char *buf, size_t n);

/* ---- a first table without stopping anybody ---- */

struct python_level {
	uint64_t type;	/* address */
	uint64_t count;
};

/* Live tracked objects per type, by reading the rings from outside while the target stands still: the
 * clock of its CPU time is the same before and after. A busy one never is: -EAGAIN after `tries`
 * passes. At most max_objects nodes (-E2BIG above). -ENODATA: part of it is swapped out, and reading that
 * would bring it back. *ret is malloc'ed, n entries. About 120 ns an object. */
int python_read_levels(const struct python *p, const struct python_rings *r, int tries,
	uint64_t max_objects, struct python_level **ret, size_t *ret_n, uint64_t *ret_objects);

#endif
