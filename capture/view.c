/* SPDX-License-Identifier: MIT */
#include "capture/view.h"

#include <string.h>

#include "daemon/util/macros.h"

#define ENTRIES_MAX ((uint64_t)1 << 24)

void view_init(struct view *v, const struct python *p)
{
	v->python = p;
	v->l = &p->layout;
	mem_cache_init(&v->cache, p->id.pid);
}

uint64_t view_u64(struct view *v, uint64_t at)
{
	uint64_t x = 0;

	return mem_cache_read(&v->cache, at, &x, sizeof(x)) < 0 ? 0 : x;
}

uint32_t view_u32(struct view *v, uint64_t at)
{
	uint32_t x = 0;

	return mem_cache_read(&v->cache, at, &x, sizeof(x)) < 0 ? 0 : x;
}

uint8_t view_u8(struct view *v, uint64_t at)
{
	uint8_t x = 0;

	return mem_cache_read(&v->cache, at, &x, sizeof(x)) < 0 ? 0 : x;
}

uint64_t view_type(struct view *v, uint64_t o)
{
	return o && o % 8 == 0 ? view_u64(v, o + OFF_OB_TYPE) : 0;
}

uint64_t view_flags(struct view *v, uint64_t o)
{
	uint64_t t = view_type(v, o);

	return t ? view_u64(v, t + OFF_TP_FLAGS) : 0;
}

bool view_is_object(struct view *v, uint64_t o)
{
	uint64_t t = view_type(v, o), m = view_type(v, t);

	for (int depth = 0; m && depth < 8; depth++) {
		if (m == v->python->type_type)
			return (view_u64(v, t + OFF_TP_FLAGS) & TPFLAGS_READY) != 0;
		if (!(view_u64(v, m + OFF_TP_FLAGS) & TPFLAGS_TYPE_SUBCLASS))
			return false;
		m = view_type(v, m);
	}
	return false;
}

bool view_is_str(struct view *v, uint64_t o)
{
	return (view_flags(v, o) & TPFLAGS_UNICODE_SUBCLASS) != 0;
}

size_t view_items(struct view *v, uint64_t o, size_t max)
{
	uint64_t flags = view_flags(v, o);
	int64_t n = (int64_t)view_u64(v, o + OFF_OB_SIZE);

	if (!(flags & (TPFLAGS_TUPLE_SUBCLASS | TPFLAGS_LIST_SUBCLASS)) || n < 0)
		return 0;
	return MIN((size_t)n, max);
}

uint64_t view_item(struct view *v, uint64_t o, size_t i)
{
	if (view_flags(v, o) & TPFLAGS_TUPLE_SUBCLASS)
		return view_u64(v, o + (uint64_t)v->l->tuple_items + 8 * i);
	return view_u64(v, view_u64(v, o + (uint64_t)v->l->list_items) + 8 * i);
}

struct entries {
	uint64_t at;
	uint32_t size, key, value;
	uint64_t n;
};

static bool read_entries(struct view *v, uint64_t keys, struct entries *e)
{
	const struct layout *l = v->l;

	e->n = view_u64(v, keys + (uint64_t)l->dk_nentries);
	if (l->minor <= 10) {
		uint64_t size = view_u64(v, keys + (uint64_t)l->dk_dk_size);
		uint64_t width = size <= 0xff ? 1 : size <= 0xffff ? 2 : size <= 0xffffffff ? 4 : 8;

		e->at = keys + (uint64_t)l->dk_indices + size * width;
		e->size = 24;
	} else {
		uint8_t log2 = view_u8(v, keys + (uint64_t)l->dk_log2_index_bytes);

		e->at = keys + (uint64_t)l->dk_indices + (1ULL << (log2 & 63));
		e->size = view_u8(v, keys + (uint64_t)l->dk_kind) == 0 ? 24 : 16;
	}
	e->key = e->size == 24 ? 8 : 0;
	e->value = e->key + 8;
	return keys && e->n <= ENTRIES_MAX;
}

/* Values in an array of their own; names in a table of keys. */
static int each_value(struct view *v, uint64_t keys, uint64_t values, size_t max,
	int (*f)(void *arg, uint64_t key, uint64_t value), void *arg)
{
	struct entries e;

	if (!read_entries(v, keys, &e))
		return 0;
	values += (uint64_t)v->l->dictvalues_values;
	for (uint64_t i = 0; i < MIN(e.n, max); i++) {
		uint64_t value = view_u64(v, values + 8 * i);
		int r = value ? f(arg, view_u64(v, e.at + i * e.size + e.key), value) : 0;

		if (r)
			return r;
	}
	return 0;
}

int view_dict_each(struct view *v, uint64_t dict, size_t max,
	int (*f)(void *arg, uint64_t key, uint64_t value), void *arg)
{
	uint64_t keys, values;
	struct entries e;

	if (!(view_flags(v, dict) & TPFLAGS_DICT_SUBCLASS))
		return 0;
	keys = view_u64(v, dict + (uint64_t)v->l->dict_keys);
	values = view_u64(v, dict + (uint64_t)v->l->dict_values);
	if (values)
		return each_value(v, keys, values, max, f, arg);
	if (!read_entries(v, keys, &e))
		return 0;
	for (uint64_t i = 0; i < MIN(e.n, max); i++) {
		uint64_t value = view_u64(v, e.at + i * e.size + e.value);
		int r = value ? f(arg, view_u64(v, e.at + i * e.size + e.key), value) : 0;

		if (r)
			return r;
	}
	return 0;
}

struct wanted {
	struct view *view;
	const char *name;
	uint64_t found;
};

static int is_wanted(void *arg, uint64_t key, uint64_t value)
{
	struct wanted *w = arg;
	char buf[128];
	size_t n = view_str(w->view, key, buf, sizeof(buf));

	if (n == 0 || strcmp(buf, w->name) != 0)
		return 0;
	w->found = value;
	return 1;
}

uint64_t view_dict_get(struct view *v, uint64_t dict, const char *key)
{
	struct wanted w = {.view = v, .name = key};

	(void)view_dict_each(v, dict, 1u << 20, is_wanted, &w);
	return w.found;
}

uint64_t view_attribute(struct view *v, uint64_t o, const char *name)
{
	const struct layout *l = v->l;
	uint64_t type = view_type(v, o), flags = view_flags(v, o), dict = 0, keys, values = 0;
	struct wanted w = {.view = v, .name = name};

	if (!type)
		return 0;
	if (l->minor >= 11 && flags & TPFLAGS_MANAGED_DICT) {
		dict = view_u64(v, o - 24);
		if (l->minor == 11) {
			values = view_u64(v, o - 32);
		} else if (l->minor == 12) {
			if (dict & 1) {
				values = dict + 1;
				dict = 0;
			}
		} else if (!dict && flags & TPFLAGS_INLINE_VALUES) {
			values = o + view_u64(v, type + OFF_TP_BASICSIZE);
			if (!view_u8(v, values + (uint64_t)l->dictvalues_valid))
				values = 0;
		}
	} else {
		int64_t offset = (int64_t)view_u64(v, type + (uint64_t)l->tp_dictoffset);

		if (offset > 0)
			dict = view_u64(v, o + (uint64_t)offset);
	}
	if (values) {
		keys = view_u64(v, type + (uint64_t)l->ht_cached_keys);
		(void)each_value(v, keys, values, 256, is_wanted, &w);
	} else if (dict) {
		(void)view_dict_each(v, dict, 1u << 16, is_wanted, &w);
	}
	return w.found;
}

uint64_t view_type_dict(struct view *v, uint64_t type)
{
	const struct layout *l = v->l;
	uint64_t flags = view_u64(v, type + OFF_TP_FLAGS), index, state;

	/* _Py_TPFLAGS_STATIC_BUILTIN */
	if (l->minor < 12 || !(flags & 2))
		return view_u64(v, type + (uint64_t)l->tp_dict);
	index = view_u64(v, type + (uint64_t)l->tp_subclasses);
	if (index-- == 0)
		return 0;
	for (int i = 0; i < 2; i++) {
		int32_t array = i == 0 ? l->interp_static_types : l->interp_static_ext_types;
		int32_t max = i == 0 ? l->max_static_builtin : l->max_static_ext;

		if (array < 0 || max < 0 || index >= (uint64_t)max)
			continue;
		state = v->python->interp + (uint64_t)array +
			index * (uint64_t)l->static_type_state_size;
		if (l->minor == 12 ||
			view_u64(v, state + (uint64_t)l->static_type_state_type) == type)
			return view_u64(v, state + (uint64_t)l->static_type_state_dict);
	}
	return 0;
}

size_t view_str(struct view *v, uint64_t o, char *buf, size_t n)
{
	const struct layout *l = v->l;
	uint32_t state;
	uint64_t length;

	buf[0] = '\0';
	if (!view_is_str(v, o))
		return 0;
	/* the common case from the cached page: compact ASCII */
	state = view_u32(v, o + (uint64_t)l->str_state);
	length = view_u64(v, o + (uint64_t)l->str_length);
	if ((state >> 5 & 3) == 3) {
		if (length >= n || mem_cache_read(&v->cache, o + (uint64_t)l->str_ascii_size, buf,
					   length) < 0) {
			buf[0] = '\0';
			return 0;
		}
		buf[length] = '\0';
	} else if (python_str_read(v->python, o, buf, n) < 0) {
		buf[0] = '\0';
		return 0;
	} else {
		length = strlen(buf);
	}
	for (uint64_t i = 0; i < length; i++)
		if ((unsigned char)buf[i] < 0x20 || buf[i] == 0x7f)
			buf[i] = '?';
	return length;
}
