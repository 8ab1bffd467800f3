/* SPDX-License-Identifier: MIT */
/*
 * pyleak-capture: one snapshot of one process, then exit. Short-lived on purpose: when it dies,
 * for whatever reason, the kernel lets every thread of the target go, and the frames it left
 * below their stacks put them back (loan.h).
 */
#include <fcntl.h>
#include <fnmatch.h>
#include <getopt.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "capture/child.h"
#include "capture/fork.h"
#include "capture/frames.h"
#include "capture/gate.h"
#include "capture/graph.h"
#include "capture/guard.h"
#include "capture/huge.h"
#include "capture/holders.h"
#include "capture/job.h"
#include "capture/labels.h"
#include "capture/loan.h"
#include "capture/preflight.h"
#include "capture/roots.h"
#include "capture/snapshot.h"
#include "capture/stop.h"
#include "capture/strings.h"
#include "capture/view.h"
#include "daemon/util/units.h"

#define SOCKET_FD       3
#define LOCK_DIR        "/run/pyleak"
#define LOCK_FILE       LOCK_DIR "/capture.lock"
#define DEADLINE_MAX_NS ((uint64_t)3600 * 1000000000)
#define LOCK_WAIT_NS    ((uint64_t)5 * 1000000000)
#define FORK_TRIES      5
#define AGAIN_NS        10000000L /* until the next try, then twice that, and so on */
#define STATIC_ROUNDS   8
#define ROUNDS_MAX      64 /* steps from a suspect to its farthest holder */
#define HUGE_LONGEST_NS ((uint64_t)2 * 1000000000)
#define DYING_MS        100
#define ALARM_GRACE_NS  ((uint64_t)2 * 1000000000)

static enum capture_code code_of(int r)
{
	switch (r) {
	case 0:
		return CAPTURE_DONE;
	case -ESRCH:
	case -ENOEXEC:
		return CAPTURE_NO;
	case -EPERM:
	case -EACCES:
	case -EBUSY:
	case -EAGAIN:
	case -EDQUOT:
	case -EOPNOTSUPP:
	case -EPROTO:
		return CAPTURE_REFUSED;
	}
	return CAPTURE_FAILED;
}

/* One packet with the output file's descriptor. */
static int receive(struct job *j, struct err *err)
{
	union {
		char buf[CMSG_SPACE(4 * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec v[2] = {{.iov_base = &j->req, .iov_len = sizeof(j->req)},
		{.iov_base = j->types, .iov_len = sizeof(j->types) - 1}};
	struct msghdr m = {.msg_iov = v,
		.msg_iovlen = 2,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf)};
	ssize_t n;

	do
		n = recvmsg(j->sock, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_set(err, -errno, "descriptor 3 is not the daemon's socket: %s",
			strerror(errno));
	if (n == 0)
		return err_set(err, -ECANCELED, "the daemon closed the socket without a request");
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		for (size_t i = 0; i < fds; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (j->out < 0)
				j->out = fd;
			else
				close(fd);
		}
	}
	j->types_bytes = (size_t)MAX(n - (ssize_t)sizeof(j->req), (ssize_t)0);
	if ((size_t)n < sizeof(j->req) || j->req.protocol != CAPTURE_PROTOCOL)
		return err_set(err, -EPROTO,
			"request of %zd bytes, protocol %u; this helper speaks protocol %d: daemon "
			"and helper are of different versions",
			n, (unsigned)j->req.protocol, CAPTURE_PROTOCOL);
	if (j->out < 0)
		return err_set(err, -EBADF, "no output file came with the request");
	if (j->req.pid <= 0)
		return err_set(err, -ESRCH, "pid %d: no such process", (int)j->req.pid);
	if (!(j->req.headroom >= 0 && j->req.headroom <= 1) || j->req.keys > CAPTURE_KEYS_ALL ||
		j->req.deadline_ns == 0)
		return err_set(err, -EINVAL, "request is malformed");
	return 0;
}

/* One capture per host at a time: two would double what each may cost. */
static int take_lock(struct job *j, struct err *err)
{
	uint64_t until;

	if (mkdir(LOCK_DIR, 0755) < 0 && errno != EEXIST)
		return err_set(err, -errno, "cannot make " LOCK_DIR ": %s", strerror(errno));
	j->lock = open(LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (j->lock < 0)
		return err_set(err, -errno, "cannot open " LOCK_FILE ": %s", strerror(errno));
	until = now_monotonic_ns() + job_time_left(j, LOCK_WAIT_NS);
	while (flock(j->lock, LOCK_EX | LOCK_NB) < 0) {
		struct timespec ts = {.tv_nsec = 20000000};

		/* flock() has no time limit, and a signal to end a wait would be one more thing
		 * to go wrong: look now and then */
		if (errno != EWOULDBLOCK || now_monotonic_ns() >= until)
			return job_refuse(j, CAPTURE_BY_TURN, err, -EBUSY,
				"another capture is running on this host: one at a time; try "
				"again");
		nanosleep(&ts, NULL);
	}
	return 0;
}

/* Last resort, should anything here hang: SIGALRM ends the helper, the kernel does the rest. */
static void set_alarm(uint64_t ns)
{
	struct itimerval t = {.it_value = {.tv_sec = (time_t)(ns / 1000000000),
				      .tv_usec = (suseconds_t)(ns % 1000000000 / 1000)}};

	(void)setitimer(ITIMER_REAL, &t, NULL);
}

/* The graph of a large heap is large: if memory runs out, this process is the one to go, and then
 * the target goes on. */
static void become_expendable(void)
{
	_cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0)
		(void)!write(fd, "900", 3);
}

static int prepare(struct job *j, struct err *err)
{
	sigset_t chld;

	j->began_ns = now_monotonic_ns();
	j->deadline_ns = j->began_ns + MIN(j->req.deadline_ns, DEADLINE_MAX_NS);
	j->pid = j->req.pid;
	become_expendable();
	set_alarm(MIN(j->req.deadline_ns, DEADLINE_MAX_NS) + ALARM_GRACE_NS);
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	j->wake = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
	if (j->wake < 0)
		return err_set(err, -errno, "signalfd: %s", strerror(errno));
	j->target_fd = (int)syscall(SYS_pidfd_open, j->pid, 0);
	if (j->target_fd < 0)
		return err_set(err, errno == EINVAL ? -ESRCH : -errno,
			errno == ESRCH || errno == EINVAL ? "pid %d: no such process"
							  : "pid %d: cannot watch it",
			(int)j->pid);
	return take_lock(j, err);
}

/* The short part: from here to there the target stands still, a few times for microseconds. */
static int freeze(struct job *j, int64_t *ret_at_ms, struct err *err)
{
	struct stop s = {.pid = j->pid, .wake = j->wake};
	struct gate gate;
	int r;

	job_hurry(HURRY_STOP);
	r = gate_init(&gate, j, err);
	for (int i = 0; r == 0 && i < FORK_TRIES; i++) {
		struct thread *t;

		r = gate_open(&gate, j, &s, &t, err);
		if (r < 0)
			break;
		*ret_at_ms = now_realtime_ms();
		r = fork_target(j, &s, t, err);
		if ((r != -EAGAIN && r != -EBUSY) || j->child > 0)
			break;
		if (i + 1 < FORK_TRIES) {
			struct timespec ts = {.tv_nsec = AGAIN_NS << i};

			nanosleep(&ts, NULL);
			r = 0;
		}
	}
	/* nobody is pending when the gate opened; when it did not, nothing else is to be done */
	stop_release(&s, job_time_left(j, UINT64_MAX));
	job_hurry(HURRY_COPY);
	return r;
}

/* What the graph may take here. Half of what the host has free: the rest is for whoever else wants some,
 * and for the explain worker after us. */
static uint64_t memory_for_graph(const struct job *j)
{
	struct cgroup own;
	struct memory_room room[2];

	if (j->req.memory_mib)
		return (uint64_t)j->req.memory_mib << 20;
	cgroup_find(getpid(), "memory", &own);
	cgroup_memory_room(&own, &room[0], &room[1]);
	return MIN(room[0].limit_bytes ? room[0].free_bytes : UINT64_MAX,
		       room[1].limit_bytes ? room[1].free_bytes : UINT64_MAX) /
	       2;
}

static bool is_wanted(const struct job *j, const char *name)
{
	const char *dot = strrchr(name, '.');

	/* types[types_bytes] is 0 */
	for (const char *p = j->types; p < j->types + j->types_bytes; p += strlen(p) + 1)
		if (*p && (fnmatch(p, name, 0) == 0 || (dot && strcmp(p, dot + 1) == 0)))
			return true;
	return false;
}

/* Which of the types there are are the suspects'. */
static int find_wanted(const struct job *j, struct walker *w, const struct view *v, struct err *err)
{
	struct graph *g = w->graph;
	int r;

	graph_restart(g, GRAPH_TYPES);
	r = child_walk_rings(w, err);
	for (size_t i = 0; r == 0 && i < g->n_types; i++) {
		struct python_type t;

		if (python_type_read(v->python, g->types[i].addr, &t) == 0 &&
			is_wanted(j, t.name))
			r = u64map_put(&g->wanted, g->types[i].addr, 1);
	}
	return r;
}

/*
 * The suspects' instances, then whoever refers to one of those, and so on: each round is a walk through
 * the whole heap that keeps nothing else, so that it costs time in place of memory. Ends when
 * nobody new turns up, or when time is up: then ret_steps says how many steps away the farthest holders
 * are that it has, else it is 0. -ENOENT: there is nothing to show.
 */
static int read_neighbourhood(
	struct job *j, struct walker *w, const struct view *v, int *ret_steps, struct err *err)
{
	int64_t more = 1;
	int r = find_wanted(j, w, v, err), i;

	*ret_steps = 0;
	if (r < 0 || w->graph->wanted.n == 0)
		return r < 0 ? r : -ENOENT;
	for (i = 0; i < ROUNDS_MAX && more > 0; i++) {
		uint64_t began = now_monotonic_ns();

		graph_restart(w->graph, GRAPH_NEAR);
		r = child_walk_rings(w, err);
		if (r < 0)
			return r;
		more = graph_settle(w->graph);
		if (more < 0)
			return -E2BIG;
		if (i == 0 && more == 0)
			return -ENOENT; /* no such object is in the rings */
		if (2 * now_monotonic_ns() - began > w->until_ns)
			break; /* another round would not end in time */
	}
	if (more > 0)
		*ret_steps = MIN(i, ROUNDS_MAX - 1);
	return more > 0 && i == 0 ? -ENOENT : 0; /* instances that nobody holds: counts tell more */
}

/* Less than the whole graph, as much as can be had. */
static int degrade(struct job *j, struct walker *w, const struct view *v, struct err *err)
{
	char why[sizeof(w->too_much)], far[64] = "";
	int r = -ENOENT, steps = 0;

	snprintf(why, sizeof(why), "%s", w->too_much);
	w->until_ns = now_monotonic_ns() + job_time_left(j, UINT64_MAX) / 2;
	if (j->types_bytes)
		r = read_neighbourhood(j, w, v, &steps, err);
	if (steps)
		snprintf(far, sizeof(far), ", up to %d steps away", steps);
	if (r == 0) {
		job_truncate(j, LEVEL_NEIGHBOURHOOD,
			"the whole graph would have taken %s: only the suspects and what leads to "
			"them%s",
			why, far);
		return 0;
	}
	if (r != -E2BIG && r != -ENOENT)
		return r;
	w->until_ns = UINT64_MAX;
	graph_restart(w->graph, GRAPH_NODES);
	r = child_walk_rings(w, err);
	if (r == -E2BIG)
		return err_set(err, -EDQUOT,
			"pid %d: even a list of its objects takes %s: try when this host has more free",
			(int)j->pid, w->too_much);
	if (r == 0)
		job_truncate(j, LEVEL_COUNTS, "the whole graph would have taken %s: only counts",
			why);
	return r;
}

/* What the rings lead to outside of them, and the static types whose dicts lead to more. */
static int read_outside(
	struct job *j, struct walker *w, struct view *v, struct strings *s, struct err *err)
{
	size_t at_type = 0, at_node = 0;
	int r;

	for (int i = 0; i < STATIC_ROUNDS; i++) {
		r = child_expand(w, err);
		if (r < 0)
			return r;
		r = roots_static_types(w->graph, v, s, &at_type, &at_node);
		if (r < 0)
			return err_set(
				err, r, "out of memory for the roots of pid %d", (int)j->pid);
		if (r == 0)
			return 0;
	}
	job_truncate(j, LEVEL_OBJECTS, "static types led to ever more static types");
	return 0;
}

static int read_copy(
	struct job *j, struct guard *guard, struct graph *g, struct strings *s, struct err *err)
{
	_cleanup_(child_release) struct walker w = {0};
	_cleanup_free_ struct view *v = malloc(sizeof(*v));
	struct python copy = *j->python;
	int r;

	if (!v)
		return err_set(err, -ENOMEM, "out of memory");
	copy.id.pid = j->child;
	g->max_bytes = memory_for_graph(j);
	view_init(v, &copy);
	r = child_setup(&w, j, g, v, guard, err);
	if (r == 0)
		r = child_walk_rings(&w, err);
	if (r == -E2BIG)
		r = degrade(j, &w, v, err);
	if (r < 0)
		return r;
	r = roots_collect(g, v, s);
	if (r < 0)
		return err_set(err, r, "out of memory for the roots of pid %d", (int)j->pid);
	if (g->frames_cut)
		job_truncate(j, LEVEL_OBJECTS, "a thread has more than %u frames", FRAMES_MAX);
	if (python_interpreters(j->python) > 1 && j->python->minor > 8)
		job_truncate(j, LEVEL_OBJECTS,
			"the process has %d interpreters, and only the main one's objects are here",
			python_interpreters(j->python));
	if (j->level < LEVEL_NEIGHBOURHOOD) {
		r = read_outside(j, &w, v, s, err);
		if (r == -E2BIG)
			r = degrade(j, &w, v, err);
		if (r < 0)
			return r;
	}
	job_progress(j, "read %zu objects of pid %d's frozen copy", g->n_nodes, (int)j->pid);
	if (j->level < LEVEL_NEIGHBOURHOOD) /* else not all references are known */
		r = holders_find(&w, g, v, s, err);
	if (r < 0)
		return r == -ENOMEM
			       ? err_set(err, r, "out of memory for what holds objects of pid %d",
					 (int)j->pid)
			       : r;
	r = labels_resolve(j, g, v, s);
	return r < 0 ? err_set(err, r, "out of memory for the names of pid %d", (int)j->pid) : 0;
}

/* The copy's life: watched from before its first instruction until everything is read. */
static int use_copy(struct job *j, const struct memory_groups *memory, struct graph *g, struct strings *s,
	struct err *err)
{
	struct guard guard = {.stop = -1};
	int r, killed;

	r = guard_start(&guard, j, memory, err);
	if (r < 0)
		return r;
	r = read_copy(j, &guard, g, s, err);
	/* killed while names were read from it: they may be nonsense. Where something failed that may be
	 * why, and it takes a moment to die. */
	killed = guard_check(&guard, r < 0 ? DYING_MS : 0, err);
	if (killed < 0)
		j->refusal = guard.refusal;
	guard_stop(&guard);
	return killed < 0 ? killed : r;
}

static int capture(struct job *j, struct graph *g, struct err *err)
{
	_cleanup_(strings_release) struct strings s = {0};
	_cleanup_free_ struct memory_groups *memory = calloc(1, sizeof(*memory));
	_cleanup_(huge_release) struct huge huge = {0};
	int64_t at_ms = 0;
	int r, left;

	if (!memory)
		return err_set(err, -ENOMEM, "out of memory");
	r = preflight(j, memory, err);
	if (r < 0)
		return r;
	g->minor = j->python->minor;
	(void)huge_read(j->pid, &huge);
	job_progress(j, "looking for a safe moment in pid %d (%s)", (int)j->pid, j->info.comm);
	r = freeze(j, &at_ms, err);
	if (r == 0)
		r = use_copy(j, memory, g, &s, err);
	/* whatever happened: no copy, and no trace of one, stays */
	job_hurry(HURRY_STOP);
	if (j->child > 0)
		job_end_soon(j);
	left = fork_reap(j);
	job_hurry(HURRY_COPY);
	if (loan_places_hold(j)) /* it is the same program still */
		(void)huge_restore(j->pid, j->target_fd, &huge,
			now_monotonic_ns() + job_time_left(j, HUGE_LONGEST_NS));
	if (left > 0)
		job_progress(j,
			"%d ended cop%s of pid %d could not be reaped now; the next capture does",
			left, left == 1 ? "y" : "ies", (int)j->pid);
	if (r < 0)
		return r;
	job_die_at(j, STEP_WRITING);
	job_progress(j, "writing %zu objects, %zu references", g->n_nodes, g->n_edges);
	return snapshot_write(j, g, &s, at_ms, err);
}

static void answer(const struct job *j, const struct graph *g, int r, const struct err *err)
{
	struct capture_message m = {.protocol = CAPTURE_PROTOCOL,
		.kind = CAPTURE_RESULT,
		.code = code_of(r),
		.skipped = j->skipped,
		.predicted_pause_ns = j->predicted_ns,
		.pause_ns = j->stop_ns + j->reap_ns,
		.duration_ns = now_monotonic_ns() - j->began_ns,
		.objects = g->n_nodes,
		.edges = g->n_edges,
		.truncated = j->level,
		.tries = j->tries,
		.refusal = code_of(r) == CAPTURE_REFUSED ? job_refusal(j, r) : CAPTURE_NOT_REFUSED};

	snprintf(m.text, sizeof(m.text), "%s", r < 0 ? err->msg : j->truncated_why);
	(void)!send(j->sock, &m, sizeof(m), MSG_NOSIGNAL);
}

static int usage(const char *arg)
{
	if (strcmp(arg, "--version") == 0) {
		puts("pyleak-capture " PYLEAK_VERSION);
		return 0;
	}
	if (strcmp(arg, "--help") == 0) {
		puts("pyleak-capture: takes one snapshot of a process for pyleakd\n"
		     "Started by pyleakd or by systemd with a socket as descriptor 3; takes no "
		     "options but --help and --version.");
		return 0;
	}
	fprintf(stderr, "pyleak-capture: %s: takes no arguments, pyleakd starts it\n", arg);
	return 2;
}

int main(int argc, char **argv)
{
	struct job j = {.sock = SOCKET_FD, .out = -1, .wake = -1, .target_fd = -1, .child_fd = -1, .lock = -1};
	struct loan_places places = LOAN_PLACES_NONE;
	struct graph g = {0};
	struct err err = {""};
	int r;

	if (argc > 1)
		return usage(argv[1]);
	signal(SIGPIPE, SIG_IGN);
	j.places = &places;
	j.began_ns = now_monotonic_ns();
	r = receive(&j, &err);
	if (r == 0)
		r = prepare(&j, &err);
	if (r == 0)
		r = capture(&j, &g, &err);
	if (r < 0 && fcntl(SOCKET_FD, F_GETFD) < 0)
		fprintf(stderr,
			"pyleak-capture: %s; pyleakd starts it with its socket as descriptor "
			"3\n",
			err.msg);
	answer(&j, &g, r, &err);
	graph_release(&g);
	loan_places_release(&places);
	python_free(j.python);
	return r < 0 ? code_of(r) : 0;
}
