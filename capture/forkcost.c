/* SPDX-License-Identifier: MIT */
#include "capture/forkcost.h"

#include <sys/mman.h>
#include <sys/wait.h>

#include "daemon/util/macros.h"
#include "daemon/util/units.h"

#define SAMPLE_MIB 32
#define TRIES      3
/*
 * 32 MiB have their page tables and page structures in the cache; a large process has not.
 * Measured, best of six forks in us a MiB: 6.9 (32 MiB), 7.5 (64), 9.0 (128), 16 (256), 23 (512),
 * 22 (1200).
 */
#define COLD 3

/* Best of some tries: others on the host only ever make it slower. */
static int fork_once(uint64_t *ret_ns)
{
	*ret_ns = UINT64_MAX;
	for (int i = 0; i < TRIES; i++) {
		uint64_t began = now_monotonic_ns();
		pid_t pid = fork();

		if (pid == 0)
			_exit(0);
		if (pid < 0)
			return -errno;
		*ret_ns = MIN(*ret_ns, now_monotonic_ns() - began);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	return 0;
}

int fork_cost_measure(struct fork_cost *ret)
{
	const size_t size = (size_t)SAMPLE_MIB << 20;
	uint64_t base, big;
	char *m;
	int r;

	r = fork_once(&base);
	if (r < 0)
		return r;
	m = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED)
		return -ENOMEM;
	(void)madvise(m, size, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < size; i += 4096)
		m[i] = 1;
	r = fork_once(&big);
	munmap(m, size);
	if (r < 0)
		return r;
	ret->base_ns = base;
	ret->per_mib_ns = big > base ? COLD * (big - base) / SAMPLE_MIB : 0;
	return 0;
}
