/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer over blocks_look(): whatever a target's memory holds, nothing outside of the bytes given is
 * read, and no more objects are found than fit. The first two bytes choose the build.
 */
#include <stdint.h>
#include <string.h>

#include "daemon/python/blocks.h"
#include "daemon/util/macros.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct blocks_type types[] = {
		{.type = 0x955000, .sizes = true, .basicsize = 40, .text = true},
		{.type = 0x956000, .gc = true, .basicsize = 24, .itemsize = 8}};
	struct blocks b = {.types = types, .low = 0x955000, .high = 0x956000};
	uint8_t *bytes;
	size_t n;

	if (size < 2 || u64map_put(&b.index, 0x955000, 1) || u64map_put(&b.index, 0x956000, 2))
		return 0;
	b.pool_bytes = data[0] & 1 ? 4096 : 16384;
	b.wide_flags = data[0] & 2;
	b.small_chunks = data[0] & 4;
	b.other_malloc = data[0] & 8;
	n = MIN((size - 2 + 4095) / 4096 * 4096, (size_t)BLOCKS_STRETCH);
	bytes = calloc(1, n ? n : 1); /* exactly, so that a read past it is seen */
	if (!bytes)
		abort();
	memcpy(bytes, data + 2, MIN(size - 2, n));
	for (int twice = 0; twice < 2; twice++)
		blocks_look(&b, UINT64_C(0x7f0000000000) + (uint64_t)twice * n, bytes, n);
	if (types[0].count + types[1].count > 2 * n / 16)
		abort();
	u64map_release(&b.index);
	free(bytes);
	return 0;
}
