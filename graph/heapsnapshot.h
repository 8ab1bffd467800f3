/* SPDX-License-Identifier: MIT */
/*
 * A snapshot in the format of V8's heap snapshots, for the Memory panel of Chrome's developer
 * tools and whatever else reads them: names, shallow sizes, references by name, retainers.
 *
 * Objects are nodes of type "object" named after their type, so that the panel groups them by
 * type; a module or class has its own name behind it, a function (a "closure") only its own.
 * Above them stand "(GC roots)" and one node for each root that is no object: a frame, a part of
 * the interpreter, C code, and what only waits for the collector.
 *
 * The format: the "meta" that V8 writes (src/profiler/heap-snapshot-generator.cc,
 * HeapSnapshotJSONSerializer) describes it.
 */
#ifndef PYLEAK_GRAPH_HEAPSNAPSHOT_H
#define PYLEAK_GRAPH_HEAPSNAPSHOT_H

#include <stdio.h>

#include "graph/paths.h"

struct heapsnapshot_totals {
	uint64_t nodes, edges;
};

/* -ENOMEM or -EIO; -EFBIG: more than the format can number. */
int heapsnapshot_write(
	FILE *f, const struct reach *r, struct heapsnapshot_totals *ret, struct err *err);

#endif
