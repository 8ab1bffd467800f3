/* SPDX-License-Identifier: MIT */
/*
 * What the daemon knows of its targets, as metrics: Prometheus exposition format 0.0.4. A number that is
 * not known is left out, never a guess. Types are not told one by one but for the suspects: a program
 * has thousands.
 */
#ifndef PYLEAK_WATCH_METRICS_H
#define PYLEAK_WATCH_METRICS_H

#include <stdio.h>

#include "daemon/watch/watch.h"

void metrics_write(const struct watch *w, FILE *f);

#endif
