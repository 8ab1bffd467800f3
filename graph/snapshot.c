/* SPDX-License-Identifier: MIT */
#include "graph/snapshot.h"

#include <string.h>
#include <zstd.h>

#include "daemon/util/units.h"

#define MEMORY_DEFAULT   (16ull << 30)
#define HEADER_BYTES_MAX 4096u
/* No object is larger: sums of sizes then cannot wrap before 2^16 such objects, and a wrapped sum
 * harms nothing. */
#define NODE_BYTES_MAX (1ull << 47)

struct reader {
	int fd;
	const char *name;
	struct err *err;
	ZSTD_DStream *z;
	unsigned char *buf;
	size_t buf_size;
	ZSTD_inBuffer in;
	bool ended; /* the frame is complete, its checksum was right */
};

static void reader_release(struct reader *r)
{
	ZSTD_freeDStream(r->z);
	free(r->buf);
}

static int damaged(struct reader *r, const char *what)
{
	return err_set(
		r->err, -EBADMSG, "%s: damaged snapshot: %s; take the dump again", r->name, what);
}

static int read_some(struct reader *r, void *to, size_t max, size_t *ret_n)
{
	ssize_t n;

	do {
		n = read(r->fd, to, max);
	} while (n < 0 && errno == EINTR);
	if (n < 0) {
		int e = errno;

		return err_set(r->err, -e, "%s: cannot read: %s", r->name, strerror(e));
	}
	*ret_n = (size_t)n;
	return 0;
}

/* The next n bytes of the frame. */
/* As much as one step gives; none of it at the end of the file. */
static int decompress(struct reader *r, ZSTD_outBuffer *out)
{
	size_t left;

	if (r->in.pos == r->in.size) {
		int rc = read_some(r, r->buf, r->buf_size, &r->in.size);

		if (rc < 0)
			return rc;
		r->in.pos = 0;
	}
	left = ZSTD_decompressStream(r->z, out, &r->in);
	if (ZSTD_isError(left))
		return err_set(r->err, -EBADMSG, "%s: damaged snapshot: %s; take the dump again",
			r->name, ZSTD_getErrorName(left));
	r->ended = left == 0;
	return 0;
}

static int take(struct reader *r, void *to, size_t n)
{
	ZSTD_outBuffer out = {.dst = to, .size = n};

	while (out.pos < out.size) {
		size_t before = out.pos;
		int rc;

		if (r->ended)
			return damaged(r, "it ends too early");
		rc = decompress(r, &out);
		if (rc < 0)
			return rc;
		if (r->in.size == 0 && out.pos == before && !r->ended)
			return damaged(r, "it was cut off");
	}
	return 0;
}

static int skip(struct reader *r, uint64_t n)
{
	char scratch[4096];

	while (n > 0) {
		size_t part = (size_t)MIN(n, (uint64_t)sizeof(scratch));
		int rc = take(r, scratch, part);

		if (rc < 0)
			return rc;
		n -= part;
	}
	return 0;
}

/* Behind END: the frame must end (only then was its checksum verified), and the file with it. */
static int check_end(struct reader *r)
{
	char byte;
	size_t n;
	int rc;

	while (!r->ended) {
		ZSTD_outBuffer out = {.dst = &byte, .size = 1};

		rc = decompress(r, &out);
		if (rc < 0)
			return rc;
		if (out.pos)
			return damaged(r, "something follows its end");
		if (r->in.size == 0 && !r->ended)
			return damaged(r, "it was cut off");
	}
	if (r->in.pos < r->in.size)
		return damaged(r, "something follows its end");
	rc = read_some(r, &byte, 1, &n);
	if (rc < 0)
		return rc;
	return n ? damaged(r, "something follows its end") : 0;
}

/* Length of the UTF-8 sequence at s (n bytes left) if it is well-formed and fit to be shown, else
 * 0. Not fit: control characters (a terminal or a log may act on them) and the bidirectional
 * overrides (a name could pose as another one). */
static unsigned int utf8_shown(const unsigned char *s, size_t n)
{
	if (s[0] < 0x80)
		return s[0] >= 0x20 && s[0] != 0x7f;
	if (s[0] < 0xc2 || s[0] > 0xf4)
		return 0;
	if (s[0] < 0xe0)
		return n >= 2 && (s[1] & 0xc0) == 0x80 && !(s[0] == 0xc2 && s[1] < 0xa0) ? 2 : 0;
	if (n < 3 || (s[1] & 0xc0) != 0x80 || (s[2] & 0xc0) != 0x80)
		return 0;
	if (s[0] < 0xf0) {
		unsigned int c = (s[0] & 0x0fu) << 12 | (s[1] & 0x3fu) << 6 | (s[2] & 0x3fu);

		if (c < 0x800 || (c >= 0xd800 && c <= 0xdfff))
			return 0;
		if ((c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c >= 0xfffe)
			return 0;
		return 3;
	}
	if (n < 4 || (s[3] & 0xc0) != 0x80)
		return 0;
	if ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return 4;
}

static void sanitise(char *text, size_t n)
{
	unsigned char *s = (unsigned char *)text;

	for (size_t i = 0; i < n;) {
		unsigned int k = utf8_shown(s + i, n - i);

		if (!k)
			s[i] = '?';
		i += k ? k : 1;
	}
}

/* ---- sections ------------------------------------------------------------------------------ */

static int load_meta(struct reader *r, struct snapshot *s, uint64_t bytes)
{
	if (bytes > SNAPSHOT_MAX_META)
		return damaged(r, "its description is too long");
	free(s->meta);
	s->meta = malloc(bytes + 1);
	if (!s->meta)
		return -ENOMEM;
	s->meta[bytes] = 0;
	return take(r, s->meta, bytes);
}

static int load_strings(struct reader *r, struct snapshot *s, uint64_t bytes)
{
	uint32_t head[2], *length;
	uint64_t total = 0, from = 0;
	int rc;

	if (bytes < sizeof(head))
		return damaged(r, "its strings have no count");
	rc = take(r, head, sizeof(head));
	if (rc < 0)
		return rc;
	if (head[0] < 1 || head[0] > SNAPSHOT_MAX_STRINGS ||
		bytes - sizeof(head) < (uint64_t)head[0] * 4)
		return damaged(r, "the number of its strings is wrong");
	s->n_strings = head[0];
	/* The lengths are read into the array that will hold the offsets. */
	s->text_from = length = malloc((size_t)s->n_strings * sizeof(*length));
	if (!length)
		return -ENOMEM;
	rc = take(r, length, (size_t)s->n_strings * sizeof(*length));
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < s->n_strings; i++)
		total += length[i];
	if (length[0] != 0 || total > SNAPSHOT_MAX_STRING_BYTES ||
		total != bytes - sizeof(head) - (uint64_t)s->n_strings * 4)
		return damaged(r, "the lengths of its strings are wrong");
	s->text = malloc(total + s->n_strings);
	if (!s->text)
		return -ENOMEM;
	for (uint32_t i = 0; i < s->n_strings; i++) {
		uint32_t n = length[i];

		rc = take(r, s->text + from, n);
		if (rc < 0)
			return rc;
		sanitise(s->text + from, n);
		s->text[from + n] = 0;
		s->text_from[i] = (uint32_t)from;
		from += n + 1;
	}
	return 0;
}

/* An array of `size` a piece: how many, and the memory with its content. */
static int load_array(struct reader *r, uint64_t bytes, size_t size, uint64_t max, void *ret_array,
	uint32_t *ret_n, const char *what)
{
	char text[80];
	void *array;

	if (bytes % size || bytes / size > max) {
		snprintf(text, sizeof(text), "the size of its %s is wrong", what);
		return damaged(r, text);
	}
	array = malloc(bytes ? bytes : 1);
	if (!array)
		return -ENOMEM;
	*(void **)ret_array = array;
	*ret_n = (uint32_t)(bytes / size);
	return take(r, array, bytes);
}

static int load_types(struct reader *r, struct snapshot *s, uint64_t bytes)
{
	int rc = load_array(
		r, bytes, sizeof(*s->types), SNAPSHOT_MAX_TYPES, &s->types, &s->n_types, "types");

	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < s->n_types; i++) {
		if (s->types[i].name >= s->n_strings)
			return damaged(r, "a type's name is not among its strings");
	}
	return 0;
}

static int load_nodes(
	struct reader *r, struct snapshot *s, uint64_t bytes, uint64_t nodes, uint64_t edges)
{
	uint64_t sum = 0;
	int rc;

	if (bytes != nodes * sizeof(*s->nodes))
		return damaged(r, "the number of its objects is not what its header says");
	rc = load_array(r, bytes, sizeof(*s->nodes), nodes, &s->nodes, &s->n_nodes, "objects");
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < s->n_nodes; i++) {
		struct snapshot_node *n = &s->nodes[i];

		if (n->type >= s->n_types || n->name >= s->n_strings || n->addr == 0)
			return damaged(r, "an object's type, name or address is wrong");
		n->bytes = MIN(n->bytes, NODE_BYTES_MAX);
		sum += n->n_edges;
	}
	if (sum != edges)
		return damaged(r, "its objects' references do not add up");
	return 0;
}

static int load_edges(struct reader *r, struct snapshot *s, uint64_t bytes, uint64_t edges)
{
	int rc;

	if (bytes != edges * sizeof(*s->edges))
		return damaged(r, "the number of its references is not what its header says");
	rc = load_array(r, bytes, sizeof(*s->edges), edges, &s->edges, &s->n_edges, "references");
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < s->n_edges; i++) {
		struct snapshot_edge *e = &s->edges[i];

		switch (e->kind) {
		case EDGE_ATTR:
		case EDGE_KEY:
		case EDGE_CELL:
		case EDGE_LOCAL:
			if (e->arg >= s->n_strings)
				return damaged(r, "a reference's name is not among its strings");
			break;
		case EDGE_INDEX:
			break;
		case EDGE_DICT:
		case EDGE_ITEM:
		case EDGE_DICT_KEY:
		case EDGE_TYPE:
		case EDGE_MEMBER:
			e->arg = 0;
			break;
		default:
			e->kind = EDGE_PLAIN;
			e->arg = 0;
		}
	}
	return 0;
}

static int load_roots(struct reader *r, struct snapshot *s, uint64_t bytes)
{
	int rc = load_array(
		r, bytes, sizeof(*s->roots), SNAPSHOT_MAX_ROOTS, &s->roots, &s->n_roots, "roots");

	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < s->n_roots; i++) {
		struct snapshot_root *root = &s->roots[i];

		if (root->name >= s->n_strings)
			return damaged(r, "a root's name is not among its strings");
		if (root->kind < ROOT_MODULE || root->kind > ROOT_FRAME)
			root->kind = ROOT_INTERPRETER;
		switch (root->edge_kind) {
		case EDGE_ATTR:
		case EDGE_KEY:
		case EDGE_CELL:
		case EDGE_LOCAL:
			if (root->edge_arg >= s->n_strings)
				return damaged(r, "a root's name is not among its strings");
			break;
		case EDGE_INDEX:
			break;
		case EDGE_DICT:
			root->edge_arg = 0;
			break;
		default:
			root->edge_kind = EDGE_PLAIN;
			root->edge_arg = 0;
		}
	}
	return 0;
}

static int load_holders(struct reader *r, struct snapshot *s, uint64_t bytes, uint64_t nodes)
{
	int rc;

	if (s->holders)
		return damaged(r, "it has two lists of what C code holds");
	rc = load_array(
		r, bytes, sizeof(*s->holders), nodes, &s->holders, &s->n_holders, "holders");
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < s->n_holders; i++) {
		if (s->holders[i].name >= s->n_strings)
			return damaged(r, "a holder's name is not among its strings");
	}
	return 0;
}

static int load_header(struct reader *r, uint64_t memory_max, struct snapshot_header *h)
{
	unsigned char *p = (unsigned char *)h;
	char need_text[32], max_text[32];
	uint64_t need;
	size_t have = 0, n;
	int rc;

	while (have < sizeof(*h)) {
		rc = read_some(r, p + have, sizeof(*h) - have, &n);
		if (rc < 0)
			return rc;
		if (!n)
			break;
		have += n;
	}
	if (have < sizeof(h->magic) || memcmp(h->magic, SNAPSHOT_MAGIC, sizeof(h->magic)) != 0)
		return err_set(r->err, -EPROTONOSUPPORT, "%s: %s", r->name,
			have == 0 ? "an empty file, not a snapshot: the capture was not finished"
				  : "not a pyleak snapshot");
	if (have < sizeof(*h))
		return damaged(r, "it was cut off");
	if (h->version != SNAPSHOT_VERSION)
		return err_set(r->err, -EPROTONOSUPPORT,
			"%s: snapshot format %u is not known here (this is format %u): use the "
			"pyleak "
			"that wrote it",
			r->name, h->version, SNAPSHOT_VERSION);
	if (h->header_bytes < sizeof(*h) || h->header_bytes > HEADER_BYTES_MAX)
		return damaged(r, "its header has a wrong size");
	if (h->nodes > SNAPSHOT_MAX_NODES || h->edges > SNAPSHOT_MAX_EDGES)
		return err_set(r->err, -EFBIG,
			"%s: %llu objects with %llu references are more than can be analysed",
			r->name, (unsigned long long)h->nodes, (unsigned long long)h->edges);
	need = h->nodes * sizeof(struct snapshot_node) + h->edges * sizeof(struct snapshot_edge);
	if (need > memory_max)
		return err_set(r->err, -EFBIG,
			"%s: %llu objects with %llu references need %s, more than the %s allowed",
			r->name, (unsigned long long)h->nodes, (unsigned long long)h->edges,
			format_size(need_text, sizeof(need_text), need),
			format_size(max_text, sizeof(max_text), memory_max));
	for (size_t left = h->header_bytes - sizeof(*h); left > 0; left -= n) {
		char scratch[HEADER_BYTES_MAX];

		rc = read_some(r, scratch, left, &n);
		if (rc < 0)
			return rc;
		if (!n)
			return damaged(r, "it was cut off");
	}
	return 0;
}

static int load_sections(struct reader *r, struct snapshot *s, const struct snapshot_header *h)
{
	uint32_t last = 0;

	for (;;) {
		struct snapshot_section section;
		int rc = take(r, &section, sizeof(section));

		if (rc < 0)
			return rc;
		if (section.kind >= SNAPSHOT_META && section.kind <= SNAPSHOT_END) {
			/* In order and each once; only META may be missing. */
			if (section.kind != last + 1 &&
				!(last == 0 && section.kind == SNAPSHOT_STRINGS))
				return damaged(r, "its sections are not in order");
			last = section.kind;
		}
		switch (section.kind) {
		case SNAPSHOT_META:
			rc = load_meta(r, s, section.bytes);
			break;
		case SNAPSHOT_STRINGS:
			rc = load_strings(r, s, section.bytes);
			break;
		case SNAPSHOT_TYPES:
			rc = load_types(r, s, section.bytes);
			break;
		case SNAPSHOT_NODES:
			rc = load_nodes(r, s, section.bytes, h->nodes, h->edges);
			break;
		case SNAPSHOT_EDGES:
			rc = load_edges(r, s, section.bytes, h->edges);
			break;
		case SNAPSHOT_ROOTS:
			rc = load_roots(r, s, section.bytes);
			break;
		case SNAPSHOT_HOLDERS:
			rc = load_holders(r, s, section.bytes, h->nodes);
			break;
		case SNAPSHOT_END:
			return section.bytes ? damaged(r, "its end is not empty") : check_end(r);
		default:
			rc = skip(r, section.bytes);
		}
		if (rc == 0)
			rc = skip(r, -section.bytes & 7);
		if (rc < 0)
			return rc;
	}
}

int snapshot_load(
	struct snapshot *s, int fd, const char *name, uint64_t memory_max, struct err *err)
{
	_cleanup_(reader_release) struct reader r = {.fd = fd, .name = name, .err = err};
	_cleanup_(snapshot_release) struct snapshot new = {0};
	struct snapshot_header h;
	int rc;

	rc = load_header(&r, memory_max ? memory_max : MEMORY_DEFAULT, &h);
	if (rc < 0)
		return rc;
	r.buf_size = ZSTD_DStreamInSize();
	r.buf = malloc(r.buf_size);
	r.z = ZSTD_createDStream();
	new.meta = calloc(1, 1);
	r.in.src = r.buf;
	if (!r.buf || !r.z || !new.meta)
		rc = -ENOMEM;
	else
		rc = load_sections(&r, &new, &h);
	if (rc == -ENOMEM)
		return err_set(err, rc, "%s: not enough memory for %llu objects", name,
			(unsigned long long)h.nodes);
	if (rc < 0)
		return rc;
	*s = new;
	new = (struct snapshot){0};
	return 0;
}

void snapshot_release(struct snapshot *s)
{
	free(s->meta);
	free(s->text);
	free(s->text_from);
	free(s->types);
	free(s->nodes);
	free(s->edges);
	free(s->roots);
	free(s->holders);
	*s = (struct snapshot){0};
}
