/* SPDX-License-Identifier: MIT */
/*
 * Reading a configuration, for the files that do it: messages.c says what is wrong, nodes.c reads nodes,
 * mappings and lists, targets.c, suppress.c, triggers.c and sections.c what stands in them, load.c
 * the files. A reader that meets a mistake says so and goes on: all are told at once.
 */
#ifndef PYLEAK_CONFIG_LOADER_H
#define PYLEAK_CONFIG_LOADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <yaml.h>

#include "daemon/config/config_private.h"
#include "daemon/config/schema.h"
#include "daemon/config/source.h"
#include "daemon/util/macros.h"

#define DROP_INS_MAX 256
#define BENIGN       "benign.yaml"
#define ERRORS_MAX   100   /* told; the rest is counted */
#define VISITS_MAX   20000 /* nodes looked at in a file: aliases make a small file endless */
#define PATH_TEXT    128
#define MSG_MAX      512

struct loader {
	struct config *config;
	FILE *diag;
	struct source *sources[DROP_INS_MAX + 2]; /* kept: warnings at the end show their lines */
	size_t n_sources;

	const struct source *source; /* the file being read */
	yaml_document_t *document;
	unsigned visits;
	bool benign;  /* it is benign.yaml */
	bool partial; /* only what stands before a syntax error: what is missing may follow it */
	bool out_of_memory;
	char where[PATH_TEXT];      /* "triggers[0].when" */
	unsigned conditions, depth; /* of the `when` being read */

	unsigned errors, warnings;
	char first_error[MSG_MAX];

	struct place set_at[N_SETTINGS];
	struct place *rule_at, *trigger_at,
		*suppress_at;   /* of config->rules, ->triggers, ->suppress */
	struct place catch_all; /* a rule that fits every process */
	bool unreachable_told;
};

/* ---- messages.c ------------------------------------------------------------------------------- */

struct place place_of_mark(const struct loader *l, const yaml_mark_t *m);
struct place place_of(const struct loader *l, const yaml_node_t *n);
void _printf_(3, 4) error_at(struct loader *l, const struct place *p, const char *fmt, ...);
void _printf_(3, 4) warning_at(struct loader *l, const struct place *p, const char *fmt, ...);
void _printf_(3, 4) error_node(struct loader *l, const yaml_node_t *n, const char *fmt, ...);
/* `text` is none of these names: says so, with the one that was likely meant. */
void unknown_name(struct loader *l, const yaml_node_t *n, const char *what, const char *text,
	const char *const *names, size_t n_names);
const char *list_names(char *buf, size_t size, const char *const *names, size_t n);

/* Adds to l->where until the caller cuts it back to what is returned. */
size_t _printf_(2, 3) where_enter(struct loader *l, const char *fmt, ...);
void where_leave(struct loader *l, size_t n);

/* ---- nodes.c ---------------------------------------------------------------------------------- */

/* NULL if there is none, or if too many have been looked at. */
yaml_node_t *get_node(struct loader *l, int index);
bool is_null(const yaml_node_t *n);
bool is_empty_list(const yaml_node_t *v);
const char *kind_of(const yaml_node_t *n);
/* The text of a scalar; NULL and an error for anything else. `wanted` says what belongs there. */
const char *read_scalar(struct loader *l, const yaml_node_t *n, const char *wanted);
void copy_text(struct loader *l, char **dest, const char *text);
/* Into what the specification says, at dest. False and an error. */
bool read_value(struct loader *l, const yaml_node_t *n, const struct value_spec *spec, void *dest);
void read_bool(struct loader *l, const yaml_node_t *n, bool *dest);
bool read_glob(struct loader *l, const yaml_node_t *n, char **dest);

struct key {
	const char *name;
	void (*read)(struct loader *l, const yaml_node_t *value, void *object, const void *arg);
	const void *arg;
	bool required;
};
#define KEYS_MAX 16

/* Walks a mapping: every key by its entry in the table. `given` (may be NULL) gets the place of
 * each key that is there. */
void read_mapping(struct loader *l, const yaml_node_t *n, const struct key *keys, size_t n_keys,
	void *object, struct place *given);
/* Each member by `read`, until that returns false. An error if it is no list `of` such. */
void read_list(struct loader *l, const yaml_node_t *v, const char *of,
	bool (*read)(struct loader *l, const yaml_node_t *member, void *object), void *object);
/* Puts a member at the end of an array of n, and its place at the end of another. */
int list_append(struct loader *l, void **array, size_t n, size_t size, const void *member,
	struct place **places, const struct place *place);

/* ---- keys of a document, each in the file of its name ----------------------------------------- */

void read_targets(struct loader *l, const yaml_node_t *v, void *object, const void *arg);
/* arg: not NULL if it is of benign.yaml. */
void read_suppress(struct loader *l, const yaml_node_t *v, void *object, const void *arg);
void read_triggers(struct loader *l, const yaml_node_t *v, void *object, const void *arg);

/* ---- sections.c ------------------------------------------------------------------------------- */

void read_document(struct loader *l);

#endif
