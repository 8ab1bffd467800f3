/* SPDX-License-Identifier: MIT */
/*
 * What the answers to all questions share: how they begin and end, how objects are written, what was
 * asked for, and the search from the roots that gives objects their names. For ask_*.c only.
 */
#ifndef PYLEAK_GRAPH_ANSWER_H
#define PYLEAK_GRAPH_ANSWER_H

#include "graph/ask.h"
#include "graph/types.h"

/* One file a question: its answer is written to q->json. As ask(). */
int ask_types(struct ask *q, struct err *err);
int ask_instances(struct ask *q, struct err *err);
int ask_chain(struct ask *q, struct err *err);
int ask_web(struct ask *q, struct err *err); /* backrefs, refs */
int ask_diff(struct ask *q, struct err *err);
int ask_dominators(struct ask *q, struct err *err);
int ask_leaking(struct ask *q, struct err *err);
int ask_cycles(struct ask *q, struct err *err);

/* Tells whoever waits what is being done now. */
void answer_note(const struct ask *q, const char *what);

/* -ENOMEM, with a message. */
int answer_no_memory(const struct ask *q, struct err *err);

/* Notes what is missing because the time was up; the first time counts. */
void answer_cut(struct ask *q, const char *level, const char *reason);

/* The document's beginning, to which a `, "key": value` can be added, and its end. -EIO. */
void answer_begin(const struct ask *q);
int answer_end(const struct ask *q, struct err *err);

/* Before item i of a list; is there room for it, as the user asked? */
const char *answer_separator(uint64_t i);
bool answer_within(const struct ask *q, uint64_t i);

void answer_string(FILE *f, const char *s);
void answer_addr(FILE *f, uint64_t addr);
/* "key": a value of a snapshot's description, null where it says nothing */
void answer_meta(FILE *f, const char *key, const json_t *meta, const char *what);
/* addr, type, bytes and refcount of an object */
void answer_object(FILE *f, const struct graph *g, uint32_t node);

/* ---- what was asked for -------------------------------------------------------------------- */

struct asked {
	const struct ask *q;
	struct census census;
	bool *types; /* by type number: was it named? NULL: no type was */
};

/* -ENOENT: a type or an object that is not there. -ENOMEM. */
int asked_init(struct asked *a, const struct ask *q, struct err *err);
void asked_release(struct asked *a);
bool asked_addr(const struct asked *a, uint64_t addr);
bool asked_node(const struct asked *a, uint32_t node);

/* ---- the search from the roots ------------------------------------------------------------- */

struct ways {
	struct reach r;
	struct paths_ctx *ctx;
};

/* -ENOMEM. Notes it when the search was cut. */
int ways_init(struct ways *w, struct ask *q, struct err *err);
void ways_release(struct ways *w);

/* , "label": "app.cache.SESSIONS", or what the object is called, or its type's short name. -ENOMEM. */
int answer_label(FILE *f, struct ways *w, uint32_t node);

#endif
