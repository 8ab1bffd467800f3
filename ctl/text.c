/* SPDX-License-Identifier: MIT */
#include "ctl/text.h"

#include <locale.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <wchar.h>

#include "daemon/util/macros.h"
#include "daemon/util/units.h"

void text_init(void)
{
	/* Not the user's: everything we get and write is UTF-8, whatever LANG says. */
	setlocale(LC_CTYPE, "C.UTF-8");
}

/* Marks that turn the direction of text, with which one name can pose as another. */
static bool turns_text(wchar_t c)
{
	return c == 0x061c || c == 0x200e || c == 0x200f || (c >= 0x202a && c <= 0x202e) ||
	       (c >= 0x2066 && c <= 0x2069);
}

/* The next character of s: its bytes, and in *width its columns, or -1 if it may not be shown. */
static size_t next_char(const char *s, int *width)
{
	mbstate_t state = {0};
	wchar_t c;
	size_t n = mbrtowc(&c, s, strlen(s), &state);

	if (n == (size_t)-1 || n == (size_t)-2) {
		*width = -1;
		return 1;
	}
	*width = turns_text(c) ? -1 : wcwidth(c);
	return n;
}

size_t text_width(const char *s)
{
	size_t sum = 0;

	while (*s) {
		int width;

		s += next_char(s, &width);
		sum += MAX(width, 0);
	}
	return sum;
}

char *text_clean(const char *s)
{
	char *copy = malloc(strlen(s) + 1), *out = copy;

	while (copy && *s) {
		int width;
		size_t n = next_char(s, &width);

		if (width < 0) {
			*out++ = '?';
		} else {
			memcpy(out, s, n);
			out += n;
		}
		s += n;
	}
	if (copy)
		*out = 0;
	return copy;
}

char *text_count(char buf[TEXT_MAX], int64_t v)
{
	uint64_t u = v < 0 ? -(uint64_t)v : (uint64_t)v;
	char tmp[TEXT_MAX], *p = tmp + sizeof(tmp);
	int digits = 0;

	*--p = 0;
	do {
		if (digits && digits % 3 == 0)
			*--p = ' ';
		*--p = '0' + u % 10;
		digits++;
	} while (u /= 10);
	if (v < 0)
		*--p = '-';
	return strcpy(buf, p);
}

char *text_delta(char buf[TEXT_MAX], int64_t v)
{
	char digits[TEXT_MAX];

	text_count(digits, v);
	buf[0] = '+';
	strcpy(buf + (v > 0), digits);
	return buf;
}

char *text_rate(char buf[TEXT_MAX], double v)
{
	double a = fabs(v);

	if (!isfinite(v))
		strcpy(buf, "-");
	else if (a >= 9e18)
		snprintf(buf, TEXT_MAX, "%.3g", v);
	else if (a == 0 || a >= 99.5)
		text_count(buf, llround(v));
	else
		snprintf(buf, TEXT_MAX, "%.*f", a >= 0.995 ? 1 : a >= 0.0995 ? 2 : 3, v);
	return buf;
}

char *text_share(char buf[TEXT_MAX], double v)
{
	if (!isfinite(v))
		strcpy(buf, "-");
	else if (v > 0.995 && v < 1)
		strcpy(buf, ">99 %");
	else if (v > 0 && v < 0.005)
		strcpy(buf, "<1 %");
	else
		snprintf(buf, TEXT_MAX, "%.0f %%", v * 100);
	return buf;
}

char *text_time(char buf[TEXT_MAX], int64_t ms)
{
	time_t t = ms / 1000;
	struct tm tm;

	if (ms < 0 || !localtime_r(&t, &tm) || !strftime(buf, TEXT_MAX, "%Y-%m-%d %H:%M:%S", &tm))
		strcpy(buf, "-");
	return buf;
}

char *text_ago(char buf[TEXT_MAX], int64_t ms, int64_t now_ms)
{
	if (ms < 0)
		return strcpy(buf, "-");
	if (now_ms - ms < 1000) /* also when the clock was set back */
		return strcpy(buf, "now");
	/* Whole seconds: "9.3 s ago" pretends to more than we know. */
	format_duration(buf, TEXT_MAX - 5, (uint64_t)((now_ms - ms) / 1000) * 1000000000ULL);
	if ((now_ms - ms) / 1000 < 10)
		snprintf(buf, TEXT_MAX, "%d s", (int)((now_ms - ms) / 1000));
	return strcat(buf, " ago");
}

char *text_json_count(char buf[TEXT_MAX], const json_t *v)
{
	if (json_is_integer(v))
		return text_count(buf, json_integer_value(v));
	if (json_is_real(v))
		return text_rate(buf, json_real_value(v));
	return strcpy(buf, "-");
}

char *text_json_delta(char buf[TEXT_MAX], const json_t *v)
{
	return json_is_integer(v) ? text_delta(buf, json_integer_value(v))
				  : text_json_count(buf, v);
}

char *text_json_rate(char buf[TEXT_MAX], const json_t *v)
{
	return json_is_number(v) ? text_rate(buf, json_number_value(v)) : strcpy(buf, "-");
}

char *text_json_us(char buf[TEXT_MAX], const json_t *v)
{
	double us = json_number_value(v);

	if (!json_is_number(v) || us < 0 || us > 1e15)
		return strcpy(buf, "-");
	return format_duration(buf, TEXT_MAX, (uint64_t)llround(us * 1000));
}

int64_t text_json_ms(const json_t *v)
{
	const char *s = json_string_value(v);
	int64_t ms;

	return s && parse_rfc3339(s, &ms) == 0 ? ms : -1;
}

/* ---- plot ----------------------------------------------------------------------------------- */

#define PLOT_COLUMNS_MIN 8
#define PLOT_COLUMNS_MAX 400
#define PLOT_ROWS_MAX    40

/* The last value known at the end of each column's share of the time. */
static void resample(const struct text_point *p, size_t n, double *column, size_t columns)
{
	int64_t first = p[0].at_ms, span = p[n - 1].at_ms - first;
	double value = NAN;
	size_t i = 0;

	for (size_t x = 0; x < columns; x++) {
		int64_t end = x + 1 == columns
				      ? p[n - 1].at_ms
				      : first + (int64_t)((double)span * (x + 1) / columns);

		for (; i < n && p[i].at_ms <= end; i++)
			value = p[i].value;
		column[x] = value;
	}
}

char *text_plot(const struct text_point *p, size_t n, size_t columns, size_t rows)
{
	static const char *const blocks[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
	char high[TEXT_MAX], low[TEXT_MAX], from[TEXT_MAX], to[TEXT_MAX], *text = NULL;
	double min = INFINITY, max = -INFINITY, column[PLOT_COLUMNS_MAX];
	size_t size, margin, width;
	FILE *f;

	for (size_t i = 0; i < n; i++) {
		if (!isfinite(p[i].value))
			continue;
		min = MIN(min, p[i].value);
		max = MAX(max, p[i].value);
	}
	if (!(min <= max))
		return NULL;
	text_count(high, llround(MIN(max, 9e18)));
	text_count(low, llround(MAX(min, -9e18)));
	margin = MAX(strlen(high), strlen(low));
	rows = MAX(1, MIN(rows, PLOT_ROWS_MAX));
	width = columns > margin + 2 + PLOT_COLUMNS_MIN ? columns - margin - 2 : PLOT_COLUMNS_MIN;
	width = MIN(width, PLOT_COLUMNS_MAX);
	resample(p, n, column, width);

	f = open_memstream(&text, &size);
	if (!f)
		return NULL;
	for (size_t row = rows; row-- > 0;) {
		const char *label = row + 1 == rows ? high : row == 0 ? low : "";
		size_t end = *label ? margin : 0; /* no blanks at the end of a line */

		fprintf(f, "%*s", *label ? (int)margin : 0, label);
		for (size_t x = 0; x < width; x++) {
			double v = column[x];
			size_t level, full = 8 * rows;

			if (!isfinite(v))
				continue;
			/* The lowest value is a thin line, not nothing: nothing is a gap. */
			level = max > min
					? 1 + (size_t)llround((v - min) / (max - min) * (full - 1))
					: full / 2;
			if (level <= row * 8)
				continue;
			for (; end < margin + 1 + x; end++)
				fputc(' ', f);
			fputs(blocks[MIN(level - row * 8, 8)], f);
			end++;
		}
		fputc('\n', f);
	}
	text_time(from, p[0].at_ms);
	text_time(to, p[n - 1].at_ms);
	fprintf(f, "%*s %s", (int)margin, "", from);
	if (width > strlen(from) + strlen(to))
		fprintf(f, "%*s\n", (int)(width - strlen(from)), to);
	else
		fprintf(f, " .. %s\n", to);
	if (fclose(f)) {
		free(text);
		return NULL;
	}
	return text;
}
