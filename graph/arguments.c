/* SPDX-License-Identifier: MIT */
#include "graph/arguments.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/util/log.h"
#include "daemon/util/macros.h"
#include "daemon/util/units.h"
#include "graph/explain.h"
#include "include/pyleak/control.h"

#define DEPTH_MAX 1000

static const struct row {
	const char *name, *arg;
	int letter;
	int uses; /* enum arguments_use, one or both */
	const char *help;
} rows[] = {
	{"id", "ID", 'i', ARGUMENTS_DUMP, "the dump's id (default: the folder's name)"},
	{"trigger", "KIND", 't', ARGUMENTS_DUMP,
		"manual, verdict, threshold, alert or timer (default: manual)"},
	{"type", "TYPE", 'T', ARGUMENTS_DUMP | ARGUMENTS_ASK,
		"explain this type: module.QualName, a glob or a short name; may be repeated"},
	{"grown", "N", 'g', ARGUMENTS_DUMP,
		"so many of the type before came since its growth began"},
	{"addr", "A", 'a', ARGUMENTS_ASK, "the object at this address; may be repeated"},
	{"max-paths", "N", 'm', ARGUMENTS_DUMP, "show so many paths a type (default: 8)"},
	{"max-depth", "N", 'd', ARGUMENTS_ASK, "go so many steps (3; a chain: any number)"},
	{"too-many", "N", 'n', ARGUMENTS_ASK,
		"show so many neighbours of one (10), paths of a type (8)"},
	{"limit", "N", 'l', ARGUMENTS_ASK, "at most so many lines of a list (default: all)"},
	{"format", "F", 'f', ARGUMENTS_ASK, "dot, svg, png, pdf or html: a picture or page, too"},
	{"final-dir", "PATH", 'F', ARGUMENTS_DUMP,
		"where DIR will be when the answer is read (default: DIR)"},
	{"memory", "SIZE", 'M', ARGUMENTS_DUMP | ARGUMENTS_ASK, "memory limit, 0 for none"},
	{"cpu", "TIME", 'C', ARGUMENTS_DUMP | ARGUMENTS_ASK, "CPU time limit, 0 for none"},
	{"deadline", "TIME", 'D', ARGUMENTS_DUMP | ARGUMENTS_ASK,
		"answer with what is known after so much CPU time (default: 70 % of --cpu)"},
	{"help", NULL, 'h', ARGUMENTS_DUMP | ARGUMENTS_ASK, "this text"},
	{"version", NULL, 'V', ARGUMENTS_DUMP | ARGUMENTS_ASK, "the version"},
};

static void help_on(enum arguments_use use)
{
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		if (rows[i].uses & (int)use)
			printf("  --%-10s %-5s %s\n", rows[i].name, rows[i].arg ? rows[i].arg : "",
				rows[i].help);
	}
}

static void help(void)
{
	puts("usage: pyleak-explain [OPTION]... DIR\n\n"
	     "Explains what holds the objects of DIR/snapshot; writes chain.dot, chain.svg, "
	     "dump.json\nand report.html into DIR.\n");
	help_on(ARGUMENTS_DUMP);
	puts("\nor: pyleak-explain ask [OPTION]... VERB NAME...\n\n"
	     "Answers a question of pyleakctl to snapshots that are open from descriptor 5 on.\n");
	help_on(ARGUMENTS_ASK);
}

static int usage(const char *fmt, const char *what)
{
	char text[512];

	snprintf(text, sizeof(text), fmt, what);
	log_error("%s; see --help", text);
	return EXIT_USAGE;
}

static bool parse_number(const char *s, int base, uint64_t min, uint64_t max, uint64_t *ret)
{
	char *rest;

	errno = 0;
	*ret = strtoull(s, &rest, base);
	return *s && *s != '-' && !*rest && !errno && *ret >= min && *ret <= max;
}

static bool known_trigger(const char *s)
{
	static const char *const kinds[] = {"manual", "verdict", "threshold", "alert", "timer"};

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (strcmp(s, kinds[i]) == 0)
			return true;
	}
	return false;
}

/* -1: go on; else the exit code. */
static int take(struct arguments *a, int letter, const char *arg)
{
	uint64_t n;

	switch (letter) {
	case 'i':
		a->id = arg;
		return -1;
	case 't':
		if (!known_trigger(arg))
			return usage(
				"--trigger: '%.100s' is no trigger: manual, verdict, threshold, "
				"alert or timer",
				arg);
		a->trigger = arg;
		return -1;
	case 'T':
		if (a->n_types == ARGUMENTS_TYPES_MAX)
			return usage("--type: more than %s types", "256");
		a->types[a->n_types++] = arg;
		return -1;
	case 'g':
		if (!a->n_types || !parse_number(arg, 10, 1, INT64_MAX, &n))
			return usage("--grown: '%.100s' is no number behind a --type", arg);
		a->grown[a->n_types - 1] = n;
		return -1;
	case 'a':
		if (a->n_addrs == ARGUMENTS_ADDRS_MAX)
			return usage("--addr: more than %s addresses", "64");
		if (!parse_number(arg, 0, 0, UINT64_MAX, &n))
			return usage("--addr: '%.100s' is not an address like 0x7f12a4c0d0e0", arg);
		a->addrs[a->n_addrs++] = n;
		return -1;
	case 'm':
		if (!parse_number(arg, 10, 1, EXPLAIN_PATHS_MAX, &n))
			return usage("--max-paths: '%.100s' is not a number from 1 to 64", arg);
		a->max_paths = (size_t)n;
		return -1;
	case 'd':
		if (!parse_number(arg, 10, 0, DEPTH_MAX, &n))
			return usage("--max-depth: '%.100s' is not a number up to 1000", arg);
		a->max_depth = (uint32_t)n;
		return -1;
	case 'n':
		if (!parse_number(arg, 10, 1, DEPTH_MAX, &n))
			return usage("--too-many: '%.100s' is not a number from 1 to 1000", arg);
		a->too_many = (uint32_t)n;
		return -1;
	case 'l':
		if (!parse_number(arg, 10, 0, UINT32_MAX, &a->limit))
			return usage("--limit: '%.100s' is not a number", arg);
		return -1;
	case 'f':
		a->format = arg;
		return -1;
	case 'F':
		if (*arg != '/' || strlen(arg) >= PATH_MAX)
			return usage("--final-dir: '%.100s' is not an absolute path", arg);
		a->final_dir = arg;
		return -1;
	case 'M':
		if (parse_size(arg, &a->memory_bytes) < 0)
			return usage("--memory: '%.100s' is not a size like 4GiB", arg);
		return -1;
	case 'C':
		if (parse_duration(arg, &n) < 0)
			return usage("--cpu: '%.100s' is not a duration like 80s", arg);
		a->time = worker_time_limit(n);
		return -1;
	case 'D':
		if (parse_duration(arg, &n) < 0)
			return usage("--deadline: '%.100s' is not a duration like 30s", arg);
		a->time = worker_time_to_answer(n);
		return -1;
	case 'h':
		help();
		return EXIT_FINE;
	case 'V':
		puts("pyleak-explain " PYLEAK_VERSION);
		return EXIT_FINE;
	default:
		return EXIT_USAGE;
	}
}

int arguments_parse(struct arguments *a, enum arguments_use use, int argc, char **argv)
{
	struct option options[ARRAY_SIZE(rows) + 1] = {{0}};
	size_t n = 0;
	int c, rc;

	*a = (struct arguments){.trigger = "manual",
		.max_depth = ARGUMENTS_DEPTH_ANY,
		.memory_bytes = WORKER_MEMORY_DEFAULT,
		.time = worker_time_limit(WORKER_CPU_DEFAULT_NS)};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		if (rows[i].uses & (int)use)
			options[n++] = (struct option){rows[i].name,
				rows[i].arg ? required_argument : no_argument, NULL,
				rows[i].letter};
	}
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c == ':')
			return usage("%.100s needs an argument", argv[optind - 1]);
		if (c == '?')
			return usage("%.100s is not an option", argv[optind - 1]);
		rc = take(a, c, optarg);
		if (rc >= 0)
			return rc;
	}
	a->words = argv + optind;
	a->n_words = argc - optind;
	return -1;
}
