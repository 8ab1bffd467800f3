/* SPDX-License-Identifier: MIT */
/* The snapshot's table of strings: each text once, number 0 is "". */
#ifndef PYLEAK_CAPTURE_STRINGS_H
#define PYLEAK_CAPTURE_STRINGS_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/util/u64map.h"

struct strings {
	char *bytes; /* all texts behind each other */
	size_t n_bytes, cap_bytes;
	struct strings_entry {
		uint64_t at;
		uint32_t length;
	} * v;
	uint32_t n, cap;
	uint32_t *table; /* open addressing over v, 0: free */
	size_t table_size;
};

/* Number of the text, added if new. 0 (the empty string) when the table is full (64 MiB, four
 * million texts) or memory is out: a name less, not a failure. */
uint32_t strings_add(struct strings *s, const char *text, size_t n);
void strings_release(struct strings *s);

#endif
