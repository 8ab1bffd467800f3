/* SPDX-License-Identifier: MIT */
/*
 * Which processes are watched, and what follows from what is seen: finds targets (--pid and the
 * config's rules), opens and ends them, and turns verdicts and thresholds into dumps. Answers to
 * the control socket are in answers.h.
 */
#ifndef PYLEAK_WATCH_WATCH_H
#define PYLEAK_WATCH_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#include "daemon/config/config.h"
#include "daemon/dump/dump.h"
#include "daemon/probe/probe.h"
#include "daemon/store/store.h"
#include "daemon/trigger/trigger.h"
#include "daemon/watch/target.h"

struct watch;

struct watch_options {
	sd_event *event;
	const struct config *config;
	struct probe *probe;
	struct store *store;
	struct dump_manager *dumps;
	struct record_writer *record; /* NULL: nothing is recorded */
	const pid_t *pids; /* --pid: watched whatever the rules say */
	size_t n_pids;
	bool use_rules; /* scan /proc by the config's rules (no rules: every Python) */
};

/* Attaches to the --pid targets at once: the first that fails ends it with that error (errno as
 * python_open()). Then scans. */
int watch_new(const struct watch_options *o, struct watch **ret, struct err *err);
/* Which exit code an error of python_open() or watch_new() asks for. */
int watch_exit_code(int r);
void watch_free(struct watch *w);

/* After SIGHUP. The old configuration may be freed when this returns. Rules are applied anew:
 * targets that no rule wants any more are let go. */
int watch_configure(struct watch *w, const struct config *c, struct err *err);

size_t watch_target_count(const struct watch *w);
struct target *watch_target_at(const struct watch *w, size_t i);
/* NULL if that pid is not watched. */
struct target *watch_target(const struct watch *w, pid_t pid);

/*
 * Run-time control, until the daemon ends. It goes before the rules, as --pid does; the last word holds.
 *
 * attach: watches this process whatever the rules say; errno as python_open(), -EUSERS where there is no room,
 * -EBUSY while everything is paused. One that is watched stays so.
 * detach: lets go of it, and keeps away until it is attached again. -ENOENT if it is not watched.
 * pause: lets go of everything, and looks at nothing, until it is resumed. Dumps that wait their turn are
 * refused, here as well as there; one that has begun is finished. What was known of a process that goes
 * on is kept (target_kept.c).
 */
int watch_attach(struct watch *w, pid_t pid, struct err *err);
int watch_detach(struct watch *w, pid_t pid, struct err *err);
void watch_pause(struct watch *w);
void watch_resume(struct watch *w);
bool watch_paused(const struct watch *w);

/* Why a process is or is not watched: true if it is (or would be at the next scan). rule: "--pid",
 * "pyleakctl attach", "targets[0]", "no rules: every Python", ... */
bool watch_why(
	struct watch *w, pid_t pid, char *rule, size_t n_rule, char *reason, size_t n_reason);

/* Id of the newest dump, done or running, in which this type of this target was asked for, or NULL. */
const char *watch_last_dump(const struct watch *w, const struct target *t, const char *type);
/* Remembers it. */
void watch_note_dump(struct watch *w, const struct target *t, const char *type, const char *id);

const struct watch_options *watch_get_options(const struct watch *w);

#endif
