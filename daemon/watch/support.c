/* SPDX-License-Identifier: MIT */
#include "daemon/watch/support.h"

#include <jansson.h>
#include <string.h>
#include <sys/utsname.h>

#include "daemon/dump/dump.h"
#include "daemon/probe/probe.h"
#include "daemon/python/python.h"
#include "daemon/util/units.h"
#include "pyleak/control.h"

/* Attaches for a moment to learn which sites would be used, then lets go. */
static json_t *python_row(struct probe *probe, pid_t pid)
{
	struct probe_target_options po = {0};
	struct probe_target *t = NULL;
	struct python_rings rings;
	struct python *py = NULL;
	struct err err = {{0}}, ring_err = {{0}};
	char sites[768] = "";
	json_t *row;
	int r;

	r = python_open(pid, &py, &err);
	if (r == -ENOEXEC || r == -ESRCH)
		return NULL;
	if (r)
		return json_pack("{s:i, s:n, s:n, s:b, s:s, s:n}", "pid", pid, "python", "build",
			"supported", 0, "reason", err.msg, "sites");
	if (probe && probe_attach(probe, py, &po, &t, &err) == 0)
		probe_target_describe(t, sites, sizeof(sites));
	probe_target_free(t);
	r = python_find_rings(py, &rings, &ring_err);
	row = json_pack("{s:i, s:s, s:{s:s, s:s, s:s, s:b}, s:b, s:s, s:s, s:b}", "pid", pid,
		"python", py->version, "build", "path", py->path, "kind",
		py->kind == PYTHON_STATIC ? "static" : "shared", "build_id", py->build_id,
		"stripped", py->stripped, "supported", probe && sites[0], "reason",
		probe && !sites[0] ? err.msg : ring_err.msg, "sites", sites, "census", r == 0);
	python_free(py);
	return row;
}

int support_print(FILE *f, bool as_json)
{
	struct probe_options po = {.max_targets = 4, .max_types = 1024};
	_cleanup_free_ pid_t *pids = NULL;
	struct probe *probe = NULL;
	struct err err = {{0}};
	struct utsname un;
	json_t *doc, *list = json_array(), *row;
	char at[RFC3339_MAX];
	size_t n = 0, i;
	int r;

	uname(&un);
	r = probe_open(&po, &probe, &err);
	proc_list(65536, &pids, &n);
	for (i = 0; i < n; i++) {
		if (!python_looks_like(pids[i]))
			continue;
		row = python_row(r ? NULL : probe, pids[i]);
		if (row)
			json_array_append_new(list, row);
	}
	probe_free(probe);
	doc = json_pack("{s:s, s:s, s:s, s:b, s:s, s:s, s:o}", "at",
		format_rfc3339(at, sizeof(at), now_realtime_ms()), "version", PYLEAK_VERSION,
		"kernel", un.release, "probes", r == 0, "probes_reason", r ? err.msg : "",
		"capture", dump_helper_way(), "pythons", list);
	if (as_json) {
		json_dumpf(doc, f, JSON_INDENT(2));
		fputc('\n', f);
	} else {
		fprintf(f, "pyleak %s, Linux %s\n", PYLEAK_VERSION, un.release);
		fprintf(f, "probes   %s%s\n", r ? "no: " : "yes, uprobe_multi", r ? err.msg : "");
		fprintf(f, "capture  %s\n", dump_helper_way());
		json_array_foreach(list, i, row)
		{
			const char *version = json_string_value(json_object_get(row, "python"));
			json_t *build = json_object_get(row, "build");
			const char *path = json_string_value(json_object_get(build, "path"));
			const char *kind = json_string_value(json_object_get(build, "kind"));
			const char *reason = json_string_value(json_object_get(row, "reason"));
			const char *sites = json_string_value(json_object_get(row, "sites"));

			fprintf(f, "\npid %lld%s%s%s%s%s%s%s\n",
				(long long)json_integer_value(json_object_get(row, "pid")),
				version ? "  CPython " : "", version ? version : "",
				kind ? ", " : "", kind ? kind : "", path ? ", " : "",
				path ? path : "",
				json_is_true(json_object_get(row, "supported"))
					? ""
					: "  NOT SUPPORTED");
			if (sites && *sites)
				fprintf(f, "  sites   %s\n", sites);
			if (reason && *reason)
				fprintf(f, "  note    %s\n", reason);
		}
		if (!json_array_size(list))
			fprintf(f, "\nno Python is running\n");
	}
	json_decref(doc);
	return r ? EXIT_REFUSED : EXIT_FINE;
}
