/* SPDX-License-Identifier: MIT */
#include "daemon/python/blocks.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>

#include "daemon/python/mem.h"
#include "daemon/util/macros.h"
#include "daemon/util/units.h"

#define PAGE         4096
#define POOL_HEAD    BLOCKS_POOL_HEAD /* sizeof(struct pool_header), a multiple of the alignment */
#define CLASSES      32 /* of 16 to 512 bytes */
#define GC_HEAD      16
#define MORE_HEAD    16
#define SMALL_MAX    512
#define CHUNK_HEAD   16
#define CHUNK_MAX    (UINT64_C(64) << 30)
#define CHUNK_FLAGS  7
#define MANGLED      0xfffff /* bits of a link that fastbins change (PROTECT_PTR) */
#define CHUNK_IN_USE 1       /* in the next one's header */
#define CHUNK_MMAP   2

/* Objects/obmalloc.c, struct pool_header. */
struct pool_header {
	uint32_t count, pad;
	uint64_t freeblock, nextpool, prevpool;
	uint32_t arena, class, nextoffset, maxnextoffset;
};
_Static_assert(sizeof(struct pool_header) == POOL_HEAD, "as in obmalloc.c");

static uint64_t word_at(const uint8_t *bytes, size_t i)
{
	uint64_t v;

	memcpy(&v, bytes + i, sizeof(v));
	return v;
}

/* What the header of a pool in use says is nothing that other memory would say by accident. */
static bool is_pool(const struct pool_header *h, uint64_t at, size_t pool_bytes)
{
	size_t size = ((size_t)h->class + 1) * 16, past;

	if (h->class >= CLASSES || h->count > (pool_bytes - POOL_HEAD) / size ||
		h->maxnextoffset != pool_bytes - size || h->nextoffset < POOL_HEAD + size ||
		h->nextoffset > pool_bytes || (h->nextoffset - POOL_HEAD) % size)
		return false;
	if (!h->freeblock)
		return true;
	past = h->freeblock - at; /* wraps to something large if it is before */
	return past >= POOL_HEAD && past < h->nextoffset && (past - POOL_HEAD) % size == 0;
}

bool blocks_in_pool(const uint8_t *header, uint64_t pool, size_t pool_bytes, uint64_t at,
	uint64_t *ret_block, size_t *ret_size, uint64_t *ret_free)
{
	struct pool_header h;
	size_t size;

	memcpy(&h, header, sizeof(h));
	if (!is_pool(&h, pool, pool_bytes) || !h.count)
		return false;
	size = ((size_t)h.class + 1) * 16;
	*ret_free = h.freeblock;
	*ret_size = 0;
	if (at - pool >= POOL_HEAD && at - pool < h.nextoffset) {
		*ret_block = at - (at - pool - POOL_HEAD) % size;
		*ret_size = size;
	}
	return true;
}

/*
 * A reference count of something alive. Up to 3.13 a 64-bit number, of which the lower half is
 * enough for all that live (3.12's immortal ones: UINT_MAX). From 3.14 on 32 bits, and beside them 16
 * that are 0 here and 16 of flags (object.h). A link of a free list is an address and has some of
 * those bits set.
 */
static bool is_count(const struct blocks *b, uint64_t v)
{
	if (!(uint32_t)v || (b->wide_flags ? v >> 32 & 0xffff : v >> 32))
		return false;
	return v < b->low_image || v >= b->high_image;
}

static struct blocks_type *type_of(const struct blocks *b, uint64_t type)
{
	const uint64_t *i;

	if (type < b->low || type > b->high)
		return NULL;
	i = u64map_get(&b->index, type);
	return i ? &b->types[*i - 1] : NULL;
}

/* Bytes between the beginning of a block and the object in it. */
static size_t head_of(const struct blocks_type *t)
{
	return (t->before ? MORE_HEAD : 0) + (t->gc ? GC_HEAD : 0);
}

bool blocks_before(const struct python *p, uint64_t flags)
{
	return (p->minor >= 11 && flags & TPFLAGS_MANAGED_DICT) ||
	       (p->minor >= 12 && flags & TPFLAGS_MANAGED_WEAKREF);
}

/* The type of the object whose block begins here, NULL: it is none that is counted, or dead. */
static struct blocks_type *object_at(const struct blocks *b, const uint8_t *block, size_t n)
{
	struct blocks_type *t;

	/* From the front: what is an object there has no other one in its midst. */
	for (size_t head = 0; head <= MORE_HEAD + GC_HEAD && head + 16 <= n; head += 16) {
		t = type_of(b, word_at(block, head + 8));
		if (!t || head_of(t) != head || !is_count(b, word_at(block, head)))
			continue;
		/* A link of the collector: 0 where it does not track the object. */
		if (!t->gc || !(word_at(block, head - GC_HEAD) & 7))
			return t;
	}
	return NULL;
}

static void count(struct blocks_type *t, const uint8_t *block)
{
	t->count++;
	t->untracked += t->gc && !word_at(block, head_of(t) - GC_HEAD);
}

static void look_at_pool(struct blocks *b, const struct pool_header *h, const uint8_t *pool)
{
	size_t size = ((size_t)h->class + 1) * 16;
	struct blocks_type *t;

	b->pools++;
	if (!h->count)
		return;
	for (size_t i = POOL_HEAD; i + size <= h->nextoffset; i += size)
		if ((t = object_at(b, pool + i, size)))
			count(t, pool + i);
}

/* Whether malloc's header before a block is one of a chunk that may hold an object: sane, and of a
 * size that is beyond the small ones. */
static bool is_chunk(const struct blocks *b, uint64_t at, const uint8_t *bytes, size_t i, size_t n)
{
	uint64_t head, size, next;

	if (i < CHUNK_HEAD && b->before_at != at)
		return false;
	head = i < CHUNK_HEAD ? word_at(b->before, 8) : word_at(bytes, i - 8);
	size = head & ~(uint64_t)CHUNK_FLAGS;
	if (size % 16 || size < 32 || (!b->small_chunks && size < SMALL_MAX + CHUNK_HEAD) ||
		size > CHUNK_MAX)
		return false;
	if (head & CHUNK_MMAP)
		return (at + i - CHUNK_HEAD) % PAGE == 0 && size % PAGE == 0;
	next = i - CHUNK_HEAD + size;
	if (next + 16 > n)
		return true; /* the next one is not in sight */
	return word_at(bytes, next + 8) & CHUNK_IN_USE;
}

/* Where malloc's headers are not there to tell. */
static bool says_large(const struct blocks_type *t, const uint8_t *block, size_t n)
{
	size_t head = head_of(t);
	uint64_t size = head + (uint64_t)t->basicsize, items;

	if (t->text || t->itemsize) {
		if (head + 24 > n)
			return false;
		items = word_at(block, head + 16);
		items = (int64_t)items < 0 ? -items : items; /* of a negative int */
		if (items > CHUNK_MAX)
			return false;
		size += items * (t->text ? 4 : (uint64_t)MIN(t->itemsize, (int64_t)PAGE));
	}
	return size > SMALL_MAX && size <= CHUNK_MAX;
}

static bool in_large_block(const struct blocks *b, const struct blocks_type *t, uint64_t at,
	const uint8_t *bytes, size_t i, size_t n)
{
	if (b->other_malloc)
		return b->small_chunks || says_large(t, bytes + i, n - i);
	return (t->sizes || b->small_chunks) && is_chunk(b, at, bytes, i, n);
}

/* Large blocks: glibc's are multiples of 16, and so are the objects in them. */
static void look_at_chunks(
	struct blocks *b, uint64_t at, const uint8_t *bytes, size_t from, size_t to, size_t n)
{
	for (size_t i = from; i < to; i += 16) {
		struct blocks_type *t = object_at(b, bytes + i, n - i);

		if (t && in_large_block(b, t, at, bytes, i, n)) {
			count(t, bytes + i);
			t->large++;
			if (t->types && b->n_found < b->max_found)
				b->found[b->n_found++] = at + i + head_of(t);
		}
	}
}

void blocks_look(struct blocks *b, uint64_t at, const uint8_t *bytes, size_t n)
{
	struct pool_header h;

	for (size_t i = 0; i < n; i += b->pool_bytes) {
		size_t end = MIN(i + b->pool_bytes, n);

		memcpy(&h, bytes + i, sizeof(h));
		if (i + b->pool_bytes <= n && is_pool(&h, at + i, b->pool_bytes))
			look_at_pool(b, &h, bytes + i);
		else
			look_at_chunks(b, at, bytes, i, end, n);
	}
	if (n >= sizeof(b->before)) {
		memcpy(b->before, bytes + n - sizeof(b->before), sizeof(b->before));
		b->before_at = at + n;
	}
}

/* ---- reading ---- */

#define PM_PRESENT (UINT64_C(1) << 63)
#define PM_SWAPPED (UINT64_C(1) << 62)

struct blocks_reading {
	struct blocks b;
	struct blocks_type *types;
	size_t n_types;
	struct proc_id id;
	int pagemap;
	bool cancelled;
	uint64_t max_bytes, bytes, addresses, took_ns;
	uint64_t flags[BLOCKS_STRETCH / PAGE]; /* of the stretch's pages */
	uint8_t *stretch; /* there while it runs: many may wait for their turn */
};

/* Reads the pages of n bytes from at on that are there, into `to`. 1; 0: none is; or an error. */
static int read_stretch(struct blocks_reading *r, uint64_t at, uint8_t *to, size_t n)
{
	size_t pages = n / PAGE;
	ssize_t got = pread(r->pagemap, r->flags, pages * sizeof(r->flags[0]),
		(off_t)(at / PAGE * sizeof(r->flags[0])));
	bool any = false;

	if (got != (ssize_t)(pages * sizeof(r->flags[0])))
		return got < 0 ? -errno : -ESRCH;
	for (size_t i = 0; i < pages; i++) {
		if (r->flags[i] & PM_SWAPPED)
			return -ENODATA;
		any = any || r->flags[i] & PM_PRESENT;
	}
	for (size_t i = 0; any && i < pages;) {
		size_t first = i;

		while (i < pages && r->flags[i] & PM_PRESENT)
			i++;
		if (i == first) {
			memset(to + i * PAGE, 0, PAGE);
			i++;
			continue;
		}
		/* What has gone meanwhile holds nothing any more. */
		got = mem_read_some(
			r->id.pid, at + first * PAGE, to + first * PAGE, (i - first) * PAGE);
		if (got < 0 && got != -EFAULT)
			return (int)got;
		got = MAX(got, 0);
		memset(to + first * PAGE + got, 0, (i - first) * PAGE - (size_t)got);
		r->bytes += (uint64_t)got;
	}
	return any;
}

static int read_map(struct blocks_reading *r, const struct proc_map *m)
{
	uint64_t at = m->start - m->start % r->b.pool_bytes;

	for (; at < m->end; at += BLOCKS_STRETCH) {
		/* The part of a pool that lies before the mapping is not there. */
		size_t before = m->start > at ? (size_t)(m->start - at) : 0;
		size_t n = (size_t)(MIN(at + BLOCKS_STRETCH, m->end) - at);
		int e;

		if (__atomic_load_n(&r->cancelled, __ATOMIC_RELAXED))
			return -ECANCELED;
		r->addresses += n;
		if (r->bytes > r->max_bytes || r->addresses > BLOCKS_ADDRESSES_MAX)
			return -E2BIG;
		memset(r->stretch, 0, before);
		e = read_stretch(r, at + before, r->stretch + before, n - before);
		if (e < 0)
			return e;
		if (e)
			blocks_look(&r->b, at, r->stretch, n);
	}
	return 0;
}

/* Memory that allocators take: private, writable, of no file, not a stack. */
static bool is_heap(const struct proc_map *m)
{
	return m->perm[0] == 'r' && m->perm[1] == 'w' && m->perm[3] == 'p' && !m->inode &&
	       (!m->path[0] || !strcmp(m->path, "[heap]") || !strncmp(m->path, "[anon", 5)) &&
	       m->start % PAGE == 0 && m->end % PAGE == 0 && m->end > m->start;
}

/* libjemalloc.so.2, libtcmalloc_minimal.so.4, libmimalloc.so, ...: they are named for it. */
static bool is_malloc(const struct proc_map *m)
{
	const char *name = strrchr(m->path, '/');

	return m->perm[2] == 'x' && m->inode && name && strstr(name, "malloc");
}

static int read_all(struct blocks_reading *r, const struct proc_maps *maps)
{
	int e = 0;

	for (size_t i = 0; i < r->n_types; i++)
		r->types[i].count = r->types[i].large = r->types[i].untracked = 0;
	r->bytes = r->b.pools = r->addresses = 0;
	r->b.n_found = 0;
	for (size_t i = 0; i < maps->n; i++)
		r->b.other_malloc = r->b.other_malloc || is_malloc(&maps->v[i]);
	for (size_t i = 0; i < maps->n && !e; i++)
		if (!strcmp(maps->v[i].path, "[heap]") && r->b.high_image <= maps->v[i].start)
			r->b.high_image = maps->v[i].end | MANGLED;
	for (size_t i = 0; i < maps->n && !e; i++)
		if (is_heap(&maps->v[i]))
			e = read_map(r, &maps->v[i]);
	return e;
}

int blocks_run(struct blocks_reading *r)
{
	_cleanup_(proc_maps_release) struct proc_maps maps = {0};
	uint64_t start_ns = now_monotonic_ns();
	int e;

	r->stretch = malloc(BLOCKS_STRETCH);
	r->b.found = calloc(BLOCKS_FOUND_MAX, sizeof(r->b.found[0]));
	r->b.max_found = BLOCKS_FOUND_MAX;
	e = r->stretch && r->b.found ? proc_maps_read(r->id.pid, &maps, NULL) : -ENOMEM;
	if (!e)
		e = read_all(r, &maps);
	if (!e && !r->b.pools) { /* PYTHONMALLOC=malloc: once more, with malloc's small blocks */
		r->b.small_chunks = true;
		e = read_all(r, &maps);
	}
	if (!e && !proc_id_alive(&r->id))
		e = -ESRCH;
	freep(&r->stretch);
	r->stretch = NULL;
	r->took_ns = now_monotonic_ns() - start_ns;
	return e;
}

void blocks_cancel(struct blocks_reading *r)
{
	__atomic_store_n(&r->cancelled, true, __ATOMIC_RELAXED);
}

const struct blocks_type *blocks_types(const struct blocks_reading *r, size_t *ret_n)
{
	*ret_n = r->n_types;
	return r->types;
}

const uint64_t *blocks_found(const struct blocks_reading *r, size_t *ret_n)
{
	*ret_n = r->b.n_found;
	return r->b.found;
}

struct blocks_stats blocks_stats(const struct blocks_reading *r)
{
	return (struct blocks_stats){.bytes = r->bytes, .pools = r->b.pools, .took_ns = r->took_ns};
}

static int prepare(
	struct blocks_reading *r, const struct python *p, const struct blocks_type *v, size_t n)
{
	const struct elf_segment *s;
	struct blocks *b = &r->b;
	char path[64];
	int e;

	r->types = calloc(MAX(n, (size_t)1), sizeof(*v));
	if (!r->types)
		return -ENOMEM;
	memcpy(r->types, v, n * sizeof(*v));
	r->n_types = n;
	b->types = r->types;
	b->low = UINT64_MAX;
	b->pool_bytes = p->minor >= 10 ? 16384 : 4096;
	b->wide_flags = p->minor >= 14;
	e = u64map_reserve(&b->index, n);
	for (size_t i = 0; i < n && !e; i++) {
		b->low = MIN(b->low, v[i].type);
		b->high = MAX(b->high, v[i].type);
		e = u64map_put(&b->index, v[i].type, i + 1);
	}
	if (e)
		return e;
	for (size_t i = 0; (s = elf_image_segment(p->elf, i)); i++)
		if (s->flags & PF_W) {
			b->low_image = p->bias + s->vaddr;
			b->high_image = p->bias + s->vaddr + s->memsz;
		}
	snprintf(path, sizeof(path), "%s/%d/pagemap", proc_root(), (int)p->id.pid);
	r->pagemap = open(path, O_RDONLY | O_CLOEXEC);
	return r->pagemap < 0 ? -errno : 0;
}

int blocks_open(const struct python *p, const struct blocks_type *v, size_t n, uint64_t max_bytes,
	struct blocks_reading **ret)
{
	struct blocks_reading *r = calloc(1, sizeof(*r));
	int e;

	if (!r)
		return -ENOMEM;
	r->id = p->id;
	r->pagemap = -1;
	r->max_bytes = max_bytes;
	e = prepare(r, p, v, n);
	if (e) {
		blocks_free(r);
		return e;
	}
	*ret = r;
	return 0;
}

void blocks_free(struct blocks_reading *r)
{
	if (!r)
		return;
	u64map_release(&r->b.index);
	closep(&r->pagemap);
	free(r->stretch);
	free(r->b.found);
	free(r->types);
	free(r);
}
