/* SPDX-License-Identifier: MIT */
#include "graph/text.h"

#include <string.h>

/* Continuation bytes do not begin a character. */
static int begins(char c)
{
	return ((unsigned char)c & 0xc0) != 0x80;
}

char *text_elide(const char *s, size_t max)
{
	size_t bytes = strlen(s), chars = 0, head, tail, at = 0, end, seen = 0;
	char *out;

	for (size_t i = 0; i < bytes; i++)
		chars += begins(s[i]);
	if (chars <= max)
		return strdup(s);
	head = (max - 1) / 2;
	tail = max - 1 - head;
	while (at < bytes && seen < head + 1) {
		seen += begins(s[at]);
		if (seen <= head)
			at++;
	}
	end = bytes;
	for (seen = 0; end > 0 && seen < tail;)
		seen += begins(s[--end]);
	out = malloc(at + strlen("…") + (bytes - end) + 1);
	if (out) {
		memcpy(out, s, at);
		strcpy(out + at, "…");
		strcat(out + at, s + end);
	}
	return out;
}

char *text_format(const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		s = NULL;
	va_end(ap);
	return s;
}

char *text_number(char *buf, size_t n, uint64_t x)
{
	char digits[24];
	size_t len = (size_t)snprintf(digits, sizeof(digits), "%llu", (unsigned long long)x);
	size_t o = 0;

	for (size_t i = 0; i < len && o + 2 < n; i++) {
		if (i && (len - i) % 3 == 0)
			buf[o++] = ' ';
		buf[o++] = digits[i];
	}
	buf[o] = 0;
	return buf;
}

char *text_percent(char *buf, size_t n, double share)
{
	double p = share * 100;

	if (p >= 100 || p <= 0)
		snprintf(buf, n, "%.0f %%", p);
	else if (p > 99.5)
		snprintf(buf, n, "%.1f %%", MIN(p, 99.9));
	else if (p >= 9.95)
		snprintf(buf, n, "%.0f %%", p);
	else if (p >= 0.095)
		snprintf(buf, n, "%.1f %%", p);
	else
		snprintf(buf, n, "%.1g %%", MAX(p, 0.001));
	return buf;
}

const char *text_short_type(const char *type)
{
	const char *dot = strrchr(type, '.');

	return dot && dot[1] ? dot + 1 : type;
}

const char *text_article(const char *word)
{
	word += strspn(word, "_");
	return *word && strchr("aeiouAEIOU", *word) ? "an" : "a";
}

void text_html(FILE *f, const char *s)
{
	for (; *s; s++) {
		switch (*s) {
		case '&':
			fputs("&amp;", f);
			break;
		case '<':
			fputs("&lt;", f);
			break;
		case '>':
			fputs("&gt;", f);
			break;
		case '"':
			fputs("&quot;", f);
			break;
		case '\'':
			fputs("&#39;", f);
			break;
		case '\\':
			/* Graphviz expands \N in HTML-like labels too. */
			fputs("&#92;", f);
			break;
		default:
			/* XML has no control characters, not even escaped. */
			fputc((unsigned char)*s < 0x20 ? '?' : *s, f);
		}
	}
}
