/* SPDX-License-Identifier: MIT */
/*
 * Daemon <-> capture helper (libexec/pyleak/pyleak-capture). One helper process a capture.
 *
 * The helper has a SOCK_SEQPACKET socket as fd 3 (inherited from the daemon, or passed by systemd
 * socket activation, Accept=yes; then it is fd 3 too). The daemon sends one request, and the names of the suspects' types behind
 * it, with the output file's descriptor attached (SCM_RIGHTS, open O_RDWR, empty); the helper writes the snapshot there and answers
 * with any number of progress messages and one result, then exits. If the socket closes without
 * a result, the capture failed and the kernel has let the target go.
 */
#ifndef PYLEAK_CAPTURE_H
#define PYLEAK_CAPTURE_H

#include <stdint.h>

#define CAPTURE_PROTOCOL 2

enum capture_keys {
	CAPTURE_KEYS_OFF,	  /* never name a dict key */
	CAPTURE_KEYS_IDENTIFIERS, /* DESIGN.md: namespaces, and interned names of code objects */
	CAPTURE_KEYS_ALL,	  /* every str key */
};

#define CAPTURE_FORCE 1u /* stop longer than pause_max_ns if need be */

#define CAPTURE_DIE_DAEMON 0x80000000u /* in die_at: kill the one who asked, not yourself */

struct capture_request {
	uint32_t protocol; /* CAPTURE_PROTOCOL */
	int32_t pid;
	uint64_t start_ticks; /* of the process meant: struct proc_id */
	uint64_t pause_max_ns;	/* refuse above this predicted stop */
	uint64_t deadline_ns;	/* for the whole capture */
	uint64_t max_objects;	/* 0: no cap */
	double headroom;	/* share of the target's memory limit that must be free */
	uint32_t keys;		/* enum capture_keys */
	uint32_t flags;		/* CAPTURE_FORCE */
	uint32_t die_at;	/* tests only (PYLEAK_CAPTURE_DIE_AT): SIGKILL at this step; 0 never */
	uint32_t memory_mib; /* that the graph may take in the helper; 0: half of what this host has free */
	/* behind it, in the same packet: the suspects' types, names or globs, each with its NUL */
};

#define CAPTURE_TYPES_MAX 4096 /* bytes of those names; what does not fit is left out */

enum capture_message_kind {
	CAPTURE_PROGRESS = 1,
	CAPTURE_RESULT,
};

enum capture_code {
	CAPTURE_DONE = 0,
	CAPTURE_NO = 1,	     /* no such process, not a Python */
	CAPTURE_REFUSED = 4, /* a guard said no: text says which and what to do */
	CAPTURE_FAILED = 5,
};

/* Which guard it was, for a machine; `text` says the same to a person and with figures. */
enum capture_refusal {
	CAPTURE_NOT_REFUSED,
	CAPTURE_BY_PAUSE,	/* the stop would be longer than dump.pause */
	CAPTURE_BY_MEMORY,	/* too little is free, or became so while the copy lived */
	CAPTURE_BY_PRESSURE,	/* everybody waits for memory, or came to */
	CAPTURE_BY_PROCESSES,	/* RLIMIT_NPROC, pids.max */
	CAPTURE_BY_TRACER,	/* a debugger is there */
	CAPTURE_BY_STOP,	/* SIGSTOP */
	CAPTURE_BY_SECCOMP,	/* a filter that this helper may not lift */
	CAPTURE_BY_KIND,	/* of process: 32 bits, musl, shadow stack, several interpreters */
	CAPTURE_BY_MOMENT,	/* none was safe */
	CAPTURE_BY_DEADLINE,	/* the copy was not read by then */
	CAPTURE_BY_TURN,	/* another capture runs on this host */
	CAPTURE_BY_RIGHT,	/* the helper lacks one, or a security module says no */
	CAPTURE_BY_QUEUE,	/* the daemon's: too many dumps wait already */
	CAPTURE_BY_OTHER,
	CAPTURE_REFUSALS,
};

struct capture_message {
	uint32_t protocol;
	uint32_t kind; /* enum capture_message_kind */
	int32_t code;  /* enum capture_code, for CAPTURE_RESULT */
	uint32_t skipped;
	uint64_t predicted_pause_ns;
	uint64_t pause_ns; /* the whole stop of the target, reaping included */
	uint64_t duration_ns;
	uint64_t objects, edges;
	uint32_t truncated; /* 0 whole graph; 1: `text` says why it is not all there */
	uint32_t tries;	    /* gate attempts */
	uint32_t refusal;   /* enum capture_refusal, for CAPTURE_REFUSED */
	char text[508];	    /* progress or error in words */
};

_Static_assert(sizeof(struct capture_request) == 64, "protocol");
_Static_assert(sizeof(struct capture_message) == 576, "protocol");

#endif
