/* SPDX-License-Identifier: MIT */
/*
 * One ELF file, read only as far as we need it: symbols, build-id, the mapping between virtual
 * addresses and file offsets, and bytes of code. The file is hostile input: every header is
 * checked against the file's size before it is used.
 *
 * Offsets come from the PT_LOAD program headers, never from section headers (libbpf resolves by
 * section; a stripped or unusual file may have none, and versioned names such as
 * `PyObject_Free@@Base` are not found that way).
 */
#ifndef PYLEAK_PYTHON_ELF_IMAGE_H
#define PYLEAK_PYTHON_ELF_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/util/err.h"

struct elf_image;

#define BUILD_ID_HEX_MAX 65

/* Maps the file behind fd (which stays the caller's). -ENOEXEC: not a 64-bit little-endian
 * x86-64 or AArch64 ELF file, or damaged. */
int elf_image_open(int fd, struct err *err, struct elf_image **ret);
/* The same, and those who open a file that somebody has open get the same image, which is freed when
 * the last one frees it: many processes run one Python. In one thread only. */
int elf_image_open_shared(int fd, struct err *err, struct elf_image **ret);
void elf_image_free(struct elf_image *e);
void elf_image_freep(struct elf_image **e);

/* EM_X86_64 or EM_AARCH64; whether a .symtab is there (else "stripped"). */
int elf_image_machine(const struct elf_image *e);
bool elf_image_has_symtab(const struct elf_image *e);

/* Hex build-id, "" if there is none. */
const char *elf_image_build_id(const struct elf_image *e);

/* Virtual address and size of a defined symbol, from .dynsym, then .symtab; a version suffix
 * (@VERS, @@VERS) does not matter. -ENOENT. ret_size may be NULL. */
int elf_image_symbol(
	const struct elf_image *e, const char *name, uint64_t *ret_vaddr, uint64_t *ret_size);

/* Name of the object (variable) that vaddr lies in, and where that begins. -ENOENT. */
int elf_image_object_at(
	const struct elf_image *e, uint64_t vaddr, char *name, size_t n, uint64_t *ret_vaddr);

/* File offset of a virtual address (by PT_LOAD), as uprobes want it. -ERANGE if not mapped from
 * the file. */
int elf_image_offset(const struct elf_image *e, uint64_t vaddr, uint64_t *ret_offset);

/* Load bias of this file in a process in which the mapping at map_start shows file offset
 * map_offset: runtime address = vaddr + bias. -ERANGE if no PT_LOAD covers that offset. */
int elf_image_bias(
	const struct elf_image *e, uint64_t map_start, uint64_t map_offset, uint64_t *ret_bias);

/* File bytes at vaddr: pointer into the map, *ret_len bytes to the segment's file end (capped at
 * max). NULL if vaddr is not in a file-backed PT_LOAD. Valid as long as the image. */
const uint8_t *elf_image_bytes(
	const struct elf_image *e, uint64_t vaddr, size_t max, size_t *ret_len);

/* One PT_LOAD: flags are PF_R, PF_W, PF_X; memory behind filesz is zero-filled (.bss). */
struct elf_segment {
	uint64_t vaddr, offset, filesz, memsz;
	uint32_t flags;
};

/* The i-th PT_LOAD, or NULL behind the last. */
const struct elf_segment *elf_image_segment(const struct elf_image *e, size_t i);

/* Whether vaddr lies in an executable PT_LOAD. */
bool elf_image_is_code(const struct elf_image *e, uint64_t vaddr);

#endif
