/* SPDX-License-Identifier: MIT */
/*
 * The snapshot file: a heap as a graph, without any value of the program that was looked at.
 * Written by the capture helper, read by the explain worker and by pyleakctl on any machine.
 *
 *   struct snapshot_header
 *   one zstd frame (with content checksum) that holds a sequence of sections:
 *       struct snapshot_section, then `bytes` bytes, padded with zeros to a multiple of 8
 *
 * All integers little endian. Sections come in the order of the enum; unknown kinds are skipped.
 * String 0 is always the empty string. A reader checks every length, index and count: the file may
 * be damaged or forged.
 */
#ifndef PYLEAK_SNAPSHOT_H
#define PYLEAK_SNAPSHOT_H

#include <stdint.h>

#define SNAPSHOT_MAGIC	 "PYLEAKS1"
#define SNAPSHOT_VERSION 1

struct snapshot_header {
	char magic[8];
	uint32_t version;
	uint32_t header_bytes; /* sizeof(struct snapshot_header); the zstd frame begins there */
	uint64_t nodes, edges; /* totals, so that a reader can refuse before it allocates */
	uint64_t reserved[4];
};

enum snapshot_section_kind {
	SNAPSHOT_META = 1, /* a JSON object, see struct capture_result for its keys */
	SNAPSHOT_STRINGS,  /* u32 count, u32 0, count x u32 length, then the bytes, UTF-8 */
	SNAPSHOT_TYPES,    /* struct snapshot_type[] */
	SNAPSHOT_NODES, /* struct snapshot_node[], tracked ones first, in ring order old to young */
	SNAPSHOT_EDGES, /* struct snapshot_edge[], those of node 0, then node 1, ... */
	SNAPSHOT_ROOTS, /* struct snapshot_root[] */
	SNAPSHOT_END,   /* empty; a file without it was cut off */
	/* Once or not at all, before END; added later, so that older readers pass it over. */
	SNAPSHOT_HOLDERS, /* struct snapshot_holder[], in the order of NODES */
};

struct snapshot_section {
	uint32_t kind;
	uint32_t reserved;
	uint64_t bytes;
};

struct snapshot_type {
	uint64_t addr;
	uint64_t flags;	  /* tp_flags */
	uint32_t name;	  /* string: module.QualName */
	uint32_t reserved;
};

#define SNAPSHOT_NODE_TRACKED  1u /* in the collector's rings */
#define SNAPSHOT_NODE_SKIPPED  2u /* its tp_traverse failed: its edges are unknown */
#define SNAPSHOT_NODE_IMMORTAL 4u /* refcount says nothing */
#define SNAPSHOT_NODE_YOUNG    8u /* in the collector's youngest generation */

struct snapshot_node {
	uint64_t addr;
	uint64_t bytes;	   /* shallow size */
	int64_t refcount;
	uint32_t type;	   /* index into TYPES */
	uint32_t n_edges;  /* its edges in EDGES */
	uint32_t flags;	   /* SNAPSHOT_NODE_* */
	uint32_t name;	   /* string: name of a module, type, function, or 0 */
};

/* How the source holds the target. `arg` is a string index, or a number, by kind. */
enum snapshot_edge_kind {
	EDGE_PLAIN,    /* nothing known */
	EDGE_ATTR,     /* .name (instance attribute, slot, member): arg = string, 0: not named */
	EDGE_DICT,     /* the object's __dict__: folded away in pictures */
	EDGE_KEY,      /* dict value under a named key: arg = string */
	EDGE_ITEM,     /* dict value, key not named: ['…'] */
	EDGE_INDEX,    /* list or tuple item: arg = index */
	EDGE_DICT_KEY, /* the object is a key of the dict */
	EDGE_CELL,     /* contents of a cell; arg = variable name or 0 */
	EDGE_LOCAL,    /* local variable of a frame or generator: arg = string */
	EDGE_TYPE,     /* ob_type: instance to its class */
	EDGE_MEMBER,   /* set member */
};

struct snapshot_edge {
	uint64_t to; /* address; a node of the file, or not (then it is outside of what was read) */
	uint32_t kind;
	uint32_t arg;
};

enum snapshot_root_kind {
	ROOT_MODULE = 1,  /* an entry of sys.modules: name = "app.cache" */
	ROOT_INTERPRETER, /* name = "builtins", "codecs", "interned", "static type dict", … */
	ROOT_FRAME,	  /* name = "Thread-1 (worker) in handle at app.py:42", edge = local's name */
};

struct snapshot_root {
	uint64_t addr; /* the node that is held */
	uint32_t kind;
	uint32_t name; /* string */
	uint32_t edge_kind; /* enum snapshot_edge_kind: EDGE_LOCAL for a frame's local; EDGE_PLAIN */
	uint32_t edge_arg;
};

/* What a search of the writable memory found of an object that has more references than the edges
 * and roots of the file explain. In the order of how much it tells. */
enum snapshot_holder_kind {
	HOLDER_IMAGE = 1, /* data of a library: name = "lxml/etree.so: _cache+0x18" */
	HOLDER_OBJECT,    /* an object that does not show what it holds: its type */
	HOLDER_STACK,     /* name = "C stack of Thread-1 (worker)" */
	HOLDER_BLOCK,     /* a block of malloc or of CPython's allocator, and what points to it */
	HOLDER_NOWHERE,   /* all was searched: a reference that was never given back */
};

#define HOLDER_LOST "a lost reference" /* the name of HOLDER_NOWHERE */

struct snapshot_holder {
	uint64_t addr; /* the node that is held */
	uint32_t kind; /* enum snapshot_holder_kind */
	uint32_t name; /* string */
};

_Static_assert(sizeof(struct snapshot_holder) == 16, "on disk");
_Static_assert(sizeof(struct snapshot_header) == 64, "on disk");
_Static_assert(sizeof(struct snapshot_section) == 16, "on disk");
_Static_assert(sizeof(struct snapshot_type) == 24, "on disk");
_Static_assert(sizeof(struct snapshot_node) == 40, "on disk");
_Static_assert(sizeof(struct snapshot_edge) == 16, "on disk");
_Static_assert(sizeof(struct snapshot_root) == 24, "on disk");

#endif
