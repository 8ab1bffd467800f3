/* SPDX-License-Identifier: MIT */
#include "capture/holders.h"

#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "capture/roots.h"
#include "daemon/python/blocks.h"
#include "daemon/util/units.h"

#define CANDIDATES_MAX (1u << 20)
#define PROBES_MAX     64
#define REFCOUNT_MAX   (1 << 29)
#define SOURCES_MAX    4 /* referrers of a candidate that are remembered */
#define EXPLAINED_MAX  8 /* with more, a pointer in a block is most likely one of them */
#define HITS_MAX       (EXPLAINED_MAX + 4)
#define SKIP_MAX       4096
#define THREADS_MAX    1024
#define OLD_COPIES     5
#define WORTH_HEAP     2
#define WORTH_STATIC   100
#define CHUNK          ((size_t)256 << 10) /* stays in the cache */
#define PAGE           ((size_t)4096)
#define HEAP_STEPS_MAX (4u << 20)
#define NAME_MAX_BYTES 200

/* Documentation/admin-guide/mm/pagemap.rst; a guard page looks swapped out as well */
#define PAGE_PRESENT (1ULL << 63)
#define PAGE_SWAPPED (1ULL << 62)
#define PAGE_GUARD   (1ULL << 58)

enum region_kind { REGION_IMAGE, REGION_STACK, REGION_HEAP, REGION_OTHER, N_REGIONS };

struct region {
	uint64_t start, end;
	const struct proc_map *file;
	enum region_kind kind;
};

/* What is in use of a thread's stack. A mapping may hold several: since glibc 2.42 there need be no
 * gap between them. */
struct stack {
	uint64_t sp, end;
	uint32_t name; /* string */
	bool main;     /* of the main thread */
};

struct candidate {
	uint64_t addr;
	uint64_t source[SOURCES_MAX];
	int64_t refcount;
	uint32_t type; /* number in the graph's types */
	uint32_t explained;
	uint32_t n_hits;
	uint32_t n_raw;      /* of them in blocks that are no object's */
	uint32_t kind, name; /* the best so far */
	bool own;            /* found in the interpreter's own state */
	uint64_t offset;     /* of a holder in an image: behind what has the name */
	uint32_t block;      /* of a holder that is a block: its number + 1 */
};

struct hit {
	uint64_t at;
	uint32_t candidate, region;
};

struct block {
	uint64_t start, end;
	uint32_t name; /* string: what points to it, 0: nobody knows */
};

/* Addresses that are looked for: a range, a bit for each hash, then the map. */
struct wanted {
	struct u64map map; /* address -> number */
	uint64_t low, span;
	uint64_t *bits;
	unsigned shift;
};

struct search {
	const struct walker *walker;
	struct graph *graph;
	struct view *view;
	struct strings *strings;
	struct candidate *candidates;
	size_t n;
	struct wanted objects, blocks_wanted;
	struct proc_maps maps;
	struct region *regions;
	size_t n_regions;
	struct stack *stacks;
	size_t n_stacks;
	struct {
		uint64_t start, end;
	} skip[SKIP_MAX];
	size_t n_skip;
	uint64_t frame_types[4];
	struct hit *hits;
	size_t n_hits, cap_hits;
	struct block *blocks;
	size_t n_blocks, cap_blocks;
	/* the library that was asked last */
	struct elf_image *elf;
	const struct proc_map *elf_of;
	uint64_t bias;
	int pagemap;
	uint8_t *chunk;
	uint64_t bytes, until_ns, until_cpu_ns;
	bool cut; /* not everything was searched */
	bool nomem;
};

/* ---- which objects ---- */

static uint64_t mix(uint64_t addr)
{
	return addr * 0x9e3779b97f4a7c15ULL;
}

static int wanted_init(struct wanted *w, size_t n)
{
	unsigned log2 = 16;

	while (log2 < 30 && ((size_t)1 << log2) < 16 * n)
		log2++;
	w->shift = 64 - log2;
	w->low = UINT64_MAX;
	w->bits = calloc(((size_t)1 << log2) / 64, 8);
	return w->bits ? u64map_reserve(&w->map, n) : -ENOMEM;
}

static int wanted_add(struct wanted *w, uint64_t addr, uint64_t number)
{
	uint64_t high = MAX(w->low == UINT64_MAX ? addr : w->low + w->span, addr);
	uint64_t h = mix(addr) >> w->shift;

	w->low = MIN(w->low, addr);
	w->span = high - w->low;
	w->bits[h / 64] |= 1ULL << h % 64;
	return u64map_put(&w->map, addr, number);
}

/* Without a branch: every word of the memory comes by here. */
static inline bool wanted_maybe(const struct wanted *w, uint64_t addr)
{
	uint64_t h = mix(addr) >> w->shift;

	return (w->bits[h / 64] >> h % 64 & 1) & (addr - w->low <= w->span);
}

static const uint64_t *wanted_get(const struct wanted *w, uint64_t addr)
{
	return wanted_maybe(w, addr) ? u64map_get(&w->map, addr) : NULL;
}

static void wanted_release(struct wanted *w)
{
	u64map_release(&w->map);
	free(w->bits);
}

/* Types are left out: which of their references nobody visits differs from version to version. So is
 * what the collector does not track: it is here because something holds it, and a str has
 * references as a key that nobody visits. */
static bool is_eligible(const struct graph *g, const struct snapshot_node *n)
{
	return (n->flags & SNAPSHOT_NODE_TRACKED) && !(n->flags & SNAPSHOT_NODE_IMMORTAL) &&
	       !(g->types[n->type].flags & TPFLAGS_TYPE_SUBCLASS);
}

/*
 * Which nodes a root reaches. From address to node leads a table whose neighbours are neighbours in
 * memory: the heap is walked in the order in which it was made, mostly, and a hash that scatters
 * would cost a cache miss a reference. What finds no place within PROBES_MAX is left alone.
 */
struct tracer {
	const struct graph *g;
	uint32_t *slot; /* number of a node + 1 */
	uint64_t mask;
	uint32_t *first; /* of its edges */
	uint32_t *todo;
	uint8_t *seen;
};

static void tracer_release(struct tracer *t)
{
	free(t->slot);
	free(t->first);
	free(t->todo);
	free(t->seen);
}

static uint32_t *tracer_slot(const struct tracer *t, uint64_t addr)
{
	uint64_t at = addr >> 5;

	for (int i = 0; i < PROBES_MAX; i++, at++) {
		uint32_t *slot = &t->slot[at & t->mask];

		if (!*slot || t->g->nodes[*slot - 1].addr == addr)
			return slot;
	}
	return NULL;
}

static int tracer_init(struct tracer *t, const struct graph *g)
{
	size_t size = 4096, at = 0;

	*t = (struct tracer){.g = g};
	while (size < 2 * g->n_nodes)
		size *= 2;
	t->mask = size - 1;
	t->slot = calloc(size, sizeof(*t->slot));
	t->first = malloc((g->n_nodes + 1) * sizeof(*t->first));
	t->todo = malloc((g->n_nodes + 1) * sizeof(*t->todo));
	t->seen = calloc(g->n_nodes + 1, 1);
	if (!t->slot || !t->first || !t->todo || !t->seen)
		return -ENOMEM;
	for (size_t i = 0; i < g->n_nodes; at += g->nodes[i++].n_edges) {
		uint32_t *slot = tracer_slot(t, g->nodes[i].addr);

		t->first[i] = (uint32_t)at;
		if (slot)
			*slot = (uint32_t)i + 1;
		else
			t->seen[i] = 1;
	}
	return 0;
}

static void trace(struct tracer *t)
{
	const struct graph *g = t->g;
	size_t n = 0;

	for (size_t i = 0; i < g->n_roots; i++) {
		const uint32_t *slot = tracer_slot(t, g->roots[i].addr);

		if (slot && *slot && !t->seen[*slot - 1]) {
			t->seen[*slot - 1] = 1;
			t->todo[n++] = *slot - 1;
		}
	}
	while (n > 0) {
		uint32_t at = t->todo[--n];

		for (uint32_t k = t->first[at]; k < t->first[at] + g->nodes[at].n_edges; k++) {
			const uint32_t *slot = tracer_slot(t, g->edges[k].raw.a);

			if (slot && *slot && !t->seen[*slot - 1]) {
				t->seen[*slot - 1] = 1;
				t->todo[n++] = *slot - 1;
			}
		}
	}
}

static void explain_by(struct search *f, uint64_t addr, uint64_t source)
{
	const uint64_t *at = wanted_get(&f->objects, addr);
	struct candidate *c = at ? &f->candidates[*at] : NULL;

	if (!c)
		return;
	if (c->explained < SOURCES_MAX)
		c->source[c->explained] = source;
	c->explained++;
}

/* What is not reached, and has more references than others of that sort explain: graph/reach.c looks
 * for the same. */
static int choose(struct search *f, const struct tracer *t)
{
	const struct graph *g = f->graph;
	size_t n = 0, kept = 0;
	int r;

	for (size_t i = 0; i < g->n_nodes && n < CANDIDATES_MAX; i++)
		n += !t->seen[i] && is_eligible(g, &g->nodes[i]);
	if (!n)
		return 0;
	f->candidates = calloc(n, sizeof(*f->candidates));
	r = f->candidates ? wanted_init(&f->objects, n) : -ENOMEM;
	for (size_t i = 0; r == 0 && i < g->n_nodes && f->n < n; i++) {
		if (t->seen[i] || !is_eligible(g, &g->nodes[i]))
			continue;
		f->candidates[f->n] = (struct candidate){.addr = g->nodes[i].addr,
			.type = g->nodes[i].type,
			.refcount = g->nodes[i].refcount};
		r = wanted_add(&f->objects, g->nodes[i].addr, f->n++);
	}
	for (size_t i = 0; r == 0 && i < g->n_nodes; i++)
		for (uint32_t k = 0; !t->seen[i] && k < g->nodes[i].n_edges; k++)
			explain_by(f, g->edges[t->first[i] + k].raw.a, g->nodes[i].addr);
	if (r < 0)
		return r;

	/* again with what is left: the fewer are looked for, the faster */
	wanted_release(&f->objects);
	f->objects = (struct wanted){0};
	r = wanted_init(&f->objects, n);
	for (size_t i = 0; r == 0 && i < n; i++) {
		if (f->candidates[i].refcount <= (int64_t)f->candidates[i].explained)
			continue;
		f->candidates[kept] = f->candidates[i];
		r = wanted_add(&f->objects, f->candidates[kept].addr, kept);
		kept++;
	}
	f->n = kept;
	return r;
}

/*
 * Whether the search is worth its time, in which the copy lives. What leaks is many; that C code of
 * any process holds some objects of built-in types, and one of a class here and there, asks for
 * nothing.
 */
static int is_worth_it(struct search *f, bool *ret)
{
	const struct graph *g = f->graph;
	_cleanup_free_ uint32_t *n = calloc(MAX(g->n_types, (size_t)1), sizeof(*n));

	if (!n)
		return -ENOMEM;
	*ret = false;
	for (size_t i = 0; i < f->n; i++) {
		uint32_t type = f->candidates[i].type;
		bool heap = g->types[type].flags & TPFLAGS_HEAPTYPE;

		*ret = *ret || ++n[type] >= (heap ? WORTH_HEAP : WORTH_STATIC);
	}
	return 0;
}

static int find_candidates(struct search *f)
{
	_cleanup_(tracer_release) struct tracer t = {0};
	bool worth = false;
	int r;

	if (f->graph->n_edges > UINT32_MAX)
		return 0; /* more than anybody explains */
	r = tracer_init(&t, f->graph);
	if (r < 0)
		return r;
	trace(&t);
	r = choose(f, &t);
	if (r == 0)
		r = is_worth_it(f, &worth);
	if (r == 0 && !worth)
		f->n = 0;
	return r;
}

/* ---- where ---- */

static void skip(struct search *f, uint64_t start, uint64_t bytes)
{
	if (start && f->n_skip < SKIP_MAX) {
		f->skip[f->n_skip].start = start;
		f->skip[f->n_skip++].end = start + bytes;
	}
}

static bool is_skipped(const struct search *f, uint64_t at)
{
	for (size_t i = 0; i < f->n_skip; i++)
		if (at >= f->skip[i].start && at < f->skip[i].end)
			return true;
	return false;
}

/* Python's own stacks (3.11+): what is in use of them are roots, the rest is old. A chunk: previous
 * chunk, its size (Include/cpython/pystate.h, _PyStackChunk). */
static void skip_data_stack(struct search *f, uint64_t ts)
{
	const struct layout *l = f->view->l;
	uint64_t chunk = l->ts_datastack_chunk >= 0
				 ? view_u64(f->view, ts + (uint64_t)l->ts_datastack_chunk)
				 : 0;

	for (int i = 0; chunk && i < 64; i++) {
		skip(f, chunk, view_u64(f->view, chunk + 8));
		chunk = view_u64(f->view, chunk);
	}
}

static struct region *region_of(struct search *f, uint64_t at)
{
	size_t lo = 0, hi = f->n_regions;

	/* in the order of their addresses, as the kernel lists them */
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (at >= f->regions[mid].end)
			lo = mid + 1;
		else if (at < f->regions[mid].start)
			hi = mid;
		else
			return &f->regions[mid];
	}
	return NULL;
}

static void add_stack(struct search *f, uint64_t sp)
{
	struct region *r = sp ? region_of(f, sp) : NULL;

	if (!r || r->kind == REGION_IMAGE || f->n_stacks == THREADS_MAX)
		return;
	r->kind = REGION_STACK;
	f->stacks[f->n_stacks++] = (struct stack){
		.sp = sp, .end = r->end, .main = strcmp(r->file->path, "[stack]") == 0};
}

/* Where the stacks of the target's other threads end now: those that wait in a system call did so
 * when the copy was made, or their frames are not much different. */
static void read_stack_pointers(struct search *f)
{
	pid_t pid = f->walker->job->pid;
	char path[64], text[256];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/%d/task", proc_root(), (int)pid);
	dir = opendir(path);
	for (int i = 0; dir && i < THREADS_MAX && (entry = readdir(dir)); i++) {
		uint64_t sp;
		ssize_t n;
		int fd;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%d/task/%.16s/syscall", proc_root(), (int)pid,
			entry->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
		if (fd >= 0)
			close(fd);
		if (n <= 0)
			continue;
		text[n] = '\0';
		/* number, six arguments, stack pointer, program counter; or "running" */
		if (sscanf(text, "%*d %*x %*x %*x %*x %*x %*x %" SCNx64, &sp) == 1)
			add_stack(f, sp);
	}
	if (dir)
		closedir(dir);
	add_stack(f, f->walker->sp);
}

static void name_stacks(struct search *f)
{
	_cleanup_free_ struct roots_thread *threads = calloc(THREADS_MAX, sizeof(*threads));
	size_t n = threads ? roots_threads(f->view, threads, THREADS_MAX) : 0;
	char name[160];

	for (size_t i = 0; i < n; i++) {
		struct region *r = region_of(f, threads[i].ident);
		uint32_t number;

		snprintf(name, sizeof(name), "C stack of %s", threads[i].name);
		number = strings_add(f->strings, name, strlen(name));
		skip_data_stack(f, threads[i].ts);
		/* without a stack pointer nobody knows what of it is in use: none */
		if (r && r->kind == REGION_OTHER)
			r->kind = REGION_STACK;
		for (size_t k = 0; k < f->n_stacks; k++) {
			struct stack *s = &f->stacks[k];
			/* glibc: pthread_self() lies at the top of the stack. That of the main
			 * thread is elsewhere; it is the oldest, the last of the list */
			if (s->main && i + 1 == n) {
				s->name = number;
			} else if (!s->main && threads[i].ident > s->sp &&
				   threads[i].ident < s->end) {
				s->end = threads[i].ident;
				s->name = number;
			}
		}
	}
}

static int find_regions(struct search *f, struct err *err)
{
	const struct proc_map *file = NULL, *m;
	int r = proc_maps_read(f->walker->job->child, &f->maps, err);

	if (r < 0)
		return r;
	f->regions = calloc(f->maps.n + 1, sizeof(*f->regions));
	f->stacks = calloc(THREADS_MAX, sizeof(*f->stacks));
	if (!f->regions || !f->stacks)
		return -ENOMEM;
	for (size_t i = 0; i < f->maps.n; i++) {
		bool anonymous;

		m = &f->maps.v[i];
		anonymous = m->inode == 0 && m->path[0] != '/';
		/* what is not initialised lies behind the file's last page, without a name */
		if (!anonymous)
			file = m;
		else if (m->path[0] || (file && i && f->maps.v[i - 1].end != m->start))
			file = NULL;
		if (strncmp(m->perm, "rw-p", 4) != 0)
			continue;
		f->regions[f->n_regions++] = (struct region){.start = m->start,
			.end = m->end,
			.file = file ? file : m,
			.kind = file                              ? REGION_IMAGE
				: strcmp(m->path, "[heap]") == 0  ? REGION_HEAP
				: strcmp(m->path, "[stack]") == 0 ? REGION_STACK
								  : REGION_OTHER};
		if (anonymous)
			file = NULL;
	}
	skip(f, f->walker->ctx, sizeof(struct walk_ctx));
	skip(f, f->walker->units, CHILD_UNITS_BYTES);
	skip(f, f->walker->in, CHILD_BATCH_BYTES);
	skip(f, f->walker->stack_top + PAGE - CHILD_STACK_BYTES, CHILD_STACK_BYTES);
	read_stack_pointers(f);
	name_stacks(f);
	return 0;
}

/* ---- the search ---- */

typedef void (*found_fn)(struct search *f, uint64_t at, uint64_t number, uint32_t region);

static void look(struct search *f, const struct wanted *w, uint64_t at, size_t n, uint32_t region,
	found_fn found)
{
	const uint64_t *words = (const uint64_t *)(const void *)f->chunk;

	for (size_t i = 0; i < n / 8; i++) {
		const uint64_t *number;

		if (!wanted_maybe(w, words[i]))
			continue;
		number = u64map_get(&w->map, words[i]);
		if (number && !is_skipped(f, at + 8 * i))
			found(f, at + 8 * i, *number, region);
	}
}

/* Pages that are not there are not brought in: they would be charged to the target. */
static void look_at_present(struct search *f, const struct wanted *w, uint64_t at, size_t n,
	uint32_t region, found_fn found)
{
	uint64_t page[CHUNK / PAGE];
	size_t pages = n / PAGE;

	if (pread(f->pagemap, page, pages * 8, (off_t)(at / PAGE * 8)) != (ssize_t)(pages * 8)) {
		f->cut = true;
		return;
	}
	for (size_t i = 0, run; i < pages; i += run + 1) {
		for (run = 0; i + run < pages && page[i + run] & PAGE_PRESENT; run++)
			;
		if (i + run < pages &&
			(page[i + run] & (PAGE_SWAPPED | PAGE_GUARD)) == PAGE_SWAPPED)
			f->cut = true;
		if (!run)
			continue;
		if (mem_read(f->view->python->id.pid, at + i * PAGE, f->chunk, run * PAGE) < 0) {
			f->cut = true;
			continue;
		}
		f->bytes += run * PAGE;
		look(f, w, at + i * PAGE, run * PAGE, region, found);
	}
}

static uint64_t cpu_ns(void)
{
	struct timespec t = {0};

	(void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static bool is_late(const struct search *f)
{
	return now_monotonic_ns() > f->until_ns || cpu_ns() > f->until_cpu_ns;
}

static void search_kind(
	struct search *f, const struct wanted *w, enum region_kind kind, found_fn found)
{
	for (size_t i = 0; i < f->n_regions; i++) {
		const struct region *r = &f->regions[i];
		uint64_t at = r->start;

		for (; r->kind == kind && at < r->end; at += CHUNK) {
			if (f->bytes > HOLDERS_BYTES || is_late(f)) {
				f->cut = true;
				return;
			}
			look_at_present(f, w, at, (size_t)MIN(r->end - at, (uint64_t)CHUNK),
				(uint32_t)i, found);
		}
	}
}

/* The stack that is in use at this place, or NULL. */
static const struct stack *stack_at(const struct search *f, uint64_t at)
{
	for (size_t i = 0; i < f->n_stacks; i++)
		if (at >= f->stacks[i].sp && at < f->stacks[i].end)
			return &f->stacks[i];
	return NULL;
}

static void note_hit(struct search *f, uint64_t at, uint64_t number, uint32_t region)
{
	const struct region *r = &f->regions[region];
	struct candidate *c = &f->candidates[number];

	if ((r->kind != REGION_IMAGE && c->explained > EXPLAINED_MAX) || c->n_hits >= HITS_MAX)
		return;
	if (r->kind == REGION_STACK && !stack_at(f, at))
		return;
	if (f->n_hits == f->cap_hits) {
		size_t cap = f->cap_hits ? 2 * f->cap_hits : 1024;
		struct hit *more = realloc(f->hits, cap * sizeof(*more));

		if (!more) {
			f->nomem = true;
			return;
		}
		f->hits = more;
		f->cap_hits = cap;
	}
	c->n_hits++;
	f->hits[f->n_hits++] =
		(struct hit){.at = at, .candidate = (uint32_t)number, .region = region};
}

/* ---- what was found ---- */

/* "lxml/etree.so" of an extension module, "libfoo.so.1" of a library. */
static void short_file(const char *path, char *buf, size_t n)
{
	static const char *const folders[] = {"dist-packages", "site-packages", "lib-dynload"};
	const char *base = strrchr(path, '/'), *tag, *folder;
	size_t length;

	base = base ? base + 1 : path;
	tag = strstr(base, ".cpython-");
	if (!tag)
		tag = strstr(base, ".abi3.so");
	length = tag ? (size_t)(tag - base) : strlen(base);
	for (folder = base; tag && folder - 1 > path && folder[-2] != '/'; folder--)
		;
	if (!tag || folder <= path + 1) {
		folder = base;
	} else {
		folder--;
		for (size_t i = 0; i < ARRAY_SIZE(folders); i++)
			if (strncmp(folder, folders[i], strlen(folders[i])) == 0)
				folder = base;
	}
	snprintf(buf, n, "%.*s%s", (int)MIN((size_t)(base - folder) + length, (size_t)100), folder,
		tag ? ".so" : "");
}

static bool open_image(struct search *f, const struct proc_map *m)
{
	int fd;

	if (f->elf_of == m)
		return f->elf != NULL;
	elf_image_free(f->elf);
	f->elf = NULL;
	f->elf_of = m;
	fd = proc_map_open(f->view->python->id.pid, m, NULL);
	if (fd < 0)
		return false;
	if (elf_image_open(fd, NULL, &f->elf) < 0 ||
		elf_image_bias(f->elf, m->start, m->offset, &f->bias) < 0) {
		elf_image_free(f->elf);
		f->elf = NULL;
	}
	close(fd);
	return f->elf != NULL;
}

/* "lxml/etree.so: _cache" and how far behind its beginning, or a section instead of a symbol; 0: it is
 * behind the file's data. */
static uint32_t place_in_image(
	struct search *f, const struct proc_map *m, uint64_t at, uint64_t *ret_offset)
{
	char file[128], symbol[80], text[NAME_MAX_BYTES + 64];
	const char *what = "data";
	const struct elf_segment *s;
	uint64_t from = m->start;

	short_file(m->path, file, sizeof(file));
	if (open_image(f, m)) {
		at -= f->bias;
		what = NULL;
		if (elf_image_object_at(f->elf, at, symbol, sizeof(symbol), &from) == 0)
			what = symbol;
		for (size_t i = 0; !what && (s = elf_image_segment(f->elf, i)) != NULL; i++) {
			if (!(s->flags & PF_W) || at < s->vaddr || at - s->vaddr >= s->memsz)
				continue;
			what = at - s->vaddr < s->filesz ? ".data" : ".bss";
			from = s->vaddr + (at - s->vaddr < s->filesz ? 0 : s->filesz);
		}
	}
	if (!what)
		return 0;
	*ret_offset = at - from;
	snprintf(text, sizeof(text), "%s: %s", file, what);
	return strings_add(f->strings, text, strlen(text));
}

static void take(struct candidate *c, uint32_t kind, uint32_t name, uint32_t block)
{
	/* the kinds are in the order of what they tell */
	if (c->kind && c->kind <= kind && !c->own)
		return;
	c->own = false;
	c->kind = kind;
	c->name = name;
	c->block = block;
}

/*
 * In _PyRuntime, or the main interpreter in it (3.12+). What is counted there are roots; the rest
 * are caches that count nothing (of functions by version, of attributes by type), and something that
 * we do not know at worst: it says less than any other place.
 */
static bool take_own(struct search *f, struct candidate *c, uint64_t at, uint32_t name)
{
	const struct view *v = f->view;

	if (at - v->python->runtime >= (uint64_t)v->l->rt_size)
		return false;
	if (!c->kind) {
		take(c, HOLDER_IMAGE, name, 0);
		c->own = true;
	}
	return true;
}

static uint32_t add_block(struct search *f, uint64_t start, uint64_t size)
{
	if (f->n_blocks && f->blocks[f->n_blocks - 1].start == start)
		return (uint32_t)f->n_blocks;
	if (f->n_blocks == f->cap_blocks) {
		size_t cap = f->cap_blocks ? 2 * f->cap_blocks : 256;
		struct block *more = realloc(f->blocks, cap * sizeof(*more));

		if (!more) {
			f->nomem = true;
			return 0;
		}
		f->blocks = more;
		f->cap_blocks = cap;
	}
	f->blocks[f->n_blocks++] = (struct block){.start = start, .end = start + size};
	return (uint32_t)f->n_blocks;
}

/* The object whose block this is, 0: it is none. */
static uint64_t object_in(struct search *f, uint64_t block, uint64_t size)
{
	for (uint64_t head = 0; head <= 32 && head + 16 <= size; head += 16) {
		uint64_t refcount = view_u64(f->view, block + head);

		if (refcount && refcount < REFCOUNT_MAX && view_is_object(f->view, block + head))
			return block + head;
	}
	return 0;
}

static void find_frame_types(struct search *f)
{
	static const char *const names[] = {
		"PyFrame_Type", "PyGen_Type", "PyCoro_Type", "PyAsyncGen_Type"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		(void)python_symbol(f->view->python, names[i], &f->frame_types[i], NULL);
}

/* Room for a value stack: what of it is in use was visited, the rest is memory of before. */
static bool is_frame(const struct search *f, uint64_t o)
{
	uint64_t type = view_type(f->view, o);

	for (size_t i = 0; i < ARRAY_SIZE(f->frame_types); i++)
		if (type && type == f->frame_types[i])
			return true;
	return false;
}

static bool is_source(const struct candidate *c, uint64_t o)
{
	for (size_t i = 0; i < MIN(c->explained, (uint32_t)SOURCES_MAX); i++)
		if (c->source[i] == o)
			return true;
	return false;
}

static void found_in_block(struct search *f, struct candidate *c, uint64_t block, uint64_t size)
{
	uint64_t o = size ? object_in(f, block, size) : 0;
	char text[TYPE_NAME_MAX + 64];
	struct python_type t;

	if (o && (o == c->addr || is_source(c, o) || is_frame(f, o)))
		return;
	if (o && python_type_read(f->view->python, view_type(f->view, o), &t) == 0) {
		snprintf(
			text, sizeof(text), "an object of type %s, which does not show it", t.name);
		take(c, HOLDER_OBJECT, strings_add(f->strings, text, strlen(text)), 0);
		return;
	}
	/* as many of them may be the tables of lists and dicts that hold it */
	if (++c->n_raw > c->explained)
		take(c, HOLDER_BLOCK, 0, size ? add_block(f, block, size) : 0);
}

/* A pointer in memory that an allocator gave out, or did not. */
static void found_in_memory(struct search *f, struct candidate *c, uint64_t at)
{
	size_t pool_bytes = f->view->l->minor <= 9 ? 4096 : 16384;
	uint64_t pool = at & ~(uint64_t)(pool_bytes - 1), block = 0, next = 0;
	uint8_t header[BLOCKS_POOL_HEAD];
	size_t size = 0;

	if (mem_cache_read(&f->view->cache, pool, header, sizeof(header)) < 0 ||
		!blocks_in_pool(header, pool, pool_bytes, at, &block, &size, &next)) {
		found_in_block(f, c, at, 0);
		return;
	}
	if (!size)
		return; /* of the pool's own, or never given out */
	for (size_t i = 0; next && i < pool_bytes / 16; i++) {
		if (next == block)
			return; /* free */
		next = view_u64(f->view, next);
	}
	found_in_block(f, c, block, size);
}

/*
 * malloc's chunks (glibc, malloc/malloc.c) from the heap's beginning on, along with the hits, which
 * are in order: what is in a free one is old. *i: the first hit of the region; moved behind its last.
 */
static void found_in_heap(struct search *f, size_t *i)
{
	const uint32_t region = f->hits[*i].region;
	const struct region *r = &f->regions[region];
	uint64_t at = r->start;

	for (unsigned steps = 0; *i < f->n_hits && f->hits[*i].region == region; steps++) {
		uint64_t size = view_u64(f->view, at + 8) & ~7ULL;
		bool sane = steps < HEAP_STEPS_MAX && size >= 32 && size <= r->end - at;
		bool used = !sane || (at + size < r->end && view_u64(f->view, at + size + 8) & 1);

		/* a block reaches into the next one's first word; not malloc's heap: who knows */
		while (*i < f->n_hits && f->hits[*i].region == region &&
			(!sane || f->hits[*i].at < at + size + 8)) {
			struct candidate *c = &f->candidates[f->hits[(*i)++].candidate];

			if (used)
				found_in_block(f, c, sane ? at + 16 : 0, sane ? size - 8 : 0);
		}
		if (!sane)
			return;
		at += size;
	}
}

static int by_place(const void *a, const void *b)
{
	const struct hit *s = a, *t = b;

	return s->at < t->at ? -1 : s->at > t->at;
}

static void resolve(struct search *f)
{
	if (f->n_hits)
		qsort(f->hits, f->n_hits, sizeof(*f->hits), by_place);
	for (size_t i = 0; i < f->n_hits;) {
		const struct hit *h = &f->hits[i];
		const struct region *r = &f->regions[h->region];
		struct candidate *c = &f->candidates[h->candidate];
		uint32_t name;

		if (r->kind == REGION_HEAP) {
			found_in_heap(f, &i);
			continue;
		}
		i++;
		if (r->kind == REGION_STACK) {
			name = stack_at(f, h->at)->name;
			take(c, HOLDER_STACK, name ? name : strings_add(f->strings, "C stack", 7),
				0);
			continue;
		}
		name = r->kind == REGION_IMAGE ? place_in_image(f, r->file, h->at, &c->offset) : 0;
		if (name && take_own(f, c, h->at, name))
			continue;
		if (name)
			take(c, HOLDER_IMAGE, name, 0);
		else if (c->explained <= EXPLAINED_MAX)
			found_in_memory(f, c, h->at);
	}
}

static uint32_t with_offset(struct search *f, uint32_t name, uint64_t offset)
{
	const struct strings_entry *e = &f->strings->v[name];
	char text[2 * NAME_MAX_BYTES];

	if (!offset)
		return name;
	snprintf(text, sizeof(text), "%.*s+0x%" PRIx64, (int)MIN(e->length, 300u),
		f->strings->bytes + e->at, offset);
	return strings_add(f->strings, text, strlen(text));
}

/* ---- what points to the blocks ---- */

static void note_owner(struct search *f, uint64_t at, uint64_t number, uint32_t region)
{
	struct block *b = &f->blocks[number];
	uint64_t offset = 0;
	uint32_t place = b->name ? 0 : place_in_image(f, f->regions[region].file, at, &offset);
	char text[2 * NAME_MAX_BYTES];

	if (!place)
		return;
	place = with_offset(f, place, offset);
	snprintf(text, sizeof(text), "%.*s, a malloc'ed block", (int)f->strings->v[place].length,
		f->strings->bytes + f->strings->v[place].at);
	b->name = strings_add(f->strings, text, strlen(text));
}

static int name_blocks(struct search *f)
{
	int r = f->n_blocks ? wanted_init(&f->blocks_wanted, f->n_blocks) : 0;

	for (size_t i = 0; r == 0 && i < f->n_blocks; i++)
		r = wanted_add(&f->blocks_wanted, f->blocks[i].start, i);
	if (r == 0 && f->n_blocks)
		search_kind(f, &f->blocks_wanted, REGION_IMAGE, note_owner);
	return r;
}

/*
 * Objects of one type that leak through one bug leak alike. A pointer to one in five of them, in
 * memory that an allocator or a function gave back and that looks used, is an old copy.
 */
static int drop_old_copies(struct search *f)
{
	const struct graph *g = f->graph;
	_cleanup_free_ uint32_t *all = calloc(MAX(g->n_types, (size_t)1), sizeof(*all));
	_cleanup_free_ uint32_t *found = calloc(MAX(g->n_types, (size_t)1), sizeof(*found));

	if (!all || !found)
		return -ENOMEM;
	for (size_t i = 0; i < f->n; i++) {
		all[f->candidates[i].type]++;
		found[f->candidates[i].type] += f->candidates[i].kind != 0;
	}
	for (size_t i = 0; i < f->n; i++) {
		struct candidate *c = &f->candidates[i];

		if ((c->kind > HOLDER_IMAGE || c->own) && found[c->type] <= all[c->type] / OLD_COPIES)
			c->kind = 0;
	}
	return 0;
}

static int write_down(struct search *f)
{
	struct graph *g = f->graph;
	uint32_t block = strings_add(f->strings, "malloc'ed block", 15);
	uint32_t lost = strings_add(f->strings, HOLDER_LOST, strlen(HOLDER_LOST));
	_cleanup_free_ uint32_t *in_image = calloc(f->strings->n + 1, sizeof(*in_image));
	const uint32_t n_strings = f->strings->n;

	/* an array of pointers is one holder, not as many as it has elements */
	for (size_t i = 0; in_image && i < f->n; i++)
		in_image[f->candidates[i].name] += f->candidates[i].kind == HOLDER_IMAGE;
	g->holders = calloc(MAX(f->n, (size_t)1), sizeof(*g->holders));
	if (!g->holders || !in_image)
		return -ENOMEM;
	for (size_t i = 0; i < f->n; i++) {
		const struct candidate *c = &f->candidates[i];
		uint32_t kind = c->kind, name = c->name;

		if (kind == HOLDER_IMAGE && name < n_strings && in_image[name] == 1)
			name = with_offset(f, name, c->offset);
		if (kind == HOLDER_BLOCK)
			name = c->block && f->blocks[c->block - 1].name
				       ? f->blocks[c->block - 1].name
				       : block;
		if (!kind && c->explained <= EXPLAINED_MAX && !f->cut) {
			kind = HOLDER_NOWHERE;
			name = lost;
		}
		if (kind)
			g->holders[g->n_holders++] = (struct snapshot_holder){
				.addr = c->addr, .kind = kind, .name = name};
	}
	return 0;
}

int holders_find(
	const struct walker *w, struct graph *g, struct view *v, struct strings *s, struct err *err)
{
	struct search f = {.walker = w, .graph = g, .view = v, .strings = s, .pagemap = -1};
	uint64_t left = job_time_left(w->job, UINT64_MAX) / 4;
	char path[64];
	int r;

	f.until_ns = now_monotonic_ns() + MIN(left, HOLDERS_NS);
	f.until_cpu_ns = cpu_ns() + HOLDERS_CPU_NS;
	r = find_candidates(&f);
	if (r == 0 && f.n > 0)
		r = find_regions(&f, err);
	if (r == 0 && f.n > 0) {
		snprintf(path, sizeof(path), "%s/%d/pagemap", proc_root(), (int)w->job->child);
		f.pagemap = open(path, O_RDONLY | O_CLOEXEC);
		f.chunk = malloc(CHUNK);
		if (!f.chunk)
			r = -ENOMEM;
	}
	for (int kind = 0; r == 0 && f.n > 0 && kind < N_REGIONS; kind++)
		search_kind(&f, &f.objects, (enum region_kind)kind, note_hit);
	if (r == 0 && f.n > 0) {
		find_frame_types(&f);
		resolve(&f);
		r = drop_old_copies(&f);
	}
	if (r == 0 && f.n > 0)
		r = name_blocks(&f);
	if (r == 0 && f.n > 0)
		r = f.nomem ? -ENOMEM : write_down(&f);
	if (f.pagemap >= 0)
		close(f.pagemap);
	elf_image_free(f.elf);
	wanted_release(&f.objects);
	wanted_release(&f.blocks_wanted);
	proc_maps_release(&f.maps);
	free(f.candidates);
	free(f.regions);
	free(f.stacks);
	free(f.hits);
	free(f.blocks);
	free(f.chunk);
	return r;
}
