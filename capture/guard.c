/* SPDX-License-Identifier: MIT */
#include "capture/guard.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>

#include "capture/preflight.h"
#include "daemon/util/units.h"

/* A target that writes to all its memory makes the kernel copy some hundred MiB a second: a look
 * every two milliseconds is one a MiB. */

#define LOOK_NS      2000000L
#define HOST_EVERY   8 /* the host is larger than any group */
#define MEMORY_FLOOR ((uint64_t)8 << 20)
/* Nobody ran for so long because all waited for memory: more than reclaiming a few clean pages. In the
 * target's own group the copy is one who runs, so that little comes together while it lives. */
#define STALL_MAX_US 50000

static int check_memory(struct guard *g, struct err *err)
{
	const struct job *j = g->job;
	struct memory_room room[2];
	struct memory_pressure pressure[2];

	/*
	 * Well before the limit. The copy is the one the OOM killer would take, but a group with
	 * memory.oom.group dies as one, and systemd stops a service any process of which was
	 * taken (OOMPolicy=stop, its default).
	 */
	if (g->looks++ % HOST_EVERY != 0 &&
		cgroup_memory_plenty(&g->memory->limits, j->req.headroom / 2, MEMORY_FLOOR))
		return 0;
	cgroup_memory_room(&g->memory->limits, &room[0], &room[1]);
	cgroup_memory_pressure(&g->memory->pressure, &pressure[0], &pressure[1]);
	for (int i = 1; i >= 0; i--) { /* the host first: it is the outermost group, too */
		uint64_t floor = (uint64_t)(j->req.headroom / 2 * (double)room[i].limit_bytes);

		const char *whose = i == 0 ? "its control group" : "this host";

		if (room[i].limit_bytes > 0 && room[i].free_bytes < MAX(floor, MEMORY_FLOOR))
			return err_set(err, -EDQUOT,
				"pid %d: memory of %s ran short during the capture, which was "
				"given up; try when more is free",
				(int)j->pid, whose);
		if (pressure[i].full_us > g->stalled_us[i] + STALL_MAX_US) {
			g->refusal = CAPTURE_BY_PRESSURE;
			return err_set(err, -EDQUOT,
				"pid %d: %s stood still for memory during the capture (pressure "
				"stall information), which was given up; try when more is free",
				(int)j->pid, whose);
		}
	}
	return 0;
}

static int look(struct guard *g, const struct pollfd *p, struct err *err)
{
	const struct job *j = g->job;
	uint64_t stack;

	if (p[1].revents)
		return err_set(err, -ESRCH, "pid %d ended while it was captured", (int)j->pid);
	if (p[2].revents & (POLLHUP | POLLERR))
		return err_set(err, -ECANCELED, "nobody waits for this capture any more");
	if (now_monotonic_ns() >= j->deadline_ns) {
		g->refusal = CAPTURE_BY_DEADLINE;
		return err_set(err, -EDQUOT,
			"pid %d: the capture did not end by dump.deadline and was given up: raise "
			"that, or try when this host has less to do",
			(int)j->pid);
	}
	if (preflight_stack_start(j->pid, &stack) < 0 || stack != j->facts.stack_start)
		return err_set(err, -ESRCH, "pid %d started another program while it was captured",
			(int)j->pid);
	return check_memory(g, err);
}

static void *watch(void *arg)
{
	struct guard *g = arg;
	struct pollfd p[3] = {{.fd = g->stop, .events = POLLIN},
		{.fd = g->job->target_fd, .events = POLLIN}, {.fd = g->job->sock}};

	job_hurry(HURRY_STOP); /* a look takes microseconds, and must not come late */
	for (;;) {
		struct timespec ts = {.tv_nsec = LOOK_NS};
		struct err err = {""};
		int r;

		(void)ppoll(p, ARRAY_SIZE(p), &ts, NULL);
		if (p[0].revents)
			return NULL;
		r = look(g, p, &err);
		if (r == 0)
			continue;
		g->err = err;
		atomic_store(&g->fired, r);
		job_end_soon(g->job);
		(void)syscall(SYS_pidfd_send_signal, g->job->child_fd, SIGKILL, NULL, 0);
		/* What it had is given back here and now, whenever it gets a processor to die on: else
		 * the kernel may look for another victim before (Linux 5.15). */
		(void)syscall(SYS_process_mrelease, g->job->child_fd, 0);
		return NULL;
	}
}

int guard_start(
	struct guard *g, const struct job *j, const struct memory_groups *memory, struct err *err)
{
	struct memory_pressure pressure[2];
	sigset_t all, old;
	int r;

	g->job = j;
	g->memory = memory;
	cgroup_memory_pressure(&memory->pressure, &pressure[0], &pressure[1]);
	for (int i = 0; i < 2; i++)
		g->stalled_us[i] = pressure[i].full_us;
	g->stop = eventfd(0, EFD_CLOEXEC);
	r = g->stop < 0 ? -errno : j->child_fd < 0 ? -EMFILE : 0;
	if (r == 0) {
		/* signals are the main thread's */
		sigfillset(&all);
		pthread_sigmask(SIG_BLOCK, &all, &old);
		r = -pthread_create(&g->thread, NULL, watch, g);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	g->started = r == 0;
	return r < 0 ? err_set(err, r, "cannot watch over pid %d: %s", (int)j->pid, strerror(-r))
		     : 0;
}

int guard_check(struct guard *g, int wait_ms, struct err *err)
{
	struct pollfd gone = {.fd = g->job->child_fd, .events = POLLIN};
	/* In this order: who fires says so before it kills. */
	bool dead = poll(&gone, 1, wait_ms) > 0;
	int r = atomic_load(&g->fired);

	if (r < 0)
		return err_set(err, r, "%s", g->err.msg);
	if (dead)
		return err_set(err, -EIO, "pid %d: its frozen copy died (out of memory, or killed)",
			(int)g->job->pid);
	return 0;
}

void guard_stop(struct guard *g)
{
	if (g->started) {
		(void)eventfd_write(g->stop, 1);
		pthread_join(g->thread, NULL);
	}
	closep(&g->stop);
	*g = (struct guard){.stop = -1};
}
