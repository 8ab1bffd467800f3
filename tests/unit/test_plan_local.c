/* SPDX-License-Identifier: MIT */
/*
 * What no symbol names, found by what it does. This program is the build that is looked at: it has
 * functions of CPython's names, and beside them what LTO was seen to make of them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <string.h>

#include "daemon/probe/plan.h"
#include "daemon/util/macros.h"
#include "include/pyleak/counts.h"

/* Addresses in a table, so that they have no symbol of their own. */
extern const uint64_t plan_local_table[];
enum { GENERIC, LOCAL, DECOY_ALLOCATOR, INLINED, INLINED_JG, DECOY_DEATH, DECOY_LOST };

asm(".pushsection .text\n"
    ".p2align 4\n"
    ".globl PyType_GenericAlloc\n"
    ".type PyType_GenericAlloc, @function\n"
    "PyType_GenericAlloc:\n"
    "	push %rbx\n"
    "	mov 0xa8(%rdi), %rax\n"
    "	mov 0x28(%rdi), %rcx\n"
    "	add 0x20(%rdi), %rcx\n"
    "	add $7, %rcx\n"
    "	and $-8, %rcx\n"
    "	pop %rbx\n"
    "	ret\n"
    ".size PyType_GenericAlloc, . - PyType_GenericAlloc\n"
    ".globl _PyObject_GC_New\n"
    ".type _PyObject_GC_New, @function\n"
    "_PyObject_GC_New:\n"
    "	push %rbx\n"
    "	pop %rbx\n"
    "	ret\n"
    ".size _PyObject_GC_New, . - _PyObject_GC_New\n"
    ".globl _PyObject_GC_NewVar\n"
    ".type _PyObject_GC_NewVar, @function\n"
    "_PyObject_GC_NewVar:\n"
    "	push %rbp\n"
    "	pop %rbp\n"
    "	ret\n"
    ".size _PyObject_GC_NewVar, . - _PyObject_GC_NewVar\n"
    ".globl PyObject_GC_Del\n"
    ".type PyObject_GC_Del, @function\n"
    "PyObject_GC_Del:\n"
    "	mov -0x10(%rdi), %rdx\n"
    "	test %rdx, %rdx\n"
    "	jne 1f\n"
    "1:	mov 0x2b4(%rcx), %edx\n"
    "	test %edx, %edx\n"
    "	jle 2f\n"
    "	sub $1, %edx\n"
    "	mov %edx, 0x2b4(%rcx)\n"
    "2:	sub %rax, %rdi\n"
    "	ret\n"
    ".size PyObject_GC_Del, . - PyObject_GC_Del\n"
    ".p2align 4\n"
    /* 3.14's copy of _PyType_AllocNoTrack */
    ".Llocal:\n"
    "	endbr64\n"
    "	push %rbp\n"
    "	movdqu 0x20(%rdi), %xmm0\n"
    "	mov 0xa8(%rdi), %rdi\n"
    "	movq %xmm0, %rdx\n"
    "	add $7, %rdx\n"
    "	and $-8, %rdx\n"
    "	pop %rbp\n"
    "	ret\n"
    ".p2align 4\n"
    /* looks at the same fields and makes nothing of their size: inherit_slots() and the like */
    ".Ldecoy_allocator:\n"
    "	push %rbp\n"
    "	mov 0xa8(%rdi), %rax\n"
    "	mov 0x20(%rdi), %rcx\n"
    "	cmp 0x28(%rdi), %rcx\n"
    "	pop %rbp\n"
    "	ret\n"
    ".p2align 4\n"
    "	call .Llocal\n"
    "	call .Ldecoy_allocator\n"
    "	call PyType_GenericAlloc\n"
    /* 3.11's _PyTuple_ClearFreeList */
    "	mov 0x2b4(%rcx), %edx\n"
    "	test %edx, %edx\n"
    ".Linlined:\n"
    "	jle 3f\n"
    "	sub $1, %edx\n"
    "	mov %edx, 0x2b4(%rcx)\n"
    "3:	sub %rax, %rbx\n"
    "	ret\n"
    "	mov 0x2b4(%r12), %r9d\n"
    "	test %r9d, %r9d\n"
    ".Linlined_jg:\n"
    "	jg 4f\n"
    "	lea -0x10(%r14), %rdi\n"
    "	ret\n"
    /* the same count, no object */
    "	mov 0x2b4(%rcx), %edx\n"
    "	test %edx, %edx\n"
    ".Ldecoy_death:\n"
    "	jle 4f\n"
    "	sub $1, %edx\n"
    "	ret\n"
    /* the register has another value by then */
    "	mov 0x2b4(%rcx), %edx\n"
    "	test %edx, %edx\n"
    ".Ldecoy_lost:\n"
    "	jle 4f\n"
    "	mov %rsi, %rbx\n"
    "	sub %rax, %rbx\n"
    "4:	ret\n"
    ".popsection\n"
    ".pushsection .data.rel.ro, \"aw\"\n"
    ".p2align 3\n"
    ".globl plan_local_table\n"
    "plan_local_table:\n"
    "	.quad PyType_GenericAlloc, .Llocal, .Ldecoy_allocator, .Linlined, .Linlined_jg\n"
    "	.quad .Ldecoy_death, .Ldecoy_lost\n"
    ".popsection\n");

static uint64_t vaddr_of(const struct elf_image *e, int which)
{
	uint64_t generic;

	assert_int_equal(elf_image_symbol(e, "PyType_GenericAlloc", &generic, NULL), 0);
	return generic + (plan_local_table[which] - plan_local_table[GENERIC]);
}

static const struct plan_site *site_at(const struct plan *p, uint64_t vaddr)
{
	const struct plan_site *found = NULL;

	for (size_t i = 0; i < p->n; i++) {
		if (p->v[i].vaddr != vaddr)
			continue;
		assert_null(found); /* planned once */
		found = &p->v[i];
	}
	return found;
}

static void test_found_by_behaviour(void **state)
{
	_cleanup_close_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	_cleanup_(elf_image_freep) struct elf_image *e = NULL;
	const struct plan_site *s;
	struct err err = {""};
	struct plan p;

	assert_int_equal(elf_image_open(fd, &err, &e), 0);
	if (plan_make(e, &p, &err))
		fail_msg("%s", err.msg);

	s = site_at(&p, vaddr_of(e, LOCAL));
	assert_non_null(s);
	assert_int_equal(s->kind, PLAN_BIRTH);
	assert_int_equal(s->place.delta, 4);
	assert_string_equal(s->place.insn, "push");
	assert_null(site_at(&p, vaddr_of(e, DECOY_ALLOCATOR)));
	assert_non_null(site_at(&p, vaddr_of(e, GENERIC)));

	s = site_at(&p, vaddr_of(e, INLINED));
	assert_non_null(s);
	assert_int_equal(s->kind, PLAN_DEATH);
	assert_int_equal(s->place.reg, PYLEAK_RBX);
	assert_string_equal(s->place.insn, "jle");
	s = site_at(&p, vaddr_of(e, INLINED_JG));
	assert_non_null(s);
	assert_int_equal(s->place.reg, PYLEAK_R14);
	assert_string_equal(s->place.insn, "jg");
	assert_null(site_at(&p, vaddr_of(e, DECOY_DEATH)));
	assert_null(site_at(&p, vaddr_of(e, DECOY_LOST)));
	/* four by name, the local one; PyObject_GC_Del and its two copies */
	assert_int_equal(p.n, 4 + 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_found_by_behaviour),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
