/* SPDX-License-Identifier: MIT */
/*
 * What /proc says of a process. A pid alone names nobody (it is used again); a `struct proc_id`
 * with the start time does. Everything here is bounded and survives a process that exits between
 * two reads (-ESRCH).
 */
#ifndef PYLEAK_PYTHON_PROC_H
#define PYLEAK_PYTHON_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/util/err.h"

struct proc_id {
	pid_t pid;
	uint64_t start_ticks; /* field 22 of /proc/PID/stat, clock ticks since boot */
};

struct proc_map {
	uint64_t start, end, offset, inode;
	uint32_t dev_major, dev_minor;
	char perm[5];
	char path[256]; /* "" for anonymous; truncated beyond */
};

struct proc_maps {
	struct proc_map *v;
	size_t n;
};

struct proc_info {
	struct proc_id id;
	uid_t uid; /* effective */
	gid_t gid;
	char comm[16];
	char exe[256];	    /* readlink of /proc/PID/exe, in the target's own mount namespace */
	char cmdline[1024]; /* arguments joined by spaces */
	char user[64];	    /* name of uid, or the number */
	char unit[128];	    /* systemd unit out of /proc/PID/cgroup ("app.service"), or "" */
	uint64_t rss_bytes;
	uint64_t start_realtime_ms;
	uint64_t cpu_ns;  /* user + system so far */
	int64_t threads;
	int64_t files;    /* open ones; -1: this kernel does not say (before 6.2) */
	bool opted_out;	  /* PYLEAK=off in its environment */
	int seccomp_mode; /* 0, 1, 2; -1 unknown */
	pid_t tracer;	  /* TracerPid, 0: none */
	char state;	  /* R S D T t Z X */
};

/* The folder that stands for /proc; tests set another. Default "/proc". */
void proc_set_root(const char *path);
const char *proc_root(void);

/* -ESRCH: no such process. */
int proc_id_get(pid_t pid, struct proc_id *ret);

/* Whether that very process still runs (not a later one with the same pid, not a zombie). */
bool proc_id_alive(const struct proc_id *id);

/* Fills what can be read; what cannot be read is empty or 0. -ESRCH, -EACCES. */
int proc_info_get(pid_t pid, struct proc_info *ret, struct err *err);

/* What changes while it runs: state, CPU time, memory, identity, tracer, seccomp mode. -ESRCH: it is
 * gone, *i is as before. */
int proc_info_update(struct proc_info *i);

/* How much of its memory is swapped out, in bytes; -1: cannot be told. */
int64_t proc_swapped(pid_t pid);

/* At most 65536 mappings are kept. */
int proc_maps_read(pid_t pid, struct proc_maps *ret, struct err *err);
void proc_maps_release(struct proc_maps *m);
/* The mapping that holds addr, or NULL. */
const struct proc_map *proc_maps_find(const struct proc_maps *m, uint64_t addr);

/* Opens the file behind a mapping read-only: through /proc/PID/map_files, which names that very
 * file even when it was replaced or lies in another mount namespace; else /proc/PID/root + path if
 * inode and size still fit. -ESTALE: the path now names another file. */
int proc_map_open(pid_t pid, const struct proc_map *m, struct err *err);

/* All numeric folders of /proc, at most max; *ret is malloc'ed. */
int proc_list(size_t max, pid_t **ret, size_t *ret_n);

#endif
