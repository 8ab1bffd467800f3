/* SPDX-License-Identifier: MIT */
/*
 * pyleakctl replay FILE: the verdict engine over a recording, without a daemon.
 */
#ifndef PYLEAK_CTL_REPLAY_H
#define PYLEAK_CTL_REPLAY_H

#include "ctl/ctl.h"
#include "ctl/options.h"

int run_replay(struct ctl *c, const struct options *o);

#endif
