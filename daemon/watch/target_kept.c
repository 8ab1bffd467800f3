/* SPDX-License-Identifier: MIT */
/*
 * What outlives the daemon: the series of a process that goes on, so that a leak of one object a minute
 * is found although pyleakd was upgraded meanwhile. And what outlives the process: the level that a type of
 * the service came to rest at, or that it leaked.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/util/log.h"
#include "daemon/util/units.h"
#include "daemon/watch/target_private.h"

#define SAVE_MS (10 * 60 * 1000LL)

static int64_t oldest_ms(const struct target *t)
{
	return now_realtime_ms() - (int64_t)(t->o.config->storage_history_ns / 1000000);
}

void target_kept_load(struct target *t)
{
	const struct proc_id *id = &t->info.id;
	struct err err = {""};

	t->kept.saved_ms = now_realtime_ms();
	if (!t->o.store)
		return;
	if (store_series_list(t->o.store, id->pid, id->start_ticks, &t->kept.series, &t->kept.n_series, &err) ||
		store_service_list(t->o.store, t->service, oldest_ms(t), &t->kept.services, &t->kept.n_services,
			&err))
		log_warning("pid %d: what was known of it is not any more: %s", id->pid, err.msg);
}

static int by_type(const void *key, const void *x)
{
	return strcmp(key, ((const struct store_service *)x)->type);
}

void target_kept_type(struct target *t, struct target_type *ty)
{
	const struct store_service *known = NULL;

	if (!ty->track)
		return;
	if (t->kept.n_services)
		known = bsearch(ty->info.name, t->kept.services, t->kept.n_services, sizeof(*known), by_type);
	if (known)
		track_type_expect(ty->track, &known->expectation);
	for (size_t i = 0; i < t->kept.n_series; i++) {
		struct store_series *s = &t->kept.series[i];

		if (s->addr != ty->addr || !s->bytes)
			continue;
		/* Another class may live there now; and what cannot be taken begins anew. */
		if (!strcmp(s->type, ty->info.name))
			track_type_load(ty->track, s->bytes, s->n_bytes);
		free(TAKE_PTR(s->bytes));
	}
}

/* Types that never moved are the same tomorrow. */
static bool worth_keeping(const struct target_type *ty)
{
	return ty->track && ty->named && track_type_moved(ty->track);
}

static void save_series(struct target *t)
{
	const struct proc_id *id = &t->info.id;
	struct store_series x = {.pid = id->pid, .start_ticks = id->start_ticks, .at_ms = now_realtime_ms()};
	uint8_t buf[TRACK_SAVED_MAX];
	struct err err = {""};
	int r = store_begin(t->o.store, &err);

	x.bytes = buf;
	if (!r)
		r = store_series_forget(t->o.store, id->pid, id->start_ticks, &err);
	/* Of types that were not met since the daemon started: they may be yet, by a census or a reading. */
	for (size_t i = 0; i < t->kept.n_series && !r; i++)
		if (t->kept.series[i].bytes && t->kept.series[i].at_ms >= oldest_ms(t))
			r = store_series_put(t->o.store, &t->kept.series[i], &err);
	for (size_t i = 0; i < t->n_types && !r; i++) {
		const struct target_type *ty = t->types[i];

		if (!worth_keeping(ty))
			continue;
		x.addr = ty->addr;
		snprintf(x.type, sizeof(x.type), "%s", ty->info.name);
		x.n_bytes = track_type_save(ty->track, buf, sizeof(buf));
		if (x.n_bytes)
			r = store_series_put(t->o.store, &x, &err);
	}
	if (store_end(t->o.store, r, &err))
		log_warning("pid %d: its series are not kept: %s", id->pid, err.msg);
}

void target_kept_sampled(struct target *t)
{
	if (!t->o.store || now_realtime_ms() < t->kept.saved_ms + SAVE_MS)
		return;
	t->kept.saved_ms = now_realtime_ms();
	save_series(t);
}

/* What this life has shown. */
static void save_service(struct target *t)
{
	const struct proc_id *id = &t->info.id;
	struct err err = {""};
	int r = store_begin(t->o.store, &err);

	if (!r)
		r = store_series_forget(t->o.store, id->pid, id->start_ticks, &err);
	for (size_t i = 0; i < t->n_types && !r; i++) {
		struct store_service x = {.at_ms = now_realtime_ms()};
		const struct target_type *ty = t->types[i];

		if (!worth_keeping(ty) || !track_type_learned(ty->track, &x.expectation))
			continue;
		snprintf(x.type, sizeof(x.type), "%s", ty->info.name);
		r = store_service_put(t->o.store, t->service, &x, &err);
	}
	if (store_end(t->o.store, r, &err))
		log_warning("pid %d: what it has shown is not kept: %s", id->pid, err.msg);
}

void target_kept_end(struct target *t)
{
	if (t->o.store && t->tick) {
		if (t->ended)
			save_service(t);
		else
			save_series(t);
	}
	store_series_free(t->kept.series, t->kept.n_series);
	free(t->kept.services);
}
