/* SPDX-License-Identifier: MIT */
/* The target is this process: an interpreter state made by hand, read as if it were another's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "daemon/python/layout.h"
#include "daemon/util/macros.h"

static const struct {
	const char *name;
	size_t at;
} names[] = {
#define F(name) {#name, offsetof(struct layout, name)},
#include "daemon/python/layout_fields.h"
#undef F
};

static int32_t value(const struct layout *l, size_t i)
{
	return *(const int32_t *)(const void *)((const char *)l + names[i].at);
}

/* ---- the tables ---- */

static void tables_of_all_minors(void **state)
{
	for (int minor = 8; minor <= 15; minor++) {
		const struct layout *l = layout_table(minor);

		assert_non_null(l);
		assert_int_equal(l->minor, minor);
		assert_int_equal(l->ob_refcnt, OFF_OB_REFCNT);
		assert_int_equal(l->ob_type, OFF_OB_TYPE);
		assert_int_equal(l->ob_size, OFF_OB_SIZE);
		assert_int_equal(l->tp_name, OFF_TP_NAME);
		assert_int_equal(l->tp_basicsize, OFF_TP_BASICSIZE);
		assert_int_equal(l->tp_itemsize, OFF_TP_ITEMSIZE);
		assert_int_equal(l->tp_dealloc, OFF_TP_DEALLOC);
		assert_int_equal(l->tp_flags, OFF_TP_FLAGS);
		assert_int_equal(l->tp_traverse, OFF_TP_TRAVERSE);
		assert_int_equal(l->tp_base, OFF_TP_BASE);
		assert_int_equal(l->gc_head_size, GC_HEAD_BYTES);
		assert_int_equal(l->rt_interp_main, l->rt_interp_head + 8);
		/* either in the interpreter or in the runtime */
		assert_true((l->interp_gc >= 0) != (l->rt_gc >= 0));
		assert_true((l->interp_gil_ptr >= 0) != (l->rt_gil_locked >= 0));
		for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
			int32_t size = INT32_MAX;

			if (strncmp(names[i].name, "interp_", 7) == 0)
				size = l->interp_size;
			else if (strncmp(names[i].name, "rt_", 3) == 0)
				size = l->rt_size;
			else if (strncmp(names[i].name, "ts_", 3) == 0)
				size = l->ts_size;
			assert_true(value(l, i) >= -1);
			assert_true(value(l, i) <= size);
		}
	}
	assert_null(layout_table(7));
	assert_null(layout_table(16));
	assert_null(layout_table(-1));
}

/* A few that everybody can look up in CPython's headers. */
static void known_values(void **state)
{
	assert_int_equal(layout_table(8)->rt_gc, 344);
	assert_int_equal(layout_table(8)->interp_gc, -1);
	assert_int_equal(layout_table(11)->rt_size, 166688);
	assert_int_equal(layout_table(12)->interp_gc, 112);
	assert_int_equal(layout_table(13)->rt_interp_head, 632);
	assert_int_equal(layout_table(14)->gc_generation0, 256);
	assert_int_equal(layout_table(15)->tuple_items, 32);
	assert_int_equal(layout_table(10)->str_wstr, 40);
	assert_int_equal(layout_table(12)->str_wstr, -1);
}

/* ---- a target made by hand ---- */

struct object {
	uint64_t refcnt, type;
	uint8_t body[48];
};

struct fake {
	int minor;
	struct layout l; /* where its fields are put */
	uint8_t *runtime, *interp, *ts;
	struct object dict, list, module, type, str;
	uint8_t types[5][512];
	uint64_t runtime_size;
};

static void put64(uint8_t *base, int32_t at, uint64_t v)
{
	memcpy(base + at, &v, sizeof(v));
}

static void put_ptr(uint8_t *base, int32_t at, const void *p)
{
	if (at >= 0)
		put64(base, at, (uintptr_t)p);
}

/* Fills in what every Python has; f->l says where. */
static void fill(struct fake *f)
{
	static const char *const type_names[] = {"dict", "list", "module", "type", "str"};
	struct object *const objects[] = {&f->dict, &f->list, &f->module, &f->type, &f->str};
	const struct layout *l = &f->l;

	for (size_t i = 0; i < 5; i++) {
		put_ptr(f->types[i], OFF_TP_NAME, type_names[i]);
		objects[i]->type = (uintptr_t)f->types[i];
	}
	put_ptr(f->runtime, l->rt_interp_head, f->interp);
	put_ptr(f->runtime, l->rt_interp_main, f->interp);
	put_ptr(f->interp, l->interp_tstate_head, f->ts);
	put_ptr(f->ts, l->ts_interp, f->interp);
	put_ptr(f->interp, l->interp_modules, &f->dict);
	put_ptr(f->interp, l->interp_sysdict, &f->dict);
	put_ptr(f->interp, l->interp_builtins, &f->dict);
	put_ptr(f->interp, l->interp_importlib, &f->module);
	put_ptr(f->interp, l->interp_codec_search_path, &f->list);
	put_ptr(f->interp, l->interp_codec_search_cache, &f->dict);
	put_ptr(f->interp, l->interp_codec_error_registry, &f->dict);
	put_ptr(f->interp, l->interp_warnings_filters, &f->list);
	put_ptr(f->interp, l->interp_warnings_once, &f->dict);
	put_ptr(f->interp, l->interp_warnings_default, &f->str);
	put_ptr(f->interp, l->interp_static_types, &f->type);
	put_ptr(f->interp, l->interp_interned, &f->dict);
	if (l->interp_gc >= 0)
		put_ptr(f->interp, l->interp_gc + l->gc_generation0,
			f->interp + l->interp_gc + l->gc_generations);
	else
		put_ptr(f->runtime, l->rt_gc + l->gc_generation0,
			f->runtime + l->rt_gc + l->gc_generations);
}

static struct fake *make(int minor)
{
	struct fake *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->minor = minor;
	f->l = *layout_table(minor);
	f->runtime_size = (uint64_t)f->l.rt_size;
	f->runtime = calloc(1, f->runtime_size + 4096);
	f->interp = calloc(1, (size_t)f->l.interp_size + 4096);
	f->ts = calloc(1, (size_t)f->l.ts_size + 4096);
	assert_non_null(f->runtime);
	assert_non_null(f->interp);
	assert_non_null(f->ts);
	return f;
}

static void unmake(struct fake *f)
{
	free(f->runtime);
	free(f->interp);
	free(f->ts);
	free(f);
}

static int resolve(struct fake *f, struct layout *ret, struct err *err)
{
	return layout_resolve(getpid(), f->minor, (uintptr_t)f->runtime, f->runtime_size, ret, err);
}

static void the_table_as_it_is(void **state)
{
	for (int minor = 8; minor <= 12; minor++) {
		struct fake *f = make(minor);
		struct layout l;
		struct err err;

		fill(f);
		assert_int_equal(resolve(f, &l, &err), 0);
		assert_memory_equal(&l, layout_table(minor), sizeof(l));
		unmake(f);
	}
}

/* Another micro release: the size differs, the pointers decide field by field. */
static void another_size(void **state)
{
	struct fake *f = make(11);
	struct layout l;
	struct err err;

	fill(f);
	f->runtime_size += 16;
	assert_int_equal(resolve(f, &l, &err), 0);
	assert_memory_equal(&l, layout_table(11), sizeof(l));
	/* not a list any more: that field is not where it was */
	put_ptr(f->interp, f->l.interp_codec_search_path, &f->str);
	assert_int_equal(resolve(f, &l, &err), 0);
	assert_int_equal(l.interp_codec_search_path, -1);
	assert_int_equal(l.interp_codec_search_cache, layout_table(11)->interp_codec_search_cache);
	put_ptr(f->interp, f->l.interp_sysdict, &f->list);
	assert_int_equal(resolve(f, &l, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "3.11"));
	unmake(f);
}

static void not_ready_or_unknown(void **state)
{
	struct fake *f = make(9);
	struct layout l;
	struct err err;

	fill(f);
	put_ptr(f->runtime, f->l.rt_interp_main, NULL);
	assert_int_equal(resolve(f, &l, &err), -EAGAIN);
	fill(f);
	put_ptr(f->interp, f->l.interp_modules, NULL);
	assert_int_equal(resolve(f, &l, &err), -EAGAIN);
	fill(f);
	put_ptr(f->interp, f->l.interp_tstate_head, NULL);
	assert_int_equal(resolve(f, &l, &err), -EAGAIN);
	fill(f);
	put_ptr(f->ts, f->l.ts_interp, f->runtime);
	assert_int_equal(resolve(f, &l, &err), -EPROTO);
	fill(f);
	put64(f->runtime, f->l.rt_interp_main, 0x1234);
	assert_int_equal(resolve(f, &l, &err), -EPROTO);
	fill(f);
	put64(f->interp, f->l.interp_modules, 0x8000000000001234);
	assert_int_equal(resolve(f, &l, &err), -EPROTO);
	fill(f);
	assert_int_equal(resolve(f, &l, &err), 0);
	f->minor = 7;
	assert_int_equal(resolve(f, &l, &err), -EOPNOTSUPP);
	f->minor = 16;
	assert_int_equal(resolve(f, &l, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.msg, "3.16"));
	unmake(f);
}

/* ---- _Py_DebugOffsets ---- */

/* Its words in 3.14, by their place in pycore_debug_offsets.h (written down here once more, so
 * that a slip in the table of layout.c does not prove itself). */
static const struct {
	int16_t at;
	const char *name;
} words14[] = {
	{24, "rt_size"},
	{40, "rt_interp_head"},
	{48, "interp_size"},
	{56, "interp_id"},
	{64, "interp_next"},
	{72, "interp_tstate_head"},
	{88, "interp_gc"},
	{96, "interp_modules"},
	{104, "interp_sysdict"},
	{112, "interp_builtins"},
	{120, "interp_gil_ptr"},
	{128, "interp_gil_own"},
	{176, "ts_size"},
	{184, "ts_prev"},
	{192, "ts_next"},
	{200, "ts_interp"},
	{208, "ts_frame"},
	{216, "ts_thread_id"},
	{224, "ts_native_thread_id"},
	{232, "ts_datastack_chunk"},
	{240, "ts_status"},
	{248, "if_size"},
	{256, "if_previous"},
	{264, "if_code"},
	{272, "if_instr"},
	{280, "if_localsplus"},
	{288, "if_owner"},
	{296, "if_stackpointer"},
	{312, "code_size"},
	{320, "co_filename"},
	{328, "co_name"},
	{336, "co_qualname"},
	{344, "co_linetable"},
	{352, "co_firstlineno"},
	{360, "co_argcount"},
	{368, "co_localsplusnames"},
	{376, "co_localspluskinds"},
	{384, "co_code_adaptive"},
	{416, "type_size"},
	{424, "tp_name"},
	{440, "tp_flags"},
	{456, "tuple_items"},
	{480, "list_items"},
	{504, "set_used"},
	{512, "set_table"},
	{520, "set_mask"},
	{528, "dict_size"},
	{536, "dict_keys"},
	{544, "dict_values"},
	{576, "long_tag"},
	{584, "long_digit"},
	{608, "bytes_sval"},
	{624, "str_state"},
	{632, "str_length"},
	{640, "str_ascii_size"},
	{648, "gc_state_size"},
	{656, "gc_collecting"},
	{664, "gen_size"},
	{672, "gen_name"},
	{680, "gen_iframe"},
	{688, "gen_frame_state"},
};

static void put_debug_offsets(struct fake *f)
{
	memcpy(f->runtime, "xdebugpy", 8);
	put64(f->runtime, 8, 0x030e0af0);
	put64(f->runtime, 16, 0);
	for (size_t k = 0; k < ARRAY_SIZE(words14); k++)
		for (size_t i = 0; i < ARRAY_SIZE(names); i++)
			if (strcmp(names[i].name, words14[k].name) == 0)
				put64(f->runtime, words14[k].at, (uint64_t)value(&f->l, i));
}

static void debug_offsets_agree(void **state)
{
	struct fake *f = make(14);
	struct layout l;
	struct err err;

	fill(f);
	put_debug_offsets(f);
	assert_int_equal(resolve(f, &l, &err), 0);
	assert_memory_equal(&l, layout_table(14), sizeof(l));
	unmake(f);
}

/* Eight bytes more in the middle of the interpreter state, behind the last field
 * that _Py_DebugOffsets gives: what it gives is taken, the rest is found. */
static void debug_offsets_win(void **state)
{
	struct fake *f = make(14);
	const struct layout *t = layout_table(14);
	struct layout l;
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strncmp(names[i].name, "interp_", 7) == 0 &&
			value(&f->l, i) > t->interp_gil_own)
			*(int32_t *)(void *)((char *)&f->l + names[i].at) += 8;
	f->l.if_localsplus += 16;
	f->l.co_name += 8;
	fill(f);
	put_debug_offsets(f);
	assert_int_equal(resolve(f, &l, &err), 0);
	assert_int_equal(l.interp_size, t->interp_size + 8);
	assert_int_equal(l.if_localsplus, t->if_localsplus + 16);
	assert_int_equal(l.co_name, t->co_name + 8);
	assert_int_equal(l.interp_builtins, t->interp_builtins);
	assert_int_equal(l.interp_codec_search_path, t->interp_codec_search_path + 8);
	assert_int_equal(l.interp_warnings_filters, t->interp_warnings_filters + 8);
	assert_int_equal(l.interp_audit_hooks, t->interp_audit_hooks + 8);
	assert_int_equal(l.interp_static_types, t->interp_static_types + 8);
	assert_int_equal(l.interp_interned, t->interp_interned + 8);
	/* nothing points there, but both its neighbours have moved alike */
	assert_int_equal(l.interp_atexit_callbacks, t->interp_atexit_callbacks + 8);
	unmake(f);
}

/* The gap lies between two fields of which one is empty: then it is not known where that one is. */
static void ambiguous_is_unknown(void **state)
{
	struct fake *f = make(14);
	const struct layout *t = layout_table(14);
	struct layout l;
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strncmp(names[i].name, "interp_", 7) == 0 &&
			value(&f->l, i) > t->interp_warnings_default)
			*(int32_t *)(void *)((char *)&f->l + names[i].at) += 8;
	fill(f);
	put_debug_offsets(f);
	assert_int_equal(resolve(f, &l, &err), 0);
	assert_int_equal(l.interp_warnings_default, t->interp_warnings_default);
	assert_int_equal(l.interp_audit_hooks, -1);
	assert_int_equal(l.interp_atexit_callbacks, -1);
	assert_int_equal(l.interp_interned, t->interp_interned + 8);
	unmake(f);
}

/* Debian's 3.13.5: the heads stand four bytes earlier. */
static void generations_moved(void **state)
{
	struct fake *f = make(14);
	struct layout l;
	struct err err;

	f->l.gc_generations -= 4;
	fill(f);
	put_debug_offsets(f);
	assert_int_equal(resolve(f, &l, &err), 0);
	assert_int_equal(l.gc_generations, layout_table(14)->gc_generations - 4);
	put64(f->interp, f->l.interp_gc + f->l.gc_generation0, 0x1234);
	assert_int_equal(resolve(f, &l, &err), 0);
	assert_int_equal(l.gc_generations, -1);
	unmake(f);
}

static void debug_offsets_refused(void **state)
{
	struct fake *f = make(14);
	struct layout l;
	struct err err;

	fill(f);
	put_debug_offsets(f);
	put64(f->runtime, 16, 1);
	assert_int_equal(resolve(f, &l, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.msg, "free-threaded"));
	put_debug_offsets(f);
	put64(f->runtime, 8, 0x030d05f0);
	assert_int_equal(resolve(f, &l, &err), -EPROTO);
	put_debug_offsets(f);
	f->runtime[0] = 'y';
	assert_int_equal(resolve(f, &l, &err), -EPROTO);
	/* any word out of any bounds, or a struct of another shape: nothing of it is believed */
	for (size_t k = 0; k < ARRAY_SIZE(words14); k++) {
		put_debug_offsets(f);
		put64(f->runtime, words14[k].at, UINT64_MAX - k);
		assert_int_equal(resolve(f, &l, &err), -EPROTO);
	}
	put_debug_offsets(f);
	put64(f->runtime, 424, 32); /* tp_name is 24 since ever */
	assert_int_equal(resolve(f, &l, &err), -EPROTO);
	/* not mapped at all */
	assert_int_equal(layout_resolve(getpid(), 14, 4096, 316616, &l, &err), -EFAULT);
	unmake(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tables_of_all_minors),
		cmocka_unit_test(known_values),
		cmocka_unit_test(the_table_as_it_is),
		cmocka_unit_test(another_size),
		cmocka_unit_test(not_ready_or_unknown),
		cmocka_unit_test(debug_offsets_agree),
		cmocka_unit_test(debug_offsets_win),
		cmocka_unit_test(ambiguous_is_unknown),
		cmocka_unit_test(generations_moved),
		cmocka_unit_test(debug_offsets_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
