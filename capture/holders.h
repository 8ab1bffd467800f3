/* SPDX-License-Identifier: MIT */
/*
 * What holds an object that has more references than the graph explains: C code does, and where it
 * keeps its pointer is mostly in memory that can be written. So that memory of the frozen copy is
 * searched, once, for the addresses of all such objects: the data of libraries (which names the
 * library and the symbol), the C stacks of threads as far as they are in use, blocks of malloc and of
 * CPython's allocator that are in use. An address that is nowhere tells as much: its reference was
 * lost, which is a Py_DECREF() that is missing.
 *
 * A pointer that was found need not be the reference that counts. It is a hint, as good as a
 * conservative collector's, for those objects that nothing else explains.
 */
#ifndef PYLEAK_CAPTURE_HOLDERS_H
#define PYLEAK_CAPTURE_HOLDERS_H

#include "capture/child.h"
#include "capture/graph.h"
#include "capture/strings.h"
#include "capture/view.h"

/* Adds g->holders, in the order of the nodes. The graph must be complete; at most HOLDERS_CPU_NS and
 * HOLDERS_BYTES are spent on the search, and what was not searched makes no "nowhere". -ENOMEM. */
int holders_find(const struct walker *w, struct graph *g, struct view *v, struct strings *s,
	struct err *err);

#define HOLDERS_BYTES  ((uint64_t)2 << 30)
#define HOLDERS_CPU_NS ((uint64_t)500 * 1000000)
#define HOLDERS_NS     ((uint64_t)4000 * 1000000) /* on a host that is busy */

#endif
