/* SPDX-License-Identifier: MIT */
/*
 * Two tiny functions of our own to put probes on: one begins with an instruction that the kernel
 * emulates, one with an instruction that it steps out of line.
 */
#ifndef PYLEAK_PROBE_CALIBRATE_H
#define PYLEAK_PROBE_CALIBRATE_H

#include <stdint.h>

enum calibrate_function {
	CALIBRATE_PUSH,
	CALIBRATE_MOV,
};

/* Their offsets in /proc/self/exe. -ENOENT. */
int calibrate_offsets(unsigned long *ret_push, unsigned long *ret_mov);

/* Calls the first of them once, with argument, from another thread. */
int calibrate_thread(uintptr_t argument);

/* Nanoseconds a call, the middle one of five rounds. */
uint64_t calibrate_time(enum calibrate_function f, unsigned calls, uintptr_t argument);

#endif
