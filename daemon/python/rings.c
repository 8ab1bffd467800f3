/* SPDX-License-Identifier: MIT */
/*
 * The collector's rings, found by their shape: struct _gc_runtime_state has three heads 24 bytes
 * apart (struct gc_generation: PyGC_Head, threshold, count) and, behind them, a pointer
 * `generation0` to the first. So every word that points 64 to 320 bytes back is a candidate, and
 * the rest is proof: each head's neighbours point back at it, and what hangs on the rings are
 * objects whose type's type is `type`. Words are tried at steps of four bytes, because Debian's
 * 3.13.5 has the heads at addresses that are 4 modulo 8.
 */
#include "daemon/python/python.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/python/mem.h"
#include "daemon/util/macros.h"
#include "daemon/util/u64map.h"

#define LINK_MASK   (~(uint64_t)3)
#define HEAD_STEP   24
#define POINTER_MIN 64 /* from head 0 to the pointer generation0: 72, 76, 160, 232 seen */
#define POINTER_MAX 320
#define SCAN_MAX    ((uint64_t)4 << 20)
#define SHAPE_TRIES 200 /* the target runs: heads change under us */

struct node {
	uint64_t next, prev, refcnt, type; /* PyGC_Head, then PyObject */
};

static bool plausible(uint64_t v)
{
	v &= LINK_MASK;
	return v >= 4096 && v < (uint64_t)1 << 56 && v % 4 == 0;
}

/*
 * 1: a ring's head is at h, linked both ways, and its first and last member are objects. 0: not
 * now, which may be the target's doing. -1: there are no pointers at h, and will be none.
 *
 * In a busy target the youngest ring changes every microsecond. So the head is read twice, the
 * second time together with its neighbours: only if it still named them do they count. While the
 * collector runs, the back links of what it looks at hold reference counts (gcmodule.c,
 * update_refs()); for milliseconds, or seconds in a large heap. Then loose does without them.
 */
static int is_ring(const struct python *p, uint64_t h, bool loose)
{
	struct node before, head, first, last;
	struct mem_piece again[] = {
		{h, &head, 16},
		{0, &first, sizeof(first)},
		{0, &last, sizeof(last)},
	};

	if (mem_read(p->id.pid, h, &before, 16) < 0 || !plausible(before.next) ||
		!plausible(before.prev))
		return -1;
	again[1].addr = before.next & LINK_MASK;
	again[2].addr = before.prev & LINK_MASK;
	if (again[1].addr == h || again[2].addr == h)
		return again[1].addr == again[2].addr;
	if (again[1].addr % 8 != 0 || again[2].addr % 8 != 0 ||
		mem_read_pieces(p->id.pid, again, ARRAY_SIZE(again)) < 0)
		return 0;
	return head.next == before.next && head.prev == before.prev &&
	       (loose || ((first.prev & LINK_MASK) == h && (last.next & LINK_MASK) == h)) &&
	       python_is_type(p, first.type) && python_is_type(p, last.type);
}

/* Each of the three has been seen whole, though perhaps not at the same time. */
static bool are_generations(const struct python *p, uint64_t head0, bool loose)
{
	bool seen[3] = {false};

	for (int t = 0; t < SHAPE_TRIES && !(seen[0] && seen[1] && seen[2]); t++)
		for (int i = 0; i < 3; i++) {
			int r = seen[i] ? 1 : is_ring(p, head0 + (uint64_t)i * HEAD_STEP, loose);

			if (r < 0)
				return false;
			seen[i] = r > 0;
		}
	return seen[0] && seen[1] && seen[2];
}

/* Words of the region that point a little back are candidates for generation0. */
static uint64_t scan(const struct python *p, uint64_t start, uint64_t size)
{
	_cleanup_free_ uint8_t *buf = NULL;
	ssize_t got;

	size = MIN(size, SCAN_MAX);
	buf = malloc(size);
	if (!buf)
		return 0;
	got = mem_read_some(p->id.pid, start, buf, size);
	for (ssize_t i = 0; i + 8 <= got; i += 4) {
		uint64_t v, a = start + (uint64_t)i;

		memcpy(&v, buf + i, sizeof(v));
		if (v < a - POINTER_MAX || v > a - POINTER_MIN || v < start || v % 4 != 0)
			continue;
		if (are_generations(p, v, false))
			return v;
	}
	return 0;
}

/* struct _gc_runtime_state, by the table. */
static uint64_t gc_state(const struct python *p)
{
	const struct layout *l = &p->layout;

	return l->interp_gc >= 0 ? p->interp + (uint64_t)l->interp_gc
				 : p->runtime + (uint64_t)MAX(l->rt_gc, 0);
}

/* Head of generation 0, or 0. Where the version's table points is looked at first. */
static uint64_t find_head0(const struct python *p)
{
	const struct layout *l = &p->layout;
	uint64_t gc = gc_state(p), head0 = gc + (uint64_t)MAX(l->gc_generations, 0), v;
	bool inside = p->interp >= p->runtime && p->interp < p->runtime + p->runtime_size;
	uint32_t collecting;

	/* Here generation0 already points where the table says: that alone is no coincidence. And a
	 * target that the kernel preempted half-way through linking an object stays so for
	 * milliseconds: after two rounds, too, the back links do not matter. */
	if (l->gc_generations >= 0 && l->gc_generation0 >= 0 && l->gc_collecting >= 0 &&
		mem_read_u64(p->id.pid, gc + (uint64_t)l->gc_generation0, &v) == 0 && v == head0)
		for (int i = 0; i < 8; i++)
			if (mem_read_u32(p->id.pid, gc + (uint64_t)l->gc_collecting, &collecting) ==
					0 &&
				are_generations(p, head0, collecting == 1 || i > 1))
				return head0;
	v = scan(p, p->runtime, p->runtime_size);
	if (!v && !inside)
		v = scan(p, p->interp, (uint64_t)l->interp_size);
	return v;
}

static uint64_t find_permanent(const struct python *p, uint64_t head0)
{
	/* 3.14, 3.15: +72; 3.8 to 3.13: +80; Debian's 3.13.5: +84 */
	static const uint8_t at[] = {72, 76, 80, 84, 88};
	const struct layout *l = &p->layout;
	int32_t table = l->gc_permanent >= 0 && l->gc_generations >= 0
				? l->gc_permanent - l->gc_generations
				: -1;

	for (int i = 0; i < SHAPE_TRIES; i++) {
		if (table > 0 && is_ring(p, head0 + (uint64_t)table, false) > 0)
			return head0 + (uint64_t)table;
		for (size_t k = 0; i == SHAPE_TRIES - 1 && k < ARRAY_SIZE(at); k++)
			if (is_ring(p, head0 + at[k], false) > 0)
				return head0 + at[k];
	}
	return 0;
}

/* gcstate->collecting: 0 or 1, and gcstate->garbage, a list, where the table has it. */
static uint64_t find_collecting(const struct python *p, uint64_t head0)
{
	const struct layout *l = &p->layout;
	uint64_t gc = gc_state(p), garbage, type, name;
	uint32_t collecting;
	char list[8];

	/* heads that a scan found where the table knows of no collector: say so, don't guess */
	if (head0 - gc > 64 || l->gc_collecting < 0 || l->gc_garbage < 0 ||
		mem_read_u32(p->id.pid, gc + (uint64_t)l->gc_collecting, &collecting) < 0 ||
		collecting > 1 ||
		mem_read_u64(p->id.pid, gc + (uint64_t)l->gc_garbage, &garbage) < 0 ||
		mem_read_u64(p->id.pid, garbage + OFF_OB_TYPE, &type) < 0 ||
		mem_read_u64(p->id.pid, type + OFF_TP_NAME, &name) < 0 ||
		mem_read_cstr(p->id.pid, name, list, sizeof(list)) < 0 || strcmp(list, "list") != 0)
		return 0;
	return gc + (uint64_t)l->gc_collecting;
}

/*
 * The collector's own books. Up to 3.14 behind the permanent generation: generation_stats[3] of
 * three words, collections first; in 3.15 there is a pointer to ring buffers of such records, of 64
 * bytes with collections at 16, behind each buffer the byte that says which record is the last: 11
 * for generation 0, 3 for each other (internal/pycore_interp_structs.h, struct gc_stats). And
 * long_lived_pending, behind callbacks and long_lived_total; 3.14 has three words between those two
 * (heap_size, work_to_do, visited_space), 3.15 one. Both are the last but one of the struct then,
 * whose size _Py_DebugOffsets tells: another size, other words.
 */
static void find_books(const struct python *p, struct python_rings *r)
{
	static const struct {
		uint16_t buffer, slot;
	} ringed[3] = {{0, 704}, {712, 712 + 192}, {912, 912 + 192}};
	const struct layout *l = &p->layout;
	uint64_t gc = gc_state(p), stats, n;
	int32_t pending = p->minor >= 15 ? 24 : p->minor == 14 ? 40 : 16;

	if (p->minor >= 14 && l->gc_state_size != l->gc_callbacks + pending + 16)
		return;
	if (l->gc_permanent < 0 || l->gc_callbacks < 0 || l->gc_gen_count < 0)
		return;
	stats = gc + (uint64_t)l->gc_permanent + HEAD_STEP;
	if (p->minor >= 15 && mem_read_u64(p->id.pid, stats, &stats) < 0)
		return;
	for (int i = 0; i < 3; i++) {
		uint8_t slot = 0;

		r->collections[i] = stats + (uint64_t)i * 24;
		r->collections_slot[i] = 0;
		if (p->minor >= 15) {
			r->collections[i] = stats + ringed[i].buffer + 16;
			r->collections_slot[i] = stats + ringed[i].slot;
			if (mem_read(p->id.pid, r->collections_slot[i], &slot, 1) < 0 || slot > 10)
				goto unknown;
		}
		if (mem_read_u64(p->id.pid, r->collections[i] + slot * 64u, &n) < 0 || n >> 48)
			goto unknown;
	}
	r->pending = gc + (uint64_t)(l->gc_callbacks + pending);
	if (mem_read_u64(p->id.pid, r->pending, &n) < 0 || n >> 48)
		goto unknown;
	r->young_count = r->head[0] + (uint64_t)l->gc_gen_count;
	return;
unknown:
	memset(r->collections, 0, sizeof(r->collections));
	memset(r->collections_slot, 0, sizeof(r->collections_slot));
	r->pending = 0;
}

int python_find_rings(const struct python *p, struct python_rings *ret, struct err *err)
{
	struct python_rings r = {.collecting = 0};

	r.head[0] = find_head0(p);
	if (!r.head[0])
		return err_set(err, -EPROTO,
			"pid %d: the collector of this CPython %s has no rings of the known "
			"shape%s",
			(int)p->id.pid, p->version,
			p->minor == 14 ? "; 3.14.0 to 3.14.4 have an incremental one" : "");
	r.head[1] = r.head[0] + HEAD_STEP;
	r.head[2] = r.head[1] + HEAD_STEP;
	r.head[3] = find_permanent(p, r.head[0]);
	r.collecting = find_collecting(p, r.head[0]);
	if (!r.collecting)
		return err_set(err, -EPROTO,
			"pid %d: the collector's state of this CPython %s does not look as in "
			"other 3.%d",
			(int)p->id.pid, p->version, p->minor);
	find_books(p, &r);
	*ret = r;
	return 0;
}

/* ---- levels from outside ---- */

/*
 * A direct-mapped cache of pages: objects of one type and age are neighbours, so one read of 4 KiB
 * serves some 40 of them. It is emptied between passes, so that a pass never sees older data than
 * its own begin.
 */
#define CACHE_BITS 12
#define PAGE       4096
#define PM_SWAPPED (UINT64_C(1) << 62) /* Documentation/admin-guide/mm/pagemap.rst */

struct page_cache {
	int pagemap;  /* -1: nothing is swapped out */
	bool swapped; /* and something of what was to be read is */
	uint64_t tag[1u << CACHE_BITS]; /* address of the page, 0: empty */
	uint8_t bytes[1u << CACHE_BITS][PAGE];
};

/* Asked only where something is swapped out: it costs half as much as reading the page. */
static bool is_swapped(struct page_cache *c, uint64_t page)
{
	uint64_t flags;

	if (c->pagemap >= 0 &&
		pread(c->pagemap, &flags, sizeof(flags), (off_t)(page / PAGE * sizeof(flags))) ==
			(ssize_t)sizeof(flags) &&
		flags & PM_SWAPPED)
		c->swapped = true;
	return c->swapped;
}

static int open_pagemap(const struct python *p, int *ret)
{
	char path[64];

	*ret = -1;
	if (proc_swapped(p->id.pid) <= 0)
		return 0;
	snprintf(path, sizeof(path), "%s/%d/pagemap", proc_root(), (int)p->id.pid);
	*ret = open(path, O_RDONLY | O_CLOEXEC);
	return *ret < 0 ? -errno : 0;
}

static const uint8_t *cache_page(struct page_cache *c, pid_t pid, uint64_t page)
{
	size_t slot = (size_t)(page / PAGE * 0x9e3779b97f4a7c15u >> (64 - CACHE_BITS));

	if (c->tag[slot] != page) {
		c->tag[slot] = 0;
		if (is_swapped(c, page))
			return NULL;
		if (mem_read(pid, page, c->bytes[slot], PAGE) < 0)
			return NULL;
		c->tag[slot] = page;
	}
	return c->bytes[slot];
}

static bool cache_read(struct page_cache *c, pid_t pid, uint64_t addr, void *buf, size_t n)
{
	uint8_t *to = buf;

	while (n > 0) {
		uint64_t in = addr % PAGE;
		size_t m = MIN(n, (size_t)(PAGE - in));
		const uint8_t *page = cache_page(c, pid, addr - in);

		if (!page)
			return false;
		memcpy(to, page + in, m);
		to += m;
		addr += m;
		n -= m;
	}
	return true;
}

struct pass {
	struct u64map counts; /* type -> objects */
	uint64_t objects;
};

static int walk_ring(const struct python *p, uint64_t head, uint64_t max_objects,
	struct page_cache *c, struct pass *s)
{
	uint64_t back = head, at, last_type = 0, *count = NULL;
	struct node n;

	if (!cache_read(c, p->id.pid, head, &n, 16))
		return c->swapped ? -ENODATA : -EAGAIN;
	for (at = n.next & LINK_MASK; at != head; at = n.next & LINK_MASK) {
		/* torn: somebody freed or moved what we stand on */
		if (at == 0 || at % 8 != 0 || !cache_read(c, p->id.pid, at, &n, sizeof(n)) ||
			(n.prev & LINK_MASK) != back || n.type == 0)
			return c->swapped ? -ENODATA : -EAGAIN;
		if (++s->objects > max_objects)
			return -E2BIG;
		if (n.type != last_type || !count) {
			count = u64map_upsert(&s->counts, n.type, 0, NULL);
			if (!count)
				return -ENOMEM;
			last_type = n.type;
		}
		++*count;
		back = at;
	}
	return 0;
}

static int walk_all(const struct python *p, const struct python_rings *r, uint64_t max_objects,
	struct page_cache *c, struct pass *s)
{
	uint32_t before, after;
	int e = 0;

	u64map_release(&s->counts);
	*s = (struct pass){.objects = 0};
	memset(c->tag, 0, sizeof(c->tag));
	e = mem_read_u32(p->id.pid, r->collecting, &before);
	if (e < 0)
		return e;
	for (int i = 3; i >= 0 && e == 0; i--)
		if (r->head[i])
			e = walk_ring(p, r->head[i], max_objects, c, s);
	if (e < 0)
		return e;
	e = mem_read_u32(p->id.pid, r->collecting, &after);
	if (e < 0)
		return e;
	return before || after ? -EAGAIN : 0; /* while it collects, its rings are incomplete */
}

static int hand_over(
	const struct python *p, const struct pass *s, struct python_level **ret, size_t *ret_n)
{
	_cleanup_free_ struct python_level *v = calloc(MAX(s->counts.n, (size_t)1), sizeof(*v));
	size_t n = 0;

	if (!v)
		return -ENOMEM;
	for (size_t i = 0; i < s->counts.cap; i++) {
		const struct u64map_slot *slot = &s->counts.slots[i];

		if (slot->key == 0)
			continue;
		if (!python_is_type(p, slot->key))
			return -EAGAIN;
		v[n++] = (struct python_level){.type = slot->key, .count = slot->value};
	}
	*ret = TAKE_PTR(v);
	*ret_n = n;
	return 0;
}

int python_read_levels(const struct python *p, const struct python_rings *r, int tries,
	uint64_t max_objects, struct python_level **ret, size_t *ret_n, uint64_t *ret_objects)
{
	_cleanup_free_ struct page_cache *c = malloc(sizeof(*c));
	_cleanup_free_ struct python_level *v = NULL;
	_cleanup_close_ int pagemap = -1;
	struct pass s = {.objects = 0};
	struct timespec before, after;
	size_t n = 0;
	clockid_t clock;
	int e;

	if (!c)
		return -ENOMEM;
	c->swapped = false;
	e = open_pagemap(p, &pagemap);
	if (e < 0)
		return e;
	c->pagemap = pagemap;
	e = clock_getcpuclockid(p->id.pid, &clock) ? -ESRCH : -EAGAIN;
	for (int i = 0; i < tries && e == -EAGAIN; i++) {
		/* The clock goes on while any thread runs, to the nanosecond: kernel/time/posix-cpu-timers.c */
		if (clock_gettime(clock, &before)) {
			e = -ESRCH;
			break;
		}
		e = walk_all(p, r, max_objects, c, &s);
		if (e == 0)
			e = hand_over(p, &s, &v, &n);
		if (e == 0 && (clock_gettime(clock, &after) || before.tv_sec != after.tv_sec ||
				      before.tv_nsec != after.tv_nsec)) {
			free(TAKE_PTR(v));
			e = -EAGAIN;
		}
	}
	if (e == 0) {
		*ret = TAKE_PTR(v);
		*ret_n = n;
		*ret_objects = s.objects;
	}
	u64map_release(&s.counts);
	return e;
}
