/* SPDX-License-Identifier: MIT */
/*
 * Objects, above all those that the collector does not track, counted where they lie: in the blocks of CPython's
 * small-object allocator and of malloc, read from outside. Nobody is stopped, nothing is written,
 * and no page is brought in that is not there. Finds str, bytes, int, float, dicts and tuples of
 * plain values, Decimal: whatever has one of the types asked for.
 *
 * Small blocks (up to 512 bytes) stand in pools (Objects/obmalloc.c, struct pool_header; 4 KiB up to
 * 3.9, 16 KiB from 3.10 on, with WITH_PYMALLOC_RADIX_TREE), a size a pool, in an order that is known.
 * Larger ones are chunks of glibc's malloc, whose header tells their size (malloc/malloc.c, struct
 * malloc_chunk). Other allocators that were preloaded have no such headers: there a large object is what says
 * itself that it is too large for a pool. An object that is dead shows it: its reference count is 0 (also in the free lists of
 * tuple and dict), or a link of a free list has been written over its count or its type.
 *
 * A process that runs goes on while it is read. What lives all through the reading is counted once;
 * what is born or dies meanwhile may be counted or not, so the count is right to within the births
 * and deaths of that time.
 */
#ifndef PYLEAK_PYTHON_BLOCKS_H
#define PYLEAK_PYTHON_BLOCKS_H

#include "daemon/python/python.h"
#include "daemon/util/u64map.h"

struct blocks_type {
	uint64_t type;  /* address */
	bool gc;        /* instances have the collector's header in front of them */
	bool before;    /* and in front of that two words more, see blocks_before() */
	bool sizes;     /* they come in all sizes, so in large blocks as well */
	bool types;     /* they are types themselves: where they are is noted, see blocks_found() */
	/* How large one is: tp_basicsize, and tp_itemsize times the number that stands behind its type; of
	 * a str at most four bytes a character. */
	int64_t basicsize, itemsize;
	bool text;
	uint64_t count; /* filled in: those alive, in small blocks and in large ones */
	uint64_t large; /* of them in large blocks */
	uint64_t untracked; /* of them in none of the collector's rings, though it knows the type */
};

struct blocks_stats {
	uint64_t bytes;   /* read */
	uint64_t pools;   /* seen; 0: the process uses another allocator, PYTHONMALLOC=malloc */
	uint64_t took_ns; /* wall time */
};

/* Whether instances of a type with these tp_flags have two words more in front of the collector's
 * header: Objects/typeobject.c, _PyType_PreHeaderSize(). */
bool blocks_before(const struct python *p, uint64_t flags);

/* A reading of one process: everything it needs is in it, so that it may be done in another thread
 * than that of its python object, and outlive that. */
struct blocks_reading;

/* For the n types in v, which are copied; reads at most max_bytes. -EACCES, -ESRCH, -ENOMEM. */
int blocks_open(const struct python *p, const struct blocks_type *v, size_t n, uint64_t max_bytes,
	struct blocks_reading **ret);
void blocks_free(struct blocks_reading *r);

#define BLOCKS_ADDRESSES_MAX (UINT64_C(256) << 30) /* looked through, most of it not there */

/* Counts, once. -E2BIG: more than max_bytes of memory, or more addresses than that; -ENODATA: part of it is swapped out, and
 * reading would bring it back; -ECANCELED; -ESRCH, -EPERM. A quarter of a second a GiB. */
int blocks_run(struct blocks_reading *r);
/* From any thread: it ends within a millisecond. */
void blocks_cancel(struct blocks_reading *r);

/* What came out, valid until blocks_free(). */
const struct blocks_type *blocks_types(const struct blocks_reading *r, size_t *ret_n);
struct blocks_stats blocks_stats(const struct blocks_reading *r);
/* Addresses of objects that are types themselves, at most BLOCKS_FOUND_MAX. */
const uint64_t *blocks_found(const struct blocks_reading *r, size_t *ret_n);
#define BLOCKS_FOUND_MAX 16384

/* ---- the part of it that sees bytes of the target, for the fuzzer ---- */

#define BLOCKS_STRETCH (256 * 1024) /* a multiple of every pool's size */

struct blocks {
	struct blocks_type *types;
	struct u64map index; /* type -> 1 + index in types */
	uint64_t low, high;  /* of the types' addresses */
	/* Addresses that are no reference counts, though small enough in a program that is not position
	 * independent: its data, and what brk() gave it. */
	uint64_t low_image, high_image;
	size_t pool_bytes;
	bool wide_flags;   /* flags beside the count, from 3.14 on */
	bool small_chunks; /* no pools: small objects are malloc's as well */
	bool other_malloc; /* jemalloc, tcmalloc, ...: no header before a block tells of it */
	uint64_t pools;
	uint64_t *found;   /* room for max_found addresses */
	size_t n_found, max_found;
	uint64_t before_at; /* where the stretch before this one ended, and */
	uint8_t before[16]; /* its last bytes: a chunk's header may lie there */
};

/* Looks at n bytes (at most BLOCKS_STRETCH, a multiple of 4096) that lie at address at, which is a
 * multiple of the pool's size. Bytes that are not there are 0. */
void blocks_look(struct blocks *b, uint64_t at, const uint8_t *bytes, size_t n);

/* ---- one place ---- */

#define BLOCKS_POOL_HEAD 48

/* Whether the BLOCKS_POOL_HEAD bytes of header, which lie at pool, head a pool of the small-object
 * allocator. If so: the block in it that holds the address at, of *ret_size bytes, 0 where no block
 * was given out yet, and the first of the pool's free blocks, each of which begins with the address
 * of the next. */
bool blocks_in_pool(const uint8_t *header, uint64_t pool, size_t pool_bytes, uint64_t at,
	uint64_t *ret_block, size_t *ret_size, uint64_t *ret_free);

#endif
