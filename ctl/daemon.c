/* SPDX-License-Identifier: MIT */
#include "ctl/daemon.h"

#include <string.h>

#include "ctl/client.h"
#include "ctl/text.h"
#include "daemon/util/macros.h"
#include "daemon/util/units.h"
#include "pyleak/control.h"

/* A census of a large heap takes seconds; a dump has its own deadline, and may have to queue. */
#define SILENCE_MS 60000
#define TICK_MS    250

struct wait wait_begin(struct ctl *c, const char *text)
{
	struct wait w = {.c = c, .since_ns = now_monotonic_ns()};

	snprintf(w.text, sizeof(w.text), "%s", text);
	return w;
}

void wait_on(void *arg, const char *progress)
{
	struct wait *w = arg;
	char clock[TEXT_MAX], line[384];
	uint64_t s;

	if (!w->c->err_terminal)
		return;
	if (progress)
		snprintf(w->text, sizeof(w->text), "%s", progress);
	s = (now_monotonic_ns() - w->since_ns) / 1000000000ULL;
	if (!progress && !w->shown && s < 1)
		return; /* not for what is answered at once */
	snprintf(clock, sizeof(clock), "%u:%02u", (unsigned)(s / 60), (unsigned)(s % 60));
	snprintf(line, sizeof(line), "%s  %s", clock, w->text);
	/* A line that wraps cannot be wiped: cut it, by bytes, which is never too long. */
	if (strlen(line) >= w->c->columns) {
		size_t n = w->c->columns - 1;

		while (n && (line[n] & 0xc0) == 0x80)
			n--;
		line[n] = 0;
	}
	fprintf(w->c->err, "\r\033[K%s", ctl_clean(w->c, line));
	fflush(w->c->err);
	w->shown = true;
}

void wait_end(struct wait *w)
{
	if (w->shown)
		fprintf(w->c->err, "\r\033[K");
	w->shown = false;
}

int daemon_call(struct ctl *c, const char *verb, json_t *stolen_args, bool patient, json_t **ret,
	int *ret_fd, struct err *err)
{
	_cleanup_(json_decrefp) json_t *args = stolen_args;
	_cleanup_(client_closep) struct client *client = NULL;
	struct wait wait = wait_begin(c, "waiting for pyleakd");
	struct client_call call = {.verb = verb,
		.args = args,
		.silence_ms = patient ? 0 : SILENCE_MS,
		.tick_ms = c->err_terminal ? TICK_MS : 0,
		.on_wait = wait_on,
		.arg = &wait};
	int r;

	if (!args) {
		err_set(err, 0, "an argument is not UTF-8 text");
		return EXIT_USAGE;
	}
	r = client_open(c->socket, &client, err);
	if (!r)
		r = client_call(client, &call, ret, ret_fd, err);
	wait_end(&wait);
	return r;
}

int daemon_ask(struct ctl *c, const char *verb, json_t *stolen_args, bool patient, json_t **ret,
	int *ret_fd)
{
	struct err err = {0};
	int r = daemon_call(c, verb, stolen_args, patient, ret, ret_fd, &err);

	return r ? ctl_fail(c, r, "%s", err.msg) : 0;
}
