/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer over snapshot files and all that is done with one but the drawing. The input is what
 * the zstd frame holds, behind the two totals of the header: compression and checksum would only
 * keep the fuzzer out. From the root of the source, with clang's runtime library installed:
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -DPYLEAK_VERSION='"fuzz"' -I. \
 *     -Iinclude -I/usr/include/graphviz tests/fuzz/fuzz_snapshot.c \
 *     $(ls graph/[!es]*.c graph/explain.c graph/snapshot.c) daemon/util/{err,units,u64map}.c \
 *     -ljansson -lzstd -lcgraph -lgvc -lm -o fuzz_snapshot
 *   ./fuzz_snapshot --seed > corpus/seed; ./fuzz_snapshot -max_len=20000 corpus
 */
#include <sys/mman.h>

#include "graph/ask.h"
#include "graph/render.h"
#include "graph/report.h"
#include "tests/unit/snapshot_builder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* A heap with every kind of reference and root. */
static void write_seed(void)
{
	struct sb b = {
		.meta = "{\"at\": \"2026-11-23T08:25:58.123Z\", \"pid\": 1, \"pause_us\": 1}"};
	uint32_t app = sb_module(&b, "app"), list = sb_node(&b, sb_type(&b, "list", 0)), totals[2];
	struct sb_file raw;

	sb_named(&b, app, list, EDGE_KEY, "L");
	for (uint32_t kind = EDGE_PLAIN; kind <= EDGE_MEMBER; kind++) {
		uint32_t x = sb_node(&b, sb_type(&b, "app.T", SB_HEAP)),
			 y = sb_node(&b, sb_type(&b, "app.U", SB_HEAP));

		sb_edge(&b, list, x, EDGE_INDEX, kind);
		sb_edge(&b, x, y, kind, 1);
		if (kind % 2)
			sb_edge(&b, y, x, EDGE_ATTR, 1);
	}
	sb_root(&b, sb_node(&b, sb_type(&b, "frame", 0)), ROOT_FRAME, "T in f at a.py:1",
		EDGE_PLAIN, "");
	sb_root(&b, sb_node(&b, sb_type(&b, "app.T", SB_HEAP)), ROOT_FRAME, "T", EDGE_LOCAL, "x");
	sb_root(&b, sb_node(&b, sb_type(&b, "dict", 0)), ROOT_INTERPRETER, "sys", EDGE_DICT, "");
	for (int i = 0; i < 4; i++) {
		uint32_t x = sb_node(&b, sb_type(&b, "app.T", SB_HEAP));

		b.nodes[x].refcount = i / 2;
		sb_holder(&b, x, HOLDER_IMAGE + (uint32_t)i, "lib.so: cache");
		sb_edge(&b, x, i % 2 ? x : list, EDGE_ATTR, 1);
	}
	raw = sb_sections(&b);
	totals[0] = b.n_nodes;
	totals[1] = b.n_edges;
	fwrite(totals, sizeof(totals), 1, stdout);
	fwrite(raw.bytes, raw.n, 1, stdout);
	free(raw.bytes);
	sb_release(&b);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	if (*argc == 2 && strcmp((*argv)[1], "--seed") == 0) {
		write_seed();
		exit(fflush(stdout) ? 1 : 0);
	}
	return 0;
}

/* Every question, to the snapshot and to itself. */
static void ask_all(struct graph *g)
{
	static const char *const every[] = {"*"};
	static json_t *meta; /* of one process, so that addresses are compared */

	if (!meta)
		meta = json_pack("{s:i}", "pid", 1);
	for (int verb = ASK_CHAIN; verb <= ASK_EXPORT; verb++) {
		FILE *null = fopen("/dev/null", "w");
		struct ask q = {.verb = (enum ask_verb)verb,
			.g = g,
			.meta = meta,
			.before = g,
			.before_meta = meta,
			.types = every,
			.n_types = 1,
			.max_depth = 3,
			.too_many = 3,
			.json = null,
			.dot = null,
			.heap = null};

		if (!null)
			return;
		(void)ask(&q, NULL);
		fclose(null);
	}
}

static void use(const struct graph *g)
{
	static const char *const globs[] = {"*"};
	struct explain_options o = {.types = globs, .n_types = 1, .max_holders = 4};
	struct explain_document doc = {0};
	struct explanation x;
	FILE *null;

	for (o.n_types = 0; o.n_types < 2; o.n_types++) {
		if (explain(&x, g, &o, NULL) < 0)
			continue;
		json_decref(explain_json(&x, &doc));
		null = fopen("/dev/null", "w");
		if (null) {
			render_dot(null, &x, "caption", NULL, NULL);
			report_write(null, &x, &doc, NULL, NULL);
			fclose(null);
		}
		explanation_release(&x);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sb_file raw = {0}, file;
	struct err err = {{0}};
	uint32_t totals[2];
	struct snapshot s;
	struct graph g;
	int fd;

	if (size < sizeof(totals))
		return 0;
	memcpy(totals, data, sizeof(totals));
	sb_put(&raw, data + sizeof(totals), size - sizeof(totals));
	file = sb_pack(&raw, totals[0], totals[1]);
	fd = memfd_create("snapshot", MFD_CLOEXEC);
	if (fd >= 0 && write(fd, file.bytes, file.n) == (ssize_t)file.n &&
		lseek(fd, 0, SEEK_SET) == 0 &&
		snapshot_load(&s, fd, "fuzz", 256u << 20, &err) == 0 &&
		graph_build(&g, &s, &err) == 0) {
		if (graph_index_referrers(&g, &err) == 0) {
			use(&g);
			ask_all(&g);
		}
		graph_release(&g);
	}
	if (fd >= 0)
		close(fd);
	free(raw.bytes);
	free(file.bytes);
	return 0;
}
