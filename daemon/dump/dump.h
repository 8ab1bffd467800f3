/* SPDX-License-Identifier: MIT */
/*
 * Dumps: one job after the other, each a capture helper and then an explain worker, both
 * short-lived processes that can die without harm. The daemon itself never stops a target and
 * never parses a snapshot.
 *
 *   queued -> capturing (pyleak-capture writes STATE/dumps/.ID.tmp/snapshot)
 *          -> explaining (pyleak-explain writes dump.json, chain.svg, ... beside it)
 *          -> done, failed or refused (store_dump_end)
 *
 * The capture helper is started directly when this process may do what the helper must do
 * (CAP_SYS_ADMIN and CAP_SYS_PTRACE, no seccomp filter of its own); otherwise, as under
 * pyleakd.service, it is asked for at CAPTURE_SOCKET_PATH, where systemd starts one.
 */
#ifndef PYLEAK_DUMP_DUMP_H
#define PYLEAK_DUMP_DUMP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "daemon/python/proc.h"
#include "daemon/store/store.h"
#include "daemon/util/err.h"

#define CAPTURE_SOCKET_PATH "/run/pyleak/capture.sock"
#define DUMP_QUEUE_MAX      16
#define DUMP_QUEUE_MANUAL   12 /* of those that somebody asks for: triggers find room */
#define DUMP_QUEUE_USER     4  /* of one user's */
#define DUMP_TYPES_MAX      16

struct dump_manager;

struct dump_settings {
	uint64_t pause_ns, deadline_ns;
	double headroom;
	int keys;               /* enum capture_keys */
	uint64_t storage_bytes; /* all dumps together; older ones are removed */
};

struct dump_outcome {
	int exit_code;                 /* enum exit_code: EXIT_FINE, else why not */
	const char *error;             /* one line, if exit_code is not 0 */
	json_t *document;              /* dump.json, borrowed, if exit_code is 0 */
	const struct store_dump *dump; /* borrowed */
};

struct dump_request {
	struct proc_id id;
	uid_t uid;
	char comm[16];
	char trigger[16];         /* manual, verdict, threshold */
	const char *const *types; /* names or globs to explain */
	size_t n_types;
	/* How many more of each there are since its growth began; 0: it does not grow, or nobody
	 * knows. */
	uint64_t grown[DUMP_TYPES_MAX];
	const json_t *growth; /* of those types (suspects_growth()), borrowed; or NULL */
	bool force;
	bool limited;    /* asked for by an ordinary user, this one: */
	uid_t asked_by;
	void *userdata;
	/* Both may be NULL. on_done is called exactly once, unless dump_forget() came first. */
	void (*on_progress)(void *userdata, const char *text);
	void (*on_done)(void *userdata, const struct dump_outcome *o);
};

int dump_manager_new(sd_event *event, struct store *store, struct dump_manager **ret);
/* Abandons what runs: the kernel lets a target go when its helper dies; rows end as failed. */
void dump_manager_free(struct dump_manager *m);
void dump_manager_configure(struct dump_manager *m, const struct dump_settings *s);

/* Queues a dump. ret_id receives its id. -EBUSY: DUMP_QUEUE_MAX are waiting, or as many as one of this kind may
 * wait behind. */
int dump_start(struct dump_manager *m, const struct dump_request *r, char ret_id[DUMP_ID_MAX],
	struct err *err);

/* The one who asked is gone: no more callbacks with this userdata; the dump goes on. */
void dump_forget(struct dump_manager *m, void *userdata);

/* Refuses what waits its turn for that pid (0: for all), with these words. What has begun goes on: its target is on
 * its way already. */
void dump_cancel(struct dump_manager *m, pid_t pid, const char *why);

/* Number of jobs queued or running for that pid (0: all). */
unsigned dump_pending(const struct dump_manager *m, pid_t pid);

/* How many dumps were refused for that reason (enum capture_refusal) since the daemon started, and what
 * metrics call it. */
uint64_t dump_refusals(const struct dump_manager *m, unsigned refusal);
const char *dump_refusal_name(unsigned refusal);

/* "started directly" or "through /run/pyleak/capture.sock": for logs and --support. */
const char *dump_helper_way(void);

#endif
