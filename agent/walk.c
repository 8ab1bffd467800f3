/* SPDX-License-Identifier: MIT */
/*
 * The walker: runs in the frozen copy of a target and writes down its heap (walk.h).
 *
 * Freestanding: no libc, no data of its own, no relocations, no system call. The only foreign
 * code it calls is the tp_traverse of the objects it meets, exactly as the collector would. It
 * reads objects as they lie; whatever is wrong with one of them ends in a fault, which the helper
 * turns into "skip this object". No bound is checked here that a fault would not catch.
 */
#include <stdint.h>

#include "include/pyleak/walk.h"

typedef uint64_t u64;
typedef int64_t i64;
typedef uint64_t __attribute__((may_alias)) u64a;
typedef uint32_t __attribute__((may_alias)) u32a;

typedef int (*visit_fn)(u64 object, void *arg);
typedef int (*traverse_fn)(u64 self, visit_fn visit, void *arg);

/* CPython Include/object.h; offsets that are the same from 3.8 to 3.15 (LAYOUTS). */
#define FLAG_INLINE_VALUES   (1UL << 2)
#define FLAG_MANAGED_WEAKREF (1UL << 3)
#define FLAG_MANAGED_DICT    (1UL << 4)
#define FLAG_HEAPTYPE        (1UL << 9)
#define FLAG_HAVE_GC         (1UL << 14)
#define FLAG_LONG            (1UL << 24)
#define FLAG_LIST            (1UL << 25)
#define FLAG_TUPLE           (1UL << 26)
#define FLAG_UNICODE         (1UL << 28)
#define FLAG_DICT            (1UL << 29)
#define FLAG_TYPE            (1UL << 31)
#define OB_REFCNT            0
#define OB_TYPE              8
#define OB_SIZE              16
#define TP_NAME              24
#define TP_BASICSIZE         32
#define TP_ITEMSIZE          40
#define TP_FLAGS             168
#define TP_TRAVERSE          184
#define TP_MEMBERS           240
#define TP_BASE              256
#define GC_HEAD              16
#define CO_COROUTINE         0x80
#define CO_ASYNC_GENERATOR   0x200
#define YIELD_FROM           72 /* opcode, 3.8 to 3.10 */
#define AHEAD                8 /* objects that are asked of memory before they are looked at */
#define MEMBER_OBJECT        6  /* _Py_T_OBJECT */
#define MEMBER_OBJECT_EX     16 /* Py_T_OBJECT_EX */

enum kind {
	KIND_OTHER,
	KIND_LIST,
	KIND_TUPLE,
	KIND_DICT,
	KIND_ODICT,
	KIND_SET,
	KIND_DEQUE,
	KIND_STR,
	KIND_INT,
	KIND_BYTEARRAY,
	KIND_GEN,
	KIND_FRAME,
	KIND_CODE,
	KIND_TYPE,
	KIND_LRU,
	KIND_PAIRS,
	KIND_ARRAY,
};

static inline u64 ld64(u64 a)
{
	return *(const u64a *)a;
}

static inline uint32_t ld32(u64 a)
{
	return *(const u32a *)a;
}

static inline uint8_t ld8(u64 a)
{
	return *(const uint8_t *)a;
}

/* ---- writing units ---- */

static __attribute__((noinline)) void stop(struct walk_ctx *c, uint32_t event)
{
	c->event = event;
	__asm__ volatile("int3" ::: "memory");
	c->event = WALK_RUNNING;
}

static inline void put(struct walk_ctx *c, u64 a, u64 b)
{
	if (c->n_units >= c->cap_units)
		stop(c, WALK_FULL);
	struct walk_unit *u = (struct walk_unit *)c->units + c->n_units;
	u->a = a;
	u->b = b;
	c->n_units++;
}

/* Whether o is certainly in no ring. Where its type decides with a tp_is_gc we do not know, we
 * say no, so that nothing is listed twice. */
static inline int untracked(const struct walk_ctx *c, u64 o)
{
	u64 t = ld64(o + OB_TYPE), flags = ld64(t + TP_FLAGS);

	if (!(flags & FLAG_HAVE_GC))
		return 1;
	if (flags & FLAG_TYPE) {
		if (!(ld64(o + TP_FLAGS) & FLAG_HEAPTYPE))
			return 1;
	} else if (ld64(t + c->off.tp_is_gc)) {
		return 0;
	}
	return ld64(o - GC_HEAD) == 0;
}

static inline void edge(struct walk_ctx *c, u64 to, u64 b)
{
	put(c, to, untracked(c, to) ? b | WALK_UNTRACKED : b);
}

/* ---- what is known of a type ---- */

/* What was said of an offset first counts. */
static void add_slot(struct walk_type *t, uint32_t offset, uint8_t tag, u64 arg)
{
	if (t->n_slots >= WALK_MAX_SLOTS)
		return;
	for (uint32_t i = 0; i < t->n_slots; i++)
		if (t->slot[i].offset == offset)
			return;
	struct walk_slot *s = &t->slot[t->n_slots++];
	s->offset = offset;
	s->tag = tag;
	s->arg = arg;
}

/* Members that __slots__ made (a table behind the type object) or that C code declares. */
static void add_members(struct walk_ctx *c, struct walk_type *t, u64 type)
{
	u64 m = ld64(type + TP_MEMBERS);

	for (int i = 0; m && i < WALK_MAX_SLOTS && ld64(m); i++, m += c->off.memberdef_size) {
		uint32_t code = ld32(m + c->off.memberdef_type);
		u64 offset = ld64(m + c->off.memberdef_offset);

		if (code != MEMBER_OBJECT && code != MEMBER_OBJECT_EX)
			continue;
		if (offset < 16 || offset & 7 || (i64)offset + 8 > t->basicsize ||
			(i64)offset == t->dictoffset)
			continue;
		add_slot(t, (uint32_t)offset, WALK_EDGE_ATTR_NAME, ld64(m));
	}
}

static uint32_t known_kind(const struct walk_ctx *c, u64 type)
{
	for (int k = 0; k < WALK_KNOW_COUNT; k++) {
		if (c->known[k] != type)
			continue;
		if (k == WALK_KNOW_SET || k == WALK_KNOW_FROZENSET)
			return KIND_SET;
		if (k == WALK_KNOW_BYTEARRAY)
			return KIND_BYTEARRAY;
		if (k == WALK_KNOW_DEQUE)
			return KIND_DEQUE;
		if (k == WALK_KNOW_ODICT)
			return KIND_ODICT;
		if (k == WALK_KNOW_GEN || k == WALK_KNOW_CORO || k == WALK_KNOW_ASYNC_GEN)
			return KIND_GEN;
		if (k == WALK_KNOW_FRAME)
			return KIND_FRAME;
		if (k == WALK_KNOW_CODE)
			return KIND_CODE;
	}
	return KIND_OTHER;
}

/* The hash by which a type without a symbol is known; 0: it has a name that Python code can give. */
static u64 name_hash(u64 type)
{
	u64 h = 0xcbf29ce484222325UL, name = ld64(type + TP_NAME);
	int sure = !(ld64(type + TP_FLAGS) & FLAG_HEAPTYPE);

	for (u64 i = 0; i < WALK_MAX_NAME; i++) {
		uint8_t ch = ld8(name + i);

		if (!ch)
			break;
		sure |= ch == '.';
		h = (h ^ ch) * 0x100000001b3UL;
	}
	return sure ? h : 0;
}

static void take_hint(struct walk_type *t, const struct walk_hint *h)
{
	if (h->tag != WALK_SHAPE)
		add_slot(t, h->offset, h->tag, h->label);
	else if (t->kind == KIND_OTHER)
		t->kind = h->label == WALK_SHAPE_LRU     ? KIND_LRU
			  : h->label == WALK_SHAPE_PAIRS ? KIND_PAIRS
							 : KIND_ARRAY;
}

static __attribute__((noinline)) void describe_type(
	struct walk_ctx *c, struct walk_type *t, u64 type)
{
	t->type = 0; /* half-written is nobody's, should a read below fault */
	t->flags = ld64(type + TP_FLAGS);
	t->traverse = ld64(type + TP_TRAVERSE);
	t->basicsize = (i64)ld64(type + TP_BASICSIZE);
	t->itemsize = (i64)ld64(type + TP_ITEMSIZE);
	t->dictoffset = (i64)ld64(type + c->off.tp_dictoffset);
	t->cached_keys = t->flags & FLAG_HEAPTYPE ? ld64(type + c->off.ht_cached_keys) : 0;
	t->kind = KIND_OTHER;
	t->n_slots = 0;

	u64 x = type;
	for (int depth = 0; x && depth < 200; depth++, x = ld64(x + TP_BASE)) {
		if (t->kind == KIND_OTHER)
			t->kind = known_kind(c, x);
		u64 name = name_hash(x);

		for (uint32_t i = 0; i < c->n_hints; i++) {
			const struct walk_hint *h = &c->hint[i];

			if (h->type == (h->by_name ? name : x))
				take_hint(t, h);
		}
		add_members(c, t, x);
	}
	if (t->kind == KIND_OTHER) {
		if (t->flags & FLAG_LIST)
			t->kind = KIND_LIST;
		else if (t->flags & FLAG_TUPLE)
			t->kind = KIND_TUPLE;
		else if (t->flags & FLAG_DICT)
			t->kind = KIND_DICT;
		else if (t->flags & FLAG_UNICODE)
			t->kind = KIND_STR;
		else if (t->flags & FLAG_LONG)
			t->kind = KIND_INT;
		else if (t->flags & FLAG_TYPE)
			t->kind = KIND_TYPE;
	}
	t->type = type;
}

static inline struct walk_type *type_of(struct walk_ctx *c, u64 type)
{
	u64 h = (type >> 4) * 0x9e3779b97f4a7c15UL >> 40;
	struct walk_type *t = &c->types[h & (WALK_TYPE_CACHE - 1)];

	if (t->type != type)
		describe_type(c, t, type);
	return t;
}

/* ---- dicts ---- */

struct table {
	u64 entries, lookup;
	uint32_t entry_bytes, key_offset, value_offset, general;
	i64 n;
};

static void read_table(const struct walk_ctx *c, u64 keys, struct table *t)
{
	t->n = (i64)ld64(keys + c->off.dk_nentries);
	t->lookup = 0;
	if (c->off.minor <= 10) {
		u64 size = ld64(keys + c->off.dk_dk_size);
		u64 width = size <= 0xff ? 1 : size <= 0xffff ? 2 : size <= 0xffffffff ? 4 : 8;

		t->entries = keys + c->off.dk_indices + size * width;
		t->entry_bytes = 24;
		t->lookup = ld64(keys + 16); /* dk_lookup */
		t->general = 2;
	} else {
		t->entries = keys + c->off.dk_indices +
			     (1UL << (ld8(keys + c->off.dk_log2_index_bytes) & 63));
		t->general = ld8(keys + c->off.dk_kind) == 0;
		t->entry_bytes = t->general ? 24 : 16;
	}
	t->key_offset = t->entry_bytes == 24 ? 8 : 0;
	t->value_offset = t->key_offset + 8;
}

/* Up to 3.10 the table's lookup function tells whether dict_traverse visits the keys too. Its
 * address is not exported; it is learned from the first dict whose visits leave no doubt. */
static uint32_t is_general(const struct walk_ctx *c, u64 lookup)
{
	if (lookup == c->general_lookup)
		return 1;
	for (int i = 0; i < 4; i++)
		if (lookup == c->plain_lookup[i])
			return 0;
	return 2;
}

static void learn_plain(struct walk_ctx *c, u64 lookup)
{
	for (int i = 0; i < 4; i++)
		if (!c->plain_lookup[i]) {
			c->plain_lookup[i] = lookup;
			return;
		}
}

static void expect_dict(struct walk_ctx *c, u64 o)
{
	struct walk_cursor *k = &c->cursor;
	struct table t;
	u64 values = ld64(o + c->off.dict_values);

	read_table(c, ld64(o + c->off.dict_keys), &t);
	k->i = 0;
	k->n = t.n;
	k->last = -1;
	k->key_next = 0;
	k->items = t.entries;
	k->values = values ? values + (u64)c->off.dictvalues_values : 0;
	k->lookup = t.lookup;
	k->entry_bytes = t.entry_bytes;
	k->key_offset = t.key_offset;
	k->value_offset = t.value_offset;
	k->general = values ? 0 : t.general == 2 ? is_general(c, t.lookup) : t.general;
	k->kind = KIND_DICT;
}

static inline u64 entry_key(const struct walk_cursor *k, i64 i)
{
	return ld64(k->items + (u64)i * k->entry_bytes + k->key_offset);
}

static inline u64 entry_value(const struct walk_cursor *k, i64 i)
{
	return k->values ? ld64(k->values + 8 * (u64)i)
			 : ld64(k->items + (u64)i * k->entry_bytes + k->value_offset);
}

/* Label of a visit inside of dict_traverse: value 0, [key 0,] value 1, ...; 0: not expected. */
static u64 match_dict(struct walk_ctx *c, u64 o)
{
	struct walk_cursor *k = &c->cursor;

	if (k->key_next) {
		k->key_next = 0;
		if (o == entry_key(k, k->last))
			return WALK_MAKE(WALK_EDGE_DICT_KEY, 0);
	}
	while (k->i < k->n && !entry_value(k, k->i))
		k->i++;
	int is_value = k->i < k->n && o == entry_value(k, k->i);

	if (k->general == 2 && k->last >= 0) {
		int is_key = o == entry_key(k, k->last);

		if (is_key && !is_value) {
			c->general_lookup = k->lookup;
			k->general = 1;
			return WALK_MAKE(WALK_EDGE_DICT_KEY, 0);
		}
		if (is_value && !is_key) {
			learn_plain(c, k->lookup);
			k->general = 0;
		}
	}
	if (!is_value)
		return 0;
	k->last = k->i++;
	k->key_next = k->general == 1;
	return WALK_MAKE(WALK_EDGE_KEYED, entry_key(k, k->last));
}

/* list_traverse and tupletraverse go from the last item to the first. */
static u64 match_sequence(struct walk_ctx *c, u64 o)
{
	struct walk_cursor *k = &c->cursor;

	while (k->i >= 0 && !ld64(k->items + 8 * (u64)k->i))
		k->i--;
	if (k->i < 0 || ld64(k->items + 8 * (u64)k->i) != o)
		return 0;
	return WALK_MAKE(WALK_EDGE_INDEX, (u64)k->i--);
}

/* lru_cache_tp_traverse (Modules/_functoolsmodule.c): of every link its key, then its result. */
static u64 match_lru(struct walk_ctx *c, u64 o)
{
	struct walk_cursor *k = &c->cursor;
	u64 link = k->items, key;

	if (!link || link == c->current)
		return 0;
	key = ld64(link + (u64)c->off.lru_key);
	if (!k->key_next && o == key) {
		k->key_next = 1;
		return WALK_MAKE(WALK_EDGE_DICT_KEY, 0);
	}
	if (o != ld64(link + (u64)c->off.lru_result))
		return 0;
	k->key_next = 0;
	k->items = ld64(link + (u64)c->off.lru_next);
	return WALK_MAKE(WALK_EDGE_KEYED, key);
}

/* hamt_node_bitmap_traverse, hamt_node_collision_traverse (Python/hamt.c): from the last to the
 * first of key, value, key, value, ...; a NULL for key means that the value is a node. */
static u64 match_pairs(struct walk_ctx *c, u64 o)
{
	u64 b = match_sequence(c, o), at, key;

	if (!b)
		return 0;
	at = WALK_ARG(b);
	if (!(at & 1))
		return WALK_MAKE(WALK_EDGE_DICT_KEY, 0);
	key = ld64(c->cursor.items + 8 * (at - 1));
	return key ? WALK_MAKE(WALK_EDGE_KEYED, ld64(key + (u64)c->off.contextvar_name))
		   : WALK_MAKE(WALK_EDGE_PLAIN, 0);
}

/* ---- labels that wait for their visit ---- */

static void expect(struct walk_ctx *c, u64 object, u64 b)
{
	if (!object || c->n_pending >= WALK_MAX_PENDING)
		return;
	c->pending[c->n_pending].object = object;
	c->pending[c->n_pending++].b = b;
	c->pending_left++;
}

static u64 match_pending(struct walk_ctx *c, u64 o)
{
	uint32_t n = c->n_pending, at = c->pending_at;

	for (uint32_t i = 0; i < n; i++, at++) {
		if (at >= n)
			at = 0;
		if (c->pending[at].object != o)
			continue;
		c->pending[at].object = 0;
		c->pending_at = at + 1;
		c->pending_left--;
		return c->pending[at].b;
	}
	return 0;
}

/* Values that lie beside an instance instead of in a dict; names in the type's shared keys. */
static void expect_values(struct walk_ctx *c, const struct walk_type *t, u64 values)
{
	struct table k;

	if (!t->cached_keys)
		return;
	read_table(c, t->cached_keys, &k);
	values += (u64)c->off.dictvalues_values;
	for (i64 i = 0; i < k.n && c->n_pending < WALK_MAX_PENDING; i++) {
		u64 v = ld64(values + 8 * (u64)i);

		if (v)
			expect(c, v,
				WALK_MAKE(WALK_EDGE_ATTR_KEY,
					ld64(k.entries + (u64)i * k.entry_bytes + k.key_offset)));
	}
}

static i64 var_items(const struct walk_ctx *c, const struct walk_type *t, u64 o)
{
	if (c->off.minor >= 12 && t->flags & FLAG_LONG)
		return (i64)(ld64(o + (u64)c->off.long_tag) >> 3);
	i64 n = (i64)ld64(o + OB_SIZE);
	return n < 0 ? -n : n;
}

static void expect_attributes(struct walk_ctx *c, const struct walk_type *t, u64 o)
{
	const u64 dict = WALK_MAKE(WALK_EDGE_DICT, 0);

	if (t->flags & FLAG_MANAGED_DICT && c->off.minor >= 11) {
		u64 w = ld64(o - 24);

		if (c->off.minor == 11) {
			u64 values = ld64(o - 32);

			if (values)
				expect_values(c, t, values);
			expect(c, w, dict);
		} else if (c->off.minor == 12) {
			if (w & 1)
				expect_values(c, t, w + 1);
			else
				expect(c, w, dict);
		} else {
			u64 values = o + (u64)t->basicsize;

			expect(c, w, dict);
			if (t->flags & FLAG_INLINE_VALUES &&
				ld8(values + (u64)c->off.dictvalues_valid))
				expect_values(c, t, values);
		}
	} else if (t->dictoffset > 0) {
		expect(c, ld64(o + (u64)t->dictoffset), dict);
	} else if (t->dictoffset < 0) {
		i64 size = t->basicsize + var_items(c, t, o) * t->itemsize;

		expect(c, ld64(o + (u64)(((size + 7) & ~7L) + t->dictoffset)), dict);
	}
}

static void expect_names(struct walk_ctx *c, u64 names, i64 n, u64 slots, i64 first)
{
	for (i64 i = 0; i < n && c->n_pending < WALK_MAX_PENDING; i++) {
		u64 v = ld64(slots + 8 * (u64)(first + i));

		if (c->off.minor >= 14) /* tagged words: 1 is NULL, 3 a small int, bit 0 borrowed */
			v = (v & 3) == 3 ? 0 : v & ~3UL;
		if (v)
			expect(c, v,
				WALK_MAKE(WALK_EDGE_LOCAL,
					ld64(names + (u64)c->off.tuple_items + 8 * (u64)i)));
	}
}

/* 3.11+: struct _PyInterpreterFrame */
static void expect_inner_frame(struct walk_ctx *c, u64 f)
{
	u64 code = ld64(f + (u64)c->off.if_code);

	if (c->off.minor >= 14)
		code &= ~3UL;
	if (!code || ld64(code + OB_TYPE) != c->known[WALK_KNOW_CODE])
		return;
	expect_names(c, ld64(code + (u64)c->off.co_localsplusnames),
		(i64)ld32(code + (u64)c->off.co_nlocalsplus), f + (u64)c->off.if_localsplus, 0);
}

/* What is on top of a suspended frame's value stack: what it waits for. */
static void expect_awaited(struct walk_ctx *c, u64 code, u64 bottom, u64 top)
{
	uint32_t flags = ld32(code + (u64)c->off.co_flags);
	u64 v;

	/* 3.15: an index into what is iterated over, or NULL, lies on it */
	if (c->off.minor >= 15)
		top -= 8;
	if (top <= bottom || top > bottom + 8 * (u64)ld32(code + (u64)c->off.co_stacksize))
		return;
	v = ld64(top - 8);
	expect(c, c->off.minor >= 14 ? v & ~3UL : v,
		WALK_MAKE(WALK_EDGE_LABEL,
			flags & CO_ASYNC_GENERATOR ? WALK_LABEL_AG_AWAIT
			: flags & CO_COROUTINE     ? WALK_LABEL_CR_AWAIT
						   : WALK_LABEL_GI_YIELDFROM));
}

/* 3.11+: the frame of one that is suspended in `yield from` or `await`. */
static void expect_inner_awaited(struct walk_ctx *c, u64 f, int8_t state)
{
	u64 code = ld64(f + (u64)c->off.if_code), bottom = f + (u64)c->off.if_localsplus, top;

	if (c->off.minor >= 14)
		code &= ~3UL;
	if (!code || ld64(code + OB_TYPE) != c->known[WALK_KNOW_CODE])
		return;
	/* FRAME_SUSPENDED_YIELD_FROM; up to 3.12 the instruction that comes next, a RESUME, says whether
	 * it was a plain yield (1) or one of these (2, 3) */
	if (c->off.minor >= 13 ? state != (c->off.minor >= 15 ? 2 : -1)
			       : state != -1 || ld8(ld64(f + (u64)c->off.if_instr) + 3) < 2)
		return;
	if (c->off.if_stackpointer >= 0)
		top = ld64(f + (u64)c->off.if_stackpointer);
	else
		top = bottom + 8 * (u64)(i64)(int32_t)ld32(f + (u64)c->off.if_stacktop);
	expect_awaited(c, code, bottom + 8 * (u64)ld32(code + (u64)c->off.co_nlocalsplus), top);
}

/* Up to 3.10: the frame object of a generator that stands before a YIELD_FROM. */
static void expect_object_awaited(struct walk_ctx *c, u64 o, u64 code)
{
	const struct walk_offsets *f = &c->off;
	i64 next = (i64)(int32_t)ld32(o + (u64)f->fo_lasti);
	u64 bottom = ld64(o + (u64)f->fo_valuestack), bytes = ld64(code + (u64)f->co_code);

	if (!ld64(o + (u64)f->fo_gen) || next < 0)
		return;
	next = f->minor == 10 ? 2 * next + 2 : next + 2; /* 3.10 counts instructions */
	if (next >= (i64)ld64(bytes + OB_SIZE) ||
		ld8(bytes + (u64)f->bytes_sval + (u64)next) != YIELD_FROM)
		return;
	expect_awaited(c, code, bottom,
		f->minor == 10 ? bottom + 8 * (u64)(i64)(int32_t)ld32(o + (u64)f->fo_stackdepth)
			       : ld64(o + (u64)f->fo_stacktop));
}

static void expect_frame(struct walk_ctx *c, u64 o)
{
	if (c->off.minor >= 11) {
		u64 f = ld64(o + (u64)c->off.fo_iframe);

		if (f)
			expect_inner_frame(c, f);
		return;
	}
	u64 code = ld64(o + (u64)c->off.fo_code), slots = o + (u64)c->off.fo_localsplus;
	i64 n = (i64)ld32(code + (u64)c->off.co_nlocals);

	expect_names(c, ld64(code + (u64)c->off.co_varnames), n, slots, 0);
	const int32_t more[2] = {c->off.co_cellvars, c->off.co_freevars};
	for (int i = 0; i < 2; i++) {
		u64 names = ld64(code + (u64)more[i]);
		i64 k = names ? (i64)ld64(names + OB_SIZE) : 0;

		expect_names(c, names, k, slots, n);
		n += k;
	}
	expect_object_awaited(c, o, code);
}

static void expect_generator(struct walk_ctx *c, u64 o)
{
	if (c->off.minor <= 10)
		return; /* gi_frame is an object of its own */
	int8_t state = (int8_t)ld8(o + (u64)c->off.gen_frame_state);

	/* FRAME_CLEARED: 4, since 3.15 5 */
	if (state == (c->off.minor >= 15 ? 5 : 4))
		return;
	expect_inner_frame(c, o + (u64)c->off.gen_iframe);
	expect_inner_awaited(c, o + (u64)c->off.gen_iframe, state);
}

/* ---- sizes: what sys.getsizeof says, and inline values, which it leaves out ---- */

static i64 table_size(const struct walk_ctx *c, u64 keys)
{
	struct table t;
	u64 size, index;

	read_table(c, keys, &t);
	if (c->off.minor <= 10) {
		size = ld64(keys + (u64)c->off.dk_dk_size);
		index = t.entries - keys - (u64)c->off.dk_indices;
	} else {
		size = 1UL << (ld8(keys + (u64)c->off.dk_log2_size) & 63);
		index = 1UL << (ld8(keys + (u64)c->off.dk_log2_index_bytes) & 63);
	}
	return (i64)((u64)c->off.dk_head_size + index + t.entry_bytes * ((size << 1) / 3));
}

static i64 str_size(const struct walk_ctx *c, u64 o)
{
	const struct walk_offsets *f = &c->off;
	uint32_t state = ld32(o + (u64)f->str_state);
	u64 length = ld64(o + (u64)f->str_length), width = state >> 2 & 7, data, r;
	int compact = state >> 5 & 1, ascii = state >> 6 & 1;

	if (compact) {
		data = o + (u64)(ascii ? f->str_ascii_size : f->str_compact_size);
		r = data - o + (length + 1) * width;
	} else {
		data = ld64(o + (u64)f->str_data);
		r = (u64)f->str_legacy_size + (data ? (length + 1) * width : 0);
	}
	if (!(compact && ascii)) {
		u64 utf8 = ld64(o + (u64)f->str_utf8);

		if (utf8 && utf8 != data)
			r += ld64(o + (u64)f->str_utf8_length) + 1;
	}
	if (f->str_wstr >= 0) {
		u64 w = ld64(o + (u64)f->str_wstr);

		if (w && w != data)
			r += 4 *
			     (1 + (compact && ascii ? length : ld64(o + (u64)f->str_wstr_length)));
	}
	return (i64)r;
}

static i64 dict_size(const struct walk_ctx *c, const struct walk_type *t, u64 o)
{
	const struct walk_offsets *f = &c->off;
	u64 keys = ld64(o + (u64)f->dict_keys);
	i64 r = t->basicsize;

	if (ld64(o + (u64)f->dict_values)) {
		if (f->minor <= 10)
			r += 8 * (i64)((ld64(keys + (u64)f->dk_dk_size) << 1) / 3);
		else
			r += 8 * (i64)(ld64(keys + (u64)f->dk_nentries) +
					 ld64(keys + (u64)f->dk_usable));
	}
	if (ld64(keys) == 1) /* dk_refcnt: nobody shares the table */
		r += table_size(c, keys);
	if (t->kind == KIND_ODICT)
		r += (i64)(8 * ld64(o + (u64)f->odict_fast_nodes_size) +
			   32 * ld64(o + (u64)f->dict_used));
	return r;
}

/* Its frame lies in the object: room for locals and value stack as the code asks. */
static i64 generator_size(const struct walk_ctx *c, u64 o)
{
	const struct walk_offsets *f = &c->off;
	u64 frame = o + (u64)f->gen_iframe, code = ld64(frame + (u64)f->if_code);

	if (f->minor >= 14)
		code &= ~3UL;
	i64 n = f->gen_iframe + f->if_localsplus;
	if (code && ld64(code + OB_TYPE) == c->known[WALK_KNOW_CODE])
		n += 8 * ((i64)ld32(code + (u64)f->co_nlocalsplus) +
				 (i64)ld32(code + (u64)f->co_stacksize));
	return n;
}

static i64 shallow_size(const struct walk_ctx *c, const struct walk_type *t, u64 o)
{
	const struct walk_offsets *f = &c->off;
	i64 before = t->flags & FLAG_HAVE_GC ? GC_HEAD : 0, n;

	if (t->kind == KIND_TYPE && !(ld64(o + TP_FLAGS) & FLAG_HEAPTYPE))
		before = 0;
	if (f->minor == 11 && t->flags & FLAG_MANAGED_DICT)
		before += 16;
	if (f->minor >= 12 && t->flags & (FLAG_MANAGED_DICT | FLAG_MANAGED_WEAKREF))
		before += 16;

	switch (t->kind) {
	case KIND_STR:
		return before + str_size(c, o);
	case KIND_DICT:
	case KIND_ODICT:
		return before + dict_size(c, t, o);
	case KIND_LIST:
		n = t->basicsize + 8 * (i64)ld64(o + (u64)f->list_allocated);
		break;
	case KIND_SET:
		n = t->basicsize;
		if (ld64(o + (u64)f->set_table) != o + (u64)f->set_smalltable)
			n += 16 * (i64)(ld64(o + (u64)f->set_mask) + 1);
		break;
	case KIND_BYTEARRAY:
		n = (i64)ld64(o + (u64)f->bytearray_alloc);
		n = t->basicsize + (f->minor >= 15 && n ? n + 33 : n);
		break;
	case KIND_DEQUE:
		n = (i64)((ld64(o + (u64)f->deque_leftindex) + ld64(o + OB_SIZE) + 63) / 64);
		n = t->basicsize + n * f->deque_block_size;
		break;
	case KIND_GEN:
		n = f->minor >= 11 ? generator_size(c, o) : t->basicsize;
		break;
	case KIND_TYPE:
		n = t->basicsize;
		if (ld64(o + TP_FLAGS) & FLAG_HEAPTYPE) {
			u64 keys = ld64(o + (u64)f->ht_cached_keys);

			n = f->heaptype_size + (keys ? table_size(c, keys) : 0);
		}
		break;
	case KIND_INT:
		n = var_items(c, t, o);
		if (f->minor >= 11 && n < 1)
			n = 1;
		n = f->long_digit + 4 * n;
		break;
	default:
		n = t->itemsize ? var_items(c, t, o) : 0;
		/* not every itemsize means that ob_size is a number of items */
		n = t->basicsize + (n < (1L << 40) ? n * t->itemsize : 0);
	}
	if (f->minor >= 13 && t->flags & FLAG_INLINE_VALUES) {
		i64 room = ld8(o + (u64)t->basicsize + (u64)f->dictvalues_capacity);

		n += ((room + 7) & ~7L) + 8 * (room + 1);
	}
	return before + n;
}

/* ---- one object ---- */

static int on_visit(u64 o, void *arg)
{
	struct walk_ctx *c = arg;
	u64 b = 0;

	if (!o)
		return 0;
	if (c->pending_left)
		b = match_pending(c, o);
	if (!b) {
		if (c->cursor.kind == KIND_DICT)
			b = match_dict(c, o);
		else if (c->cursor.kind == KIND_LIST)
			b = match_sequence(c, o);
		else if (c->cursor.kind == KIND_LRU)
			b = match_lru(c, o);
		else if (c->cursor.kind == KIND_PAIRS)
			b = match_pairs(c, o);
	}
	if (!b && o == c->type && !c->type_seen) {
		c->type_seen = 1;
		b = WALK_MAKE(WALK_EDGE_TYPE, 0);
	}
	if (!b)
		b = WALK_MAKE(
			c->default_tag, c->default_tag == WALK_EDGE_INDEX ? c->default_index++ : 0);
	edge(c, o, b);
	return 0;
}

static void emit_items(struct walk_ctx *c, u64 items, i64 n)
{
	for (i64 i = 0; i < n; i++) {
		u64 v = ld64(items + 8 * (u64)i);

		if (v)
			edge(c, v, WALK_MAKE(WALK_EDGE_INDEX, (u64)i));
	}
}

static void emit_object(struct walk_ctx *c, u64 o, u64 flags)
{
	c->current = o;
	c->phase = WALK_PHASE_HEADER;

	u64 type = ld64(o + OB_TYPE);
	const struct walk_type *t = type_of(c, type);
	i64 size = shallow_size(c, t, o);
	u64 refcnt = ld64(o + OB_REFCNT);

	/* Two units that belong together: never a stop between them. */
	if (c->cap_units - c->n_units < 2)
		stop(c, WALK_FULL);
	put(c, o, WALK_MAKE(WALK_NODE, WALK_NODE_ARG(size, flags)));
	put(c, type, refcnt);
	c->n_objects++;
	if (c->op == WALK_HEADERS)
		return;
	c->phase = WALK_PHASE_BODY;

	if (t->kind == KIND_LIST && type == c->known[WALK_KNOW_LIST]) {
		emit_items(c, ld64(o + (u64)c->off.list_items), (i64)ld64(o + OB_SIZE));
		return;
	}
	if (t->kind == KIND_TUPLE && type == c->known[WALK_KNOW_TUPLE]) {
		emit_items(c, o + (u64)c->off.tuple_items, (i64)ld64(o + OB_SIZE));
		return;
	}
	if (t->kind == KIND_CODE && !(t->flags & FLAG_HAVE_GC)) {
		for (uint32_t i = 0; i < t->n_slots; i++) {
			u64 v = ld64(o + t->slot[i].offset);

			if (v)
				edge(c, v, WALK_MAKE(t->slot[i].tag, t->slot[i].arg));
		}
		return;
	}
	/* The collector's own condition (PyObject_IS_GC): type_traverse of a static type, for
	 * one, would abort. */
	if (!(t->flags & FLAG_HAVE_GC) || !t->traverse)
		return;
	if (!(flags & WALK_NODE_TRACKED)) {
		if (t->flags & FLAG_TYPE) {
			if (!(ld64(o + TP_FLAGS) & FLAG_HEAPTYPE))
				return;
		} else if (ld64(type + (u64)c->off.tp_is_gc)) {
			return;
		}
	}

	c->type = type;
	c->type_seen = 0;
	c->n_pending = 0;
	c->pending_left = 0;
	c->pending_at = 0;
	c->default_tag = WALK_EDGE_PLAIN;
	c->default_index = 0;
	c->cursor.kind = KIND_OTHER;
	for (uint32_t i = 0; i < t->n_slots; i++)
		expect(c, ld64(o + t->slot[i].offset), WALK_MAKE(t->slot[i].tag, t->slot[i].arg));
	if (t->kind != KIND_TYPE)
		expect_attributes(c, t, o);
	switch (t->kind) {
	case KIND_DICT:
	case KIND_ODICT:
		expect_dict(c, o);
		break;
	case KIND_LIST:
	case KIND_TUPLE:
		c->cursor.kind = KIND_LIST;
		c->cursor.items = t->kind == KIND_LIST ? ld64(o + (u64)c->off.list_items)
						       : o + (u64)c->off.tuple_items;
		c->cursor.i = (i64)ld64(o + OB_SIZE) - 1;
		break;
	case KIND_SET:
		c->default_tag = WALK_EDGE_MEMBER;
		break;
	case KIND_DEQUE:
	case KIND_ARRAY:
		c->default_tag = WALK_EDGE_INDEX;
		break;
	case KIND_LRU:
		c->cursor.kind = KIND_LRU;
		c->cursor.key_next = 0;
		c->cursor.items = ld64(o + (u64)c->off.lru_next);
		break;
	case KIND_PAIRS:
		c->cursor.kind = KIND_PAIRS;
		c->cursor.items = o + (u64)c->off.hamt_bitmap_array;
		c->cursor.i = (i64)ld64(o + OB_SIZE) - 1;
		break;
	case KIND_GEN:
		expect_generator(c, o);
		break;
	case KIND_FRAME:
		expect_frame(c, o);
		break;
	}
	((traverse_fn)t->traverse)(o, on_visit, c);
}

/* ---- the two jobs ---- */

static uint32_t walk_rings(struct walk_ctx *c)
{
	for (; c->ring < c->n_heads; c->ring++, c->gc = 0) {
		u64 head = c->heads[c->ring], flags = WALK_NODE_TRACKED;

		if (c->ring + 1 == c->n_heads) /* oldest first, so this is generation 0 */
			flags |= WALK_NODE_YOUNG;
		c->phase = WALK_PHASE_LINK;
		if (!c->gc)
			c->gc = ld64(head) & ~3UL;
		while (c->gc != head) {
			u64 node = c->gc;

			__builtin_prefetch((const void *)(ld64(node) & ~3UL));
			if (c->n_objects >= c->max_objects)
				return WALK_CAPPED;
			emit_object(c, node + GC_HEAD, flags);
			c->phase = WALK_PHASE_LINK;
			c->gc = ld64(node) & ~3UL;
			/* linked both ways, or the ring is not one */
			if ((ld64(c->gc + 8) & ~3UL) != node) {
				c->broken = 1;
				break;
			}
		}
	}
	c->phase = WALK_PHASE_IDLE;
	return c->broken ? WALK_BROKEN : WALK_DONE;
}

static uint32_t walk_list(struct walk_ctx *c)
{
	for (; c->in_next < c->n_in; c->in_next++) {
		if (c->in_next + AHEAD < c->n_in)
			__builtin_prefetch((const void *)ld64(c->in + 8 * (c->in_next + AHEAD)));
		if (c->n_objects >= c->max_objects)
			return WALK_CAPPED;
		emit_object(c, ld64(c->in + 8 * c->in_next), 0);
	}
	c->phase = WALK_PHASE_IDLE;
	return WALK_DONE;
}

/*
 * Objects with a field for each item (structseq: sys.flags, os.stat_result) look their size up in
 * their type's dict, for which some versions need a current thread state, and in a copy made while
 * the GIL was free there is none. They are tuples: read the items that a tuple shows.
 */
static int read_instead(struct walk_ctx *c)
{
	u64 o = c->current;
	const struct walk_type *t = type_of(c, ld64(o + OB_TYPE));

	if (t->kind != KIND_TUPLE || t->dictoffset || t->n_slots)
		return 0;
	c->phase = WALK_PHASE_AGAIN;
	put(c, o, WALK_MAKE(WALK_AGAIN, 0));
	if (t->flags & FLAG_HEAPTYPE && c->off.minor >= 9)
		edge(c, t->type, WALK_MAKE(WALK_EDGE_TYPE, 0));
	emit_items(c, o + (u64)c->off.tuple_items, (i64)ld64(o + OB_SIZE));
	return 1;
}

/* After a fault: note what was lost, step over it. */
static void step_over(struct walk_ctx *c)
{
	uint32_t phase = c->phase;

	c->fault = 0;
	if (phase == WALK_PHASE_BODY && read_instead(c))
		phase = WALK_PHASE_IDLE;
	c->phase = WALK_PHASE_LINK;
	if (phase == WALK_PHASE_BODY || phase == WALK_PHASE_AGAIN)
		put(c, c->current, WALK_MAKE(WALK_SKIP, 0));
	else if (phase == WALK_PHASE_HEADER)
		c->n_headers_lost++;
	if (c->op == WALK_EXPAND) {
		c->in_next++;
		return;
	}
	if (phase == WALK_PHASE_LINK) {
		c->ring++;
		c->gc = 0;
		c->broken = 1;
		return;
	}
	c->gc = ld64(c->current - GC_HEAD) & ~3UL;
}

/* The blob's first byte: where the helper starts it, and starts it again. Never returns. */
__attribute__((section(".text.walk_main"), noreturn, used)) void walk_main(struct walk_ctx *c);
void walk_main(struct walk_ctx *c)
{
	if (c->fault)
		step_over(c);
	for (;;) {
		uint32_t event = c->op == WALK_EXPAND ? walk_list(c) : walk_rings(c);

		c->phase = WALK_PHASE_IDLE;
		stop(c, event);
	}
}
