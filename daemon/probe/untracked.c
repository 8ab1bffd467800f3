/* SPDX-License-Identifier: MIT */
/*
 * Types whose instances the collector does not know: Decimal, hashes, numpy's arrays. Their births
 * pass the allocators like all others, but they die in PyObject_Free, through which every string
 * and buffer goes as well: too hot for a probe, and stepped out of line in most builds (its only
 * instruction that the argument survives is an indirect jump). So such a type, once many of it were
 * born, is followed to the function in its tp_dealloc slot, in whatever file that is, and both
 * sides are counted from then on.
 *
 * Left out is what would be hot or wrong there: str, bytes, int, float and datetime, which are not
 * born in an allocator (the first four are also freed by the interpreter loop without asking
 * tp_dealloc), and classes without instance data (__slots__ = ()), which share subtype_dealloc
 * with all others.
 *
 * And types of extensions that the collector knows, see probe_target_own(): counted in the same way at
 * the functions in tp_new and tp_dealloc, beside the sites that all others pass.
 */
#include <bpf/bpf.h>
#include <string.h>

#include "daemon/probe/probe_private.h"
#include "daemon/python/mem.h"

#define FOLLOW_BIRTHS  100 /* fewer are not worth a probe */
#define FOLLOW_AT_ONCE 2   /* each takes some 20 ms */
#define LOOK_AT_ONCE   16  /* types */
#define CODE_MAX       4096
#define OFF_TP_DEALLOC 48
#define REFUSED        UINT64_MAX

/* Functions in tp_dealloc slots that objects by the million pass, among them subtype_dealloc: any
 * that a type has whose instances the collector knows. */
static bool is_hot(const struct probe_target *t, uint64_t dealloc, const struct entry *v, size_t n)
{
	static const char *const types[] = {"PyLong_Type", "PyUnicode_Type", "PyBytes_Type",
		"PyFloat_Type", "PyBaseObject_Type"};
	uint64_t addr, other;

	if (python_symbol(t->py, "PyObject_Free", &addr, NULL) == 0 && addr == dealloc)
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (python_symbol(t->py, types[i], &addr, NULL) == 0 &&
			mem_read_u64(t->py->id.pid, addr + OFF_TP_DEALLOC, &other) == 0 &&
			other == dealloc)
			return true;
	for (size_t i = 0; i < n; i++)
		if (v[i].count.flags & PYLEAK_COUNT_GC &&
			mem_read_u64(t->py->id.pid, v[i].type + OFF_TP_DEALLOC, &other) == 0 &&
			other == dealloc)
			return true;
	return false;
}

/* Fills the site for the function at address, in the file that is mapped there. */
static int locate(const struct probe_target *t, uint64_t address, struct untracked_site *ret)
{
	_cleanup_(proc_maps_release) struct proc_maps maps = {0};
	_cleanup_(elf_image_freep) struct elf_image *e = NULL;
	_cleanup_close_ int fd = -1;
	const struct proc_map *m;
	struct plan_place place;
	const uint8_t *code;
	uint64_t bias, offset;
	size_t n;
	int r;

	r = proc_maps_read(t->py->id.pid, &maps, NULL);
	if (r < 0)
		return r;
	m = proc_maps_find(&maps, address);
	if (!m || !m->inode)
		return -ENOENT;
	fd = proc_map_open(t->py->id.pid, m, NULL);
	if (fd < 0)
		return fd;
	r = elf_image_open(fd, NULL, &e);
	if (!r)
		r = elf_image_bias(e, m->start, m->offset, &bias);
	if (r)
		return r;
	code = elf_image_bytes(e, address - bias, CODE_MAX, &n);
	if (!code || !elf_image_is_code(e, address - bias))
		return -ENOENT;
	r = plan_place(code, n, 0, address - bias, &place);
	if (!r && place.stepped)
		r = -EOPNOTSUPP;
	if (!r)
		r = elf_image_offset(e, address - bias + place.delta, &offset);
	if (r)
		return r;
	*ret = (struct untracked_site){
		.address = address, .fd = TAKE_FD(fd), .offset = offset, .reg = place.reg};
	return 0;
}

static int attach_site(struct probe_target *t, struct bpf_program *prog, uint64_t address)
{
	struct untracked *u = &t->untracked;
	_cleanup_close_ int fd = -1;
	struct untracked_site s;
	unsigned long offset;
	char path[64];
	__u64 cookie;
	int r;

	for (size_t i = 0; i < u->n; i++)
		if (u->v[i].address == address)
			return 0;
	if (u->n == ARRAY_SIZE(u->v))
		return -E2BIG;
	r = locate(t, address, &s);
	if (r)
		return r;
	fd = s.fd;
	offset = s.offset;
	cookie = PYLEAK_COOKIE(t->slot, s.reg, false, PYLEAK_GROUP_DEATHS);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = links_attach(t->probe, prog, t->py->id.pid, path, &offset, &cookie, 1, &u->links);
	if (r)
		return r;
	u->v[u->n] = s;
	u->v[u->n++].fd = TAKE_FD(fd);
	return 0;
}

/* Births so far when deaths of the type began to be seen, or REFUSED. */
static uint64_t follow(
	struct probe_target *t, const struct entry *e, const struct entry *v, size_t n)
{
	struct pyleak_count now;
	uint64_t dealloc;

	if (mem_read_u64(t->py->id.pid, e->type + OFF_TP_DEALLOC, &dealloc) ||
		is_hot(t, dealloc, v, n) ||
		attach_site(t, t->probe->bpf->progs.on_dealloc, dealloc) ||
		bpf_map_lookup_elem(t->counts, &e->type, &now) ||
		now.incarnation != e->count.incarnation)
		return REFUSED;
	return now.births;
}

int untracked_follow(struct probe_target *t, const struct entry *v, size_t n)
{
	size_t sites = t->untracked.n + FOLLOW_AT_ONCE;

	for (size_t i = 0, looked = 0; i < n && looked < LOOK_AT_ONCE; i++) {
		const struct pyleak_count *c = &v[i].count;

		if (c->flags & (PYLEAK_COUNT_GC | PYLEAK_COUNT_META) || c->births < FOLLOW_BIRTHS ||
			u64map_get(&t->untracked.since, c->incarnation))
			continue;
		if (t->untracked.n >= sites)
			break;
		looked++;
		if (u64map_put(&t->untracked.since, c->incarnation, follow(t, &v[i], v, n)))
			return -ENOMEM;
	}
	return 0;
}

bool untracked_flow(const struct probe_target *t, const struct pyleak_count *c,
	uint64_t *ret_births, uint64_t *ret_deaths)
{
	const uint64_t *since = u64map_get(&t->untracked.since, c->incarnation);

	if (!since || (*since != REFUSED && c->births < *since))
		return false;
	*ret_births = *since == REFUSED ? 0 : c->births - *since;
	*ret_deaths = *since == REFUSED ? 0 : c->deaths;
	return true;
}

/* ---- types of extensions that the collector knows ---- */

int probe_target_own(struct probe_target *t, uint64_t type, uint64_t make, uint64_t end)
{
	struct pyleak_own o = {.make = make, .end = end};
	struct pyleak_count c;
	int r;

	if (t->n_owns == ARRAY_SIZE(t->owns))
		return -E2BIG;
	if (bpf_map_lookup_elem(t->counts, &type, &c))
		return -ENOENT;
	r = bpf_map_update_elem(
		bpf_map__fd(t->probe->bpf->maps.owns), &c.incarnation, &o, BPF_NOEXIST);
	if (!r)
		t->owns[t->n_owns++] =
			(struct own){.incarnation = c.incarnation, .make = make, .end = end};
	return r;
}

void own_follow(struct probe_target *t)
{
	size_t sites = t->untracked.n + FOLLOW_AT_ONCE;

	for (size_t i = 0; i < t->n_owns && t->untracked.n < sites; i++) {
		struct own *o = &t->owns[i];

		if (o->on || o->refused)
			continue;
		/* Deaths first: what was born before and dies after would be one too many. */
		o->refused = attach_site(t, t->probe->bpf->progs.on_dealloc, o->end) ||
			     attach_site(t, t->probe->bpf->progs.on_new, o->make);
		o->on = !o->refused;
	}
}

bool own_read(const struct probe_target *t, uint64_t incarnation, uint32_t epoch,
	uint64_t *ret_births, uint64_t *ret_deaths)
{
	int map = bpf_map__fd(t->probe->bpf->maps.owns);
	struct pyleak_own o, again;

	for (size_t i = 0; i < t->n_owns; i++) {
		if (t->owns[i].incarnation != incarnation || !t->owns[i].on)
			continue;
		/* As in census_collect(). */
		if (bpf_map_lookup_elem(map, &incarnation, &o) ||
			bpf_map_lookup_elem(map, &incarnation, &again))
			return false;
		if (again.epoch == epoch && o.epoch != epoch &&
			bpf_map_lookup_elem(map, &incarnation, &again))
			return false;
		if (again.epoch == epoch)
			o = again;
		*ret_births = epoch && o.epoch == epoch ? o.births_at : o.births;
		*ret_deaths = epoch && o.epoch == epoch ? o.deaths_at : o.deaths;
		return true;
	}
	return false;
}

void own_forget(struct probe_target *t, uint64_t incarnation)
{
	for (size_t i = 0; i < t->n_owns; i++)
		if (t->owns[i].incarnation == incarnation) {
			bpf_map_delete_elem(bpf_map__fd(t->probe->bpf->maps.owns), &incarnation);
			t->owns[i] = t->owns[--t->n_owns];
			return;
		}
}

void own_release(struct probe_target *t)
{
	while (t->n_owns)
		own_forget(t, t->owns[0].incarnation);
}

int untracked_sweep(struct probe_target *t)
{
	int r = 0;

	for (size_t i = 0; i < t->untracked.n && !r; i++) {
		unsigned long offset = t->untracked.v[i].offset;
		__u64 cookie = 0;
		struct links l = {0};
		char path[64];

		snprintf(path, sizeof(path), "/proc/self/fd/%d", t->untracked.v[i].fd);
		r = links_attach(t->probe, t->probe->bpf->progs.on_dealloc, getpid(), path, &offset,
			&cookie, 1, &l);
		links_release(&l);
	}
	return r;
}

void untracked_let_go(struct probe_target *t)
{
	links_release_later(t->probe, &t->untracked.links, NULL);
	untracked_release(&t->untracked);
	for (size_t i = 0; i < t->n_owns; i++)
		t->owns[i].on = false;
}

void untracked_release(struct untracked *u)
{
	for (size_t i = 0; i < u->n; i++)
		closep(&u->v[i].fd);
	u->n = 0;
	u64map_release(&u->since);
}
