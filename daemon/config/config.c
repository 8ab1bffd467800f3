/* SPDX-License-Identifier: MIT */
#include "daemon/config/config.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>

#include "daemon/config/config_private.h"
#include "daemon/config/schema.h"

int config_new(struct config **ret)
{
	struct config *c = calloc(1, sizeof(*c));
	char msg[SCHEMA_MSG_MAX];

	if (!c)
		return -ENOMEM;
	for (size_t i = 0; i < N_SETTINGS; i++) {
		const struct setting *s = &settings[i];
		int r = value_parse(&s->value, s->dflt, (char *)c + s->offset, msg);

		if (r) { /* the table is wrong; a test reads every default */
			config_free(c);
			return r;
		}
	}
	*ret = c;
	return 0;
}

void rule_release(struct config_rule *r)
{
	free(r->comm);
	free(r->exe);
	free(r->cmdline);
	free(r->user);
	free(r->unit);
	*r = (struct config_rule){0};
}

void when_release(struct config_when *w)
{
	for (size_t i = 0; i < w->n_children; i++)
		when_release(&w->children[i]);
	free(w->children);
	free(w->type);
	*w = (struct config_when){0};
}

void trigger_release(struct config_trigger *t)
{
	free(t->name);
	when_release(&t->when);
	*t = (struct config_trigger){0};
}

void suppress_release(struct config_suppress *s)
{
	free(s->type);
	free(s->service);
	free(s->reason);
	*s = (struct config_suppress){0};
}

const char *config_suppressed(
	const struct config *c, const char *service, const char *type, int64_t count, int64_t at_ms)
{
	for (size_t i = 0; i < c->n_suppress; i++) {
		const struct config_suppress *s = &c->suppress[i];

		if (fnmatch(s->type, type, 0) == 0 && (!s->service || fnmatch(s->service, service, 0) == 0) &&
			(!s->until_ms || at_ms < s->until_ms) &&
			(!s->up_to || (count >= 0 && (uint64_t)count <= s->up_to)))
			return s->reason;
	}
	return NULL;
}

void config_free(struct config *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->n_rules; i++)
		rule_release(&c->rules[i]);
	free(c->rules);
	for (size_t i = 0; i < c->n_triggers; i++)
		trigger_release(&c->triggers[i]);
	free(c->triggers);
	free(c->metrics_listen);
	for (size_t i = 0; i < c->n_suppress; i++)
		suppress_release(&c->suppress[i]);
	free(c->suppress);
	free(c);
}

void config_freep(struct config **c)
{
	config_free(*c);
}
