/* SPDX-License-Identifier: MIT */
#include "ctl/options.h"

#include <errno.h>
#include <string.h>

#include "daemon/util/macros.h"
#include "daemon/util/units.h"
#include "pyleak/control.h"

#define N_MAX 1000000

struct option_row {
	const char *name; /* with its dashes */
	const char *arg;  /* NULL: takes none */
	const char *help;
};

static const struct option_row rows[] = {
	[OPTION_SOCKET] = {"--socket", "PATH", "the daemon's socket (" CONTROL_SOCKET_PATH ")"},
	[OPTION_JSON] = {"--json", NULL, "print one JSON document instead of text"},
	[OPTION_HELP] = {"--help", NULL, "print this, or with a verb what the verb does"},
	[OPTION_VERSION] = {"--version", NULL, "print the version"},
	[OPTION_N] = {"-n", "N", "at most N lines of a list, 0 for all (10)"},
	[OPTION_FRESH] = {"--fresh", NULL, "count now instead of showing the last census"},
	[OPTION_SINCE] = {"--since", "T",
		"a duration back from now (10m, 1h30m) or an RFC 3339 time"},
	[OPTION_TYPE] = {"--type", "T", "a type: module.QualName, a glob, or a short name"},
	[OPTION_STEP] = {"--step", "D", "at most one point in so long a time (1m)"},
	[OPTION_NO_WAIT] = {"--no-wait", NULL, "print the id and do not wait for the end"},
	[OPTION_FORCE] = {"--force", NULL,
		"even if the process will stand still for longer than dump.pause"},
	[OPTION_OUTPUT] = {"-o", "FILE", "write to FILE"},
	[OPTION_ADDR] = {"--addr", "A", "the object at this address (0x7f12a4c0d0e0)"},
	[OPTION_MAX_DEPTH] = {"--max-depth", "N", "go so many steps (3; a chain: any number)"},
	[OPTION_TOO_MANY] = {"--too-many", "N", "show so many neighbours of one (10), paths of a type (8)"},
	[OPTION_CONFIG] = {"--config", "FILE", "with the growth settings of this configuration"},
	[OPTION_INTERVAL] = {"--interval", "D", "growth.interval"},
	[OPTION_WARMUP] = {"--warmup", "D", "growth.warmup"},
	[OPTION_WINDOW] = {"--window", "D", "growth.window"},
	[OPTION_DEADLINE] = {"--deadline", "D", "answer with what is known after so much CPU time (56s)"},
	[OPTION_MIN_OBJECTS] = {"--min-objects", "N", "growth.min_objects"},
};

#define GENERAL                                                                                    \
	(OPTION_BIT(OPTION_SOCKET) | OPTION_BIT(OPTION_JSON) | OPTION_BIT(OPTION_HELP) |           \
		OPTION_BIT(OPTION_VERSION))

static const struct verb *find_verb(const char *name)
{
	for (const struct verb *v = verbs; v->name; v++)
		if (!strcmp(v->name, name))
			return v;
	return NULL;
}

/* "status, top, growth" */
static void list_verbs(char *buf, size_t n)
{
	size_t len = 0;

	buf[0] = 0;
	for (const struct verb *v = verbs; v->name && len < n; v++)
		len += snprintf(buf + len, n - len, "%s%s", v == verbs ? "" : ", ", v->name);
}

/*
 * The option that arg is. *ret_value: what follows '=' in a long one or the letter in a short
 * one, else NULL. -1: no such option.
 */
static int find_option(const char *arg, const char **ret_value)
{
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		bool is_long = rows[i].name[1] == '-';
		size_t len = strlen(rows[i].name);

		if (strncmp(arg, rows[i].name, len))
			continue;
		*ret_value = NULL;
		if (!arg[len])
			return (int)i;
		if (is_long && arg[len] != '=')
			continue;
		*ret_value = arg + len + is_long;
		return (int)i;
	}
	return -1;
}

static int parse_count(const char *s, int64_t *ret, struct err *err)
{
	size_t digits = strspn(s, "0123456789");

	if (!digits || s[digits] || digits > 7 || atol(s) > N_MAX)
		return err_set(err, -EINVAL, "-n %s: give a number from 0 (all) to %d", s, N_MAX);
	*ret = atol(s);
	return 0;
}

static int parse_growth(enum option option, const char *value, uint64_t *ret_ns, struct err *err)
{
	if (parse_duration(value, ret_ns) == 0 && (*ret_ns || option == OPTION_WARMUP))
		return 0;
	return err_set(err, -EINVAL, "%s %s: give a duration (10s, 30m)", rows[option].name, value);
}

static int set_option(struct options *o, enum option option, const char *value, struct err *err)
{
	uint64_t ns;
	int64_t ms;

	o->given |= OPTION_BIT(option);
	switch (option) {
	case OPTION_SOCKET:
		o->socket = value;
		return 0;
	case OPTION_OUTPUT:
		o->output = value;
		return *value ? 0 : err_set(err, -EINVAL, "-o: the name of the file is empty");
	case OPTION_N:
		return parse_count(value, &o->n, err);
	case OPTION_SINCE:
		o->since = value;
		if (parse_duration(value, &ns) == 0 || parse_rfc3339(value, &ms) == 0)
			return 0;
		return err_set(err, -EINVAL,
			"--since %s: give a duration (10m, 1h30m) or a time like "
			"2026-11-23T08:25:00Z",
			value);
	case OPTION_STEP:
		o->step = value;
		if (parse_duration(value, &ns) == 0)
			return 0;
		return err_set(err, -EINVAL, "--step %s: give a duration (10s, 1m)", value);
	case OPTION_CONFIG:
		o->config = value;
		return 0;
	case OPTION_INTERVAL:
		return parse_growth(option, value, &o->interval_ns, err);
	case OPTION_WARMUP:
		return parse_growth(option, value, &o->warmup_ns, err);
	case OPTION_WINDOW:
		return parse_growth(option, value, &o->window_ns, err);
	case OPTION_MIN_OBJECTS:
		if (parse_count(value, &ms, err) == 0 && ms > 0) {
			o->min_objects = (uint64_t)ms;
			return 0;
		}
		return err_set(err, -EINVAL, "--min-objects %s: give a number from 1 to %d", value, N_MAX);
	case OPTION_TYPE:
		if (!*value)
			return err_set(err, -EINVAL, "--type: the name of the type is empty");
		if (o->n_types == OPTIONS_TYPES_MAX)
			return err_set(
				err, -EINVAL, "--type: at most %d at a time", OPTIONS_TYPES_MAX);
		o->types[o->n_types++] = value;
		return 0;
	case OPTION_ADDR:
		if (o->n_addrs == OPTIONS_TYPES_MAX)
			return err_set(
				err, -EINVAL, "--addr: at most %d at a time", OPTIONS_TYPES_MAX);
		o->addrs[o->n_addrs++] = value;
		return 0;
	case OPTION_MAX_DEPTH:
		o->max_depth = value;
		return 0;
	case OPTION_TOO_MANY:
		o->too_many = value;
		return 0;
	case OPTION_DEADLINE:
		o->deadline = value;
		if (parse_duration(value, &ns) == 0)
			return 0;
		return err_set(err, -EINVAL, "--deadline %s: give a duration (10s, 5m)", value);
	default:
		return 0;
	}
}

static int add_word(const struct verb **verb, struct options *o, const char *word, struct err *err)
{
	if (!*verb) {
		char names[1024];

		*verb = find_verb(word);
		if (*verb)
			return 0;
		list_verbs(names, sizeof(names));
		return err_set(
			err, -EINVAL, "no verb \"%s\" in this version: there are %s", word, names);
	}
	if (o->n_words == (*verb)->max_words || o->n_words == OPTIONS_WORDS_MAX)
		return err_set(err, -EINVAL, "%s: \"%s\" is one argument too many: %s %s",
			(*verb)->name, word, (*verb)->name, (*verb)->synopsis);
	o->words[o->n_words++] = word;
	return 0;
}

/* What can be said only when all has been read: options may stand before their verb. */
static int check(const struct verb *verb, const struct options *o, struct err *err)
{
	unsigned wrong = o->given & ~(GENERAL | (verb ? verb->options : 0));

	if (o->given & (OPTION_BIT(OPTION_HELP) | OPTION_BIT(OPTION_VERSION)))
		return 0;
	if (!verb) {
		char names[1024];

		list_verbs(names, sizeof(names));
		return err_set(err, -EINVAL, "no verb: give one of %s, or --help", names);
	}
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (wrong & OPTION_BIT(i))
			return err_set(err, -EINVAL, "%s does not take %s: pyleakctl %s --help",
				verb->name, rows[i].name, verb->name);
	if (o->n_words < verb->min_words)
		return err_set(err, -EINVAL, "%s: something is missing: %s %s", verb->name,
			verb->name, verb->synopsis);
	return 0;
}

int options_parse(
	int argc, char **argv, const struct verb **ret_verb, struct options *ret, struct err *err)
{
	const struct verb *verb = NULL;
	struct options o = {.n = 10, .socket = CONTROL_SOCKET_PATH};
	bool only_words = false;
	int r = 0;

	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i], *value;
		int option;

		if (only_words || arg[0] != '-' || !arg[1]) {
			r = add_word(&verb, &o, arg, err);
			if (r)
				return r;
			continue;
		}
		if (!strcmp(arg, "--")) {
			only_words = true;
			continue;
		}
		option = find_option(arg, &value);
		if (option < 0)
			return err_set(err, -EINVAL, "no option %s: see pyleakctl%s%s --help", arg,
				verb ? " " : "", verb ? verb->name : "");
		if (!rows[option].arg && value)
			return err_set(err, -EINVAL, "%s takes no value", rows[option].name);
		if (rows[option].arg && !value) {
			if (i + 1 == argc)
				return err_set(err, -EINVAL, "%s needs a value: %s %s",
					rows[option].name, rows[option].name, rows[option].arg);
			value = argv[++i];
		}
		r = set_option(&o, option, value, err);
		if (r)
			return r;
	}
	r = check(verb, &o, err);
	if (r)
		return r;
	*ret_verb = verb;
	*ret = o;
	return 0;
}

/* ---- help ----------------------------------------------------------------------------------- */

static void help_options(FILE *f, unsigned which)
{
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		char left[64];

		if (!(which & OPTION_BIT(i)))
			continue;
		snprintf(left, sizeof(left), "%s%s%s", rows[i].name, rows[i].arg ? " " : "",
			rows[i].arg ?: "");
		fprintf(f, "  %-15s %s\n", left, rows[i].help);
	}
}

void options_help(FILE *f)
{
	int width = 0;

	fputs("pyleakctl [--socket PATH] [--json] VERB ...\n"
	      "Asks pyleakd which objects leak in the Python processes it watches.\n\n",
		f);
	for (const struct verb *v = verbs; v->name; v++)
		width = MAX(width, (int)(strlen(v->name) + 1 + strlen(v->synopsis)));
	for (const struct verb *v = verbs; v->name; v++) {
		int left = fprintf(f, "  %s %s", v->name, v->synopsis) - 2;

		fprintf(f, "%*s  %s\n", width - left, "", v->summary);
	}
	fputc('\n', f);
	help_options(f, GENERAL);
	fputs("\n"
	      "Exit code: 0 fine, 1 the answer is no (no such process, type or dump), 2 bad "
	      "usage,\n"
	      "3 the daemon cannot be reached, 4 refused (permission, quota, guard), 5 failed.\n",
		f);
}

void options_verb_help(FILE *f, const struct verb *v)
{
	fprintf(f, "pyleakctl %s%s%s\n%s.\n", v->name, *v->synopsis ? " " : "", v->synopsis,
		v->summary);
	if (v->help)
		fprintf(f, "\n%s", v->help);
	fputc('\n', f);
	help_options(f, v->options);
	help_options(f, OPTION_BIT(OPTION_SOCKET) | OPTION_BIT(OPTION_JSON));
}
