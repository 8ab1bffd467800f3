/* SPDX-License-Identifier: MIT */
#include "daemon/config/source.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define LINE_SHOWN 160 /* characters */

void source_free(struct source *s)
{
	if (!s)
		return;
	free(s->path);
	free(s->text);
	free(s);
}

static void source_freep(struct source **s)
{
	source_free(*s);
}

int source_read(const char *path, struct source **ret, struct err *err)
{
	_cleanup_(source_freep) struct source *s = calloc(1, sizeof(*s));
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (!s)
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	s->path = strdup(path);
	s->text = malloc(SOURCE_BYTES_MAX + 2);
	if (!s->path || !s->text)
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0) {
		int r = -errno;

		return err_set(err, r, "%s: cannot read the configuration: %s", path, strerror(-r));
	}
	if (S_ISDIR(st.st_mode))
		return err_set(err, -EISDIR, "%s: is a folder, not a configuration file", path);
	while (s->size <= SOURCE_BYTES_MAX) {
		ssize_t n = read(fd, s->text + s->size, SOURCE_BYTES_MAX + 1 - s->size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int r = -errno;

			return err_set(err, r, "%s: cannot read the configuration: %s", path,
				strerror(-r));
		}
		if (!n)
			break;
		s->size += (size_t)n;
	}
	if (s->size > SOURCE_BYTES_MAX)
		return err_set(
			err, -EFBIG, "%s: larger than 1 MiB, no configuration needs that", path);
	s->text[s->size] = '\0';
	*ret = TAKE_PTR(s);
	return 0;
}

/* Bytes of the UTF-8 character at p, at least 1, at most left. */
static size_t character(const char *p, size_t left)
{
	unsigned char c = (unsigned char)*p;
	size_t n = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1, i = 1;

	while (i < n && i < left && ((unsigned char)p[i] & 0xc0) == 0x80)
		i++;
	return i;
}

/* Bytes of the line break at p as YAML knows them (CR, LF, CR LF, NEL, LS, PS); 0: none. */
static size_t line_break(const char *p, size_t left)
{
	if (*p == '\r')
		return left > 1 && p[1] == '\n' ? 2 : 1;
	if (*p == '\n')
		return 1;
	if (left > 1 && !memcmp(p, "\xc2\x85", 2))
		return 2;
	if (left > 2 && (!memcmp(p, "\xe2\x80\xa8", 3) || !memcmp(p, "\xe2\x80\xa9", 3)))
		return 3;
	return 0;
}

/* A byte order mark is no column. */
static size_t text_start(const struct source *s)
{
	return s->size >= 3 && !memcmp(s->text, "\xef\xbb\xbf", 3) ? 3 : 0;
}

struct place source_place(const struct source *s, size_t offset)
{
	struct place p = {.source = s};
	size_t i = text_start(s);

	while (i < s->size && i < offset) {
		size_t n = line_break(s->text + i, s->size - i);

		if (n) {
			p.line++;
			p.column = 0;
		} else {
			n = character(s->text + i, s->size - i);
			p.column += i + n <= offset;
		}
		i += n;
	}
	return p;
}

size_t source_offset(const struct place *p)
{
	const struct source *s = p->source;
	size_t i = text_start(s);

	for (size_t line = 0; line < p->line && i < s->size;) {
		size_t n = line_break(s->text + i, s->size - i);

		line += n > 0;
		i += n ? n : 1;
	}
	return i;
}

void source_report(FILE *f, const struct place *p, const char *text)
{
	const struct source *s = p->source;
	size_t i = source_offset(p), skip, shown = 0, caret;

	fprintf(f, "%s:%zu:%zu: %s\n", s->path, p->line + 1, p->column + 1, text);
	skip = p->column > LINE_SHOWN * 3 / 4 ? p->column - LINE_SHOWN / 2 : 0;
	caret = p->column - skip;
	for (size_t column = 0; i < s->size && shown < LINE_SHOWN; column++) {
		size_t n;

		if (line_break(s->text + i, s->size - i))
			break;
		n = character(s->text + i, s->size - i);
		if (column >= skip) {
			unsigned char c = (unsigned char)s->text[i];

			/* A tab becomes one blank, so that the caret stands right everywhere. */
			if (c == '\t')
				fputc(' ', f);
			else if (c < 0x20 || c == 0x7f || (c >= 0x80 && c < 0xc2) ||
				 (c == 0xc2 && n == 2 && (unsigned char)s->text[i + 1] < 0xa0) ||
				 (c >= 0xc2 && n == 1))
				fputc('?', f);
			else
				fwrite(s->text + i, 1, n, f);
			shown++;
		}
		i += n;
	}
	fprintf(f, "\n%*s^\n", (int)caret, "");
}
