/* SPDX-License-Identifier: MIT */
#include "daemon/util/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "daemon/util/utf8.h"

static const char *log_name = "pyleak";
static int log_max = LOG_INFO;
static bool log_journal;

/* systemd.exec(5): JOURNAL_STREAM holds device:inode of the stream the journal gave us. */
static bool stderr_is_journal(void)
{
	const char *e = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	return e && sscanf(e, "%llu:%llu", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
	       st.st_dev == dev && st.st_ino == ino;
}

void log_open(const char *name, int max_level)
{
	log_name = name;
	log_max = max_level;
	log_journal = stderr_is_journal();
}

int log_msg(int level, const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	if (level > log_max)
		return 0;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	utf8_clean(line); /* what a target calls itself must not look like a line of ours */
	/* One write a line, so that lines of several processes do not mix. */
	if (log_journal)
		dprintf(STDERR_FILENO, "<%d>%s\n", level, line);
	else
		dprintf(STDERR_FILENO, "%s: %s\n", log_name, line);
	return 0;
}
