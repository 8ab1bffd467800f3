/* SPDX-License-Identifier: MIT */
#include "daemon/watch/suspects.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/track/cause.h"
#include "daemon/util/macros.h"

int suspects_of(const struct target *t, struct suspect **ret, size_t *ret_n)
{
	_cleanup_free_ struct suspect *v = NULL;
	_cleanup_free_ struct cause_suspect *causes = NULL;
	int64_t since = target_looked_ms(t) - target_window_ms(t);
	size_t n = 0;

	v = calloc(target_type_count(t) + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	for (size_t i = 0; i < target_type_count(t); i++) {
		const struct target_type *ty = target_type_at(t, i);
		const struct track_verdict *verdict;

		if (!ty->track || !target_type_judged(ty))
			continue;
		verdict = track_type_verdict(ty->track);
		if (verdict->kind != TRACK_NONE)
			v[n++] = (struct suspect){.ty = ty, .verdict = verdict};
	}
	causes = calloc(n + 1, sizeof(*causes));
	if (!causes)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		causes[i].ty = v[i].ty->track;
	if (cause_group(causes, n, since))
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		v[i].leader = causes[i].leader;
		v[i].tell = v[i].leader == i && !config_suppressed(target_config(t), target_service(t),
							v[i].ty->info.name, v[i].verdict->count,
							target_looked_ms(t));
	}
	*ret = TAKE_PTR(v);
	*ret_n = n;
	return 0;
}

uint64_t suspects_grown(const struct target *t, const struct suspect *v, size_t n, const char *name)
{
	uint64_t grown = 0;

	for (size_t i = 0; i < n; i++) {
		int64_t since = v[i].verdict->first_seen_ms - target_window_ms(t);
		struct track_growth g;

		if (strcmp(v[i].ty->info.name, name) != 0)
			continue;
		if (track_type_growth(v[i].ty->track, since, &g))
			grown += (uint64_t)MAX(g.delta, v[i].verdict->delta);
		else
			grown += (uint64_t)MAX(v[i].verdict->delta, (int64_t)0);
	}
	return grown;
}

#define GROWTH_POINTS 400

static json_t *growth_points(const struct target_type *ty)
{
	_cleanup_free_ struct track_point *p = NULL;
	json_t *points = json_array();
	size_t n = 0, step;

	if (!ty->track || track_type_history(ty->track, 0, 0, &p, &n))
		n = 0;
	step = n / GROWTH_POINTS + 1;
	for (size_t i = 0; i < n; i += step) {
		/* The last one is the level that the dump is about. */
		size_t at = i + step < n ? i : n - 1;

		if (p[at].count != TRACK_UNKNOWN)
			json_array_append_new(points, json_pack("[I, I]", (json_int_t)p[at].at_ms,
							      (json_int_t)p[at].count));
	}
	return points;
}

json_t *suspects_growth(const struct target *t, const char *const *names, size_t n)
{
	json_t *list = json_array();

	for (size_t i = 0; i < target_type_count(t); i++) {
		const struct target_type *ty = target_type_at(t, i);
		bool wanted = false;

		for (size_t k = 0; ty->named && k < n && !wanted; k++)
			wanted = strcmp(ty->info.name, names[k]) == 0;
		if (wanted)
			json_array_append_new(list, json_pack("{s:s, s:o}", "type", ty->info.name,
							    "points", growth_points(ty)));
	}
	if (json_array_size(list))
		return list;
	json_decref(list);
	return NULL;
}
