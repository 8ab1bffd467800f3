/* SPDX-License-Identifier: MIT */
/*
 * Finding CPython in a process: among the files it executes, the one that exports _PyRuntime
 * (3.7 and later; in Debian's stripped programs too). Names only decide which file is looked at
 * first, for anything may embed an interpreter.
 */
#include "daemon/python/python.h"

#include <ctype.h>
#include <elf.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/python/mem.h"
#include "daemon/util/macros.h"

#define MINOR_FIRST      8
#define MINOR_LAST       15
#define CANDIDATES_MAX   1024
#define INTERPRETERS_MAX 1024
#define BSS_MAX          ((uint64_t)8 << 20)
#define SUPPORTED        "3.8 to 3.15 are supported"

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static bool same_inode(const struct proc_map *a, const struct proc_map *b)
{
	return a->inode == b->inode && a->dev_major == b->dev_major && a->dev_minor == b->dev_minor;
}

/* The files a process executes, each once, likely holders of CPython first. */
struct candidates {
	const struct proc_map *v[CANDIDATES_MAX];
	int rank[CANDIDATES_MAX];
	size_t n;
};

static void add_candidate(struct candidates *c, const struct proc_map *m, int rank)
{
	size_t at = c->n;

	for (size_t i = 0; i < c->n; i++)
		if (same_inode(c->v[i], m))
			return;
	if (c->n == CANDIDATES_MAX)
		return;
	while (at > 0 && c->rank[at - 1] > rank) {
		c->v[at] = c->v[at - 1];
		c->rank[at] = c->rank[at - 1];
		at--;
	}
	c->v[at] = m;
	c->rank[at] = rank;
	c->n++;
}

static void find_candidates(const struct proc_maps *maps, const char *exe, struct candidates *c)
{
	c->n = 0;
	for (size_t i = 0; i < maps->n; i++) {
		const struct proc_map *m = &maps->v[i];
		const char *base = base_name(m->path);
		int rank = 2;

		if (m->perm[2] != 'x' || m->path[0] != '/' || m->inode == 0)
			continue;
		if (strncmp(base, "libpython", 9) == 0 || strncmp(base, "python", 6) == 0)
			rank = 0;
		else if (strcmp(m->path, exe) == 0)
			rank = 1;
		add_candidate(c, m, rank);
	}
}

/* "3.11.2 (main, …" or "3.8.18+ (…" -> numbers. */
static bool parse_version(const char *s, const char *end, int v[3])
{
	for (int i = 0; i < 3; i++) {
		int digits = 0;

		v[i] = 0;
		while (s < end && isdigit((unsigned char)*s) && digits++ < 3)
			v[i] = v[i] * 10 + *s++ - '0';
		if (digits == 0 || digits > 3 || s >= end)
			return false;
		if (i < 2 && *s++ != '.')
			return false;
	}
	/* 3.9.2+, 3.10.0rc1, 3.8.0a4, then " (" and the build: getversion.c */
	for (int n = 0; s < end && *s != ' ' && n < 8; n++, s++)
		if (!isalnum((unsigned char)*s) && *s != '+')
			return false;
	return end - s >= 2 && s[0] == ' ' && s[1] == '(';
}

/* Before 3.11 no symbol tells the version. Py_GetVersion() keeps its answer in a static buffer,
 * which is filled before the first line of Python runs: look for it in .bss. */
static bool version_in_bss(const struct python *p, int v[3])
{
	const struct elf_segment *s;

	for (size_t i = 0; (s = elf_image_segment(p->elf, i)); i++) {
		uint64_t n = s->memsz - s->filesz, at = p->bias + s->vaddr + s->filesz;
		_cleanup_free_ char *buf = NULL;
		ssize_t got;

		if (!(s->flags & PF_W) || n == 0)
			continue;
		n = MIN(n, BSS_MAX);
		buf = malloc(n);
		if (!buf)
			return false;
		got = mem_read_some(p->id.pid, at, buf, n);
		for (const char *c = buf; got > 0 && c < buf + got; c++) {
			c = memchr(c, '.', (size_t)(buf + got - c));
			if (!c)
				break;
			if (c > buf && (c[-1] == '2' || c[-1] == '3') &&
				(c - 1 == buf || c[-2] == '\0') &&
				parse_version(c - 1, buf + got, v))
				return true;
		}
	}
	return false;
}

/* libpython3.8.so.1.0, libpython3.6m.so.1.0, python2.7: the micro is not known. */
static bool version_in_name(const char *path, int v[3])
{
	const char *s = strstr(base_name(path), "python");
	int n = 0;

	v[2] = -1;
	return s && sscanf(s + 6, "%1d.%2d%n", &v[0], &v[1], &n) == 2 && n > 0 &&
	       (v[0] == 2 || v[0] == 3) && v[1] >= 0;
}

static bool find_version(struct python *p)
{
	uint64_t at;
	size_t n = 0;
	int v[3];

	if (elf_image_symbol(p->elf, "Py_Version", &at, NULL) == 0) {
		const uint8_t *b = elf_image_bytes(p->elf, at, 4, &n);
		uint32_t hex;

		if (b && n == 4) {
			memcpy(&hex, b, 4);
			v[0] = (int)(hex >> 24);
			v[1] = (int)(hex >> 16 & 0xff);
			v[2] = (int)(hex >> 8 & 0xff);
			goto found;
		}
	}
	if (!version_in_bss(p, v) && !version_in_name(p->path, v))
		return false;
found:
	p->major = v[0];
	p->minor = v[1];
	p->micro = v[2];
	if (v[2] < 0)
		snprintf(p->version, sizeof(p->version), "%d.%d", v[0], v[1]);
	else
		snprintf(p->version, sizeof(p->version), "%d.%d.%d", v[0], v[1], v[2]);
	return true;
}

/* Whether fd is the program itself rather than a library in it. */
static bool is_program(pid_t pid, int fd)
{
	char path[4096 + 32];
	struct stat a, b;

	snprintf(path, sizeof(path), "%s/%d/exe", proc_root(), (int)pid);
	return stat(path, &a) == 0 && fstat(fd, &b) == 0 && a.st_ino == b.st_ino &&
	       a.st_dev == b.st_dev;
}

static bool is_32_bit(int fd)
{
	unsigned char e[EI_NIDENT];

	return pread(fd, e, sizeof(e), 0) == (ssize_t)sizeof(e) &&
	       memcmp(e, ELFMAG, SELFMAG) == 0 && e[EI_CLASS] == ELFCLASS32;
}

static void close_file(struct python *p)
{
	elf_image_free(TAKE_PTR(p->elf));
	closep(&p->fd);
	p->fd = -1;
}

/* 1: CPython is in this file, and p knows where; 0: not here; -EOPNOTSUPP: it is, but too old or
 * for 32 bits; else why the file could not be looked at. */
static int look_into(struct python *p, const struct proc_map *m, struct err *err)
{
	pid_t pid = p->id.pid;
	uint64_t vaddr, size;
	bool runtime;
	int r;

	p->fd = proc_map_open(pid, m, err);
	if (p->fd < 0)
		return p->fd;
	r = elf_image_open_shared(p->fd, err, &p->elf);
	if (r < 0) {
		if (strstr(base_name(m->path), "python") && is_32_bit(p->fd))
			return err_set(err, -EOPNOTSUPP,
				"pid %d: %s is a 32-bit Python; only 64-bit ones are supported",
				(int)pid, m->path);
		return r == -ENOEXEC ? 0 : err_prefix(err, r, "pid %d: %s", (int)pid, m->path);
	}
	runtime = elf_image_symbol(p->elf, "_PyRuntime", &vaddr, &size) == 0;
	if (!runtime && elf_image_symbol(p->elf, "Py_GetVersion", &vaddr, NULL) < 0)
		return 0;
	if (elf_image_bias(p->elf, m->start, m->offset, &p->bias) < 0)
		return err_set(err, -ENOEXEC, "pid %d: %s is not mapped as its headers say",
			(int)pid, m->path);
	snprintf(p->path, sizeof(p->path), "%s", m->path);
	if (!find_version(p))
		return runtime ? err_set(err, -EOPNOTSUPP,
					 "pid %d: cannot tell the version of the CPython in %s",
					 (int)pid, m->path)
			       : 0;
	if (p->major != 3 || p->minor < MINOR_FIRST)
		return err_set(err, -EOPNOTSUPP, "pid %d: CPython %s is too old: " SUPPORTED,
			(int)pid, p->version);
	if (p->minor > MINOR_LAST)
		return err_set(err, -EOPNOTSUPP, "pid %d: CPython %s is too new: " SUPPORTED,
			(int)pid, p->version);
	if (!runtime)
		return 0;
	p->runtime = p->bias + vaddr;
	p->runtime_size = size;
	p->kind = is_program(pid, p->fd) ? PYTHON_STATIC : PYTHON_SHARED;
	p->stripped = !elf_image_has_symtab(p->elf);
	snprintf(p->build_id, sizeof(p->build_id), "%s", elf_image_build_id(p->elf));
	return 1;
}

static int find_cpython(struct python *p, struct err *err)
{
	_cleanup_(proc_maps_release) struct proc_maps maps = {0};
	_cleanup_free_ struct candidates *c = NULL;
	struct proc_info info;
	struct err first = {""};
	int r, first_error = 0;

	r = proc_info_get(p->id.pid, &info, err);
	if (r == 0 && (info.state == 'Z' || info.state == 'X'))
		return err_set(err, -ESRCH, "pid %d (%s): has ended, its parent has not reaped it",
			(int)p->id.pid, info.comm);
	if (r == 0)
		r = proc_maps_read(p->id.pid, &maps, err);
	if (r < 0)
		return r;
	c = malloc(sizeof(*c));
	if (!c)
		return err_set(err, -ENOMEM, "out of memory");
	find_candidates(&maps, info.exe, c);
	for (size_t i = 0; i < c->n; i++) {
		struct err e = {""};

		r = look_into(p, c->v[i], &e);
		if (r > 0)
			return 0;
		close_file(p);
		if (r == -EOPNOTSUPP)
			return err_set(err, r, "%s", e.msg);
		if (r < 0 && first_error == 0 && c->rank[i] < 2) {
			first_error = r;
			first = e;
		}
	}
	if (first_error != 0)
		return err_set(err, first_error, "%s", first.msg);
	if (c->n == 0)
		return err_set(err, -ENOEXEC, "pid %d (%s): not a Python: it executes no file",
			(int)p->id.pid, info.comm);
	return err_set(err, -ENOEXEC,
		"pid %d (%s): not a Python: none of the %zu files it executes exports _PyRuntime",
		(int)p->id.pid, info.comm, c->n);
}

/* A build without the GIL: objects begin differently there (a type is at 24, not at 8) and no rings
 * link them, so nothing below would make sense. Told by the third field of _Py_DebugOffsets, from
 * 3.13 on, where such builds begin (Include/internal/pycore_debug_offsets.h). */
static bool is_free_threaded(const struct python *p)
{
	uint8_t raw[24];
	uint64_t flag;

	if (p->minor < 13 || mem_read(p->id.pid, p->runtime, raw, sizeof(raw)) < 0 ||
		memcmp(raw, "xdebugpy", 8) != 0)
		return false;
	memcpy(&flag, raw + 16, sizeof(flag));
	return flag != 0;
}

/* First read of the target's memory: PyType_Type, whose type is itself. */
static int find_type(struct python *p, struct err *err)
{
	uint64_t type = 0;
	int r;

	if (python_symbol(p, "PyType_Type", &p->type_type, NULL) < 0)
		return err_set(err, -EOPNOTSUPP, "pid %d: %s does not export PyType_Type",
			(int)p->id.pid, p->path);
	r = mem_read_u64(p->id.pid, p->type_type + OFF_OB_TYPE, &type);
	if (r == -EPERM || r == -EACCES)
		return err_set(err, r,
			"pid %d: not allowed to read its memory; run as root or with "
			"CAP_SYS_PTRACE",
			(int)p->id.pid);
	if (r < 0)
		return err_set(
			err, r, "pid %d: cannot read its memory: %s", (int)p->id.pid, strerror(-r));
	if (type == 0)
		return err_set(err, -EAGAIN, "pid %d: its Python has not been initialised yet",
			(int)p->id.pid);
	if (type != p->type_type)
		return err_set(err, -EPROTO,
			"pid %d: type(type) is not type in this CPython %s: a build with "
			"Py_TRACE_REFS, or an unknown one",
			(int)p->id.pid, p->version);
	return 0;
}

static int find_interpreters(struct python *p, struct err *err)
{
	const struct layout *l = &p->layout;
	pid_t pid = p->id.pid;
	uint64_t at;
	int r;

	r = mem_read_u64(pid, p->runtime + (uint64_t)l->rt_interp_main, &p->interp);
	if (r == 0)
		r = mem_read_u64(pid, p->runtime + (uint64_t)l->rt_interp_head, &at);
	if (r < 0 || p->interp == 0)
		return err_set(err, r < 0 ? r : -EAGAIN, "pid %d: its Python is ending", (int)pid);
	p->interpreters = python_interpreters(p);
	return 0;
}

int python_interpreters(const struct python *p)
{
	const struct layout *l = &p->layout;
	uint64_t at;
	int n = 0;

	if (mem_read_u64(p->id.pid, p->runtime + (uint64_t)l->rt_interp_head, &at) < 0)
		return p->interpreters;
	while (at != 0 && n < INTERPRETERS_MAX) {
		n++;
		if (mem_read_u64(p->id.pid, at + (uint64_t)l->interp_next, &at) < 0)
			break;
	}
	return n;
}

int python_open(pid_t pid, struct python **ret, struct err *err)
{
	_cleanup_(python_freep) struct python *p = NULL;
	int r;

	p = calloc(1, sizeof(*p));
	if (!p)
		return err_set(err, -ENOMEM, "out of memory");
	p->fd = -1;
	r = proc_id_get(pid, &p->id);
	if (r < 0)
		return err_set(err, r, "pid %d: %s", (int)pid,
			r == -ESRCH ? "no such process" : strerror(-r));
	r = find_cpython(p, err);
	if (r == 0 && is_free_threaded(p)) {
		p->free_threaded = true;
		return err_set(err, -EOPNOTSUPP,
			"pid %d: CPython %s is a free-threaded build, which is not supported: its "
			"collector keeps no rings of objects; run the service on the ordinary "
			"build (with the GIL) to have it watched",
			(int)pid, p->version);
	}
	if (r == 0)
		r = find_type(p, err);
	if (r == 0)
		r = layout_resolve(pid, p->minor, p->runtime, p->runtime_size, &p->layout, err);
	if (r == 0)
		r = find_interpreters(p, err);
	if (r < 0)
		return r;
	/* all of that was read by pid: was it one process? */
	if (!proc_id_alive(&p->id))
		return err_set(err, -ESRCH, "pid %d: ended", (int)pid);
	*ret = TAKE_PTR(p);
	return 0;
}

void python_free(struct python *p)
{
	if (!p)
		return;
	close_file(p);
	free(p);
}

void python_freep(struct python **p)
{
	python_free(*p);
}

bool python_looks_like(pid_t pid)
{
	_cleanup_(proc_maps_release) struct proc_maps maps = {0};

	if (proc_maps_read(pid, &maps, NULL) < 0)
		return false;
	for (size_t i = 0; i < maps.n; i++)
		if (maps.v[i].perm[2] == 'x' && strstr(base_name(maps.v[i].path), "python"))
			return true;
	return false;
}

int python_symbol(const struct python *p, const char *name, uint64_t *ret_addr, uint64_t *ret_size)
{
	uint64_t vaddr;
	int r;

	r = elf_image_symbol(p->elf, name, &vaddr, ret_size);
	if (r == 0)
		*ret_addr = vaddr + p->bias;
	return r;
}

char *python_describe(const struct python *p, char *buf, size_t n)
{
	snprintf(buf, n, "CPython %s, %s%s, %s, %s%s", p->version,
		p->kind == PYTHON_STATIC ? "static" : "shared", p->stripped ? ", stripped" : "",
		p->path, p->build_id[0] ? "build-id " : "no build-id", p->build_id);
	return buf;
}
