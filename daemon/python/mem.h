/* SPDX-License-Identifier: MIT */
/*
 * Reading another process's memory from outside with process_vm_readv(2). What is read may be
 * torn or gone; callers check what they get. Never writes, never stops anybody.
 */
#ifndef PYLEAK_PYTHON_MEM_H
#define PYLEAK_PYTHON_MEM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Exactly n bytes, or -EFAULT (not mapped), -ESRCH, -EPERM. */
int mem_read(pid_t pid, uint64_t addr, void *buf, size_t n);

/* As much as is mapped from addr on, up to n: number of bytes, or a negative errno. */
ssize_t mem_read_some(pid_t pid, uint64_t addr, void *buf, size_t n);

int mem_read_u64(pid_t pid, uint64_t addr, uint64_t *ret);
int mem_read_u32(pid_t pid, uint64_t addr, uint32_t *ret);
int mem_read_u8(pid_t pid, uint64_t addr, uint8_t *ret);

/* Several pieces with one call, so that little time passes between them; at most 8. All of them
 * whole, or an error as above. */
struct mem_piece {
	uint64_t addr;
	void *buf;
	size_t n;
};
int mem_read_pieces(pid_t pid, const struct mem_piece *v, size_t n);

/* A C string of at most n - 1 bytes, always terminated. -EFAULT, -ENAMETOOLONG. */
int mem_read_cstr(pid_t pid, uint64_t addr, char *buf, size_t n);

/* The same reads through a small cache of pages, for a target that does not change (a frozen
 * copy): sixteen pages, least recently used. Not for a running target. */
struct mem_cache {
	pid_t pid;
	unsigned tick;
	struct {
		uint64_t page;
		unsigned used;
		uint8_t bytes[4096];
	} page[16];
};
void mem_cache_init(struct mem_cache *c, pid_t pid);
int mem_cache_read(struct mem_cache *c, uint64_t addr, void *buf, size_t n);

#endif
