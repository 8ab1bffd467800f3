/* SPDX-License-Identifier: MIT */
#include "daemon/probe/calibrate.h"

#include <link.h>
#include <pthread.h>

#include "daemon/util/macros.h"
#include "daemon/util/units.h"

/* In assembly, because the first instruction is the point. */
void pyleak_calibrate_push(uintptr_t argument);
void pyleak_calibrate_mov(uintptr_t argument);
asm(".pushsection .text\n"
    ".p2align 4\n"
    ".type pyleak_calibrate_push, @function\n"
    "pyleak_calibrate_push:\n"
    "	push %rbp\n"
    "	pop %rbp\n"
    "	ret\n"
    ".size pyleak_calibrate_push, . - pyleak_calibrate_push\n"
    ".p2align 4\n"
    ".type pyleak_calibrate_mov, @function\n"
    "pyleak_calibrate_mov:\n"
    "	mov %rdi, %rax\n"
    "	ret\n"
    ".size pyleak_calibrate_mov, . - pyleak_calibrate_mov\n"
    ".popsection\n");

struct wanted {
	uintptr_t addr[2];
	unsigned long offset[2];
	int found;
};

static int visit(struct dl_phdr_info *info, size_t n, void *userdata)
{
	struct wanted *w = userdata;

	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *h = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + h->p_vaddr;

		for (int k = 0; h->p_type == PT_LOAD && k < 2; k++) {
			if (w->addr[k] < start || w->addr[k] - start >= h->p_filesz)
				continue;
			w->offset[k] = w->addr[k] - start + h->p_offset;
			w->found++;
		}
	}
	return 1; /* the executable comes first, and nothing else is of interest */
}

int calibrate_offsets(unsigned long *ret_push, unsigned long *ret_mov)
{
	struct wanted w = {
		.addr = {(uintptr_t)pyleak_calibrate_push, (uintptr_t)pyleak_calibrate_mov}};

	dl_iterate_phdr(visit, &w);
	if (w.found != 2)
		return -ENOENT;
	*ret_push = w.offset[0];
	*ret_mov = w.offset[1];
	return 0;
}

static void *call_once(void *argument)
{
	pyleak_calibrate_push((uintptr_t)argument);
	return NULL;
}

int calibrate_thread(uintptr_t argument)
{
	pthread_t thread;
	int r;

	/* A thread, because what is tested is whether the kernel lets hits of threads through. */
	r = pthread_create(&thread, NULL, call_once, (void *)argument);
	if (r)
		return -r;
	return -pthread_join(thread, NULL);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

uint64_t calibrate_time(enum calibrate_function f, unsigned calls, uintptr_t argument)
{
	void (*call)(uintptr_t) =
		f == CALIBRATE_PUSH ? pyleak_calibrate_push : pyleak_calibrate_mov;
	uint64_t took[5];

	for (size_t round = 0; round < ARRAY_SIZE(took); round++) {
		uint64_t start = now_monotonic_ns();

		for (unsigned i = 0; i < calls; i++)
			call(argument);
		took[round] = (now_monotonic_ns() - start) / calls;
	}
	qsort(took, ARRAY_SIZE(took), sizeof(took[0]), compare);
	return took[ARRAY_SIZE(took) / 2];
}
