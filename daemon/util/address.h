/* SPDX-License-Identifier: MIT */
/* Addresses as people write them in a configuration: "127.0.0.1:9477", "[::1]:9477". */
#ifndef PYLEAK_UTIL_ADDRESS_H
#define PYLEAK_UTIL_ADDRESS_H

#include <sys/socket.h>

/* Numbers only, no names: nobody is asked. Port 1 to 65535. -EINVAL. */
int address_parse(const char *text, struct sockaddr_storage *ret, socklen_t *ret_len);

#endif
