/* SPDX-License-Identifier: MIT */
#include <bpf/libbpf.h>
#include <string.h>

#include "daemon/probe/probe_private.h"
#include "daemon/python/mem.h"

#define COUNTS_FIRST 2048U /* most programs have fewer types; counts_grow() makes room for more */

/*
 * Functions that no symbol names but that stand in tp_alloc of built-in types: from 3.11 on dict has
 * _PyType_AllocNoTrack there. Read from the living process, because in a shared library the slot
 * is filled by the linker. What cannot be read or lies in another file is left out.
 */
static int plan_slots(struct probe_target *t, struct err *err)
{
	static const char *const types[] = {"PyBaseObject_Type", "PyDict_Type", "PyList_Type",
		"PySet_Type", "PyTuple_Type", "PyFrozenSet_Type"};
	const struct python *py = t->py;
	uint64_t addr, alloc;
	char name[64];
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		if (python_symbol(py, types[i], &addr, NULL) ||
			mem_read_u64(py->id.pid, addr + OFF_TP_ALLOC, &alloc) || !alloc ||
			!elf_image_is_code(py->elf, alloc - py->bias))
			continue;
		snprintf(name, sizeof(name), "%s.tp_alloc", types[i]);
		r = plan_add_birth(py->elf, &t->plan, name, alloc - py->bias, err);
		if (r)
			return r;
	}
	return 0;
}

static void target_release(struct probe_target *t)
{
	if (t->counts >= 0)
		close(t->counts);
	untracked_release(&t->untracked);
	own_release(t);
	free(t->gone.v);
	free(t->result_types);
	free(t);
}

int probe_attach(struct probe *p, const struct python *py, const struct probe_target_options *o,
	struct probe_target **ret, struct err *err)
{
	struct probe_target *t;
	struct pyleak_target *s;
	struct links links = {0};
	uint32_t slot, tgid;
	int r;

	/* Hits of the links that are still there would count for the next target in the same process. */
	for (slot = 0; slot < p->max_targets &&
		       (p->targets[slot] || __atomic_load_n(&p->leaving[slot], __ATOMIC_SEQ_CST));
		slot++)
		;
	if (slot == p->max_targets)
		return err_set(err, -EUSERS,
			"pid %d: no room, at most %u processes can be watched at a time",
			py->id.pid, p->max_targets);
	t = calloc(1, sizeof(*t));
	if (!t)
		return err_set(err, -ENOMEM, "out of memory");
	*t = (struct probe_target){.probe = p, .py = py, .slot = slot, .counts = -1, .limit = UINT64_MAX};
	if (o)
		t->options = *o;
	r = plan_make(py->elf, &t->plan, err);
	if (!r)
		r = plan_slots(t, err);
	if (r) {
		err_prefix(err, r, "%s", py->path);
		target_release(t);
		return r;
	}

	s = &p->shared[slot];
	slot_clear(p, slot); /* a program that ran when it was let go of may have written there */
	r = slot_identity(p, slot, py->id.pid, &tgid);
	if (r) {
		r = r == -ENOENT ? -ESRCH : r;
		err_set(err, r, "pid %d%s%s", py->id.pid, r == -ESRCH ? " has exited" : ": ",
			r == -ESRCH ? "" : strerror(-r));
		goto fail;
	}
	t->counts_max = MIN(COUNTS_FIRST, p->max_types);
	t->counts = slot_counts(p, slot, t->counts_max);
	if (t->counts < 0) {
		r = err_set(err, t->counts, "pid %d: no map for its counters: %s", py->id.pid,
			strerror(-t->counts));
		goto fail;
	}
	/* Without rings there are counters and no census: probe_census_arm() will say so. */
	t->has_rings = python_find_rings(py, &t->rings, NULL) == 0;
	if (t->has_rings) {
		for (int i = 0; i < 4; i++)
			s->head[i] = t->rings.head[3 - i];
		s->collecting = t->rings.collecting;
		for (int i = 0; i < 3; i++) {
			s->collections[i] = t->rings.collections[i];
			s->collections_slot[i] = t->rings.collections_slot[i];
		}
		s->pending = t->rings.pending;
		s->young_count = t->rings.young_count;
	}
	r = probe_target_set_scope(t, PROBE_EVERYTHING, err);
	if (!r && children_identify(t))
		r = err_set(err, -ESRCH, "pid %d has exited", py->id.pid);
	/* The pid may have become somebody else's between python_open() and now. */
	if (!r && !proc_id_alive(&py->id))
		r = err_set(err, -ESRCH, "pid %d has exited", py->id.pid);
	if (r)
		goto fail;
	p->targets[slot] = t;
	slot_enable(p, slot, tgid);
	*ret = t;
	return 0;
fail:
	target_links_take(t, &links);
	links_release(&links);
	slot_clear(p, slot);
	target_release(t);
	return r;
}

void probe_target_free(struct probe_target *t)
{
	struct links links = {0};
	struct probe *p;

	if (!t)
		return;
	p = t->probe;
	slot_disable(p, t->slot);
	target_links_take(t, &links);
	links_release_later(p, &links, &p->leaving[t->slot]);
	p->targets[t->slot] = NULL;
	/* What is still in the ring buffer must not go to the next owner of the slot. */
	ring_buffer__consume(p->ring);
	slot_clear(p, t->slot);
	target_release(t);
}

void probe_detach_all(struct probe *p)
{
	struct links all = {0};

	for (unsigned i = 0; i < p->max_targets; i++) {
		if (!p->targets[i])
			continue;
		slot_disable(p, i);
		target_links_take(p->targets[i], &all);
	}
	links_release(&all);
}

char *probe_target_describe(const struct probe_target *t, char *buf, size_t n)
{
	return plan_describe(&t->plan, buf, n);
}

const struct plan *probe_target_plan(const struct probe_target *t)
{
	return &t->plan;
}
