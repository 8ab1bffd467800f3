/* SPDX-License-Identifier: MIT */
#include "capture/snapshot.h"

#include <jansson.h>
#include <string.h>
#include <zstd.h>

#include "daemon/util/units.h"

/* Level 1: a third larger than 3, three times as fast; the disk quota is the daemon's. */
#define LEVEL 1

struct writer {
	int fd;
	ZSTD_CStream *z;
	uint8_t *out;
	size_t cap;
	int error;
};

static void write_all(struct writer *w, const void *buf, size_t n)
{
	const uint8_t *p = buf;

	while (n > 0 && !w->error) {
		ssize_t put = write(w->fd, p, n);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0) {
			w->error = put < 0 ? -errno : -EIO;
			return;
		}
		p += put;
		n -= (size_t)put;
	}
}

static void pack(struct writer *w, const void *buf, size_t n, ZSTD_EndDirective how)
{
	ZSTD_inBuffer in = {.src = buf, .size = n};
	size_t left;

	do {
		ZSTD_outBuffer out = {.dst = w->out, .size = w->cap};

		if (w->error)
			return;
		left = ZSTD_compressStream2(w->z, &out, &in, how);
		if (ZSTD_isError(left)) {
			w->error = -EIO;
			return;
		}
		write_all(w, w->out, out.pos);
	} while (how == ZSTD_e_end ? left > 0 : in.pos < in.size);
}

static void put(struct writer *w, const void *buf, size_t n)
{
	pack(w, buf, n, ZSTD_e_continue);
}

static void begin(struct writer *w, uint32_t kind, uint64_t bytes)
{
	const struct snapshot_section s = {.kind = kind, .bytes = bytes};

	put(w, &s, sizeof(s));
}

static void finish(struct writer *w, uint64_t bytes)
{
	static const char zeros[8];

	put(w, zeros, (size_t)(-bytes & 7));
}

static void section(struct writer *w, uint32_t kind, const void *buf, uint64_t bytes)
{
	begin(w, kind, bytes);
	if (bytes)
		put(w, buf, bytes);
	finish(w, bytes);
}

static void section_strings(struct writer *w, const struct strings *s)
{
	const uint32_t head[2] = {MAX(s->n, 1u), 0};
	uint64_t bytes = sizeof(head) + 4ULL * head[0] + s->n_bytes;
	const uint32_t none = 0;

	begin(w, SNAPSHOT_STRINGS, bytes);
	put(w, head, sizeof(head));
	if (s->n == 0)
		put(w, &none, sizeof(none));
	for (uint32_t i = 0; i < s->n; i++)
		put(w, &s->v[i].length, sizeof(uint32_t));
	if (s->n_bytes)
		put(w, s->bytes, s->n_bytes); /* in the order of their numbers: never reused */
	finish(w, bytes);
}

static char *meta(const struct job *j, int64_t at_ms)
{
	json_t *truncated, *o;
	char at[RFC3339_MAX];
	char *text;

	truncated = j->level ? json_pack("{s:s, s:s}", "level", job_level(j->level), "reason",
				       j->truncated_why)
				 : json_null();
	/* comm is whatever the process calls itself; jansson takes only UTF-8 */
	json_t *comm = json_string(j->info.comm);
	if (!comm)
		comm = json_string("?");
	o = json_pack("{s:s, s:i, s:o, s:s, s:s, s:I, s:I, s:I, s:i, s:o, s:i, s:I}", "at",
		format_rfc3339(at, sizeof(at), at_ms), "pid", (int)j->pid, "comm", comm, "python",
		j->python->version, "build_id", j->python->build_id, "pause_us",
		(json_int_t)((j->stop_ns + j->reap_ns) / 1000), "predicted_pause_us",
		(json_int_t)(j->predicted_ns / 1000), "duration_ms",
		(json_int_t)((now_monotonic_ns() - j->began_ns) / 1000000), "skipped",
		(int)j->skipped, "truncated", truncated, "tries", (int)j->tries, "gate_stops_us",
		(json_int_t)(j->gate_stops_ns / 1000));
	if (!o)
		return NULL;
	text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	return text;
}

int snapshot_write(const struct job *j, const struct graph *g, const struct strings *s,
	int64_t at_ms, struct err *err)
{
	struct snapshot_header h = {.magic = SNAPSHOT_MAGIC,
		.version = SNAPSHOT_VERSION,
		.header_bytes = sizeof(h),
		.nodes = g->n_nodes,
		.edges = g->n_edges};
	struct writer w = {.fd = j->out};
	char *m = meta(j, at_ms);

	w.z = ZSTD_createCStream();
	w.cap = ZSTD_CStreamOutSize();
	w.out = malloc(w.cap);
	if (!m || !w.z || !w.out ||
		ZSTD_isError(ZSTD_CCtx_setParameter(w.z, ZSTD_c_compressionLevel, LEVEL)) ||
		ZSTD_isError(ZSTD_CCtx_setParameter(w.z, ZSTD_c_checksumFlag, 1))) {
		w.error = -ENOMEM;
		goto done;
	}
	write_all(&w, &h, sizeof(h));
	section(&w, SNAPSHOT_META, m, strlen(m));
	section_strings(&w, s);
	section(&w, SNAPSHOT_TYPES, g->types, g->n_types * sizeof(*g->types));
	section(&w, SNAPSHOT_NODES, g->nodes, g->n_nodes * sizeof(*g->nodes));
	section(&w, SNAPSHOT_EDGES, g->edges, g->n_edges * sizeof(*g->edges));
	section(&w, SNAPSHOT_ROOTS, g->roots, g->n_roots * sizeof(*g->roots));
	if (g->n_holders)
		section(&w, SNAPSHOT_HOLDERS, g->holders, g->n_holders * sizeof(*g->holders));
	begin(&w, SNAPSHOT_END, 0);
	pack(&w, NULL, 0, ZSTD_e_end);
done:
	ZSTD_freeCStream(w.z);
	free(w.out);
	free(m);
	if (w.error)
		return err_set(err, w.error, "cannot write the snapshot: %s", strerror(-w.error));
	return 0;
}
