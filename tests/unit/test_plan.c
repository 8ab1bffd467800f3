/* SPDX-License-Identifier: MIT */
/*
 * Placing probes: on bytes assembled by hand, after prologues of real builds, and on the builds
 * that are on this machine.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <glob.h>
#include <string.h>

#include "daemon/probe/plan.h"
#include "daemon/util/macros.h"
#include "include/pyleak/counts.h"

#define AT        0x401000
#define CODE(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})

static struct plan_place place(const uint8_t *code, size_t n)
{
	struct plan_place p;

	assert_int_equal(plan_place(code, n, n, AT, &p), 0);
	return p;
}

#define assert_place(p, d, r, st, in)                                                              \
	do {                                                                                       \
		struct plan_place _p = (p);                                                        \
		assert_int_equal(_p.delta, d);                                                     \
		assert_int_equal(_p.reg, r);                                                       \
		assert_int_equal(_p.stepped, st);                                                  \
		assert_string_equal(_p.insn, in);                                                  \
	} while (0)

static void test_entry(void **state)
{
	/* push r14; mov r14, rdi */
	assert_place(place(CODE(0x41, 0x56, 0x49, 0x89, 0xfe)), 0, PYLEAK_RDI, false, "push");
	/* push rbp */
	assert_place(place(CODE(0x55, 0xc3)), 0, PYLEAK_RDI, false, "push");
	/* nop; ret */
	assert_place(place(CODE(0x90, 0xc3)), 0, PYLEAK_RDI, false, "nop");
}

static void test_behind(void **state)
{
	/* Debian 13: endbr64; push r14 */
	assert_place(place(CODE(0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0x56)), 4, PYLEAK_RDI, false, "push");
	/* Debian 12, _PyObject_GC_New: movabs rdx, …; push r12 */
	assert_place(
		place(CODE(0x48, 0xba, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x41, 0x54)),
		10, PYLEAK_RDI, false, "push");
	/* 3.8 PyObject_GC_Del: mov rax, [rdi-16]; lea rsi, [rdi-16]; test rax, rax; je */
	assert_place(place(CODE(0x48, 0x8b, 0x47, 0xf0, 0x48, 0x8d, 0x77, 0xf0, 0x48, 0x85, 0xc0,
			     0x74, 0x21)),
		11, PYLEAK_RDI, false, "je");
	/* test rdi, rdi; jne rel32 */
	assert_place(place(CODE(0x48, 0x85, 0xff, 0x0f, 0x85, 0x00, 0x01, 0x00, 0x00)), 3,
		PYLEAK_RDI, false, "jne");
}

/* GCC 16 saves registers by mov, later than by push, and computes with borrows. */
static void test_gcc16(void **state)
{
	/* 3.14 _PyObject_GC_New: sub rsp, 0x38; mov [rsp+0x20], r13; test al, 4; jne */
	assert_place(place(CODE(0x48, 0x83, 0xec, 0x38, 0x4c, 0x89, 0x6c, 0x24, 0x20, 0xa8, 0x04,
			     0x75, 0x2d)),
		11, PYLEAK_RDI, false, "jne");
	/* 3.15 after its push: mov rbp, rsp; mov [rbp-0x18], r12; je */
	assert_place(place(CODE(0x48, 0x89, 0xe5, 0x4c, 0x89, 0x65, 0xe8, 0x74, 0x10)), 7,
		PYLEAK_RDI, false, "je");
	/* rbp that is no frame pointer: mov rbp, rsi; mov [rbp-0x18], r12 */
	assert_place(place(CODE(0x48, 0x89, 0xf5, 0x4c, 0x89, 0x65, 0xe8, 0x74, 0x10)), 0,
		PYLEAK_RDI, true, "mov");
	/* fs: is not the stack: mov fs:[rsp], r12 */
	assert_place(
		place(CODE(0x64, 0x4c, 0x89, 0x24, 0x24, 0x74, 0x10)), 0, PYLEAK_RDI, true, "mov");
	/* 3.14 PyObject_GC_Del: endbr64; cmp rdx, 1; sbb rax, -1; shl rax, 4; jne rel32 */
	assert_place(place(CODE(0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x83, 0xfa, 0x01, 0x48, 0x83, 0xd8,
			     0xff, 0x48, 0xc1, 0xe0, 0x04, 0x0f, 0x85, 0, 1, 0, 0)),
		16, PYLEAK_RDI, false, "jne");
}

static void test_argument_moves(void **state)
{
	/* mov rax, rdi; mov rdi, rsi; call */
	assert_place(place(CODE(0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, 0xe8, 0, 1, 0, 0)), 6,
		PYLEAK_RAX, false, "call");
	/* mov r12, rdi; xor edi, edi; jmp: writing edi clears rdi */
	assert_place(place(CODE(0x49, 0x89, 0xfc, 0x31, 0xff, 0xe9, 0, 1, 0, 0)), 5, PYLEAK_R12,
		false, "jmp");
	/* mov eax, edi copies half of it; mov rdi, rsi; call: lost, so the entry is stepped */
	assert_place(place(CODE(0x89, 0xf8, 0x48, 0x89, 0xf7, 0xe8, 0, 1, 0, 0)), 0, PYLEAK_RDI,
		true, "mov");
	/* mov rbx, rdi; mov rbx, rsi; mov dil, 1; push: both copies overwritten */
	assert_place(place(CODE(0x48, 0x89, 0xfb, 0x48, 0x89, 0xf3, 0x40, 0xb7, 0x01, 0x55)), 0,
		PYLEAK_RDI, true, "mov");
}

static void test_not_here(void **state)
{
	/* mov [rax], rdi; push: memory has been written */
	assert_place(place(CODE(0x48, 0x89, 0x38, 0x55)), 0, PYLEAK_RDI, true, "mov");
	/* add [rdi], 1; push */
	assert_place(place(CODE(0x48, 0x83, 0x07, 0x01, 0x55)), 0, PYLEAK_RDI, true, "add");
	/* endbr64; mov rax, rdi; ret */
	assert_place(place(CODE(0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x89, 0xf8, 0xc3, 0x55)), 0,
		PYLEAK_RDI, true, "endbr64");
	/* sub rsp, 8; jmp rax: not relative */
	assert_place(place(CODE(0x48, 0x83, 0xec, 0x08, 0xff, 0xe0)), 0, PYLEAK_RDI, true, "sub");
	/* a nop of five bytes is emulated by new kernels only */
	assert_place(place(CODE(0x0f, 0x1f, 0x44, 0x00, 0x00, 0xc3)), 0, PYLEAK_RDI, true, "nop");
	assert_place(place(CODE(0x0f, 0x1f, 0x44, 0x00, 0x00, 0x55)), 5, PYLEAK_RDI, false, "push");
}

static void test_loop(void **state)
{
	/* mov rax, [rdi]; L: test rax, rax; je out; dec rax; jmp L: je runs many times a call */
	assert_place(place(CODE(0x48, 0x8b, 0x07, 0x48, 0x85, 0xc0, 0x74, 0x05, 0x48, 0xff, 0xc8,
			     0xeb, 0xf6, 0xc3)),
		0, PYLEAK_RDI, true, "mov");
}

static void test_bounds(void **state)
{
	uint8_t many[256];
	struct plan_place p;

	/* lea rax, [rdi] for longer than anybody looks, then a push */
	for (size_t i = 0; i + 3 <= sizeof(many); i += 3)
		memcpy(many + i, (uint8_t[]){0x48, 0x8d, 0x07}, 3);
	memset(many + sizeof(many) - 10, 0x55, 10);
	assert_true(place(many, sizeof(many)).stepped);
	/* nothing, half an instruction, something undefined */
	assert_int_equal(plan_place(many, 0, 0, AT, &p), -EINVAL);
	assert_int_equal(plan_place(CODE(0x48), 1, AT, &p), -EINVAL);
	assert_int_equal(plan_place(CODE(0x06, 0x06), 2, AT, &p), -EINVAL);
}

static void test_allocator(void **state)
{
	/* mov rax, [rdi+0xa8]; imul rbx, [rdi+0x28]; add rbx, [rdi+0x20]; call */
	static const uint8_t yes[] = {0x48, 0x8b, 0x87, 0xa8, 0, 0, 0, 0x48, 0x0f, 0xaf, 0x5f, 0x28,
		0x48, 0x03, 0x5f, 0x20, 0xe8, 0, 0, 0, 0};
	uint8_t no[sizeof(yes)];

	assert_true(plan_is_allocator(yes, sizeof(yes), AT));
	/* … before it calls anything */
	memcpy(no, yes, sizeof(yes));
	no[12] = 0xe8;
	memset(no + 13, 0, 4);
	assert_false(plan_is_allocator(no, sizeof(no), AT));
	/* … from its first argument: [rsi+0x20] */
	memcpy(no, yes, sizeof(yes));
	no[14] = 0x5e;
	assert_false(plan_is_allocator(no, sizeof(no), AT));
	/* mov rbp, rdi; mov rdi, rsi; test byte [rbp+0xa9], 0x40; mov rax, [rbp+0x28];
	 * add rax, [rbp+0x20] */
	assert_true(
		plan_is_allocator(CODE(0x48, 0x89, 0xfd, 0x48, 0x89, 0xf7, 0xf6, 0x85, 0xa9, 0, 0,
					  0, 0x40, 0x48, 0x8b, 0x45, 0x28, 0x48, 0x03, 0x45, 0x20),
			AT));
	/* GCC 16: movdqu xmm0, [rdi+0x20] loads both sizes; mov rdi, [rdi+0xa8] */
	assert_true(plan_is_allocator(
		CODE(0xf3, 0x0f, 0x6f, 0x47, 0x20, 0x48, 0x8b, 0xbf, 0xa8, 0, 0, 0), AT));
	/* … eight bytes of them do not: movq xmm0, [rdi+0x20] */
	assert_false(plan_is_allocator(
		CODE(0xf3, 0x0f, 0x7e, 0x47, 0x20, 0x48, 0x8b, 0xbf, 0xa8, 0, 0, 0), AT));
	/* addresses are not loads: lea rax, [rdi+0x20]; lea rax, [rdi+0x28]; lea rax, [rdi+0xa8] */
	assert_false(plan_is_allocator(CODE(0x48, 0x8d, 0x47, 0x20, 0x48, 0x8d, 0x47, 0x28, 0x48,
					       0x8d, 0x87, 0xa8, 0, 0, 0),
		AT));
	assert_false(plan_is_allocator(yes, 0, AT));
}

/* Every build here can be planned, on cheap instructions; the bytes in the file are what the plan
 * says. */
static void check_build(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_(elf_image_freep) struct elf_image *e = NULL;
	struct err err = {""};
	struct plan p;
	char text[1024];
	size_t births = 0, deaths = 0;

	if (fd < 0 || elf_image_open(fd, &err, &e))
		return;
	if (plan_make(e, &p, &err))
		fail_msg("%s: %s", path, err.msg);
	print_message("%s: %s\n", path, plan_describe(&p, text, sizeof(text)));
	for (size_t i = 0; i < p.n; i++) {
		uint8_t b[2];

		births += p.v[i].kind == PLAN_BIRTH;
		deaths += p.v[i].kind == PLAN_DEATH;
		assert_false(p.v[i].place.stepped);
		assert_int_equal(pread(fd, b, sizeof(b), (off_t)p.v[i].offset), sizeof(b));
		if (!strcmp(p.v[i].place.insn, "push"))
			assert_int_equal((b[0] == 0x41 ? b[1] : b[0]) & 0xf8, 0x50);
		else
			assert_true((b[0] & 0xf0) == 0x70 || b[0] == 0x0f || b[0] == 0xe9 ||
				    b[0] == 0xe8 || b[0] == 0xeb || b[0] == 0x90);
	}
	assert_true(births >= 3);
	assert_in_range(deaths, 1, 8);
	/* A short buffer is filled and ended, not overrun. */
	assert_int_equal(strlen(plan_describe(&p, text, 10)), 9);
}

static void test_builds(void **state)
{
	const char *home = getenv("HOME");
	char pattern[512];
	glob_t g;
	int flags = 0;

	snprintf(pattern, sizeof(pattern), "%s/.pyenv/versions/3.*/lib/libpython3.*.so.1.0",
		home ? home : "");
	if (getenv("PYLEAK_TEST_BUILD")) /* one more, wherever it is */
		check_build(getenv("PYLEAK_TEST_BUILD"));
	for (const char *const *s = (const char *const[]){"/usr/bin/python3.[0-9]*[0-9]",
		     "/usr/lib/x86_64-linux-gnu/libpython3.*.so.1.0", pattern, NULL};
		*s; s++) {
		if (glob(*s, flags, NULL, &g) == 0)
			for (size_t i = 0; i < g.gl_pathc; i++)
				check_build(g.gl_pathv[i]);
		globfree(&g);
	}
}

static void test_no_python(void **state)
{
	_cleanup_close_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	_cleanup_(elf_image_freep) struct elf_image *e = NULL;
	struct err err = {""};
	struct plan p;

	assert_int_equal(elf_image_open(fd, &err, &e), 0);
	assert_int_equal(plan_make(e, &p, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "PyType_GenericAlloc"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_entry),
		cmocka_unit_test(test_behind),
		cmocka_unit_test(test_gcc16),
		cmocka_unit_test(test_argument_moves),
		cmocka_unit_test(test_not_here),
		cmocka_unit_test(test_loop),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_allocator),
		cmocka_unit_test(test_builds),
		cmocka_unit_test(test_no_python),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
