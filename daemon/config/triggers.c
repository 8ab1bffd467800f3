/* SPDX-License-Identifier: MIT */
/* `triggers`: what starts a dump. */
#include <stdlib.h>
#include <string.h>

#include "daemon/config/loader.h"
#include "daemon/track/track.h"

const struct action_name action_names[N_ACTIONS] = {
	{"dump", ACTION_DUMP, true},
	{"exec", ACTION_EXEC, false},
	{"webhook", ACTION_WEBHOOK, false},
	{"alertmanager", ACTION_ALERTMANAGER, false},
};

/* A `when` while it is read: its conditions become children. */
struct when_reading {
	struct config_when all;
	char *type; /* of the verdict */
};

/* Room for one more condition, or NULL and an error. */
static struct config_when *new_condition(
	struct loader *l, const yaml_node_t *n, struct config_when *parent)
{
	struct config_when *children;

	if (++l->conditions > CONDITIONS_MAX) {
		error_node(
			l, n, "too many conditions, allowed are %d in one trigger", CONDITIONS_MAX);
		return NULL;
	}
	children = reallocarray(parent->children, parent->n_children + 1, sizeof(*children));
	if (!children) {
		l->out_of_memory = true;
		return NULL;
	}
	parent->children = children;
	children[parent->n_children] = (struct config_when){0};
	return &children[parent->n_children++];
}

static void read_verdict(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	static const char *const names[] = {"leak", "watch"};
	const char *text = read_scalar(l, v, "leak or watch");
	struct when_reading *r = object;
	struct config_when *w;

	if (!text)
		return;
	if (strcmp(text, "leak") && strcmp(text, "watch")) {
		unknown_name(l, v, "verdict", text, names, ARRAY_SIZE(names));
		return;
	}
	w = new_condition(l, v, &r->all);
	if (!w)
		return;
	w->kind = WHEN_VERDICT;
	w->verdict = text[0] == 'l' ? TRACK_LEAK : TRACK_WATCH;
}

static void read_verdict_type(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_glob(l, v, &((struct when_reading *)object)->type);
}

static void read_count_type(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_glob(l, v, &((struct config_when *)object)->type);
}

static void read_count(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_value(l, v, &when_count, &((struct config_when *)object)->count);
}

static const struct key count_keys[] = {
	{"type", read_count_type, NULL, true},
	{"count", read_count, NULL, true},
};

static const struct key rate_keys[] = {
	{"type", read_count_type, NULL, true},
	{"per_hour", read_count, NULL, true},
};

static void read_share(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_value(l, v, &when_cgroup, &((struct config_when *)object)->share);
}

static const struct key share_keys[] = {
	{"type", read_count_type, NULL, true},
	{"share", read_share, NULL, true},
};

static const struct type_condition {
	enum config_when_kind kind;
	const struct key *keys;
} count_above = {WHEN_COUNT, count_keys}, growth_above = {WHEN_RATE, rate_keys},
  share_above = {WHEN_SHARE, share_keys};

/* Each of them has two keys. */
static void read_of_type(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct config_when *w = new_condition(l, v, &((struct when_reading *)object)->all);
	const struct type_condition *c = arg;

	if (!w)
		return;
	w->kind = c->kind;
	read_mapping(l, v, c->keys, 2, w, NULL);
}

static void read_rss_above(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct config_when *w = new_condition(l, v, &((struct when_reading *)object)->all);

	if (!w)
		return;
	w->kind = WHEN_RSS;
	read_value(l, v, &when_rss, &w->bytes);
}

static void read_cgroup_above(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct config_when *w = new_condition(l, v, &((struct when_reading *)object)->all);

	if (!w)
		return;
	w->kind = WHEN_CGROUP;
	read_value(l, v, &when_cgroup, &w->share);
}

static void read_any(struct loader *l, const yaml_node_t *v, void *object, const void *arg);

static const struct key when_keys[] = {
	{"verdict", read_verdict, NULL, false},
	{"type", read_verdict_type, NULL, false},
	{"count_above", read_of_type, &count_above, false},
	{"growth_above", read_of_type, &growth_above, false},
	{"share_above", read_of_type, &share_above, false},
	{"rss_above", read_rss_above, NULL, false},
	{"cgroup_memory_above", read_cgroup_above, NULL, false},
	{"any", read_any, NULL, false},
};
#define WHEN_KEY_TYPE 1 /* index of "type" */

/* One condition stands for itself, several are AND. */
static void read_when_into(struct loader *l, const yaml_node_t *v, struct config_when *w)
{
	struct place given[ARRAY_SIZE(when_keys)] = {0};
	struct when_reading r = {.all = {.kind = WHEN_ALL}};
	unsigned errors = l->errors;

	read_mapping(l, v, when_keys, ARRAY_SIZE(when_keys), &r, given);
	for (size_t i = 0; r.type && i < r.all.n_children; i++)
		if (r.all.children[i].kind == WHEN_VERDICT)
			r.all.children[i].type = TAKE_PTR(r.type);
	if (errors == l->errors && r.type)
		error_at(l, &given[WHEN_KEY_TYPE],
			"`type` belongs to `verdict`, which is missing; count_above has its own");
	free(r.type);
	if (errors == l->errors && !r.all.n_children)
		error_node(l, v,
			"no condition, it takes verdict, count_above, growth_above, share_above, "
			"rss_above, cgroup_memory_above or any");
	if (r.all.n_children == 1) {
		*w = r.all.children[0];
		free(r.all.children);
	} else {
		*w = r.all;
	}
}

static bool read_one_of_any(struct loader *l, const yaml_node_t *n, void *object)
{
	struct config_when *w = new_condition(l, n, object);

	if (w)
		read_when_into(l, n, w);
	return w != NULL;
}

static void read_any(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct config_when *any = new_condition(l, v, &((struct when_reading *)object)->all);
	struct config_when local = {.kind = WHEN_ANY};
	size_t index;

	if (!any)
		return;
	*any = local;
	index = ((struct when_reading *)object)->all.n_children - 1;
	if (l->depth >= WHEN_DEPTH_MAX) {
		error_node(l, v, "nested too deep, allowed are %d levels", WHEN_DEPTH_MAX);
		return;
	}
	if (is_empty_list(v))
		error_node(l, v, "an empty list is never true, it takes conditions");
	l->depth++;
	read_list(l, v, "conditions", read_one_of_any, &local);
	l->depth--;
	((struct when_reading *)object)->all.children[index] = local;
}

static void read_when(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	l->conditions = 0;
	l->depth = 0;
	read_when_into(l, v, &((struct config_trigger *)object)->when);
}

static void read_name(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	static const char allowed[] = "letters, digits, '-', '_' and '.', at most 63 of them";
	const char *text = read_scalar(l, v, allowed);

	if (!text)
		return;
	if (!*text || strlen(text) > TRIGGER_NAME_MAX ||
		text[strspn(
			text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")])
		error_node(l, v, "'%.80s' is not a name, allowed are %s", text, allowed);
	else
		copy_text(l, &((struct config_trigger *)object)->name, text);
}

static void read_hold(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_value(l, v, &trigger_hold, &((struct config_trigger *)object)->hold_ns);
}

static void read_cooldown(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_value(l, v, &trigger_cooldown, &((struct config_trigger *)object)->cooldown_ns);
}

static void read_per_day(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	read_value(l, v, &trigger_per_day, &((struct config_trigger *)object)->per_day);
}

static bool read_action(struct loader *l, const yaml_node_t *n, void *object)
{
	const char *text = read_scalar(l, n, "the name of an action"), *names[N_ACTIONS];
	struct config_trigger *t = object;
	size_t a = 0;

	for (size_t i = 0; i < N_ACTIONS; i++)
		names[i] = action_names[i].name;
	if (!text)
		return true;
	while (a < N_ACTIONS && strcmp(text, names[a]))
		a++;
	if (a == N_ACTIONS)
		unknown_name(l, n, "action", text, names, N_ACTIONS);
	else if (!action_names[a].available)
		error_node(
			l, n, "action '%s' is not available in this version, allowed: dump", text);
	else if (t->actions & action_names[a].action)
		error_node(l, n, "action '%s' is given twice", text);
	else
		t->actions |= action_names[a].action;
	return true;
}

static void read_do(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	((struct config_trigger *)object)->actions = 0;
	if (is_empty_list(v))
		error_node(l, v, "an empty list does nothing, it takes actions, such as [dump]");
	else
		read_list(l, v, "actions, such as [dump]", read_action, object);
}

static const struct key trigger_keys[] = {
	{"name", read_name, NULL, true},
	{"when", read_when, NULL, true},
	{"hold", read_hold, NULL, false},
	{"do", read_do, NULL, false},
	{"cooldown", read_cooldown, NULL, false},
	{"per_day", read_per_day, NULL, false},
};
#define TRIGGER_KEY_PER_DAY 5 /* index of "per_day" */

/* A trigger of a later file takes the place of one of the same name. */
static void add_trigger(struct loader *l, struct config_trigger *t, const struct place *place)
{
	struct config *c = l->config;

	for (size_t i = 0; i < c->n_triggers; i++) {
		if (strcmp(c->triggers[i].name, t->name))
			continue;
		if (l->trigger_at[i].source == place->source) {
			error_at(l, place, "the name '%s' is taken by the trigger in line %zu",
				t->name, l->trigger_at[i].line + 1);
			trigger_release(t);
			return;
		}
		trigger_release(&c->triggers[i]);
		c->triggers[i] = *t;
		l->trigger_at[i] = *place;
		return;
	}
	if (c->n_triggers >= TRIGGERS_MAX) {
		error_at(l, place, "too many triggers, allowed are %d", TRIGGERS_MAX);
		trigger_release(t);
	} else if (list_append(l, (void **)&c->triggers, c->n_triggers, sizeof(*t), t,
			   &l->trigger_at, place)) {
		trigger_release(t);
	} else {
		c->n_triggers++;
	}
}

static bool read_trigger(struct loader *l, const yaml_node_t *n, void *object)
{
	struct place given[ARRAY_SIZE(trigger_keys)] = {0}, place = place_of(l, n);
	struct config_trigger t = {
		.actions = ACTION_DUMP,
		.cooldown_ns = 6 * 3600 * 1000000000ULL,
		.per_day = 4,
	};
	unsigned errors = l->errors;

	read_mapping(l, n, trigger_keys, ARRAY_SIZE(trigger_keys), &t, given);
	if (errors != l->errors || l->out_of_memory) {
		trigger_release(&t);
		return l->errors <= ERRORS_MAX;
	}
	if (given[TRIGGER_KEY_PER_DAY].source && t.per_day > 1 &&
		t.cooldown_ns / 1000000000 * (t.per_day - 1) >= 86400)
		warning_at(l, &given[TRIGGER_KEY_PER_DAY],
			"has no effect, `cooldown` does not let it fire more often than that anyway");
	add_trigger(l, &t, &place);
	return l->errors <= ERRORS_MAX;
}

void read_triggers(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	if (!is_null(v))
		read_list(l, v, "triggers, each with `name` and `when`", read_trigger, NULL);
}
