/* SPDX-License-Identifier: MIT */
#include "daemon/python/mem.h"

#include <string.h>
#include <sys/uio.h>

#include "daemon/util/macros.h"

#define PAGE 4096

ssize_t mem_read_some(pid_t pid, uint64_t addr, void *buf, size_t n)
{
	struct iovec l = {.iov_base = buf, .iov_len = n};
	struct iovec r = {.iov_base = (void *)(uintptr_t)addr, .iov_len = n};
	ssize_t got;

	if (n == 0)
		return 0;
	if (addr + n < addr)
		return -EFAULT;
	/* one iovec: the kernel stops at the first page that is not there and says how far it got */
	got = process_vm_readv(pid, &l, 1, &r, 1, 0);
	return got < 0 ? -errno : got;
}

int mem_read(pid_t pid, uint64_t addr, void *buf, size_t n)
{
	ssize_t got = mem_read_some(pid, addr, buf, n);

	if (got < 0)
		return (int)got;
	return (size_t)got == n ? 0 : -EFAULT;
}

int mem_read_pieces(pid_t pid, const struct mem_piece *v, size_t n)
{
	struct iovec l[8], r[8];
	size_t total = 0;
	ssize_t got;

	if (n > ARRAY_SIZE(l))
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		if (v[i].addr + v[i].n < v[i].addr)
			return -EFAULT;
		l[i] = (struct iovec){.iov_base = v[i].buf, .iov_len = v[i].n};
		r[i] = (struct iovec){.iov_base = (void *)(uintptr_t)v[i].addr, .iov_len = v[i].n};
		total += v[i].n;
	}
	got = process_vm_readv(pid, l, n, r, n, 0);
	if (got < 0)
		return -errno;
	return (size_t)got == total ? 0 : -EFAULT;
}

int mem_read_u64(pid_t pid, uint64_t addr, uint64_t *ret)
{
	return mem_read(pid, addr, ret, sizeof(*ret));
}

int mem_read_u32(pid_t pid, uint64_t addr, uint32_t *ret)
{
	return mem_read(pid, addr, ret, sizeof(*ret));
}

int mem_read_u8(pid_t pid, uint64_t addr, uint8_t *ret)
{
	return mem_read(pid, addr, ret, sizeof(*ret));
}

int mem_read_cstr(pid_t pid, uint64_t addr, char *buf, size_t n)
{
	ssize_t got;

	if (n == 0)
		return -EINVAL;
	got = mem_read_some(pid, addr, buf, n);
	if (got < 0) {
		buf[0] = '\0';
		return (int)got;
	}
	if (memchr(buf, '\0', (size_t)got))
		return 0;
	/* no end in sight: either too long for buf or the page behind is missing */
	buf[MIN((size_t)got, n - 1)] = '\0';
	return (size_t)got == n ? -ENAMETOOLONG : -EFAULT;
}

void mem_cache_init(struct mem_cache *c, pid_t pid)
{
	c->pid = pid;
	c->tick = 0;
	for (size_t i = 0; i < ARRAY_SIZE(c->page); i++) {
		c->page[i].page = UINT64_MAX;
		c->page[i].used = 0;
	}
}

static const uint8_t *cached_page(struct mem_cache *c, uint64_t page, int *ret_err)
{
	size_t victim = 0;

	for (size_t i = 0; i < ARRAY_SIZE(c->page); i++) {
		if (c->page[i].page == page) {
			c->page[i].used = ++c->tick;
			return c->page[i].bytes;
		}
		if (c->page[i].used < c->page[victim].used)
			victim = i;
	}
	c->page[victim].page = UINT64_MAX;
	*ret_err = mem_read(c->pid, page, c->page[victim].bytes, PAGE);
	if (*ret_err < 0)
		return NULL;
	c->page[victim].page = page;
	c->page[victim].used = ++c->tick;
	return c->page[victim].bytes;
}

int mem_cache_read(struct mem_cache *c, uint64_t addr, void *buf, size_t n)
{
	uint8_t *to = buf;

	if (addr + n < addr)
		return -EFAULT;
	while (n > 0) {
		uint64_t in = addr % PAGE;
		size_t m = MIN(n, (size_t)(PAGE - in));
		const uint8_t *p;
		int r = 0;

		p = cached_page(c, addr - in, &r);
		if (!p)
			return r;
		memcpy(to, p + in, m);
		to += m;
		addr += m;
		n -= m;
	}
	return 0;
}
