/* SPDX-License-Identifier: MIT */
#include "daemon/dump/dump.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "daemon/util/helper.h"
#include "daemon/util/log.h"
#include "daemon/util/units.h"
#include "pyleak/capture.h"
#include "pyleak/control.h"

#define EXPLAIN_NICE        5
#define EXPLAIN_DEADLINE_US (120ULL * 1000000)
#define HELPER_GRACE_US     (5ULL * 1000000) /* beyond its own deadline, before we kill it */
#define CAPTURE_FD          3                /* where the helper expects its socket */

extern char **environ;

struct job {
	struct dump_manager *m;
	struct job *next;
	struct dump_request r;
	char *types[DUMP_TYPES_MAX];
	json_t *growth;
	struct store_dump d;

	/* the process that works for this job now */
	pid_t child; /* 0: none, or one of systemd's */
	int sock;    /* capture helper */
	int stderr_fd;
	char stderr_text[512];
	size_t stderr_len;
	bool child_gone;
	struct capture_message result;
	bool have_result;
	sd_event_source *child_source, *sock_source, *stderr_source, *timer;
	bool explaining;
};

struct dump_manager {
	sd_event *event;
	struct store *store;
	struct dump_settings s;
	struct job *first; /* the first one runs */
	sd_event_source *kick;
	uint64_t refusals[CAPTURE_REFUSALS];
};

static void job_next(struct dump_manager *m);
static void job_explain(struct job *j);

/* ---- where our programs are ---------------------------------------------------------------- */

/* May we ourselves do what the capture helper needs? See capture.h and DESIGN.md "systemd for real". */
static bool may_capture_directly(void)
{
	const uint64_t need = 1ULL << 19 /* SYS_PTRACE */ | 1ULL << 21 /* SYS_ADMIN */;
	_cleanup_fclose_ FILE *f = fopen("/proc/self/status", "re");
	unsigned long long caps = 0;
	char line[256];
	int filters = 0;

	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		sscanf(line, "CapEff: %llx", &caps);
		sscanf(line, "Seccomp: %d", &filters);
	}
	return (caps & need) == need && filters == 0;
}

const char *dump_helper_way(void)
{
	return may_capture_directly() ? "started directly" : "through " CAPTURE_SOCKET_PATH;
}

/* ---- ending -------------------------------------------------------------------------------- */

static void job_release_child(struct job *j)
{
	j->child_source = sd_event_source_disable_unref(j->child_source);
	j->sock_source = sd_event_source_disable_unref(j->sock_source);
	j->stderr_source = sd_event_source_disable_unref(j->stderr_source);
	j->timer = sd_event_source_disable_unref(j->timer);
	if (j->child > 0 && !j->child_gone) {
		/* Its tracees go free by themselves: the capture helper is built for that. */
		kill(j->child, SIGKILL);
		waitpid(j->child, NULL, 0);
	}
	j->child = 0;
	j->child_gone = false;
	closep(&j->sock);
	closep(&j->stderr_fd);
	j->sock = j->stderr_fd = -1;
	j->stderr_len = 0;
	j->stderr_text[0] = 0;
}

static void job_free(struct job *j)
{
	if (!j)
		return;
	job_release_child(j);
	for (size_t i = 0; i < ARRAY_SIZE(j->types); i++)
		free(j->types[i]);
	json_decref(j->growth);
	free(j);
}

static void job_progress(struct job *j, const char *text)
{
	if (j->r.on_progress)
		j->r.on_progress(j->r.userdata, text);
}

/* Its capture has begun, or what comes after it. */
static bool job_begun(const struct job *j)
{
	return j->sock >= 0 || j->child;
}

/* Ends a job: row, callback, next one. */
static void job_finish(struct job *j, const char *state, int exit_code, const char *error)
{
	struct dump_manager *m = j->m;
	struct dump_outcome o = {.exit_code = exit_code, .error = error, .dump = &j->d};
	struct err err = {{0}};
	struct job **at = &m->first;
	json_t *doc = NULL;
	char path[PATH_MAX];

	job_release_child(j);
	while (*at != j)
		at = &(*at)->next;
	*at = j->next;
	snprintf(j->d.state, sizeof(j->d.state), "%s", state);
	snprintf(j->d.error, sizeof(j->d.error), "%s", error ? error : "");
	if (store_dump_end(m->store, &j->d, &err)) {
		o.exit_code = EXIT_BROKEN;
		o.error = err.msg;
	}
	if (o.exit_code == EXIT_FINE) {
		json_error_t je;

		snprintf(path, sizeof(path), "%s/dump.json", j->d.path);
		doc = json_load_file(path, 0, &je);
		if (!doc) {
			o.exit_code = EXIT_BROKEN;
			snprintf(err.msg, sizeof(err.msg), "dump %s: dump.json cannot be read: %s",
				j->d.id, je.text);
			o.error = err.msg;
		}
		o.document = doc;
	}
	if (o.exit_code == EXIT_FINE)
		log_notice("dump %s of pid %d done: %s", j->d.id, j->d.pid, j->d.path);
	else
		log_warning("dump %s of pid %d %s: %s", j->d.id, j->d.pid, state, o.error);
	if (j->r.on_done)
		j->r.on_done(j->r.userdata, &o);
	json_decref(doc);
	if (m->s.storage_bytes && store_dump_trim(m->store, m->s.storage_bytes, &err) < 0)
		log_warning("removing old dumps: %s", err.msg);
	job_free(j);
	job_next(m);
}

static void job_fail(struct job *j, const char *fmt, ...) _printf_(2, 3);
static void job_fail(struct job *j, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	job_finish(j, "failed", EXIT_BROKEN, text);
}

/* ---- children ------------------------------------------------------------------------------ */

static int on_stderr(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	struct job *j = userdata;
	size_t room = sizeof(j->stderr_text) - 1 - j->stderr_len;
	char drop[256];
	ssize_t n = room ? read(fd, j->stderr_text + j->stderr_len, room)
			 : read(fd, drop, sizeof(drop));

	if (n <= 0) {
		sd_event_source_set_enabled(s, SD_EVENT_OFF);
		return 0;
	}
	if (room)
		j->stderr_len += n;
	j->stderr_text[j->stderr_len] = 0;
	return 0;
}

/* The last line a child said, without its newline. */
static const char *last_words(struct job *j)
{
	char *p = j->stderr_text, *nl;

	if (j->stderr_fd >= 0)
		on_stderr(j->stderr_source, j->stderr_fd, 0, j);
	while (j->stderr_len && p[j->stderr_len - 1] == '\n')
		p[--j->stderr_len] = 0;
	nl = strrchr(p, '\n');
	return nl ? nl + 1 : p;
}

/* Starts argv with sock (or -1) as fd 3 and a pipe as stderr. */
static int job_spawn(struct job *j, const char *const argv[], int sock, struct err *err)
{
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t at;
	sigset_t none;
	int p[2], r;

	if (pipe2(p, O_CLOEXEC))
		return err_set(err, -errno, "%s: no pipe: %m", argv[0]);
	posix_spawn_file_actions_init(&fa);
	posix_spawnattr_init(&at);
	sigemptyset(&none);
	posix_spawnattr_setsigmask(&at, &none);
	posix_spawnattr_setflags(&at, POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&fa, 1, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_adddup2(&fa, p[1], 2);
	if (sock >= 0)
		posix_spawn_file_actions_adddup2(&fa, sock, CAPTURE_FD);
	r = posix_spawn(&j->child, argv[0], &fa, &at, (char *const *)argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	posix_spawnattr_destroy(&at);
	close(p[1]);
	if (r) {
		j->child = 0;
		close(p[0]);
		return err_set(err, -r, "%s: cannot be started: %s", argv[0], strerror(r));
	}
	j->child_gone = false;
	j->stderr_fd = p[0];
	fcntl(p[0], F_SETFL, O_NONBLOCK);
	r = sd_event_add_io(j->m->event, &j->stderr_source, j->stderr_fd, EPOLLIN, on_stderr, j);
	return r < 0 ? err_set(err, r, "%s: %s", argv[0], strerror(-r)) : 0;
}

static int on_deadline(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct job *j = userdata;

	job_fail(j, "%s did not end by its deadline and was killed; the target was let go",
		j->explaining ? "the explain worker" : "the capture helper");
	return 0;
}

static int job_timer(struct job *j, uint64_t usec)
{
	return sd_event_add_time_relative(
		j->m->event, &j->timer, CLOCK_MONOTONIC, usec, 100000, on_deadline, j);
}

/* ---- capture ------------------------------------------------------------------------------- */

/* A number that this daemon does not know, or none, is counted, too. */
static void count_refusal(struct dump_manager *m, unsigned refusal)
{
	bool known = refusal > CAPTURE_NOT_REFUSED && refusal < CAPTURE_REFUSALS;

	m->refusals[known ? refusal : CAPTURE_BY_OTHER]++;
}

static void capture_ended(struct job *j)
{
	const struct capture_message *r = &j->result;
	char text[sizeof(r->text)];

	snprintf(text, sizeof(text), "%s", r->text);
	if (!j->have_result) {
		const char *words = last_words(j);

		job_fail(j, "the capture helper ended without a result%s%s; the target was let go",
			*words ? ": " : "", words);
	} else if (r->code == CAPTURE_DONE) {
		job_explain(j);
	} else if (r->code == CAPTURE_NO) {
		job_finish(j, "failed", EXIT_NO, text);
	} else if (r->code == CAPTURE_REFUSED) {
		count_refusal(j->m, r->refusal);
		job_finish(j, "refused", EXIT_REFUSED, text);
	} else {
		job_finish(j, "failed", EXIT_BROKEN, text);
	}
}

static int on_capture_message(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	struct job *j = userdata;
	struct capture_message msg;
	ssize_t n = recv(fd, &msg, sizeof(msg), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0) {
		capture_ended(j);
		return 0;
	}
	msg.text[sizeof(msg.text) - 1] = 0;
	if (n != sizeof(msg) || msg.protocol != CAPTURE_PROTOCOL) {
		job_fail(j,
			"the capture helper speaks protocol %u, this daemon %u: install both from "
			"one build",
			n >= 4 ? msg.protocol : 0, CAPTURE_PROTOCOL);
		return 0;
	}
	if (msg.kind == CAPTURE_PROGRESS) {
		job_progress(j, msg.text);
	} else if (msg.kind == CAPTURE_RESULT) {
		j->result = msg;
		j->have_result = true;
		capture_ended(j);
	}
	return 0;
}

static int connect_capture_socket(struct err *err)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX, .sun_path = CAPTURE_SOCKET_PATH};
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return err_set(err, -errno, "no socket: %m");
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)))
		return err_set(err, -errno,
			"a dump needs the capture helper at %s: %m; start pyleak-capture.socket, "
			"or run "
			"pyleakd as root with CAP_SYS_ADMIN and no seccomp filter",
			sa.sun_path);
	return TAKE_FD(fd);
}

/* Names of the suspects' types, as they go behind a request. */
static size_t put_types(const struct job *j, char *buf, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < j->r.n_types; i++) {
		size_t k = strlen(j->types[i]) + 1;

		if (n + k > size)
			break;
		memcpy(buf + n, j->types[i], k);
		n += k;
	}
	return n;
}

static int send_request(
	int sock, const struct capture_request *q, const char *types, size_t n_types, int fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} u = {{0}};
	struct iovec iov[2] = {{(void *)q, sizeof(*q)}, {(void *)types, n_types}};
	struct msghdr msg = {.msg_iov = iov,
		.msg_iovlen = 2,
		.msg_control = u.buf,
		.msg_controllen = sizeof(u.buf)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	return sendmsg(sock, &msg, MSG_NOSIGNAL) == (ssize_t)(sizeof(*q) + n_types) ? 0 : -errno;
}

static void job_capture(struct job *j)
{
	const struct dump_settings *s = &j->m->s;
	struct capture_request q = {
		.protocol = CAPTURE_PROTOCOL,
		.pid = j->r.id.pid,
		.start_ticks = j->r.id.start_ticks,
		.pause_max_ns = s->pause_ns,
		.deadline_ns = s->deadline_ns,
		.headroom = s->headroom,
		.keys = s->keys,
		.flags = j->r.force ? CAPTURE_FORCE : 0,
	};
	char path[PATH_MAX], prog[PATH_MAX], types[CAPTURE_TYPES_MAX];
	_cleanup_close_ int out = -1, theirs = -1;
	struct err err = {{0}};
	const char *die = getenv("PYLEAK_CAPTURE_DIE_AT");
	const char *memory = getenv("PYLEAK_CAPTURE_MEMORY_MIB"); /* tests: less than there is */
	int r;

	if (die)
		q.die_at = (uint32_t)strtoul(die, NULL, 10);
	if (memory)
		q.memory_mib = (uint32_t)strtoul(memory, NULL, 10);
	snprintf(path, sizeof(path), "%s/snapshot", j->d.path);
	out = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (out < 0) {
		job_fail(j, "%s: %m", path);
		return;
	}
	if (may_capture_directly()) {
		const char *argv[] = {prog, NULL};
		int pair[2];

		if (helper_path("pyleak-capture", prog, sizeof(prog))) {
			job_fail(j,
				"pyleak-capture is neither beside pyleakd nor in %s: run make "
				"install",
				PYLEAK_LIBEXECDIR);
			return;
		}
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
			job_fail(j, "no socket: %m");
			return;
		}
		j->sock = pair[0];
		theirs = pair[1];
		r = job_spawn(j, argv, theirs, &err);
	} else {
		r = connect_capture_socket(&err);
		if (r >= 0) {
			j->sock = r;
			r = 0;
		}
	}
	if (r) {
		job_fail(j, "%s", err.msg);
		return;
	}
	r = send_request(j->sock, &q, types, put_types(j, types, sizeof(types)), out);
	if (!r)
		r = sd_event_add_io(
			j->m->event, &j->sock_source, j->sock, EPOLLIN, on_capture_message, j);
	if (r >= 0)
		r = job_timer(j, s->deadline_ns / 1000 + HELPER_GRACE_US);
	if (r < 0)
		job_fail(j, "the capture helper cannot be asked: %s", strerror(-r));
}

/* ---- explain ------------------------------------------------------------------------------- */

static int on_explain_exit(sd_event_source *s, const siginfo_t *si, void *userdata)
{
	struct job *j = userdata;
	char words[512];

	j->child_gone = true;
	snprintf(words, sizeof(words), "%s", last_words(j));
	if (si->si_code == CLD_EXITED && si->si_status == 0)
		job_finish(j, "done", EXIT_FINE, NULL);
	else if (si->si_code == CLD_EXITED && si->si_status == EXIT_NO)
		job_finish(
			j, "failed", EXIT_NO, *words ? words : "the explain worker found nothing");
	else if (si->si_code == CLD_EXITED)
		job_fail(j, "the explain worker failed with exit code %d%s%s", si->si_status,
			*words ? ": " : "", words);
	else
		job_fail(j, "the explain worker was ended by signal %d (%s)", si->si_status,
			strsignal(si->si_status));
	return 0;
}

/* For the page; without it the page has no chart. */
static void write_growth(const struct job *j)
{
	char path[PATH_MAX];
	int fd;

	if (!j->growth ||
		(size_t)snprintf(path, sizeof(path), "%s/growth.json", j->d.path) >= sizeof(path))
		return;
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || json_dumpfd(j->growth, fd, JSON_COMPACT) < 0)
		log_warning("dump %s: %s: %s", j->d.id, path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void job_explain(struct job *j)
{
	char prog[PATH_MAX], final[PATH_MAX];
	const char *argv[4 * DUMP_TYPES_MAX + 16];
	char grown[DUMP_TYPES_MAX][24];
	struct err err = {{0}};
	const char *slash;
	int n = 0, r;

	/* The result is the helper's last word; whatever it still does may be cut short. */
	job_release_child(j);
	j->explaining = true;
	job_progress(j, "explaining what holds the objects");
	if (helper_path("pyleak-explain", prog, sizeof(prog))) {
		job_fail(j, "pyleak-explain is neither beside pyleakd nor in %s: run make install",
			PYLEAK_LIBEXECDIR);
		return;
	}
	write_growth(j);
	/* store.h: STATE/dumps/.ID.tmp becomes STATE/dumps/ID */
	slash = strrchr(j->d.path, '/');
	snprintf(final, sizeof(final), "%.*s/%s", slash ? (int)(slash - j->d.path) : 0, j->d.path,
		j->d.id);
	argv[n++] = prog;
	argv[n++] = "--id";
	argv[n++] = j->d.id;
	argv[n++] = "--trigger";
	argv[n++] = j->d.trigger;
	argv[n++] = "--final-dir";
	argv[n++] = final;
	for (size_t i = 0; i < j->r.n_types; i++) {
		argv[n++] = "--type";
		argv[n++] = j->types[i];
		if (j->r.grown[i]) {
			snprintf(grown[i], sizeof(grown[i]), "%" PRIu64, j->r.grown[i]);
			argv[n++] = "--grown";
			argv[n++] = grown[i];
		}
	}
	argv[n++] = "--";
	argv[n++] = j->d.path;
	argv[n] = NULL;
	r = job_spawn(j, argv, -1, &err);
	/* The daemon may be in more of a hurry than others; this is not. */
	if (!r)
		(void)setpriority(PRIO_PROCESS, (id_t)j->child, EXPLAIN_NICE);
	if (!r) {
		r = sd_event_add_child(
			j->m->event, &j->child_source, j->child, WEXITED, on_explain_exit, j);
		if (r < 0)
			err_set(&err, r, "%s: %s", prog, strerror(-r));
	}
	if (r >= 0)
		r = job_timer(j, EXPLAIN_DEADLINE_US);
	if (r < 0)
		job_fail(j, "%s", err.msg);
}

/* ---- queue --------------------------------------------------------------------------------- */

static int on_kick(sd_event_source *s, void *userdata)
{
	struct dump_manager *m = userdata;

	if (m->first && !job_begun(m->first))
		job_capture(m->first);
	return 0;
}

/* Starts the first job from the event loop, so that dump_start() has returned the id by then. */
static void job_next(struct dump_manager *m)
{
	if (m->first && m->kick)
		sd_event_source_set_enabled(m->kick, SD_EVENT_ONESHOT);
}

int dump_manager_new(sd_event *event, struct store *store, struct dump_manager **ret)
{
	struct dump_manager *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return -ENOMEM;
	m->event = sd_event_ref(event);
	m->store = store;
	r = sd_event_add_defer(event, &m->kick, on_kick, m);
	if (r < 0) {
		dump_manager_free(m);
		return r;
	}
	sd_event_source_set_enabled(m->kick, SD_EVENT_OFF);
	*ret = m;
	return 0;
}

void dump_manager_free(struct dump_manager *m)
{
	if (!m)
		return;
	m->kick = sd_event_source_disable_unref(m->kick);
	while (m->first)
		job_finish(m->first, "failed", EXIT_BROKEN, "the daemon was stopped");
	sd_event_unref(m->event);
	free(m);
}

void dump_manager_configure(struct dump_manager *m, const struct dump_settings *s)
{
	m->s = *s;
}

/* Whether there is room for one of this kind. Nobody fills the queue alone, and all who ask do not fill it for
 * what triggers want. */
static bool may_queue(const struct dump_manager *m, const struct dump_request *r, struct err *err)
{
	bool manual = !strcmp(r->trigger, "manual");
	unsigned all = 0, same = 0, own = 0;

	for (const struct job *j = m->first; j; j = j->next) {
		all++;
		same += !strcmp(j->r.trigger, "manual");
		own += j->r.limited && j->r.asked_by == r->asked_by;
	}
	if (r->limited && own >= DUMP_QUEUE_USER) {
		err_set(err, -EBUSY, "%u dumps of this user are waiting already: try again later", own);
		return false;
	}
	if (all < DUMP_QUEUE_MAX && !(manual && same >= DUMP_QUEUE_MANUAL))
		return true;
	err_set(err, -EBUSY, "%u dumps are waiting already, one runs at a time: try again later", all);
	return false;
}

int dump_start(struct dump_manager *m, const struct dump_request *r, char ret_id[DUMP_ID_MAX],
	struct err *err)
{
	struct job *j, **tail = &m->first;
	int k;

	if (!may_queue(m, r, err)) {
		count_refusal(m, CAPTURE_BY_QUEUE);
		return -EBUSY;
	}
	while (*tail)
		tail = &(*tail)->next;
	j = calloc(1, sizeof(*j));
	if (!j)
		return err_set(err, -ENOMEM, "out of memory");
	j->m = m;
	j->r = *r;
	j->r.types = NULL;
	j->growth = json_deep_copy(r->growth);
	j->r.growth = NULL;
	j->r.n_types = 0;
	j->sock = j->stderr_fd = -1;
	for (size_t i = 0; i < r->n_types && i < DUMP_TYPES_MAX; i++) {
		j->types[i] = strdup(r->types[i]);
		if (!j->types[i]) {
			job_free(j);
			return err_set(err, -ENOMEM, "out of memory");
		}
		j->r.n_types++;
	}
	j->d = (struct store_dump){.pid = r->id.pid, .uid = r->uid, .at_ms = now_realtime_ms()};
	snprintf(j->d.comm, sizeof(j->d.comm), "%s", r->comm);
	snprintf(j->d.trigger, sizeof(j->d.trigger), "%s", r->trigger);
	k = store_dump_begin(m->store, &j->d, err);
	if (k) {
		job_free(j);
		return k;
	}
	*tail = j;
	snprintf(ret_id, DUMP_ID_MAX, "%s", j->d.id);
	log_info("dump %s of pid %d (%s), trigger: %s", j->d.id, j->d.pid, j->d.comm, j->d.trigger);
	if (m->first == j)
		job_next(m);
	return 0;
}

void dump_forget(struct dump_manager *m, void *userdata)
{
	for (struct job *j = m->first; j; j = j->next)
		if (j->r.userdata == userdata) {
			j->r.on_progress = NULL;
			j->r.on_done = NULL;
		}
}

void dump_cancel(struct dump_manager *m, pid_t pid, const char *why)
{
	struct job *j = m->first;

	while (j) {
		struct job *next = j->next;

		if ((!pid || j->d.pid == pid) && !job_begun(j))
			job_finish(j, "refused", EXIT_REFUSED, why);
		j = next;
	}
}

unsigned dump_pending(const struct dump_manager *m, pid_t pid)
{
	unsigned n = 0;

	for (const struct job *j = m->first; j; j = j->next)
		n += !pid || j->d.pid == pid;
	return n;
}

uint64_t dump_refusals(const struct dump_manager *m, unsigned refusal)
{
	return refusal < CAPTURE_REFUSALS ? m->refusals[refusal] : 0;
}

const char *dump_refusal_name(unsigned refusal)
{
	static const char *const name[CAPTURE_REFUSALS] = {
		[CAPTURE_BY_PAUSE] = "pause",
		[CAPTURE_BY_MEMORY] = "memory",
		[CAPTURE_BY_PRESSURE] = "pressure",
		[CAPTURE_BY_PROCESSES] = "processes",
		[CAPTURE_BY_TRACER] = "traced",
		[CAPTURE_BY_STOP] = "stopped",
		[CAPTURE_BY_SECCOMP] = "seccomp",
		[CAPTURE_BY_KIND] = "unsupported",
		[CAPTURE_BY_MOMENT] = "moment",
		[CAPTURE_BY_DEADLINE] = "deadline",
		[CAPTURE_BY_TURN] = "turn",
		[CAPTURE_BY_RIGHT] = "permission",
		[CAPTURE_BY_QUEUE] = "queue",
		[CAPTURE_BY_OTHER] = "other",
	};

	return refusal < CAPTURE_REFUSALS ? name[refusal] : NULL;
}
