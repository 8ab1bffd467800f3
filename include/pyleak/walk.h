/* SPDX-License-Identifier: MIT */
/*
 * Capture helper <-> walker (agent/walk.c), the flat piece of code that runs in the frozen copy
 * of a target.
 *
 * The helper maps the code, a context and a buffer into the frozen child, fills the context,
 * and lets the child run from the code's first byte with the context's address in %rdi. The
 * walker writes units into the buffer and executes int3 with `event` set; the helper drains
 * units[0 .. n_units) from outside, sets n_units to 0 where it wants the walker to go on, and
 * lets it run. Nothing else is exchanged, and the walker makes no system call: the helper runs it
 * under PTRACE_SYSEMU, so that not even a tp_traverse that loses its way can make one.
 *
 * When something faults (a broken object, a tp_traverse that aborts), the helper sets `fault`
 * and starts the walker again from its first byte with the stack pointer set back: `phase` tells
 * the walker where it was, it notes the object as skipped and goes on with the next.
 *
 * Truth and labels. Which references an object has is what its tp_traverse visits, one edge a
 * visit, never more and never less. What the walker knows of layouts only adds labels to those
 * visits. Types whose references no tp_traverse shows (code objects) are read from a table.
 */
#ifndef PYLEAK_WALK_H
#define PYLEAK_WALK_H

#include <stdint.h>

enum walk_op {
	WALK_RINGS = 1, /* every object in the collector's rings */
	WALK_HEADERS,   /* the same without what they refer to: no code of the target runs */
	WALK_EXPAND,    /* the n_in objects whose addresses stand at `in` */
};

enum walk_event {
	WALK_RUNNING,
	WALK_FULL,   /* buffer full: drain, set n_units = 0, go on */
	WALK_DONE,   /* op finished; the last units are in the buffer */
	WALK_BROKEN, /* as WALK_DONE, but a ring could not be followed to its end */
	WALK_CAPPED, /* as WALK_DONE, but max_objects was reached */
};

enum walk_phase {
	WALK_PHASE_IDLE,
	WALK_PHASE_LINK,   /* reading a ring's links */
	WALK_PHASE_HEADER, /* reading an object's header, its type, its size */
	WALK_PHASE_BODY,   /* its node is out, its references are being visited */
	WALK_PHASE_AGAIN,  /* tp_traverse failed, its items are being read instead */
};

/* ---- what comes out: units of 16 bytes ---- */

struct walk_unit {
	uint64_t a, b;
};

/* b of an edge, of the first unit of a node and of a skip: tag in the top byte. */
#define WALK_TAG(b)       ((unsigned)((b) >> 56))
#define WALK_ARG(b)       ((b) & ((1ULL << 55) - 1))
#define WALK_UNTRACKED    (1ULL << 55) /* an edge's target is in none of the rings */
#define WALK_MAKE(tag, x) ((uint64_t)(tag) << 56 | ((x) & ((1ULL << 55) - 1)))

enum walk_tag {
	/*
	 * A node is two units: {address, tag | WALK_NODE_ARG(shallow size in bytes, WALK_NODE_*)},
	 * {type, raw refcount word}. Its edges follow.
	 */
	WALK_NODE = 0x80,
	/* {address, tag}: the node before is given up, forget its edges. */
	WALK_SKIP = 0x81,
	/* {address, tag}: forget the edges of the node before, they come again. */
	WALK_AGAIN = 0x82,
	/* Edges: {address of the object that is held, tag | argument}. */
	WALK_EDGE_PLAIN = 1,
	WALK_EDGE_INDEX,     /* argument: index */
	WALK_EDGE_KEYED,     /* value of a dict; argument: address of its key */
	WALK_EDGE_DICT_KEY,  /* key of a dict */
	WALK_EDGE_ATTR_KEY,  /* attribute; argument: address of the str that names it */
	WALK_EDGE_ATTR_NAME, /* attribute; argument: address of a C string in the target */
	WALK_EDGE_LABEL,     /* attribute; argument: enum walk_label */
	WALK_EDGE_DICT,      /* the object's __dict__ */
	WALK_EDGE_CELL,      /* contents of a cell */
	WALK_EDGE_LOCAL,     /* local variable; argument: address of the str that names it */
	WALK_EDGE_TYPE,      /* ob_type */
	WALK_EDGE_MEMBER,    /* member of a set */
	WALK_EDGE_GLOBALS,   /* a function's globals: a namespace, labelled __globals__ */
};

#define WALK_NODE_TRACKED 1u
#define WALK_NODE_YOUNG   2u
#define WALK_NODE_ARG(size, flags) ((uint64_t)(size) << 2 | (flags))
#define WALK_NODE_SIZE(b)          (WALK_ARG(b) >> 2)
#define WALK_NODE_FLAGS(b)         (WALK_ARG(b) & 3)

/* Names of members that have no name in the target's memory. */
#define WALK_LABELS(X)                                                                             \
	X(NONE, "")                                                                                \
	X(CODE, "__code__")                                                                        \
	X(DEFAULTS, "__defaults__")                                                                \
	X(KWDEFAULTS, "__kwdefaults__")                                                            \
	X(CLOSURE, "__closure__")                                                                  \
	X(DOC, "__doc__")                                                                          \
	X(NAME, "__name__")                                                                        \
	X(QUALNAME, "__qualname__")                                                                \
	X(MODULE, "__module__")                                                                    \
	X(ANNOTATIONS, "__annotations__")                                                          \
	X(BUILTINS, "__builtins__")                                                                \
	X(TYPE_PARAMS, "__type_params__")                                                          \
	X(ANNOTATE, "__annotate__")                                                                \
	X(SELF, "__self__")                                                                        \
	X(FUNC, "__func__")                                                                        \
	X(MRO, "__mro__")                                                                          \
	X(BASES, "__bases__")                                                                      \
	X(BASE, "__base__")                                                                        \
	X(ARGS, "args")                                                                            \
	X(TRACEBACK, "__traceback__")                                                              \
	X(CONTEXT, "__context__")                                                                  \
	X(CAUSE, "__cause__")                                                                      \
	X(NOTES, "__notes__")                                                                      \
	X(TB_NEXT, "tb_next")                                                                      \
	X(TB_FRAME, "tb_frame")                                                                    \
	X(F_BACK, "f_back")                                                                        \
	X(F_CODE, "f_code")                                                                        \
	X(F_BUILTINS, "f_builtins")                                                                \
	X(F_LOCALS, "f_locals")                                                                    \
	X(F_TRACE, "f_trace")                                                                      \
	X(GI_FRAME, "gi_frame")                                                                    \
	X(GI_CODE, "gi_code")                                                                      \
	X(CO_CONSTS, "co_consts")                                                                  \
	X(CO_NAMES, "co_names")                                                                    \
	X(CO_VARNAMES, "co_varnames")                                                              \
	X(CO_FREEVARS, "co_freevars")                                                              \
	X(CO_CELLVARS, "co_cellvars")                                                              \
	X(CO_LOCALSPLUSNAMES, "co_localsplusnames")                                                \
	X(CO_LOCALSPLUSKINDS, "co_localspluskinds")                                                \
	X(CO_FILENAME, "co_filename")                                                              \
	X(CO_NAME, "co_name")                                                                      \
	X(CO_QUALNAME, "co_qualname")                                                              \
	X(CO_LINETABLE, "co_linetable")                                                            \
	X(CO_EXCEPTIONTABLE, "co_exceptiontable")                                                  \
	X(CO_CODE, "co_code")                                                                      \
	X(CALLBACK, "__callback__")                                                                \
	X(PARTIAL_FUNC, "func")                                                                    \
	X(PARTIAL_KEYWORDS, "keywords")                                                            \
	X(FGET, "fget")                                                                            \
	X(FSET, "fset")                                                                            \
	X(FDEL, "fdel")                                                                            \
	X(THISCLASS, "__thisclass__")                                                              \
	X(SELF_CLASS, "__self_class__")                                                            \
	X(START, "start")                                                                          \
	X(STOP, "stop")                                                                            \
	X(STEP, "step")                                                                            \
	X(MAPPING, "mapping")                                                                      \
	X(DEFAULT_FACTORY, "default_factory")                                                      \
	X(CACHE, "cache")                                                                          \
	X(WRAPPED, "__wrapped__")                                                                  \
	X(VARS, "vars")                                                                            \
	X(ROOT, "root")                                                                            \
	X(DEFAULT, "default")                                                                      \
	X(LST, "lst")                                                                              \
	X(DUMMIES, "dummies")                                                                      \
	X(CR_FRAME, "cr_frame")                                                                    \
	X(CR_CODE, "cr_code")                                                                      \
	X(CR_AWAIT, "cr_await")                                                                    \
	X(AG_FRAME, "ag_frame")                                                                    \
	X(AG_CODE, "ag_code")                                                                      \
	X(AG_AWAIT, "ag_await")                                                                    \
	X(GI_YIELDFROM, "gi_yieldfrom")                                                            \
	X(FUT_LOOP, "_loop")                                                                       \
	X(FUT_CALLBACK, "_callbacks[0]")                                                           \
	X(FUT_CALLBACKS, "_callbacks")                                                             \
	X(FUT_RESULT, "_result")                                                                   \
	X(FUT_EXCEPTION, "_exception")                                                             \
	X(TASK_CORO, "_coro")                                                                      \
	X(TASK_WAITER, "_fut_waiter")                                                              \
	X(TASK_CONTEXT, "_context")                                                                \
	X(ABC_REGISTRY, "_abc_registry")                                                           \
	X(ABC_CACHE, "_abc_cache")                                                                 \
	X(ABC_NEGATIVE, "_abc_negative_cache")                                                     \
	X(CT_BASE, "_b_base_")                                                                     \
	X(CT_OBJECTS, "_objects")

enum walk_label {
#define X(id, text) WALK_LABEL_##id,
	WALK_LABELS(X)
#undef X
		WALK_LABEL_COUNT
};

/* ---- what goes in ---- */

/*
 * Object at object + offset of instances of `type` (or of a subtype) is held under this label.
 * Where no symbol leads to the type it is known by its name: `type` is walk_name_hash() of a
 * tp_name that only C code gives (a static type's, or one with a dot, which no class statement
 * makes).
 */
struct walk_hint {
	uint64_t type;
	uint32_t offset;
	uint8_t tag;     /* enum walk_tag, or WALK_SHAPE */
	uint8_t label;   /* enum walk_label; with WALK_SHAPE: enum walk_shape */
	uint8_t by_name; /* `type` is the hash of its name */
	uint8_t reserved;
};

#define WALK_MAX_HINTS 192
#define WALK_MAX_NAME  64
#define WALK_SHAPE     0xf0 /* instances hold what they hold in this shape */

enum walk_shape {
	WALK_SHAPE_LRU = 1, /* functools._lru_cache_wrapper: a ring of links with key and result */
	WALK_SHAPE_PAIRS,   /* node of a HAMT: key, value, ...; the keys are context variables */
	WALK_SHAPE_ARRAY,   /* one after the other */
};

/* FNV-1a; of at most WALK_MAX_NAME characters. */
static inline uint64_t walk_name_hash(const char *name)
{
	uint64_t h = 0xcbf29ce484222325ULL;

	for (int n = WALK_MAX_NAME; n > 0 && *name; n--, name++)
		h = (h ^ (uint8_t)*name) * 0x100000001b3ULL;
	return h;
}

/* Types the walker must know by address. 0: this target has none. */
enum walk_known {
	WALK_KNOW_LIST,
	WALK_KNOW_TUPLE,
	WALK_KNOW_DICT,
	WALK_KNOW_SET,
	WALK_KNOW_FROZENSET,
	WALK_KNOW_BYTEARRAY,
	WALK_KNOW_DEQUE,
	WALK_KNOW_ODICT,
	WALK_KNOW_GEN,
	WALK_KNOW_CORO,
	WALK_KNOW_ASYNC_GEN,
	WALK_KNOW_FRAME,
	WALK_KNOW_CODE,
	WALK_KNOW_CELL,
	WALK_KNOW_COUNT,
};

/* Offsets, as daemon/python/layout.h names them; -1: not in this version. */
#define WALK_OFFSETS(X)                                                                            \
	X(tuple_items)                                                                             \
	X(list_items)                                                                              \
	X(list_allocated)                                                                          \
	X(bytearray_alloc)                                                                         \
	X(long_tag)                                                                                \
	X(long_digit)                                                                              \
	X(str_length)                                                                              \
	X(str_state)                                                                               \
	X(str_ascii_size)                                                                          \
	X(str_compact_size)                                                                        \
	X(str_legacy_size)                                                                         \
	X(str_utf8)                                                                                \
	X(str_utf8_length)                                                                         \
	X(str_data)                                                                                \
	X(str_wstr)                                                                                \
	X(str_wstr_length)                                                                         \
	X(dict_used)                                                                               \
	X(dict_keys)                                                                               \
	X(dict_values)                                                                             \
	X(dk_log2_size)                                                                            \
	X(dk_log2_index_bytes)                                                                     \
	X(dk_kind)                                                                                 \
	X(dk_usable)                                                                               \
	X(dk_nentries)                                                                             \
	X(dk_indices)                                                                              \
	X(dk_dk_size)                                                                              \
	X(dk_head_size)                                                                            \
	X(dictvalues_values)                                                                       \
	X(dictvalues_capacity)                                                                     \
	X(dictvalues_valid)                                                                        \
	X(set_mask)                                                                                \
	X(set_table)                                                                               \
	X(set_smalltable)                                                                          \
	X(deque_leftindex)                                                                         \
	X(deque_block_size)                                                                        \
	X(odict_fast_nodes_size)                                                                   \
	X(bytes_sval)                                                                              \
	X(tp_dictoffset)                                                                           \
	X(tp_is_gc)                                                                                \
	X(ht_cached_keys)                                                                          \
	X(memberdef_size)                                                                          \
	X(memberdef_type)                                                                          \
	X(memberdef_offset)                                                                        \
	X(gen_frame)                                                                               \
	X(gen_iframe)                                                                              \
	X(gen_frame_state)                                                                         \
	X(if_code)                                                                                 \
	X(if_localsplus)                                                                           \
	X(fo_code)                                                                                 \
	X(fo_iframe)                                                                               \
	X(fo_localsplus)                                                                           \
	X(fo_gen)                                                                                  \
	X(fo_lasti)                                                                                \
	X(fo_valuestack)                                                                           \
	X(fo_stacktop)                                                                             \
	X(fo_stackdepth)                                                                           \
	X(if_instr)                                                                                \
	X(co_flags)                                                                                \
	X(co_code)                                                                                 \
	X(co_nlocals)                                                                              \
	X(co_nlocalsplus)                                                                          \
	X(co_stacksize)                                                                            \
	X(heaptype_size)                                                                           \
	X(lru_next)                                                                                \
	X(lru_key)                                                                                 \
	X(lru_result)                                                                              \
	X(contextvar_name)                                                                         \
	X(hamt_bitmap_array)                                                                       \
	X(if_stacktop)                                                                             \
	X(if_stackpointer)                                                                         \
	X(co_localsplusnames)                                                                      \
	X(co_varnames)                                                                             \
	X(co_cellvars)                                                                             \
	X(co_freevars)

struct walk_offsets {
	int32_t minor;
#define X(name) int32_t name;
	WALK_OFFSETS(X)
#undef X
};

/* Walker's own notes; the helper only provides zeroed room for them. */
#define WALK_MAX_SLOTS   128
#define WALK_TYPE_CACHE  1024 /* power of two */
#define WALK_MAX_PENDING 256

struct walk_slot {
	uint32_t offset;
	uint8_t tag;
	uint8_t reserved[3];
	uint64_t arg;
};

struct walk_type {
	uint64_t type, flags, traverse, cached_keys;
	int64_t basicsize, itemsize, dictoffset;
	uint32_t kind, n_slots;
	struct walk_slot slot[WALK_MAX_SLOTS];
};

struct walk_pending {
	uint64_t object, b; /* b as it goes into the unit; object 0: used up */
};

/* Where the visits of a container are expected next. */
struct walk_cursor {
	uint32_t kind;
	uint32_t key_next;  /* dict: the key of entry `last` comes next */
	int64_t i, n, last; /* entries */
	uint64_t items;     /* list, tuple: items. dict: entries. LRU: the link that comes */
	uint64_t values;    /* dict: separate values, or 0 */
	uint64_t lookup;    /* dict <= 3.10: dk_lookup, tells general tables */
	uint32_t entry_bytes, key_offset, value_offset;
	uint32_t general; /* dict: keys are visited too: 0 no, 1 yes, 2 not known */
};

struct walk_ctx {
	/* set by the helper for each run */
	uint32_t op;    /* enum walk_op */
	uint32_t event; /* enum walk_event, set by the walker */
	uint32_t phase; /* enum walk_phase */
	uint32_t fault; /* the helper came because something faulted */
	uint64_t units; /* struct walk_unit[cap_units] */
	uint64_t cap_units, n_units;
	uint64_t in, n_in; /* WALK_EXPAND: addresses */
	uint64_t max_objects;

	/* progress, read by the helper */
	uint64_t current; /* object being looked at */
	uint64_t n_objects, n_headers_lost;

	/* set by the helper once */
	uint64_t heads[4]; /* in the order in which to walk them */
	uint32_t n_heads;
	uint32_t n_hints;
	uint64_t known[WALK_KNOW_COUNT];
	struct walk_hint hint[WALK_MAX_HINTS];
	struct walk_offsets off;

	/* the walker's own */
	uint64_t ring, gc, in_next;
	uint64_t general_lookup, plain_lookup[4];
	uint64_t type; /* of current */
	uint32_t type_seen;
	uint32_t n_pending, pending_left, pending_at;
	uint32_t broken; /* a ring could not be followed */
	uint32_t default_tag;
	uint32_t reserved;
	uint64_t default_index;
	struct walk_cursor cursor;
	struct walk_pending pending[WALK_MAX_PENDING];
	struct walk_type types[WALK_TYPE_CACHE];
};

#endif
