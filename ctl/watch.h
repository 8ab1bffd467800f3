/* SPDX-License-Identifier: MIT */
/*
 * The full-screen view: status and suspects, or the types of one process, asked again and again.
 */
#ifndef PYLEAK_CTL_WATCH_H
#define PYLEAK_CTL_WATCH_H

#include "ctl/ctl.h"
#include "ctl/options.h"

/* The verb. An error in the first answer ends it with that exit code, later ones are shown. */
int run_watch(struct ctl *c, const struct options *o);

#endif
