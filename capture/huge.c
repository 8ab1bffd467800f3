/* SPDX-License-Identifier: MIT */
#include "capture/huge.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "daemon/util/macros.h"
#include "daemon/util/units.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define HUGE_BYTES ((uint64_t)2 << 20)
#define AREAS_MAX  4096
/* One call holds the target's map lock for reading page tables and, shortly, for writing, once a huge
 * page; between calls whoever waits for the lock has it. */
#define AT_ONCE (8 * HUGE_BYTES)
#define SLOW_NS ((uint64_t)50 * 1000000)

void huge_release(struct huge *h)
{
	free(h->v);
	*h = (struct huge){0};
}

static int add(struct huge *h, const struct huge_area *a)
{
	if (h->n == h->cap) {
		size_t cap = h->cap ? 2 * h->cap : 32;
		struct huge_area *v = realloc(h->v, cap * sizeof(*v));

		if (!v)
			return -ENOMEM;
		h->v = v;
		h->cap = cap;
	}
	h->v[h->n++] = *a;
	return 0;
}

/* Nobody has any, or nobody can: then smaps need not be read, which holds up who maps memory meanwhile. */
static bool host_has_none(void)
{
	_cleanup_fclose_ FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
	_cleanup_fclose_ FILE *m = fopen("/proc/meminfo", "re");
	uint64_t kib = UINT64_MAX;
	char line[128];

	if (!f || !fgets(line, sizeof(line), f) || strstr(line, "[never]"))
		return true;
	while (m && fgets(line, sizeof(line), m) &&
		sscanf(line, "AnonHugePages: %" SCNu64, &kib) != 1)
		;
	return kib == 0;
}

int huge_read(pid_t pid, struct huge *ret)
{
	_cleanup_fclose_ FILE *f = NULL;
	struct huge_area a = {0};
	struct huge h = {0};
	char path[64], line[512];
	int r = 0;

	*ret = h;
	if (host_has_none())
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	while (r == 0 && h.n < AREAS_MAX && fgets(line, sizeof(line), f)) {
		uint64_t start, end, kib;

		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
			a = (struct huge_area){.start = start, .end = end};
		else if (sscanf(line, "AnonHugePages: %" SCNu64 " kB", &kib) == 1 && kib > 0) {
			a.bytes = kib << 10;
			r = add(&h, &a);
		}
	}
	if (r < 0) {
		huge_release(&h);
		return r;
	}
	*ret = h;
	return 0;
}

static uint64_t bytes_in(const struct huge *h, uint64_t start, uint64_t end)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < h->n; i++)
		if (h->v[i].start < end && start < h->v[i].end)
			sum += h->v[i].bytes;
	return sum;
}

bool huge_is_lost(const struct huge_area *before, const struct huge *now, uint64_t *ret_start,
	uint64_t *ret_end)
{
	uint64_t start = (before->start + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);
	uint64_t end = before->end & ~(HUGE_BYTES - 1);

	/* Asking for all of an area that was huge in part only would fill its holes, and make the
	 * target larger than it was. */
	if (end <= start || before->bytes < (end - start) / 10 * 9 ||
		bytes_in(now, before->start, before->end) >= before->bytes)
		return false;
	*ret_start = start;
	*ret_end = end;
	return true;
}

static int open_pagemap(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* Whether all small pages of a huge one are there (Documentation/admin-guide/mm/pagemap.rst, bit 63).
 * What the program has given back meanwhile must not be filled again. */
static bool is_full(int pagemap, uint64_t at)
{
	uint64_t v[HUGE_BYTES / 4096];

	if (pread(pagemap, v, sizeof(v), (off_t)(at / 4096 * sizeof(*v))) != (ssize_t)sizeof(v))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(v); i++)
		if (!(v[i] >> 63))
			return false;
	return true;
}

int64_t huge_restore(pid_t pid, int pidfd, const struct huge *before, uint64_t until_ns)
{
	_cleanup_close_ int pagemap = -1;
	struct huge now = {0};
	int64_t restored = 0;
	int r;

	if (before->n == 0)
		return 0;
	r = huge_read(pid, &now);
	if (r < 0)
		return r;
	pagemap = open_pagemap(pid);
	for (size_t i = 0; i < before->n; i++) {
		uint64_t start, end, next;

		if (!huge_is_lost(&before->v[i], &now, &start, &end))
			continue;
		for (uint64_t at = start; at < end; at = next) {
			uint64_t began = now_monotonic_ns();
			struct iovec v = {.iov_base = (void *)(uintptr_t)at};
			long got;

			next = at;
			while (next < end && next - at < AT_ONCE && is_full(pagemap, next))
				next += HUGE_BYTES;
			if (next == at) {
				next += HUGE_BYTES;
				continue;
			}
			if (began >= until_ns)
				goto out;
			v.iov_len = next - at;
			got = syscall(SYS_process_madvise, pidfd, &v, 1, MADV_COLLAPSE, 0);
			if (got < 0 && (errno == EINVAL || errno == EPERM || errno == ESRCH ||
					       errno == ENOSYS)) {
				r = -errno; /* an older kernel, or nobody there any more */
				goto out;
			}
			restored += got > 0 ? got : 0;
			if (now_monotonic_ns() - began > SLOW_NS)
				goto out; /* this host has better things to do */
		}
	}
out:
	huge_release(&now);
	return restored ? restored : r;
}
