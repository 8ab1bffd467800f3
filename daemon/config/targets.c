/* SPDX-License-Identifier: MIT */
/* `targets`: rules that say which processes are watched. */
#include <string.h>

#include "daemon/config/loader.h"

#define COMM_MAX 15 /* TASK_COMM_LEN without its NUL */

const struct match_key match_keys[N_MATCH_KEYS] = {
	{"comm", offsetof(struct config_rule, comm)},
	{"exe", offsetof(struct config_rule, exe)},
	{"cmdline", offsetof(struct config_rule, cmdline)},
	{"user", offsetof(struct config_rule, user)},
	{"unit", offsetof(struct config_rule, unit)},
};

static void read_match_glob(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	const struct match_key *k = arg;
	char **dest = (char **)((char *)object + k->offset);

	if (read_glob(l, v, dest) && !strcmp(k->name, "comm") && *dest &&
		strlen(*dest) > COMM_MAX && !strpbrk(*dest, "*?[\\")) {
		struct place p = place_of(l, v);

		warning_at(l, &p,
			"'%.32s' never matches, the kernel keeps %d bytes of a name; use cmdline",
			*dest, COMM_MAX);
	}
}

static void read_match(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct key keys[N_MATCH_KEYS];

	for (size_t i = 0; i < N_MATCH_KEYS; i++)
		keys[i] = (struct key){match_keys[i].name, read_match_glob, &match_keys[i], false};
	read_mapping(l, v, keys, N_MATCH_KEYS, object, NULL);
}

static void read_watch(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_bool(l, v, &((struct config_rule *)object)->watch);
}

static const struct key rule_keys[] = {
	{"match", read_match, NULL, true},
	{"watch", read_watch, NULL, false},
};

static bool matches_all(const struct config_rule *r)
{
	return !r->comm && !r->exe && !r->cmdline && !r->user && !r->unit;
}

static bool read_rule(struct loader *l, const yaml_node_t *n, void *object)
{
	struct config *c = l->config;
	struct config_rule rule = {.watch = true};
	struct place place = place_of(l, n);
	unsigned errors = l->errors;

	if (c->n_rules >= RULES_MAX) {
		error_at(l, &place, "too many rules, allowed are %d", RULES_MAX);
		return false;
	}
	read_mapping(l, n, rule_keys, ARRAY_SIZE(rule_keys), &rule, NULL);
	if (errors != l->errors || list_append(l, (void **)&c->rules, c->n_rules, sizeof(rule),
					   &rule, &l->rule_at, &place)) {
		rule_release(&rule);
		return true;
	}
	c->n_rules++;
	if (l->catch_all.source && !l->unreachable_told) {
		warning_at(l, &place,
			"never reached, the rule in %s line %zu matches every process",
			l->catch_all.source->path, l->catch_all.line + 1);
		l->unreachable_told = true;
	} else if (matches_all(&rule)) {
		l->catch_all = place;
	}
	return true;
}

void read_targets(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	if (is_null(v))
		return;
	l->config->rules_given |= v->type == YAML_SEQUENCE_NODE;
	read_list(l, v, "rules, each with `match` and `watch`", read_rule, NULL);
}
