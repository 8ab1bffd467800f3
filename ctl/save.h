/* SPDX-License-Identifier: MIT */
#ifndef PYLEAK_CTL_SAVE_H
#define PYLEAK_CTL_SAVE_H

#include <stdint.h>

#include "daemon/util/err.h"

/*
 * Copies the whole file behind fd to path (0600: dumps are secrets). A file that is there is
 * replaced at once when the copy is whole, never half; a device or pipe is written to.
 */
int save_file(int fd, const char *path, uint64_t *ret_bytes, struct err *err);

#endif
