/* SPDX-License-Identifier: MIT */
/*
 * Names for what the walker saw: types, modules, functions, attributes, dict keys. A dict key is
 * data; which ones may be named is the request's `keys` (capture.h): by default those of
 * namespaces (module, class and instance dicts), and of other dicts only interned ones that
 * some code object has among its names or constants. Only identifiers are ever named, and what is not
 * a name in some code object only if it does not look like a token or a digest; except
 * with CAPTURE_KEYS_ALL. No value is ever written.
 */
#ifndef PYLEAK_CAPTURE_LABELS_H
#define PYLEAK_CAPTURE_LABELS_H

#include "capture/graph.h"
#include "capture/job.h"
#include "capture/strings.h"
#include "capture/view.h"

/* Number of the str object's text, if it may be a name (an identifier); else 0. */
uint32_t labels_identifier(struct view *v, struct strings *s, uint64_t str);

/* Whether it looks like a token or a digest rather than like a name. */
bool labels_looks_random(const char *s, size_t n);

/* Name of a module, which is the key of sys.modules as well: "" (0) unless it is made of names. */
size_t labels_module_name(struct view *v, uint64_t str, char *buf, size_t n);

/* Names types, nodes and edges of the whole graph; its edges are final after that. Needs the copy
 * alive. -ENOMEM. */
int labels_resolve(struct job *j, struct graph *g, struct view *v, struct strings *s);

#endif
