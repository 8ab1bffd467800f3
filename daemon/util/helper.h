/* SPDX-License-Identifier: MIT */
#ifndef PYLEAK_UTIL_HELPER_H
#define PYLEAK_UTIL_HELPER_H

#include <stddef.h>

/*
 * Where one of our own programs is: beside the running executable (a build folder), else where
 * `make install` puts it as seen from there (libexec/pyleak, or sbin for pyleakd; installed with
 * another PREFIX than built with), else as built. -ENOENT: nowhere.
 */
int helper_path(const char *name, char *buf, size_t n);

#endif
