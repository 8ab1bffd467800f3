/* SPDX-License-Identifier: MIT */
/* Lists of growth that nobody needs to hear of: `growth.suppress`, and `benign` of benign.yaml. */
#include <stdio.h>
#include <string.h>

#include "daemon/config/loader.h"
#include "daemon/util/units.h"

static void read_suppress_glob(
	struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_glob(l, v, (char **)((char *)object + *(const size_t *)arg));
}

static void read_reason(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	const char *text = read_scalar(l, v, "a text that says why");

	if (text && !*text)
		error_node(l, v, "the reason is empty, say why nobody needs to hear of it");
	else if (text)
		copy_text(l, &((struct config_suppress *)object)->reason, text);
}

static void read_until(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	const char *text = read_scalar(l, v, "a day such as 2027-01-31");
	char time[TEXT_MAX + sizeof("T00:00:00Z")];

	if (!text)
		return;
	snprintf(time, sizeof(time), "%s%s", text, strchr(text, 'T') ? "" : "T00:00:00Z");
	if (parse_rfc3339(time, &((struct config_suppress *)object)->until_ms))
		error_node(l, v,
			"'%s' is no day, it takes one such as 2027-01-31, or 2027-01-31T12:00:00Z",
			text);
}

static void read_up_to(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_value(l, v, &suppress_up_to, &((struct config_suppress *)object)->up_to);
}

static const size_t suppress_type = offsetof(struct config_suppress, type),
		    suppress_service = offsetof(struct config_suppress, service);
static const struct key suppress_keys[] = {
	{"type", read_suppress_glob, &suppress_type, true},
	{"service", read_suppress_glob, &suppress_service, false},
	{"reason", read_reason, NULL, true},
	{"until", read_until, NULL, false},
	{"up_to", read_up_to, NULL, false},
};
#define SUPPRESS_KEY_UP_TO 4 /* index of "up_to" */

static bool read_suppression(struct loader *l, const yaml_node_t *n, void *object)
{
	struct config *c = l->config;
	struct config_suppress s = {.benign = *(const bool *)object};
	struct place place = place_of(l, n);
	struct key keys[ARRAY_SIZE(suppress_keys)];
	unsigned errors = l->errors;

	if (c->n_suppress >= SUPPRESS_MAX) {
		error_at(l, &place, "too many suppressions, allowed are %d", SUPPRESS_MAX);
		return false;
	}
	memcpy(keys, suppress_keys, sizeof(keys));
	keys[SUPPRESS_KEY_UP_TO].required = s.benign; /* what is for everybody hides nothing without end */
	read_mapping(l, n, keys, ARRAY_SIZE(keys), &s, NULL);
	/* What is missing: cut off by a syntax error. */
	if (errors != l->errors || !s.type || !s.reason ||
		list_append(l, (void **)&c->suppress, c->n_suppress, sizeof(s), &s, &l->suppress_at,
			&place))
		suppress_release(&s);
	else
		c->n_suppress++;
	return true;
}

void read_suppress(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	bool benign = arg != NULL;

	if (!is_null(v))
		read_list(l, v, "suppressions, each with `type` and `reason`", read_suppression,
			&benign);
}
