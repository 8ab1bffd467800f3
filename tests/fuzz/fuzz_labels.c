/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer over everything that decodes a target's memory into names: str objects, dicts of every
 * kind, attributes, frames with their line tables, types, and labels_resolve() over a graph of such
 * objects. The fuzzer is its own target: the input becomes a small heap of objects that point to each
 * other. Whatever comes out as a name must be fit to be shown, and no key may be named where keys are
 * off.
 */
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <fcntl.h>

#include "capture/frames.h"
#include "capture/labels.h"
#include "daemon/util/macros.h"

#define HEAP_BYTES 16384
#define TYPE_BYTES 1024

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* By the names that the code looks for in the file that holds CPython: this one. */
uint8_t PyType_Type[TYPE_BYTES], PyFunction_Type[TYPE_BYTES], PyModule_Type[TYPE_BYTES],
	PyCell_Type[TYPE_BYTES], PyCode_Type[TYPE_BYTES];
static uint8_t str_type[TYPE_BYTES], dict_type[TYPE_BYTES], list_type[TYPE_BYTES],
	tuple_type[TYPE_BYTES], bytes_type[TYPE_BYTES], class_type[TYPE_BYTES];
static _Alignas(4096) uint8_t heap[HEAP_BYTES];

static const struct {
	uint8_t *at;
	uint64_t flags;
} types[] = {
	{PyType_Type, TPFLAGS_TYPE_SUBCLASS | TPFLAGS_HAVE_GC},
	{PyFunction_Type, TPFLAGS_HAVE_GC},
	{PyModule_Type, TPFLAGS_HAVE_GC},
	{PyCell_Type, TPFLAGS_HAVE_GC},
	{PyCode_Type, 0},
	{str_type, TPFLAGS_UNICODE_SUBCLASS},
	{dict_type, TPFLAGS_DICT_SUBCLASS | TPFLAGS_HAVE_GC},
	{list_type, TPFLAGS_LIST_SUBCLASS | TPFLAGS_HAVE_GC},
	{tuple_type, TPFLAGS_TUPLE_SUBCLASS | TPFLAGS_HAVE_GC},
	{bytes_type, TPFLAGS_BYTES_SUBCLASS},
	{class_type,
		TPFLAGS_HEAPTYPE | TPFLAGS_HAVE_GC | TPFLAGS_MANAGED_DICT | TPFLAGS_INLINE_VALUES},
};

static struct python python;

static void put64(uint8_t *at, uint64_t v)
{
	memcpy(at, &v, sizeof(v));
}

static uint64_t address(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct err err;
	uint64_t vaddr;

	(void)argc;
	(void)argv;
	if (fd < 0 || elf_image_open(fd, &err, &python.elf) < 0 ||
		elf_image_symbol(python.elf, "PyType_Type", &vaddr, NULL) < 0)
		abort();
	close(fd);
	python.id.pid = getpid();
	python.bias = address(PyType_Type) - vaddr;
	python.type_type = address(PyType_Type);
	python.major = 3;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		put64(types[i].at + OFF_OB_REFCNT, 1);
		put64(types[i].at + OFF_OB_TYPE, address(PyType_Type));
		put64(types[i].at + OFF_TP_NAME, address(heap + 256 * i));
		put64(types[i].at + OFF_TP_BASICSIZE, 16);
		put64(types[i].at + OFF_TP_FLAGS, types[i].flags | TPFLAGS_READY);
	}
	return 0;
}

/* Slots of 64 bytes, each an object; what is in it the input decides, a byte a word, and where it ends it
 * begins again, scrambled. */
static void fill(const uint8_t *data, size_t size)
{
	static const uint64_t usual[] = {
		0, 1, 2, 3, 8, 16, 0x64 /* compact ASCII */, 0x24, 0x44, UINT64_MAX};
	uint64_t round = 0;

	for (size_t i = 0, at = 0; i < HEAP_BYTES / 8; i++, at++) {
		uint64_t w, r;

		if (at == size) {
			at = 0;
			round++;
		}
		r = (data[at] ^ round * 0x9e3779b97f4a7c15ULL) * 0xbf58476d1ce4e5b9ULL;
		w = r >> 32;
		if (i % 8 == 0 || r % 4 == 0)
			w = usual[w % ARRAY_SIZE(usual)];
		else if (i % 8 == 1 || r % 16 == 1)
			w = address(types[w % ARRAY_SIZE(types)].at);
		else if (r % 4 == 1)
			w = r ^ data[at];
		else
			w = address(heap) + (w % (r % 8 < 4 ? 2048 : HEAP_BYTES) & ~63ULL);
		put64(heap + 8 * i, w);
	}
	put64(class_type + python.layout.ht_cached_keys, address(heap + 512));
	put64(class_type + python.layout.tp_dict, address(heap + 1024));
}

static int count(void *arg, uint64_t key, uint64_t value)
{
	(void)key;
	(void)value;
	++*(size_t *)arg;
	return 0;
}

static void check_text(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
			abort();
}

/* Every 8 bytes of the first pages as an object, as a frame and as a thread. */
static void look(struct view *v)
{
	struct frame_info *f = calloc(64, sizeof(*f));
	struct python_type type;
	char text[128];
	size_t n = 0;

	for (uint64_t o = address(heap); f && o < address(heap) + 1024; o += 16) {
		if (view_str(v, o, text, sizeof(text)) >= sizeof(text))
			abort();
		check_text(text, strlen(text));
		if (python_type_read(&python, o, &type) == 0)
			check_text(type.name, strlen(type.name));
		(void)view_dict_each(v, o, 64, count, &n);
		(void)view_attribute(v, o, "_name");
		(void)view_dict_get(v, o, "key");
		if (view_items(v, o, 100) > 100)
			abort();
		(void)view_item(v, o, 3);
		(void)view_type_dict(v, o);
		if (o % 256)
			continue;
		for (size_t k = 0, frames = frames_read(v, o, f, 64); k < frames; k++) {
			(void)frames_line(v, &f[k]);
			for (int64_t i = 0; i < MIN(f[k].n_slots, (int64_t)8); i++) {
				(void)frames_slot(v, &f[k], i);
				(void)frames_slot_name(v, &f[k], i);
			}
		}
	}
	free(f);
}

/* Nodes and edges out of the heap's own words. */
static void resolve(struct view *v, uint32_t keys)
{
	struct job job = {.req.keys = keys, .python = &python};
	struct graph g = {.minor = python.layout.minor};
	struct strings s = {0};
	const uint64_t *w = (const uint64_t *)(const void *)heap;
	struct walk_unit node[2] = {{0}}, edge;
	int r = 0;

	for (size_t i = 0; i < 32 && r == 0; i++) {
		node[0] = (struct walk_unit){address(heap) + 64 * i, WALK_MAKE(WALK_NODE, 1)};
		node[1] = (struct walk_unit){address(types[w[8 * i] % ARRAY_SIZE(types)].at), 1};
		r = graph_take(&g, node, 2);
		for (size_t k = 1; k < 8 && r == 0; k++) {
			edge.a = w[8 * i + k];
			edge.b = WALK_MAKE(1 + w[8 * k + i] % WALK_EDGE_GLOBALS, w[i + 9 * k]);
			r = graph_take(&g, &edge, 1);
		}
	}
	if (r < 0 || labels_resolve(&job, &g, v, &s) < 0)
		abort();
	for (size_t i = 0; i < g.n_edges; i++) {
		const struct snapshot_edge *e = &g.edges[i].edge;
		bool named = e->kind == EDGE_ATTR || e->kind == EDGE_KEY || e->kind == EDGE_CELL ||
			     e->kind == EDGE_LOCAL;

		if ((named && e->arg && e->arg >= s.n) || e->kind > EDGE_MEMBER ||
			(keys == CAPTURE_KEYS_OFF && e->kind == EDGE_KEY))
			abort();
	}
	for (uint32_t i = 0; i < s.n; i++)
		check_text(s.bytes + s.v[i].at, s.v[i].length);
	graph_release(&g);
	strings_release(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct view v;

	if (size < 3)
		return 0;
	python.minor = 8 + data[0] % 8;
	python.layout = *layout_table(python.minor);
	python.interp = address(heap);
	fill(data + 2, size - 2);
	view_init(&v, &python);
	look(&v);
	resolve(&v, data[1] % 3);
	return 0;
}
