/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The census: how many objects of each type the collector tracks, found by walking its rings in
 * hits of probes, in the target's own context with its GIL held. A hit walks for a bounded time; a
 * small heap is done in one, a large one takes steps, between which the target goes on.
 *
 * Why that is sound. Between full collections the order permanent, old, middle, young is stable and
 * births append to the young ring's end, so nothing moves from before the walk to behind it. What
 * is alive when the walk arrives at the end (the closing hit, t1) was therefore visited: that gives
 * W. The second pass goes back from where the closing hit began, so what it meets was alive at t1:
 * that gives B <= alive at t1 <= W. Whatever breaks the order, or leaves no node to go on from,
 * begins the census anew; see enum pyleak_restart. Included by pyleak.bpf.c only.
 */
#ifndef PYLEAK_CENSUS_BPF_H
#define PYLEAK_CENSUS_BPF_H

#include "bpf/census_cursor.bpf.h"

/* How long a step waits for a birth before a death will do. */
#define CENSUS_PATIENCE_NS 100000000L
#define RESTARTS_MAX       3
#define LOOPS              28 /* at most so often LOOP_MAX nodes a step */
#define NODE_NS            50 /* what a node costs until it is known */

/* What must not change while a walk is on its way. */
struct order {
	__u64 collections[3], pending, permanent[2], oldest;
};

static __always_inline int read_order(struct pyleak_target *t, struct order *o)
{
	__u8 slot;

	for (int g = 0; g < 3; g++) {
		__u64 at = t->collections[g];

		if (t->collections_slot[g]) {
			if (read_user(&slot, sizeof(slot), t->collections_slot[g]))
				return -1;
			at += 64 * (__u64)slot;
		}
		if (read_user(&o->collections[g], sizeof(__u64), at))
			return -1;
	}
	if (read_user(&o->pending, sizeof(__u64), t->pending))
		return -1;
	if (t->head[0] && read_user(o->permanent, sizeof(o->permanent), t->head[0]))
		return -1;
	return t->head[RING_OLD] ? (int)read_user(&o->oldest, sizeof(o->oldest), t->head[RING_OLD])
				 : 0;
}

static __always_inline void keep_order(struct progress *p, const struct order *o)
{
	for (int g = 0; g < 3; g++)
		p->collections[g] = o->collections[g];
	p->pending = o->pending;
	p->permanent[0] = o->permanent[0];
	p->permanent[1] = o->permanent[1];
	p->oldest = o->oldest;
}

/*
 * 0, or 1 + enum pyleak_restart. gc.freeze() and gc.unfreeze() between two steps leave the permanent
 * ring as it was, but the young objects before the old ones: what stands first there shows it.
 */
static __always_inline int order_broken(const struct progress *p, const struct order *o)
{
	if (!p->ring && !p->on && !p->back)
		return 0; /* nothing was walked */
	if (o->collections[2] != p->collections[2])
		return 1 + PYLEAK_RESTART_COLLECTION;
	if (o->permanent[0] != p->permanent[0] || o->permanent[1] != p->permanent[1] ||
		(p->ring >= RING_OLD && o->oldest != p->oldest))
		return 1 + PYLEAK_RESTART_FREEZE;
	/* The end of the old ring is as good as young: promotion appends there. */
	if ((p->ring >= RING_MIDDLE || (p->back && p->ring == RING_OLD && !p->on)) &&
		(o->collections[0] != p->collections[0] || o->collections[1] != p->collections[1]))
		return 1 + PYLEAK_RESTART_YOUNG;
	return 0;
}

/* A walk from the beginning. */
static __always_inline void run_begin(struct pyleak_target *t, struct progress *p)
{
	p->run = ++t->runs;
	p->ring = p->on = p->back = p->young = p->flags = p->n_window = 0;
	p->objects = 0;
	p->tail[0] = p->tail[1] = 0;
	p->run_steps = 0;
}

/* Whether there may be another try. */
static __always_inline int run_again(struct pyleak_target *t, struct progress *p, __u32 why)
{
	barrier_var(why); /* as in read_line() */
	if (why < PYLEAK_N_RESTARTS)
		p->restarts[why]++;
	p->restarted++;
	run_begin(t, p);
	return p->restarted <= RESTARTS_MAX;
}

static __always_inline void census_begin(struct pyleak_target *t, struct progress *p, __u32 number)
{
	p->cost_ns = p->pause_ns = p->close_ns = p->start_ns = 0;
	p->steps = p->restarted = 0;
	__builtin_memset(p->restarts, 0, sizeof(p->restarts));
	t->stepping = number;
	run_begin(t, p);
}

/*
 * The young ring has to end in the hit in which it begins, the closing one: births go there, and the
 * next object of a type with a free list cannot be told from a cursor that died. In the other rings
 * it can: from a node that went over to the young ring the walk arrives at the wrong head.
 *
 * How many objects are in it cannot be told without walking it; but the collector counts births less
 * deaths since its last round, which is what a ring that grew huge has many of. In a program that
 * frees as much as it makes there are more, so no hit goes on there that has used half of its time.
 */
static __always_inline __u64 young_objects(struct pyleak_target *t)
{
	__u32 count = 0;

	if (read_user(&count, sizeof(count), t->young_count) || (__s32)count < 0)
		count = 0;
	return count;
}

/*
 * A hit has come to the end of the old ring, or stands before the young one: whether it may go on. If
 * what is left fits into the time that a closing hit has, it is that.
 */
static __always_inline int go_on_young(struct pyleak_target *t, struct progress *p)
{
	struct walk *w = &walk;
	__u64 now = bpf_ktime_get_ns(), objects = young_objects(t), ns;
	int before_young = w->ring == RING_YOUNG;

	if (!before_young)
		objects += p->middle;
	ns = objects * (p->node_ns ? p->node_ns : NODE_NS);
	if (before_young && w->objects && t->pending && ns < t->close_ns &&
		(now + ns >= w->close_ns || now > w->close_ns - t->close_ns / 2))
		return 0; /* the next hit has all of it */
	if (now + ns < w->close_ns) {
		if (!w->may_close)
			return 0;
		w->deadline_ns = w->close_ns;
		w->record = 0;
	} else {
		w->deadline_ns = w->step_ns;
	}
	return 1;
}

/* From where the walk stands until the time is used up. Returns 1 when the last ring has ended. */
__noinline int walk_on(__u32 slot)
{
	struct pyleak_target *t = bpf_map_lookup_elem(&targets, &slot);
	struct progress *p = bpf_map_lookup_elem(&progresses, &slot);
	struct walk *w;
	int done = 0;

	if (!t || !p)
		return 0;
	w = &walk;
	for (int i = 0; i < RINGS + LOOPS; i++) {
		if (!w->back && !p->young && w->ring == RING_YOUNG && !w->on && !go_on_young(t, p))
			break;
		walk_ring();
		if (w->restart || w->full || w->stopped)
			break;
		if (!w->ended)
			continue;
		if (w->ring == (w->back ? 0 : RING_YOUNG)) {
			done = w->back || w->may_close;
			break;
		}
		if (!w->back && w->ring == RING_OLD) {
			if (!go_on_young(t, p))
				break;
			w->tail[0] = w->tail[1] = 0;
			p->middle_at = p->objects + w->objects;
		}
		if (!w->back && w->ring == RING_MIDDLE)
			p->middle = p->objects + w->objects - p->middle_at;
		w->ring += w->back ? -1 : 1;
		w->on = w->n_window = 0;
		if (w->record)
			w->record = WINDOW;
	}
	if (!w->full)
		bpf_loop(CACHE_SLOTS, drain, 0, 0);
	if (!w->back && !done && w->ring == RING_YOUNG && w->on)
		p->young = 1;
	return done;
}

/* Publishes the result and wakes the daemon. */
static __always_inline void census_end(
	struct pyleak_target *t, struct progress *p, __u32 slot, __u32 status)
{
	__u32 number = t->stepping;
	struct pyleak_event *e;

	t->census.epoch = t->epoch;
	t->census.run = p->run;
	t->census.stamp = p->stamp;
	t->census.status = status;
	t->census.flags = p->flags;
	t->census.steps = p->steps;
	for (int i = 0; i < PYLEAK_N_RESTARTS; i++)
		t->census.restarts[i] = p->restarts[i];
	t->census.start_ns = p->start_ns;
	t->census.end_ns = bpf_ktime_get_ns();
	t->census.pause_ns = p->pause_ns;
	t->census.close_ns = p->close_ns;
	t->census.cost_ns = p->cost_ns;
	t->census.objects = p->objects;
	t->stepping = 0;
	barrier();
	t->census.number = number;
	__sync_val_compare_and_swap(&t->armed, number, 0);

	/* Only to wake the daemon; when there is no room it is awake. Not reserved before the walk:
	 * a record that is reserved makes the ring readable, the daemon would spin meanwhile. */
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e)
		return;
	e->kind = PYLEAK_EVENT_CENSUS;
	e->slot = slot;
	bpf_ringbuf_submit(e, BPF_RB_FORCE_WAKEUP);
}

enum step_outcome {
	STEP_MORE,
	STEP_DONE,
	STEP_FULL,
	STEP_GIVEN_UP,
	STEP_TOO_LARGE,
};

__noinline int step_walk(__u32 slot, __u64 start_ns)
{
	struct pyleak_target *t = bpf_map_lookup_elem(&targets, &slot);
	struct progress *p = bpf_map_lookup_elem(&progresses, &slot);
	__u64 from, type, now;
	__u32 ring, on, done;
	__u64 walk_ns = bpf_ktime_get_ns();
	struct walk *w;

	if (!t || !p)
		return STEP_GIVEN_UP;
	w = &walk;
	ring = w->ring;
	on = w->on;
	from = w->from;
	type = p->window[(w->n_window - 1) & (WINDOW - 1)].type;
	done = walk_on(slot);
	if (w->full)
		return STEP_FULL;
	if (w->restart)
		return run_again(t, p, w->restart - 1) ? STEP_MORE : STEP_GIVEN_UP;
	if (!w->back)
		p->objects += w->objects;
	now = bpf_ktime_get_ns();
	if (w->objects >= 1024)
		p->node_ns = (now - walk_ns) / w->objects + 1;
	if (done && !w->back) {
		/* The closing hit. What it walked itself is exact; from where it began, back. */
		t->epoch++;
		p->stamp = w->stamp;
		p->start_ns = start_ns;
		p->back = 1;
		p->flags = p->young ? PYLEAK_CENSUS_YOUNG : 0;
		if (ring || on) {
			w->back = 1;
			w->number = ++walks;
			w->ring = on ? ring : ring - 1; /* else all of this ring is done */
			w->on = on;
			w->from = w->cur = from;
			w->tail[0] = w->tail[1] = 0;
			w->n_window = 0;
			w->record = WINDOW;
			if (on) {
				tally_add(type);
				record(type);
			}
			done = walk_on(slot);
			if (w->full)
				return STEP_FULL;
			if (w->restart)
				return run_again(t, p, w->restart - 1) ? STEP_MORE : STEP_GIVEN_UP;
		}
		p->close_ns = bpf_ktime_get_ns() - start_ns;
	}
	p->ring = w->ring;
	p->on = w->on;
	p->n_window = w->n_window;
	return done ? STEP_DONE : STEP_MORE;
}

/* Where the next step begins. 0, or 1 + enum pyleak_restart. */
__noinline int step_resume(__u32 slot, const struct order *o)
{
	struct pyleak_target *t = bpf_map_lookup_elem(&targets, &slot);
	struct progress *p = bpf_map_lookup_elem(&progresses, &slot);
	int why;

	if (!t || !p || !o)
		return 0;
	why = order_broken(p, o);
	if (why)
		return why;
	if (p->on) {
		int promoted = o->collections[1] != p->collections[1];

		cursor_find(slot, promoted || p->ring >= RING_MIDDLE);
		if (!pick.node)
			return 1 + PYLEAK_RESTART_LOST;
		if (pick.reused)
			return 1 + PYLEAK_RESTART_REUSED;
		if (promoted)
			why = was_promoted(t->head[RING_OLD], o->pending - p->pending, p->back);
		else if (pick.want_anchor)
			why = was_born_again(p->back);
		if (why)
			return why;
		p->n_window -= pick.n;
		walk.from = pick.node;
	}
	if (p->back)
		return 0;
	if (p->young) {
		mark_tail(p, t->head[RING_YOUNG]);
	} else if (p->ring >= RING_MIDDLE) {
		p->tail[0] = p->tail[1] = 0;
	} else if (p->run_steps == 1 || o->pending - p->tail_pending > TAIL / 2) {
		mark_tail(p, t->head[RING_OLD]);
		p->tail_pending = o->pending;
	}
	return 0;
}

__noinline int census_step(__u32 slot, __u64 type, __u64 dying)
{
	struct pyleak_target *t = bpf_map_lookup_elem(&targets, &slot);
	struct progress *p = bpf_map_lookup_elem(&progresses, &slot);
	__u64 start_ns = bpf_ktime_get_ns(), slack_ns, took_ns;
	struct order o = {};
	int outcome = STEP_MORE;
	__u32 number, why;
	struct walk *w;

	if (!t || !p)
		return 0;
	number = t->armed;
	if (!number)
		return 0;
	if (t->pending && read_order(t, &o)) /* cannot be: it was read before. Try again. */
		return 0;
	w = &walk;
	if (t->stepping != number) {
		census_begin(t, p, number);
	} else {
		why = step_resume(slot, &o);
		if (why && !run_again(t, p, why - 1))
			outcome = STEP_GIVEN_UP;
	}
	keep_order(p, &o);
	if (outcome == STEP_MORE) {
		/* The cache is emptied after the walk: up to 512 look-ups, some 50 us. */
		slack_ns = t->budget_ns / 8;
		if (slack_ns > 50000)
			slack_ns = 50000;
		w->deadline_ns = w->step_ns = start_ns + t->budget_ns - slack_ns;
		w->close_ns = start_ns + t->close_ns - slack_ns;
		for (int i = 0; i < RINGS; i++)
			w->heads[i] = t->head[i];
		w->slot = slot;
		w->run = p->run;
		w->number = ++walks;
		w->back = p->back;
		w->stamp = p->back ? p->stamp : w->number;
		w->full = 0;
		w->skip = dying - GC_HEAD_BYTES;
		w->objects = 0;
		w->restart = w->record = w->stopped = 0;
		w->check = CLOCK_EVERY;
		w->lines = LINES_TRY;
		w->may_close = !t->close_type || type == t->close_type;
		w->record_all = t->close_type != 0;
		w->ring = p->ring;
		w->on = p->on;
		w->n_window = p->n_window;
		w->tail[0] = p->back ? 0 : p->tail[0];
		w->tail[1] = p->back ? 0 : p->tail[1];
		outcome = step_walk(slot, start_ns);
		p->run_steps++;
		if (outcome == STEP_MORE && !t->pending)
			outcome = STEP_TOO_LARGE;
	}

	took_ns = bpf_ktime_get_ns() - start_ns;
	p->steps++;
	p->cost_ns += took_ns;
	if (took_ns > p->pause_ns)
		p->pause_ns = took_ns;
	t->census_ns += took_ns;
	t->census_steps = p->steps;
	if (outcome == STEP_MORE) {
		filter_fill(slot);
		/* A fifth of the time, twice that after a restart, and again. */
		t->armed_ns = bpf_ktime_get_ns() + (p->restarted == 0          ? took_ns * 4
							   : p->restarted == 1 ? took_ns * 3 / 2
									       : took_ns / 4);
		return 0;
	}
	census_end(t, p, slot,
		outcome == STEP_DONE        ? PYLEAK_CENSUS_OK
		: outcome == STEP_FULL      ? PYLEAK_CENSUS_FULL
		: outcome == STEP_TOO_LARGE ? PYLEAK_CENSUS_TOO_LARGE
					    : PYLEAK_CENSUS_RESTARTS);
	return 0;
}

/* Steps if a census is wanted and this is a moment for it; else the next hit asks again. */
static __always_inline void census(
	struct pyleak_target *t, __u32 slot, __u64 type, __u64 dying, __s64 patience_ns)
{
	__u32 collecting = 1;

	if ((__s64)bpf_ktime_get_ns() < (__s64)t->armed_ns + patience_ns)
		return;
	/* While the collector runs, its rings are incomplete (and it frees objects, which is how
	 * we come here). */
	if (read_user(&collecting, sizeof(collecting), t->collecting) || collecting)
		return;
	if (__sync_val_compare_and_swap(&walking, 0, 1) != 0)
		return;
	census_step(slot, type, dying);
	walking = 0;
}

#endif
