/* SPDX-License-Identifier: MIT */
/*
 * The daemon's answers in words and tables. What an answer does not have is left out or shown
 * as "-": these functions never guess and never fail on an odd document.
 */
#ifndef PYLEAK_CTL_SHOW_H
#define PYLEAK_CTL_SHOW_H

#include <jansson.h>

#include "ctl/ctl.h"

void show_status(struct ctl *c, const json_t *result);
void show_top(struct ctl *c, const json_t *result);
void show_growth(struct ctl *c, const json_t *result);
void show_history(struct ctl *c, const json_t *result);
void show_suspects(struct ctl *c, const json_t *result);
void show_why(struct ctl *c, const json_t *result);
void show_paused(struct ctl *c, const json_t *result);
void show_dump(struct ctl *c, const json_t *result);
void show_dumps(struct ctl *c, const json_t *result);
/* Answers about a dump (ask.h). */
void show_chain(struct ctl *c, const json_t *answer);
void show_web(struct ctl *c, const json_t *answer);
void show_types(struct ctl *c, const json_t *answer);
void show_instances(struct ctl *c, const json_t *answer);
void show_diff(struct ctl *c, const json_t *answer);
void show_dominators(struct ctl *c, const json_t *answer);
void show_leaking(struct ctl *c, const json_t *answer);
void show_cycles(struct ctl *c, const json_t *answer);
/* What is missing of an answer, or of the heap that it speaks of. */
void show_truncated(struct ctl *c, const json_t *answer);
/* A table, or that there was no memory for it. */
void show_table(struct ctl *c, const struct table *t);
/* Any object, key by key. */
void show_object(struct ctl *c, const json_t *result);

#endif
