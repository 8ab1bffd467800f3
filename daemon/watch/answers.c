/* SPDX-License-Identifier: MIT */
#include "daemon/watch/answers.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <string.h>

#include "daemon/util/units.h"
#include "daemon/watch/suspects.h"
#include "pyleak/control.h"

#define TOP_DEFAULT 25

struct ask {
	struct watch *w;
	struct serve_request *q;
	json_t *args;
	const struct serve_peer *peer;
};

/* ---- small things -------------------------------------------------------------------------- */

static json_t *json_time(int64_t ms)
{
	char buf[RFC3339_MAX];

	return ms > 0 ? json_string(format_rfc3339(buf, sizeof(buf), ms)) : json_null();
}

static json_t *json_level(int64_t v)
{
	return v == TRACK_UNKNOWN ? json_null() : json_integer(v);
}

static json_t *json_bound(int64_t v)
{
	return v < 0 ? json_null() : json_integer(v);
}

/* Text out of a target or a file may be anything; JSON wants UTF-8. */
static json_t *json_text(const char *s)
{
	json_t *j = json_string(s);
	char clean[1024];
	size_t i;

	if (j)
		return j;
	for (i = 0; i < sizeof(clean) - 1 && s[i]; i++)
		clean[i] = (unsigned char)s[i] < 0x80 ? s[i] : '?';
	clean[i] = 0;
	return json_string(clean);
}

static bool arg_bool(struct ask *a, const char *key, bool otherwise)
{
	json_t *v = json_object_get(a->args, key);

	return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

static int64_t arg_int(struct ask *a, const char *key, int64_t otherwise)
{
	json_t *v = json_object_get(a->args, key);

	return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

static const char *arg_text(struct ask *a, const char *key)
{
	return json_string_value(json_object_get(a->args, key));
}

static bool may_see(const struct ask *a, uid_t owner)
{
	return a->peer->privileged || a->peer->uid == owner;
}

/* Whether this process is there and the client's business; else an error reply and false. To be asked before
 * anything else that costs or tells something. */
static bool may_ask_about(struct ask *a, pid_t pid, struct proc_info *ret)
{
	if (proc_info_get(pid, ret, NULL)) {
		serve_reply_error(a->q, EXIT_NO, "pid %d: no such process", pid);
		return false;
	}
	if (may_see(a, ret->uid))
		return true;
	serve_reply_error(a->q, EXIT_REFUSED,
		"pid %d belongs to user %s: only that user, root and group pyleak may ask about it", pid,
		ret->user);
	return false;
}

/* The target of "pid", or an error reply and NULL. */
static struct target *arg_target(struct ask *a)
{
	json_t *v = json_object_get(a->args, "pid");
	char rule[128], reason[512];
	struct proc_info p;
	struct target *t;
	pid_t pid;

	if (!json_is_integer(v) || json_integer_value(v) <= 0 || json_integer_value(v) > INT_MAX) {
		serve_reply_error(a->q, EXIT_USAGE, "a process id is needed");
		return NULL;
	}
	pid = (pid_t)json_integer_value(v);
	t = watch_target(a->w, pid);
	if (!t) {
		if (!may_ask_about(a, pid, &p))
			return NULL;
		watch_why(a->w, pid, rule, sizeof(rule), reason, sizeof(reason));
		if (!strncmp(reason, "pid ", 4))
			serve_reply_error(a->q, EXIT_NO, "%s", reason);
		else
			serve_reply_error(a->q, EXIT_NO, "pid %d is not watched: %s", pid, reason);
		return NULL;
	}
	if (!may_see(a, target_info(t)->uid)) {
		serve_reply_error(a->q, EXIT_REFUSED,
			"pid %d belongs to user %s: only that user, root and group pyleak may ask "
			"about it",
			pid, target_info(t)->user);
		return NULL;
	}
	return t;
}

/* "since": a duration back from now or RFC 3339; default one growth.window. */
static int arg_since(struct ask *a, int64_t now, int64_t *ret)
{
	const char *s = arg_text(a, "since");
	uint64_t ns;

	if (!s) {
		*ret = now - (int64_t)(watch_get_options(a->w)->config->growth_window_ns / 1000000);
		return 0;
	}
	if (parse_duration(s, &ns) == 0) {
		*ret = now - (int64_t)(ns / 1000000);
		return 0;
	}
	if (parse_rfc3339(s, ret) == 0)
		return 0;
	serve_reply_error(a->q, EXIT_USAGE,
		"since %s: a duration back from now (10m) or a time (2026-11-23T08:25:58Z) is "
		"needed",
		s);
	return -EINVAL;
}

/* ---- types by name ------------------------------------------------------------------------- */

/* What one line of an answer says: types of one name together. */
struct named {
	const char *name;
	unsigned types;
	int64_t level, bound;           /* TRACK_UNKNOWN, -1 */
	int64_t tracked, tracked_bound; /* TRACK_UNKNOWN, -1: no census yet */
	bool flow;                      /* these are known: */
	uint64_t births, deaths;
	double birth_rate, death_rate;   /* < 0: not known */
	double birth_bound, death_bound; /* < 0: not known */
	enum track_quality quality, rates_quality;
	bool grows;
	struct track_growth growth;
};

static int by_name(const void *a, const void *b)
{
	const struct target_type *const *x = a, *const *y = b;

	return strcmp((*x)->info.name, (*y)->info.name);
}

/* Adds up two levels: unknown if one of them is. */
static int64_t add_level(int64_t a, int64_t b)
{
	return a == TRACK_UNKNOWN || b == TRACK_UNKNOWN ? TRACK_UNKNOWN : a + b;
}

static double add_rate(double a, double b)
{
	return a < 0 || b < 0 ? -1 : a + b;
}

static int64_t add_bound(int64_t a, int64_t b)
{
	return a < 0 || b < 0 ? -1 : a + b;
}

/* All named types of the target, those of one name summed. malloc'ed. */
static int types_by_name(const struct target *t, int64_t since, struct named **ret, size_t *ret_n)
{
	size_t n = target_type_count(t), k = 0, out = 0;
	const struct target_type **v = calloc(n + 1, sizeof(*v));
	struct named *o = calloc(n + 1, sizeof(*o));
	bool have_census = target_census(t)->at_ms > 0;

	if (!v || !o) {
		free(v);
		free(o);
		return -ENOMEM;
	}
	for (size_t i = 0; i < n; i++) {
		const struct target_type *ty = target_type_at(t, i);

		if (ty->named)
			v[k++] = ty;
	}
	qsort(v, k, sizeof(*v), by_name);
	for (size_t i = 0; i < k; i++) {
		const struct target_type *ty = v[i];
		struct track_growth g = {.count = TRACK_UNKNOWN};
		bool grows = since >= 0 && ty->track && track_type_growth(ty->track, since, &g);
		int64_t bound, level = target_type_level(t, ty, &bound);
		uint64_t births, deaths;
		bool flow = target_type_flow(ty, &births, &deaths);
		int64_t tracked = ty->census ? (int64_t)ty->live : have_census ? 0 : TRACK_UNKNOWN;
		int64_t tracked_bound = tracked == TRACK_UNKNOWN ? -1
					: ty->census             ? (int64_t)ty->live_bound
								 : 0;
		struct named *e = out ? &o[out - 1] : NULL;

		if (!e || strcmp(e->name, ty->info.name)) {
			o[out++] = (struct named){
				.name = ty->info.name,
				.types = 1,
				.level = level,
				.bound = bound,
				.tracked = tracked,
				.tracked_bound = tracked_bound,
				.flow = flow,
				.births = births,
				.deaths = deaths,
				.birth_rate = ty->birth_rate,
				.death_rate = ty->death_rate,
				.birth_bound = ty->birth_bound,
				.death_bound = ty->death_bound,
				.quality = target_type_quality(t, ty),
				.rates_quality = target_type_rates_quality(t, ty),
				.grows = grows,
				.growth = g,
			};
			continue;
		}
		e->types++;
		e->level = add_level(e->level, level);
		e->bound = add_bound(e->bound, bound);
		e->tracked = add_level(e->tracked, tracked);
		e->tracked_bound = add_bound(e->tracked_bound, tracked_bound);
		e->flow &= flow;
		e->births += births;
		e->deaths += deaths;
		e->birth_rate = add_rate(e->birth_rate, ty->birth_rate);
		e->death_rate = add_rate(e->death_rate, ty->death_rate);
		e->birth_bound = add_rate(e->birth_bound, ty->birth_bound);
		e->death_bound = add_rate(e->death_bound, ty->death_bound);
		e->quality = MAX(e->quality, target_type_quality(t, ty));
		e->rates_quality = MAX(e->rates_quality, target_type_rates_quality(t, ty));
		if (grows) {
			e->growth.delta = (e->grows ? e->growth.delta : 0) + g.delta;
			e->growth.rate_per_hour =
				(e->grows ? e->growth.rate_per_hour : 0) + g.rate_per_hour;
			e->grows = true;
		}
	}
	free(v);
	*ret = o;
	*ret_n = out;
	return 0;
}

/*
 * The type a person means: "module.QualName" exactly, else a glob, else a short name that only
 * one type has. *ret lists the matches (malloc'ed); an error reply and -ENOENT otherwise.
 */
static int resolve_types(struct ask *a, const struct named *v, size_t n, const char *want,
	const struct named ***ret, size_t *ret_n)
{
	const struct named **out = calloc(n + 1, sizeof(*out));
	char list[256] = "";
	size_t k = 0;

	if (!out)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		if (!strcmp(v[i].name, want))
			out[k++] = &v[i];
	if (!k && strpbrk(want, "*?["))
		for (size_t i = 0; i < n; i++)
			if (fnmatch(want, v[i].name, 0) == 0)
				out[k++] = &v[i];
	if (!k) {
		size_t len = strlen(want);

		for (size_t i = 0; i < n; i++) {
			size_t l = strlen(v[i].name);

			if (l > len && v[i].name[l - len - 1] == '.' &&
				!strcmp(v[i].name + l - len, want))
				out[k++] = &v[i];
		}
		for (size_t i = 0; i < k && k > 1; i++) {
			size_t used = strlen(list);

			snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "",
				out[i]->name);
		}
		if (k > 1)
			serve_reply_error(a->q, EXIT_NO,
				"type %s: %zu types have that name: %s: say which one", want, k,
				list);
		else if (!k)
			serve_reply_error(a->q, EXIT_NO,
				"type %s: no such type seen in this process yet; pyleakctl top "
				"lists them",
				want);
		if (k != 1) {
			free(out);
			return -ENOENT;
		}
	}
	*ret = out;
	*ret_n = k;
	return 0;
}

/* ---- status, why --------------------------------------------------------------------------- */

static const char *target_state(const struct target *t)
{
	if (!target_sampled_ms(t))
		return "starting";
	return target_dropped(t) ? "lossy" : "watching";
}

static json_t *census_json(const struct target *t)
{
	const struct target_census *c = target_census(t);
	json_t *restarts;

	if (!c->at_ms)
		return json_null();
	restarts = json_object();
	for (unsigned i = 0; i < CENSUS_REASONS; i++)
		if (c->restarts[i])
			json_object_set_new(restarts, census_reason(i),
				json_integer((json_int_t)c->restarts[i]));
	return json_pack("{s:I, s:I, s:o, s:I, s:s, s:b, s:I, s:b, s:o}", "objects",
		(json_int_t)c->objects, "pause_us_max",
		(json_int_t)((c->pause_ns_max + 999) / 1000), "at", json_time(c->at_ms), "width",
		(json_int_t)c->width, "way", census_way_name(c->way), "outside",
		c->way == CENSUS_OUTSIDE, "steps", (json_int_t)c->steps, "estimate", c->estimate,
		"restarts", restarts);
}

static json_t *coverage_json(const struct target *t)
{
	unsigned n[3] = {0};

	for (size_t i = 0; i < target_type_count(t); i++)
		n[target_type_quality(t, target_type_at(t, i))]++;
	return json_pack("{s:i, s:i, s:i}", "exact", n[TRACK_EXACT], "estimate", n[TRACK_ESTIMATE],
		"blind", n[TRACK_BLIND]);
}

static json_t *cost_json(const struct governor *g, enum governor_scope s)
{
	double cost = governor_cost(g, s);

	return cost < 0 ? json_null() : json_real(cost * 100);
}

static json_t *budget_json(const struct target *t)
{
	const struct governor *g = target_governor(t);
	char reason[256];

	return json_pack("{s:s, s:b, s:s, s:o, s:o, s:o, s:o, s:I, s:f, s:I, s:I}", "scope",
		governor_scope_name(g->window ? g->settled : g->scope), "window", g->window,
		"reason", governor_reason(g, reason, sizeof(reason)), "limit_percent",
		g->config.share > 0 ? json_real(g->config.share * 100) : json_null(),
		"instances_percent", cost_json(g, GOVERNOR_INSTANCES), "births_percent",
		cost_json(g, GOVERNOR_BIRTHS), "everything_percent",
		cost_json(g, GOVERNOR_EVERYTHING), "windows",
		(json_int_t)g->windows, "observed_share", target_observed_share(t), "hits",
		(json_int_t)target_hits(t), "hit_ns", (json_int_t)g->config.hit_ns);
}

static json_t *build_json(const struct python *py)
{
	return json_pack("{s:o, s:s, s:s, s:b}", "path", json_text(py->path), "kind",
		py->kind == PYTHON_STATIC ? "static" : "shared", "build_id", py->build_id,
		"stripped", py->stripped);
}

static void target_reason(const struct target *t, char *buf, size_t n)
{
	const struct proc_info *p = target_info(t);
	uint64_t delay_ns = target_totals(t)->children_delay_ns;
	int interpreters = python_interpreters(target_python(t));
	const struct governor *g = target_governor(t);
	char forks[160] = "", more[256] = "", budget[256] = "";

	if (interpreters > 1)
		snprintf(more, sizeof(more),
			"; has %d sub-interpreter%s, whose objects are in lists of their own: no "
			"census "
			"as long as that is so, levels are counted on from the last one",
			interpreters - 1, interpreters > 2 ? "s" : "");
	if (delay_ns > 1000000000)
		snprintf(forks, sizeof(forks),
			"; forks so often that its children run slower for up to %.1f s, until the "
			"breakpoints they inherit are taken out",
			(double)delay_ns / 1e9);
	if ((g->window ? g->settled : g->scope) != GOVERNOR_EVERYTHING)
		governor_reason(g, budget, sizeof(budget));
	snprintf(buf, n, "%s%s%s%s%s%s%s%s%s%s", target_census(t)->reason,
		budget[0] ? "; " : "", budget, more, forks,
		target_blocks_reason(t)[0] ? "; " : "", target_blocks_reason(t),
		target_dropped(t) ? "; events were lost: after each loss levels rest until the next census" : "",
		p->seccomp_mode == 2
			? "; under seccomp: a dump needs the capture helper's CAP_SYS_ADMIN and no "
			  "filter on the helper itself"
			: "",
		p->tracer ? "; traced by a debugger: no dump until it lets go" : "");
	if (buf[0] == ';')
		memmove(buf, buf + 2, strlen(buf + 2) + 1);
}

static json_t *target_json(const struct target *t)
{
	const struct python *py = target_python(t);
	const struct proc_info *p = target_info(t);
	double cost = target_overhead(t);
	char reason[1024];

	target_reason(t, reason, sizeof(reason));
	return json_pack(
		"{s:i, s:o, s:o, s:s, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:s, s:I, s:I, s:I, s:o}",
		"pid", p->id.pid, "comm", json_text(p->comm), "user", json_text(p->user), "python",
		py->version, "build", build_json(py), "state", target_state(t), "reason",
		json_text(reason), "overhead_percent",
		cost < 0 ? json_null() : json_real(cost * 100), "budget", budget_json(t), "coverage",
		coverage_json(t),
		"census", census_json(t), "sites", target_sites(t), "dropped",
		(json_int_t)target_dropped(t), "children_cleaned",
		(json_int_t)target_totals(t)->children, "rss_bytes",
		(json_int_t)target_rss_bytes(t), "sampled_at", json_time(target_sampled_ms(t)));
}

static void ask_status(struct ask *a)
{
	json_t *list = json_array();

	for (size_t i = 0; i < watch_target_count(a->w); i++) {
		const struct target *t = watch_target_at(a->w, i);

		if (may_see(a, target_info(t)->uid))
			json_array_append_new(list, target_json(t));
	}
	serve_reply(a->q,
		json_pack("{s:o, s:s, s:b, s:o, s:s}", "at", json_time(now_realtime_ms()), "version",
			PYLEAK_VERSION, "paused", watch_paused(a->w), "targets", list, "capture",
			dump_helper_way()),
		-1);
}

/* The process id asked for, or 0 and an error reply. */
static pid_t arg_pid(struct ask *a)
{
	int64_t pid = arg_int(a, "pid", 0);

	if (pid > 0 && pid <= INT_MAX)
		return (pid_t)pid;
	serve_reply_error(a->q, EXIT_USAGE, "a process id is needed");
	return 0;
}

static void reply_why(struct ask *a, const struct proc_info *p)
{
	char rule[128], reason[640];
	pid_t pid = p->id.pid;
	bool watched = watch_why(a->w, pid, rule, sizeof(rule), reason, sizeof(reason));
	struct target *t = watch_target(a->w, pid);
	json_t *doc = json_pack("{s:o, s:i, s:o, s:b, s:o, s:o, s:o, s:o, s:o, s:o}", "at",
		json_time(now_realtime_ms()), "pid", (int)pid, "comm", json_text(p->comm), "watched",
		t != NULL || watched, "rule", json_text(rule), "reason", json_text(reason),
		"python", t ? json_text(target_python(t)->version) : json_null(), "build",
		t ? build_json(target_python(t)) : json_null(), "sites",
		t ? json_text(target_sites(t)) : json_null(), "census",
		t ? census_json(t) : json_null());

	if (t) {
		target_reason(t, reason, sizeof(reason));
		json_object_set_new(doc, "note", json_text(reason));
	}
	serve_reply(a->q, doc, -1);
}

static void ask_why(struct ask *a)
{
	pid_t pid = arg_pid(a);
	struct proc_info p;

	if (pid && may_ask_about(a, pid, &p))
		reply_why(a, &p);
}

/* ---- run-time control ----------------------------------------------------------------------- */

static bool may_control(struct ask *a, const char *verb)
{
	if (a->peer->privileged)
		return true;
	serve_reply_error(a->q, EXIT_REFUSED,
		"%s: only root and group pyleak may change what is watched", verb);
	return false;
}

static void control(struct ask *a, const char *verb, int (*f)(struct watch *, pid_t, struct err *))
{
	struct err err = {{0}};
	struct proc_info p;
	pid_t pid;
	int r;

	if (!may_control(a, verb))
		return;
	pid = arg_pid(a);
	if (!pid || !may_ask_about(a, pid, &p))
		return;
	r = f(a->w, pid, &err);
	if (r)
		serve_reply_error(a->q,
			r == -ENOENT                     ? EXIT_NO
			: r == -EBUSY || r == -EUSERS    ? EXIT_REFUSED
							 : watch_exit_code(r),
			"%s", err.msg);
	else
		reply_why(a, &p);
}

static void ask_attach(struct ask *a)
{
	control(a, "attach", watch_attach);
}

static void ask_detach(struct ask *a)
{
	control(a, "detach", watch_detach);
}

static void reply_paused(struct ask *a)
{
	serve_reply(a->q,
		json_pack("{s:o, s:b, s:I}", "at", json_time(now_realtime_ms()), "paused",
			watch_paused(a->w), "targets", (json_int_t)watch_target_count(a->w)),
		-1);
}

static void ask_pause(struct ask *a)
{
	if (!may_control(a, "pause"))
		return;
	watch_pause(a->w);
	reply_paused(a);
}

static void ask_resume(struct ask *a)
{
	if (!may_control(a, "resume"))
		return;
	watch_resume(a->w);
	reply_paused(a);
}

/* ---- top ----------------------------------------------------------------------------------- */

static int by_level(const void *a, const void *b)
{
	const struct named *x = a, *y = b;
	int64_t lx = x->level != TRACK_UNKNOWN ? x->level : MAX(x->tracked, (int64_t)0);
	int64_t ly = y->level != TRACK_UNKNOWN ? y->level : MAX(y->tracked, (int64_t)0);

	if (lx != ly)
		return lx > ly ? -1 : 1;
	/* Unknown levels: by what was left over of what came. */
	lx = (int64_t)(x->births - x->deaths);
	ly = (int64_t)(y->births - y->deaths);
	return lx != ly ? (lx > ly ? -1 : 1) : strcmp(x->name, y->name);
}

static json_t *json_flow(const struct named *e, json_int_t v)
{
	return e->flow ? json_integer(v) : json_null();
}

static json_t *json_rate(const struct named *e, double v)
{
	return e->flow && v >= 0 ? json_real(v) : json_null();
}

static void reply_top(struct ask *a, struct target *t, bool fresh)
{
	int64_t n = arg_int(a, "n", TOP_DEFAULT);
	_cleanup_free_ struct named *v = NULL;
	json_t *list = json_array();
	size_t k;

	if (types_by_name(t, -1, &v, &k)) {
		serve_reply_error(a->q, EXIT_BROKEN, "out of memory");
		json_decref(list);
		return;
	}
	qsort(v, k, sizeof(*v), by_level);
	for (size_t i = 0; i < k && (n <= 0 || (int64_t)i < n); i++) {
		struct named *e = &v[i];

		if (fresh && target_counts_all(t) && e->level != TRACK_UNKNOWN && e->bound == 0)
			e->quality = TRACK_EXACT; /* counted in this very census */
		json_array_append_new(list,
			json_pack(
				"{s:o, s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:s, "
				"s:f, s:i}",
				"type", json_text(e->name), "count", json_level(e->level),
				"count_bound", json_bound(e->bound), "tracked",
				json_level(e->tracked), "tracked_bound",
				json_bound(e->tracked_bound), "quality",
				track_quality_name(e->quality), "allocs",
				json_flow(e, (json_int_t)e->births), "frees",
				json_flow(e, (json_int_t)e->deaths), "alloc_rate",
				json_rate(e, e->birth_rate), "free_rate",
				json_rate(e, e->death_rate), "alloc_rate_bound",
				json_rate(e, e->birth_bound), "free_rate_bound",
				json_rate(e, e->death_bound), "rates_quality",
				track_quality_name(e->rates_quality), "observed_share",
				target_observed_share(t),
				"types", e->types));
	}
	serve_reply(a->q,
		json_pack("{s:o, s:i, s:o, s:o}", "at", json_time(target_sampled_ms(t)), "pid",
			target_info(t)->id.pid, "census_at", json_time(target_census(t)->at_ms),
			"types", list),
		-1);
}

struct waiting_top {
	struct ask a;
	struct serve_peer peer;
	struct target *t;
	bool fresh; /* a census was asked for; else the first sample is waited for */
};

static void top_refreshed(void *arg, bool ok)
{
	struct waiting_top *x = arg;

	if (ok || !x->fresh)
		reply_top(&x->a, x->t, ok);
	else
		serve_reply_error(x->a.q, EXIT_REFUSED, "pid %d: %s", target_info(x->t)->id.pid,
			target_census(x->t)->reason[0]
				? target_census(x->t)->reason
				: "no census could be taken just now: try again");
	json_decref(x->a.args);
	free(x);
}

static void top_hangup(void *arg)
{
	struct waiting_top *x = arg;

	target_refresh_forget(x->t, x);
	json_decref(x->a.args);
	free(x);
}

static void ask_top(struct ask *a)
{
	bool fresh = arg_bool(a, "fresh", false);
	struct target *t = arg_target(a);
	struct waiting_top *x;

	if (!t)
		return;
	/* Before the first sample there is nothing to show: wait for it. */
	if (!fresh && target_sampled_ms(t)) {
		reply_top(a, t, false);
		return;
	}
	x = calloc(1, sizeof(*x));
	if (!x) {
		serve_reply_error(a->q, EXIT_BROKEN, "out of memory");
		return;
	}
	x->a = *a;
	x->peer = *a->peer;
	x->a.peer = &x->peer;
	x->t = t;
	x->fresh = fresh;
	json_incref(a->args);
	serve_request_on_hangup(a->q, top_hangup, x);
	target_refresh(t, top_refreshed, x);
}

/* ---- growth, history ----------------------------------------------------------------------- */

static int by_delta(const void *a, const void *b)
{
	const struct named *x = a, *y = b;

	if (x->growth.delta != y->growth.delta)
		return x->growth.delta > y->growth.delta ? -1 : 1;
	return strcmp(x->name, y->name);
}

static void ask_growth(struct ask *a)
{
	struct target *t = arg_target(a);
	int64_t n = arg_int(a, "n", TOP_DEFAULT), now = now_realtime_ms(), since, from = 0;
	_cleanup_free_ struct named *v = NULL;
	json_t *list;
	size_t k, shown = 0;

	if (!t || arg_since(a, now, &since))
		return;
	if (types_by_name(t, MAX(since, (int64_t)0), &v, &k)) {
		serve_reply_error(a->q, EXIT_BROKEN, "out of memory");
		return;
	}
	qsort(v, k, sizeof(*v), by_delta);
	list = json_array();
	for (size_t i = 0; i < k && (n <= 0 || (int64_t)shown < n); i++) {
		struct named *e = &v[i];

		if (!e->grows || e->growth.delta <= 0)
			continue;
		if (!from || e->growth.since_ms < from)
			from = e->growth.since_ms;
		shown++;
		json_array_append_new(list,
			json_pack("{s:o, s:o, s:o, s:I, s:f, s:s, s:i}", "type", json_text(e->name),
				"count", json_level(e->level), "tracked", json_level(e->tracked),
				"delta", (json_int_t)e->growth.delta, "rate_per_hour",
				e->growth.rate_per_hour, "quality",
				track_quality_name(
					e->level == TRACK_UNKNOWN ? e->rates_quality : e->quality),
				"types", e->types));
	}
	serve_reply(a->q,
		json_pack("{s:o, s:i, s:o, s:o}", "at", json_time(target_sampled_ms(t)), "pid",
			target_info(t)->id.pid, "since", json_time(from ? from : since), "types",
			list),
		-1);
}

/* Of all types of that name. */
static int history_of(const struct target *t, const char *name, int64_t since_ms, uint64_t step_ms,
	struct track_point **ret, size_t *ret_n)
{
	int r = 0;

	for (size_t i = 0; i < target_type_count(t) && !r; i++) {
		const struct target_type *ty = target_type_at(t, i);
		_cleanup_free_ struct track_point *p = NULL;
		size_t n = 0;

		if (!ty->named || !ty->track || strcmp(ty->info.name, name))
			continue;
		r = track_type_history(ty->track, since_ms, step_ms, &p, &n);
		if (!r)
			r = track_history_add(ret, ret_n, p, n);
	}
	return r;
}

static void ask_history(struct ask *a)
{
	struct target *t = arg_target(a);
	const char *want = arg_text(a, "type"), *step_text = arg_text(a, "step");
	_cleanup_free_ struct track_point *p = NULL;
	_cleanup_free_ const struct named **m = NULL;
	_cleanup_free_ struct named *v = NULL;
	int64_t now = now_realtime_ms(), since;
	uint64_t step_ns = 0;
	size_t k, n_m, n_p = 0;
	json_t *points;

	if (!t || arg_since(a, now, &since))
		return;
	if (!want) {
		serve_reply_error(a->q, EXIT_USAGE, "history needs --type");
		return;
	}
	if (step_text && parse_duration(step_text, &step_ns)) {
		serve_reply_error(
			a->q, EXIT_USAGE, "step %s: a duration (10s, 1m) is needed", step_text);
		return;
	}
	if (types_by_name(t, -1, &v, &k)) {
		serve_reply_error(a->q, EXIT_BROKEN, "out of memory");
		return;
	}
	if (resolve_types(a, v, k, want, &m, &n_m))
		return;
	if (n_m > 1) {
		serve_reply_error(a->q, EXIT_NO,
			"type %s: fits %zu types, history shows one: name it (%s, %s, …)", want,
			n_m, m[0]->name, m[1]->name);
		return;
	}
	points = json_array();
	if (history_of(t, m[0]->name, MAX(since, (int64_t)0), step_ns / 1000000, &p, &n_p)) {
		json_decref(points);
		serve_reply_error(a->q, EXIT_BROKEN, "out of memory");
		return;
	}
	for (size_t i = 0; i < n_p; i++)
		json_array_append_new(
			points, json_pack("{s:o, s:o, s:I, s:I}", "at", json_time(p[i].at_ms),
					"count", json_level(p[i].count), "allocs",
					(json_int_t)p[i].births, "frees", (json_int_t)p[i].deaths));
	serve_reply(a->q,
		json_pack("{s:o, s:i, s:o, s:o, s:i}", "at", json_time(now), "pid",
			target_info(t)->id.pid, "type", json_text(m[0]->name), "points", points,
			"types", m[0]->types),
		-1);
}

/* ---- suspects ------------------------------------------------------------------------------ */

static void add_suspects(struct ask *a, const struct target *t, json_t *list)
{
	_cleanup_free_ struct suspect *v = NULL;
	size_t n = 0;

	if (suspects_of(t, &v, &n))
		return;
	for (size_t i = 0; i < n; i++) {
		const struct track_verdict *k = v[i].verdict;
		const char *name = v[i].ty->info.name, *dump;
		json_t *companions;

		if (!v[i].tell)
			continue;
		companions = json_array();
		for (size_t c = 0; c < n; c++)
			if (c != i && v[c].leader == i)
				json_array_append_new(companions, json_text(v[c].ty->info.name));
		dump = watch_last_dump(a->w, t, name);
		json_array_append_new(list,
			json_pack("{s:i, s:o, s:s, s:o, s:I, s:f, s:f, s:o, s:o, s:o, s:n, s:o}",
				"pid", target_info(t)->id.pid, "type", json_text(name), "verdict",
				track_verdict_name(k->kind), "count", json_level(k->count), "delta",
				(json_int_t)k->delta, "rate_per_hour", k->rate_per_hour,
				"confidence", k->confidence, "first_seen",
				json_time(k->first_seen_ms), "reason", json_text(k->reason),
				"companions", companions, "sites", "dump",
				dump ? json_string(dump) : json_null()));
	}
}

/* Leaks first; within them types of modules before built-in ones (which have no dot in their name
 * and mostly grow because the others hold them), then by growth. */
static int by_suspicion(const void *a, const void *b)
{
	json_t *const *x = a, *const *y = b;
	const char *vx = json_string_value(json_object_get(*x, "verdict"));
	const char *vy = json_string_value(json_object_get(*y, "verdict"));
	const char *tx = json_string_value(json_object_get(*x, "type"));
	const char *ty = json_string_value(json_object_get(*y, "type"));
	json_int_t dx = json_integer_value(json_object_get(*x, "delta"));
	json_int_t dy = json_integer_value(json_object_get(*y, "delta"));

	if (strcmp(vx, vy))
		return strcmp(vx, vy); /* leak before watch */
	if (!strchr(tx, '.') != !strchr(ty, '.'))
		return strchr(tx, '.') ? -1 : 1;
	return dx == dy ? 0 : dx > dy ? -1 : 1;
}

static json_t *sorted_suspects(json_t *list)
{
	size_t n = json_array_size(list);
	json_t **v = calloc(n + 1, sizeof(*v)), *out = json_array();

	for (size_t i = 0; v && i < n; i++)
		v[i] = json_incref(json_array_get(list, i));
	if (v)
		qsort(v, n, sizeof(*v), by_suspicion);
	for (size_t i = 0; v && i < n; i++)
		json_array_append_new(out, v[i]);
	free(v);
	json_decref(list);
	return out;
}

static void ask_suspects(struct ask *a)
{
	json_t *list = json_array();

	if (json_object_get(a->args, "pid")) {
		struct target *t = arg_target(a);

		if (!t) {
			json_decref(list);
			return;
		}
		add_suspects(a, t, list);
	} else {
		for (size_t i = 0; i < watch_target_count(a->w); i++) {
			const struct target *t = watch_target_at(a->w, i);

			if (may_see(a, target_info(t)->uid))
				add_suspects(a, t, list);
		}
	}
	serve_reply(a->q,
		json_pack("{s:o, s:o}", "at", json_time(now_realtime_ms()), "suspects",
			sorted_suspects(list)),
		-1);
}

/* ---- dump ---------------------------------------------------------------------------------- */

struct waiting_dump {
	struct serve_request *q;
	struct dump_manager *m;
};

static void dump_progressed(void *arg, const char *text)
{
	struct waiting_dump *x = arg;

	serve_progress(x->q, "%s", text);
}

static void dump_finished(void *arg, const struct dump_outcome *o)
{
	struct waiting_dump *x = arg;

	if (o->exit_code == EXIT_FINE)
		serve_reply(x->q, json_incref(o->document), -1);
	else
		serve_reply_error(x->q, o->exit_code, "%s", o->error);
	free(x);
}

static void dump_hangup(void *arg)
{
	struct waiting_dump *x = arg;

	dump_forget(x->m, x);
	free(x);
}

/* The default of dump without --type: the suspects, else the three types that grew most. */
static size_t default_types(
	struct ask *a, const struct target *t, const struct named *v, size_t n, const char **types)
{
	_cleanup_free_ struct suspect *s = NULL;
	size_t k = 0, n_s = 0;

	if (suspects_of(t, &s, &n_s))
		return 0;
	for (size_t i = 0; i < n_s && k < DUMP_TYPES_MAX; i++)
		if (s[i].tell && s[i].verdict->kind == TRACK_LEAK)
			types[k++] = s[i].ty->info.name;
	for (size_t i = 0; !k && i < n; i++) {
		size_t limit = MIN(n, (size_t)3);

		for (; k < limit && v[k].grows && v[k].growth.delta > 0; k++)
			types[k] = v[k].name;
		break;
	}
	return k;
}

/* Whether "Session" is the last part of a known "app.Session" (and no type's whole name). */
static bool is_known_short_name(const struct named *v, size_t n, const char *name)
{
	bool found = false;

	for (size_t i = 0; i < n; i++) {
		const char *dot = strrchr(v[i].name, '.');

		if (!strcmp(v[i].name, name))
			return false;
		found |= dot && !strcmp(dot + 1, name);
	}
	return found;
}

static void ask_dump(struct ask *a)
{
	struct target *t = arg_target(a);
	json_t *want = json_object_get(a->args, "types");
	struct dump_manager *m = watch_get_options(a->w)->dumps;
	struct dump_request r = {.trigger = "manual"};
	bool wait = arg_bool(a, "wait", true);
	const char *types[DUMP_TYPES_MAX];
	_cleanup_free_ struct suspect *suspects = NULL;
	_cleanup_(json_decrefp) json_t *growth = NULL;
	_cleanup_free_ struct named *v = NULL;
	struct waiting_dump *x = NULL;
	size_t n_suspects = 0;
	char id[DUMP_ID_MAX];
	struct err err = {{0}};
	size_t n = 0, k;
	json_t *one;
	int rc;

	if (!t)
		return;
	if (types_by_name(t, 0, &v, &n)) {
		serve_reply_error(a->q, EXIT_BROKEN, "out of memory");
		return;
	}
	qsort(v, n, sizeof(*v), by_delta);
	json_array_foreach (want, k, one) {
		_cleanup_free_ const struct named **match = NULL;
		const char *name = json_string_value(one);
		size_t n_match;

		if (!name || !*name) {
			serve_reply_error(a->q, EXIT_USAGE, "types: a list of names is needed");
			return;
		}
		/* A short name that several types have is told at once. One that was not met yet (str
		 * has no probe, an idle process no census yet) may well be in the heap: the worker
		 * resolves names, too. */
		if (!strpbrk(name, "*?[.") && is_known_short_name(v, n, name)) {
			if (resolve_types(a, v, n, name, &match, &n_match))
				return;
			name = match[0]->name;
		}
		if (r.n_types == DUMP_TYPES_MAX) {
			serve_reply_error(a->q, EXIT_USAGE,
				"at most %d types can be asked for in one dump", DUMP_TYPES_MAX);
			return;
		}
		types[r.n_types++] = name;
	}
	if (!r.n_types)
		r.n_types = default_types(a, t, v, n, types);
	if (suspects_of(t, &suspects, &n_suspects) == 0)
		for (size_t i = 0; i < r.n_types; i++)
			r.grown[i] = suspects_grown(t, suspects, n_suspects, types[i]);
	r.types = types;
	r.growth = growth = suspects_growth(t, types, r.n_types);
	r.id = target_info(t)->id;
	r.uid = target_info(t)->uid;
	r.force = arg_bool(a, "force", false);
	r.limited = !a->peer->privileged;
	r.asked_by = a->peer->uid;
	snprintf(r.comm, sizeof(r.comm), "%s", target_info(t)->comm);
	if (r.force && !a->peer->privileged) {
		serve_reply_error(a->q, EXIT_REFUSED,
			"--force may stop a process for longer than dump.pause: only root and "
			"group pyleak may");
		return;
	}
	if (wait) {
		x = calloc(1, sizeof(*x));
		if (!x) {
			serve_reply_error(a->q, EXIT_BROKEN, "out of memory");
			return;
		}
		*x = (struct waiting_dump){a->q, m};
		r.userdata = x;
		r.on_progress = dump_progressed;
		r.on_done = dump_finished;
	}
	rc = dump_start(m, &r, id, &err);
	if (rc) {
		free(x);
		serve_reply_error(a->q, rc == -EBUSY ? EXIT_REFUSED : EXIT_BROKEN, "pid %d: %s",
			r.id.pid, err.msg);
		return;
	}
	for (size_t i = 0; i < r.n_types; i++)
		watch_note_dump(a->w, t, types[i], id);
	if (wait)
		serve_request_on_hangup(a->q, dump_hangup, x);
	else
		serve_reply(a->q,
			json_pack("{s:s, s:i, s:s}", "id", id, "pid", r.id.pid, "state", "running"),
			-1);
}

/* ---- dumps --------------------------------------------------------------------------------- */

static void ask_dumps_list(struct ask *a)
{
	_cleanup_free_ struct store_dump *v = NULL;
	json_t *list = json_array();
	struct err err = {{0}};
	size_t n = 0;

	if (store_dump_list(watch_get_options(a->w)->store, &v, &n, &err)) {
		json_decref(list);
		serve_reply_error(a->q, EXIT_BROKEN, "%s", err.msg);
		return;
	}
	for (size_t i = 0; i < n; i++)
		if (may_see(a, v[i].uid))
			json_array_append_new(list,
				json_pack("{s:s, s:o, s:i, s:o, s:s, s:I, s:s, s:o}", "id", v[i].id,
					"at", json_time(v[i].at_ms), "pid", (int)v[i].pid, "comm",
					json_text(v[i].comm), "trigger", v[i].trigger, "bytes",
					(json_int_t)v[i].bytes, "state", v[i].state, "error",
					v[i].error[0] ? json_text(v[i].error) : json_null()));
	serve_reply(a->q,
		json_pack("{s:o, s:o}", "at", json_time(now_realtime_ms()), "dumps", list), -1);
}

/* The dump of "id", or an error reply and false. */
static bool arg_dump(struct ask *a, struct store_dump *ret)
{
	const char *id = arg_text(a, "id");
	struct err err = {{0}};

	if (!id) {
		serve_reply_error(
			a->q, EXIT_USAGE, "the id of a dump is needed: pyleakctl dumps lists them");
		return false;
	}
	if (store_dump_get(watch_get_options(a->w)->store, id, ret, &err)) {
		serve_reply_error(a->q, EXIT_NO, "%s", err.msg);
		return false;
	}
	if (!may_see(a, ret->uid)) {
		serve_reply_error(
			a->q, EXIT_REFUSED, "dump %s belongs to another user's process", id);
		return false;
	}
	return true;
}

static void ask_dumps_show(struct ask *a)
{
	static const struct {
		const char *ending, *name;
	} files[] = {
		{"svg", "chain.svg"},
		{"dot", "chain.dot"},
		{"json", "dump.json"},
		{"html", "report.html"},
		{"snapshot", "snapshot"},
	};
	const char *want = arg_text(a, "file"), *name = "dump.json";
	_cleanup_close_ int fd = -1;
	char path[PATH_MAX];
	struct store_dump d;
	json_error_t je;
	json_t *doc;

	if (!arg_dump(a, &d))
		return;
	if (strcmp(d.state, "done")) {
		serve_reply_error(a->q, EXIT_NO, "dump %s is %s%s%s", d.id, d.state,
			d.error[0] ? ": " : "", d.error);
		return;
	}
	if (want) {
		name = NULL;
		for (size_t i = 0; i < ARRAY_SIZE(files); i++)
			if (!strcmp(files[i].ending, want))
				name = files[i].name;
		if (!name) {
			serve_reply_error(a->q, EXIT_USAGE,
				"a dump has no .%s: svg, dot, json, html and snapshot can be had",
				want);
			return;
		}
	}
	snprintf(path, sizeof(path), "%s/%s", d.path, name);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0) {
		serve_reply_error(a->q, errno == ENOENT ? EXIT_NO : EXIT_BROKEN, "dump %s: %s: %m",
			d.id, name);
		return;
	}
	if (want) {
		serve_reply(a->q, json_pack("{s:s, s:s}", "id", d.id, "name", name), fd);
		return;
	}
	doc = json_loadfd(fd, 0, &je);
	if (!doc)
		serve_reply_error(
			a->q, EXIT_BROKEN, "dump %s: dump.json cannot be read: %s", d.id, je.text);
	else
		serve_reply(a->q, doc, -1);
}

static void ask_dumps_path(struct ask *a)
{
	struct store_dump d;

	if (arg_dump(a, &d))
		serve_reply(
			a->q, json_pack("{s:s, s:o}", "id", d.id, "path", json_text(d.path)), -1);
}

static void ask_dumps_rm(struct ask *a)
{
	struct store_dump d;
	struct err err = {{0}};

	if (!arg_dump(a, &d))
		return;
	if (!strcmp(d.state, "running")) {
		serve_reply_error(a->q, EXIT_REFUSED, "dump %s is still running", d.id);
		return;
	}
	if (store_dump_remove(watch_get_options(a->w)->store, d.id, &err))
		serve_reply_error(a->q, EXIT_BROKEN, "%s", err.msg);
	else
		serve_reply(a->q, json_pack("{s:s, s:b}", "id", d.id, "removed", 1), -1);
}

/* ---- dispatch ------------------------------------------------------------------------------ */

static const struct {
	const char *verb;
	void (*f)(struct ask *a);
} verbs[] = {
	{"status", ask_status},
	{"why", ask_why},
	{"attach", ask_attach},
	{"detach", ask_detach},
	{"pause", ask_pause},
	{"resume", ask_resume},
	{"top", ask_top},
	{"growth", ask_growth},
	{"history", ask_history},
	{"suspects", ask_suspects},
	{"dump", ask_dump},
	{"dumps.list", ask_dumps_list},
	{"dumps.show", ask_dumps_show},
	{"dumps.path", ask_dumps_path},
	{"dumps.rm", ask_dumps_rm},
};

void answer_request(struct serve_request *q, const char *verb, json_t *args,
	const struct serve_peer *peer, void *userdata)
{
	struct ask a = {userdata, q, args, peer};

	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (!strcmp(verbs[i].verb, verb)) {
			verbs[i].f(&a);
			return;
		}
	serve_reply_error(
		q, EXIT_USAGE, "%.64s: this daemon (%s) has no such verb", verb, PYLEAK_VERSION);
}
