/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "daemon/util/units.h"
#include "daemon/watch/target_private.h"

#define READ_MAX         (UINT64_C(4) << 30) /* bytes; a second of the daemon's time */
#define CENSUS_CPU_NS    UINT64_C(5000000) /* of the target's own time, that looking at it may take */
#define NEWS_MAX         2
#define REFUSED_RETRY_NS UINT64_C(600000000000)
#define ASKED_NEXT_NS    UINT64_C(60000000000) /* at the most, after one that was asked for */
#define START_CPU_NS     UINT64_C(10000000) /* an interpreter's start takes as much */
#define MOVED_MAX        1e15 /* objects, so that sums of bounds stay numbers */
#define SMALL_MAX        512 /* bytes, of a block in a pool: obmalloc.c */
#define HEADS_MAX        32  /* in front of an object */
#define TPFLAGS_UNICODE  (UINT64_C(1) << 28) /* a subclass of str */

/* That have no collector, or leave its sight, and live in every Python. */
static const char *const symbols[] = {"PyDict_Type", "PyTuple_Type", "PyUnicode_Type",
	"PyBytes_Type", "PyByteArray_Type", "PyLong_Type", "PyFloat_Type", "PyComplex_Type",
	"PyCode_Type", "PyType_Type"};

void target_blocks_init(struct target *t)
{
	uint64_t addr;

	for (size_t i = 0; i < ARRAY_SIZE(symbols); i++) {
		struct target_type *ty;

		if (python_symbol(t->py, symbols[i], &addr, NULL) || type_find(t, addr))
			continue;
		ty = type_new(t, addr);
		if (ty)
			type_name(t, ty);
	}
}

static void reason_of(struct target *t, int result)
{
	char *to = t->blocks.reason;
	size_t n = sizeof(t->blocks.reason);

	switch (result) {
	case 0:
		to[0] = 0;
		break;
	case -E2BIG:
		snprintf(to, n,
			"how many str, int, dict, ... there are is not known: more than %llu GiB "
			"of "
			"memory, or %llu GiB of addresses, would have to be read; a dump tells",
			(unsigned long long)(READ_MAX >> 30),
			(unsigned long long)(BLOCKS_ADDRESSES_MAX >> 30));
		break;
	case -ENODATA:
		snprintf(to, n,
			"how many str, int, dict, ... there are is not known: part of its memory "
			"is "
			"swapped out, and reading it would bring it back; a dump tells");
		break;
	default:
		snprintf(to, n,
			"how many str, int, dict, ... there are is not known: its memory cannot be "
			"read: %s",
			strerror(-result));
	}
}

/* Objects that a census would count, if there were one: known to the same accuracy as the others. */
static void take_over_tracked(struct target_type *ty, uint64_t count)
{
	uint64_t doubt = MAX((uint64_t)DOUBT, count / 100);

	if (!ty->law.gap && ty->law.begun)
		return; /* counted meanwhile, which is better */
	law_census(&ty->law, count > doubt ? count - doubt : 0, count + doubt, ty->births,
		ty->deaths);
	law_gap(&ty->law);
}

/* What was seen speaks of the instant at which the counters were read before, and is right to within
 * what was born or died until they were read again. */
static void take_over(struct target *t, const struct blocks_type *b)
{
	struct target_type *ty = type_find(t, b->type);
	uint64_t births, deaths, cpu_ns = t->blocks.cpu_ns;
	int64_t before;

	if (!ty || !ty->blocks.asked)
		return;
	ty->blocks.asked = false;
	births = ty->births - ty->blocks.births;
	deaths = ty->deaths - ty->blocks.deaths;
	ty->whole = !b->untracked;
	/* A few may be on their way into the rings. */
	if (ty->foreign && !ty->hides && b->untracked > DOUBT)
		type_hides(ty);
	if (!target_type_in_blocks(ty)) {
		take_over_tracked(ty, b->count);
		return;
	}
	before = law_census_level(&ty->law, NULL);
	law_census(&ty->law, b->count > births ? b->count - births : 0, b->count + deaths,
		ty->blocks.births, ty->blocks.deaths);
	if (!ty->blocks.known) { /* the pace at which it has come to what it has */
		ty->blocks.drift = (double)(law_census_level(&ty->law, NULL) + DOUBT) /
				   (double)MAX(cpu_ns, START_CPU_NS);
	} else if (cpu_ns > ty->blocks.cpu_ns) {
		double drift = fabs((double)(law_census_level(&ty->law, NULL) - before)) /
			       (double)(cpu_ns - ty->blocks.cpu_ns);

		ty->blocks.drift = ty->blocks.measured ? MAX(ty->blocks.drift / 2, drift) : drift;
		ty->blocks.measured = true;
	}
	ty->blocks.cpu_ns = cpu_ns;
	ty->blocks.known = true;
}

int64_t target_blocks_level(
	const struct target *t, const struct target_type *ty, int64_t *ret_bound)
{
	bool counted = !ty->law.gap &&
		       (ty->info.flags & TPFLAGS_HAVE_GC || ty->births || ty->deaths);
	bool still = ty->births == ty->law.births && ty->deaths == ty->law.deaths;
	uint64_t cpu_ns = target_budget_own_cpu_ns(t), used_ns;
	int64_t level, bound;

	level = still ? law_census_level(&ty->law, &bound)
		      : law_level(&ty->law, ty->births, ty->deaths, &bound);
	bound = MAX(bound, MAX((int64_t)DOUBT, level / 100));
	/* Nobody counts births and deaths: it goes on as it did, or twice as fast, as far as one can tell.
	 * While the target does not run nothing moves. */
	used_ns = cpu_ns - MIN(ty->blocks.cpu_ns, cpu_ns);
	if (!counted && used_ns > CENSUS_CPU_NS)
		bound += llround(MIN(2 * ty->blocks.drift * (double)used_ns, MOVED_MAX));
	*ret_bound = bound;
	return level;
}

/* Nothing but readings tells of these, and there are none any more. */
static void forget_uncounted(struct target *t)
{
	for (size_t i = 0; i < t->n_types; i++)
		if (!(t->types[i]->info.flags & TPFLAGS_HAVE_GC))
			t->types[i]->blocks.known = false;
}

/* Of the types that were found some may not have been known: then once more, but not without end where
 * classes are made all the time. */
static void take_over_all(struct target *t, const struct blocks_reading *b)
{
	size_t n;
	const uint64_t *found = blocks_found(b, &n);
	bool news = false;

	for (size_t i = 0; i < n; i++)
		news |= type_found(t, found[i]);
	t->blocks.all_ms = now_realtime_ms();
	t->blocks.found = news ? t->blocks.found + 1 : 0;
	if (!news)
		return;
	t->read_again = t->read_again || (t->readers && t->blocks.found <= NEWS_MAX);
}

static void on_done(void *userdata, const struct blocks_reading *b, int result)
{
	struct target *t = userdata;
	struct blocks_stats stats = blocks_stats(b);
	const struct blocks_type *v;
	size_t n;

	t->blocks.running = false;
	t->blocks.next_ns = now_monotonic_ns();
	if (t->blocks.asked) {
		target_asked_took(t, stats.took_ns);
		t->blocks.next_ns += MIN((uint64_t)((double)stats.took_ns / t->o.turns->readings.share),
			ASKED_NEXT_NS);
	} else {
		t->o.turns->reading--;
		pace_spend(&t->o.turns->readings, t->blocks.next_ns, stats.took_ns);
	}
	if (result && result != -ECANCELED)
		t->blocks.next_ns += REFUSED_RETRY_NS;
	if (!result)
		result = read_counters(t);
	if (result != -ECANCELED)
		reason_of(t, result);
	if (result && result != -ECANCELED)
		forget_uncounted(t);
	if (result || !t->blocks.all)
		t->blocks.found = 0;
	if (!result) {
		v = blocks_types(b, &n);
		for (size_t i = 0; i < n; i++)
			take_over(t, &v[i]);
		if (probe_target_scope(t->pt) != PROBE_EVERYTHING)
			types_gap(t);
		if (t->blocks.all)
			take_over_all(t, b);
	}
	target_blocks_done(t);
}

/* Whether there is nothing better for what the collector tracks: a census, if only now and then. */
static bool wants_all(const struct target *t)
{
	return !target_counts_all(t) && (t->readers || !target_census_is_recent(t));
}

int target_blocks_start(struct target *t)
{
	_cleanup_free_ struct blocks_type *v = NULL;
	struct blocks_reading *b;
	size_t n = 0;
	int r;

	if (t->blocks.running)
		return -EBUSY;
	pace_turn_end(&t->o.turns->readings, &t->blocks.turn);
	t->blocks.cpu_ns = target_budget_own_cpu_ns(t);
	r = read_counters(t);
	if (r)
		return r;
	t->blocks.all = wants_all(t);
	v = calloc(t->n_types + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	for (size_t i = 0; i < t->n_types; i++) {
		struct target_type *ty = t->types[i];

		ty->blocks.asked =
			target_type_in_blocks(ty) || (ty->named && (t->blocks.all || ty->foreign));
		if (!ty->blocks.asked)
			continue;
		ty->blocks.births = ty->births;
		ty->blocks.deaths = ty->deaths;
		v[n++] = (struct blocks_type){.type = ty->addr,
			.gc = ty->info.flags & TPFLAGS_HAVE_GC,
			.before = blocks_before(t->py, ty->info.flags),
			.types = t->blocks.all && ty->info.flags & TPFLAGS_TYPE_SUBCLASS,
			.basicsize = MAX(ty->info.basicsize, (int64_t)0),
			.itemsize = MAX(ty->info.itemsize, (int64_t)0),
			.text = ty->info.flags & TPFLAGS_UNICODE,
			.sizes = ty->info.itemsize || ty->info.flags & TPFLAGS_UNICODE ||
				 ty->info.basicsize + HEADS_MAX > SMALL_MAX};
	}
	r = blocks_open(t->py, v, n, READ_MAX, &b);
	if (r) {
		reason_of(t, r);
		t->blocks.next_ns = now_monotonic_ns() + REFUSED_RETRY_NS;
		return r;
	}
	t->blocks.running = true; /* on_done() may come before reader_ask() returns */
	t->blocks.asked = t->readers;
	t->o.turns->reading += !t->blocks.asked;
	r = reader_ask(t->o.reader, b, on_done, t);
	if (r) {
		t->blocks.running = false;
		t->o.turns->reading -= !t->blocks.asked;
		blocks_free(b);
	}
	return r;
}

bool target_blocks_due(struct target *t)
{
	struct pace *p = &t->o.turns->readings;
	uint64_t now = now_monotonic_ns();

	/* Of those that were found the levels are not known yet. */
	if (t->blocks.found && t->blocks.found <= NEWS_MAX)
		return !t->blocks.running;
	return !t->blocks.running && now >= t->blocks.next_ns &&
	       pace_turn_come(p, &t->blocks.turn, now, target_patience_ns(t)) && !t->o.turns->reading;
}
