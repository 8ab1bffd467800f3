/* SPDX-License-Identifier: MIT */
/* What the files of this folder share: limits, names and the owners' ends. */
#ifndef PYLEAK_CONFIG_PRIVATE_H
#define PYLEAK_CONFIG_PRIVATE_H

#include "daemon/config/config.h"

#define RULES_MAX        256
#define TRIGGERS_MAX     64
#define SUPPRESS_MAX     256
#define CONDITIONS_MAX   32  /* of one `when`, nested ones included */
#define WHEN_DEPTH_MAX   4   /* `any` within `any` */
#define TEXT_MAX         255 /* bytes of a glob */
#define TRIGGER_NAME_MAX 63

/* The keys of `match`, in the order they are printed. */
struct match_key {
	const char *name;
	size_t offset; /* of the char * in struct config_rule */
};
#define N_MATCH_KEYS 5
extern const struct match_key match_keys[N_MATCH_KEYS];

/* The actions a trigger can have; those that this version does not have are refused by name. */
struct action_name {
	const char *name;
	enum config_action action;
	bool available;
};
#define N_ACTIONS 4
extern const struct action_name action_names[N_ACTIONS];

void rule_release(struct config_rule *r);
void when_release(struct config_when *w);
void trigger_release(struct config_trigger *t);
void suppress_release(struct config_suppress *s);

#endif
