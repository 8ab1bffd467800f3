/* SPDX-License-Identifier: MIT */
/*
 * pyleak-capture: one snapshot of one process, then exit. Short-lived on purpose: when it dies,
 * for whatever reason, the kernel lets every thread of the target go, and the frames it left
 * below their stacks put them back (loan.h).
 */
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
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
#define STATIC_ROUNDS   8
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
	struct iovec v = {.iov_base = &j->req, .iov_len = sizeof(j->req)};
	struct msghdr m = {.msg_iov = &v,
		.msg_iovlen = 1,
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
	if ((size_t)n != sizeof(j->req) || j->req.protocol != CAPTURE_PROTOCOL)
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
			return err_set(err, -EBUSY,
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
	int r;

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
	r = take_lock(j, err);
	/* Between stopping the target and letting it go we must not wait for a processor.
	 * Needs CAP_SYS_NICE; without it the stop is as long as the scheduler makes it. */
	if (r == 0)
		(void)setpriority(PRIO_PROCESS, 0, -15);
	return r;
}

/* The short part: from here to there the target stands still, a few times for microseconds. */
static int freeze(struct job *j, int64_t *ret_at_ms, struct err *err)
{
	struct stop s = {.pid = j->pid, .wake = j->wake};
	struct gate gate;
	int r;

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
		if (i + 1 < FORK_TRIES)
			r = 0;
	}
	/* nobody is pending when the gate opened; when it did not, nothing else is to be done */
	stop_release(&s, job_time_left(j, UINT64_MAX));
	return r;
}

static int read_copy(
	struct job *j, struct guard *guard, struct graph *g, struct strings *s, struct err *err)
{
	_cleanup_(child_release) struct walker w = {0};
	_cleanup_free_ struct view *v = malloc(sizeof(*v));
	struct python copy = *j->python;
	size_t at_type = 0, at_node = 0;
	int r;

	if (!v)
		return err_set(err, -ENOMEM, "out of memory");
	copy.id.pid = j->child;
	view_init(v, &copy);
	r = child_setup(&w, j, g, v, guard, err);
	if (r == 0)
		r = child_walk_rings(&w, err);
	if (r < 0)
		return r;
	job_progress(j, "read %zu objects of pid %d's frozen copy", g->n_nodes, (int)j->pid);
	r = roots_collect(g, v, s);
	if (r < 0)
		return err_set(err, r, "out of memory for the roots of pid %d", (int)j->pid);
	if (g->frames_cut)
		job_truncate(j, "a thread has more than %u frames", FRAMES_MAX);
	/* what expansion finds may be static types, whose dicts lead to more */
	for (int i = 0; i < STATIC_ROUNDS; i++) {
		r = child_expand(&w, err);
		if (r < 0)
			return r;
		r = roots_static_types(g, v, s, &at_type, &at_node);
		if (r < 0)
			return err_set(
				err, r, "out of memory for the roots of pid %d", (int)j->pid);
		if (r == 0)
			break;
		if (i + 1 == STATIC_ROUNDS)
			job_truncate(j, "static types led to ever more static types");
	}
	r = labels_resolve(j, g, v, s);
	return r < 0 ? err_set(err, r, "out of memory for the names of pid %d", (int)j->pid) : 0;
}

/* The copy's life: watched from before its first instruction until everything is read. */
static int use_copy(struct job *j, const struct cgroup *memory, struct graph *g, struct strings *s,
	struct err *err)
{
	struct guard guard = {.stop = -1, .child_fd = -1};
	int r, killed;

	r = guard_start(&guard, j, memory, err);
	if (r < 0)
		return r;
	r = read_copy(j, &guard, g, s, err);
	/* killed while names were read from it: they may be nonsense */
	killed = guard_check(&guard, err);
	guard_stop(&guard);
	return killed < 0 ? killed : r;
}

static int capture(struct job *j, struct graph *g, struct err *err)
{
	_cleanup_(strings_release) struct strings s = {0};
	_cleanup_free_ struct cgroup *memory = calloc(1, sizeof(*memory));
	int64_t at_ms = 0;
	int r, left;

	if (!memory)
		return err_set(err, -ENOMEM, "out of memory");
	r = preflight(j, memory, err);
	if (r < 0)
		return r;
	g->minor = j->python->minor;
	job_progress(j, "looking for a safe moment in pid %d (%s)", (int)j->pid, j->info.comm);
	r = freeze(j, &at_ms, err);
	if (r == 0)
		r = use_copy(j, memory, g, &s, err);
	/* whatever happened: no copy, and no trace of one, stays */
	left = fork_reap(j);
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
		.truncated = j->truncated,
		.tries = j->tries};

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
	struct job j = {.sock = SOCKET_FD, .out = -1, .wake = -1, .target_fd = -1, .lock = -1};
	struct loan_places places = {0};
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
