/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "daemon/python/mem.h"
#include "daemon/util/log.h"
#include "daemon/watch/target_private.h"

#define TYPES_MAX 65536
#define FREE_LIST 80 /* of lists and dicts: listobject.c, dictobject.c; most are shorter */
#define BASES_MAX 64 /* classes above each other */
#define OWN_MIN   100 /* births, or objects from one census to the next; fewer are not worth probes */

/* ---- types --------------------------------------------------------------------------------- */

static void type_law_reset(struct target_type *ty)
{
	bool listed = !strcmp(ty->info.name, "list") || !strcmp(ty->info.name, "dict");

	/* They are born in allocators and die in PyObject_GC_Del(), but for their free lists. */
	ty->law = (struct law){.slack = listed ? FREE_LIST : 0, .closed = listed};
	ty->looked_at_dealloc = false;
	ty->foreign = ty->hides = ty->whole = ty->sets_asked = false;
	free(ty->sets);
	ty->sets = NULL;
}

void type_hides(struct target_type *ty)
{
	ty->law = (struct law){0};
	ty->always_tracked = false;
	ty->hides = true;
}

static bool in_interpreter(const struct target *t, uint64_t function)
{
	return elf_image_is_code(t->py->elf, function - t->py->bias);
}

/* Where the instances end: the function in tp_dealloc, or what subtype_dealloc() calls. */
static int type_end(const struct target *t, const struct target_type *ty, uint64_t *ret)
{
	uint64_t at = ty->addr;
	int r = -ELOOP;

	for (int i = 0; i < BASES_MAX; i++) {
		r = mem_read_u64(t->py->id.pid, at + OFF_TP_DEALLOC, ret);
		if (r || *ret != t->subtype_dealloc)
			return r;
		r = mem_read_u64(t->py->id.pid, at + OFF_TP_BASE, &at);
		if (r)
			return r;
	}
	return r;
}

/* Where they begin: the first function of an extension in tp_new, or else in tp_alloc. 0: nowhere; what
 * CPython has in those slots leads to a site. */
static uint64_t type_begin(const struct target *t, const struct target_type *ty)
{
	static const int slots[] = {OFF_TP_NEW, OFF_TP_ALLOC};
	uint64_t at, function;

	for (size_t k = 0; k < ARRAY_SIZE(slots); k++) {
		at = ty->addr;
		for (int i = 0; i < BASES_MAX && at; i++) {
			if (mem_read_u64(t->py->id.pid, at + (uint64_t)slots[k], &function))
				return 0;
			if (function && !in_interpreter(t, function))
				return function;
			if (mem_read_u64(t->py->id.pid, at + OFF_TP_BASE, &at))
				return 0;
		}
	}
	return 0;
}

/* Has a foreign type counted at its own functions, once there is enough to be counted. */
static void ask_for_sets(struct target *t, struct target_type *ty)
{
	uint64_t end;
	int r;

	if (!ty->foreign || ty->hides || ty->sets_asked || !target_counts_all(t) ||
		MAX(MAX(ty->births, ty->deaths), MAX(ty->live, ty->law.step)) < OWN_MIN)
		return;
	ty->sets_asked = true;
	if (type_end(t, ty, &end))
		return;
	r = probe_target_own(t->pt, ty->addr, type_begin(t, ty), end);
	if (r != -E2BIG)
		return;
	ty->sets_asked = false; /* there is room when others have died */
	if (!t->sets_full)
		log_warning("pid %d: no room to count %s, a type of an extension, at its own functions, "
			    "or more of that kind: they are counted at CPython's allocators only",
			t->info.id.pid, ty->info.name);
	t->sets_full = true;
}

/*
 * Instances of what a class statement has made are born by tp_alloc and die in subtype_dealloc(),
 * which frees them by tp_free: always sites (Objects/typeobject.c). That local function stands in
 * tp_dealloc of such a type, one of which every Python has. It asks the class's base first, though,
 * and where that is an extension's anything may happen to them.
 */
void types_close(struct target *t)
{
	for (size_t i = 0; !t->subtype_dealloc && i < t->n_types; i++)
		if (!strcmp(t->types[i]->info.name, "_frozen_importlib.ModuleSpec") &&
			mem_read_u64(t->py->id.pid, t->types[i]->addr + OFF_TP_DEALLOC,
				&t->subtype_dealloc))
			t->subtype_dealloc = 0;
	for (size_t i = 0; t->subtype_dealloc && i < t->n_types; i++) {
		struct target_type *ty = t->types[i];
		uint64_t dealloc, end;

		ask_for_sets(t, ty);
		if (ty->looked_at_dealloc || !(ty->info.flags & TPFLAGS_HAVE_GC))
			continue;
		ty->looked_at_dealloc = true;
		ty->foreign = type_end(t, ty, &end) || !in_interpreter(t, end);
		if (ty->info.heap && !ty->foreign)
			ty->law.closed =
				!mem_read_u64(t->py->id.pid, ty->addr + OFF_TP_DEALLOC, &dealloc) &&
				dealloc == t->subtype_dealloc;
	}
}

static void type_unname(struct target_type *ty)
{
	if (ty->named)
		free((char *)ty->info.name);
	ty->info.name = "";
	ty->named = false;
}

static int type_read(struct target *t, struct target_type *ty)
{
	struct python_type p;
	char *name;
	int r = python_type_read(t->py, ty->addr, &p);

	if (r)
		return r;
	name = strdup(p.name);
	if (!name)
		return -ENOMEM;
	type_unname(ty);
	ty->named = true;
	ty->info.name = name;
	ty->info.flags = p.flags;
	ty->info.basicsize = p.basicsize;
	ty->info.itemsize = p.itemsize;
	ty->info.heap = p.heap;
	return 0;
}

static void type_drop(struct target *t, size_t i)
{
	struct target_type *ty = t->types[i];
	uint64_t *slot = u64map_get(&t->by_addr, ty->addr);

	if (slot && *slot == (uint64_t)(uintptr_t)ty)
		u64map_remove(&t->by_addr, ty->addr);
	if (ty->track)
		track_forget(t->track, ty->serial);
	t->types[i] = t->types[--t->n_types];
	type_unname(ty);
	free(ty->sets);
	free(ty);
}

struct target_type *type_find(struct target *t, uint64_t addr)
{
	uint64_t *slot = u64map_get(&t->by_addr, addr);

	return slot ? (struct target_type *)(uintptr_t)*slot : NULL;
}

struct target_type *type_new(struct target *t, uint64_t addr)
{
	struct target_type *ty;

	if (t->n_types >= TYPES_MAX) {
		if (!t->dropped_types++)
			log_warning("pid %d: more than %d types, the others are not shown",
				t->info.id.pid, TYPES_MAX);
		return NULL;
	}
	if (t->n_types == t->cap_types) {
		size_t cap = t->cap_types ? 2 * t->cap_types : 256;
		struct target_type **v = reallocarray(t->types, cap, sizeof(*v));

		if (!v)
			return NULL;
		t->types = v;
		t->cap_types = cap;
	}
	ty = calloc(1, sizeof(*ty));
	if (!ty)
		return NULL;
	ty->addr = addr;
	ty->info.name = "";
	ty->birth_rate = ty->death_rate = ty->birth_bound = ty->death_bound = -1;
	ty->serial = ++t->serial;
	if (u64map_put(&t->by_addr, addr, (uint64_t)(uintptr_t)ty)) {
		free(ty);
		return NULL;
	}
	t->types[t->n_types++] = ty;
	return ty;
}

/* All instances are in the collector's rings from birth to death, so that the census is the whole
 * level. Not so for exact dicts and tuples: CPython untracks those of plain values (dictobject.c
 * MAINTAIN_TRACKING up to 3.13, which 3.14 does without; tupleobject.c _PyTuple_MaybeUntrack). */
static bool always_tracked(const struct target *t, const struct target_type *ty)
{
	if (!(ty->info.flags & TPFLAGS_HAVE_GC))
		return false;
	if (!strcmp(ty->info.name, "dict"))
		return t->py->minor >= 14;
	return strcmp(ty->info.name, "tuple") != 0;
}

/* Of what stays the same as long as a class lives: its metatype and the text of its name. */
static uint64_t print_of(const struct target *t, uint64_t addr)
{
	uint64_t head[4]; /* reference count, type, size, tp_name */

	if (mem_read(t->py->id.pid, addr, head, sizeof(head)) || !(uint32_t)head[0])
		return 0;
	return head[1] * 31 + head[3];
}

void types_validate(struct target *t)
{
	for (size_t i = 0; i < t->n_types;) {
		struct target_type *ty = t->types[i];

		if (!ty->named || !ty->info.heap || print_of(t, ty->addr) == ty->print) {
			i++;
			continue;
		}
		probe_target_forget(t->pt, ty->addr);
		type_drop(t, i);
	}
}

static void type_gap(struct target_type *ty)
{
	law_gap(&ty->law);
	for (unsigned s = 0; ty->sets && s < N_SETS; s++)
		law_gap(&ty->sets->law[s]);
}

void types_gap(struct target *t)
{
	for (size_t i = 0; i < t->n_types; i++)
		type_gap(t->types[i]);
}

void type_name(struct target *t, struct target_type *ty)
{
	if (ty->named)
		return;
	if (type_read(t, ty))
		return;
	ty->always_tracked = always_tracked(t, ty);
	ty->print = print_of(t, ty->addr);
	type_law_reset(ty);
	ty->track = track_type_get(t->track, ty->serial, ty->info.name);
	target_kept_type(t, ty);
}

bool type_found(struct target *t, uint64_t addr)
{
	struct target_type *ty = type_find(t, addr) ? NULL : type_new(t, addr);

	if (!ty)
		return false;
	type_name(t, ty);
	if (ty->named)
		return true;
	type_drop(t, t->n_types - 1); /* it only looked like one */
	return false;
}

/* Some of its births and deaths are a pop from and a push to a list of the interpreter's own, which
 * no site sees: the level may be off by the length of that list however often it was right. */
static bool has_free_list(const struct target_type *ty)
{
	static const char *const names[] = {"list", "dict", "tuple", "float", "frame", "slice",
		"method", "builtin_function_or_method", "Context", "async_generator_asend",
		"async_generator_wrapped_value", "range_iterator", "list_iterator",
		"tuple_iterator"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(ty->info.name, names[i]))
			return true;
	return false;
}

void types_release(struct target *t)
{
	while (t->n_types)
		type_drop(t, t->n_types - 1);
	free(t->types);
	u64map_release(&t->by_addr);
}

/* Both numbers go on where those of the sites are. */
static void sets_begin(struct target_type *ty, const struct probe_count *c)
{
	struct target_sets *s = calloc(1, sizeof(*s));

	if (!s)
		return;
	s->births[0] = c->births;
	s->deaths[0] = c->deaths;
	s->births[1] = law_births(&ty->law, c->births);
	s->deaths[1] = law_deaths(&ty->law, c->deaths);
	s->births0 = s->births[1] - c->own_births;
	s->deaths0 = s->deaths[1] - c->own_deaths;
	ty->sets = s;
}

static void take_counts(struct target_type *ty, const struct probe_count *c)
{
	struct target_sets *s = ty->sets;

	if (!s) {
		/* Of types without collector they begin anew each time that deaths are seen again. */
		ty->births += c->births - (c->births < ty->read_births ? 0 : ty->read_births);
		ty->read_births = c->births;
		ty->deaths = c->deaths;
		if (c->own && ty->foreign && !ty->hides)
			sets_begin(ty, c);
		return;
	}
	s->births[0] = c->births;
	s->deaths[0] = c->deaths;
	if (c->own) {
		s->births[1] = s->births0 + c->own_births;
		s->deaths[1] = s->deaths0 + c->own_deaths;
	}
	ty->births = s->births[!!(s->chosen & SETS_OWN_BIRTHS)];
	ty->deaths = s->deaths[!!(s->chosen & SETS_OWN_DEATHS)];
}

int read_counters(struct target *t)
{
	_cleanup_free_ struct probe_count *c = NULL;
	uint64_t hits = target_hits(t);
	size_t n;
	int r;

	if (t->read && probe_target_scope(t->pt) == PROBE_NOTHING && hits == t->read_hits)
		return 0; /* as it was */
	r = probe_target_read(t->pt, &c, &n, &t->totals);
	if (r)
		return r;
	t->read = true;
	t->read_hits = hits;
	if (t->totals.gap)
		types_gap(t);
	/* Obituaries first: the address may have been used again already. */
	for (size_t i = 0; i < n; i++) {
		struct target_type *ty = c[i].gone ? type_find(t, c[i].type) : NULL;

		if (ty && (ty->incarnation == c[i].incarnation || !ty->incarnation))
			ty->gone = true;
	}
	for (size_t i = 0; i < t->n_types;) {
		if (t->types[i]->gone)
			type_drop(t, i);
		else
			i++;
	}
	for (size_t i = 0; i < n; i++) {
		struct target_type *ty;

		if (c[i].gone)
			continue;
		ty = type_find(t, c[i].type);
		if (ty && ty->incarnation && ty->incarnation != c[i].incarnation) {
			/* Another type lives there now; its obituary was lost or comes later. */
			for (size_t k = 0; k < t->n_types; k++)
				if (t->types[k] == ty) {
					type_drop(t, k);
					break;
				}
			ty = NULL;
		}
		if (!ty)
			ty = type_new(t, c[i].type);
		if (!ty)
			continue;
		if (!ty->incarnation) {
			/* Known from a census only, until now: is it still the same type? */
			char old[TYPE_NAME_MAX];
			bool was = ty->named;

			snprintf(old, sizeof(old), "%s", ty->info.name);
			ty->incarnation = c[i].incarnation;
			if (was && (type_read(t, ty) || strcmp(old, ty->info.name))) {
				track_forget(t->track, ty->serial);
				ty->serial = ++t->serial;
				ty->track = NULL;
				ty->census = false;
				type_unname(ty);
				ty->blocks.known = ty->blocks.asked = false;
			}
		}
		type_name(t, ty);
		take_counts(ty, &c[i]);
		ty->instances = c[i].instances;
	}
	if (t->totals.gap)
		types_validate(t); /* of some the obituary may be lost */
	return 0;
}

/* ---- quality ------------------------------------------------------------------------------- */

void type_census(
	struct target_type *ty, uint64_t min, uint64_t max, uint64_t births, uint64_t deaths)
{
	ty->census = true;
	if (ty->always_tracked) {
		law_census(&ty->law, min, max, births, deaths);
		law_census_range(&ty->law, &min, &max);
	}
	ty->live = min + (max - min) / 2;
	ty->live_bound = max - ty->live;
}

static const struct law *set_law(const struct target_type *ty, unsigned set)
{
	return set == ty->sets->chosen ? &ty->law : &ty->sets->law[set];
}

/* 2: proven, 1: not refuted so far. */
static int set_worth(const struct law *l)
{
	return law_proven(l) ? 2 : !l->bound;
}

/* Another set is worth more, or has seen more and is worth something: from now on it is the type's. */
static void sets_choose(struct target_type *ty)
{
	struct target_sets *s = ty->sets;
	unsigned best = s->chosen;

	for (unsigned i = 0; i < N_SETS; i++) {
		const struct law *l = set_law(ty, i), *b = set_law(ty, best);
		int more = set_worth(l) - set_worth(b);

		if (more > 0 || (!more && set_worth(l) &&
					l->births + l->deaths > b->births + b->deaths))
			best = i;
	}
	if (best == s->chosen)
		return;
	s->law[s->chosen] = ty->law;
	ty->law = s->law[best];
	s->chosen = best;
}

/* Births and deaths since the last census that others than the chosen counters have seen. Where there is
 * no choice: what it may be. */
static int64_t not_seen(const struct target_type *ty)
{
	const struct target_sets *s = ty->sets;
	const struct law *o;
	int64_t births, deaths;

	if (!s)
		return (int64_t)MAX(
			ty->law.step, ty->births - ty->law.births + ty->deaths - ty->law.deaths);
	o = set_law(ty, s->chosen ^ (SETS_OWN_BIRTHS | SETS_OWN_DEATHS));
	births = (int64_t)(s->births[!(s->chosen & SETS_OWN_BIRTHS)] - o->births -
			   (ty->births - ty->law.births));
	deaths = (int64_t)(s->deaths[!(s->chosen & SETS_OWN_DEATHS)] - o->deaths -
			   (ty->deaths - ty->law.deaths));
	return MAX(births, (int64_t)0) + MAX(deaths, (int64_t)0);
}

/*
 * Of the chosen counters none has missed what the others have seen, but for one that is on its way. Or
 * all births pass both: then no dead one is used again, and what tp_dealloc has seen beyond was one
 * that came back to life, or waited in the trashcan.
 */
static bool sees_all(const struct target_type *ty)
{
	const struct target_sets *s = ty->sets;
	uint64_t births, deaths, more_births, more_deaths;
	const struct law *o;
	bool b, d;

	if (!s || !s->compared)
		return false;
	b = s->chosen & SETS_OWN_BIRTHS;
	d = s->chosen & SETS_OWN_DEATHS;
	o = set_law(ty, s->chosen ^ (SETS_OWN_BIRTHS | SETS_OWN_DEATHS));
	births = ty->law.births - s->births_from[b];
	deaths = ty->law.deaths - s->deaths_from[d];
	more_births = o->births - s->births_from[!b];
	more_deaths = o->deaths - s->deaths_from[!d];
	if (more_births > births + 1)
		return false;
	return more_births + 1 >= births || more_deaths <= deaths + 1;
}

void type_census_found(
	struct target_type *ty, uint64_t min, uint64_t max, const struct census_type *k)
{
	struct target_sets *s = ty->sets;
	uint64_t births[2] = {k->births}, deaths[2] = {k->deaths};

	if (!s || ty->hides) { /* nor can a census prove anything of what it does not see */
		type_census(ty, min, max, k->births, k->deaths);
		return;
	}
	if (!k->own)
		type_gap(ty);
	births[1] = k->own ? s->births0 + k->own_births : s->births[1];
	deaths[1] = k->own ? s->deaths0 + k->own_deaths : s->deaths[1];
	if (k->own && !s->compared) {
		s->compared = true;
		memcpy(s->births_from, births, sizeof(births));
		memcpy(s->deaths_from, deaths, sizeof(deaths));
	}
	for (unsigned i = 0; i < N_SETS; i++) {
		bool b = i & SETS_OWN_BIRTHS, d = i & SETS_OWN_DEATHS;

		if (i == s->chosen)
			type_census(ty, min, max, births[b], deaths[d]);
		else
			law_census(&s->law[i], min, max, births[b], deaths[d]);
	}
	sets_choose(ty);
}

bool at_census(const struct target *t)
{
	return t->sampled_ms && t->sampled_ms == t->census.at_ms;
}

bool target_type_in_blocks(const struct target_type *ty)
{
	return ty->named && !ty->always_tracked &&
	       (!(ty->info.flags & TPFLAGS_HAVE_GC) || ty->hides ||
		       !strcmp(ty->info.name, "dict") || !strcmp(ty->info.name, "tuple"));
}

bool target_type_judged(const struct target_type *ty)
{
	return ty->census || ty->law.begun || ty->blocks.known ||
	       (ty->info.heap && (ty->info.flags & TPFLAGS_HAVE_GC));
}

int64_t target_type_level(const struct target *t, const struct target_type *ty, int64_t *ret_bound)
{
	int64_t level = TRACK_UNKNOWN, bound = -1;

	if (ty->blocks.known) {
		level = target_blocks_level(t, ty, &bound);
	} else if (ty->law.begun && ty->always_tracked) {
		if (at_census(t)) {
			level = law_census_level(&ty->law, &bound);
		} else {
			level = law_level(&ty->law, ty->births, ty->deaths, &bound);
			if (has_free_list(ty))
				bound = MAX(bound, (int64_t)FREE_LIST);
			if (ty->foreign && !sees_all(ty))
				bound = MAX(bound, DOUBT + not_seen(ty));
		}
		if (ty->foreign && !ty->whole)
			bound = MAX(bound, (int64_t)DOUBT);
	}
	if (ret_bound)
		*ret_bound = bound;
	return level;
}

static bool counts_exactly(const struct target_type *ty)
{
	return law_proven(&ty->law) && !has_free_list(ty) && (!ty->foreign || sees_all(ty));
}

enum track_quality target_type_quality(const struct target *t, const struct target_type *ty)
{
	if (ty->blocks.known)
		return TRACK_ESTIMATE;
	if (!ty->law.begun || !ty->always_tracked)
		return TRACK_BLIND;
	if (!target_counts_all(t))
		return at_census(t) && ty->law.min == ty->law.max && !(ty->foreign && !ty->whole)
			       ? TRACK_EXACT
			       : TRACK_ESTIMATE;
	return counts_exactly(ty) && !(ty->foreign && !ty->whole) ? TRACK_EXACT : TRACK_ESTIMATE;
}

bool target_type_flow(const struct target_type *ty, uint64_t *ret_births, uint64_t *ret_deaths)
{
	*ret_births = law_births(&ty->law, ty->births);
	*ret_deaths = law_deaths(&ty->law, ty->deaths);
	return ty->births || ty->deaths ||
	       (ty->info.flags & TPFLAGS_HAVE_GC && !*ret_births && !*ret_deaths);
}

enum track_quality target_type_rates_quality(const struct target *t, const struct target_type *ty)
{
	if (!ty->births && !ty->deaths && target_counts_all(t))
		return TRACK_BLIND;
	return target_budget_all_since(t, t->sampled_ms) && counts_exactly(ty) &&
			       !ty->blocks.known && !t->totals.dropped
		       ? TRACK_EXACT
		       : TRACK_ESTIMATE;
}
