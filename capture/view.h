/* SPDX-License-Identifier: MIT */
/*
 * Python objects of the frozen copy, read from outside: the few the helper has to understand
 * itself (modules, frames, threads, names). The copy does not change, so pages are cached. What is
 * read may be nonsense; every count is bounded and nothing is followed without a check.
 */
#ifndef PYLEAK_CAPTURE_VIEW_H
#define PYLEAK_CAPTURE_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/python/mem.h"
#include "daemon/python/python.h"

struct view {
	const struct python *python; /* with the copy's pid in its id */
	const struct layout *l;
	struct mem_cache cache;
};

void view_init(struct view *v, const struct python *p);

/* 0 where nothing can be read. */
uint64_t view_u64(struct view *v, uint64_t at);
uint32_t view_u32(struct view *v, uint64_t at);
uint8_t view_u8(struct view *v, uint64_t at);

/* Type of the object at o, 0 if o cannot be one; its tp_flags. */
uint64_t view_type(struct view *v, uint64_t o);
uint64_t view_flags(struct view *v, uint64_t o);
/* Whether o looks like an object: a type whose type's chain ends at `type`. */
bool view_is_object(struct view *v, uint64_t o);
bool view_is_str(struct view *v, uint64_t o);

/* tuple and list: number of items (at most max), item. */
size_t view_items(struct view *v, uint64_t o, size_t max);
uint64_t view_item(struct view *v, uint64_t o, size_t i);

/* Calls f(arg, key, value) for each entry of a dict, until it returns non-zero, which is
 * returned. At most max entries. */
int view_dict_each(struct view *v, uint64_t dict, size_t max,
	int (*f)(void *arg, uint64_t key, uint64_t value), void *arg);

/* Value under a str key; 0: not there. */
uint64_t view_dict_get(struct view *v, uint64_t dict, const char *key);

/* Instance attribute (its __dict__, materialised or not; no slots, no class); 0: not there. */
uint64_t view_attribute(struct view *v, uint64_t o, const char *name);

/* Dict of a type: tp_dict, or per interpreter for static built-ins of 3.12+. */
uint64_t view_type_dict(struct view *v, uint64_t type);

/* Text of a str, at most n - 1 bytes, "" if it is none or too long; returns its length. */
size_t view_str(struct view *v, uint64_t o, char *buf, size_t n);

#endif
