/* SPDX-License-Identifier: MIT */
#include "daemon/util/units.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/util/macros.h"

#define NS_PER_S 1000000000ULL

struct unit {
	const char *name;
	uint64_t factor;
};

static const struct unit duration_units[] = {
	{"ns", 1},
	{"us", 1000},
	{"µs", 1000},
	{"ms", 1000000},
	{"s", NS_PER_S},
	{"sec", NS_PER_S},
	{"m", 60 * NS_PER_S},
	{"min", 60 * NS_PER_S},
	{"h", 3600 * NS_PER_S},
	{"d", 86400 * NS_PER_S},
	{"w", 7 * 86400 * NS_PER_S},
};

static const struct unit size_units[] = {
	{"", 1},
	{"B", 1},
	{"K", 1ULL << 10},
	{"KiB", 1ULL << 10},
	{"M", 1ULL << 20},
	{"MiB", 1ULL << 20},
	{"G", 1ULL << 30},
	{"GiB", 1ULL << 30},
	{"T", 1ULL << 40},
	{"TiB", 1ULL << 40},
};

static const struct unit *find_unit(const struct unit *u, size_t n, const char *s, size_t len)
{
	for (size_t i = 0; i < n; i++)
		if (strlen(u[i].name) == len && !memcmp(u[i].name, s, len))
			return &u[i];
	return NULL;
}

/* A plain decimal number: no sign, no exponent, no hex, no "inf" (which strtod would take). */
static int parse_number(const char **s, double *ret)
{
	const char *p = *s;
	double v = 0, scale = 1;
	bool digits = false;

	for (; isdigit((unsigned char)*p); p++, digits = true)
		v = v * 10 + (*p - '0');
	if (*p == '.') {
		for (p++; isdigit((unsigned char)*p); p++, digits = true)
			v += (*p - '0') * (scale /= 10);
	}
	if (!digits)
		return -EINVAL;
	*s = p;
	*ret = v;
	return 0;
}

int parse_duration(const char *s, uint64_t *ret_ns)
{
	const double max = 1000.0 * 365 * 86400 * NS_PER_S;
	double sum = 0;

	if (!strcmp(s, "0")) {
		*ret_ns = 0;
		return 0;
	}
	if (!*s)
		return -EINVAL;
	while (*s) {
		const struct unit *u;
		size_t len = 0;
		double v;
		int r;

		r = parse_number(&s, &v);
		if (r)
			return r;
		while (*s == ' ')
			s++;
		while (s[len] && !isdigit((unsigned char)s[len]) && s[len] != ' ')
			len++;
		u = find_unit(duration_units, ARRAY_SIZE(duration_units), s, len);
		if (!u)
			return -EINVAL;
		sum += v * u->factor;
		if (sum > max)
			return -ERANGE;
		for (s += len; *s == ' ';)
			s++;
	}
	*ret_ns = (uint64_t)llround(sum);
	return 0;
}

int parse_size(const char *s, uint64_t *ret_bytes)
{
	const struct unit *u;
	double v;
	int r;

	r = parse_number(&s, &v);
	if (r)
		return r;
	while (*s == ' ')
		s++;
	u = find_unit(size_units, ARRAY_SIZE(size_units), s, strlen(s));
	if (!u)
		return -EINVAL;
	if (v * u->factor > 0x1p62)
		return -ERANGE;
	*ret_bytes = (uint64_t)(v * u->factor);
	return 0;
}

int parse_share(const char *s, double *ret)
{
	double v;
	int r;

	r = parse_number(&s, &v);
	if (r)
		return r;
	while (*s == ' ')
		s++;
	if (!strcmp(s, "%"))
		v /= 100;
	else if (*s)
		return -EINVAL;
	if (v > 1)
		return -EINVAL;
	*ret = v;
	return 0;
}

int parse_rfc3339(const char *s, int64_t *ret_ms)
{
	int off = 0, ms = 0, y, mo, d, h, mi, se, n = 0;
	struct tm tm = {0};
	time_t t;

	if (sscanf(s, "%4d-%2d-%2d%*1[Tt ]%2d:%2d:%2d%n", &y, &mo, &d, &h, &mi, &se, &n) != 6 || !n)
		return -EINVAL;
	if (mo < 1 || mo > 12 || d < 1 || d > 31 || h > 23 || mi > 59 || se > 60 || y < 1970)
		return -EINVAL;
	s += n;
	if (*s == '.') {
		int scale = 100;

		for (s++; isdigit((unsigned char)*s); s++, scale /= 10)
			ms += (*s - '0') * scale;
	}
	if (*s == '+' || *s == '-') {
		int sign = *s == '-' ? -1 : 1, oh, om;

		if (sscanf(s + 1, "%2d:%2d%n", &oh, &om, &n) != 2 || s[1 + n])
			return -EINVAL;
		off = sign * (oh * 3600 + om * 60);
	} else if ((*s != 'Z' && *s != 'z') || s[1]) {
		return -EINVAL;
	}
	tm = (struct tm){.tm_year = y - 1900,
		.tm_mon = mo - 1,
		.tm_mday = d,
		.tm_hour = h,
		.tm_min = mi,
		.tm_sec = se};
	t = timegm(&tm);
	if (t == (time_t)-1)
		return -EINVAL;
	*ret_ms = ((int64_t)t - off) * 1000 + ms;
	return 0;
}

char *format_rfc3339(char *buf, size_t n, int64_t ms)
{
	time_t t = ms / 1000;
	char day[24];
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buf, n, "%s.%03dZ", day, (int)(ms % 1000));
	return buf;
}

char *format_duration(char *buf, size_t n, uint64_t ns)
{
	double s = ns / 1e9;

	if (ns < 1000)
		snprintf(buf, n, "%d ns", (int)ns);
	else if (ns < 1000000)
		snprintf(buf, n, "%.*f µs", ns < 10000 ? 1 : 0, ns / 1e3);
	else if (ns < NS_PER_S)
		snprintf(buf, n, "%.*f ms", ns < 100000000 ? 1 : 0, ns / 1e6);
	else if (s < 120)
		snprintf(buf, n, "%.*f s", s < 10 ? 1 : 0, s);
	else if (s < 7200)
		snprintf(buf, n, "%.0f min", s / 60);
	else if (s < 172800)
		snprintf(buf, n, "%.0f h %.0f min", floor(s / 3600), floor(fmod(s, 3600) / 60));
	else
		snprintf(buf, n, "%.0f d %.0f h", floor(s / 86400), floor(fmod(s, 86400) / 3600));
	return buf;
}

char *format_size(char *buf, size_t n, uint64_t bytes)
{
	static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double v = bytes;
	size_t i = 0;

	for (; v >= 1024 && i + 1 < ARRAY_SIZE(names); i++)
		v /= 1024;
	snprintf(buf, n, i && v < 100 ? "%.1f %s" : "%.0f %s", v, names[i]);
	return buf;
}

int64_t now_realtime_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

uint64_t now_monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}
