/* SPDX-License-Identifier: MIT */
#include "capture/job.h"

#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "daemon/util/units.h"

void job_die_at(const struct job *j, enum step step)
{
	struct ucred peer;
	socklen_t n = sizeof(peer);

	if ((j->req.die_at & ~CAPTURE_DIE_DAEMON) != (uint32_t)step)
		return;
	if (!(j->req.die_at & CAPTURE_DIE_DAEMON))
		kill(getpid(), SIGKILL);
	else if (getsockopt(j->sock, SOL_SOCKET, SO_PEERCRED, &peer, &n) == 0 && peer.pid > 0)
		kill(peer.pid, SIGKILL);
}

int job_refuse(struct job *j, enum capture_refusal why, struct err *err, int r, const char *fmt, ...)
{
	va_list ap;

	j->refusal = why;
	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	return r;
}

enum capture_refusal job_refusal(const struct job *j, int r)
{
	if (j->refusal != CAPTURE_NOT_REFUSED)
		return j->refusal;
	switch (r) {
	case -EDQUOT:
		return CAPTURE_BY_MEMORY;
	case -EOPNOTSUPP:
		return CAPTURE_BY_KIND;
	case -EAGAIN:
	case -EBUSY:
		return CAPTURE_BY_MOMENT;
	case -EPERM:
	case -EACCES:
		return CAPTURE_BY_RIGHT;
	}
	return CAPTURE_BY_OTHER;
}

uint64_t job_time_left(const struct job *j, uint64_t max_ns)
{
	uint64_t now = now_monotonic_ns();

	return now >= j->deadline_ns ? 0 : MIN(j->deadline_ns - now, max_ns);
}

void job_hurry(enum hurry hurry)
{
	(void)setpriority(PRIO_PROCESS, 0, (int)hurry);
}

void job_end_soon(const struct job *j)
{
	(void)setpriority(PRIO_PROCESS, (id_t)j->child, HURRY_STOP);
}

void job_progress(const struct job *j, const char *fmt, ...)
{
	struct capture_message m = {.protocol = CAPTURE_PROTOCOL, .kind = CAPTURE_PROGRESS};
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(m.text, sizeof(m.text), fmt, ap);
	va_end(ap);
	m.predicted_pause_ns = j->predicted_ns;
	m.tries = j->tries;
	m.duration_ns = now_monotonic_ns() - j->began_ns;
	/* progress is a courtesy: a daemon that does not read it must not hold up a stop */
	(void)!send(j->sock, &m, sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT);
}

const char *job_level(enum level level)
{
	static const char *const name[] = {"whole", "objects", "neighbourhood", "counts"};

	return name[level];
}

void job_truncate(struct job *j, enum level level, const char *fmt, ...)
{
	bool first = j->level == LEVEL_WHOLE;
	va_list ap;

	j->level = MAX(j->level, level);
	if (!first)
		return;
	va_start(ap, fmt);
	vsnprintf(j->truncated_why, sizeof(j->truncated_why), fmt, ap);
	va_end(ap);
}
