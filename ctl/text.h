/* SPDX-License-Identifier: MIT */
/*
 * Numbers, times and foreign text as a person reads them. Names come from watched programs: what
 * would move the cursor or change colours must not reach a terminal.
 */
#ifndef PYLEAK_CTL_TEXT_H
#define PYLEAK_CTL_TEXT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_MAX 64 /* enough for every text_*() below that takes a buffer */

/* Character widths need a UTF-8 locale: call once before the rest. */
void text_init(void);

/* Columns of the text on a terminal. */
size_t text_width(const char *s);
/* A copy without control characters, direction marks and broken UTF-8: each becomes '?'. */
char *text_clean(const char *s);

/* 1234567 -> "1 234 567" */
char *text_count(char buf[TEXT_MAX], int64_t v);
/* Like it with the sign always there: "+1 234", "-5", "0". */
char *text_delta(char buf[TEXT_MAX], int64_t v);
/* A few digits below 100, whole numbers above: "0.052", "4.2", "1 234". */
char *text_rate(char buf[TEXT_MAX], double v);
/* 0.931 -> "93 %"; never "100 %" or "0 %" for what is only nearly so. */
char *text_share(char buf[TEXT_MAX], double v);
/* "2026-11-23 08:25:58", local time. */
char *text_time(char buf[TEXT_MAX], int64_t ms);
/* "12 s ago" */
char *text_ago(char buf[TEXT_MAX], int64_t ms, int64_t now_ms);

/* The same from JSON; null and what is not a number give "-". */
char *text_json_count(char buf[TEXT_MAX], const json_t *v);
char *text_json_delta(char buf[TEXT_MAX], const json_t *v);
char *text_json_rate(char buf[TEXT_MAX], const json_t *v);
char *text_json_us(char buf[TEXT_MAX], const json_t *v); /* microseconds */
/* Milliseconds since the epoch of an RFC 3339 string, or -1. */
int64_t text_json_ms(const json_t *v);

/*
 * A plot of values over time, rows high and at most columns wide, as lines that end in '\n'
 * (malloc'ed, NULL when out of memory or if no value is known). NAN is a gap. Each column shows
 * the last value known at its time.
 */
struct text_point {
	int64_t at_ms;
	double value;
};
char *text_plot(const struct text_point *p, size_t n, size_t columns, size_t rows);

#endif
