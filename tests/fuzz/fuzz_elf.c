/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer over elf_image, from the repository's root:
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -I. tests/fuzz/fuzz_elf.c \
 *           daemon/python/elf_image.c daemon/util/err.c -o fuzz_elf
 *   mkdir corpus && cp /bin/true corpus && ./fuzz_elf -max_len=65536 corpus
 *
 * The file is a memfd that lives as long as the process, cut to each input's length.
 */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "daemon/python/elf_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[] = {"_PyRuntime", "PyType_Type", "main", "_init", ""};
	static int fd = -1;
	static volatile __attribute__((unused)) unsigned sink; /* what is read must be read */
	_cleanup_(elf_image_freep) struct elf_image *e = NULL;
	const struct elf_segment *s;
	uint64_t addr, bytes, offset;
	char name[16];
	struct err err;

	if (fd < 0)
		fd = memfd_create("elf", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, 0) < 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
		abort();
	if (elf_image_open(fd, &err, &e) < 0)
		return 0;
	sink += (unsigned)elf_image_machine(e) + elf_image_has_symtab(e) +
		(unsigned char)elf_image_build_id(e)[0];
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (elf_image_symbol(e, names[i], &addr, &bytes) == 0)
			sink += elf_image_is_code(e, addr);
	for (size_t i = 0; (s = elf_image_segment(e, i)); i++) {
		uint64_t bias;
		size_t n = 0;
		const uint8_t *b = elf_image_bytes(e, s->vaddr, 256, &n);

		for (size_t k = 0; b && k < n; k++)
			sink += b[k];
		if (b && n > 256)
			abort();
		b = elf_image_bytes(e, s->vaddr + s->filesz - 1, SIZE_MAX, &n);
		for (size_t k = 0; b && k < n; k++)
			sink += b[k];
		if (elf_image_object_at(e, s->vaddr, name, sizeof(name), &addr) == 0 &&
			(addr > s->vaddr || strlen(name) >= sizeof(name)))
			abort();
		if (elf_image_offset(e, s->vaddr, &offset) == 0 && offset >= size)
			abort();
		sink += elf_image_bias(e, 0x400000, s->offset & ~4095ull, &bias) == 0;
	}
	return 0;
}
