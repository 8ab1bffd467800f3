/* SPDX-License-Identifier: MIT */
#include "daemon/trigger/trigger.h"

#include <errno.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/track/track.h"
#include "daemon/util/macros.h"
#include "daemon/util/units.h"

#define DAY_MS        (24 * 3600 * INT64_C(1000))
#define PRUNE_MS      (3600 * INT64_C(1000))
#define TIME_MAX_MS   (INT64_C(1) << 53)
#define PROCESSES_MAX 4096
#define TRUE_MAX      16384 /* conditions of one process that are true at a time */
#define KEYS_MAX      65536
#define FIRINGS_MAX   1000 /* times kept per key: as many as per_day can be */

/* A condition that is true now, of one process. */
struct hold {
	unsigned rule;
	char *type;
	int64_t since_ms;
	bool fired, suppressed; /* since it became true */
};

struct process {
	char *service;
	int32_t pid;
	int64_t seen_ms;
	struct hold *holds; /* sorted by rule, type */
	size_t n_holds;
};

/* When a (service, rule, type) fired. */
struct key {
	char *service, *trigger, *type;
	int64_t *at_ms; /* ascending */
	size_t n;
	int64_t again_ms; /* not before; nothing came of the last one */
};

struct trigger_engine {
	struct config_trigger *rules;
	size_t n_rules;
	struct process *processes;
	size_t n_processes;
	struct key *keys; /* sorted */
	size_t n_keys;
	int64_t pruned_ms, last_ms;
	uint64_t suppressed;
};

/* ---- rules ---------------------------------------------------------------------------------- */

static void when_release(struct config_when *w)
{
	for (size_t i = 0; i < w->n_children; i++)
		when_release(&w->children[i]);
	free(w->children);
	free(w->type);
}

static int when_copy(const struct config_when *from, struct config_when *to)
{
	*to = *from;
	to->type = NULL;
	to->children = NULL;
	to->n_children = 0;
	if (from->type && !(to->type = strdup(from->type)))
		return -ENOMEM;
	if (!from->n_children)
		return 0;
	to->children = calloc(from->n_children, sizeof(*to->children));
	if (!to->children)
		return -ENOMEM;
	for (size_t i = 0; i < from->n_children; i++) {
		to->n_children++;
		if (when_copy(&from->children[i], &to->children[i]))
			return -ENOMEM;
	}
	return 0;
}

static void hold_release(struct hold *h)
{
	free(h->type);
}

static void process_release(struct process *p)
{
	for (size_t i = 0; i < p->n_holds; i++)
		hold_release(&p->holds[i]);
	free(p->holds);
	free(p->service);
}

static void key_release(struct key *k)
{
	free(k->service);
	free(k->trigger);
	free(k->type);
	free(k->at_ms);
}

void trigger_engine_free(struct trigger_engine *e)
{
	if (!e)
		return;
	for (size_t i = 0; i < e->n_rules; i++) {
		free(e->rules[i].name);
		when_release(&e->rules[i].when);
	}
	free(e->rules);
	for (size_t i = 0; i < e->n_processes; i++)
		process_release(&e->processes[i]);
	free(e->processes);
	for (size_t i = 0; i < e->n_keys; i++)
		key_release(&e->keys[i]);
	free(e->keys);
	free(e);
}

int trigger_engine_new(const struct config *c, struct trigger_engine **ret)
{
	struct trigger_engine *e = calloc(1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	e->rules = calloc(MAX(c->n_triggers, 1), sizeof(*e->rules));
	if (!e->rules) {
		trigger_engine_free(e);
		return -ENOMEM;
	}
	for (size_t i = 0; i < c->n_triggers; i++) {
		struct config_trigger *r = &e->rules[i];

		*r = c->triggers[i];
		r->when = (struct config_when){0};
		r->name = strdup(c->triggers[i].name);
		e->n_rules++;
		if (!r->name || when_copy(&c->triggers[i].when, &r->when)) {
			trigger_engine_free(e);
			return -ENOMEM;
		}
	}
	*ret = e;
	return 0;
}

/* ---- conditions ------------------------------------------------------------------------------- */

enum {
	IS_TRUE = 1 << 0,
	BY_TYPE = 1 << 1,    /* and what is known of the type made it so */
	BY_VERDICT = 1 << 2, /* and its verdict */
};

static bool type_fits(const char *glob, const struct trigger_type_state *t)
{
	return !glob || !fnmatch(glob, t->type, 0);
}

/* t is NULL when asking for the process alone. */
static unsigned evaluate(const struct config_when *w, const struct trigger_observation *o,
	const struct trigger_type_state *t)
{
	unsigned all = IS_TRUE, any = 0;

	switch (w->kind) {
	case WHEN_VERDICT:
		return t && t->verdict >= w->verdict && t->verdict > TRACK_NONE &&
				       type_fits(w->type, t)
			       ? IS_TRUE | BY_TYPE | BY_VERDICT
			       : 0;
	case WHEN_COUNT:
		return t && t->count >= 0 && (uint64_t)t->count > w->count && type_fits(w->type, t)
			       ? IS_TRUE | BY_TYPE
			       : 0;
	case WHEN_RATE:
		return t && t->rate_per_hour > (double)w->count && type_fits(w->type, t) ? IS_TRUE | BY_TYPE : 0;
	case WHEN_SHARE:
		return t && t->share > w->share && type_fits(w->type, t) ? IS_TRUE | BY_TYPE : 0;
	case WHEN_RSS:
		return o->rss_bytes > w->bytes;
	case WHEN_CGROUP:
		return o->cgroup_share >= 0 && o->cgroup_share > w->share;
	case WHEN_ALL:
		for (size_t i = 0; i < w->n_children; i++) {
			unsigned r = evaluate(&w->children[i], o, t);

			if (!r)
				return 0;
			all |= r;
		}
		return w->n_children ? all : 0;
	case WHEN_ANY:
		for (size_t i = 0; i < w->n_children; i++)
			any |= evaluate(&w->children[i], o, t);
		return any;
	}
	return 0;
}

struct words {
	char *buf;
	size_t size, at;
};

static void _printf_(2, 3) say(struct words *w, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(w->buf + w->at, w->size - w->at, fmt, ap);
	va_end(ap);
	if (n > 0)
		w->at = MIN(w->at + (size_t)n, w->size - 1);
}

/* The conditions that are true, in words. */
static void describe(const struct config_when *w, const struct trigger_observation *o,
	const struct trigger_type_state *t, struct words *out, bool *first)
{
	char a[32], b[32];

	if (!evaluate(w, o, t))
		return;
	if (w->kind == WHEN_ALL || w->kind == WHEN_ANY) {
		for (size_t i = 0; i < w->n_children; i++)
			describe(&w->children[i], o, t, out, first);
		return;
	}
	say(out, "%s", *first ? "" : " and ");
	*first = false;
	switch (w->kind) {
	case WHEN_VERDICT:
		say(out, "verdict %s", track_verdict_name(t->verdict));
		break;
	case WHEN_COUNT:
		say(out, "%" PRId64 " objects, above %" PRIu64, t->count, w->count);
		break;
	case WHEN_RATE:
		say(out, "grows by %.0f an hour, above %" PRIu64, t->rate_per_hour, w->count);
		break;
	case WHEN_SHARE:
		say(out, "%.1f %% of all objects, above %.1f %%", t->share * 100, w->share * 100);
		break;
	case WHEN_RSS:
		say(out, "%s resident, above %s", format_size(a, sizeof(a), o->rss_bytes),
			format_size(b, sizeof(b), w->bytes));
		break;
	default:
		say(out, "%.1f %% of the memory limit, above %.1f %%", o->cgroup_share * 100,
			w->share * 100);
	}
}

/* ---- who fired when ---------------------------------------------------------------------------- */

static int key_cmp(const struct key *k, const char *service, const char *trigger, const char *type)
{
	int r = strcmp(k->service, service);

	if (!r)
		r = strcmp(k->trigger, trigger);
	return r ? r : strcmp(k->type, type);
}

/* Index of the key, or of where it belongs. */
static size_t key_find(const struct trigger_engine *e, const char *service, const char *trigger,
	const char *type, bool *ret_found)
{
	size_t lo = 0, hi = e->n_keys;

	*ret_found = false;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int r = key_cmp(&e->keys[mid], service, trigger, type);

		if (!r) {
			*ret_found = true;
			return mid;
		}
		if (r < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* That key, which may be new; NULL: no room. */
static struct key *key_get(
	struct trigger_engine *e, const char *service, const char *trigger, const char *type)
{
	bool found;
	size_t i = key_find(e, service, trigger, type, &found);

	if (!found) {
		struct key new = {.service = strdup(service), .trigger = strdup(trigger), .type = strdup(type)};
		struct key *keys = NULL;

		if (e->n_keys < KEYS_MAX)
			keys = reallocarray(e->keys, e->n_keys + 1, sizeof(*keys));
		if (keys)
			e->keys = keys;
		if (!keys || !new.service || !new.trigger || !new.type) {
			key_release(&new);
			return NULL;
		}
		memmove(&keys[i + 1], &keys[i], (e->n_keys - i) * sizeof(*keys));
		keys[i] = new;
		e->n_keys++;
	}
	return &e->keys[i];
}

static int key_add(struct trigger_engine *e, const char *service, const char *trigger,
	const char *type, int64_t at_ms)
{
	struct key *k = key_get(e, service, trigger, type);
	int64_t *times;
	size_t pos;

	if (!k)
		return -ENOMEM;
	if (k->n >= FIRINGS_MAX) { /* the oldest no longer matters for any quota */
		memmove(k->at_ms, k->at_ms + 1, (k->n - 1) * sizeof(*k->at_ms));
		k->n--;
	}
	times = reallocarray(k->at_ms, k->n + 1, sizeof(*times));
	if (!times)
		return -ENOMEM;
	k->at_ms = times;
	for (pos = k->n; pos && times[pos - 1] > at_ms; pos--)
		times[pos] = times[pos - 1];
	times[pos] = at_ms;
	k->n++;
	return 0;
}

/* Whether that firing of another engine is known. */
static bool key_has(const struct trigger_engine *e, const struct key *k, int64_t at_ms)
{
	bool found;
	size_t i = key_find(e, k->service, k->trigger, k->type, &found);

	for (size_t n = 0; found && n < e->keys[i].n; n++)
		if (e->keys[i].at_ms[n] == at_ms)
			return true;
	return false;
}

static int64_t cooldown_ms(const struct config_trigger *r)
{
	return (int64_t)(r->cooldown_ns / 1000000);
}

/* Drops what no cooldown and no quota needs any more. */
static void prune(struct trigger_engine *e, int64_t now)
{
	int64_t longest = DAY_MS;
	size_t out = 0;

	if (now >= e->pruned_ms && now - e->pruned_ms < PRUNE_MS)
		return;
	e->pruned_ms = now;
	for (size_t i = 0; i < e->n_rules; i++)
		longest = MAX(longest, cooldown_ms(&e->rules[i]));
	for (size_t i = 0; i < e->n_keys; i++) {
		struct key *k = &e->keys[i];
		size_t old = 0;

		while (old < k->n && now - k->at_ms[old] > longest)
			old++;
		if (old)
			memmove(k->at_ms, k->at_ms + old, (k->n - old) * sizeof(*k->at_ms));
		k->n -= old;
		if (k->n || k->again_ms > now)
			e->keys[out++] = *k;
		else
			key_release(k);
	}
	e->n_keys = out;
}

/* The clock went back: a firing in its future would hold back until then, a year if need be. */
static void clamp_future(struct trigger_engine *e, int64_t now)
{
	for (size_t i = 0; now < e->last_ms && i < e->n_keys; i++) {
		e->keys[i].again_ms = MIN(e->keys[i].again_ms, now);
		for (size_t n = 0; n < e->keys[i].n; n++)
			e->keys[i].at_ms[n] = MIN(e->keys[i].at_ms[n], now);
	}
	e->last_ms = now;
}

/* Do cooldown and quota of the key let it fire? */
static bool may_fire(struct trigger_engine *e, const struct config_trigger *r, const char *service,
	const char *type, int64_t now)
{
	unsigned today = 0;
	struct key *k;
	bool found;
	size_t i = key_find(e, service, r->name, type, &found);

	if (!found)
		return true;
	k = &e->keys[i];
	for (size_t n = 0; n < k->n; n++) {
		today += now - k->at_ms[n] < DAY_MS;
	}
	return (!k->n || now - k->at_ms[k->n - 1] >= cooldown_ms(r)) && today < r->per_day &&
	       now >= k->again_ms;
}

static int64_t clamp_time(int64_t ms)
{
	return MAX(MIN(ms, TIME_MAX_MS), 0);
}

int trigger_engine_import(struct trigger_engine *e, const struct trigger_record *r)
{
	char service[sizeof(r->service)], trigger[sizeof(r->trigger)], type[sizeof(r->type)];

	snprintf(service, sizeof(service), "%.*s", (int)sizeof(service) - 1, r->service);
	snprintf(trigger, sizeof(trigger), "%.*s", (int)sizeof(trigger) - 1, r->trigger);
	snprintf(type, sizeof(type), "%.*s", (int)sizeof(type) - 1, r->type);
	e->last_ms = TIME_MAX_MS; /* the next observation looks at it */
	return key_add(e, service, trigger, type, clamp_time(r->at_ms));
}

/* ---- what is true, and for how long -------------------------------------------------------------- */

/* Conditions that are true in one observation. */
struct truth {
	unsigned rule;
	unsigned how;                          /* of evaluate() */
	const struct trigger_type_state *type; /* NULL: the process */
	char name[256];
};

struct truths {
	struct truth *list;
	size_t n, cap;
};

static int truths_add(
	struct truths *t, unsigned rule, unsigned how, const struct trigger_type_state *type)
{
	struct truth *new;

	if (t->n >= TRUE_MAX)
		return 0;
	if (t->n == t->cap) {
		size_t cap = MAX(t->cap * 2, 8);
		struct truth *list = reallocarray(t->list, cap, sizeof(*list));

		if (!list)
			return -ENOMEM;
		t->list = list;
		t->cap = cap;
	}
	new = &t->list[t->n++];
	new->rule = rule;
	new->how = how;
	new->type = type;
	snprintf(new->name, sizeof(new->name), "%s", type ? type->type : "");
	return 0;
}

static int truth_cmp(const void *a, const void *b)
{
	const struct truth *x = a, *y = b;

	return x->rule != y->rule ? (x->rule > y->rule) - (x->rule < y->rule)
				  : strcmp(x->name, y->name);
}

static int find_truths(
	const struct trigger_engine *e, const struct trigger_observation *o, struct truths *t)
{
	size_t n = 0;

	for (unsigned i = 0; i < e->n_rules; i++) {
		unsigned how = evaluate(&e->rules[i].when, o, NULL);
		int r = how ? truths_add(t, i, how, NULL) : 0;

		for (size_t k = 0; k < o->n_types && !r; k++) {
			how = evaluate(&e->rules[i].when, o, &o->types[k]);
			if (how & BY_TYPE && o->types[k].type[0])
				r = truths_add(t, i, how, &o->types[k]);
		}
		if (r)
			return r;
	}
	if (!t->n)
		return 0;
	qsort(t->list, t->n, sizeof(*t->list), truth_cmp);
	for (size_t i = 1; i < t->n; i++) /* types of one name are one */
		if (truth_cmp(&t->list[n], &t->list[i]))
			t->list[++n] = t->list[i];
	t->n = n + 1;
	return 0;
}

static struct process *get_process(
	struct trigger_engine *e, const char *service, int32_t pid, int64_t now)
{
	size_t oldest = 0;
	struct process *p;

	for (size_t i = 0; i < e->n_processes; i++) {
		p = &e->processes[i];
		if (p->pid == pid && !strcmp(p->service, service))
			return p;
		if (p->seen_ms < e->processes[oldest].seen_ms)
			oldest = i;
	}
	if (e->n_processes >= PROCESSES_MAX) {
		process_release(&e->processes[oldest]);
		e->processes[oldest] = e->processes[--e->n_processes];
	}
	p = reallocarray(e->processes, e->n_processes + 1, sizeof(*p));
	if (!p)
		return NULL;
	e->processes = p;
	p = &p[e->n_processes];
	*p = (struct process){.service = strdup(service), .pid = pid, .seen_ms = now};
	if (!p->service)
		return NULL;
	e->n_processes++;
	return p;
}

/* What was true and still is keeps its time; the rest is new, or gone. Both lists are sorted. */
static int update_holds(struct process *p, const struct truths *t, int64_t now)
{
	struct hold *holds = calloc(MAX(t->n, 1), sizeof(*holds));
	size_t old = 0, n = 0;

	if (!holds)
		return -ENOMEM;
	for (; n < t->n; n++) { /* first what can fail */
		holds[n].type = strdup(t->list[n].name);
		if (holds[n].type)
			continue;
		while (n--)
			hold_release(&holds[n]);
		free(holds);
		return -ENOMEM;
	}
	for (size_t i = 0; i < n; i++) {
		struct hold *h = &holds[i];
		int r = 1;

		h->rule = t->list[i].rule;
		h->since_ms = now;
		for (; old < p->n_holds; old++) {
			const struct hold *was = &p->holds[old];

			r = was->rule != h->rule ? (was->rule > h->rule) - (was->rule < h->rule)
						 : strcmp(was->type, h->type);
			if (r >= 0)
				break;
		}
		if (old < p->n_holds && !r) {
			h->since_ms = MIN(p->holds[old].since_ms, now);
			h->fired = p->holds[old].fired;
			h->suppressed = p->holds[old].suppressed;
		}
	}
	for (size_t i = 0; i < p->n_holds; i++)
		hold_release(&p->holds[i]);
	free(p->holds);
	p->holds = holds;
	p->n_holds = n;
	return 0;
}

static void fill_firing(struct trigger_firing *f, const struct config_trigger *r,
	const struct truth *t, const struct trigger_observation *o, int64_t now, int64_t held_ms)
{
	struct words w = {f->reason, sizeof(f->reason), 0};
	bool first = true;
	char buf[32];

	*f = (struct trigger_firing){
		.trigger = r->name,
		.kind = t->how & BY_VERDICT ? "verdict" : "threshold",
		.actions = r->actions,
		.at_ms = now,
	};
	memcpy(f->type, t->name, sizeof(f->type));
	if (t->name[0])
		say(&w, "%s: ", t->name);
	describe(&r->when, o, t->type, &w, &first);
	if (held_ms > 0)
		say(&w, ", held for %s",
			format_duration(buf, sizeof(buf), (uint64_t)held_ms * 1000000));
}

int trigger_engine_observe(struct trigger_engine *e, const struct trigger_observation *o,
	struct trigger_firing **ret, size_t *ret_n)
{
	_cleanup_free_ struct trigger_firing *firings = NULL;
	int64_t now = clamp_time(o->at_ms);
	struct truths truths = {0};
	struct process *p;
	char service[256];
	size_t n = 0;
	int r;

	snprintf(service, sizeof(service), "%s", o->service);
	clamp_future(e, now);
	prune(e, now);
	r = find_truths(e, o, &truths);
	p = r ? NULL : get_process(e, service, o->pid, now);
	if (!r)
		r = p ? update_holds(p, &truths, now) : -ENOMEM;
	for (size_t i = 0; !r && i < truths.n; i++) {
		const struct config_trigger *rule = &e->rules[truths.list[i].rule];
		struct hold *h = &p->holds[i];
		struct trigger_firing *f;

		if ((uint64_t)(now - h->since_ms) < rule->hold_ns / 1000000)
			continue;
		if (h->fired && !rule->cooldown_ns)
			continue;
		if (!may_fire(e, rule, service, h->type, now)) {
			if (!h->fired && !h->suppressed)
				e->suppressed++;
			h->suppressed = true;
			continue;
		}
		f = reallocarray(firings, n + 1, sizeof(*f));
		if (!f)
			break; /* still true: the next observation tries again */
		firings = f;
		if (key_add(e, service, rule->name, h->type, now)) {
			e->suppressed++; /* never act on what cannot be held back afterwards */
			break;
		}
		fill_firing(&firings[n++], rule, &truths.list[i], o, now, now - h->since_ms);
		h->fired = true;
		h->suppressed = false;
	}
	if (p)
		p->seen_ms = now;
	free(truths.list);
	if (r)
		return r;
	*ret = TAKE_PTR(firings);
	*ret_n = n;
	return 0;
}

static const struct config_trigger *rule_named(const struct trigger_engine *e, const char *name)
{
	for (size_t i = 0; i < e->n_rules; i++)
		if (!strcmp(e->rules[i].name, name))
			return &e->rules[i];
	return NULL;
}

void trigger_engine_release(
	struct trigger_engine *e, const struct trigger_record *r, int32_t pid, int64_t retry_ms)
{
	const struct config_trigger *rule = rule_named(e, r->trigger);
	bool found;
	size_t i = key_find(e, r->service, r->trigger, r->type, &found);
	struct key *k;

	if (!rule || !found)
		return;
	k = &e->keys[i];
	for (size_t n = 0; n < k->n; n++)
		if (k->at_ms[n] == r->at_ms) {
			memmove(k->at_ms + n, k->at_ms + n + 1, (k->n - n - 1) * sizeof(*k->at_ms));
			k->n--;
			break;
		}
	if (rule->cooldown_ns)
		retry_ms = MIN(retry_ms, cooldown_ms(rule));
	k->again_ms = r->at_ms + retry_ms;
	for (size_t p = 0; p < e->n_processes; p++) {
		struct process *of = &e->processes[p];

		for (size_t h = 0; of->pid == pid && h < of->n_holds; h++)
			if (&e->rules[of->holds[h].rule] == rule && !strcmp(of->holds[h].type, r->type) &&
				!strcmp(of->service, r->service))
				of->holds[h].fired = false;
	}
}

void trigger_engine_forget(struct trigger_engine *e, const char *service, int32_t pid)
{
	char name[256];

	snprintf(name, sizeof(name), "%s", service);
	for (size_t i = 0; i < e->n_processes; i++) {
		struct process *p = &e->processes[i];

		if (p->pid != pid || strcmp(p->service, name))
			continue;
		process_release(p);
		*p = e->processes[--e->n_processes];
		return;
	}
}

/* ---- new rules ----------------------------------------------------------------------------------- */

static bool when_same(const struct config_when *a, const struct config_when *b)
{
	bool same = a->kind == b->kind && a->verdict == b->verdict && a->count == b->count &&
		    a->bytes == b->bytes && a->share == b->share && !a->type == !b->type &&
		    a->n_children == b->n_children;

	if (!same || (a->type && strcmp(a->type, b->type) != 0))
		return false;
	for (size_t i = 0; i < a->n_children; i++)
		if (!when_same(&a->children[i], &b->children[i]))
			return false;
	return true;
}

static int hold_cmp(const void *a, const void *b)
{
	const struct hold *x = a, *y = b;

	return x->rule != y->rule ? (x->rule > y->rule) - (x->rule < y->rule) : strcmp(x->type, y->type);
}

/* Of the other's rules the number here; n_rules: it is none any more. */
static unsigned rule_now(const struct trigger_engine *e, const struct config_trigger *was)
{
	unsigned i = 0;

	while (i < e->n_rules &&
		(strcmp(e->rules[i].name, was->name) != 0 || !when_same(&e->rules[i].when, &was->when)))
		i++;
	return i;
}

static void renumber_holds(const struct trigger_engine *e, const struct trigger_engine *old, struct process *p)
{
	size_t n = 0;

	for (size_t i = 0; i < p->n_holds; i++) {
		struct hold *h = &p->holds[i];

		h->rule = rule_now(e, &old->rules[h->rule]);
		if (h->rule < e->n_rules)
			p->holds[n++] = *h;
		else
			hold_release(h);
	}
	p->n_holds = n;
	if (n)
		qsort(p->holds, n, sizeof(*p->holds), hold_cmp);
}

int trigger_engine_take_over(struct trigger_engine *e, struct trigger_engine *old)
{
	for (size_t i = 0; i < old->n_processes; i++)
		renumber_holds(e, old, &old->processes[i]);
	e->processes = TAKE_PTR(old->processes);
	e->n_processes = old->n_processes;
	old->n_processes = 0;
	e->suppressed = old->suppressed;
	e->last_ms = MAX(e->last_ms, old->last_ms);
	for (size_t i = 0; i < old->n_keys; i++) {
		const struct key *k = &old->keys[i];
		struct key *now;

		for (size_t n = 0; n < k->n; n++)
			if (!key_has(e, k, k->at_ms[n]) &&
				key_add(e, k->service, k->trigger, k->type, k->at_ms[n]))
				return -ENOMEM;
		now = key_get(e, k->service, k->trigger, k->type);
		if (!now)
			return -ENOMEM;
		now->again_ms = k->again_ms;
	}
	return 0;
}

uint64_t trigger_engine_suppressed(const struct trigger_engine *e)
{
	return e->suppressed;
}
