/* SPDX-License-Identifier: MIT */
/* Text that comes out of a target may be anything; what leaves the daemon is fit to be shown. */
#ifndef PYLEAK_UTIL_UTF8_H
#define PYLEAK_UTIL_UTF8_H

#include <stddef.h>

/* Length of the well-formed UTF-8 sequence at s, 0 if there is none (RFC 3629). */
size_t utf8_length(const char *s);

/* Control characters (C1 too) and what is not UTF-8 become '?': text goes to terminals, journals, JSON
 * and metrics. In place, never longer. */
void utf8_clean(char *s);

#endif
