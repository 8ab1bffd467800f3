/* SPDX-License-Identifier: MIT */
/*
 * Builds snapshot files for tests: objects, references and roots are added in any order, then
 * written as include/pyleak/snapshot.h says. Out of memory ends the test.
 */
#ifndef PYLEAK_TESTS_SNAPSHOT_BUILDER_H
#define PYLEAK_TESTS_SNAPSHOT_BUILDER_H

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "include/pyleak/snapshot.h"

struct sb_edge {
	uint32_t from;
	struct snapshot_edge e;
};

struct sb {
	char **strings;
	struct snapshot_type *types;
	struct snapshot_node *nodes;
	struct sb_edge *edges;
	struct snapshot_root *roots;
	struct snapshot_holder *holders;
	uint32_t n_strings, n_types, n_nodes, n_edges, n_roots, n_holders;
	const char *meta;      /* NULL: no META section */
	uint32_t unknown_kind; /* not 0: a section of this kind is put before NODES */
};

#define SB_HEAP   (1ull << 9)
#define SB_STATIC 0ull

/* Room for one more in *array, doubling at powers of two. */
static inline void *sb_room(void *array, uint32_t n, size_t size)
{
	if ((n & (n - 1)) == 0) {
		array = realloc(array, (n ? (size_t)n * 2 : 1) * size);
		assert(array);
	}
	return array;
}

static inline uint32_t sb_string(struct sb *b, const char *s)
{
	if (!b->n_strings && *s)
		sb_string(b, "");
	/* The newest first: builders add many in a row that use the same names. */
	for (uint32_t i = b->n_strings; i > 0 && i + 64 > b->n_strings; i--) {
		if (strcmp(b->strings[i - 1], s) == 0)
			return i - 1;
	}
	if (!*s && b->n_strings)
		return 0;
	b->strings = sb_room(b->strings, b->n_strings, sizeof(*b->strings));
	b->strings[b->n_strings] = strdup(s);
	assert(b->strings[b->n_strings]);
	return b->n_strings++;
}

static inline uint32_t sb_type(struct sb *b, const char *name, uint64_t flags)
{
	uint32_t string = sb_string(b, name);

	for (uint32_t i = 0; i < b->n_types; i++) {
		if (b->types[i].name == string)
			return i;
	}
	b->types = sb_room(b->types, b->n_types, sizeof(*b->types));
	b->types[b->n_types] = (struct snapshot_type){
		.addr = 0x1000 + b->n_types * 0x400ull, .flags = flags, .name = string};
	return b->n_types++;
}

static inline uint64_t sb_addr(uint32_t node)
{
	return 0x7f0000000000ull + node * 0x40ull;
}

/* An object; its refcount counts the references that sb_edge() and sb_root() add. */
static inline uint32_t sb_node(struct sb *b, uint32_t type)
{
	b->nodes = sb_room(b->nodes, b->n_nodes, sizeof(*b->nodes));
	b->nodes[b->n_nodes] = (struct snapshot_node){.addr = sb_addr(b->n_nodes),
		.bytes = 64,
		.type = type,
		.flags = SNAPSHOT_NODE_TRACKED};
	return b->n_nodes++;
}

static inline void sb_edge(struct sb *b, uint32_t from, uint32_t to, uint32_t kind, uint32_t arg)
{
	b->edges = sb_room(b->edges, b->n_edges, sizeof(*b->edges));
	b->edges[b->n_edges++] =
		(struct sb_edge){.from = from, .e = {.to = sb_addr(to), .kind = kind, .arg = arg}};
	b->nodes[from].n_edges++;
	if (to < b->n_nodes)
		b->nodes[to].refcount++;
}

static inline void sb_named(
	struct sb *b, uint32_t from, uint32_t to, uint32_t kind, const char *name)
{
	sb_edge(b, from, to, kind, sb_string(b, name));
}

static inline void sb_root(struct sb *b, uint32_t node, uint32_t kind, const char *name,
	uint32_t edge_kind, const char *edge)
{
	b->roots = sb_room(b->roots, b->n_roots, sizeof(*b->roots));
	b->roots[b->n_roots++] = (struct snapshot_root){.addr = sb_addr(node),
		.kind = kind,
		.name = sb_string(b, name),
		.edge_kind = edge_kind,
		.edge_arg = sb_string(b, edge)};
	b->nodes[node].refcount++;
}

static inline void sb_holder(struct sb *b, uint32_t node, uint32_t kind, const char *name)
{
	b->holders = sb_room(b->holders, b->n_holders, sizeof(*b->holders));
	b->holders[b->n_holders++] = (struct snapshot_holder){
		.addr = sb_addr(node), .kind = kind, .name = sb_string(b, name)};
}

/* A module with its dict, which is returned; names in it are added by EDGE_KEY. */
static inline uint32_t sb_module(struct sb *b, const char *name)
{
	uint32_t module = sb_node(b, sb_type(b, "module", SB_STATIC));
	uint32_t dict = sb_node(b, sb_type(b, "dict", SB_STATIC));

	b->nodes[module].name = sb_string(b, name);
	sb_edge(b, module, dict, EDGE_DICT, 0);
	sb_root(b, module, ROOT_MODULE, name, EDGE_PLAIN, "");
	return dict;
}

struct sb_file {
	unsigned char *bytes;
	size_t n;
};

static inline void sb_put(struct sb_file *raw, const void *p, size_t n)
{
	raw->bytes = realloc(raw->bytes, raw->n + n + 1);
	assert(raw->bytes);
	if (n)
		memcpy(raw->bytes + raw->n, p, n);
	raw->n += n;
}

static inline void sb_section(struct sb_file *raw, uint32_t kind, const void *p, size_t n)
{
	static const char zeros[8];
	struct snapshot_section s = {.kind = kind, .bytes = n};

	sb_put(raw, &s, sizeof(s));
	sb_put(raw, p, n);
	sb_put(raw, zeros, -n & 7);
}

/* The content of the zstd frame. */
static inline struct sb_file sb_sections(struct sb *b)
{
	struct snapshot_edge *edges = malloc((b->n_edges + 1) * sizeof(*edges));
	uint32_t *at = calloc(b->n_nodes + 1, sizeof(*at));
	struct sb_file raw = {0}, text = {0};
	uint32_t head[2];

	sb_string(b, "");
	assert(edges && at);
	for (uint32_t i = 0; i < b->n_nodes; i++)
		at[i + 1] = at[i] + b->nodes[i].n_edges;
	for (uint32_t i = 0; i < b->n_edges; i++)
		edges[at[b->edges[i].from]++] = b->edges[i].e;

	head[0] = b->n_strings;
	head[1] = 0;
	sb_put(&text, head, sizeof(head));
	for (uint32_t i = 0; i < b->n_strings; i++) {
		uint32_t n = (uint32_t)strlen(b->strings[i]);

		sb_put(&text, &n, sizeof(n));
	}
	for (uint32_t i = 0; i < b->n_strings; i++)
		sb_put(&text, b->strings[i], strlen(b->strings[i]));

	if (b->meta)
		sb_section(&raw, SNAPSHOT_META, b->meta, strlen(b->meta));
	sb_section(&raw, SNAPSHOT_STRINGS, text.bytes, text.n);
	sb_section(&raw, SNAPSHOT_TYPES, b->types, b->n_types * sizeof(*b->types));
	if (b->unknown_kind)
		sb_section(&raw, b->unknown_kind, "whatever it is", 14);
	sb_section(&raw, SNAPSHOT_NODES, b->nodes, b->n_nodes * sizeof(*b->nodes));
	sb_section(&raw, SNAPSHOT_EDGES, edges, b->n_edges * sizeof(*edges));
	sb_section(&raw, SNAPSHOT_ROOTS, b->roots, b->n_roots * sizeof(*b->roots));
	if (b->n_holders)
		sb_section(&raw, SNAPSHOT_HOLDERS, b->holders, b->n_holders * sizeof(*b->holders));
	sb_section(&raw, SNAPSHOT_END, NULL, 0);
	free(text.bytes);
	free(edges);
	free(at);
	return raw;
}

/* The whole file, around content that a test may have damaged. */
static inline struct sb_file sb_pack(const struct sb_file *raw, uint64_t nodes, uint64_t edges)
{
	struct snapshot_header h = {.magic = SNAPSHOT_MAGIC,
		.version = SNAPSHOT_VERSION,
		.header_bytes = sizeof(h),
		.nodes = nodes,
		.edges = edges};
	size_t bound = ZSTD_compressBound(raw->n);
	ZSTD_CCtx *z = ZSTD_createCCtx();
	struct sb_file file = {.bytes = malloc(sizeof(h) + bound), .n = sizeof(h)};
	size_t n;

	assert(z && file.bytes);
	memcpy(file.bytes, SNAPSHOT_MAGIC, 8);
	memcpy(file.bytes, &h, sizeof(h));
	ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 1);
	n = ZSTD_compress2(z, file.bytes + sizeof(h), bound, raw->bytes, raw->n);
	assert(!ZSTD_isError(n));
	file.n += n;
	ZSTD_freeCCtx(z);
	return file;
}

static inline struct sb_file sb_build(struct sb *b)
{
	struct sb_file raw = sb_sections(b), file = sb_pack(&raw, b->n_nodes, b->n_edges);

	free(raw.bytes);
	return file;
}

static inline void sb_release(struct sb *b)
{
	for (uint32_t i = 0; i < b->n_strings; i++)
		free(b->strings[i]);
	free(b->strings);
	free(b->types);
	free(b->nodes);
	free(b->edges);
	free(b->roots);
	free(b->holders);
	*b = (struct sb){0};
}

#endif
