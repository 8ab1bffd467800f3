/* SPDX-License-Identifier: MIT */
/*
 * Names: str objects, and what a type is called. All of it may be freed or half written while it
 * is read (the target runs), so lengths are bounded before anything is read by them, and what
 * cannot be told is an error, not a guess.
 */
#include "daemon/python/python.h"

#include <string.h>

#include "daemon/python/mem.h"
#include "daemon/util/macros.h"
#include "daemon/util/utf8.h"

#define DICT_ENTRIES_MAX 65536
#define META_DEPTH_MAX   8
#define TYPE_BYTES       (OFF_TP_BASE + 16) /* up to tp_dict, included */
#define STR_UNITS_MAX    65536

static uint64_t u64_at(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint64_t at(uint64_t base, int32_t offset)
{
	return base + (uint64_t)(int64_t)offset;
}

/* ---- types ---- */

bool python_is_type(const struct python *p, uint64_t o)
{
	uint64_t meta, flags;

	if (o == 0 || o % 8 != 0 || mem_read_u64(p->id.pid, o + OFF_OB_TYPE, &meta) < 0)
		return false;
	/* The type of a type is `type` or a subclass of it, whose own type is again. */
	for (int i = 0; i < META_DEPTH_MAX; i++) {
		uint64_t next;

		if (meta == p->type_type)
			return true;
		if (meta == 0 || meta % 8 != 0 ||
			mem_read_u64(p->id.pid, meta + OFF_TP_FLAGS, &flags) < 0 ||
			!(flags & TPFLAGS_TYPE_SUBCLASS) ||
			mem_read_u64(p->id.pid, meta + OFF_OB_TYPE, &next) < 0)
			return false;
		meta = next;
	}
	return false;
}

/* ---- str ---- */

struct out {
	char *buf;
	size_t n, cap; /* cap includes the terminator */
	bool full;
};

static void put_char(struct out *o, uint32_t c)
{
	uint8_t b[4];
	size_t n;

	if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		c = '?'; /* not a character: a lone surrogate, or torn */
	if (c < 0x80) {
		b[0] = (uint8_t)c;
		n = 1;
	} else if (c < 0x800) {
		b[0] = (uint8_t)(0xc0 | c >> 6);
		b[1] = (uint8_t)(0x80 | (c & 0x3f));
		n = 2;
	} else if (c < 0x10000) {
		b[0] = (uint8_t)(0xe0 | c >> 12);
		b[1] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
		b[2] = (uint8_t)(0x80 | (c & 0x3f));
		n = 3;
	} else {
		b[0] = (uint8_t)(0xf0 | c >> 18);
		b[1] = (uint8_t)(0x80 | (c >> 12 & 0x3f));
		b[2] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
		b[3] = (uint8_t)(0x80 | (c & 0x3f));
		n = 4;
	}
	if (o->full || o->n + n >= o->cap) {
		o->full = true;
		return;
	}
	memcpy(o->buf + o->n, b, n);
	o->n += n;
}

/* Where the characters of a str are: PEP 393; Include/cpython/unicodeobject.h. */
static int find_chars(const struct python *p, uint64_t addr, uint64_t *ret_data, uint64_t *ret_len,
	unsigned *ret_width)
{
	const struct layout *l = &p->layout;
	uint64_t type, flags, len;
	uint8_t head[40];
	uint32_t state;
	unsigned kind;
	int r;

	r = mem_read(p->id.pid, addr, head, sizeof(head));
	if (r < 0)
		return r;
	type = u64_at(head + OFF_OB_TYPE);
	r = mem_read_u64(p->id.pid, type + OFF_TP_FLAGS, &flags);
	if (r < 0 || !(flags & TPFLAGS_UNICODE_SUBCLASS))
		return -EINVAL;
	len = u64_at(head + l->str_length);
	memcpy(&state, head + l->str_state, sizeof(state));
	kind = state >> 2 & 7; /* 1, 2 or 4 bytes a character; 0: only wchar_t so far (3.11) */
	if (state >> 5 & 1) {
		*ret_data = at(addr, state >> 6 & 1 ? l->str_ascii_size : l->str_compact_size);
	} else if (kind == 0 && l->str_wstr >= 0) {
		kind = 4;
		r = mem_read_u64(p->id.pid, at(addr, l->str_wstr), ret_data);
		if (r == 0)
			r = mem_read_u64(p->id.pid, at(addr, l->str_wstr_length), &len);
	} else {
		r = mem_read_u64(p->id.pid, at(addr, l->str_data), ret_data);
	}
	if (r < 0)
		return r;
	if (kind != 1 && kind != 2 && kind != 4)
		return -EINVAL;
	*ret_len = len;
	*ret_width = kind;
	return 0;
}

int python_str_read(const struct python *p, uint64_t addr, char *buf, size_t n)
{
	struct out o = {.buf = buf, .cap = n};
	uint64_t data, len;
	unsigned width;
	int r;

	if (n == 0)
		return -EINVAL;
	buf[0] = '\0';
	if (addr == 0 || addr % 8 != 0)
		return -EINVAL;
	r = find_chars(p, addr, &data, &len, &width);
	if (r < 0)
		return r;
	if (len > STR_UNITS_MAX)
		return -ENAMETOOLONG;
	while (len > 0 && !o.full) {
		uint8_t chunk[512];
		uint64_t k = MIN(len, sizeof(chunk) / width);

		r = mem_read(p->id.pid, data, chunk, k * width);
		if (r < 0)
			return r;
		for (uint64_t i = 0; i < k; i++) {
			uint32_t c = 0;

			memcpy(&c, chunk + i * width, width);
			put_char(&o, c);
		}
		data += k * width;
		len -= k;
	}
	buf[o.n] = '\0';
	return o.full ? -ENAMETOOLONG : 0;
}

/* ---- a key in a class dict ---- */

/* Entries of a combined table: Include/internal/pycore_dict.h, Objects/dict-common.h. */
static int find_entries(const struct python *p, uint64_t keys, uint64_t *ret_entries,
	uint64_t *ret_n, size_t *ret_size)
{
	const struct layout *l = &p->layout;
	uint64_t index_bytes;
	uint8_t head[40];
	int r;

	r = mem_read(p->id.pid, keys, head, sizeof(head));
	if (r < 0)
		return r;
	*ret_size = (size_t)l->dk_entry_general;
	if (l->dk_kind >= 0) {
		if (head[l->dk_log2_index_bytes] > 40)
			return -EPROTO;
		index_bytes = (uint64_t)1 << head[l->dk_log2_index_bytes];
		if (head[l->dk_kind] != 0)
			*ret_size = (size_t)l->dk_entry_unicode;
	} else {
		uint64_t size = u64_at(head + l->dk_dk_size);

		if (size > (uint64_t)1 << 32)
			return -EPROTO;
		index_bytes = size * (size <= 0xff ? 1 : size <= 0xffff ? 2 : 4);
	}
	*ret_n = u64_at(head + l->dk_nentries);
	*ret_entries = at(keys, l->dk_indices) + index_bytes;
	return *ret_n <= DICT_ENTRIES_MAX ? 0 : -EPROTO;
}

/* Value of a key that is a str, or -ENOENT. */
static int dict_get(const struct python *p, uint64_t dict, const char *key, uint64_t *ret)
{
	uint64_t keys, entries, n;
	size_t size;
	int r;

	if (dict == 0 || dict % 8 != 0)
		return -ENOENT;
	r = mem_read_u64(p->id.pid, at(dict, p->layout.dict_keys), &keys);
	if (r == 0)
		r = find_entries(p, keys, &entries, &n, &size);
	while (r == 0 && n > 0) {
		uint8_t chunk[64 * 24];
		uint64_t k = MIN(n, 64u);

		r = mem_read(p->id.pid, entries, chunk, k * size);
		for (uint64_t i = 0; r == 0 && i < k; i++) {
			/* general: hash, key, value; unicode: key, value */
			const uint8_t *e = chunk + i * size + (size == 24 ? 8 : 0);
			uint64_t value = u64_at(e + 8);
			char name[32];

			if (value == 0 || python_str_read(p, u64_at(e), name, sizeof(name)) < 0 ||
				strcmp(name, key) != 0)
				continue;
			*ret = value;
			return 0;
		}
		entries += k * size;
		n -= k;
	}
	return r < 0 ? r : -ENOENT;
}

/* ---- names of types ---- */

/* "module.QualName" into name, cut at a character if need be. */
static void join(char *name, const char *module, const char *qualname)
{
	bool plain = module[0] == '\0' || strcmp(module, "builtins") == 0;
	int n = snprintf(
		name, TYPE_NAME_MAX, "%s%s%s", plain ? "" : module, plain ? "" : ".", qualname);

	if (n >= TYPE_NAME_MAX) {
		size_t k = TYPE_NAME_MAX - 1;

		/* a character that was cut in two goes as a whole */
		while (k > 0 && ((uint8_t)name[k - 1] & 0xc0) == 0x80)
			k--;
		if (k > 0 && (uint8_t)name[k - 1] >= 0xc0 &&
			utf8_length(name + k - 1) == 0)
			name[k - 1] = '\0';
	}
	utf8_clean(name);
}

static int static_name(const struct python *p, uint64_t tp_name, char *name)
{
	char full[TYPE_NAME_MAX], *dot;
	int r;

	r = mem_read_cstr(p->id.pid, tp_name, full, sizeof(full));
	if (r < 0 && r != -ENAMETOOLONG)
		return -ESTALE;
	if (full[0] == '\0')
		return -ESTALE;
	dot = strrchr(full, '.');
	if (dot)
		*dot = '\0';
	join(name, dot ? full : "", dot ? dot + 1 : full);
	return 0;
}

/* type_module() and type_qualname() of Objects/typeobject.c. */
static int heap_name(
	const struct python *p, uint64_t addr, uint64_t dict, uint64_t tp_name, char *name)
{
	char qualname[TYPE_NAME_MAX] = "", module[TYPE_NAME_MAX] = "", *dot;
	uint64_t q, m;
	int r;

	r = mem_read_u64(p->id.pid, at(addr, p->layout.ht_qualname), &q);
	if (r == 0)
		r = python_str_read(p, q, qualname, sizeof(qualname));
	if ((r < 0 && r != -ENAMETOOLONG) || qualname[0] == '\0')
		return -ESTALE;
	r = dict_get(p, dict, "__module__", &m);
	if (r == 0)
		r = python_str_read(p, m, module, sizeof(module));
	if (r < 0 && r != -ENAMETOOLONG) {
		/* no __module__, or one that is a property: a name given in C may hold it */
		if (mem_read_cstr(p->id.pid, tp_name, module, sizeof(module)) < 0)
			module[0] = '\0';
		dot = strrchr(module, '.');
		*(dot ? dot : module) = '\0';
	}
	join(name, module, qualname);
	return 0;
}

int python_type_read(const struct python *p, uint64_t addr, struct python_type *ret)
{
	struct python_type t = {.flags = 0};
	uint8_t b[TYPE_BYTES];
	int r;

	if (!python_is_type(p, addr) || mem_read(p->id.pid, addr, b, sizeof(b)) < 0)
		return -ESTALE;
	t.flags = u64_at(b + OFF_TP_FLAGS);
	t.basicsize = (int64_t)u64_at(b + OFF_TP_BASICSIZE);
	t.itemsize = (int64_t)u64_at(b + OFF_TP_ITEMSIZE);
	t.heap = t.flags & TPFLAGS_HEAPTYPE;
	/* a type that is being freed or made has no sane sizes */
	if (t.basicsize < 0 || t.basicsize > INT32_MAX || t.itemsize < INT32_MIN ||
		t.itemsize > INT32_MAX)
		return -ESTALE;
	if (t.heap)
		r = heap_name(
			p, addr, u64_at(b + p->layout.tp_dict), u64_at(b + OFF_TP_NAME), t.name);
	else
		r = static_name(p, u64_at(b + OFF_TP_NAME), t.name);
	if (r < 0)
		return r;
	*ret = t;
	return 0;
}
