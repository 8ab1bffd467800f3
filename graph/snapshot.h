/* SPDX-License-Identifier: MIT */
/*
 * A snapshot file (include/pyleak/snapshot.h) in memory.
 *
 * snapshot_load() believes nothing: the totals of the header are held against a memory limit
 * before anything is allocated, and every section, length, index and count is checked. After a
 * load that succeeded
 *   - every type, string and node number in the arrays is in range,
 *   - the nodes' n_edges add up to n_edges exactly,
 *   - an edge's kind is one of enum snapshot_edge_kind (unknown ones have become EDGE_PLAIN) and
 *     its arg is a valid string where the kind says that it is a string,
 *   - strings are valid UTF-8 without control characters and end with a NUL,
 * so that the analysis needs no checks of its own. Addresses stay what they were in the file: an
 * edge may point to no node.
 */
#ifndef PYLEAK_GRAPH_SNAPSHOT_H
#define PYLEAK_GRAPH_SNAPSHOT_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/util/err.h"
#include "include/pyleak/snapshot.h"

/* Both below 2^31: the analysis keeps node and edge numbers in 32 bits with one to spare. */
#define SNAPSHOT_MAX_NODES        (1u << 30)
#define SNAPSHOT_MAX_EDGES        ((1u << 31) - 2)
#define SNAPSHOT_MAX_STRINGS      (1u << 26)
#define SNAPSHOT_MAX_STRING_BYTES (1u << 30)
#define SNAPSHOT_MAX_TYPES        (1u << 24)
#define SNAPSHOT_MAX_ROOTS        (1u << 24)
#define SNAPSHOT_MAX_META         (1u << 20)

#define SNAPSHOT_TYPE_IS_HEAP (1ull << 9)  /* Py_TPFLAGS_HEAPTYPE: not a static type of C code */
#define SNAPSHOT_TYPE_IS_DICT (1ull << 29) /* Py_TPFLAGS_DICT_SUBCLASS */

struct snapshot {
	char *meta; /* NUL-terminated JSON text, "" if the file has none; not parsed here */

	char *text;          /* all strings, each with a NUL */
	uint32_t *text_from; /* n_strings offsets into text */
	uint32_t n_strings;

	struct snapshot_type *types;
	struct snapshot_node *nodes;
	struct snapshot_edge *edges;
	struct snapshot_root *roots;
	struct snapshot_holder *holders; /* NULL: the file has none */
	uint32_t n_types, n_nodes, n_edges, n_roots, n_holders;
};

static inline const char *snapshot_string(const struct snapshot *s, uint32_t string)
{
	return s->text + s->text_from[string];
}

/*
 * Reads fd, from where it stands to its end. `name` is for messages. memory_max bounds what the
 * arrays take (0: 16 GiB). *s is set on success only.
 *   -EBADMSG damaged, forged or cut off    -EPROTONOSUPPORT a newer format or not a snapshot
 *   -EFBIG   larger than memory_max        -ENOMEM, or read(2)'s error
 */
int snapshot_load(
	struct snapshot *s, int fd, const char *name, uint64_t memory_max, struct err *err);

void snapshot_release(struct snapshot *s);

#endif
