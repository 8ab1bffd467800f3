/* SPDX-License-Identifier: MIT */
/*
 * What survives a restart of the daemon: the index of dumps, the firings of triggers, the series of
 * watched processes and what earlier lives of a service have shown, in one
 * SQLite file below the state folder (0700), and the dump folders beside it:
 *
 *   STATE/pyleak.db
 *   STATE/dumps/ID/{snapshot,chain.dot,chain.svg,dump.json,report.html}
 *
 * A dump is made in STATE/dumps/.ID.tmp and renamed when it is whole; what is left half made by a
 * crash is removed at the next start. Folders 0700, files 0600, O_EXCL.
 */
#ifndef PYLEAK_STORE_STORE_H
#define PYLEAK_STORE_STORE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/track/track.h"
#include "daemon/trigger/trigger.h"
#include "daemon/util/err.h"

struct store;

#define DUMP_ID_MAX 64 /* "20261123T082558-4711-1": time, pid, serial; [0-9A-Za-z-] only */

struct store_dump {
	char id[DUMP_ID_MAX];
	int64_t at_ms;
	int32_t pid;
	uid_t uid; /* of the target: its user may read the dump */
	char comm[16];
	char trigger[16]; /* manual, verdict, threshold, alert, timer */
	char state[16];   /* running, done, failed, refused */
	char error[512];  /* for failed and refused */
	uint64_t bytes;   /* of the folder */
	char path[512];   /* of the folder */
};

/* Opens (makes) the state folder and the database; sweeps half-made dumps. Another daemon there:
 * -EBUSY, err names its pid. A damaged database is moved aside and a new one made: that is a
 * success with a note in err, which is empty otherwise. */
int store_open(const char *state_dir, struct store **ret, struct err *err);
void store_close(struct store *s);

/* Begins a dump: row in state "running", temporary folder made; fills id, path. */
int store_dump_begin(struct store *s, struct store_dump *d, struct err *err);
/* Ends it: state and error out of *d; "done" renames the folder to its final place (path is
 * updated) and counts its bytes, anything else removes it but keeps the row. */
int store_dump_end(struct store *s, struct store_dump *d, struct err *err);
int store_dump_get(struct store *s, const char *id, struct store_dump *ret, struct err *err);
/* Newest first; malloc'ed. */
int store_dump_list(struct store *s, struct store_dump **ret, size_t *ret_n, struct err *err);
int store_dump_remove(struct store *s, const char *id, struct err *err);
/* Removes the oldest dumps until all of them together are within max_bytes, but never the newest: whoever asked
 * for it was told that it is there. Number removed. */
int store_dump_trim(struct store *s, uint64_t max_bytes, struct err *err);

int store_firing_add(struct store *s, const struct trigger_record *r, struct err *err);
/* Nothing came of it. */
int store_firing_remove(struct store *s, const struct trigger_record *r, struct err *err);
/* Firings since since_ms, oldest first; malloc'ed. Older than that and 30 days are deleted. */
int store_firing_list(struct store *s, int64_t since_ms, struct trigger_record **ret, size_t *ret_n,
	struct err *err);

/* The series of one type of one process (track_type_save()), so that it outlives the daemon. Many are put
 * between store_begin() and store_end(), which takes and returns what went wrong in between: then none
 * is kept. */
#define STORE_SERIES_MAX TRACK_SAVED_MAX
struct store_series {
	int32_t pid;
	uint64_t start_ticks, addr; /* of the process, of the type */
	char type[256];
	int64_t at_ms;
	void *bytes;
	size_t n_bytes;
};
int store_begin(struct store *s, struct err *err);
int store_end(struct store *s, int r, struct err *err);
int store_series_put(struct store *s, const struct store_series *x, struct err *err);
/* Of one process; *ret is freed with store_series_free(). */
int store_series_list(struct store *s, int32_t pid, uint64_t start_ticks, struct store_series **ret, size_t *ret_n,
	struct err *err);
void store_series_free(struct store_series *list, size_t n);
/* All of this process. */
int store_series_forget(struct store *s, int32_t pid, uint64_t start_ticks, struct err *err);
/* All that are older, of any process: looks at each, so now and then. */
int store_series_expire(struct store *s, int64_t before_ms, struct err *err);

/* What a life of a service has shown of one type. */
struct store_service {
	char type[256];
	int64_t at_ms;
	struct track_expectation expectation;
};
int store_service_put(struct store *s, const char *service, const struct store_service *x, struct err *err);
/* By type; malloc'ed. Older than since_ms, of any service, are deleted. */
int store_service_list(struct store *s, const char *service, int64_t since_ms, struct store_service **ret,
	size_t *ret_n, struct err *err);

#endif
