/* SPDX-License-Identifier: MIT */
/*
 * The file is not mapped: whoever may write to it could truncate it under us, and a read behind
 * its new end would be a SIGBUS for the whole daemon. Instead a range of anonymous memory of the
 * file's size is reserved and filled with pread() in blocks, on demand; pointers into it stay
 * valid and only what was looked at costs memory (3 of 31 MB for a libpython3.13 with symbols).
 *
 * Own parser on <elf.h> rather than libelf, because dynamic symbols are found through PT_DYNAMIC
 * (section headers may be absent) and because a file made by an adversary is the normal case here.
 */
#include "daemon/python/elf_image.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "daemon/util/macros.h"

#define BLOCK        ((uint64_t)1 << 16)
#define FILE_MAX     ((uint64_t)8 << 30)
#define LOADED_MAX   ((uint64_t)128 << 20) /* a sparse file costs nobody but us */
#define LOADS_MAX    64
#define PHDRS_MAX    256
#define SECTIONS_MAX 4096
#define SYMBOLS_MAX  ((uint64_t)1 << 21)
#define NOTES_MAX    256

struct symtab {
	uint64_t offset, n; /* in the file; entries */
	uint64_t str_offset, str_size;
};

struct elf_image {
	int fd;
	uint64_t size;
	uint8_t *mem;    /* reserved, size bytes */
	uint8_t *loaded; /* a bit per block; blocks are filled behind const, see need() */
	uint64_t *used;  /* bytes loaded so far, at most LOADED_MAX */
	int machine;
	struct elf_segment loads[LOADS_MAX];
	size_t n_loads;
	struct symtab dynsym, symtab; /* n == 0: none */
	char build_id[BUILD_ID_HEX_MAX];

	/* Of an image that is shared: what file it was, and how many have it. */
	struct stat st;
	unsigned shares;
	struct elf_image *next;
};

static int load_block(const struct elf_image *e, uint64_t block)
{
	uint64_t at = block * BLOCK, n = MIN(BLOCK, e->size - at), done = 0;

	if (*e->used + n > LOADED_MAX)
		return -EFBIG;
	*e->used += n;
	while (done < n) {
		ssize_t r = pread(e->fd, e->mem + at + done, n - done, (off_t)(at + done));

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r < 0 ? -errno : -EIO; /* shorter than fstat() said */
		done += (uint64_t)r;
	}
	e->loaded[block / 8] |= (uint8_t)(1u << block % 8);
	return 0;
}

/* The n bytes of the file at offset, or NULL if they are not all there. */
static const uint8_t *need(const struct elf_image *e, uint64_t offset, uint64_t n)
{
	if (n == 0 || offset >= e->size || n > e->size - offset)
		return NULL;
	for (uint64_t b = offset / BLOCK; b <= (offset + n - 1) / BLOCK; b++)
		if (!(e->loaded[b / 8] & 1u << b % 8) && load_block(e, b) < 0)
			return NULL;
	return e->mem + offset;
}

static bool get(const struct elf_image *e, uint64_t offset, void *buf, size_t n)
{
	const uint8_t *p = need(e, offset, n);

	if (p)
		memcpy(buf, p, n);
	return p != NULL;
}

static const struct elf_segment *load_of(const struct elf_image *e, uint64_t vaddr)
{
	for (size_t i = 0; i < e->n_loads; i++)
		if (vaddr >= e->loads[i].vaddr && vaddr - e->loads[i].vaddr < e->loads[i].memsz)
			return &e->loads[i];
	return NULL;
}

int elf_image_offset(const struct elf_image *e, uint64_t vaddr, uint64_t *ret_offset)
{
	const struct elf_segment *l = load_of(e, vaddr);

	if (!l || vaddr - l->vaddr >= l->filesz)
		return -ERANGE;
	*ret_offset = vaddr - l->vaddr + l->offset;
	return 0;
}

/* How many symbols DT_SYMTAB has: nothing says so but the hash tables. */
static uint64_t dynsym_count(const struct elf_image *e, uint64_t hash, uint64_t gnu_hash)
{
	uint32_t h[4], last = 0, chain;
	uint64_t at, max = SYMBOLS_MAX;

	if (hash && elf_image_offset(e, hash, &at) == 0 && get(e, at, h, 8))
		return MIN(h[1], max);
	if (!gnu_hash || elf_image_offset(e, gnu_hash, &at) < 0 || !get(e, at, h, sizeof(h)))
		return 0;
	/* nbuckets, symoffset, bloom_size, bloom_shift; bloom words; buckets; chains */
	at += sizeof(h) + (uint64_t)h[2] * 8;
	for (uint32_t i = 0; i < h[0] && i < max; i++) {
		uint32_t b;

		if (!get(e, at + (uint64_t)i * 4, &b, 4))
			return 0;
		last = MAX(last, b);
	}
	if (last < h[1])
		return MIN(h[1], max);
	at += (uint64_t)h[0] * 4;
	do {
		if (!get(e, at + (uint64_t)(last - h[1]) * 4, &chain, 4))
			return 0;
	} while (!(chain & 1) && last++ < max);
	return MIN((uint64_t)last + 1, max);
}

/* A table whose entries or strings are not all in the file is cut, not trusted. */
static void set_symtab(const struct elf_image *e, struct symtab *t, uint64_t offset, uint64_t n,
	uint64_t str_offset, uint64_t str_size)
{
	if (offset >= e->size || str_offset >= e->size)
		return;
	n = MIN(n, (e->size - offset) / sizeof(Elf64_Sym));
	*t = (struct symtab){
		.offset = offset,
		.n = MIN(n, SYMBOLS_MAX),
		.str_offset = str_offset,
		.str_size = MIN(str_size, e->size - str_offset),
	};
}

static void read_dynamic(struct elf_image *e, const Elf64_Phdr *ph)
{
	uint64_t sym = 0, str = 0, str_size = 0, hash = 0, gnu_hash = 0;

	for (uint64_t i = 0; i < MIN(ph->p_filesz / sizeof(Elf64_Dyn), (uint64_t)4096); i++) {
		Elf64_Dyn d;

		if (!get(e, ph->p_offset + i * sizeof(d), &d, sizeof(d)) || d.d_tag == DT_NULL)
			break;
		switch (d.d_tag) {
		case DT_SYMTAB:
			sym = d.d_un.d_ptr;
			break;
		case DT_STRTAB:
			str = d.d_un.d_ptr;
			break;
		case DT_STRSZ:
			str_size = d.d_un.d_val;
			break;
		case DT_HASH:
			hash = d.d_un.d_ptr;
			break;
		case DT_GNU_HASH:
			gnu_hash = d.d_un.d_ptr;
			break;
		}
	}
	if (!sym || !str || elf_image_offset(e, sym, &sym) < 0 ||
		elf_image_offset(e, str, &str) < 0)
		return;
	set_symtab(e, &e->dynsym, sym, dynsym_count(e, hash, gnu_hash), str, str_size);
}

static void read_note(struct elf_image *e, const Elf64_Phdr *ph)
{
	uint64_t at = ph->p_offset, left = ph->p_filesz, align = ph->p_align == 8 ? 8 : 4;
	Elf64_Nhdr n;

	for (int i = 0; i < NOTES_MAX && left >= sizeof(n) && get(e, at, &n, sizeof(n)); i++) {
		uint64_t desc = (sizeof(n) + n.n_namesz + align - 1) & ~(align - 1);
		uint64_t all = (desc + n.n_descsz + align - 1) & ~(align - 1);
		const uint8_t *name = need(e, at + sizeof(n), 4), *d;

		if (desc + n.n_descsz > left)
			return;
		if (n.n_type == NT_GNU_BUILD_ID && n.n_namesz == 4 && name &&
			memcmp(name, "GNU", 4) == 0 && n.n_descsz > 0 &&
			n.n_descsz <= (BUILD_ID_HEX_MAX - 1) / 2 &&
			(d = need(e, at + desc, n.n_descsz))) {
			for (uint32_t k = 0; k < n.n_descsz; k++)
				snprintf(e->build_id + 2 * k, 3, "%02x", d[k]);
			return;
		}
		if (all > left)
			return;
		at += all;
		left -= all;
	}
}

/* .symtab is the one thing that only section headers tell of. */
static void read_sections(struct elf_image *e, const Elf64_Ehdr *eh)
{
	if (eh->e_shoff == 0 || eh->e_shentsize != sizeof(Elf64_Shdr))
		return;
	for (unsigned i = 0; i < MIN(eh->e_shnum, SECTIONS_MAX); i++) {
		Elf64_Shdr sh, str;

		if (!get(e, eh->e_shoff + i * sizeof(sh), &sh, sizeof(sh)))
			return;
		if (sh.sh_type != SHT_SYMTAB || sh.sh_entsize != sizeof(Elf64_Sym) ||
			sh.sh_link >= eh->e_shnum)
			continue;
		if (!get(e, eh->e_shoff + sh.sh_link * sizeof(str), &str, sizeof(str)) ||
			str.sh_type != SHT_STRTAB)
			continue;
		set_symtab(e, &e->symtab, sh.sh_offset, sh.sh_size / sizeof(Elf64_Sym),
			str.sh_offset, str.sh_size);
		return;
	}
}

static int read_headers(struct elf_image *e, struct err *err)
{
	Elf64_Phdr ph[PHDRS_MAX];
	Elf64_Ehdr eh;

	if (!get(e, 0, &eh, sizeof(eh)) || memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0)
		return err_set(err, -ENOEXEC, "not an ELF file");
	if (eh.e_ident[EI_CLASS] != ELFCLASS64)
		return err_set(
			err, -ENOEXEC, "a 32-bit ELF file; only 64-bit programs are supported");
	if (eh.e_ident[EI_DATA] != ELFDATA2LSB)
		return err_set(err, -ENOEXEC, "a big-endian ELF file; only little-endian ones are");
	if (eh.e_machine != EM_X86_64 && eh.e_machine != EM_AARCH64)
		return err_set(err, -ENOEXEC,
			"an ELF file for machine %u; x86-64 and AArch64 are supported",
			eh.e_machine);
	if (eh.e_type != ET_EXEC && eh.e_type != ET_DYN)
		return err_set(err, -ENOEXEC, "an ELF file of type %u, neither program nor library",
			eh.e_type);
	if (eh.e_phentsize != sizeof(ph[0]) || eh.e_phnum == 0 || eh.e_phnum > PHDRS_MAX ||
		!get(e, eh.e_phoff, ph, eh.e_phnum * sizeof(ph[0])))
		return err_set(
			err, -ENOEXEC, "damaged ELF file: program headers are not in the file");
	e->machine = eh.e_machine;
	for (unsigned i = 0; i < eh.e_phnum; i++) {
		const Elf64_Phdr *p = &ph[i];

		if (p->p_type != PT_LOAD)
			continue;
		if (p->p_memsz < p->p_filesz || p->p_vaddr + p->p_memsz < p->p_vaddr ||
			p->p_offset > e->size || p->p_filesz > e->size - p->p_offset ||
			e->n_loads == LOADS_MAX)
			return err_set(
				err, -ENOEXEC, "damaged ELF file: segment %u does not fit", i);
		e->loads[e->n_loads++] = (struct elf_segment){
			.vaddr = p->p_vaddr,
			.offset = p->p_offset,
			.filesz = p->p_filesz,
			.memsz = p->p_memsz,
			.flags = p->p_flags,
		};
	}
	if (e->n_loads == 0)
		return err_set(err, -ENOEXEC, "ELF file without a segment to load");
	for (unsigned i = 0; i < eh.e_phnum; i++) {
		if (ph[i].p_type == PT_DYNAMIC)
			read_dynamic(e, &ph[i]);
		else if (ph[i].p_type == PT_NOTE && !e->build_id[0])
			read_note(e, &ph[i]);
	}
	read_sections(e, &eh);
	return 0;
}

int elf_image_open(int fd, struct err *err, struct elf_image **ret)
{
	_cleanup_(elf_image_freep) struct elf_image *e = NULL;
	struct stat st;
	void *mem;
	int r;

	if (fstat(fd, &st) < 0) {
		r = -errno;
		return err_set(err, r, "fstat: %s", strerror(-r));
	}
	if (!S_ISREG(st.st_mode))
		return err_set(err, -ENOEXEC, "not a regular file");
	if (st.st_size < (off_t)sizeof(Elf64_Ehdr))
		return err_set(err, -ENOEXEC, "not an ELF file");
	if ((uint64_t)st.st_size > FILE_MAX)
		return err_set(err, -ENOEXEC, "larger than 8 GiB");
	e = calloc(1, sizeof(*e));
	if (!e)
		return err_set(err, -ENOMEM, "out of memory");
	e->size = (uint64_t)st.st_size;
	/* an own descriptor: blocks are read later, when the caller's may be closed */
	e->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (e->fd < 0) {
		r = -errno;
		/* cppcheck-suppress memleak; it does not know _cleanup_ */
		return err_set(err, r, "dup: %s", strerror(-r));
	}
	e->loaded = calloc(1, e->size / BLOCK / 8 + 1);
	mem = mmap(NULL, e->size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	e->mem = mem == MAP_FAILED ? NULL : mem;
	e->used = calloc(1, sizeof(*e->used));
	if (!e->loaded || !e->used || !e->mem)
		/* cppcheck-suppress memleak */
		return err_set(err, -ENOMEM, "out of memory");
	r = read_headers(e, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(e);
	return 0;
}

static struct elf_image *shared;

static bool is_same(const struct elf_image *e, const struct stat *st)
{
	return e->st.st_dev == st->st_dev && e->st.st_ino == st->st_ino &&
	       e->st.st_size == st->st_size && e->st.st_mtim.tv_sec == st->st_mtim.tv_sec &&
	       e->st.st_mtim.tv_nsec == st->st_mtim.tv_nsec &&
	       e->st.st_ctim.tv_sec == st->st_ctim.tv_sec &&
	       e->st.st_ctim.tv_nsec == st->st_ctim.tv_nsec;
}

int elf_image_open_shared(int fd, struct err *err, struct elf_image **ret)
{
	struct stat st = {0};
	int r;

	if (fstat(fd, &st) == 0)
		for (struct elf_image *e = shared; e; e = e->next)
			if (is_same(e, &st)) {
				e->shares++;
				*ret = e;
				return 0;
			}
	r = elf_image_open(fd, err, ret);
	if (r)
		return r;
	(*ret)->st = st;
	(*ret)->shares = 1;
	(*ret)->next = shared;
	shared = *ret;
	return 0;
}

void elf_image_free(struct elf_image *e)
{
	if (!e)
		return;
	if (e->shares) {
		if (--e->shares)
			return;
		for (struct elf_image **p = &shared; *p; p = &(*p)->next)
			if (*p == e) {
				*p = e->next;
				break;
			}
	}
	if (e->mem)
		munmap(e->mem, e->size);
	if (e->fd > 0)
		close(e->fd);
	free(e->loaded);
	free(e->used);
	free(e);
}

void elf_image_freep(struct elf_image **e)
{
	elf_image_free(*e);
}

int elf_image_machine(const struct elf_image *e)
{
	return e->machine;
}

bool elf_image_has_symtab(const struct elf_image *e)
{
	return e->symtab.n > 0;
}

const char *elf_image_build_id(const struct elf_image *e)
{
	return e->build_id;
}

/* "name", "name@VERS" and "name@@VERS" are the same; str is not known to be terminated. */
static bool same_name(const uint8_t *str, uint64_t left, const char *name, size_t len)
{
	return left > len && memcmp(str, name, len) == 0 && (str[len] == '\0' || str[len] == '@');
}

static int find_symbol(const struct elf_image *e, const struct symtab *t, const char *name,
	uint64_t *ret_vaddr, uint64_t *ret_size)
{
	const Elf64_Sym *syms =
		t->n ? (const void *)need(e, t->offset, t->n * sizeof(*syms)) : NULL;
	const uint8_t *str = t->str_size ? need(e, t->str_offset, t->str_size) : NULL;
	size_t len = strlen(name), locals = 0;
	Elf64_Sym s, found = {0};

	if (!syms || !str)
		return -ENOENT;
	for (uint64_t i = 0; i < t->n; i++) {
		/* the table need not be aligned */
		memcpy(&s, (const uint8_t *)syms + i * sizeof(s), sizeof(s));
		if (s.st_shndx == SHN_UNDEF || s.st_shndx == SHN_ABS || s.st_name >= t->str_size)
			continue;
		if (ELF64_ST_TYPE(s.st_info) != STT_FUNC &&
			ELF64_ST_TYPE(s.st_info) != STT_OBJECT &&
			ELF64_ST_TYPE(s.st_info) != STT_NOTYPE)
			continue;
		if (!same_name(str + s.st_name, t->str_size - s.st_name, name, len))
			continue;
		found = s;
		if (ELF64_ST_BIND(s.st_info) != STB_LOCAL) {
			locals = 1;
			break;
		}
		locals++;
	}
	/* two local functions of one name: which is meant, nobody knows */
	if (locals != 1)
		return -ENOENT;
	*ret_vaddr = found.st_value;
	if (ret_size)
		*ret_size = found.st_size;
	return 0;
}

int elf_image_symbol(
	const struct elf_image *e, const char *name, uint64_t *ret_vaddr, uint64_t *ret_size)
{
	if (find_symbol(e, &e->dynsym, name, ret_vaddr, ret_size) == 0)
		return 0;
	return find_symbol(e, &e->symtab, name, ret_vaddr, ret_size);
}

static int object_in(const struct elf_image *e, const struct symtab *t, uint64_t vaddr, char *name,
	size_t n, uint64_t *ret_vaddr)
{
	const uint8_t *syms = t->n ? need(e, t->offset, t->n * sizeof(Elf64_Sym)) : NULL;
	const uint8_t *str = t->str_size ? need(e, t->str_offset, t->str_size) : NULL;
	Elf64_Sym s;

	for (uint64_t i = 0; syms && str && i < t->n; i++) {
		size_t length = 0;

		memcpy(&s, syms + i * sizeof(s), sizeof(s));
		if (ELF64_ST_TYPE(s.st_info) != STT_OBJECT || s.st_shndx == SHN_UNDEF ||
			s.st_shndx == SHN_ABS || vaddr < s.st_value ||
			vaddr - s.st_value >= s.st_size || s.st_name >= t->str_size)
			continue;
		/* without a version, and only what is fit to be shown */
		for (const char *p = (const char *)str + s.st_name;
			length + 1 < n && s.st_name + length < t->str_size && p[length] > ' ' &&
			p[length] < 0x7f && p[length] != '@';
			length++)
			name[length] = p[length];
		name[length] = '\0';
		*ret_vaddr = s.st_value;
		if (length)
			return 0;
	}
	return -ENOENT;
}

int elf_image_object_at(
	const struct elf_image *e, uint64_t vaddr, char *name, size_t n, uint64_t *ret_vaddr)
{
	if (object_in(e, &e->symtab, vaddr, name, n, ret_vaddr) == 0)
		return 0;
	return object_in(e, &e->dynsym, vaddr, name, n, ret_vaddr);
}

int elf_image_bias(
	const struct elf_image *e, uint64_t map_start, uint64_t map_offset, uint64_t *ret_bias)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	const struct elf_segment *best = NULL;

	/* Neighbouring segments may share a page of the file, which is then mapped twice: the one
	 * that begins with this page is meant before one that only reaches into it. */
	for (size_t i = 0; i < e->n_loads; i++) {
		const struct elf_segment *l = &e->loads[i];
		uint64_t start = l->offset & ~(page - 1);

		if (l->filesz == 0 || map_offset < start || map_offset >= l->offset + l->filesz)
			continue;
		if (!best || start == map_offset)
			best = l;
	}
	if (!best)
		return -ERANGE;
	*ret_bias = map_start - (best->vaddr - best->offset + map_offset);
	return 0;
}

const uint8_t *elf_image_bytes(
	const struct elf_image *e, uint64_t vaddr, size_t max, size_t *ret_len)
{
	const struct elf_segment *l = load_of(e, vaddr);
	const uint8_t *p;
	uint64_t n;

	if (!l || vaddr - l->vaddr >= l->filesz || max == 0)
		return NULL;
	n = MIN(l->filesz - (vaddr - l->vaddr), (uint64_t)max);
	p = need(e, vaddr - l->vaddr + l->offset, n);
	if (p)
		*ret_len = n;
	return p;
}

bool elf_image_is_code(const struct elf_image *e, uint64_t vaddr)
{
	const struct elf_segment *l = load_of(e, vaddr);

	return l && l->flags & PF_X;
}

const struct elf_segment *elf_image_segment(const struct elf_image *e, size_t i)
{
	return i < e->n_loads ? &e->loads[i] : NULL;
}
