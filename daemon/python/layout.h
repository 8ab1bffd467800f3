/* SPDX-License-Identifier: MIT */
/*
 * Where CPython keeps things, per minor version, default (GIL) 64-bit builds.
 *
 * Offsets are bytes within the struct that the prefix names (see layout_fields.h, generated
 * columns of offsetof() from each minor's own headers, checked on live processes). -1: the field
 * does not exist in that version. A table is a claim, not a fact about the target: it is used
 * only behind layout_resolve(), which checks fingerprints and takes from the target's own
 * _Py_DebugOffsets (3.13+) whatever that gives.
 */
#ifndef PYLEAK_PYTHON_LAYOUT_H
#define PYLEAK_PYTHON_LAYOUT_H

#include <stdint.h>
#include <sys/types.h>

#include "daemon/util/err.h"

struct layout {
	int minor; /* 8 .. 15 of Python 3 */
#define F(name) int32_t name;
#include "daemon/python/layout_fields.h"
#undef F
};

/* Flags of tp_flags used here (CPython Include/object.h). */
#define TPFLAGS_INLINE_VALUES	 (1UL << 2)  /* 3.13+ */
#define TPFLAGS_MANAGED_WEAKREF	 (1UL << 3)  /* 3.12+ */
#define TPFLAGS_MANAGED_DICT	 (1UL << 4)  /* 3.11+ */
#define TPFLAGS_HEAPTYPE	 (1UL << 9)
#define TPFLAGS_READY		 (1UL << 12)
#define TPFLAGS_HAVE_GC		 (1UL << 14)
#define TPFLAGS_LONG_SUBCLASS	 (1UL << 24)
#define TPFLAGS_LIST_SUBCLASS	 (1UL << 25)
#define TPFLAGS_TUPLE_SUBCLASS	 (1UL << 26)
#define TPFLAGS_BYTES_SUBCLASS	 (1UL << 27)
#define TPFLAGS_UNICODE_SUBCLASS (1UL << 28)
#define TPFLAGS_DICT_SUBCLASS	 (1UL << 29)
#define TPFLAGS_TYPE_SUBCLASS	 (1UL << 31)

/* Stable over 3.8 .. 3.15, so that the kernel programs may use them as constants. */
#define OFF_OB_REFCNT	 0
#define OFF_OB_TYPE	 8
#define OFF_OB_SIZE	 16
#define OFF_TP_NAME	 24
#define OFF_TP_BASICSIZE 32
#define OFF_TP_ITEMSIZE	 40
#define OFF_TP_DEALLOC	 48
#define OFF_TP_FLAGS	 168
#define OFF_TP_TRAVERSE	 184
#define OFF_TP_BASE	 256
#define OFF_TP_ALLOC	 304
#define OFF_TP_NEW	 312
#define GC_HEAD_BYTES	 16

/* The table of a minor, or NULL if there is none. */
const struct layout *layout_table(int minor);

/* The layout of a live process: table of its minor, then _Py_DebugOffsets over it where the
 * version has one and its cookie, version and free_threaded flag fit. runtime and runtime_size
 * are the address and symbol size of _PyRuntime.
 * -EOPNOTSUPP: no table, or a free-threaded build; -EPROTO: what was read does not fit any known
 * layout of that version; the message names it. */
int layout_resolve(pid_t pid, int minor, uint64_t runtime, uint64_t runtime_size,
	struct layout *ret, struct err *err);

#endif
