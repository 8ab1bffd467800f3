/* SPDX-License-Identifier: MIT */
/*
 * The answer to "what holds them?", in words and numbers, independent of the graph it came from:
 * the graph can be freed before anything is drawn. See INTERFACE.md, `dump`.
 */
#ifndef PYLEAK_GRAPH_EXPLAIN_H
#define PYLEAK_GRAPH_EXPLAIN_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "graph/paths.h"

#define EXPLAIN_C_CODE "C code" /* the root's name where nobody knows more */

#define EXPLAIN_PATHS_DEFAULT 8
#define EXPLAIN_PATHS_MAX     64
#define EXPLAIN_SUSPECTS_MAX  16 /* more types than that are not explained at once */
#define EXPLAIN_TYPES_TOP     20
#define EXPLAIN_HOLDERS       12 /* on the page */

/* A `truncated`: level, reason. */
#define EXPLAIN_CUT_SEARCH                                                                         \
	"search", "the time was up before all ways from the roots were found: ask with a longer --deadline"
#define EXPLAIN_CUT_PATHS                                                                          \
	"paths", "the time was up before the objects of all types were grouped: ask with a longer --deadline"

struct explain_step {
	char *type;  /* module.QualName */
	char *label; /* what a person calls it: SESSIONS, handler, Session */
	char *edge;  /* how the step before holds it: ['key'], .attr, [3], cell x, local x, or "" */
	uint64_t nodes; /* objects of the path's instances in this place */
	uint64_t addr;  /* of the only one, else 0 */
	uint64_t example; /* of one of them */
	uint32_t shape; /* equal where two paths go through the same place; 0: private */
	bool repeats;
	bool gap; /* stands for steps that were cut out */
};

struct explain_path {
	double share;
	uint64_t instances, leaking; /* the latter: of the suspect's `leaking` */
	enum path_root root;
	char *root_name;
	uint64_t root_addr; /* of a module; 0: the root is no object, or not in the dump */
	uint32_t root_shape;
	struct explain_step *steps;
	size_t n_steps;
	ssize_t accumulation; /* a step, or -1: the root */
	bool is_cycle;
	char *expression; /* app.SESSIONS['…'] */
	char *sentence;
};

struct explain_suspect {
	char *type;
	uint64_t addr; /* not 0: this one object is meant, not all of the type */
	uint64_t instances, bytes; /* bytes: of the objects themselves */
	struct explain_path *paths;
	size_t n_paths;
	uint64_t leaking;   /* of them, those most likely to; see graph/chosen.h */
	const char *chosen; /* how these were chosen */
	bool grown;         /* they are those that came since the growth began */
	uint64_t other_paths, other_instances;
	uint64_t unseen; /* instances that were not looked at: the time was up */
};

struct explain_type {
	char *type;
	uint64_t count, bytes;
};

struct explain_holder {
	char *type, *label;
	uint64_t bytes, objects; /* that it retains */
};

struct explanation {
	struct explain_suspect *suspects;
	size_t n_suspects;
	uint64_t suspects_left_out; /* types that matched beyond EXPLAIN_SUSPECTS_MAX */
	struct explain_type *top;   /* the types with most objects */
	size_t n_top;
	struct explain_holder *holders; /* that keep most memory alive */
	size_t n_holders;
	const char *holders_reason; /* why there are none, or NULL: nobody asked */
	uint64_t objects, edges, skipped, types;
	/* What is missing because the time was up, and why; or NULL. */
	const char *cut_level, *cut_reason;
	bool partial; /* something of the heap was not read: what seems to hold nothing may hold it */
};

struct explain_options {
	/* Names as INTERFACE.md says (exact, glob with * and ?, or short); none: the three types
	 * with most instances that the program itself defined. */
	const char *const *types;
	size_t n_types;
	/* How many more of each there are since the growth began, 0: not known; or NULL. */
	const uint64_t *grown;
	const uint64_t *addrs; /* objects to explain, each for itself */
	size_t n_addrs;
	size_t max_paths; /* 0: EXPLAIN_PATHS_DEFAULT */
	size_t max_holders; /* 0: nobody asks; needs graph_index_referrers() */
	size_t max_steps; /* longer paths are only counted; 0: no limit */
	bool partial;     /* the capture was cut short */
};

/*
 * -ENOENT: no such type or object, or a short name of several types; the message lists what is
 * near. -ENOMEM.
 */
int explain(struct explanation *x, const struct graph *g, const struct explain_options *o,
	struct err *err);
void explanation_release(struct explanation *x);

/* What the JSON document says beside the explanation. Strings may be NULL: null. */
struct explain_document {
	const json_t *meta;   /* the snapshot's description, an object, or NULL */
	const json_t *growth; /* [{"type": …, "points": [[ms, count], …]}, …] for the page, or NULL */
	const char *id, *trigger;
	const char *snapshot, *dot, *svg, *json, *html; /* absolute paths */
	const char *svg_reason;                         /* why svg is NULL */
};

/* New reference, or NULL when out of memory. */
json_t *explain_json(const struct explanation *x, const struct explain_document *doc);

/* How one reference holds its object: "['key']", ".attr", "[3]", "cell x", "local x" or "". */
char *explain_edge(const struct graph *g, const struct held *h);

/* What leads to the object from its root: "app.cache.SESSIONS"; NULL when out of memory, "" where
 * nothing leads there or the way is long. */
char *explain_name(struct paths_ctx *c, const struct reach *r, uint32_t node);

/* What a root of a search is called; a reference of C code may have no name. */
const char *explain_root_name(const struct graph *g, enum path_root root, uint32_t name);

/* "module", "interpreter", "frame" or "c-reference". */
const char *explain_root_kind(enum path_root root);

#endif
