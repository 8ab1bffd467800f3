/* SPDX-License-Identifier: MIT */
/*
 * What explaining a heap costs: writes snapshots of a shape and a size, lets pyleak-explain make
 * the answer, the picture and the page, and shows wall time, CPU time and peak memory.
 *
 *   explain [--build DIR] [--size N]... [SHAPE]...
 *
 * Shapes: service (a dict of sessions with what belongs to them, the usual case), chain (a linked
 * list), star (one list holds all), deep (a list in a list in a list), hub (all refer to one
 * object), clique (all refer to all).
 */
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <zstd.h>

#include "daemon/util/macros.h"
#include "daemon/util/units.h"
#include "include/pyleak/snapshot.h"

enum { TYPE_MODULE, TYPE_DICT, TYPE_LIST, TYPE_STR, TYPE_INT, TYPE_T, N_TYPES };
static const char *const strings[] = {
	"", "module", "dict", "list", "str", "int", "app.T", "app", "ALL", "next", "data", "name"};
enum { NAME_APP = 7, NAME_ALL, NAME_NEXT, NAME_DATA, NAME_NAME };

struct heap {
	struct snapshot_node *nodes;
	struct snapshot_edge *edges;
	uint64_t n_nodes, n_edges, cap_nodes, cap_edges;
};

static uint64_t addr_of(uint64_t node)
{
	return 0x7f0000000000ull + node * 64;
}

static void *room(void *array, uint64_t n, uint64_t *cap, size_t size)
{
	if (n < *cap)
		return array;
	*cap = *cap ? *cap * 2 : 1 << 16;
	array = realloc(array, *cap * size);
	if (!array) {
		fputs("explain: out of memory\n", stderr);
		exit(1);
	}
	return array;
}

static uint64_t node(struct heap *h, uint32_t type)
{
	h->nodes = room(h->nodes, h->n_nodes, &h->cap_nodes, sizeof(*h->nodes));
	h->nodes[h->n_nodes] = (struct snapshot_node){.addr = addr_of(h->n_nodes),
		.bytes = 64,
		.refcount = 1,
		.type = type,
		.flags = SNAPSHOT_NODE_TRACKED};
	return h->n_nodes++;
}

/* Edges of the newest node that has any: they are written in the order of their sources. */
static void edge(struct heap *h, uint64_t from, uint64_t to, uint32_t kind, uint32_t arg)
{
	h->edges = room(h->edges, h->n_edges, &h->cap_edges, sizeof(*h->edges));
	h->edges[h->n_edges++] =
		(struct snapshot_edge){.to = addr_of(to), .kind = kind, .arg = arg};
	h->nodes[from].n_edges++;
}

/* module app -> dict -> ALL, which is returned; its edges come next. */
static uint64_t begin(struct heap *h, uint32_t type_of_all)
{
	node(h, TYPE_MODULE);
	node(h, TYPE_DICT);
	node(h, type_of_all);
	edge(h, 0, 1, EDGE_DICT, 0);
	edge(h, 1, 2, EDGE_KEY, NAME_ALL);
	return 2;
}

static void make_service(struct heap *h, uint64_t n)
{
	uint64_t all = begin(h, TYPE_DICT), sessions = n / 8;

	/* A session has a __dict__, a name, a number, a dict of data and three values in it. */
	for (uint64_t i = 0; i < sessions; i++)
		edge(h, all, 3 + 8 * i, EDGE_ITEM, 0);
	for (uint64_t i = 0; i < sessions; i++) {
		uint64_t at = node(h, TYPE_T);

		for (int k = 0; k < 7; k++)
			node(h, (uint32_t[]){TYPE_DICT, TYPE_STR, TYPE_INT, TYPE_DICT, TYPE_STR,
					TYPE_LIST, TYPE_INT}[k]);
		edge(h, at, at + 1, EDGE_DICT, 0);
		edge(h, at + 1, at + 2, EDGE_KEY, NAME_NAME);
		edge(h, at + 1, at + 3, EDGE_KEY, NAME_NEXT);
		edge(h, at + 1, at + 4, EDGE_KEY, NAME_DATA);
		for (int k = 5; k < 8; k++)
			edge(h, at + 4, at + (uint64_t)k, EDGE_ITEM, 0);
		for (uint32_t k = 0; k < 24; k++) /* shared small numbers */
			edge(h, at + 6, 3 + 8 * (k % sessions) + 7, EDGE_INDEX, k);
	}
}

static void make_line(struct heap *h, uint64_t n, uint32_t type, uint32_t kind, uint32_t arg)
{
	uint64_t last = begin(h, type);

	for (uint64_t i = 3; i < n; i++) {
		/* The end of the line is what is asked about. */
		uint64_t next = node(h, i + 1 < n ? type : TYPE_T);

		edge(h, last, next, kind, arg);
		last = next;
	}
}

static void make_star(struct heap *h, uint64_t n, bool hub)
{
	uint64_t all = begin(h, TYPE_LIST);

	for (uint64_t i = 3; i < n; i++)
		node(h, TYPE_T);
	for (uint64_t i = 3; i < n; i++)
		edge(h, all, i, EDGE_INDEX, (uint32_t)i - 3);
	for (uint64_t i = 4; hub && i < n; i++)
		edge(h, i, 3, EDGE_ATTR, NAME_NEXT);
}

/* Four references an object of the size asked for, between as few as can have them. */
static void make_clique(struct heap *h, uint64_t n)
{
	uint64_t all = begin(h, TYPE_LIST), k = (uint64_t)sqrt((double)(4 * n));

	for (uint64_t i = 0; i < k; i++)
		node(h, TYPE_T);
	edge(h, all, 3, EDGE_INDEX, 0);
	for (uint64_t i = 0; i < k; i++) {
		for (uint64_t j = 0; j < k; j++)
			edge(h, 3 + i, 3 + j, EDGE_ATTR, NAME_NEXT);
	}
}

static const char *const shapes[] = {"service", "chain", "star", "deep", "hub", "clique"};

static bool make(struct heap *h, const char *shape, uint64_t n)
{
	if (!strcmp(shape, "service"))
		make_service(h, n);
	else if (!strcmp(shape, "chain"))
		make_line(h, n, TYPE_T, EDGE_ATTR, NAME_NEXT);
	else if (!strcmp(shape, "deep"))
		make_line(h, n, TYPE_LIST, EDGE_INDEX, 0);
	else if (!strcmp(shape, "star") || !strcmp(shape, "hub"))
		make_star(h, n, shape[0] == 'h');
	else if (!strcmp(shape, "clique"))
		make_clique(h, n);
	else
		return false;
	/* Nothing is held by C code: as many references as there are. */
	for (uint64_t i = 0; i < h->n_nodes; i++)
		h->nodes[i].refcount = 0;
	for (uint64_t i = 0; i < h->n_edges; i++)
		h->nodes[(h->edges[i].to - addr_of(0)) / 64].refcount++;
	return true;
}

/* ---- the file ------------------------------------------------------------------------------ */

static void put(ZSTD_CStream *z, FILE *f, const void *p, size_t n, ZSTD_EndDirective how)
{
	static char out[1 << 17];
	ZSTD_inBuffer in = {p, n, 0};
	size_t left;

	do {
		ZSTD_outBuffer o = {out, sizeof(out), 0};

		left = ZSTD_compressStream2(z, &o, &in, how);
		fwrite(out, 1, o.pos, f);
	} while (how == ZSTD_e_end ? left > 0 && !ZSTD_isError(left) : in.pos < in.size);
}

static void section(ZSTD_CStream *z, FILE *f, uint32_t kind, const void *p, uint64_t n)
{
	const struct snapshot_section s = {.kind = kind, .bytes = n};
	static const char zeros[8];

	put(z, f, &s, sizeof(s), ZSTD_e_continue);
	if (n)
		put(z, f, p, n, ZSTD_e_continue);
	put(z, f, zeros, -n & 7, ZSTD_e_continue);
}

static void write_file(const char *path, const struct heap *h)
{
	struct snapshot_header head = {.magic = SNAPSHOT_MAGIC,
		.version = SNAPSHOT_VERSION,
		.header_bytes = sizeof(head),
		.nodes = h->n_nodes,
		.edges = h->n_edges};
	struct snapshot_type types[N_TYPES] = {{0}};
	struct snapshot_root root = {
		.addr = addr_of(0), .kind = ROOT_MODULE, .name = NAME_APP, .edge_kind = EDGE_PLAIN};
	static const char meta[] = "{\"pid\": 1}";
	uint32_t text[2 + ARRAY_SIZE(strings)] = {ARRAY_SIZE(strings), 0};
	char all[1024] = "", block[sizeof(text) + sizeof(all)];
	ZSTD_CStream *z = ZSTD_createCStream();
	FILE *f = fopen(path, "we");

	if (!f || !z) {
		perror(path);
		exit(1);
	}
	for (uint32_t i = 0; i < N_TYPES; i++)
		types[i] = (struct snapshot_type){.addr = 0x1000 + 64 * i,
			.name = i + 1,
			.flags = i == TYPE_T ? 1 << 9 : 0};
	for (size_t i = 0; i < ARRAY_SIZE(strings); i++) {
		text[2 + i] = (uint32_t)strlen(strings[i]);
		strcat(all, strings[i]);
	}
	memcpy(block, text, sizeof(text));
	memcpy(block + sizeof(text), all, strlen(all));
	fwrite(&head, sizeof(head), 1, f);
	ZSTD_CCtx_setParameter(z, ZSTD_c_compressionLevel, 1);
	ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 1);
	section(z, f, SNAPSHOT_META, meta, strlen(meta));
	section(z, f, SNAPSHOT_STRINGS, block, sizeof(text) + strlen(all));
	section(z, f, SNAPSHOT_TYPES, types, sizeof(types));
	section(z, f, SNAPSHOT_NODES, h->nodes, h->n_nodes * sizeof(*h->nodes));
	section(z, f, SNAPSHOT_EDGES, h->edges, h->n_edges * sizeof(*h->edges));
	section(z, f, SNAPSHOT_ROOTS, &root, sizeof(root));
	section(z, f, SNAPSHOT_END, NULL, 0);
	put(z, f, NULL, 0, ZSTD_e_end);
	ZSTD_freeCStream(z);
	if (fclose(f)) {
		perror(path);
		exit(1);
	}
}

/* ---- measuring ----------------------------------------------------------------------------- */

/* In a process of its own, so that the peak is that of this run; its largest process counts. */
static int run(char *const argv[], double *ret_wall, double *ret_cpu, double *ret_mib)
{
	int talk[2], status;
	double got[4] = {0};
	pid_t pid;

	if (pipe2(talk, O_CLOEXEC) < 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		uint64_t began = now_monotonic_ns();
		struct rusage u;
		pid_t worker = fork();

		if (worker == 0) {
			execv(argv[0], argv);
			_exit(127);
		}
		waitpid(worker, &status, 0);
		getrusage(RUSAGE_CHILDREN, &u);
		got[0] = (double)(now_monotonic_ns() - began) / 1e9;
		got[1] = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
			 (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
		got[2] = (double)u.ru_maxrss / 1024;
		got[3] = WIFEXITED(status) ? WEXITSTATUS(status) : 255;
		_exit(write(talk[1], got, sizeof(got)) != sizeof(got));
	}
	close(talk[1]);
	if (read(talk[0], got, sizeof(got)) != sizeof(got))
		got[3] = 255;
	close(talk[0]);
	waitpid(pid, &status, 0);
	*ret_wall = got[0];
	*ret_cpu = got[1];
	*ret_mib = got[2];
	return (int)got[3];
}

static void measure(const char *build, const char *shape, uint64_t n)
{
	char folder[] = "/tmp/pyleak-explain-XXXXXX", path[128], command[256], program[4096];
	char type[] = "app.T", option[] = "--type";
	char *argv[] = {program, option, type, folder, NULL};
	struct heap h = {0};
	double wall = 0, cpu = 0, mib = 0;
	int code;

	if (!mkdtemp(folder)) {
		perror(folder);
		exit(1);
	}
	snprintf(program, sizeof(program), "%s/pyleak-explain", build);
	snprintf(path, sizeof(path), "%s/snapshot", folder);
	if (!make(&h, shape, n)) {
		fprintf(stderr, "explain: no shape %s\n", shape);
		exit(2);
	}
	write_file(path, &h);
	free(h.nodes);
	free(h.edges);
	code = run(argv, &wall, &cpu, &mib);
	printf("| %s | %llu | %llu | %.2f s | %.2f s | %.0f MiB |%s\n", shape,
		(unsigned long long)h.n_nodes, (unsigned long long)h.n_edges, wall, cpu, mib,
		code ? " FAILED" : "");
	fflush(stdout);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	if (system(command) != 0)
		perror(command);
}

int main(int argc, char **argv)
{
	const char *build = "build", *asked[16];
	uint64_t sizes[8];
	size_t n_sizes = 0, n_asked = 0;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--build") && i + 1 < argc)
			build = argv[++i];
		else if (!strcmp(argv[i], "--size") && i + 1 < argc && n_sizes < 8)
			sizes[n_sizes++] = strtoull(argv[++i], NULL, 10);
		else if (n_asked < ARRAY_SIZE(asked))
			asked[n_asked++] = argv[i];
	}
	if (!n_sizes)
		sizes[n_sizes++] = 1000000;
	if (!n_asked) {
		for (; n_asked < ARRAY_SIZE(shapes); n_asked++)
			asked[n_asked] = shapes[n_asked];
	}
	puts("| shape | objects | references | wall | CPU | peak |\n|---|--:|--:|--:|--:|--:|");
	for (size_t i = 0; i < n_asked; i++) {
		for (size_t k = 0; k < n_sizes; k++)
			measure(build, asked[i], sizes[k]);
	}
	return 0;
}
