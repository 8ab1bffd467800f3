/* SPDX-License-Identifier: MIT */
/*
 * The settings that are one value each: one table for reading, checking, printing and the built-in
 * defaults.
 */
#ifndef PYLEAK_CONFIG_SCHEMA_H
#define PYLEAK_CONFIG_SCHEMA_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/config/config.h"

enum value_type {
	VALUE_DURATION, /* uint64_t, ns */
	VALUE_SIZE,     /* uint64_t, bytes */
	VALUE_SHARE,    /* double, 0..1; limits below are in millionths */
	VALUE_NUMBER,   /* uint64_t */
	VALUE_COUNT,    /* unsigned */
	VALUE_KEYS,     /* int, enum capture_keys */
};

struct value_spec {
	enum value_type type;
	uint64_t min, max;
	const char *none; /* word that stands for 0, or NULL */
};

struct setting {
	const char *section, *key;
	struct value_spec value;
	size_t offset; /* in struct config */
	const char *dflt;
	const char *why;
};

enum setting_id {
	BUDGET_CPU,
	BUDGET_PAUSE,
	GROWTH_INTERVAL,
	GROWTH_WARMUP,
	GROWTH_WINDOW,
	GROWTH_MIN_OBJECTS,
	DUMP_PAUSE,
	DUMP_DEADLINE,
	DUMP_KEYS,
	DUMP_HEADROOM,
	STORAGE_HISTORY,
	STORAGE_DUMPS,
	N_SETTINGS,
};
extern const struct setting settings[N_SETTINGS];

extern const struct value_spec trigger_hold, trigger_cooldown, trigger_per_day, when_count,
	when_rss, when_cgroup, suppress_up_to;

#define VALUE_TEXT_MAX 64
#define SCHEMA_MSG_MAX 256

/* Reads text into *dest (of the spec's type). -EINVAL with the reason in msg, "'30' has no unit, a
 * duration such as …"; then *dest is untouched. */
int value_parse(const struct value_spec *v, const char *text, void *dest, char msg[SCHEMA_MSG_MAX]);

/* The value as text that reads back as exactly the same. Returns buf. */
const char *value_format(const struct value_spec *v, const void *src, char buf[VALUE_TEXT_MAX]);

/* "a duration such as 500ms, 10s or 1h30m" */
const char *value_wanted(const struct value_spec *v);

#endif
