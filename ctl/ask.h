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

#endif
