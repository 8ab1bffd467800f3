/* SPDX-License-Identifier: MIT */
#include "daemon/config/schema.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/util/units.h"
#include "include/pyleak/capture.h"

#define US  1000ULL
#define MS  (1000 * US)
#define SEC (1000 * MS)
#define HR  (3600 * SEC)
#define DAY (24 * HR)
#define MIB (1ULL << 20)
#define PIB (1ULL << 50)

#define PERCENT 10000 /* in millionths */

const struct setting settings[N_SETTINGS] = {
	[BUDGET_CPU] = {"budget", "cpu", {VALUE_SHARE, PERCENT / 100, 100 * PERCENT, "unlimited"},
		offsetof(struct config, budget_cpu), "1%",
		"share of the target's CPU time that watching it may cost; what does not fit is "
		"counted in short windows; or: unlimited"},
	[BUDGET_PAUSE] = {"budget", "pause", {VALUE_DURATION, 10 * US, SEC, NULL},
		offsetof(struct config, budget_pause_ns), "1ms",
		"longest stop of the target by one census step; a large heap takes several"},
	[GROWTH_INTERVAL] = {"growth", "interval", {VALUE_DURATION, 100 * MS, HR, NULL},
		offsetof(struct config, growth_interval_ns), "10s",
		"time between two samples of the levels; 180 samples make a good window"},
	[GROWTH_WARMUP] = {"growth", "warmup", {VALUE_DURATION, 0, 30 * DAY, NULL},
		offsetof(struct config, growth_warmup_ns), "10m",
		"time after a target's start in which nothing is judged: caches fill"},
	[GROWTH_WINDOW] = {"growth", "window", {VALUE_DURATION, SEC, 30 * DAY, NULL},
		offsetof(struct config, growth_window_ns), "30m",
		"time that growth must last to be a leak; longer than your caches take to fill"},
	[GROWTH_MIN_OBJECTS] = {"growth", "min_objects", {VALUE_NUMBER, 1, 1000000000000ULL, NULL},
		offsetof(struct config, growth_min_objects), "1000",
		"below this growth, however long it took, nobody is woken"},
	[DUMP_PAUSE] = {"dump", "pause", {VALUE_DURATION, 100 * US, 60 * SEC, NULL},
		offsetof(struct config, dump_pause_ns), "20ms",
		"a dump whose predicted stop of the target is longer is refused, unless forced"},
	[DUMP_DEADLINE] = {"dump", "deadline", {VALUE_DURATION, SEC, HR, NULL},
		offsetof(struct config, dump_deadline_ns), "30s",
		"time after which a dump is given up and its frozen copy of the target killed"},
	[DUMP_KEYS] = {"dump", "keys", {VALUE_KEYS, 0, 0, NULL}, offsetof(struct config, dump_keys),
		"identifiers",
		"dict keys named in pictures: off, identifiers of the program, or all (keys are "
		"data)"},
	[DUMP_HEADROOM] = {"dump", "headroom", {VALUE_SHARE, 0, 90 * PERCENT, NULL},
		offsetof(struct config, dump_headroom), "15%",
		"share of the target's memory limit that must be free for a dump to begin"},
	[STORAGE_HISTORY] = {"storage", "history", {VALUE_DURATION, HR, 3650 * DAY, NULL},
		offsetof(struct config, storage_history_ns), "14d",
		"time that history is kept on disk; two weeks show whether a release brought it"},
	[STORAGE_DUMPS] = {"storage", "dumps", {VALUE_SIZE, MIB, PIB, NULL},
		offsetof(struct config, storage_dumps_bytes), "1GiB",
		"disk space for all dumps together; the oldest go first"},
};

const struct value_spec trigger_hold = {VALUE_DURATION, 0, 7 * DAY, NULL};
const struct value_spec trigger_cooldown = {VALUE_DURATION, 0, 30 * DAY, NULL};
const struct value_spec trigger_per_day = {VALUE_COUNT, 1, 1000, NULL};
const struct value_spec when_count = {VALUE_NUMBER, 0, 1000000000000000ULL, NULL};
const struct value_spec suppress_up_to = {VALUE_NUMBER, 1, 1000000000000000ULL, NULL};
const struct value_spec when_rss = {VALUE_SIZE, MIB, PIB, NULL};
const struct value_spec when_cgroup = {VALUE_SHARE, PERCENT, 100 * PERCENT, NULL};

static const char *const keys_names[] = {
	[CAPTURE_KEYS_OFF] = "off",
	[CAPTURE_KEYS_IDENTIFIERS] = "identifiers",
	[CAPTURE_KEYS_ALL] = "all",
};

const char *value_wanted(const struct value_spec *v)
{
	switch (v->type) {
	case VALUE_DURATION:
		return "a duration such as 500ms, 10s, 30m, 6h or 14d";
	case VALUE_SIZE:
		return "a size such as 512KiB, 256MiB or 2GiB";
	case VALUE_SHARE:
		return v->none ? "a share such as 1% or 0.01, or unlimited"
			       : "a share such as 70% or 0.7";
	case VALUE_NUMBER:
	case VALUE_COUNT:
		return "a whole number such as 1000";
	case VALUE_KEYS:
		break;
	}
	return "off, identifiers or all";
}

static bool only_digits(const char *s)
{
	return *s && s[strspn(s, "0123456789")] == '\0';
}

static uint64_t to_millionths(double share)
{
	return (uint64_t)llround(share * 1e6);
}

static const char *format_u64(const struct value_spec *v, uint64_t value, char buf[VALUE_TEXT_MAX])
{
	static const struct {
		const char *name;
		uint64_t factor;
	} durations[] = {{"d", DAY}, {"h", HR}, {"m", 60 * SEC}, {"s", SEC}, {"ms", MS}, {"us", US},
		{"ns", 1}},
	  sizes[] = {
		  {"TiB", 1ULL << 40}, {"GiB", 1ULL << 30}, {"MiB", MIB}, {"KiB", 1024}, {"B", 1}};
	size_t i = 0;

	switch (v->type) {
	case VALUE_DURATION:
		if (!value)
			return strcpy(buf, "0s");
		while (value % durations[i].factor)
			i++;
		snprintf(buf, VALUE_TEXT_MAX, "%" PRIu64 "%s", value / durations[i].factor,
			durations[i].name);
		break;
	case VALUE_SIZE:
		while (value % sizes[i].factor)
			i++;
		snprintf(buf, VALUE_TEXT_MAX, "%" PRIu64 "%s", value / sizes[i].factor,
			sizes[i].name);
		break;
	case VALUE_SHARE: /* millionths */
		snprintf(buf, VALUE_TEXT_MAX, "%" PRIu64 ".%04" PRIu64, value / PERCENT,
			value % PERCENT);
		for (i = strlen(buf); buf[i - 1] == '0'; i--)
			;
		if (buf[i - 1] == '.')
			i--;
		strcpy(buf + i, "%");
		break;
	default:
		snprintf(buf, VALUE_TEXT_MAX, "%" PRIu64, value);
	}
	return buf;
}

const char *value_format(const struct value_spec *v, const void *src, char buf[VALUE_TEXT_MAX])
{
	int keys;

	switch (v->type) {
	case VALUE_SHARE:
		if (v->none && *(const double *)src == 0)
			return strcpy(buf, v->none);
		return format_u64(v, to_millionths(*(const double *)src), buf);
	case VALUE_COUNT:
		return format_u64(v, *(const unsigned *)src, buf);
	case VALUE_KEYS:
		keys = *(const int *)src;
		return strcpy(buf, keys_names[keys]);
	default:
		return format_u64(v, *(const uint64_t *)src, buf);
	}
}

static int parse_u64(const char *text, uint64_t *ret)
{
	char *end;

	if (!only_digits(text))
		return -EINVAL;
	errno = 0;
	*ret = strtoull(text, &end, 10);
	return errno ? -ERANGE : 0;
}

/* Reads the text as the type has it, in the units of the limits. */
static int parse_by_type(const struct value_spec *v, const char *text, uint64_t *ret)
{
	double share;
	int r;

	switch (v->type) {
	case VALUE_DURATION:
		r = parse_duration(text, ret);
		/* Beyond 104 days a double no longer counts single nanoseconds. */
		if (!r && *ret > 1ULL << 53)
			*ret -= *ret % MS;
		return r;
	case VALUE_SIZE:
		return parse_size(text, ret);
	case VALUE_SHARE:
		r = parse_share(text, &share);
		if (!r)
			*ret = to_millionths(share);
		return r;
	case VALUE_NUMBER:
	case VALUE_COUNT:
		return parse_u64(text, ret);
	case VALUE_KEYS:
		for (size_t i = 0; i < ARRAY_SIZE(keys_names); i++) {
			if (!strcmp(text, keys_names[i])) {
				*ret = i;
				return 0;
			}
		}
		break;
	}
	return -EINVAL;
}

static void store(const struct value_spec *v, uint64_t value, void *dest)
{
	switch (v->type) {
	case VALUE_SHARE:
		*(double *)dest = (double)value / 1e6;
		break;
	case VALUE_COUNT:
		*(unsigned *)dest = (unsigned)value;
		break;
	case VALUE_KEYS:
		*(int *)dest = (int)value;
		break;
	default:
		*(uint64_t *)dest = value;
	}
}

int value_parse(const struct value_spec *v, const char *text, void *dest, char msg[SCHEMA_MSG_MAX])
{
	bool unitless = only_digits(text) && strcmp(text, "0");
	char lo[VALUE_TEXT_MAX], hi[VALUE_TEXT_MAX];
	uint64_t value;
	int r;

	if (v->none && !strcmp(text, v->none)) {
		store(v, 0, dest);
		return 0;
	}
	if (unitless && (v->type == VALUE_DURATION || v->type == VALUE_SIZE)) {
		snprintf(msg, SCHEMA_MSG_MAX, "'%.32s' has no unit, it takes %s", text,
			value_wanted(v));
		return -EINVAL;
	}
	if (unitless && v->type == VALUE_SHARE) {
		/* 1 would be everything, and whoever writes it means one per cent. */
		snprintf(msg, SCHEMA_MSG_MAX, "'%.32s' is not clear, it takes %s", text,
			value_wanted(v));
		return -EINVAL;
	}
	r = parse_by_type(v, text, &value);
	if (r == -EINVAL) {
		snprintf(msg, SCHEMA_MSG_MAX, "'%.32s' is not understood, it takes %s", text,
			value_wanted(v));
		return -EINVAL;
	}
	if (v->type != VALUE_KEYS && (r || value < v->min || value > v->max)) {
		snprintf(msg, SCHEMA_MSG_MAX, "'%.32s' is out of range, allowed is %s to %s%s%s",
			text, format_u64(v, v->min, lo), format_u64(v, v->max, hi),
			v->none ? ", or " : "", v->none ? v->none : "");
		return -EINVAL;
	}
	store(v, value, dest);
	return 0;
}
