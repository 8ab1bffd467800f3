/* SPDX-License-Identifier: MIT */
#include "daemon/watch/watch.h"

#include <fnmatch.h>
#include <string.h>

#include "daemon/util/cgroup.h"
#include "daemon/util/log.h"
#include "daemon/util/units.h"
#include "daemon/watch/suspects.h"
#include "pyleak/control.h"

#define SCAN_US     2000000ULL
#define SCAN_DISPATCH_NS 20000000ULL /* of a scan at a time */
#define EXPIRE_US   3600000000ULL
#define PROBE_FIRST -10 /* priority: what is attached to a target until it is looked at costs it */
#define RETRY_MS    10000 /* a Python that is still starting up, or that could not be attached */
#define FIRST_LOOKS 3
#define LOOK_AGAIN  8 /* a known pid is looked at again every so many scans: it may have changed */
#define NOTES_MAX   1024

/* A dump that a trigger wanted and did not get is tried again so much later: one that was refused, which costs
 * its target next to nothing, and one that failed. */
#define REFUSED_RETRY_MS (10 * 60 * 1000LL)
#define FAILED_RETRY_MS  (60 * 60 * 1000LL)

/* Of one CPU, for all targets together while they are few. Of many there is more to do beside these:
 * with TARGETS_MANY it is half as much, so that all that the daemon does stays below half a percent. */
#define READINGS_SHARE 0.0025
#define WALKS_SHARE    0.001
#define WINDOWS_SHARE  0.0025
#define TARGETS_MANY   50

/* What was found out about a pid that is not a target, so that a scan costs next to nothing. */
enum seen_kind {
	SEEN_NOT_PYTHON,
	SEEN_NO_RULE,
	SEEN_RETRY,   /* may work later */
	SEEN_REFUSED, /* a Python that cannot be watched */
};
struct seen {
	pid_t pid;
	uint64_t start_ticks;
	enum seen_kind kind;
	int64_t at_ms;
	bool found; /* by the scan under way */
	unsigned looks;
	char reason[256];
};

/* What was asked for of one process, by --pid or at run time. */
struct wish {
	struct proc_id id;
	bool watch;
	const char *by;
};

struct note {
	uint64_t start_ticks;
	pid_t pid;
	char type[TYPE_NAME_MAX];
	char dump[DUMP_ID_MAX];
};

/* Firings that wait for what comes of their dump. */
struct asked {
	struct watch *w;
	struct asked *next;
	pid_t pid;
	size_t n;
	struct trigger_record v[];
};

struct watch {
	struct watch_options o;
	struct asked *asked;
	struct target **targets;
	size_t n_targets, cap_targets;
	struct seen *seen;
	size_t n_seen, cap_seen;
	unsigned scans;
	struct note *notes;
	size_t n_notes;
	struct { /* the scan under way: what it has still to look at */
		pid_t *pids;
		size_t n, next;
	} round;
	struct trigger_engine *triggers;
	struct reader *reader;
	struct target_turns turns;
	sd_event_source *scan, *probe_source, *children, *expire;
	struct wish *wishes; /* none twice of a process */
	size_t n_wishes, cap_wishes;
	bool paused;
	bool children_logged;
	bool pids_given;
	bool full_logged;
};

/* ---- rules --------------------------------------------------------------------------------- */

static bool glob_fits(const char *glob, const char *s)
{
	return !glob || fnmatch(glob, s, 0) == 0;
}

static bool rule_fits(const struct config_rule *r, const struct proc_info *p)
{
	return glob_fits(r->comm, p->comm) && glob_fits(r->exe, p->exe) &&
	       glob_fits(r->cmdline, p->cmdline) && glob_fits(r->user, p->user) &&
	       glob_fits(r->unit, p->unit);
}

static bool same_process(const struct proc_id *a, const struct proc_id *b)
{
	return a->pid == b->pid && a->start_ticks == b->start_ticks;
}

static struct wish *wish_of(const struct watch *w, const struct proc_id *id)
{
	for (size_t i = 0; i < w->n_wishes; i++)
		if (same_process(&w->wishes[i].id, id))
			return &w->wishes[i];
	return NULL;
}

static bool is_there(const struct proc_id *id)
{
	struct proc_id now;

	return !proc_id_get(id->pid, &now) && same_process(&now, id);
}

/* In place of an earlier one, else behind all others. Those of processes that are gone make room. */
static int wish_set(struct watch *w, const struct proc_id *id, bool watch, const char *by)
{
	struct wish *x = wish_of(w, id);

	if (!x && w->n_wishes == w->cap_wishes) {
		size_t n = 0;

		for (size_t i = 0; i < w->n_wishes; i++)
			if (is_there(&w->wishes[i].id))
				w->wishes[n++] = w->wishes[i];
		w->n_wishes = n;
		w->cap_wishes = 2 * n + 8;
		x = reallocarray(w->wishes, w->cap_wishes, sizeof(*x));
		if (!x) {
			w->cap_wishes = n;
			return -ENOMEM;
		}
		w->wishes = x;
		x = NULL;
	}
	if (!x)
		x = &w->wishes[w->n_wishes++];
	*x = (struct wish){*id, watch, by};
	return 0;
}

/* Whether the rules want this process, and which one says so. */
static bool rules_want(const struct watch *w, const struct proc_info *p, char *rule, size_t n)
{
	const struct config *c = w->o.config;
	const struct wish *wish = wish_of(w, &p->id);

	if (wish) {
		snprintf(rule, n, "%s", wish->by);
		return wish->watch;
	}
	if (!w->o.use_rules) {
		snprintf(rule, n, "only the processes given with --pid are watched");
		return false;
	}
	if (p->opted_out) {
		snprintf(rule, n, "PYLEAK=off in its environment");
		return false;
	}
	if (!c->rules_given || !c->n_rules) {
		snprintf(rule, n, "no rules: every Python is watched");
		return true;
	}
	for (size_t i = 0; i < c->n_rules; i++)
		if (rule_fits(&c->rules[i], p)) {
			snprintf(rule, n, "targets[%zu]: watch: %s", i,
				c->rules[i].watch ? "true" : "false");
			return c->rules[i].watch;
		}
	snprintf(rule, n, "none of the %zu rules in targets fits", c->n_rules);
	return false;
}

/* ---- targets ------------------------------------------------------------------------------- */

struct target *watch_target(const struct watch *w, pid_t pid)
{
	for (size_t i = 0; i < w->n_targets; i++)
		if (target_info(w->targets[i])->id.pid == pid)
			return w->targets[i];
	return NULL;
}

size_t watch_target_count(const struct watch *w)
{
	return w->n_targets;
}

struct target *watch_target_at(const struct watch *w, size_t i)
{
	return i < w->n_targets ? w->targets[i] : NULL;
}

const struct watch_options *watch_get_options(const struct watch *w)
{
	return &w->o;
}

/* No dump came of them, so that they shall not hold back the next one for hours. */
static void release_firings(struct watch *w, const struct asked *a, int64_t retry_ms)
{
	struct err err = {{0}};

	for (size_t i = 0; i < a->n; i++) {
		trigger_engine_release(w->triggers, &a->v[i], a->pid, retry_ms);
		if (store_firing_remove(w->o.store, &a->v[i], &err))
			log_warning("a firing of %s without a dump is kept: %s", a->v[i].trigger, err.msg);
	}
}

/* The target may be gone: then there is nothing to try again. dump.c has logged it. */
static void on_dump_done(void *userdata, const struct dump_outcome *o)
{
	struct asked *a = userdata, **at = &a->w->asked;

	if (o->exit_code == EXIT_REFUSED)
		release_firings(a->w, a, REFUSED_RETRY_MS);
	else if (o->exit_code == EXIT_BROKEN)
		release_firings(a->w, a, FAILED_RETRY_MS);
	while (*at != a)
		at = &(*at)->next;
	*at = a->next;
	free(a);
}

/* Takes *asked over if there will be an outcome. */
static void start_dump(struct watch *w, struct target *t, const struct trigger_firing *f, size_t n,
	struct asked **asked)
{
	const struct proc_info *p = target_info(t);
	const char *types[DUMP_TYPES_MAX];
	struct dump_request r = {.id = p->id, .uid = p->uid, .on_done = on_dump_done, .userdata = *asked};
	_cleanup_free_ struct suspect *suspects = NULL;
	_cleanup_(json_decrefp) json_t *growth = NULL;
	size_t n_suspects = 0;
	char id[DUMP_ID_MAX];
	struct err err = {{0}};

	for (size_t i = 0; i < n; i++) {
		if (!(f[i].actions & ACTION_DUMP))
			continue;
		if (!r.trigger[0])
			snprintf(r.trigger, sizeof(r.trigger), "%s", f[i].kind);
	}
	/* Types of modules before built-in ones (no dot), which mostly grow because those hold them. */
	for (int builtin = 0; builtin < 2; builtin++)
		for (size_t i = 0; i < n; i++)
			if (f[i].actions & ACTION_DUMP && f[i].type[0] &&
				r.n_types < DUMP_TYPES_MAX &&
				(strchr(f[i].type, '.') == NULL) == builtin)
				types[r.n_types++] = f[i].type;
	if (suspects_of(t, &suspects, &n_suspects))
		return;
	/* A condition without a type (RSS): explain what is suspect, if anything is. */
	for (size_t i = 0, all = r.n_types ? 0 : n_suspects; i < all && r.n_types < DUMP_TYPES_MAX;
		i++)
		if (suspects[i].tell && suspects[i].verdict->kind == TRACK_LEAK)
			types[r.n_types++] = suspects[i].ty->info.name;
	for (size_t i = 0; i < r.n_types; i++)
		r.grown[i] = suspects_grown(t, suspects, n_suspects, types[i]);
	r.types = types;
	r.growth = growth = suspects_growth(t, types, r.n_types);
	snprintf(r.comm, sizeof(r.comm), "%s", p->comm);
	if (dump_start(w->o.dumps, &r, id, &err)) {
		log_warning("pid %d: no dump: %s", p->id.pid, err.msg);
		return;
	}
	(*asked)->next = w->asked;
	w->asked = *asked;
	*asked = NULL;
	for (size_t i = 0; i < r.n_types; i++)
		watch_note_dump(w, t, types[i], id);
}

/* Writes the firings down and does what they ask for. */
static void act(struct watch *w, struct target *t, const struct trigger_firing *f, size_t n)
{
	const struct proc_info *p = target_info(t);
	_cleanup_free_ struct asked *a = calloc(1, sizeof(*a) + n * sizeof(a->v[0]));
	struct err err = {{0}};

	if (!a) {
		log_warning("pid %d: what %s asks for is not done: out of memory", p->id.pid, f[0].trigger);
		return;
	}
	a->w = w;
	a->pid = p->id.pid;
	for (size_t i = 0; i < n; i++) {
		struct trigger_record rec = {.at_ms = f[i].at_ms};

		log_notice("pid %d (%s): trigger %s: %s", p->id.pid, p->comm, f[i].trigger, f[i].reason);
		snprintf(rec.service, sizeof(rec.service), "%s", target_service(t));
		snprintf(rec.trigger, sizeof(rec.trigger), "%s", f[i].trigger);
		snprintf(rec.type, sizeof(rec.type), "%s", f[i].type);
		if (store_firing_add(w->o.store, &rec, &err))
			log_warning("the firing of %s is not kept: %s", rec.trigger, err.msg);
		if (f[i].actions & ACTION_DUMP)
			a->v[a->n++] = rec;
	}
	if (!a->n)
		return;
	start_dump(w, t, f, n, &a);
	if (a)
		release_firings(w, a, REFUSED_RETRY_MS);
}

/* Used share of the tightest memory limit, inactive file cache counted as free; -1: no limit. */
static double memory_share(pid_t pid)
{
	struct memory_room group, host;
	struct cgroup g;

	cgroup_find(pid, "memory", &g);
	cgroup_memory_room(&g, &group, &host);
	if (!group.limit_bytes)
		return -1;
	return 1 - (double)group.free_bytes / (double)group.limit_bytes;
}

/* Of a type that leads: a companion raises no alert and no dump of its own. */
static int verdict_of(const struct target_type *ty, const struct suspect *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].ty == ty)
			return v[i].tell ? (int)v[i].verdict->kind : TRACK_NONE;
	return TRACK_NONE;
}

static void on_sample(struct target *t, void *userdata)
{
	struct watch *w = userdata;
	const struct proc_info *p = target_info(t);
	_cleanup_free_ struct trigger_type_state *states = NULL;
	_cleanup_free_ struct trigger_firing *firings = NULL;
	struct trigger_observation o = {
		.pid = p->id.pid,
		.at_ms = target_looked_ms(t),
		.rss_bytes = target_rss_bytes(t),
	};
	_cleanup_free_ struct suspect *suspects = NULL;
	size_t n = 0, n_suspects = 0;
	double objects = 0;

	if (!w->o.config->n_triggers || suspects_of(t, &suspects, &n_suspects))
		return;
	o.service = target_service(t);
	o.cgroup_share = memory_share(p->id.pid);
	states = calloc(target_type_count(t) + 1, sizeof(*states));
	if (!states)
		return;
	for (size_t i = 0; i < target_type_count(t); i++) {
		const struct target_type *ty = target_type_at(t, i);
		struct track_growth g;
		int64_t bound = 0;

		if (!ty->track)
			continue;
		states[o.n_types] = (struct trigger_type_state){
			.type = ty->info.name,
			.count = target_type_level(t, ty, &bound),
			.verdict = verdict_of(ty, suspects, n_suspects),
		};
		if (states[o.n_types].count > 0)
			objects += (double)states[o.n_types].count;
		if (track_type_moved(ty->track) &&
			track_type_growth(ty->track, o.at_ms - target_window_ms(t), &g) && g.delta > bound)
			states[o.n_types].rate_per_hour = g.rate_per_hour;
		o.n_types++;
	}
	for (size_t i = 0; i < o.n_types; i++)
		states[i].share = states[i].count > 0 && objects > 0 ? (double)states[i].count / objects : -1;
	o.types = states;
	if (trigger_engine_observe(w->triggers, &o, &firings, &n) || !n)
		return;
	act(w, t, firings, n);
}

static void share_turns(struct watch *w)
{
	double part = (double)TARGETS_MANY / (double)(TARGETS_MANY + w->n_targets);

	w->turns.readings.share = READINGS_SHARE * part;
	w->turns.walks.share = WALKS_SHARE * part;
	w->turns.windows.share = WINDOWS_SHARE * part;
}

static void end_target(struct watch *w, struct target *t, const char *why)
{
	const struct proc_info *p = target_info(t);

	log_info("pid %d (%s): no longer watched: %s", p->id.pid, p->comm, why);
	trigger_engine_forget(w->triggers, target_service(t), p->id.pid);
	for (size_t i = 0; i < w->n_targets; i++)
		if (w->targets[i] == t)
			w->targets[i] = w->targets[--w->n_targets];
	target_free(t);
	share_turns(w);
}

static struct seen *seen_find(struct watch *w, pid_t pid)
{
	for (size_t i = 0; i < w->n_seen; i++)
		if (w->seen[i].pid == pid)
			return &w->seen[i];
	return NULL;
}

static void scan_now(struct watch *w)
{
	free(TAKE_PTR(w->round.pids)); /* from the beginning */
	sd_event_source_set_time_relative(w->scan, 0);
	sd_event_source_set_enabled(w->scan, SD_EVENT_ONESHOT);
}

/* A process that was let go of by hand may be taken up again. */
static bool detached_are_there(const struct watch *w)
{
	for (size_t i = 0; i < w->n_wishes; i++)
		if (!w->wishes[i].watch && is_there(&w->wishes[i].id))
			return true;
	return false;
}

static void on_gone(struct target *t, const char *why, void *userdata)
{
	struct watch *w = userdata;

	end_target(w, t, why);
	if (!w->n_targets && w->pids_given && !w->o.use_rules && !detached_are_there(w)) {
		log_info("the last --pid target is gone");
		sd_event_exit(w->o.event, 0);
	} else {
		scan_now(w); /* it may have become another Python */
	}
}

static int open_target(struct watch *w, pid_t pid, struct err *err)
{
	struct target_options o = {
		.config = w->o.config,
		.probe = w->o.probe,
		.reader = w->reader,
		.turns = &w->turns,
		.record = w->o.record,
		.store = w->o.store,
		.event = w->o.event,
		.userdata = w,
		.on_sample = on_sample,
		.on_gone = on_gone,
	};
	struct target *t;
	char what[512];
	int r;

	if (w->n_targets == w->cap_targets) {
		size_t cap = w->cap_targets ? 2 * w->cap_targets : 16;
		struct target **v = reallocarray(w->targets, cap, sizeof(*v));

		if (!v)
			return err_set(err, -ENOMEM, "out of memory");
		w->targets = v;
		w->cap_targets = cap;
	}
	r = target_open(pid, &o, &t, err);
	if (r)
		return r;
	w->targets[w->n_targets++] = t;
	share_turns(w);
	log_info("pid %d (%s): %s; %s", pid, target_info(t)->comm,
		python_describe(target_python(t), what, sizeof(what)), target_sites(t));
	return 0;
}

/* ---- scanning ------------------------------------------------------------------------------ */

static void look_at(struct watch *w, pid_t pid, struct seen *s)
{
	struct proc_info p;
	struct err err = {{0}};
	char rule[128];
	int r;

	s->looks++;
	s->reason[0] = 0;
	s->at_ms = now_realtime_ms();
	if (!python_looks_like(pid)) {
		s->kind = SEEN_NOT_PYTHON;
		return;
	}
	if (proc_info_get(pid, &p, &err)) {
		s->kind = SEEN_RETRY;
		return;
	}
	s->start_ticks = p.id.start_ticks;
	if (!rules_want(w, &p, rule, sizeof(rule))) {
		s->kind = SEEN_NO_RULE;
		return;
	}
	r = open_target(w, pid, &err);
	if (!r) {
		s->pid = 0; /* a target now */
		return;
	}
	if (r == -EUSERS && !w->full_logged) {
		log_warning("%s", err.msg);
		w->full_logged = true;
	}
	s->kind = r == -EAGAIN || r == -ESRCH || r == -EUSERS ? SEEN_RETRY : SEEN_REFUSED;
	if (r == -ENOEXEC)
		s->kind = SEEN_NOT_PYTHON;
	snprintf(s->reason, sizeof(s->reason), "%.255s", err.msg);
	if (s->kind == SEEN_REFUSED)
		log_info("not watched: %s", err.msg);
}

/* Whether what is known of it is worth another look. */
static bool look_again(const struct watch *w, const struct seen *s)
{
	struct proc_id id;

	/* Just after its exec a process has not mapped libpython yet. */
	if (s->looks < FIRST_LOOKS && s->kind == SEEN_NOT_PYTHON)
		return true;
	if (s->kind == SEEN_RETRY)
		return now_realtime_ms() - s->at_ms >= RETRY_MS;
	if ((w->scans + (unsigned)s->pid) % LOOK_AGAIN)
		return false;
	/* Told once; only another process is worth it. */
	return s->kind != SEEN_REFUSED || proc_id_get(s->pid, &id) || id.start_ticks != s->start_ticks;
}

static void scan_pid(struct watch *w, pid_t pid)
{
	struct seen *s;

	if (pid == getpid() || watch_target(w, pid))
		return;
	s = seen_find(w, pid);
	if (s) {
		s->found = true;
		if (look_again(w, s))
			look_at(w, pid, s);
		return;
	}
	if (w->n_seen == w->cap_seen) {
		size_t cap = w->cap_seen ? 2 * w->cap_seen : 256;
		struct seen *v = reallocarray(w->seen, cap, sizeof(*v));

		if (!v)
			return;
		w->seen = v;
		w->cap_seen = cap;
	}
	s = &w->seen[w->n_seen++];
	*s = (struct seen){.pid = pid, .found = true};
	look_at(w, pid, s);
}

static void scan_ended(struct watch *w)
{
	free(TAKE_PTR(w->round.pids));
	for (size_t i = 0; i < w->n_seen;) {
		if (!w->seen[i].found || !w->seen[i].pid)
			w->seen[i] = w->seen[--w->n_seen];
		else
			i++;
	}
}

/* To attach to a process takes tens of milliseconds: where there are many new ones, the targets have their turn
 * in between. */
static int on_scan(sd_event_source *src, uint64_t usec, void *userdata)
{
	uint64_t began = now_monotonic_ns();
	struct watch *w = userdata;

	sd_event_source_set_time_relative(src, SCAN_US);
	sd_event_source_set_enabled(src, SD_EVENT_ONESHOT);
	if (w->paused)
		return 0;
	if (!w->round.pids) {
		w->round.next = 0;
		if (proc_list(65536, &w->round.pids, &w->round.n))
			return 0;
		w->scans++;
		for (size_t i = 0; i < w->n_seen; i++)
			w->seen[i].found = false;
	}
	while (w->round.next < w->round.n && now_monotonic_ns() - began < SCAN_DISPATCH_NS)
		scan_pid(w, w->round.pids[w->round.next++]);
	if (w->round.next < w->round.n)
		sd_event_source_set_time_relative(src, 0);
	else
		scan_ended(w);
	return 0;
}

bool watch_why(struct watch *w, pid_t pid, char *rule, size_t n_rule, char *reason, size_t n_reason)
{
	struct target *t = watch_target(w, pid);
	struct python *py = NULL;
	struct proc_info p;
	struct err err = {{0}};
	struct seen *s;
	bool want;
	int r;

	if (proc_info_get(pid, &p, &err)) {
		snprintf(rule, n_rule, "-");
		snprintf(reason, n_reason, "%s", err.msg);
		return false;
	}
	want = rules_want(w, &p, rule, n_rule);
	if (w->paused) {
		snprintf(rule, n_rule, "pyleakctl pause");
		snprintf(reason, n_reason, "nothing is, until pyleakctl resume");
		return false;
	}
	if (t) {
		snprintf(reason, n_reason, "watched since it was found: %s", rule);
		return true;
	}
	r = python_open(pid, &py, &err);
	if (r) {
		snprintf(reason, n_reason, "%s", err.msg);
		return false;
	}
	python_free(py);
	s = seen_find(w, pid);
	if (!want)
		snprintf(reason, n_reason, "a Python, but not wanted: %s", rule);
	else if (s && s->reason[0])
		snprintf(reason, n_reason, "%s", s->reason);
	else
		snprintf(reason, n_reason,
			"will be watched from the next scan on, within two seconds");
	return want && !(s && s->reason[0]);
}

/* ---- run-time control ---------------------------------------------------------------------- */

int watch_attach(struct watch *w, pid_t pid, struct err *err)
{
	const struct wish *wish;
	struct proc_id id;
	int r;

	if (w->paused)
		return err_set(err, -EBUSY, "pid %d: everything is paused: pyleakctl resume", pid);
	if (proc_id_get(pid, &id))
		return err_set(err, -ESRCH, "pid %d: no such process", pid);
	if (pid == getpid())
		return err_set(err, -ENOEXEC, "pid %d is pyleakd itself", pid);
	if (!watch_target(w, pid)) {
		r = open_target(w, pid, err);
		if (r)
			return r;
	}
	wish = wish_of(w, &id);
	if (wish && wish->watch)
		return 0; /* by --pid, or once more */
	r = wish_set(w, &id, true, "pyleakctl attach");
	return r ? err_set(err, r, "out of memory") : 0;
}

int watch_detach(struct watch *w, pid_t pid, struct err *err)
{
	struct target *t = watch_target(w, pid);
	struct proc_id id;

	if (proc_id_get(pid, &id))
		return err_set(err, -ESRCH, "pid %d: no such process", pid);
	if (!t && !w->paused)
		return err_set(err, -ENOENT, "pid %d is not watched: pyleakctl why %d tells why", pid, pid);
	if (wish_set(w, &id, false, "pyleakctl detach"))
		return err_set(err, -ENOMEM, "out of memory");
	dump_cancel(w->o.dumps, pid, "the process is not watched any more: pyleakctl detach");
	if (t)
		end_target(w, t, "pyleakctl detach");
	return 0;
}

void watch_pause(struct watch *w)
{
	if (w->paused)
		return;
	log_notice("paused: %zu process%s let go of", w->n_targets, w->n_targets == 1 ? " is" : "es are");
	w->paused = true;
	free(TAKE_PTR(w->round.pids));
	dump_cancel(w->o.dumps, 0, "everything is paused: pyleakctl resume");
	while (w->n_targets)
		end_target(w, w->targets[w->n_targets - 1], "pyleakctl pause");
}

void watch_resume(struct watch *w)
{
	if (!w->paused)
		return;
	log_notice("resumed");
	w->paused = false;
	for (size_t i = 0; i < w->n_wishes; i++) {
		const struct wish *x = &w->wishes[i];
		struct err err = {{0}};

		if (x->watch && is_there(&x->id) && open_target(w, x->id.pid, &err))
			log_warning("not watched any more: %s", err.msg);
	}
	w->n_seen = 0; /* look at everything anew */
	if (w->o.use_rules)
		scan_now(w);
}

bool watch_paused(const struct watch *w)
{
	return w->paused;
}

/* ---- dumps remembered ---------------------------------------------------------------------- */

const char *watch_last_dump(const struct watch *w, const struct target *t, const char *type)
{
	const struct proc_id *id = &target_info(t)->id;
	struct store_dump d;
	struct err err = {{0}};

	for (size_t i = w->n_notes; i-- > 0;)
		if (w->notes[i].pid == id->pid && w->notes[i].start_ticks == id->start_ticks &&
			!strcmp(w->notes[i].type, type) &&
			!store_dump_get(w->o.store, w->notes[i].dump, &d, &err) &&
			(!strcmp(d.state, "running") || !strcmp(d.state, "done")))
			return w->notes[i].dump;
	return NULL;
}

void watch_note_dump(struct watch *w, const struct target *t, const char *type, const char *id)
{
	const struct proc_id *p = &target_info(t)->id;
	struct note *n;

	if (!w->notes) {
		w->notes = calloc(NOTES_MAX, sizeof(*w->notes));
		if (!w->notes)
			return;
	}
	if (w->n_notes == NOTES_MAX) {
		memmove(w->notes, w->notes + NOTES_MAX / 2, NOTES_MAX / 2 * sizeof(*w->notes));
		w->n_notes = NOTES_MAX / 2;
	}
	n = &w->notes[w->n_notes++];
	*n = (struct note){.pid = p->pid, .start_ticks = p->start_ticks};
	snprintf(n->type, sizeof(n->type), "%s", type);
	snprintf(n->dump, sizeof(n->dump), "%s", id);
}

/* ---- life ---------------------------------------------------------------------------------- */

static int on_probe(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	struct watch *w = userdata;

	probe_dispatch(w->o.probe);
	return 0;
}

static int on_children(sd_event_source *src, uint64_t usec, void *userdata)
{
	struct watch *w = userdata;
	int r = w->n_targets ? probe_clean_children(w->o.probe) : 0;

	if (r && !w->children_logged) {
		log_warning("breakpoints cannot be taken out of forked children, which will run "
			    "slower: "
			    "%s",
			strerror(-r));
		w->children_logged = true;
	}
	sd_event_source_set_time_relative(src, PROBE_CHILDREN_MS * 1000ULL);
	sd_event_source_set_enabled(src, SD_EVENT_ONESHOT);
	return 0;
}

/* Series of processes that ended while no daemon saw it. */
static int on_expire(sd_event_source *src, uint64_t usec, void *userdata)
{
	struct watch *w = userdata;
	int64_t history_ms = (int64_t)(w->o.config->storage_history_ns / 1000000);
	struct err err = {{0}};

	if (w->o.store && store_series_expire(w->o.store, now_realtime_ms() - history_ms, &err))
		log_warning("old series are kept: %s", err.msg);
	sd_event_source_set_time_relative(src, EXPIRE_US);
	sd_event_source_set_enabled(src, SD_EVENT_ONESHOT);
	return 0;
}

static void configure_dumps(struct watch *w)
{
	const struct config *c = w->o.config;
	struct dump_settings s = {
		.pause_ns = c->dump_pause_ns,
		.deadline_ns = c->dump_deadline_ns,
		.headroom = c->dump_headroom,
		.keys = c->dump_keys,
		.storage_bytes = c->storage_dumps_bytes,
	};

	dump_manager_configure(w->o.dumps, &s);
}

/* A new engine, with what has fired before. */
static int new_triggers(struct watch *w, const struct config *c, struct trigger_engine **ret)
{
	_cleanup_free_ struct trigger_record *recs = NULL;
	struct trigger_engine *e;
	int64_t longest = 24 * 3600 * 1000LL;
	struct err err = {{0}};
	size_t n = 0;
	int r;

	r = trigger_engine_new(c, &e);
	if (r)
		return r;
	for (size_t i = 0; i < c->n_triggers; i++)
		longest = MAX(longest, (int64_t)(c->triggers[i].cooldown_ns / 1000000));
	if (store_firing_list(w->o.store, now_realtime_ms() - longest, &recs, &n, &err))
		log_warning("what the triggers did before is not known: %s", err.msg);
	for (size_t i = 0; i < n; i++)
		trigger_engine_import(e, &recs[i]);
	*ret = e;
	return 0;
}

int watch_exit_code(int r)
{
	switch (r) {
	case -ESRCH:
	case -ENOEXEC:
	case -EAGAIN:
	case -EOPNOTSUPP:
	case -EPROTO:
		return EXIT_NO;
	case -EPERM:
	case -EACCES:
		return EXIT_REFUSED;
	default:
		return EXIT_BROKEN;
	}
}

int watch_new(const struct watch_options *o, struct watch **ret, struct err *err)
{
	struct watch *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return err_set(err, -ENOMEM, "out of memory");
	w->o = *o;
	w->pids_given = o->n_pids > 0;
	for (size_t i = 0; i < o->n_pids; i++) {
		struct proc_id id;

		if (proc_id_get(o->pids[i], &id))
			continue; /* open_target() says so */
		r = wish_set(w, &id, true, "--pid");
		if (r) {
			err_set(err, r, "out of memory");
			goto fail;
		}
	}
	r = new_triggers(w, o->config, &w->triggers);
	if (r) {
		err_set(err, r, "out of memory");
		goto fail;
	}
	configure_dumps(w);
	share_turns(w);
	r = reader_new(o->event, &w->reader);
	if (r >= 0)
		r = sd_event_add_io(o->event, &w->probe_source, probe_fd(o->probe), EPOLLIN, on_probe, w);
	if (r >= 0)
		r = sd_event_source_set_priority(w->probe_source, SD_EVENT_PRIORITY_NORMAL + PROBE_FIRST);
	if (r >= 0)
		r = sd_event_add_time_relative(
			o->event, &w->scan, CLOCK_MONOTONIC, 0, 5000, on_scan, w);
	if (r >= 0)
		r = sd_event_add_time_relative(
			o->event, &w->children, CLOCK_MONOTONIC, 0, 50000, on_children, w);
	if (r >= 0)
		r = sd_event_add_time_relative(
			o->event, &w->expire, CLOCK_MONOTONIC, 0, 1000000, on_expire, w);
	if (r >= 0 && !o->use_rules)
		r = sd_event_source_set_enabled(w->scan, SD_EVENT_OFF);
	if (r < 0) {
		err_set(err, r, "event loop: %s", strerror(-r));
		goto fail;
	}
	for (size_t i = 0; i < o->n_pids; i++) {
		r = open_target(w, o->pids[i], err);
		if (r)
			goto fail;
	}
	*ret = w;
	return 0;
fail:
	watch_free(w);
	return r;
}

void watch_free(struct watch *w)
{
	if (!w)
		return;
	probe_detach_all(w->o.probe); /* all at once is faster than one after the other */
	sd_event_source_disable_unref(w->scan);
	sd_event_source_disable_unref(w->children);
	sd_event_source_disable_unref(w->expire);
	sd_event_source_disable_unref(w->probe_source);
	for (size_t i = 0; i < w->n_targets; i++)
		target_free(w->targets[i]);
	free(w->targets);
	reader_free(w->reader);
	free(w->seen);
	free(w->round.pids);
	free(w->wishes);
	free(w->notes);
	trigger_engine_free(w->triggers);
	free(w);
}

int watch_configure(struct watch *w, const struct config *c, struct err *err)
{
	struct trigger_engine *e;
	int r;

	r = new_triggers(w, c, &e);
	if (r)
		return err_set(err, r, "out of memory");
	if (trigger_engine_take_over(e, w->triggers))
		log_warning("what the triggers did before is not known any more: out of memory");
	trigger_engine_free(w->triggers);
	w->triggers = e;
	w->o.config = c;
	configure_dumps(w);
	for (size_t i = 0; i < w->n_targets;) {
		struct target *t = w->targets[i];
		char rule[128];

		if (!rules_want(w, target_info(t), rule, sizeof(rule))) {
			end_target(w, t, rule);
			continue;
		}
		target_configure(t, c);
		i++;
	}
	w->n_seen = 0; /* look at everything anew */
	if (w->o.use_rules)
		scan_now(w);
	return 0;
}
