/* SPDX-License-Identifier: MIT */
#include "capture/frames.h"

#include "daemon/util/macros.h"

#define SLOTS_MAX 65536
#define TABLE_MAX (1u << 20)

/* 3.14+: words in frames are tagged; 1 is NULL, low bits 11 a small int, bit 0 alone borrowed. */
static uint64_t untag(const struct view *v, uint64_t word)
{
	if (v->l->minor < 14)
		return word;
	return (word & 3) == 3 ? 0 : word & ~3ULL;
}

static int64_t n_slots(struct view *v, uint64_t code)
{
	const struct layout *l = v->l;
	int64_t n;

	if (l->minor >= 11) {
		n = (int32_t)view_u32(v, code + (uint64_t)l->co_nlocalsplus);
	} else {
		n = (int32_t)view_u32(v, code + (uint64_t)l->co_nlocals);
		n += (int64_t)view_items(
			v, view_u64(v, code + (uint64_t)l->co_cellvars), SLOTS_MAX);
		n += (int64_t)view_items(
			v, view_u64(v, code + (uint64_t)l->co_freevars), SLOTS_MAX);
	}
	return n < 0 ? 0 : MIN(n, (int64_t)SLOTS_MAX);
}

/* PyFrameObject, up to 3.10 */
static void read_object(struct view *v, uint64_t at, struct frame_info *f, uint64_t *ret_back)
{
	const struct layout *l = v->l;
	uint64_t stack;

	*f = (struct frame_info){.at = at, .object = at};
	f->code = view_u64(v, at + (uint64_t)l->fo_code);
	f->globals = view_u64(v, at + (uint64_t)l->fo_globals);
	f->locals = view_u64(v, at + (uint64_t)l->fo_locals);
	f->slots = at + (uint64_t)l->fo_localsplus;
	f->n_slots = n_slots(v, f->code);
	f->lasti = (int32_t)view_u32(v, at + (uint64_t)l->fo_lasti);
	if (l->minor == 10)
		f->lasti *= 2; /* counts instructions */
	stack = view_u64(v, at + (uint64_t)l->fo_valuestack);
	if (l->minor == 10) {
		f->n_stack = (int32_t)view_u32(v, at + (uint64_t)l->fo_stackdepth);
	} else {
		uint64_t top = view_u64(v, at + (uint64_t)l->fo_stacktop);

		f->n_stack = top ? (int64_t)(top - stack) / 8 : -1;
	}
	*ret_back = view_u64(v, at + (uint64_t)l->fo_back);
}

/* _PyInterpreterFrame, from 3.11 on. False: a frame that only marks an entry from C. */
static bool read_inner(struct view *v, uint64_t at, struct frame_info *f, uint64_t *ret_back)
{
	const struct layout *l = v->l;

	*f = (struct frame_info){.at = at, .n_stack = -1};
	*ret_back = view_u64(v, at + (uint64_t)l->if_previous);
	if (l->owner_entry >= 0 && view_u8(v, at + (uint64_t)l->if_owner) == l->owner_entry)
		return false;
	f->code = untag(v, view_u64(v, at + (uint64_t)l->if_code));
	f->function = untag(v, view_u64(v, at + (uint64_t)l->if_func));
	f->globals = view_u64(v, at + (uint64_t)l->if_globals);
	f->locals = view_u64(v, at + (uint64_t)l->if_locals);
	f->object = view_u64(v, at + (uint64_t)l->if_frame_obj);
	f->slots = at + (uint64_t)l->if_localsplus;
	f->n_slots = n_slots(v, f->code);
	f->lasti = (int64_t)(view_u64(v, at + (uint64_t)l->if_instr) -
			     (f->code + (uint64_t)l->co_code_adaptive));
	if (l->minor >= 14) {
		uint64_t top = view_u64(v, at + (uint64_t)l->if_stackpointer);

		if (top)
			f->n_stack = (int64_t)(top - f->slots) / 8 - f->n_slots;
	} else {
		int32_t top = (int32_t)view_u32(v, at + (uint64_t)l->if_stacktop);

		if (top >= 0)
			f->n_stack = top - f->n_slots;
	}
	return true;
}

size_t frames_read(struct view *v, uint64_t ts, struct frame_info *ret, size_t max)
{
	const struct layout *l = v->l;
	uint64_t at, code_type = 0;
	size_t n = 0;

	(void)python_symbol(v->python, "PyCode_Type", &code_type, NULL);
	if (l->minor <= 10 || l->minor >= 13)
		at = view_u64(v, ts + (uint64_t)l->ts_frame);
	else
		at = view_u64(
			v, view_u64(v, ts + (uint64_t)l->ts_cframe) + (uint64_t)l->cframe_frame);
	for (size_t steps = 0; at && n < max && steps < 2 * max; steps++) {
		struct frame_info f;
		uint64_t back;
		bool shown = true;

		if (l->minor <= 10)
			read_object(v, at, &f, &back);
		else
			shown = read_inner(v, at, &f, &back);
		if (shown && view_type(v, f.code) == code_type) {
			int32_t depth = (int32_t)view_u32(v, f.code + (uint64_t)v->l->co_stacksize);

			/* a depth that cannot be is not known: better no root than a false one */
			if (f.n_stack < 0 || f.n_stack > depth)
				f.n_stack = -1;
			ret[n++] = f;
		}
		at = back;
	}
	return n;
}

/* 3.8, 3.9: lnotab; pairs of byte and line increments. */
static int line_lnotab(const uint8_t *t, size_t n, int line, int64_t lasti)
{
	int64_t at = 0;

	for (size_t i = 0; i + 1 < n; i += 2) {
		at += t[i];
		if (at > lasti)
			break;
		line += (int8_t)t[i + 1];
	}
	return line;
}

/* 3.10: ranges of bytes; -128 is "no line". */
static int line_ranges(const uint8_t *t, size_t n, int line, int64_t lasti)
{
	int64_t end = 0;

	for (size_t i = 0; i + 1 < n; i += 2) {
		int8_t delta = (int8_t)t[i + 1];

		end += t[i];
		if (delta != -128)
			line += delta;
		if (lasti < end)
			return delta == -128 ? 0 : line;
	}
	return 0;
}

/* 3.11+: Objects/locations.md. Each entry begins with a byte that has bit 7 set. */
static int line_locations(const uint8_t *t, size_t n, int line, int64_t lasti)
{
	int64_t at = 0;

	for (size_t i = 0; i < n;) {
		int code = t[i] >> 3 & 15;
		int64_t length = ((t[i] & 7) + 1) * 2;

		i++;
		if (code == 13 || code == 14) { /* line as a signed varint */
			uint32_t x = 0;

			for (int shift = 0; i < n && shift < 30; shift += 6) {
				uint8_t c = t[i++];

				x |= (uint32_t)(c & 63) << shift;
				if (!(c & 64))
					break;
			}
			line += x & 1 ? -(int)(x >> 1) : (int)(x >> 1);
		} else if (code >= 10 && code <= 12) {
			line += code - 10;
		}
		while (i < n && !(t[i] & 0x80))
			i++;
		if (lasti < at + length)
			return code == 15 ? 0 : line;
		at += length;
	}
	return 0;
}

int frames_line(struct view *v, const struct frame_info *f)
{
	const struct layout *l = v->l;
	uint64_t table = view_u64(v, f->code + (uint64_t)l->co_linetable);
	int64_t n = (int64_t)view_u64(v, table + OFF_OB_SIZE);
	int first = (int32_t)view_u32(v, f->code + (uint64_t)l->co_firstlineno), line;
	_cleanup_free_ uint8_t *t = NULL;

	if (!(view_flags(v, table) & TPFLAGS_BYTES_SUBCLASS) || n <= 0 || n > TABLE_MAX)
		return first;
	t = malloc((size_t)n);
	if (!t || mem_cache_read(&v->cache, table + (uint64_t)l->bytes_sval, t, (size_t)n) < 0)
		return first;
	if (l->minor <= 9)
		line = line_lnotab(t, (size_t)n, first, f->lasti);
	else if (l->minor == 10)
		line = line_ranges(t, (size_t)n, first, f->lasti);
	else
		line = line_locations(t, (size_t)n, first, f->lasti);
	return line > 0 ? line : first;
}

uint64_t frames_slot(struct view *v, const struct frame_info *f, int64_t i)
{
	uint64_t word = view_u64(v, f->slots + 8 * (uint64_t)i);

	if (v->l->minor <= 10 && i >= f->n_slots)
		word = view_u64(v, view_u64(v, f->at + (uint64_t)v->l->fo_valuestack) +
					   8 * (uint64_t)(i - f->n_slots));
	if (v->l->minor >= 14 && word & 1)
		return 0;
	return untag(v, word);
}

uint64_t frames_slot_name(struct view *v, const struct frame_info *f, int64_t i)
{
	const struct layout *l = v->l;

	if (l->minor >= 11) {
		uint64_t names = view_u64(v, f->code + (uint64_t)l->co_localsplusnames);

		return i < (int64_t)view_items(v, names, SLOTS_MAX) ? view_item(v, names, (size_t)i)
								    : 0;
	}
	const int32_t source[3] = {l->co_varnames, l->co_cellvars, l->co_freevars};
	for (int s = 0; s < 3; s++) {
		uint64_t names = view_u64(v, f->code + (uint64_t)source[s]);
		int64_t n = s == 0 ? (int32_t)view_u32(v, f->code + (uint64_t)l->co_nlocals)
				   : (int64_t)view_items(v, names, SLOTS_MAX);

		if (i < n)
			return i < (int64_t)view_items(v, names, SLOTS_MAX)
				       ? view_item(v, names, (size_t)i)
				       : 0;
		i -= n;
	}
	return 0;
}
