/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "daemon/util/units.h"

#define COLUMNS_DEFAULT 80

static unsigned terminal_columns(void)
{
	struct winsize w;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20)
		return w.ws_col;
	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20)
		return w.ws_col;
	return COLUMNS_DEFAULT;
}

int main(int argc, char **argv)
{
	const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
	struct ctl c = {
		.out = stdout,
		.err = stderr,
		.out_terminal = isatty(STDOUT_FILENO),
		.err_terminal = isatty(STDERR_FILENO),
		.columns = terminal_columns(),
		.now_ms = now_realtime_ms(),
	};

	/* no-color.org: set and not empty */
	c.colour = c.out_terminal && !(no_color && *no_color) && term && strcmp(term, "dumb");
	return ctl_main(&c, argc, argv);
}
