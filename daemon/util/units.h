/* SPDX-License-Identifier: MIT */
/*
 * Durations, sizes, shares and times as people write them.
 */
#ifndef PYLEAK_UTIL_UNITS_H
#define PYLEAK_UTIL_UNITS_H

#include <stddef.h>
#include <stdint.h>

/* "500us", "20ms", "10s", "10m", "6h", "14d", "1h30m" -> nanoseconds. A number without a unit is
 * refused, except 0. -EINVAL, or -ERANGE above 1000 years. *ret is set on success only. */
int parse_duration(const char *s, uint64_t *ret_ns);

/* "4096", "64KiB", "256MiB", "1GiB", "2TiB" -> bytes (K, M, G, T without iB mean the same).
 * -EINVAL or -ERANGE. */
int parse_size(const char *s, uint64_t *ret_bytes);

/* "1%", "0.5%" -> 0.01, 0.005; also a plain share "0.01". -EINVAL outside 0..1. */
int parse_share(const char *s, double *ret);

/* RFC 3339 ("2026-11-23T08:25:58Z", with or without fraction, Z or +hh:mm) -> ms since the epoch. */
int parse_rfc3339(const char *s, int64_t *ret_ms);

/* RFC 3339 in UTC with milliseconds, "2026-11-23T08:25:58.123Z"; buf of at least 32 bytes.
 * Returns buf. */
#define RFC3339_MAX 32
char *format_rfc3339(char *buf, size_t n, int64_t ms);

/* "1.2 ms", "340 µs", "12 s", "3 h 20 min": short, for people. Returns buf. */
char *format_duration(char *buf, size_t n, uint64_t ns);

/* "12.3 MiB". Returns buf. */
char *format_size(char *buf, size_t n, uint64_t bytes);

/* Wall clock in ms since the epoch; monotonic clock in ns. Only programs call these: pure code
 * gets the time passed in. */
int64_t now_realtime_ms(void);
uint64_t now_monotonic_ns(void);

#endif
