/* SPDX-License-Identifier: MIT */
#include "daemon/probe/plan.h"

#include <capstone/capstone.h>
#include <elf.h>
#include <string.h>

#include "daemon/util/macros.h"
#include "include/pyleak/counts.h"

#define CODE_MAX      4096 /* bytes of a function that are looked at */
#define PROLOGUE_MAX  96   /* bytes from the entry within which the place is looked for */
#define UNSIZED_MAX   2048 /* what is taken for a function whose size is not known */
#define ALLOCATOR_MAX 256
#define INNER_MAX     3           /* allocators behind allocators */
#define SCAN_MAX      (16u << 20) /* bytes of code around PyType_GenericAlloc that are searched */
#define LOCAL_MAX     4
#define INLINED_MAX   12 /* copies of PyObject_GC_Del */

/* Functions that make objects, with the type in their first argument, and the one that frees those
 * which the collector knows; the others see untracked.c. */
static const struct {
	const char *name;
	enum plan_kind kind;
	bool required;
} functions[] = {
	{"PyType_GenericAlloc", PLAN_BIRTH, true},
	{"_PyObject_GC_New", PLAN_BIRTH, true},
	{"_PyObject_GC_NewVar", PLAN_BIRTH, true},
	{"PyUnstable_Object_GC_NewWithExtraData", PLAN_BIRTH, false}, /* 3.12+ */
	{"_PyObject_New", PLAN_BIRTH, false},
	{"_PyObject_NewVar", PLAN_BIRTH, false},
	{"PyObject_GC_Del", PLAN_DEATH, true},
};

/* ---- decoding ---- */

/*
 * A walk over instructions in address order. `holds` has a bit for every general register that
 * holds the function's first argument before the current instruction.
 */
struct walk {
	csh cs;
	cs_insn *insn;
	const uint8_t *code;
	size_t left;
	uint64_t addr;
	uint32_t holds;
	bool frame; /* rbp is the frame pointer */
};

static void walk_release(struct walk *w)
{
	if (w->insn)
		cs_free(w->insn, 1);
	if (w->cs)
		cs_close(&w->cs);
	w->insn = NULL;
	w->cs = 0;
}

static int walk_init(struct walk *w, const uint8_t *code, size_t n, uint64_t vaddr)
{
	*w = (struct walk){.code = code, .left = n, .addr = vaddr, .holds = 1u << PYLEAK_RDI};
	if (cs_open(CS_ARCH_X86, CS_MODE_64, &w->cs) != CS_ERR_OK)
		return -ENOMEM;
	cs_option(w->cs, CS_OPT_DETAIL, CS_OPT_ON);
	w->insn = cs_malloc(w->cs);
	if (!w->insn) {
		walk_release(w);
		return -ENOMEM;
	}
	return 0;
}

static bool is_endbr64(const uint8_t *code, size_t n)
{
	return n >= 4 && code[0] == 0xf3 && code[1] == 0x0f && code[2] == 0x1e && code[3] == 0xfa;
}

/* Steps over endbr64, which Capstone before 5 takes for a no-op of its own kind or refuses. */
static void walk_skip_endbr64(struct walk *w)
{
	if (is_endbr64(w->code, w->left)) {
		w->code += 4;
		w->left -= 4;
		w->addr += 4;
	}
}

static bool walk_next(struct walk *w)
{
	return cs_disasm_iter(w->cs, &w->code, &w->left, &w->addr, w->insn);
}

/* Number of the 64-bit register that reg is or is a part of, or -1. */
static int reg_number(x86_reg reg)
{
	static const struct {
		uint16_t reg[5];
		uint8_t number;
	} table[] = {
		{{X86_REG_RAX, X86_REG_EAX, X86_REG_AX, X86_REG_AL, X86_REG_AH}, PYLEAK_RAX},
		{{X86_REG_RCX, X86_REG_ECX, X86_REG_CX, X86_REG_CL, X86_REG_CH}, PYLEAK_RCX},
		{{X86_REG_RDX, X86_REG_EDX, X86_REG_DX, X86_REG_DL, X86_REG_DH}, PYLEAK_RDX},
		{{X86_REG_RBX, X86_REG_EBX, X86_REG_BX, X86_REG_BL, X86_REG_BH}, PYLEAK_RBX},
		{{X86_REG_RSP, X86_REG_ESP, X86_REG_SP, X86_REG_SPL}, PYLEAK_RSP},
		{{X86_REG_RBP, X86_REG_EBP, X86_REG_BP, X86_REG_BPL}, PYLEAK_RBP},
		{{X86_REG_RSI, X86_REG_ESI, X86_REG_SI, X86_REG_SIL}, PYLEAK_RSI},
		{{X86_REG_RDI, X86_REG_EDI, X86_REG_DI, X86_REG_DIL}, PYLEAK_RDI},
		{{X86_REG_R8, X86_REG_R8D, X86_REG_R8W, X86_REG_R8B}, PYLEAK_R8},
		{{X86_REG_R9, X86_REG_R9D, X86_REG_R9W, X86_REG_R9B}, PYLEAK_R9},
		{{X86_REG_R10, X86_REG_R10D, X86_REG_R10W, X86_REG_R10B}, PYLEAK_R10},
		{{X86_REG_R11, X86_REG_R11D, X86_REG_R11W, X86_REG_R11B}, PYLEAK_R11},
		{{X86_REG_R12, X86_REG_R12D, X86_REG_R12W, X86_REG_R12B}, PYLEAK_R12},
		{{X86_REG_R13, X86_REG_R13D, X86_REG_R13W, X86_REG_R13B}, PYLEAK_R13},
		{{X86_REG_R14, X86_REG_R14D, X86_REG_R14W, X86_REG_R14B}, PYLEAK_R14},
		{{X86_REG_R15, X86_REG_R15D, X86_REG_R15W, X86_REG_R15B}, PYLEAK_R15},
	};

	if (reg == X86_REG_INVALID)
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		for (size_t j = 0; j < ARRAY_SIZE(table[i].reg); j++)
			if (table[i].reg[j] == reg)
				return table[i].number;
	return -1;
}

static bool holds(const struct walk *w, x86_reg reg)
{
	int r = reg_number(reg);

	return r >= 0 && w->holds & 1u << r;
}

/* What the current instruction does to `holds`. A call leaves the callee-saved registers. */
static void walk_effect(struct walk *w)
{
	const uint32_t callee_saved = 1u << PYLEAK_RBX | 1u << PYLEAK_RBP | 1u << PYLEAK_R12 |
				      1u << PYLEAK_R13 | 1u << PYLEAK_R14 | 1u << PYLEAK_R15;
	const cs_x86 *x = &w->insn->detail->x86;
	cs_regs read, written;
	uint8_t n_read, n_written;
	bool copies = w->insn->id == X86_INS_MOV && x->op_count == 2 &&
		      x->operands[0].type == X86_OP_REG && x->operands[0].size == 8 &&
		      x->operands[1].type == X86_OP_REG && holds(w, x->operands[1].reg);
	int r;

	if (cs_insn_group(w->cs, w->insn, CS_GRP_CALL)) {
		w->holds &= callee_saved;
		return;
	}
	if (cs_regs_access(w->cs, w->insn, read, &n_read, written, &n_written) != CS_ERR_OK) {
		w->holds = 0;
		return;
	}
	for (int i = 0; i < n_written; i++) {
		if ((r = reg_number(written[i])) >= 0)
			w->holds &= ~(1u << r);
		if (r == PYLEAK_RBP)
			w->frame = w->insn->id == X86_INS_MOV &&
				   x->operands[1].type == X86_OP_REG &&
				   x->operands[1].reg == X86_REG_RSP;
	}
	if (copies && (r = reg_number(x->operands[0].reg)) >= 0)
		w->holds |= 1u << r;
}

/* Target of a direct jump or call. */
static bool branch_target(const struct walk *w, uint64_t *ret)
{
	const cs_x86 *x = &w->insn->detail->x86;

	if (!cs_insn_group(w->cs, w->insn, CS_GRP_JUMP) &&
		!cs_insn_group(w->cs, w->insn, CS_GRP_CALL))
		return false;
	if (x->op_count != 1 || x->operands[0].type != X86_OP_IMM)
		return false;
	*ret = (uint64_t)x->operands[0].imm;
	return true;
}

/*
 * Where a function without a symbol ends: behind the first instruction that does not go on to the
 * next one and that no branch before it leads past. What compilers moved elsewhere (.cold) is not
 * seen.
 */
static size_t function_size(const uint8_t *code, size_t n, uint64_t vaddr)
{
	uint64_t furthest = vaddr, to;
	struct walk w;
	size_t size = 0;

	n = MIN(n, (size_t)UNSIZED_MAX);
	if (walk_init(&w, code, n, vaddr))
		return 0;
	for (walk_skip_endbr64(&w); walk_next(&w);) {
		size = (size_t)(w.addr - vaddr);
		if (branch_target(&w, &to) && w.insn->id != X86_INS_CALL && to > furthest &&
			to < vaddr + n)
			furthest = to;
		if ((w.insn->id == X86_INS_JMP || cs_insn_group(w.cs, w.insn, CS_GRP_RET)) &&
			w.addr > furthest)
			break;
	}
	walk_release(&w);
	return size;
}

/* ---- the place in a function ---- */

/* What every kernel with uprobe_multi links emulates. Longer nops are emulated from 6.17 on only
 * and may there be rewritten into calls: left alone. */
static bool kernel_emulates(const uint8_t *b, size_t n)
{
	if (n >= 1 && (b[0] & 0xf8) == 0x50) /* push reg */
		return true;
	if (n >= 2 && b[0] == 0x41 && (b[1] & 0xf8) == 0x50) /* push r8..r15 */
		return true;
	if (n >= 1 && b[0] == 0x90)
		return true;
	if (n >= 5 && (b[0] == 0xe8 || b[0] == 0xe9)) /* call, jmp rel32 */
		return true;
	if (n >= 2 && (b[0] == 0xeb || (b[0] & 0xf0) == 0x70)) /* jmp, jcc rel8 */
		return true;
	return n >= 6 && b[0] == 0x0f && (b[1] & 0xf0) == 0x80; /* jcc rel32 */
}

/* A register saved in the stack frame: from GCC 16 on by mov where it used to be push. */
static bool saves_register(const struct walk *w)
{
	const cs_x86_op *o = w->insn->detail->x86.operands;

	return w->insn->id == X86_INS_MOV && o[0].type == X86_OP_MEM && o[1].type == X86_OP_REG &&
	       o[0].mem.segment == X86_REG_INVALID && o[0].mem.index == X86_REG_INVALID &&
	       (o[0].mem.base == X86_REG_RSP || (o[0].mem.base == X86_REG_RBP && w->frame));
}

/* Whether the current instruction may stand between the entry and the breakpoint: it goes on to
 * the next one and changes registers and its stack frame only. A list of what compilers put there,
 * all else ends the search. */
static bool harmless(const struct walk *w)
{
	const cs_x86 *x = &w->insn->detail->x86;

	if (saves_register(w))
		return true;
	switch (w->insn->id) {
	case X86_INS_CMP:
	case X86_INS_TEST:
	case X86_INS_NOP:
		return true;
	case X86_INS_MOV:
	case X86_INS_MOVABS:
	case X86_INS_MOVZX:
	case X86_INS_MOVSX:
	case X86_INS_MOVSXD:
	case X86_INS_LEA:
	case X86_INS_ADD:
	case X86_INS_ADC:
	case X86_INS_SUB:
	case X86_INS_SBB:
	case X86_INS_AND:
	case X86_INS_OR:
	case X86_INS_XOR:
	case X86_INS_NOT:
	case X86_INS_NEG:
	case X86_INS_INC:
	case X86_INS_DEC:
	case X86_INS_IMUL:
	case X86_INS_SHL:
	case X86_INS_SHR:
	case X86_INS_SAR:
	case X86_INS_BT:
	case X86_INS_SETE:
	case X86_INS_SETNE:
	case X86_INS_CMOVE:
	case X86_INS_CMOVNE:
		return x->op_count > 0 && x->operands[0].type == X86_OP_REG;
	default:
		return false;
	}
}

/* Whether a branch of the function leads behind its entry but not behind `delta`: then what
 * stands at delta may run more than once a call. */
static bool looped_over(const uint8_t *code, size_t n, uint64_t vaddr, uint32_t delta)
{
	struct walk w;
	uint64_t to;
	bool found = false;

	if (walk_init(&w, code, n, vaddr))
		return true;
	while (w.left && !found) {
		walk_skip_endbr64(&w);
		if (!walk_next(&w)) { /* data between the code: find the way back in */
			if (!w.left)
				break;
			w.code++, w.left--, w.addr++;
			continue;
		}
		found = branch_target(&w, &to) && to > vaddr && to <= vaddr + delta;
	}
	walk_release(&w);
	return found;
}

static void place_set(struct plan_place *p, uint32_t delta, uint32_t held, const cs_insn *insn)
{
	*p = (struct plan_place){.delta = delta, .reg = PYLEAK_RDI};
	for (uint8_t r = 0; !(held & 1u << PYLEAK_RDI) && r < PYLEAK_N_REGS; r++)
		if (held & 1u << r)
			p->reg = r;
	snprintf(p->insn, sizeof(p->insn), "%.15s", insn->mnemonic);
}

int plan_place(const uint8_t *code, size_t n, size_t size, uint64_t vaddr, struct plan_place *ret)
{
	struct plan_place entry, best;
	struct walk w;
	bool found = false;
	int r;

	n = MIN(n, CODE_MAX);
	if (!size)
		size = UNSIZED_MAX;
	size = MIN(size, n);
	r = walk_init(&w, code, size, vaddr);
	if (r)
		return r;

	if (is_endbr64(code, size)) {
		entry = (struct plan_place){.reg = PYLEAK_RDI, .stepped = true, .insn = "endbr64"};
		walk_skip_endbr64(&w);
		r = 1;
	}
	for (;;) {
		uint32_t delta = (uint32_t)(w.addr - vaddr);

		if (delta >= PROLOGUE_MAX || !walk_next(&w))
			break;
		if (delta == 0) {
			place_set(&entry, 0, w.holds, w.insn);
			entry.stepped = true;
			r = 1;
		}
		if (kernel_emulates(w.insn->bytes, w.insn->size)) {
			/* The stack pointer never counts as a holder: nothing copies to it. */
			place_set(&best, delta, w.holds, w.insn);
			found = true;
			break;
		}
		if (!harmless(&w))
			break;
		walk_effect(&w);
		if (!w.holds)
			break;
	}
	walk_release(&w);
	if (!r)
		return -EINVAL;
	if (found && best.delta && looped_over(code, size, vaddr, best.delta))
		found = false;
	*ret = found ? best : entry;
	return 0;
}

/* ---- which functions ---- */

/* What a function does before it calls anything or returns. */
struct traits {
	bool basicsize, itemsize, flags; /* loads these of the type in its first argument */
	bool rounds;                     /* rounds something up to whole pointers */
};

static struct traits traits_of(const uint8_t *code, size_t n, uint64_t vaddr)
{
	struct traits t = {0};
	struct walk w;

	if (walk_init(&w, code, MIN(n, ALLOCATOR_MAX), vaddr))
		return t;
	walk_skip_endbr64(&w);
	while (walk_next(&w)) {
		const cs_x86 *x = &w.insn->detail->x86;

		for (int i = 0; i < x->op_count && w.insn->id != X86_INS_LEA; i++) {
			const cs_x86_op *o = &x->operands[i];

			if (o->type != X86_OP_MEM || o->mem.index != X86_REG_INVALID ||
				!holds(&w, o->mem.base))
				continue;
			t.basicsize |= o->mem.disp == 0x20;
			/* GCC 16 loads both with one movdqu. */
			t.itemsize |= o->mem.disp == 0x28 || (o->mem.disp == 0x20 && o->size == 16);
			t.flags |= o->mem.disp >= 0xa8 &&
				   o->mem.disp < 0xb0; /* testb looks at a byte */
		}
		t.rounds |= w.insn->id == X86_INS_AND && x->op_count == 2 &&
			    x->operands[1].type == X86_OP_IMM && x->operands[1].imm == -8;
		if (cs_insn_group(w.cs, w.insn, CS_GRP_CALL) ||
			cs_insn_group(w.cs, w.insn, CS_GRP_RET) || w.insn->id == X86_INS_JMP)
			break;
		walk_effect(&w);
	}
	walk_release(&w);
	return t;
}

bool plan_is_allocator(const uint8_t *code, size_t n, uint64_t vaddr)
{
	struct traits t = traits_of(code, n, vaddr);

	return t.basicsize && t.itemsize && t.flags;
}

/*
 * Functions that the one at vaddr hands its first argument on to. For deaths only where it does
 * nothing else (a jump to the local function that callers inside an LTO build use directly); for
 * births every allocator that it calls.
 */
static size_t inner_functions(const struct elf_image *e, uint64_t vaddr, uint64_t size,
	enum plan_kind kind, uint64_t *ret, size_t max)
{
	size_t n_code, n_callee, n = 0;
	const uint8_t *code = elf_image_bytes(e, vaddr, CODE_MAX, &n_code), *callee;
	uint64_t end, to;
	struct walk w;

	if (!code)
		return 0;
	if (!size)
		size = function_size(code, n_code, vaddr);
	n_code = MIN(n_code, size);
	end = vaddr + n_code;
	if (walk_init(&w, code, n_code, vaddr))
		return 0;
	walk_skip_endbr64(&w);
	for (bool straight = true; n < max && walk_next(&w); walk_effect(&w)) {
		bool leaves = branch_target(&w, &to) && (to < vaddr || to >= end) &&
			      w.holds & 1u << PYLEAK_RDI && elf_image_is_code(e, to);

		if (leaves && straight && w.insn->id == X86_INS_JMP) {
			ret[n++] = to;
			break;
		}
		straight = straight && harmless(&w);
		if (kind == PLAN_DEATH && !straight)
			break;
		if (!leaves || (w.insn->id != X86_INS_CALL && w.insn->id != X86_INS_JMP))
			continue;
		callee = elf_image_bytes(e, to, ALLOCATOR_MAX, &n_callee);
		if (!callee || !plan_is_allocator(callee, n_callee, to))
			continue;
		for (size_t i = 0; i < n; i++)
			if (ret[i] == to)
				to = 0;
		if (to)
			ret[n++] = to;
	}
	walk_release(&w);
	return n;
}

static int add_site(const struct elf_image *e, struct plan *p, const char *name, uint64_t vaddr,
	uint64_t size, enum plan_kind kind, int depth, struct err *err)
{
	uint64_t inner[INNER_MAX];
	size_t n_inner = 0, n;
	const uint8_t *code;
	struct plan_site *s;
	char label[sizeof(s->function)];
	int r;

	if (depth < INNER_MAX)
		n_inner = inner_functions(e, vaddr, size, kind, inner, ARRAY_SIZE(inner));
	for (size_t i = 0; i < n_inner; i++) {
		snprintf(label, sizeof(label), "%s%.48s", depth ? "" : "behind ", name);
		r = add_site(e, p, label, inner[i], 0, kind, depth + 1, err);
		if (r)
			return r;
	}
	if (n_inner)
		return 0;

	for (size_t i = 0; i < p->n; i++)
		if (p->v[i].vaddr == vaddr)
			return 0; /* another name of it, or behind two */
	if (p->n == ARRAY_SIZE(p->v))
		return err_set(err, -E2BIG, "more than %d probe sites planned", PLAN_SITES_MAX);
	s = &p->v[p->n];
	*s = (struct plan_site){.vaddr = vaddr, .kind = kind};
	snprintf(s->function, sizeof(s->function), "%s", name);
	code = elf_image_bytes(e, vaddr, CODE_MAX, &n);
	if (!code || !elf_image_is_code(e, vaddr) || plan_place(code, n, size, vaddr, &s->place))
		return err_set(err, -ENOENT, "%s at 0x%llx is not code that can be probed", name,
			(unsigned long long)vaddr);
	r = elf_image_offset(e, vaddr + s->place.delta, &s->offset);
	if (r)
		return err_set(
			err, r, "%s at 0x%llx is not in the file", name, (unsigned long long)vaddr);
	p->n++;
	return 0;
}

/* Whether the bytes could be those of an allocator, which loads tp_flags by a displacement of four
 * bytes and rounds by `and reg, -8`: a look before the decoder is asked, a hundred times faster. */
static bool resembles_allocator(const uint8_t *code, size_t n)
{
	bool flags = false, rounds = false;

	for (size_t i = 0; i + 4 <= MIN(n, (size_t)ALLOCATOR_MAX) && !(flags && rounds); i++) {
		flags |= (code[i] & 0xfc) == 0xa8 && !code[i + 1] && !code[i + 2] && !code[i + 3];
		rounds |= code[i] == 0x83 && (code[i + 1] & 0xf8) == 0xe0 && code[i + 2] == 0xf8;
	}
	return flags && rounds;
}

/* The code around vaddr that is searched. */
static const uint8_t *text_around(
	const struct elf_image *e, uint64_t vaddr, uint64_t *ret_start, size_t *ret_n)
{
	const struct elf_segment *s = NULL;

	for (size_t i = 0; (s = elf_image_segment(e, i)); i++)
		if (s->flags & PF_X && vaddr >= s->vaddr && vaddr - s->vaddr < s->filesz)
			break;
	if (!s)
		return NULL;
	*ret_start = vaddr - s->vaddr > SCAN_MAX ? vaddr - SCAN_MAX : s->vaddr;
	return elf_image_bytes(e, *ret_start, (size_t)(vaddr - *ret_start) + SCAN_MAX, ret_n);
}

/*
 * Allocators that no symbol names, found by what they do among all that is called directly. GCC 16
 * makes a copy of _PyType_AllocNoTrack for nitems = 0 in CPython 3.14 and 3.15, called by the
 * interpreter loop and object_new, so that instances of user classes never pass
 * PyType_GenericAlloc; and make_gen() (genobject.c) of LTO builds has _PyObject_GC_NewVar inlined.
 */
static size_t local_allocators(const struct elf_image *e, uint64_t near, uint64_t *ret, size_t max)
{
	_cleanup_free_ uint8_t *seen = NULL;
	const uint8_t *code, *callee;
	uint64_t start, end, to;
	size_t n = 0, n_code, n_callee;
	struct traits t;

	code = text_around(e, near, &start, &n_code);
	seen = code ? calloc(n_code / 8 + 1, 1) : NULL;
	if (!seen)
		return 0;
	end = start + n_code;
	for (size_t i = 0; i + 5 <= n_code && n < max; i++) {
		int32_t rel;

		if (code[i] != 0xe8) /* call */
			continue;
		memcpy(&rel, code + i + 1, sizeof(rel));
		to = start + i + 5 + (uint64_t)(int64_t)rel;
		if (to < start || to >= end || seen[(to - start) / 8] & 1u << (to - start) % 8)
			continue;
		seen[(to - start) / 8] |= (uint8_t)(1u << (to - start) % 8);
		callee = code + (to - start);
		n_callee = (size_t)(end - to);
		if (!resembles_allocator(callee, n_callee))
			continue;
		t = traits_of(callee, n_callee, to);
		if (t.basicsize && t.itemsize && t.flags && t.rounds)
			ret[n++] = to;
	}
	return n;
}

/* Length of `test reg32, reg32` of one register at code, 0: something else stands there. */
static size_t is_test_same(const uint8_t *code)
{
	size_t rex = code[0] == 0x45;

	code += rex;
	return code[0] == 0x85 && code[1] >= 0xc0 && (code[1] >> 3 & 7) == (code[1] & 7) ? rex + 2
											 : 0;
}

/* Length of a jle or jg at code, 0: something else stands there. */
static size_t is_jle_jg(const uint8_t *code)
{
	if ((code[0] & 0xfe) == 0x7e)
		return 2;
	return code[0] == 0x0f && (code[1] & 0xfe) == 0x8e ? 6 : 0;
}

/* Whether at code + i there is the 32-bit displacement of `mov reg32, [base + displacement]`,
 * then `test`, then jle or jg. Gives the place of the jump and its length. */
static bool is_count_check(
	const uint8_t *code, size_t n, size_t i, size_t *ret_jump, size_t *ret_size)
{
	size_t test;

	if (i < 3 || i + 4 + 3 + 6 > n)
		return false;
	if (!(code[i - 2] == 0x8b && (code[i - 1] & 0xc7) != 0x84 &&
		    (code[i - 1] & 0xc0) == 0x80) &&
		!(code[i - 3] == 0x8b && (code[i - 2] & 0xc7) == 0x84))
		return false;
	test = is_test_same(code + i + 4);
	*ret_jump = i + 4 + test;
	*ret_size = test ? is_jle_jg(code + *ret_jump) : 0;
	return *ret_size;
}

/* Where the generation's count of young objects is kept, from the code of PyObject_GC_Del:
 * `if (gcstate->generations[0].count > 0) count--` (gcmodule.c). */
static bool count_offset(const uint8_t *code, size_t n, uint8_t ret[4])
{
	size_t jump, size;

	for (size_t i = 3; i < n; i++)
		if (is_count_check(code, n, i, &jump, &size)) {
			memcpy(ret, code + i, 4);
			return true;
		}
	return false;
}

/* Behind that check, the register from which the size of the object's header is taken away: the
 * object itself. -1: nothing like that is there. */
static int object_register(const uint8_t *code, size_t n, uint64_t vaddr)
{
	struct walk w;
	int found = -1;

	if (walk_init(&w, code, MIN(n, (size_t)48), vaddr))
		return -1;
	w.holds = UINT32_MAX; /* still what they were at the check */
	for (int i = 0; i < 8 && found < 0 && walk_next(&w); i++) {
		const cs_x86_op *o = w.insn->detail->x86.operands;

		if (cs_insn_group(w.cs, w.insn, CS_GRP_JUMP) ||
			cs_insn_group(w.cs, w.insn, CS_GRP_CALL) ||
			cs_insn_group(w.cs, w.insn, CS_GRP_RET))
			break;
		if (w.insn->id == X86_INS_SUB && o[0].type == X86_OP_REG && o[0].size == 8 &&
			(o[1].type == X86_OP_REG || (o[1].type == X86_OP_IMM && o[1].imm == 16)) &&
			holds(&w, o[0].reg))
			found = reg_number(o[0].reg);
		else if (w.insn->id == X86_INS_LEA && o[1].mem.disp == -16 &&
			 o[1].mem.index == X86_REG_INVALID && holds(&w, o[1].mem.base))
			found = reg_number(o[1].mem.base);
		walk_effect(&w);
		/* A copy of another register is not what was there at the check. */
		if (w.insn->id == X86_INS_MOV && o[0].type == X86_OP_REG &&
			reg_number(o[0].reg) >= 0)
			w.holds &= ~(1u << reg_number(o[0].reg));
	}
	walk_release(&w);
	return found == PYLEAK_RSP ? -1 : found;
}

/*
 * LTO inlines PyObject_GC_Del here and there: in Debian 12's python3.11 into five functions, among
 * them the one that empties tuple's free lists, so that up to 2000 tuples a collection would seem
 * to live for ever. Each copy is known by its check of the count, whose jump is a place as good as
 * any: the object is still whole and in a register.
 */
static int plan_inlined_deaths(const struct elf_image *e, struct plan *p)
{
	uint64_t del, size, start;
	const uint8_t *code, *at;
	uint8_t offset[4];
	size_t n, jump, jump_size, added = 0;
	int reg;

	if (elf_image_symbol(e, "PyObject_GC_Del", &del, &size) || !size)
		return 0;
	at = elf_image_bytes(e, del, CODE_MAX, &n);
	if (!at || !count_offset(at, MIN(n, size), offset))
		return 0; /* 3.8: not behind a pointer */
	code = text_around(e, del, &start, &n);
	for (size_t i = 3; code && i + 4 <= n && added < INLINED_MAX; i++) {
		struct plan_site *s = &p->v[p->n];
		uint64_t vaddr;

		at = memchr(code + i, offset[0], n - i);
		if (!at)
			break;
		i = (size_t)(at - code);
		if (i + 4 > n || memcmp(at, offset, 4) ||
			!is_count_check(code, n, i, &jump, &jump_size))
			continue;
		vaddr = start + jump;
		if (vaddr >= del && vaddr < del + size)
			continue;
		reg = object_register(
			code + jump + jump_size, n - jump - jump_size, vaddr + jump_size);
		if (reg < 0)
			continue;
		if (p->n == ARRAY_SIZE(p->v))
			break;
		*s = (struct plan_site){.vaddr = vaddr,
			.kind = PLAN_DEATH,
			.function = "inlined PyObject_GC_Del",
			.place = {.reg = (uint8_t)reg, .insn = "jle"}};
		if (code[jump + (jump_size == 6)] & 1)
			memcpy(s->place.insn, "jg", 3);
		if (elf_image_offset(e, vaddr, &s->offset))
			continue;
		p->n++;
		added++;
	}
	return 0;
}

static int plan_local(const struct elf_image *e, struct plan *p, struct err *err)
{
	uint64_t found[LOCAL_MAX], generic;
	size_t n;
	int r;

	if (elf_image_symbol(e, "PyType_GenericAlloc", &generic, NULL))
		return 0;
	n = local_allocators(e, generic, found, ARRAY_SIZE(found));
	for (size_t i = 0; i < n; i++) {
		r = add_site(e, p, "local allocator", found[i], 0, PLAN_BIRTH, 0, err);
		if (r)
			return r;
	}
	return 0;
}

int plan_make(const struct elf_image *e, struct plan *ret, struct err *err)
{
	struct plan p = {0};
	uint64_t vaddr, size;
	int r;

	if (elf_image_machine(e) != EM_X86_64)
		return err_set(err, -EOPNOTSUPP, "probes are placed on x86-64 code only so far");
	for (size_t i = 0; i < ARRAY_SIZE(functions); i++) {
		r = elf_image_symbol(e, functions[i].name, &vaddr, &size);
		if (r && functions[i].required)
			return err_set(err, -ENOENT,
				"symbol %s not found: cannot count objects of this build",
				functions[i].name);
		if (r)
			continue;
		r = add_site(e, &p, functions[i].name, vaddr, size, functions[i].kind, 0, err);
		if (r)
			return r;
	}
	r = plan_local(e, &p, err);
	if (!r)
		r = plan_inlined_deaths(e, &p);
	if (r)
		return r;
	*ret = p;
	return 0;
}

int plan_add_birth(const struct elf_image *e, struct plan *p, const char *name, uint64_t vaddr,
	struct err *err)
{
	return add_site(e, p, name, vaddr, 0, PLAN_BIRTH, 0, err);
}

bool plan_makes_instances(const struct plan_site *s)
{
	return s->kind == PLAN_BIRTH &&
	       (strstr(s->function, "PyType_GenericAlloc") || strstr(s->function, "tp_alloc") ||
		       strstr(s->function, "local allocator"));
}

char *plan_describe(const struct plan *p, char *buf, size_t n)
{
	static const char *const what[] = {[PLAN_BIRTH] = "birth", [PLAN_DEATH] = "death"};
	size_t at = 0;

	if (!n)
		return buf;
	buf[0] = '\0';
	for (int kind = PLAN_BIRTH; kind <= PLAN_DEATH; kind++) {
		size_t sites = 0, seen = 0;

		for (size_t i = 0; i < p->n; i++)
			sites += p->v[i].kind == (enum plan_kind)kind;
		for (size_t i = 0; i < p->n && at < n; i++) {
			const struct plan_site *s = &p->v[i];

			if (s->kind != (enum plan_kind)kind)
				continue;
			if (!seen++)
				at += (size_t)snprintf(buf + at, n - at, "%s%zu %s site%s (",
					at ? ", " : "", sites, what[kind], sites == 1 ? "" : "s");
			if (at < n)
				at += (size_t)snprintf(buf + at, n - at, "%s+%u %s%s%s",
					s->function, s->place.delta, s->place.insn,
					s->place.stepped ? " single-stepped" : "",
					seen == sites ? ")" : ", ");
		}
	}
	return buf;
}
