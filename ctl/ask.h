/* SPDX-License-Identifier: MIT */
/*
 * Questions to a dump: an id, whose snapshot the daemon hands over, or a file, for which no daemon
 * is needed.
 */
#ifndef PYLEAK_CTL_ASK_H
#define PYLEAK_CTL_ASK_H

#include "ctl/ctl.h"
#include "ctl/options.h"

int ask_chain(struct ctl *c, const struct options *o);
int ask_backrefs(struct ctl *c, const struct options *o);
int ask_refs(struct ctl *c, const struct options *o);
int ask_types(struct ctl *c, const struct options *o);
int ask_instances(struct ctl *c, const struct options *o);
int ask_diff(struct ctl *c, const struct options *o);
int ask_dominators(struct ctl *c, const struct options *o);
int ask_leaking(struct ctl *c, const struct options *o);
int ask_cycles(struct ctl *c, const struct options *o);

/* `dumps show ID -o FILE` where the ending asks for a file that a dump does not have but can be made of
 * those that it has: *ret_made says whether it was one; *ret_result is the daemon's answer. */
int ask_dump_file(
	struct ctl *c, const struct options *o, const char *id, bool *ret_made, json_t **ret_result);

#endif
