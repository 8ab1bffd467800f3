/* SPDX-License-Identifier: MIT */
#include "daemon/record/record.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/util/log.h"
#include "daemon/util/macros.h"
#include "daemon/util/u64map.h"

#define LINE (4 * RECORD_TEXT)

/* One type of one target: its last point, to which the next is the difference. */
struct type {
	uint64_t key;
	struct track_point last;
	bool there; /* it had a point in the last sample */
	bool judged;
	uint64_t sample; /* the last one it had a point in */
};

struct target {
	struct u64map by_key; /* key -> index in types, and one */
	struct type *types;
	size_t n_types, cap_types;
	uint64_t samples;
	bool gauged; /* there have been gauges, these */
	struct track_gauges gauges;
	bool gone;
};

struct targets {
	struct target *v; /* number n at n - 1 */
	unsigned n;
	size_t n_types;
};

static void target_release(struct target *t)
{
	u64map_release(&t->by_key);
	free(t->types);
	*t = (struct target){.gone = true};
}

static void targets_release(struct targets *ts)
{
	for (unsigned i = 0; i < ts->n; i++)
		target_release(&ts->v[i]);
	free(ts->v);
}

static struct target *targets_add(struct targets *ts)
{
	struct target *v = ts->n < RECORD_TARGETS ? reallocarray(ts->v, ts->n + 1, sizeof(*v)) : NULL;

	if (!v)
		return NULL;
	ts->v = v;
	v[ts->n] = (struct target){.gone = false};
	return &v[ts->n++];
}

static struct target *targets_get(struct targets *ts, uint64_t number)
{
	return number && number <= ts->n && !ts->v[number - 1].gone ? &ts->v[number - 1] : NULL;
}

static struct type *type_get(struct target *t, uint64_t key)
{
	uint64_t *i = u64map_get(&t->by_key, key);

	return i ? &t->types[*i - 1] : NULL;
}

static struct type *type_add(struct targets *ts, struct target *t, uint64_t key)
{
	if (!key || ts->n_types >= RECORD_TYPES)
		return NULL;
	if (t->n_types == t->cap_types) {
		size_t cap = MAX(2 * t->cap_types, 64);
		struct type *v = reallocarray(t->types, cap, sizeof(*v));

		if (!v)
			return NULL;
		t->types = v;
		t->cap_types = cap;
	}
	if (u64map_put(&t->by_key, key, t->n_types + 1))
		return NULL;
	t->types[t->n_types] = (struct type){.key = key};
	ts->n_types++;
	return &t->types[t->n_types++];
}

/* ---- writing ------------------------------------------------------------------------------- */

struct record_writer {
	FILE *f;
	char *path;
	int64_t bytes;
	bool ended;
	struct targets targets;
};

int record_create(const char *path, struct record_writer **ret, struct err *err)
{
	struct record_writer *w = calloc(1, sizeof(*w));
	int fd, r;

	if (!w)
		return err_set(err, -ENOMEM, "out of memory");
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	r = -errno;
	if (fd >= 0)
		w->f = fdopen(fd, "w");
	w->path = strdup(path);
	if (fd < 0 || !w->f || !w->path) {
		if (fd >= 0 && !w->f)
			close(fd);
		record_close(w);
		return fd < 0 ? err_set(err, r, "--record %s: %s%s", path, strerror(-r),
					r == -EEXIST ? "; recordings are not written over, give another name" : "")
			      : err_set(err, -ENOMEM, "out of memory");
	}
	w->bytes = fprintf(w->f, RECORD_MAGIC "\n");
	*ret = w;
	return 0;
}

void record_close(struct record_writer *w)
{
	if (!w)
		return;
	fclosep(&w->f);
	targets_release(&w->targets);
	free(w->path);
	free(w);
}

static _printf_(2, 3) void line(struct record_writer *w, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (w->ended)
		return;
	va_start(ap, fmt);
	n = vfprintf(w->f, fmt, ap);
	va_end(ap);
	w->bytes += MAX(n, 0);
	if (n >= 0 && w->bytes <= RECORD_MAX)
		return;
	w->ended = true;
	if (n < 0)
		log_warning("%s: the recording ends here: %s", w->path, strerror(errno));
	else
		log_warning("%s: the recording ends here, it has become 1 GiB", w->path);
}

/* Blanks, control characters and % as %xx: a name is one word. */
static const char *word(char buf[LINE], const char *s)
{
	char *to = buf;

	if (!*s)
		return "%";
	for (size_t i = 0; i < RECORD_TEXT - 1 && s[i]; i++) {
		unsigned char c = (unsigned char)s[i];

		to += c <= ' ' || c == '%' || c == 0x7f ? sprintf(to, "%%%02x", c) : sprintf(to, "%c", c);
	}
	return buf;
}

void record_config(struct record_writer *w, const struct track_config *c)
{
	if (w)
		line(w, "C %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", c->interval_ms, c->warmup_ms,
			c->window_ms, c->min_objects);
}

unsigned record_target(struct record_writer *w, pid_t pid, int64_t start_ms, const char *service)
{
	char buf[LINE];

	if (!w || w->ended)
		return 0;
	if (!targets_add(&w->targets)) {
		log_warning("%s: pid %d is not recorded, there are too many targets", w->path, pid);
		return 0;
	}
	line(w, "T %u %d %" PRId64 " %s\n", w->targets.n, pid, start_ms, word(buf, service));
	return w->targets.n;
}

void record_target_gone(struct record_writer *w, unsigned target)
{
	struct target *t = w ? targets_get(&w->targets, target) : NULL;

	if (!t)
		return;
	line(w, "E %u\n", target);
	w->targets.n_types -= t->n_types;
	target_release(t);
}

void record_point(struct record_writer *w, unsigned target, uint64_t key, const char *name, bool judged,
	const struct track_point *p)
{
	struct target *t = w && !w->ended ? targets_get(&w->targets, target) : NULL;
	struct type *ty = t ? type_get(t, key) : NULL;
	char buf[LINE], level[32] = "-";
	uint64_t before;

	if (!t)
		return;
	if (!ty) {
		ty = type_add(&w->targets, t, key);
		if (!ty)
			return;
		line(w, "N %u %" PRIu64 " %s\n", target, key, word(buf, name));
	}
	if (judged && !ty->judged)
		line(w, "J %u %" PRIu64 "\n", target, key);
	ty->judged |= judged;
	ty->sample = t->samples;
	if (ty->there && ty->last.count == p->count && ty->last.births == p->births &&
		ty->last.deaths == p->deaths && ty->last.bound == p->bound)
		return;
	before = ty->last.count == TRACK_UNKNOWN ? 0 : (uint64_t)ty->last.count;
	if (p->count != TRACK_UNKNOWN)
		snprintf(level, sizeof(level), "%" PRId64, (int64_t)((uint64_t)p->count - before));
	line(w, "p %" PRIu64 " %s %" PRId64 " %" PRId64 " %" PRId64 "\n", key, level,
		(int64_t)(p->births - ty->last.births), (int64_t)(p->deaths - ty->last.deaths),
		MAX(p->bound, 0));
	ty->last = *p;
	ty->there = true;
}

void record_gauges(struct record_writer *w, unsigned target, const struct track_gauges *g)
{
	struct target *t = w && !w->ended ? targets_get(&w->targets, target) : NULL;
	bool same;

	if (!t)
		return;
	same = t->gauged && t->gauges.counted == g->counted;
	for (int i = 0; i < TRACK_GAUGES; i++)
		same &= t->gauges.value[i] == g->value[i];
	if (same)
		return;
	t->gauged = true;
	t->gauges = *g;
	line(w, "G %u %d", target, g->counted);
	for (int i = 0; i < TRACK_GAUGES; i++)
		line(w, g->value[i] < 0 ? " -" : " %" PRId64, g->value[i]);
	line(w, "\n");
}

void record_sample(struct record_writer *w, unsigned target, int64_t at_ms)
{
	struct target *t = w && !w->ended ? targets_get(&w->targets, target) : NULL;

	if (!t)
		return;
	for (size_t i = 0; i < t->n_types; i++) {
		struct type *ty = &t->types[i];

		if (ty->there && ty->sample != t->samples) {
			line(w, "x %" PRIu64 "\n", ty->key);
			ty->there = false;
		}
	}
	line(w, "S %u %" PRId64 "\n", target, at_ms);
	t->samples++;
	if (!w->ended && fflush(w->f)) {
		w->ended = true;
		log_warning("%s: the recording ends here: %s", w->path, strerror(errno));
	}
}

/* ---- reading ------------------------------------------------------------------------------- */

struct reader {
	const struct record_handler *h;
	struct targets targets;
	unsigned long n_line;
};

static int bad(const struct reader *r, struct err *err, const char *what)
{
	return err_set(err, -EBADMSG, "line %lu: %s", r->n_line, what);
}

/* The next word of a line, which it ends; NULL: there is none. */
static char *next(char **s)
{
	char *start = *s + strspn(*s, " "), *end = start + strcspn(start, " ");

	if (start == end)
		return NULL;
	*s = *end ? end + 1 : end;
	*end = 0;
	return start;
}

static bool number(char **s, bool sign, uint64_t *ret)
{
	char *w = next(s), *end;
	bool minus = w && *w == '-';

	if (!w || w[minus] < '0' || w[minus] > '9' || (minus && !sign))
		return false;
	errno = 0;
	*ret = sign ? (uint64_t)strtoll(w, &end, 10) : strtoull(w, &end, 10);
	return !errno && !*end;
}

static bool signed_number(char **s, int64_t *ret)
{
	uint64_t v;

	if (!number(s, true, &v))
		return false;
	*ret = (int64_t)v;
	return true;
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Undoes word() in place; NULL: it is none. */
static char *text(char **s)
{
	char *w = next(s), *to = w;

	if (!w)
		return NULL;
	if (!strcmp(w, "%")) {
		*w = 0;
		return w;
	}
	for (const char *from = w; *from; from++) {
		int high, low;

		if (*from != '%') {
			*to++ = *from;
			continue;
		}
		high = hex(from[1]);
		low = high < 0 ? -1 : hex(from[2]);
		if (low < 0 || !(high | low))
			return NULL;
		*to++ = (char)(high << 4 | low);
		from += 2;
	}
	*to = 0;
	return to - w < RECORD_TEXT ? w : NULL;
}

static int read_config(struct reader *r, char *s, struct err *err)
{
	struct track_config c;

	if (!number(&s, false, &c.interval_ms) || !number(&s, false, &c.warmup_ms) ||
		!number(&s, false, &c.window_ms) || !number(&s, false, &c.min_objects))
		return bad(r, err, "C needs four numbers");
	return r->h->config ? r->h->config(r->h->arg, &c) : 0;
}

static int read_target(struct reader *r, char *s, struct err *err)
{
	uint64_t n, pid;
	int64_t start;
	char *service;

	if (!number(&s, false, &n) || !number(&s, false, &pid) || pid > INT32_MAX ||
		!signed_number(&s, &start) || !(service = text(&s)))
		return bad(r, err, "T needs a number, a pid, a time and a service");
	if (n != r->targets.n + 1)
		return bad(r, err, "targets are numbered 1, 2, 3");
	if (!targets_add(&r->targets))
		return bad(r, err, "too many targets");
	return r->h->target ? r->h->target(r->h->arg, (unsigned)n, (pid_t)pid, start, service) : 0;
}

static int read_type(struct reader *r, char *s, bool judged, struct err *err)
{
	uint64_t n, key;
	struct target *t;
	char *name = NULL;

	if (!number(&s, false, &n) || !number(&s, false, &key) || (!judged && !(name = text(&s))))
		return bad(r, err, "N and J need a target, a key, and N a name");
	t = targets_get(&r->targets, n);
	if (!t)
		return bad(r, err, "no such target");
	if (judged) {
		if (!type_get(t, key))
			return bad(r, err, "no such type");
		return r->h->judged ? r->h->judged(r->h->arg, (unsigned)n, key) : 0;
	}
	if (type_get(t, key) || !type_add(&r->targets, t, key))
		return bad(r, err, "this type is there already, or there are too many");
	return r->h->type ? r->h->type(r->h->arg, (unsigned)n, key, name) : 0;
}

/* p and x come before the S that says whose they are: they are kept until then. */
struct pending {
	uint64_t key;
	bool known, away;
	int64_t level, births, deaths, bound;
};

static int read_pending(struct reader *r, char *s, bool away, struct pending *p, struct err *err)
{
	char *level;

	*p = (struct pending){.away = away};
	if (!number(&s, false, &p->key))
		return bad(r, err, "p and x need a key");
	if (away)
		return 0;
	s += strspn(s, " ");
	p->known = s[0] != '-' || (s[1] >= '0' && s[1] <= '9');
	level = s;
	if (p->known ? !signed_number(&s, &p->level) : !(level = next(&s)) || level[1])
		return bad(r, err, "p needs a level or -");
	if (!signed_number(&s, &p->births) || !signed_number(&s, &p->deaths) || !signed_number(&s, &p->bound))
		return bad(r, err, "p needs births, deaths and a bound");
	return 0;
}

static int read_gauges(struct reader *r, char *s, struct err *err)
{
	struct track_gauges g = {.value = {0}};
	uint64_t n, counted, v;
	struct target *t;

	if (!number(&s, false, &n) || !number(&s, false, &counted) || counted > 1)
		return bad(r, err, "G needs a target and 0 or 1");
	for (int i = 0; i < TRACK_GAUGES; i++) {
		s += strspn(s, " ");
		if (s[0] == '-' && (s[1] == ' ' || !s[1])) {
			next(&s);
			g.value[i] = -1;
		} else if (number(&s, false, &v) && v <= INT64_MAX) {
			g.value[i] = (int64_t)v;
		} else {
			return bad(r, err, "G needs the numbers of threads and of open files, or -");
		}
	}
	t = targets_get(&r->targets, n);
	if (!t)
		return bad(r, err, "no such target");
	g.counted = counted;
	t->gauges = g;
	t->gauged = true;
	return 0;
}

static int read_sample(struct reader *r, char *s, const struct pending *p, size_t n_pending, struct err *err)
{
	uint64_t n;
	int64_t at;
	struct target *t;
	int rc = 0;

	if (!number(&s, false, &n) || !signed_number(&s, &at))
		return bad(r, err, "S needs a target and a time");
	t = targets_get(&r->targets, n);
	if (!t)
		return bad(r, err, "no such target");
	for (size_t i = 0; i < n_pending; i++) {
		struct type *ty = type_get(t, p[i].key);

		if (!ty)
			return bad(r, err, "a point of no such type");
		ty->there = !p[i].away;
		if (p[i].away)
			continue;
		if (p[i].known)
			ty->last.count = (int64_t)((ty->last.count == TRACK_UNKNOWN ? 0 : (uint64_t)ty->last.count) +
						   (uint64_t)p[i].level);
		else
			ty->last.count = TRACK_UNKNOWN;
		ty->last.births += (uint64_t)p[i].births;
		ty->last.deaths += (uint64_t)p[i].deaths;
		ty->last.bound = MAX(p[i].bound, 0);
	}
	if (t->gauged && r->h->gauges)
		rc = r->h->gauges(r->h->arg, (unsigned)n, at, &t->gauges);
	for (size_t i = 0; i < t->n_types && !rc && r->h->point; i++) {
		struct track_point q = t->types[i].last;

		q.at_ms = at;
		if (t->types[i].there)
			rc = r->h->point(r->h->arg, (unsigned)n, t->types[i].key, &q);
	}
	return rc || !r->h->sample ? rc : r->h->sample(r->h->arg, (unsigned)n, at);
}

static int read_gone(struct reader *r, char *s, struct err *err)
{
	uint64_t n;
	struct target *t;

	if (!number(&s, false, &n))
		return bad(r, err, "E needs a target");
	t = targets_get(&r->targets, n);
	if (!t)
		return bad(r, err, "no such target");
	r->targets.n_types -= t->n_types;
	target_release(t);
	return r->h->gone ? r->h->gone(r->h->arg, (unsigned)n) : 0;
}

int record_read(FILE *f, const struct record_handler *h, struct err *err)
{
	_cleanup_free_ struct pending *pending = NULL;
	size_t n_pending = 0, cap_pending = 0;
	struct reader r = {.h = h};
	char buf[LINE];
	int rc = 0;

	while (!rc && fgets(buf, sizeof(buf), f)) {
		size_t n = strlen(buf);
		char *s = buf + 1;

		r.n_line++;
		if (!n || buf[n - 1] != '\n') {
			rc = bad(&r, err, "the line is not whole");
			break;
		}
		buf[n - 1] = 0;
		if (r.n_line == 1) {
			if (strcmp(buf, RECORD_MAGIC))
				rc = bad(&r, err, "no recording of this version: it does not begin \"" RECORD_MAGIC "\"");
			continue;
		}
		switch (buf[0]) {
		case 'C':
			rc = read_config(&r, s, err);
			break;
		case 'T':
			rc = read_target(&r, s, err);
			break;
		case 'N':
		case 'J':
			rc = read_type(&r, s, buf[0] == 'J', err);
			break;
		case 'p':
		case 'x':
			if (n_pending == RECORD_TYPES) {
				rc = bad(&r, err, "too many points in one sample");
				break;
			}
			if (n_pending == cap_pending) {
				size_t cap = MAX(2 * cap_pending, 256);
				struct pending *v = reallocarray(pending, cap, sizeof(*v));

				if (!v) {
					rc = err_set(err, -ENOMEM, "out of memory");
					break;
				}
				pending = v;
				cap_pending = cap;
			}
			rc = read_pending(&r, s, buf[0] == 'x', &pending[n_pending++], err);
			break;
		case 'G':
			rc = read_gauges(&r, s, err);
			break;
		case 'S':
			rc = read_sample(&r, s, pending, n_pending, err);
			n_pending = 0;
			break;
		case 'E':
			rc = read_gone(&r, s, err);
			break;
		case '#':
			break;
		default:
			rc = bad(&r, err, "it begins with none of C T N J G p x S E #");
		}
	}
	if (!rc && ferror(f))
		rc = err_set(err, -EIO, "it cannot be read");
	else if (!rc && !r.n_line)
		rc = bad(&r, err, "the file is empty");
	targets_release(&r.targets);
	return rc;
}
