/* SPDX-License-Identifier: MIT */
#include "ctl/watch.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "ctl/daemon.h"
#include "ctl/show.h"
#include "daemon/util/macros.h"
#include "daemon/util/units.h"
#include "pyleak/control.h"

#define INTERVAL_NS     UINT64_C(2000000000)
#define INTERVAL_MIN_NS UINT64_C(200000000)

/* The other screen, no cursor, lines that are too long cut; and all of that undone. */
#define ENTER "\033[?1049h\033[?25l\033[?7l"
#define LEAVE "\033[?7h\033[?25h\033[?1049l"

static struct termios terminal_before;

static void leave(void)
{
	ssize_t n = write(STDOUT_FILENO, LEAVE, sizeof(LEAVE) - 1);

	(void)n;
	tcsetattr(STDIN_FILENO, TCSANOW, &terminal_before);
}

static void on_end(int signum)
{
	leave();
	signal(signum, SIG_DFL);
	raise(signum);
}

static void on_resize(int signum)
{
	(void)signum; /* poll() ends, which is all */
}

static bool enter(void)
{
	static const int ends[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
	struct sigaction end = {.sa_handler = on_end}, resize = {.sa_handler = on_resize};
	struct termios t;

	if (tcgetattr(STDIN_FILENO, &terminal_before) < 0)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		sigaction(ends[i], &end, NULL);
	sigaction(SIGWINCH, &resize, NULL);
	signal(SIGTSTP, SIG_IGN); /* it would leave the screen as it is */
	t = terminal_before;
	t.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	tcsetattr(STDIN_FILENO, TCSANOW, &t);
	if (write(STDOUT_FILENO, ENTER, sizeof(ENTER) - 1) > 0)
		return true;
	leave();
	return false;
}

static int ask(struct ctl *c, const char *verb, json_t *args,
	void (*show)(struct ctl *c, const json_t *result))
{
	_cleanup_(json_decrefp) json_t *result = NULL;
	int r = daemon_ask(c, verb, args, false, &result, NULL);

	if (!r)
		show(c, result);
	return r;
}

static int next(struct ctl *c, const char *verb, json_t *args,
	void (*show)(struct ctl *c, const json_t *result))
{
	fputc('\n', c->out);
	return ask(c, verb, args, show);
}

/* What is shown now, as text. Errors are part of it. */
static int frame(const struct ctl *c, const struct options *o, pid_t pid, char **ret)
{
	struct ctl f = *c;
	size_t n;
	int r;

	f.out = f.err = open_memstream(ret, &n);
	if (!f.out)
		return EXIT_BROKEN;
	f.err_terminal = false;
	f.scratch = NULL;
	f.now_ms = now_realtime_ms();
	if (pid) {
		r = ask(&f, "top",
			json_pack("{s:i, s:I, s:b}", "pid", (int)pid, "n", (json_int_t)o->n,
				"fresh", 0),
			show_top);
		r = r ?: next(&f, "suspects", json_pack("{s:i}", "pid", (int)pid), show_suspects);
	} else {
		r = ask(&f, "status", json_object(), show_status);
		r = r ?: next(&f, "suspects", json_object(), show_suspects);
	}
	ctl_release(&f);
	if (fclose(f.out) && !r)
		r = EXIT_BROKEN;
	return r;
}

static void draw(const struct ctl *c, const char *text, uint64_t interval_ns)
{
	struct winsize w = {0};
	unsigned rows = ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_row > 2 ? w.ws_row : 24;
	char every[32], clock[16];
	time_t now = time(NULL);
	struct tm tm;

	format_duration(every, sizeof(every), interval_ns);
	strftime(clock, sizeof(clock), "%H:%M:%S", localtime_r(&now, &tm));
	fprintf(c->out, "\033[H%s  every %s  q: quit\033[K\n\033[K", clock, every);
	for (unsigned row = 2; *text && row < rows; row++) {
		size_t n = strcspn(text, "\n");

		fprintf(c->out, "\n%.*s\033[K", (int)n, text);
		text += n + (text[n] == '\n');
	}
	fprintf(c->out, "\033[J");
	fflush(c->out);
}

/* False: it is over. */
static bool wait_for_key(uint64_t ns)
{
	struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
	char keys[64];
	ssize_t n;

	if (poll(&p, 1, (int)(ns / 1000000)) <= 0)
		return true;
	n = read(STDIN_FILENO, keys, sizeof(keys));
	return n > 0 && !memchr(keys, 'q', (size_t)n) && !memchr(keys, 'Q', (size_t)n);
}

int run_watch(struct ctl *c, const struct options *o)
{
	uint64_t interval_ns = o->given & OPTION_BIT(OPTION_INTERVAL)
				       ? MAX(o->interval_ns, INTERVAL_MIN_NS)
				       : INTERVAL_NS;
	_cleanup_free_ char *first = NULL;
	pid_t pid = 0;
	int r;

	if (c->json || !c->out_terminal || !isatty(STDIN_FILENO))
		return ctl_fail(c, EXIT_USAGE,
			"watch: it is for a terminal: for scripts there are status, suspects and "
			"top");
	if (o->n_words) {
		r = ctl_pid(c, o->words[0], &pid);
		if (r)
			return r;
	}
	r = frame(c, o, pid, &first);
	if (r) {
		fputs(first ?: "pyleakctl: watch: out of memory\n", c->err);
		return r;
	}
	if (!enter())
		return ctl_fail(c, EXIT_BROKEN, "watch: the terminal cannot be set up: %s",
			strerror(errno));
	draw(c, first, interval_ns);
	while (wait_for_key(interval_ns)) {
		_cleanup_free_ char *text = NULL;

		frame(c, o, pid, &text);
		draw(c, text ?: "", interval_ns);
	}
	leave();
	return EXIT_FINE;
}
