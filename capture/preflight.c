/* SPDX-License-Identifier: MIT */
#include "capture/preflight.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "capture/forkcost.h"
#include "capture/loan.h"
#include "daemon/python/mem.h"
#include "daemon/util/units.h"

#define PROCESSES_FREE    8
#define WALKER_BYTES      (12u << 20)
#define CAP_SYS_ADMIN_BIT 21
#define PRESSURE_MAX      5.0 /* percent; a healthy host has 0 */
/* Around the fork: stop, frames, five ptrace stops, letting go, the second stop for the reaping;
 * and for each thread that may have to be stopped. Measured 0.2 to 0.7 ms in all on small
 * targets. */
#define STOP_BASE_NS   400000
#define STOP_THREAD_NS 15000

static bool read_text(const char *path, char *buf, size_t n)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd >= 0 ? read(fd, buf, n - 1) : -1;

	buf[got > 0 ? got : 0] = '\0';
	return got > 0;
}

/* Value of "Key:\tvalue" in a /proc/PID/status text, or NULL. */
static const char *field(const char *text, const char *key)
{
	size_t n = strlen(key);

	for (const char *p = text; p; p = strchr(p, '\n'), p = p ? p + 1 : NULL)
		if (strncmp(p, key, n) == 0 && p[n] == ':')
			return p + n + 1 + strspn(p + n + 1, " \t");
	return NULL;
}

static uint64_t field_kib(const char *text, const char *key)
{
	const char *v = field(text, key);

	return v ? strtoull(v, NULL, 10) << 10 : 0;
}

int preflight_stack_start(pid_t pid, uint64_t *ret)
{
	char path[64], buf[2048], *p;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (!read_text(path, buf, sizeof(buf)) || !(p = strrchr(buf, ')')))
		return -ESRCH;
	/* fields 3 to 27 are skipped */
	if (sscanf(p + 1,
		    " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
		    "%*s %*s %*s %*s %*s %*s %" SCNu64,
		    ret) != 1)
		return -ESRCH;
	return 0;
}

static int read_facts(struct job *j, char *status, size_t n, struct err *err)
{
	struct target_facts *f = &j->facts;
	char path[64];
	const char *v;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)j->pid);
	if (!read_text(path, status, n) || preflight_stack_start(j->pid, &f->stack_start) < 0)
		return err_set(err, -ESRCH, "pid %d: no such process", (int)j->pid);
	v = field(status, "Threads");
	f->threads = v ? (int)strtol(v, NULL, 10) : 1;
	f->rss_anon_bytes = field_kib(status, "RssAnon");
	if (!field(status, "RssAnon"))
		f->rss_anon_bytes = field_kib(status, "VmRSS");
	f->page_table_bytes = field_kib(status, "VmPTE");
	v = field(status, "NSpid");
	if (v) {
		const char *end = strchr(v, '\n');
		const char *tab = strchr(v, '\t');

		f->other_pid_ns = tab && (!end || tab < end);
	}
	return 0;
}

/* "x86_Thread_features:\tshstk wrss"; there is also x86_Thread_features_locked. */
bool preflight_shadow_stack(const char *status)
{
	const char *v = field(status, "x86_Thread_features"), *end, *at;

	if (!v)
		return false;
	end = v + strcspn(v, "\n");
	at = strstr(v, "shstk");
	return at && at < end;
}

static int check_state(struct job *j, const char *status, struct err *err)
{
	const struct proc_info *i = &j->info;

	if (i->tracer > 0)
		return job_refuse(j, CAPTURE_BY_TRACER, err, -EBUSY,
			"pid %d (%s) is being traced by pid %d: not capturable until that detaches",
			(int)j->pid, i->comm, (int)i->tracer);
	if (i->state == 'T' || i->state == 't')
		return job_refuse(j, CAPTURE_BY_STOP, err, -EBUSY,
			"pid %d (%s) is stopped (state %c): not capturable now; let it go on with "
			"SIGCONT first",
			(int)j->pid, i->comm, i->state);
	if (preflight_shadow_stack(status))
		return err_set(err, -EOPNOTSUPP,
			"pid %d (%s) runs with a shadow stack, which a borrowed system call would "
			"break: not captured",
			(int)j->pid, i->comm);
	return 0;
}

static int check_seccomp(struct job *j, struct err *err)
{
	char own[8192];
	const char *v;
	uint64_t caps;

	if (j->info.seccomp_mode <= 0)
		return 0;
	if (j->info.seccomp_mode == 1)
		return job_refuse(j, CAPTURE_BY_SECCOMP, err, -EOPNOTSUPP,
			"pid %d is under strict seccomp: not captured", (int)j->pid);
	if (!read_text("/proc/self/status", own, sizeof(own)))
		return err_set(err, -EPERM, "cannot read /proc/self/status");
	v = field(own, "CapEff");
	caps = v ? strtoull(v, NULL, 16) : 0;
	if (!(caps >> CAP_SYS_ADMIN_BIT & 1))
		return job_refuse(j, CAPTURE_BY_SECCOMP, err, -EPERM,
			"pid %d is under a seccomp filter: the capture helper needs CAP_SYS_ADMIN "
			"to lift it for one system call",
			(int)j->pid);
	v = field(own, "Seccomp");
	if (v && strtol(v, NULL, 10) != 0)
		return job_refuse(j, CAPTURE_BY_SECCOMP, err, -EPERM,
			"pid %d is under a seccomp filter, which the kernel lets only a helper "
			"lift that is under none itself: run pyleak-capture without "
			"SystemCallFilter= or container filter",
			(int)j->pid);
	return 0;
}

static int check_memory(struct job *j, const struct cgroup *memory, struct err *err)
{
	struct memory_room room[2];
	char free_text[32], limit_text[32];

	cgroup_memory_room(memory, &room[0], &room[1]);
	for (int i = 0; i < 2; i++) {
		uint64_t need = (uint64_t)(j->req.headroom * (double)room[i].limit_bytes);

		/* page tables of the copy, the walker, its buffers */
		need = MAX(need, 2 * j->facts.page_table_bytes + WALKER_BYTES);
		if (room[i].limit_bytes == 0 || room[i].free_bytes >= need)
			continue;
		return err_set(err, -EDQUOT,
			"pid %d: %s of the %s that %s may use are free, below dump.headroom: a "
			"capture could bring it to its limit",
			(int)j->pid, format_size(free_text, sizeof(free_text), room[i].free_bytes),
			format_size(limit_text, sizeof(limit_text), room[i].limit_bytes),
			i == 0 ? "its control group" : "this host");
	}
	return 0;
}

/* Where everybody waits for memory already, the pages that a copy makes the target copy are taken from
 * those who wait. */
static int check_pressure(struct job *j, const struct cgroup *groups, struct err *err)
{
	struct memory_pressure p[2];

	cgroup_memory_pressure(groups, &p[0], &p[1]);
	/* the host first: it is the outermost group, too */
	for (int i = 1; i >= 0; i--)
		if (p[i].full_percent >= PRESSURE_MAX)
			return job_refuse(j, CAPTURE_BY_PRESSURE, err, -EDQUOT,
				"pid %d: %s stood still for memory %.1f %% of the last ten seconds "
				"(pressure stall information), %.0f %% are allowed: try again when "
				"more is free",
				(int)j->pid, i == 0 ? "its control group" : "this host",
				p[i].full_percent, PRESSURE_MAX);
	return 0;
}

/* Processes and threads with that real uid; the kernel counts them against RLIMIT_NPROC. */
static uint64_t count_of_user(uid_t uid)
{
	struct dirent *e;
	uint64_t n = 0;
	DIR *d = opendir("/proc");

	while (d && (e = readdir(d))) {
		char path[300], status[8192];
		const char *v;

		if (e->d_name[0] < '0' || e->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "/proc/%s/status", e->d_name);
		if (!read_text(path, status, sizeof(status)) || !(v = field(status, "Uid")) ||
			strtoul(v, NULL, 10) != uid)
			continue;
		v = field(status, "Threads");
		n += v ? strtoull(v, NULL, 10) : 1;
	}
	if (d)
		closedir(d);
	return n;
}

static int check_processes(struct job *j, const char *status, struct err *err)
{
	struct cgroup pids;
	char path[64], limits[8192];
	const char *v;
	uint64_t left;

	cgroup_find(j->pid, "pids", &pids);
	left = cgroup_pids_free(&pids);
	if (left < PROCESSES_FREE)
		return job_refuse(j, CAPTURE_BY_PROCESSES, err, -EDQUOT,
			"pid %d: its control group may have only %" PRIu64
			" more processes (pids.max), %d are wanted: the copy counts as one",
			(int)j->pid, left, PROCESSES_FREE);
	snprintf(path, sizeof(path), "/proc/%d/limits", (int)j->pid);
	v = field(status, "Uid");
	if (!v || strtoul(v, NULL, 10) == 0) /* root is not limited */
		return 0;
	uid_t uid = (uid_t)strtoul(v, NULL, 10);
	if (!read_text(path, limits, sizeof(limits)) || !(v = strstr(limits, "Max processes")))
		return 0;
	v += strlen("Max processes");
	v += strspn(v, " ");
	if (*v < '0' || *v > '9') /* unlimited */
		return 0;
	uint64_t max = strtoull(v, NULL, 10), now = count_of_user(uid);
	left = max > now ? max - now : 0;
	if (left < PROCESSES_FREE)
		return job_refuse(j, CAPTURE_BY_PROCESSES, err, -EDQUOT,
			"pid %d: its user may have only %" PRIu64
			" more processes (RLIMIT_NPROC %" PRIu64
			"), %d are wanted: the copy counts as one",
			(int)j->pid, left, max, PROCESSES_FREE);
	return 0;
}

/* Memory in huge pages costs a fork next to nothing. Asked for only when the answer matters: the
 * kernel walks the page tables for it. */
static uint64_t huge_page_bytes(pid_t pid)
{
	char path[64], buf[4096];

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
	return read_text(path, buf, sizeof(buf)) ? field_kib(buf, "AnonHugePages") : 0;
}

static uint64_t predict(const struct job *j, const struct fork_cost *c, uint64_t bytes)
{
	return STOP_BASE_NS + (uint64_t)MAX(j->facts.threads, 1) * STOP_THREAD_NS + c->base_ns +
	       (uint64_t)((double)bytes / (1 << 20) * (double)c->per_mib_ns);
}

static int check_pause(struct job *j, struct err *err)
{
	struct fork_cost cost;
	char predicted[32], allowed[32], size[32];
	int r = fork_cost_measure(&cost);

	if (r < 0)
		return err_set(
			err, -EAGAIN, "cannot measure what a fork costs here: %s", strerror(-r));
	j->predicted_ns = predict(j, &cost, j->facts.rss_anon_bytes);
	if (j->predicted_ns <= j->req.pause_max_ns)
		return 0;
	j->predicted_ns = predict(j, &cost,
		j->facts.rss_anon_bytes - MIN(huge_page_bytes(j->pid), j->facts.rss_anon_bytes));
	if (j->predicted_ns <= j->req.pause_max_ns || j->req.flags & CAPTURE_FORCE)
		return 0;
	return job_refuse(j, CAPTURE_BY_PAUSE, err, -EDQUOT,
		"pid %d would be stopped for about %s (%s of memory), dump.pause allows %s: use "
		"--force or raise dump.pause",
		(int)j->pid, format_duration(predicted, sizeof(predicted), j->predicted_ns),
		format_size(size, sizeof(size), j->facts.rss_anon_bytes),
		format_duration(allowed, sizeof(allowed), j->req.pause_max_ns));
}

static int check_interpreters(const struct job *j, struct err *err)
{
	const struct python *p = j->python;

	/* Up to 3.11 all interpreters share one GIL; the main one's heap is walked. */
	if (p->interpreters <= 1 || p->minor <= 11)
		return 0;
	return err_set(err, -EOPNOTSUPP,
		"pid %d runs %d interpreters, each of which may have a GIL of its own: not "
		"captured",
		(int)j->pid, p->interpreters);
}

int preflight(struct job *j, struct memory_groups *ret_memory, struct err *err)
{
	char status[8192] = "";
	int r;

	r = proc_info_get(j->pid, &j->info, err);
	if (r < 0)
		return r;
	if (j->info.id.start_ticks != j->req.start_ticks || j->info.state == 'Z' ||
		j->info.state == 'X')
		return err_set(err, -ESRCH, "pid %d is not the process that was meant: it ended",
			(int)j->pid);
	if (j->pid == getpid())
		return err_set(err, -EPERM, "pid %d is the capture helper itself", (int)j->pid);
	r = read_facts(j, status, sizeof(status), err);
	if (r == 0)
		r = check_state(j, status, err);
	if (r == 0)
		r = check_seccomp(j, err);
	if (r == 0)
		r = python_open(j->pid, &j->python, err);
	if (r == 0)
		r = python_find_rings(j->python, &j->rings, err);
	if (r == 0)
		r = check_interpreters(j, err);
	if (r == 0)
		r = loan_find_places(j, j->places, err);
	if (r < 0)
		return r;
	cgroup_find(j->pid, "memory", &ret_memory->limits);
	ret_memory->limits.high = true;
	cgroup_find(j->pid, NULL, &ret_memory->pressure);
	r = check_memory(j, &ret_memory->limits, err);
	if (r == 0)
		r = check_pressure(j, &ret_memory->pressure, err);
	if (r == 0)
		r = check_processes(j, status, err);
	if (r == 0)
		r = check_pause(j, err);
	return r;
}
