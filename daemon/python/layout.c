/* SPDX-License-Identifier: MIT */
/*
 * From the table of a minor version to the layout of one live process.
 *
 * Public structs (objects, types, code, frames) do not change within a minor. The runtime, the
 * interpreter and the thread state do (3.12.x, 3.13.x and 3.14.x grew, Debian's 3.15 has a JIT in
 * it), so those are compared with what the target itself says: the size of _PyRuntime, from 3.13 on
 * _Py_DebugOffsets, and pointers that must lead to an object of a known type.
 */
#include "daemon/python/layout.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdbool.h>
#include <string.h>

#include "daemon/python/mem.h"
#include "daemon/util/macros.h"

#define OFF(field) offsetof(struct layout, field)

/* Include/internal/pycore_runtime.h (3.13), pycore_debug_offsets.h (3.14 on): where a value lies
 * in _Py_DebugOffsets, in bytes, in 3.13, 3.14 and 3.15; -1: not there. */
static const struct {
	uint16_t field;
	int16_t at[3];
} debug_offsets[] = {
	{OFF(rt_size), {24, 24, 24}},
	{OFF(rt_interp_head), {40, 40, 40}},
	{OFF(interp_size), {48, 48, 48}},
	{OFF(interp_id), {56, 56, 56}},
	{OFF(interp_next), {64, 64, 64}},
	{OFF(interp_tstate_head), {72, 72, 72}},
	{OFF(interp_gc), {80, 88, 88}},
	{OFF(interp_modules), {88, 96, 96}},
	{OFF(interp_sysdict), {96, 104, 104}},
	{OFF(interp_builtins), {104, 112, 112}},
	{OFF(interp_gil_ptr), {112, 120, 120}},
	{OFF(interp_gil_own), {120, 128, 128}},
	{OFF(ts_size), {152, 176, 176}},
	{OFF(ts_prev), {160, 184, 184}},
	{OFF(ts_next), {168, 192, 192}},
	{OFF(ts_interp), {176, 200, 200}},
	{OFF(ts_frame), {184, 208, 208}},
	{OFF(ts_base_frame), {-1, -1, 216}},
	{OFF(ts_thread_id), {192, 216, 240}},
	{OFF(ts_native_thread_id), {200, 224, 248}},
	{OFF(ts_datastack_chunk), {208, 232, 256}},
	{OFF(ts_status), {216, 240, 264}},
	{OFF(ts_holds_gil), {-1, -1, 272}},
	{OFF(ts_current_exception), {-1, -1, 288}},
	{OFF(ts_exc_state), {-1, -1, 296}},
	{OFF(if_size), {224, 248, 312}},
	{OFF(if_previous), {232, 256, 320}},
	{OFF(if_code), {240, 264, 328}},
	{OFF(if_instr), {248, 272, 336}},
	{OFF(if_localsplus), {256, 280, 344}},
	{OFF(if_owner), {264, 288, 352}},
	{OFF(if_stackpointer), {-1, 296, 360}},
	{OFF(code_size), {272, 312, 376}},
	{OFF(co_filename), {280, 320, 384}},
	{OFF(co_name), {288, 328, 392}},
	{OFF(co_qualname), {296, 336, 400}},
	{OFF(co_linetable), {304, 344, 408}},
	{OFF(co_firstlineno), {312, 352, 416}},
	{OFF(co_argcount), {320, 360, 424}},
	{OFF(co_localsplusnames), {328, 368, 432}},
	{OFF(co_localspluskinds), {336, 376, 440}},
	{OFF(co_code_adaptive), {344, 384, 448}},
	{OFF(type_size), {368, 416, 480}},
	{OFF(tp_name), {376, 424, 488}},
	{OFF(tp_flags), {392, 440, 504}},
	{OFF(tp_basicsize), {-1, -1, 512}},
	{OFF(tp_dictoffset), {-1, -1, 520}},
	{OFF(heaptype_size), {-1, -1, 528}},
	{OFF(ht_cached_keys), {-1, -1, 536}},
	{OFF(tuple_items), {408, 456, 552}},
	{OFF(list_items), {432, 480, 576}},
	{OFF(set_used), {-1, 504, 600}},
	{OFF(set_table), {-1, 512, 608}},
	{OFF(set_mask), {-1, 520, 616}},
	{OFF(dict_size), {448, 528, 624}},
	{OFF(dict_keys), {456, 536, 632}},
	{OFF(dict_values), {464, 544, 640}},
	{OFF(long_tag), {496, 576, 672}},
	{OFF(long_digit), {504, 584, 680}},
	{OFF(bytes_sval), {528, 608, 704}},
	{OFF(str_state), {544, 624, 720}},
	{OFF(str_length), {552, 632, 728}},
	{OFF(str_ascii_size), {560, 640, 736}},
	{OFF(str_compact_size), {-1, -1, 744}},
	{OFF(gc_state_size), {568, 648, 752}},
	{OFF(gc_collecting), {576, 656, 760}},
	{OFF(gen_size), {-1, 664, 792}},
	{OFF(gen_name), {-1, 672, 800}},
	{OFF(gen_iframe), {-1, 680, 808}},
	{OFF(gen_frame_state), {-1, 688, 816}},
};

/* Words that are the same in every version: if one is not, _Py_DebugOffsets itself has another
 * shape than we know, and nothing in it may be believed. */
static const struct {
	uint16_t field;
	int32_t value;
} invariants[] = {
	{OFF(ts_prev), 0},
	{OFF(ts_next), 8},
	{OFF(ts_interp), 16},
	{OFF(tp_name), 24},
	{OFF(tp_flags), 168},
	{OFF(list_items), 24},
	{OFF(dict_keys), 32},
	{OFF(bytes_sval), 32},
	{OFF(str_length), 16},
};

#define DEBUG_OFFSETS_BYTES 896

/* Pointers in the interpreter state whose type is known; the first three must fit, the others
 * become -1 (unknown) if they do not. */
static const struct {
	uint16_t field;
	const char *type;
	bool must;
} typed[] = {
	{OFF(interp_modules), "dict", true},
	{OFF(interp_sysdict), "dict", true},
	{OFF(interp_builtins), "dict", true},
	{OFF(interp_modules_by_index), "list", false},
	{OFF(interp_importlib), "module", false},
	{OFF(interp_dict), "dict", false},
	{OFF(interp_builtins_copy), "dict", false},
	{OFF(interp_sysdict_copy), "dict", false},
	{OFF(interp_codec_search_path), "list", false},
	{OFF(interp_codec_search_cache), "dict", false},
	{OFF(interp_codec_error_registry), "dict", false},
	{OFF(interp_before_forkers), "list", false},
	{OFF(interp_after_forkers_parent), "list", false},
	{OFF(interp_after_forkers_child), "list", false},
	{OFF(interp_audit_hooks), "list", false},
	{OFF(interp_warnings_filters), "list", false},
	{OFF(interp_warnings_once), "dict", false},
	{OFF(interp_warnings_default), "str", false},
	{OFF(interp_interned), "dict", false},
};

static const struct {
	const char *name;
	uint16_t field;
} names[] = {
#define F(name) {#name, OFF(name)},
#include "daemon/python/layout_fields.h"
#undef F
};

static int32_t *field_of(struct layout *l, uint16_t field)
{
	return (int32_t *)(void *)((char *)l + field);
}

static int32_t value_of(const struct layout *l, uint16_t field)
{
	return *(const int32_t *)(const void *)((const char *)l + field);
}

/* Fields that _Py_DebugOffsets does not give lie between two that it gives. If both have moved by
 * the same number of bytes since the table was made, so has what is between them; if not, where it
 * is now is not known. */
static void move_between(
	struct layout *l, const struct layout *t, const char *prefix, const bool *known)
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		int32_t at = value_of(t, names[i].field), lo = -1, hi = INT32_MAX;
		int32_t lo_by = 0, hi_by = 0;

		if (known[i] || at < 0 || strncmp(names[i].name, prefix, strlen(prefix)) != 0)
			continue;
		for (size_t k = 0; k < ARRAY_SIZE(names); k++) {
			int32_t v = value_of(t, names[k].field);
			int32_t by = value_of(l, names[k].field) - v;

			if (!known[k] || v < 0 ||
				strncmp(names[k].name, prefix, strlen(prefix)) != 0)
				continue;
			if (v <= at && v > lo) {
				lo = v;
				lo_by = by;
			}
			if (v >= at && v < hi) {
				hi = v;
				hi_by = by;
			}
		}
		if (hi == INT32_MAX) /* behind the last: PyThreadState's Impl */
			hi_by = lo_by;
		*field_of(l, names[i].field) = lo_by == hi_by ? at + lo_by : -1;
	}
}

static int apply_debug_offsets(pid_t pid, uint64_t runtime, struct layout *l, struct err *err)
{
	const struct layout *t = layout_table(l->minor);
	bool known[ARRAY_SIZE(names)] = {false};
	uint8_t raw[DEBUG_OFFSETS_BYTES];
	uint64_t version, free_threaded, limit = 1 << 20;
	int r, column = l->minor - 13;

	r = mem_read(pid, runtime, raw, sizeof(raw));
	if (r < 0)
		return err_set(
			err, r, "pid %d: cannot read _PyRuntime: %s", (int)pid, strerror(-r));
	if (memcmp(raw, "xdebugpy", 8) != 0)
		return err_set(err, -EPROTO,
			"pid %d: _PyRuntime of this 3.%d does not begin with _Py_DebugOffsets; "
			"an unknown build",
			(int)pid, l->minor);
	memcpy(&version, raw + 8, 8);
	memcpy(&free_threaded, raw + 16, 8);
	if (version >> 16 != (0x300u | (unsigned)l->minor))
		return err_set(err, -EPROTO,
			"pid %d: _Py_DebugOffsets is of version %" PRIx64 ", expected 3.%d",
			(int)pid, version, l->minor);
	if (free_threaded != 0)
		return err_set(err, -EOPNOTSUPP,
			"pid %d: CPython 3.%d is a free-threaded build, which is not supported: "
			"its "
			"collector keeps no rings of objects",
			(int)pid, l->minor);
	for (size_t i = 0; i < ARRAY_SIZE(debug_offsets); i++) {
		int at = debug_offsets[i].at[column];
		uint64_t v;

		if (at < 0)
			continue;
		memcpy(&v, raw + at, 8);
		if (v > limit)
			return err_set(err, -EPROTO,
				"pid %d: _Py_DebugOffsets of this 3.%d has another shape than "
				"known "
				"(%" PRIu64 " at %d)",
				(int)pid, l->minor, v, at);
		*field_of(l, debug_offsets[i].field) = (int32_t)v;
		for (size_t k = 0; k < ARRAY_SIZE(names); k++)
			known[k] |= names[k].field == debug_offsets[i].field;
	}
	for (size_t i = 0; i < ARRAY_SIZE(invariants); i++)
		if (value_of(l, invariants[i].field) != invariants[i].value)
			return err_set(err, -EPROTO,
				"pid %d: _Py_DebugOffsets of this 3.%d has another shape than "
				"known",
				(int)pid, l->minor);
	move_between(l, t, "rt_", known);
	move_between(l, t, "interp_", known);
	move_between(l, t, "ts", known);
	move_between(l, t, "gc_", known);
	l->rt_interp_main = l->rt_interp_head + 8;
	/* these four begin with gc_ but are sizes and offsets of other structs */
	l->gc_head_size = t->gc_head_size;
	l->gc_generation_size = t->gc_generation_size;
	l->gc_gen_threshold = t->gc_gen_threshold;
	l->gc_gen_count = t->gc_gen_count;
	return 0;
}

/* Name of the type of the object at addr. */
static int type_name(pid_t pid, uint64_t addr, char *buf, size_t n)
{
	uint64_t type, name;
	int r;

	r = mem_read_u64(pid, addr + OFF_OB_TYPE, &type);
	if (r == 0)
		r = mem_read_u64(pid, type + OFF_TP_NAME, &name);
	if (r == 0)
		r = mem_read_cstr(pid, name, buf, n);
	return r;
}

static bool pointer_fits(pid_t pid, uint64_t at, const char *want)
{
	uint64_t o;
	char name[32];

	if (mem_read_u64(pid, at, &o) < 0)
		return false;
	return o == 0 || (type_name(pid, o, name, sizeof(name)) == 0 && strcmp(name, want) == 0);
}

/* Where the heads of the generations are: 3.13.5 of Debian has them 4 bytes earlier than the
 * headers of 3.13.0 say, but the pointer to the youngest stands where it stood. */
static void find_generations(pid_t pid, uint64_t runtime, uint64_t interp, struct layout *l)
{
	uint64_t gc =
		l->interp_gc >= 0 ? interp + (uint64_t)l->interp_gc : runtime + (uint64_t)l->rt_gc;
	uint64_t head0;

	if ((l->interp_gc < 0 && l->rt_gc < 0) || l->gc_generation0 < 0 ||
		mem_read_u64(pid, gc + (uint64_t)l->gc_generation0, &head0) < 0 || head0 < gc ||
		head0 - gc > 64)
		l->gc_generations = -1;
	else
		l->gc_generations = (int32_t)(head0 - gc);
}

/* Does what the layout says of the main interpreter hold in this process? */
static int self_test(pid_t pid, uint64_t runtime, struct layout *l, bool exact, struct err *err)
{
	uint64_t interp, modules, ts, back;
	int r;

	r = mem_read_u64(pid, runtime + (uint64_t)l->rt_interp_main, &interp);
	if (r < 0)
		return err_set(
			err, r, "pid %d: cannot read _PyRuntime: %s", (int)pid, strerror(-r));
	if (interp == 0)
		return err_set(err, -EAGAIN,
			"pid %d: its Python has not been initialised yet, or has ended", (int)pid);
	if (mem_read_u64(pid, interp + (uint64_t)l->interp_modules, &modules) < 0 ||
		mem_read_u64(pid, interp + (uint64_t)l->interp_tstate_head, &ts) < 0)
		goto unknown;
	if (modules == 0 || ts == 0)
		return err_set(err, -EAGAIN, "pid %d: its Python is still starting, or is ending",
			(int)pid);
	if (mem_read_u64(pid, ts + (uint64_t)l->ts_interp, &back) < 0 || back != interp)
		goto unknown;
	for (size_t i = 0; i < ARRAY_SIZE(typed); i++) {
		int32_t at = value_of(l, typed[i].field);

		if ((exact && !typed[i].must) || at < 0)
			continue;
		if (pointer_fits(pid, interp + (uint64_t)at, typed[i].type))
			continue;
		if (typed[i].must)
			goto unknown;
		*field_of(l, typed[i].field) = -1;
	}
	find_generations(pid, runtime, interp, l);
	return 0;
unknown:
	return err_set(err, -EPROTO,
		"pid %d: its interpreter state does not fit the known layout of CPython 3.%d; an "
		"unknown build, or Python is ending",
		(int)pid, l->minor);
}

int layout_resolve(pid_t pid, int minor, uint64_t runtime, uint64_t runtime_size,
	struct layout *ret, struct err *err)
{
	const struct layout *t = layout_table(minor);
	struct layout l;
	bool exact;
	int r;

	if (!t)
		return err_set(err, -EOPNOTSUPP,
			"pid %d: CPython 3.%d is not supported; 3.8 to 3.15 are", (int)pid, minor);
	l = *t;
	if (minor >= 13) {
		r = apply_debug_offsets(pid, runtime, &l, err);
		if (r < 0)
			return r;
	}
	exact = runtime_size == (uint64_t)t->rt_size && l.interp_size == t->interp_size;
	r = self_test(pid, runtime, &l, exact, err);
	if (r < 0)
		return r;
	*ret = l;
	return 0;
}
