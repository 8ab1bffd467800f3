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

/* Pointers whose type is known, in the order of their offsets. MUST: if it does not fit, this is
 * another struct; the others become -1 (unknown). FULL: never NULL once Python runs. */
enum demand { MAY, FULL, MUST };

struct typed {
	const char *type;
	uint16_t field;
	enum demand demand;
};

static const struct typed typed_interp[] = {
	{"dict", OFF(interp_sysdict), MUST},
	{"dict", OFF(interp_builtins), MUST},
	{"dict", OFF(interp_modules), MUST},
	{"list", OFF(interp_modules_by_index), MAY},
	{"module", OFF(interp_importlib), FULL},
	{"list", OFF(interp_codec_search_path), FULL},
	{"dict", OFF(interp_codec_search_cache), FULL},
	{"dict", OFF(interp_codec_error_registry), FULL},
	{"dict", OFF(interp_dict), MAY},
	{"dict", OFF(interp_sysdict_copy), MAY},
	{"dict", OFF(interp_builtins_copy), MAY},
	{"list", OFF(interp_before_forkers), MAY},
	{"list", OFF(interp_after_forkers_parent), MAY},
	{"list", OFF(interp_after_forkers_child), MAY},
	{"list", OFF(interp_warnings_filters), FULL},
	{"dict", OFF(interp_warnings_once), FULL},
	{"str", OFF(interp_warnings_default), FULL},
	{"list", OFF(interp_audit_hooks), MAY},
	/* an array of states; the first word of each is the type */
	{"type", OFF(interp_static_types), FULL},
	{"dict", OFF(interp_interned), FULL},
};

/* In the state of the main thread. */
static const struct typed typed_thread[] = {
	{"dict", OFF(ts_dict), MAY},
	{"Context", OFF(ts_context), MAY},
	{"str", OFF(ts_local_key), FULL},
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

/* A layout in the making: known[i] says that names[i] is certain. */
struct draft {
	struct layout l;
	const struct layout *table;
	bool known[ARRAY_SIZE(names)];
};

static bool has_prefix(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* By how many bytes the known fields next to offset `at` of the table's struct have moved. */
static void neighbours(
	const struct draft *d, const char *prefix, int32_t at, int32_t *ret_lo, int32_t *ret_hi)
{
	int32_t lo = -1, hi = INT32_MAX, lo_by = 0, hi_by = 0;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		int32_t v = value_of(d->table, names[i].field);
		int32_t by = value_of(&d->l, names[i].field) - v;

		if (!d->known[i] || v < 0 || !has_prefix(names[i].name, prefix))
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
	*ret_lo = lo_by;
	*ret_hi = hi == INT32_MAX ? lo_by : hi_by; /* behind the last: PyThreadState's Impl */
}

/* Fields that are not known lie between two that are. If both have moved by the same number of
 * bytes since the table was made, so has what is between them; if not, where it is now is not
 * known either. */
static void move_between(struct draft *d, const char *prefix)
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		int32_t at = value_of(d->table, names[i].field), lo, hi;

		if (d->known[i] || at < 0 || !has_prefix(names[i].name, prefix))
			continue;
		neighbours(d, prefix, at, &lo, &hi);
		*field_of(&d->l, names[i].field) = lo == hi ? at + lo : -1;
	}
}

static void set_known(struct draft *d, uint16_t field, int32_t value)
{
	*field_of(&d->l, field) = value;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].field == field)
			d->known[i] = true;
}

static int apply_debug_offsets(pid_t pid, uint64_t runtime, struct draft *d, struct err *err)
{
	struct layout *l = &d->l;
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
		set_known(d, debug_offsets[i].field, (int32_t)v);
	}
	for (size_t i = 0; i < ARRAY_SIZE(invariants); i++)
		if (value_of(l, invariants[i].field) != invariants[i].value)
			return err_set(err, -EPROTO,
				"pid %d: _Py_DebugOffsets of this 3.%d has another shape than "
				"known",
				(int)pid, l->minor);
	set_known(d, OFF(rt_interp_main), l->rt_interp_head + 8);
	/* these four begin with gc_ but are sizes and offsets of other structs */
	set_known(d, OFF(gc_head_size), l->gc_head_size);
	set_known(d, OFF(gc_generation_size), l->gc_generation_size);
	set_known(d, OFF(gc_gen_threshold), l->gc_gen_threshold);
	set_known(d, OFF(gc_gen_count), l->gc_gen_count);
	move_between(d, "rt_");
	move_between(d, "interp_");
	move_between(d, "ts");
	move_between(d, "gc_");
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

static bool pointer_fits(pid_t pid, uint64_t at, const struct typed *t)
{
	uint64_t o;
	char name[32];

	if (mem_read_u64(pid, at, &o) < 0)
		return false;
	if (o == 0)
		return t->demand == MAY;
	return type_name(pid, o, name, sizeof(name)) == 0 && strcmp(name, t->type) == 0;
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

/*
 * The same where pointers tell: between two known fields that have moved differently, something
 * was inserted, once or more often, in steps of eight bytes. So along the struct the shift only
 * grows (or only shrinks), and each field must point to its type. A field is known where just one
 * shift is left in all the sequences that fit; two dicts side by side may stay ambiguous.
 */
#define SHIFTS_MAX 17

static void move_by_type(pid_t pid, uint64_t base, const struct typed *typed, size_t n,
	const char *prefix, struct draft *d)
{
	bool fits[ARRAY_SIZE(typed_interp)][SHIFTS_MAX] = {{false}};
	bool back[ARRAY_SIZE(typed_interp)][SHIFTS_MAX];
	uint16_t field[ARRAY_SIZE(typed_interp)];
	int32_t lo = 0, hi = 0, shifts = 0, step = 8;
	size_t m = 0;

	/* all that lie in the first gap whose two ends disagree; there is one in the versions known,
	 * from `builtins` or `datastack_chunk` to the end */
	for (size_t i = 0; i < n; i++) {
		int32_t at = value_of(d->table, typed[i].field), a, b;

		if (at < 0 || value_of(&d->l, typed[i].field) >= 0)
			continue;
		neighbours(d, prefix, at, &a, &b);
		if (m > 0 && (a != lo || b != hi))
			break;
		lo = a;
		hi = b;
		step = hi > lo ? 8 : -8;
		shifts = (hi - lo) / step + 1;
		if ((hi - lo) % 8 != 0 || shifts > SHIFTS_MAX)
			return;
		for (int32_t k = 0; k < shifts; k++)
			fits[m][k] =
				pointer_fits(pid, base + (uint64_t)(at + lo + k * step), &typed[i]);
		field[m++] = typed[i].field;
	}
	if (m == 0)
		return;
	/* what can be reached from the left, then from the right */
	for (size_t i = 1; i < m; i++) {
		bool before = false;

		for (int32_t k = 0; k < shifts; k++) {
			before |= fits[i - 1][k];
			fits[i][k] &= before;
		}
	}
	memcpy(back, fits, sizeof(back));
	for (size_t i = m - 1; i-- > 0;) {
		bool behind = false;

		for (int32_t k = shifts; k-- > 0;) {
			behind |= back[i + 1][k];
			back[i][k] &= behind;
		}
	}
	for (size_t i = 0; i < m; i++) {
		int32_t only = -1, count = 0;

		for (int32_t k = 0; k < shifts; k++)
			if (back[i][k]) {
				only = k;
				count++;
			}
		if (count == 1)
			set_known(d, field[i], value_of(d->table, field[i]) + lo + only * step);
	}
	move_between(d, prefix);
}

/* No generator and no handler is running in a thread: its exc_info points to its own exc_state. */
static void find_exc_state(pid_t pid, uint64_t ts, struct draft *d)
{
	struct layout *l = &d->l;
	uint64_t info;

	for (int i = 0; ts && i < 64 && l->ts_exc_state < 0 && l->ts_exc_info >= 0; i++) {
		if (mem_read_u64(pid, ts + (uint64_t)l->ts_exc_info, &info) < 0)
			return;
		if (info > ts && info - ts < (uint64_t)l->ts_size)
			set_known(d, OFF(ts_exc_state), (int32_t)(info - ts));
		if (mem_read_u64(pid, ts + (uint64_t)l->ts_next, &ts) < 0)
			return;
	}
}

/* Does what the layout says of the main interpreter hold in this process? */
static int self_test(pid_t pid, uint64_t runtime, struct draft *d, bool exact, struct err *err)
{
	struct layout *l = &d->l;
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
	if (!exact) {
		move_by_type(pid, interp, typed_interp, ARRAY_SIZE(typed_interp), "interp_", d);
		move_by_type(pid, ts, typed_thread, ARRAY_SIZE(typed_thread), "ts", d);
		find_exc_state(pid, ts, d);
		/* next to each other in every version that has them */
		if (l->interp_static_types >= 0)
			l->interp_static_types_count = l->interp_static_types - 8;
		if (l->ts_datastack_chunk >= 0)
			l->ts_datastack_top = l->ts_datastack_chunk + 8;
	}
	for (size_t i = 0; i < ARRAY_SIZE(typed_interp); i++) {
		const struct typed *t = &typed_interp[i];
		int32_t at = value_of(l, t->field);

		if ((exact && t->demand != MUST) || at < 0 ||
			pointer_fits(pid, interp + (uint64_t)at, t))
			continue;
		if (t->demand == MUST)
			goto unknown;
		*field_of(l, t->field) = -1;
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
	struct draft d = {.table = layout_table(minor)};
	bool exact;
	int r;

	if (!d.table)
		return err_set(err, -EOPNOTSUPP,
			"pid %d: CPython 3.%d is not supported; 3.8 to 3.15 are", (int)pid, minor);
	d.l = *d.table;
	if (minor >= 13) {
		r = apply_debug_offsets(pid, runtime, &d, err);
		if (r < 0)
			return r;
	}
	exact = runtime_size == (uint64_t)d.table->rt_size &&
		d.l.interp_size == d.table->interp_size;
	r = self_test(pid, runtime, &d, exact, err);
	if (r < 0)
		return r;
	*ret = d.l;
	return 0;
}
