/* SPDX-License-Identifier: MIT */
/*
 * pyleakctl <-> pyleakd: a stream socket at /run/pyleak/control.sock, one JSON object a line.
 *
 *   request   {"verb": "top", "args": {"pid": 4711, "n": 10}}
 *   progress  {"progress": "walking the frozen copy, 120 000 objects"}     (any number)
 *   reply     {"ok": true, "result": {…}}
 *        or   {"ok": false, "exit": 1, "error": "one line: what, for what, why, what to do"}
 *
 * `result` is the document that INTERFACE.md describes for --json. `exit` is pyleakctl's exit
 * code. A connection may send one request after the other. A reply that hands over a file
 * (dumps show) carries its descriptor with SCM_RIGHTS on the first byte of the reply.
 */
#ifndef PYLEAK_CONTROL_H
#define PYLEAK_CONTROL_H

#define CONTROL_SOCKET_PATH "/run/pyleak/control.sock"
#define CONTROL_LINE_MAX    (16u << 20) /* a reply; a request is at most 64 KiB */
#define CONTROL_REQUEST_MAX (64u << 10)

enum exit_code {
	EXIT_FINE = 0,
	EXIT_NO = 1,	      /* no such pid, type or dump; not a Python */
	EXIT_USAGE = 2,	      /* bad usage or configuration */
	EXIT_UNREACHABLE = 3, /* daemon not there */
	EXIT_REFUSED = 4,     /* permission, quota, guard, missing kernel feature */
	EXIT_BROKEN = 5,      /* failed */
};

#endif
