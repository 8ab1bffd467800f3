/* SPDX-License-Identifier: MIT */
#include "daemon/watch/metrics.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "daemon/util/macros.h"
#include "daemon/util/utf8.h"
#include "daemon/watch/suspects.h"
#include "pyleak/capture.h"

/* A label's value: \ and " escaped, and fit to be shown. */
static void write_text(FILE *f, const char *text)
{
	char clean[1024];

	snprintf(clean, sizeof(clean), "%s", text);
	utf8_clean(clean);
	for (const char *p = clean; *p; p++) {
		if (*p == '\\' || *p == '"')
			fputc('\\', f);
		fputc(*p, f);
	}
}

static void head(FILE *f, const char *name, const char *type, const char *help)
{
	fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* One metric of each target: a number, or < 0 where it is not known. */
struct metric {
	const char *name, *type, *help;
	double (*value)(const struct target *t);
};

static double overhead(const struct target *t)
{
	return target_overhead(t);
}

static double limit(const struct target *t)
{
	double share = target_governor(t)->config.share;

	return share > 0 ? share : -1;
}

static double everything(const struct target *t)
{
	return governor_cost(target_governor(t), GOVERNOR_EVERYTHING);
}

static double observed(const struct target *t)
{
	return target_observed_share(t);
}

static double hits(const struct target *t)
{
	return (double)target_hits(t);
}

static double spent(const struct target *t)
{
	return (double)target_totals(t)->run_ns / 1e9;
}

static double windows(const struct target *t)
{
	return (double)target_governor(t)->windows;
}

static double dropped(const struct target *t)
{
	return (double)target_dropped(t);
}

static double rss(const struct target *t)
{
	return (double)target_rss_bytes(t);
}

static double sampled(const struct target *t)
{
	return target_sampled_ms(t) ? (double)target_sampled_ms(t) / 1000 : -1;
}

static double objects(const struct target *t)
{
	return target_census(t)->at_ms ? (double)target_census(t)->objects : -1;
}

static double census_at(const struct target *t)
{
	return target_census(t)->at_ms ? (double)target_census(t)->at_ms / 1000 : -1;
}

static double census_pause(const struct target *t)
{
	return (double)target_census(t)->pause_ns_max / 1e9;
}

static const struct metric metrics[] = {
	{"pyleak_target_overhead_ratio", "gauge",
		"What watching cost over the last ten seconds, of the CPU time that the target used itself.",
		overhead},
	{"pyleak_target_budget_ratio", "gauge", "budget.cpu; not there: unlimited.", limit},
	{"pyleak_target_everything_ratio", "gauge",
		"What counting every birth and death all the time would cost, likewise.", everything},
	{"pyleak_target_observed_ratio", "gauge",
		"Of the time it is watched, in which every birth and death was counted.", observed},
	{"pyleak_target_hits_total", "counter", "Probe hits.", hits},
	{"pyleak_target_spent_seconds_total", "counter",
		"CPU time of the target that watching it took, an estimate.", spent},
	{"pyleak_target_windows_total", "counter",
		"Times that everything was attached for a moment only.", windows},
	{"pyleak_target_dropped_total", "counter", "Events that no table had room for.", dropped},
	{"pyleak_target_resident_bytes", "gauge", "Resident memory of the target.", rss},
	{"pyleak_target_sampled_timestamp_seconds", "gauge", "When the levels are of.", sampled},
	{"pyleak_target_objects", "gauge", "Objects that the collector tracks, by the last census.",
		objects},
	{"pyleak_target_census_timestamp_seconds", "gauge", "When that was.", census_at},
	{"pyleak_target_census_pause_seconds_max", "gauge", "Longest step of a census so far.",
		census_pause},
};

static void label(FILE *f, const char *before, const char *name, const char *value)
{
	fprintf(f, "%s%s=\"", before, name);
	write_text(f, value);
	fputc('"', f);
}

static void target_labels(FILE *f, const char *name, const struct target *t)
{
	const struct proc_info *p = target_info(t);

	fprintf(f, "%s{pid=\"%d\"", name, (int)p->id.pid);
	label(f, ",", "comm", p->comm);
	label(f, ",", "unit", p->unit);
}

static void write_scopes(const struct watch *w, FILE *f)
{
	head(f, "pyleak_target_scope", "gauge",
		"What is counted all the time: 1 for one of everything, births, instances, nothing.");
	for (size_t i = 0; i < watch_target_count(w); i++) {
		const struct target *t = watch_target_at(w, i);
		const struct governor *g = target_governor(t);

		for (int s = GOVERNOR_NOTHING; s <= (int)GOVERNOR_EVERYTHING; s++) {
			bool is = s == (int)(g->window ? g->settled : g->scope);

			target_labels(f, "pyleak_target_scope", t);
			label(f, ",", "scope", governor_scope_name((enum governor_scope)s));
			fprintf(f, "} %d\n", is);
		}
	}
}

static void write_restarts(const struct watch *w, FILE *f)
{
	head(f, "pyleak_target_census_restarts_total", "counter", "Why censuses had to begin anew.");
	for (size_t i = 0; i < watch_target_count(w); i++) {
		const struct target *t = watch_target_at(w, i);

		for (unsigned k = 0; k < CENSUS_REASONS; k++) {
			if (!target_census(t)->restarts[k])
				continue;
			target_labels(f, "pyleak_target_census_restarts_total", t);
			label(f, ",", "reason", census_reason(k));
			fprintf(f, "} %" PRIu64 "\n", target_census(t)->restarts[k]);
		}
	}
}

/* Of all suspects of that name and verdict, as one sample: two of one name and labels are none to Prometheus.
 * TRACK_UNKNOWN: it is told already with an earlier one, or grows with another one, or is not known. */
static int64_t suspect_level(const struct target *t, const struct suspect *v, size_t n, size_t k)
{
	int64_t sum = TRACK_UNKNOWN;

	for (size_t i = 0; i < n; i++) {
		int64_t level = target_type_level(t, v[i].ty, NULL);

		if (v[i].leader != i || level == TRACK_UNKNOWN || v[i].verdict->kind != v[k].verdict->kind ||
			strcmp(v[i].ty->info.name, v[k].ty->info.name) != 0)
			continue;
		if (i < k)
			return TRACK_UNKNOWN;
		if (sum == TRACK_UNKNOWN && i != k)
			return TRACK_UNKNOWN;
		sum = sum == TRACK_UNKNOWN ? level : sum + level;
	}
	return sum;
}

static void write_suspects(const struct watch *w, FILE *f)
{
	head(f, "pyleak_suspect_objects", "gauge",
		"Live objects of a type that leaks (verdict leak) or may do so (watch).");
	for (size_t i = 0; i < watch_target_count(w); i++) {
		const struct target *t = watch_target_at(w, i);
		_cleanup_free_ struct suspect *v = NULL;
		size_t n;

		if (suspects_of(t, &v, &n))
			continue;
		for (size_t k = 0; k < n; k++) {
			int64_t level = suspect_level(t, v, n, k);

			if (level == TRACK_UNKNOWN)
				continue;
			target_labels(f, "pyleak_suspect_objects", t);
			label(f, ",", "type", v[k].ty->info.name);
			label(f, ",", "verdict",
				v[k].verdict->kind == TRACK_LEAK ? "leak" : "watch");
			fprintf(f, "} %" PRId64 "\n", level);
		}
	}
}

/* All of them from the start: a series that comes into being at its first refusal has no rate there. */
static void write_refusals(const struct watch *w, FILE *f)
{
	const struct dump_manager *m = watch_get_options(w)->dumps;

	head(f, "pyleak_dump_refusals_total", "counter",
		"Dumps that were refused, or given up, to spare their target.");
	for (unsigned k = CAPTURE_NOT_REFUSED + 1; k < CAPTURE_REFUSALS; k++)
		fprintf(f, "pyleak_dump_refusals_total{reason=\"%s\"} %" PRIu64 "\n",
			dump_refusal_name(k), dump_refusals(m, k));
}

/* Under the names that every Prometheus client library uses for it. */
static void write_self(FILE *f)
{
	struct proc_info p;
	struct timespec cpu = {0};

	head(f, "pyleak_build_info", "gauge", "Which version this is.");
	fprintf(f, "pyleak_build_info{version=\"%s\"} 1\n", PYLEAK_VERSION);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	head(f, "process_cpu_seconds_total", "counter", "CPU time of the daemon itself.");
	fprintf(f, "process_cpu_seconds_total %.6f\n",
		(double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9);
	if (proc_info_get(getpid(), &p, NULL))
		return;
	head(f, "process_resident_memory_bytes", "gauge", "Resident memory of the daemon itself.");
	fprintf(f, "process_resident_memory_bytes %" PRIu64 "\n", p.rss_bytes);
}

void metrics_write(const struct watch *w, FILE *f)
{
	write_self(f);
	head(f, "pyleak_targets", "gauge", "Processes that are watched.");
	fprintf(f, "pyleak_targets %zu\n", watch_target_count(w));
	head(f, "pyleak_paused", "gauge", "1: nothing is watched until pyleakctl resume.");
	fprintf(f, "pyleak_paused %d\n", watch_paused(w));
	for (size_t m = 0; m < ARRAY_SIZE(metrics); m++) {
		head(f, metrics[m].name, metrics[m].type, metrics[m].help);
		for (size_t i = 0; i < watch_target_count(w); i++) {
			const struct target *t = watch_target_at(w, i);
			double v = metrics[m].value(t);

			if (v < 0)
				continue;
			target_labels(f, metrics[m].name, t);
			fprintf(f, "} %.17g\n", v);
		}
	}
	write_scopes(w, f);
	write_restarts(w, f);
	write_suspects(w, f);
	write_refusals(w, f);
}
