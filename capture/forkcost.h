/* SPDX-License-Identifier: MIT */
/*
 * What a fork costs on this host, measured on ourselves: the kernel copies one page table entry
 * for every page of private memory, with the whole process standing still.
 */
#ifndef PYLEAK_CAPTURE_FORKCOST_H
#define PYLEAK_CAPTURE_FORKCOST_H

#include <stdint.h>

struct fork_cost {
	uint64_t base_ns;    /* of a small process */
	uint64_t per_mib_ns; /* of touched private memory in 4 KiB pages */
};

/* Takes some 10 ms and 32 MiB. 0, -ENOMEM, -EAGAIN. */
int fork_cost_measure(struct fork_cost *ret);

#endif
