/* SPDX-License-Identifier: MIT */
/*
 * Log lines of the programs (not of library code, see err.h): to stderr, with the <N> priority
 * prefix that journald understands when stderr is the journal.
 */
#ifndef PYLEAK_UTIL_LOG_H
#define PYLEAK_UTIL_LOG_H

#include <syslog.h>

#include "daemon/util/macros.h"

/* name is put before each line on a terminal ("pyleakd: …"). Lines above max_level are dropped. */
void log_open(const char *name, int max_level);

/* One line, newline added; returns 0 so that nobody relies on it. */
int log_msg(int level, const char *fmt, ...) _printf_(2, 3);

#define log_error(...)	 log_msg(LOG_ERR, __VA_ARGS__)
#define log_warning(...) log_msg(LOG_WARNING, __VA_ARGS__)
#define log_notice(...)	 log_msg(LOG_NOTICE, __VA_ARGS__)
#define log_info(...)	 log_msg(LOG_INFO, __VA_ARGS__)
#define log_debug(...)	 log_msg(LOG_DEBUG, __VA_ARGS__)

#endif
