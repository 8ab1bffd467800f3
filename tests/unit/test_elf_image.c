/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "daemon/python/elf_image.h"
#include "daemon/util/macros.h"

int elf_test_data = 4711; /* found again by its name */
int elf_test_bss;
int elf_test_code(int x);

int elf_test_code(int x)
{
	return x * 3 + elf_test_data;
}

static struct elf_image *open_path(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct elf_image *e = NULL;

	assert_true(fd >= 0);
	assert_int_equal(elf_image_open(fd, NULL, &e), 0);
	return e;
}

static int open_bytes(const void *bytes, size_t n, struct err *err, struct elf_image **ret)
{
	_cleanup_close_ int fd = memfd_create("elf", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, n), (ssize_t)n);
	return elf_image_open(fd, err, ret);
}

/* ---- this very program, and libc ---- */

struct found {
	char name[256];
	uint64_t base;
	char build_id[BUILD_ID_HEX_MAX];
};

/* What the loader says, to compare with: base address and build-id. */
static int find_object(struct dl_phdr_info *i, size_t size, void *arg)
{
	struct found *f = arg;
	const char *want = f->name;

	if (want[0] == '\0' ? i->dlpi_name[0] != '\0' : !strstr(i->dlpi_name, want))
		return 0;
	f->base = i->dlpi_addr;
	snprintf(f->name, sizeof(f->name), "%s", i->dlpi_name);
	for (int k = 0; k < i->dlpi_phnum; k++) {
		const uint8_t *p = (const uint8_t *)i->dlpi_addr + i->dlpi_phdr[k].p_vaddr;
		const uint8_t *end = p + i->dlpi_phdr[k].p_memsz;

		if (i->dlpi_phdr[k].p_type != PT_NOTE || i->dlpi_phdr[k].p_align != 4)
			continue;
		while (p + 16 <= end) {
			const Elf64_Nhdr *n = (const void *)p;

			if (n->n_type == NT_GNU_BUILD_ID && memcmp(p + 12, "GNU", 4) == 0)
				for (uint32_t b = 0; b < n->n_descsz; b++)
					snprintf(f->build_id + 2 * b, 3, "%02x", p[16 + b]);
			p += 12 + ((n->n_namesz + 3) & ~3u) + ((n->n_descsz + 3) & ~3u);
		}
	}
	return 1;
}

/* The mapping of this process that holds addr. */
static void mapping_of(const void *addr, uint64_t *ret_start, uint64_t *ret_offset)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	uint64_t start, end, offset;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx %*s %lx", &start, &end, &offset) == 3 &&
			(uintptr_t)addr >= start && (uintptr_t)addr < end) {
			*ret_start = start;
			*ret_offset = offset;
			return;
		}
	fail_msg("%p is not mapped", addr);
}

static void finds_own_symbols(void **state)
{
	_cleanup_(elf_image_freep) struct elf_image *e = open_path("/proc/self/exe");
	_cleanup_close_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	uint64_t vaddr, size, bias, start, offset, at;
	const uint8_t *bytes;
	uint8_t direct[16];
	char name[32];
	size_t n;

	assert_true(elf_image_has_symtab(e));
	assert_int_equal(elf_image_symbol(e, "elf_test_code", &vaddr, &size), 0);
	assert_true(size > 0);
	mapping_of((const void *)(uintptr_t)elf_test_code, &start, &offset);
	assert_int_equal(elf_image_bias(e, start, offset, &bias), 0);
	assert_int_equal(vaddr + bias, (uintptr_t)elf_test_code);
	assert_true(elf_image_is_code(e, vaddr));
	assert_int_equal(elf_image_offset(e, vaddr, &at), 0);
	assert_int_equal(pread(fd, direct, sizeof(direct), (off_t)at), sizeof(direct));
	bytes = elf_image_bytes(e, vaddr, sizeof(direct), &n);
	assert_non_null(bytes);
	assert_int_equal(n, sizeof(direct));
	assert_memory_equal(bytes, direct, n);
	assert_memory_equal(bytes, (const void *)(uintptr_t)elf_test_code, n);

	/* by the mapping of the data, the same bias */
	assert_int_equal(elf_image_symbol(e, "elf_test_data", &vaddr, &size), 0);
	assert_int_equal(size, sizeof(elf_test_data));
	mapping_of(&elf_test_data, &start, &offset);
	assert_int_equal(elf_image_bias(e, start, offset, &at), 0);
	assert_int_equal(at, bias);
	assert_int_equal(vaddr + bias, (uintptr_t)&elf_test_data);
	assert_false(elf_image_is_code(e, vaddr));
	assert_int_equal(elf_image_object_at(e, vaddr + size - 1, name, sizeof(name), &at), 0);
	assert_int_equal(at, vaddr);
	assert_string_equal(name, "elf_test_data");
	assert_int_equal(elf_image_object_at(e, vaddr, name, 5, &at), 0);
	assert_string_equal(name, "elf_");
	assert_int_equal(elf_image_object_at(e, 1, name, sizeof(name), &at), -ENOENT);

	assert_int_equal(elf_image_symbol(e, "elf_test_bss", &vaddr, NULL), 0);
	assert_int_equal(elf_image_offset(e, vaddr, &at), -ERANGE);
	assert_null(elf_image_bytes(e, vaddr, 4, &n));
	assert_int_equal(elf_image_symbol(e, "elf_test_nothing", &vaddr, NULL), -ENOENT);
	assert_int_equal(elf_image_symbol(e, "", &vaddr, NULL), -ENOENT);
	/* undefined here: it lives in libc */
	assert_int_equal(elf_image_symbol(e, "memfd_create", &vaddr, NULL), -ENOENT);
	assert_int_equal(elf_image_bias(e, 0x10000, (uint64_t)1 << 40, &at), -ERANGE);
}

static void agrees_with_the_loader(void **state)
{
	struct found self = {.base = 0}, libc = {.name = "libc.so"};
	uint64_t vaddr;

	assert_int_equal(dl_iterate_phdr(find_object, &self), 1);
	assert_int_equal(dl_iterate_phdr(find_object, &libc), 1);
	_cleanup_(elf_image_freep) struct elf_image *e = open_path("/proc/self/exe");
	assert_string_equal(elf_image_build_id(e), self.build_id);
	_cleanup_(elf_image_freep) struct elf_image *l = open_path(libc.name);
	assert_true(libc.build_id[0] != '\0');
	assert_string_equal(elf_image_build_id(l), libc.build_id);
	assert_int_equal(elf_image_symbol(l, "getppid", &vaddr, NULL), 0);
	assert_int_equal(libc.base + vaddr, (uintptr_t)getppid);
	assert_int_equal(elf_image_machine(l), elf_image_machine(e));
}

/* ---- files made by hand ---- */

enum { TEXT = 0x1000, DATA = 0x1800, SYMS = 0x2000, STRS = 0x2800, SHDRS = 0x3000, END = 0x3200 };

struct image {
	uint8_t b[END];
	size_t n_syms, n_strs;
};

static Elf64_Ehdr *header(struct image *i)
{
	return (Elf64_Ehdr *)(void *)i->b;
}

static void add_symbol(
	struct image *i, const char *name, int bind, int type, int shndx, uint64_t value)
{
	Elf64_Sym s = {
		.st_name = (uint32_t)i->n_strs,
		.st_info = (unsigned char)ELF64_ST_INFO(bind, type),
		.st_shndx = (uint16_t)shndx,
		.st_value = value,
		.st_size = 8,
	};
	Elf64_Shdr *sh = (Elf64_Shdr *)(void *)(i->b + SHDRS);

	memcpy(i->b + SYMS + i->n_syms++ * sizeof(s), &s, sizeof(s));
	strcpy((char *)i->b + STRS + i->n_strs, name);
	i->n_strs += strlen(name) + 1;
	sh[1].sh_size = i->n_syms * sizeof(s);
	sh[2].sh_size = i->n_strs;
}

/* Code and data share the page of the file at 0x1000, as linkers without -z separate-code do. */
static void make_image(struct image *i)
{
	Elf64_Ehdr eh = {
		.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_DYN,
		.e_machine = EM_AARCH64,
		.e_phoff = sizeof(eh),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 2,
		.e_shoff = SHDRS,
		.e_shentsize = sizeof(Elf64_Shdr),
		.e_shnum = 3,
	};
	Elf64_Phdr ph[2] = {
		{PT_LOAD, PF_R | PF_X, 0, 0, 0, DATA, DATA, 4096},
		{PT_LOAD, PF_R | PF_W, DATA, 0x2800, 0, 0x100, 0x1000, 4096},
	};
	Elf64_Shdr sh[3] = {
		{0},
		{.sh_type = SHT_SYMTAB, .sh_offset = SYMS, .sh_link = 2, .sh_entsize = 24},
		{.sh_type = SHT_STRTAB, .sh_offset = STRS},
	};

	memset(i, 0, sizeof(*i));
	memcpy(i->b, &eh, sizeof(eh));
	memcpy(i->b + sizeof(eh), ph, sizeof(ph));
	memcpy(i->b + SHDRS, sh, sizeof(sh));
}

static void names_of_symbols(void **state)
{
	_cleanup_(elf_image_freep) struct elf_image *e = NULL;
	struct image i;
	uint64_t v;

	make_image(&i);
	add_symbol(&i, "PyObject_Free@@Base", STB_GLOBAL, STT_FUNC, 1, 0x1010);
	add_symbol(&i, "PyObject_FreeAll", STB_GLOBAL, STT_FUNC, 1, 0x1020);
	add_symbol(&i, "old@VERS_1", STB_GLOBAL, STT_FUNC, 1, 0x1030);
	add_symbol(&i, "twice", STB_LOCAL, STT_FUNC, 1, 0x1040);
	add_symbol(&i, "twice", STB_LOCAL, STT_FUNC, 1, 0x1050);
	add_symbol(&i, "shadowed", STB_LOCAL, STT_FUNC, 1, 0x1060);
	add_symbol(&i, "shadowed", STB_GLOBAL, STT_FUNC, 1, 0x1070);
	add_symbol(&i, "single", STB_LOCAL, STT_FUNC, 1, 0x1080);
	add_symbol(&i, "elsewhere", STB_GLOBAL, STT_FUNC, SHN_UNDEF, 0x1090);
	add_symbol(&i, "file.c", STB_LOCAL, STT_FILE, SHN_ABS, 0x10a0);
	add_symbol(&i, "thread_local", STB_GLOBAL, STT_TLS, 1, 0x10b0);
	assert_int_equal(open_bytes(i.b, sizeof(i.b), NULL, &e), 0);

	assert_int_equal(elf_image_machine(e), EM_AARCH64);
	assert_int_equal(elf_image_symbol(e, "PyObject_Free", &v, NULL), 0);
	assert_int_equal(v, 0x1010);
	assert_int_equal(elf_image_symbol(e, "old", &v, NULL), 0);
	assert_int_equal(v, 0x1030);
	assert_int_equal(elf_image_symbol(e, "PyObject_Fre", &v, NULL), -ENOENT);
	/* two functions of that name in two files: which one is not known */
	assert_int_equal(elf_image_symbol(e, "twice", &v, NULL), -ENOENT);
	assert_int_equal(elf_image_symbol(e, "shadowed", &v, NULL), 0);
	assert_int_equal(v, 0x1070);
	assert_int_equal(elf_image_symbol(e, "single", &v, NULL), 0);
	assert_int_equal(v, 0x1080);
	assert_int_equal(elf_image_symbol(e, "elsewhere", &v, NULL), -ENOENT);
	assert_int_equal(elf_image_symbol(e, "file.c", &v, NULL), -ENOENT);
	assert_int_equal(elf_image_symbol(e, "thread_local", &v, NULL), -ENOENT);
	assert_string_equal(elf_image_build_id(e), "");
}

static void a_page_mapped_twice(void **state)
{
	_cleanup_(elf_image_freep) struct elf_image *e = NULL;
	uint64_t bias, at;
	struct image i;
	size_t n;

	make_image(&i);
	memcpy(i.b + DATA, "data", 4);
	assert_int_equal(open_bytes(i.b, sizeof(i.b), NULL, &e), 0);
	/* code from offset 0, at 0x7f0000000000; data from the page at offset 0x1000 */
	assert_int_equal(elf_image_bias(e, 0x7f0000000000, 0, &bias), 0);
	assert_int_equal(bias, 0x7f0000000000);
	assert_int_equal(elf_image_bias(e, 0x7f0000002000, 0x1000, &bias), 0);
	assert_int_equal(bias, 0x7f0000000000);

	assert_int_equal(elf_image_offset(e, 0x2800, &at), 0);
	assert_int_equal(at, DATA);
	assert_memory_equal(elf_image_bytes(e, 0x2800, 4, &n), "data", 4);
	assert_non_null(elf_image_bytes(e, 0x28f0, 4096, &n));
	assert_int_equal(n, 0x10); /* to the end of what is in the file */
	assert_null(elf_image_bytes(e, 0x2900, 1, &n));
	assert_int_equal(elf_image_offset(e, 0x2900, &at), -ERANGE);
	assert_null(elf_image_bytes(e, 0x2000, 1, &n)); /* between the two */
	assert_int_equal(elf_image_segment(e, 1)->memsz, 0x1000);
	assert_null(elf_image_segment(e, 2));
}

static void refuses(void **state)
{
	struct elf_image *e = NULL;
	struct image i;
	struct err err;
	_cleanup_close_ int dir = open("/", O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	assert_int_equal(elf_image_open(dir, NULL, &e), -ENOEXEC);
	assert_int_equal(elf_image_open(null, NULL, &e), -ENOEXEC);
	assert_int_equal(elf_image_open(-1, NULL, &e), -EBADF);
	assert_int_equal(open_bytes("", 0, NULL, &e), -ENOEXEC);
	assert_int_equal(open_bytes("#!/bin/sh\n", 10, NULL, &e), -ENOEXEC);

#define REFUSED(change, word)                                                                      \
	do {                                                                                       \
		make_image(&i);                                                                    \
		change;                                                                            \
		assert_int_equal(open_bytes(i.b, sizeof(i.b), &err, &e), -ENOEXEC);                \
		assert_non_null(strstr(err.msg, word));                                            \
	} while (0)
	REFUSED(header(&i)->e_ident[0] = 0, "not an ELF");
	REFUSED(header(&i)->e_ident[EI_CLASS] = ELFCLASS32, "32-bit");
	REFUSED(header(&i)->e_ident[EI_DATA] = ELFDATA2MSB, "big-endian");
	REFUSED(header(&i)->e_machine = EM_RISCV, "machine 243");
	REFUSED(header(&i)->e_type = ET_CORE, "type 4");
	REFUSED(header(&i)->e_phnum = 0, "program headers");
	REFUSED(header(&i)->e_phnum = 0xffff, "program headers");
	REFUSED(header(&i)->e_phentsize = 8, "program headers");
	REFUSED(header(&i)->e_phoff = UINT64_MAX - 8, "program headers");
	REFUSED(((Elf64_Phdr *)(void *)(i.b + 64))->p_filesz = END + 1, "segment 0");
	REFUSED(((Elf64_Phdr *)(void *)(i.b + 64))->p_offset = UINT64_MAX, "segment 0");
	REFUSED(((Elf64_Phdr *)(void *)(i.b + 64))->p_vaddr = UINT64_MAX, "segment 0");
	REFUSED(((Elf64_Phdr *)(void *)(i.b + 64))->p_memsz = 1, "segment 0");
#undef REFUSED
	assert_null(e);
}

/* ---- damage ---- */

/* Everything that can be asked, with results touched so that ASan sees what they point to. */
static unsigned ask_everything(const struct elf_image *e)
{
	static const char *const symbols[] = {"_PyRuntime", "main", "_init", "stdout", ""};
	uint64_t v = 0, size, at;
	unsigned sum = 0;

	for (size_t i = 0; i < ARRAY_SIZE(symbols); i++)
		if (elf_image_symbol(e, symbols[i], &v, &size) == 0)
			sum += (unsigned)v;
	for (uint64_t addr = 0; addr < 0x20000; addr += 0x333) {
		size_t n = 0;
		const uint8_t *b = elf_image_bytes(e, addr, 64, &n);

		assert_true(!b || (n > 0 && n <= 64));
		for (size_t k = 0; b && k < n; k++)
			sum += b[k];
		sum += elf_image_is_code(e, addr) + (elf_image_offset(e, addr, &at) == 0);
		sum += elf_image_bias(e, 0x400000, addr & ~0xfffull, &at) == 0;
	}
	sum += (unsigned)strlen(elf_image_build_id(e)) + elf_image_has_symtab(e);
	return sum;
}

static uint8_t *read_file(const char *path, size_t *ret_n)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	uint8_t *b;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	b = malloc((size_t)st.st_size);
	assert_non_null(b);
	assert_int_equal(read(fd, b, (size_t)st.st_size), st.st_size);
	*ret_n = (size_t)st.st_size;
	return b;
}

static void try_bytes(const uint8_t *b, size_t n, unsigned *opened)
{
	struct elf_image *e = NULL;
	struct err err = {""};
	int r = open_bytes(b, n, &err, &e);

	if (r == 0) {
		ask_everything(e);
		++*opened;
	} else {
		assert_true(err.msg[0] != '\0');
		assert_null(e);
	}
	elf_image_free(e);
}

static void cut_anywhere(void **state)
{
	_cleanup_free_ uint8_t *b = NULL;
	unsigned opened = 0, whole = 0;
	size_t n;

	b = read_file("/bin/true", &n);
	for (size_t cut = 0; cut < n; cut += 64)
		try_bytes(b, cut, &opened);
	try_bytes(b, n, &whole);
	assert_int_equal(whole, 1);
	assert_true(opened < n / 64); /* not all of them: the first are refused */
}

static void flipped_anywhere(void **state)
{
	_cleanup_free_ uint8_t *b = NULL;
	unsigned opened = 0;
	size_t n, headers;

	b = read_file("/bin/true", &n);
	headers = sizeof(Elf64_Ehdr) + ((const Elf64_Ehdr *)(const void *)b)->e_phnum * 56u;
	for (size_t i = 0; i < n; i += i < headers ? 1 : 7) {
		static const uint8_t flips[] = {0xff, 0x01, 0x80, 0x10};
		uint8_t was = b[i];

		for (size_t k = 0; k < (i < headers ? ARRAY_SIZE(flips) : 1); k++) {
			b[i] = was ^ flips[k];
			try_bytes(b, n, &opened);
		}
		b[i] = was;
	}
	assert_true(opened > 0);
}

/* Whoever may write to the file may cut it while we look. */
static void cut_while_open(void **state)
{
	_cleanup_(elf_image_freep) struct elf_image *e = NULL;
	_cleanup_close_ int fd = memfd_create("elf", MFD_CLOEXEC);
	_cleanup_free_ uint8_t *b = NULL;
	const struct elf_segment *s = NULL;
	size_t n;

	b = read_file("/proc/self/exe", &n);
	assert_int_equal(write(fd, b, n), (ssize_t)n);
	assert_int_equal(elf_image_open(fd, NULL, &e), 0);
	assert_int_equal(ftruncate(fd, 4096), 0);
	for (size_t i = 0; elf_image_segment(e, i); i++)
		s = elf_image_segment(e, i);
	assert_non_null(s);
	/* what was not read yet is gone: no bytes, no crash */
	assert_null(elf_image_bytes(e, s->vaddr, s->filesz, &n));
	ask_everything(e);
}

/* A sparse file must not cost its apparent size in memory. */
static void enormous(void **state)
{
	_cleanup_(elf_image_freep) struct elf_image *e = NULL;
	_cleanup_close_ int fd = memfd_create("elf", MFD_CLOEXEC);
	struct image i;
	Elf64_Shdr *sh;
	uint64_t v;

	make_image(&i);
	add_symbol(&i, "x", STB_GLOBAL, STT_FUNC, 1, 0x1000);
	sh = (Elf64_Shdr *)(void *)(i.b + SHDRS);
	sh[1].sh_size = (uint64_t)4 << 30;
	sh[2].sh_size = (uint64_t)4 << 30;
	assert_int_equal(write(fd, i.b, sizeof(i.b)), sizeof(i.b));
	assert_int_equal(ftruncate(fd, (off_t)5 << 30), 0);
	assert_int_equal(elf_image_open(fd, NULL, &e), 0);
	assert_int_equal(elf_image_symbol(e, "y", &v, NULL), -ENOENT);
	elf_image_free(TAKE_PTR(e));
	assert_int_equal(ftruncate(fd, (off_t)9 << 30), 0);
	assert_int_equal(elf_image_open(fd, NULL, &e), -ENOEXEC);
}

static void shared(void **state)
{
	_cleanup_close_ int fd = memfd_create("elf", MFD_CLOEXEC), other = -1;
	struct elf_image *a, *b, *c, *own;
	_cleanup_free_ uint8_t *bytes = NULL;
	const struct elf_segment *s;
	size_t n;

	bytes = read_file("/proc/self/exe", &n);
	assert_int_equal(write(fd, bytes, n), (ssize_t)n);
	other = dup(fd);
	assert_int_equal(elf_image_open_shared(fd, NULL, &a), 0);
	assert_int_equal(elf_image_open_shared(other, NULL, &b), 0);
	assert_ptr_equal(a, b);
	assert_int_equal(elf_image_open(fd, NULL, &own), 0);
	assert_ptr_not_equal(a, own);
	/* Another file from now on, though the same inode. */
	assert_int_equal(futimens(fd, (struct timespec[2]){{1, 0}, {2, 0}}), 0);
	assert_int_equal(elf_image_open_shared(fd, NULL, &c), 0);
	assert_ptr_not_equal(a, c);
	elf_image_free(a);
	s = elf_image_segment(b, 0);
	assert_non_null(elf_image_bytes(b, s->vaddr, 16, &n));
	elf_image_free(c);
	elf_image_free(b);
	elf_image_free(own);
	assert_int_equal(elf_image_open_shared(fd, NULL, &a), 0); /* and anew */
	elf_image_free(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_own_symbols),
		cmocka_unit_test(agrees_with_the_loader),
		cmocka_unit_test(names_of_symbols),
		cmocka_unit_test(a_page_mapped_twice),
		cmocka_unit_test(refuses),
		cmocka_unit_test(cut_anywhere),
		cmocka_unit_test(flipped_anywhere),
		cmocka_unit_test(cut_while_open),
		cmocka_unit_test(enormous),
		cmocka_unit_test(shared),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
