/* SPDX-License-Identifier: MIT */
#include "daemon/config/config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <string.h>

#include "daemon/config/config_private.h"
#include "daemon/config/schema.h"
#include "daemon/track/track.h"
#include "daemon/util/units.h"

/* A double-quoted scalar. Everything beyond ASCII as an escape: some of it (NEL, LS, a byte order
 * mark) would read back as something else. The text came out of libyaml, so it is valid UTF-8. */
static void print_string(FILE *f, const char *s)
{
	fputc('"', f);
	while (*s) {
		unsigned char c = (unsigned char)*s++;
		unsigned n = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc0 ? 1 : 0;
		uint32_t code = n == 3 ? c & 7 : n == 2 ? c & 15 : n == 1 ? c & 31 : c;

		for (; n && ((unsigned char)*s & 0xc0) == 0x80; n--)
			code = code << 6 | ((unsigned char)*s++ & 0x3f);
		if (code == '"' || code == '\\')
			fprintf(f, "\\%c", (char)code);
		else if (code >= 0x20 && code < 0x7f)
			fputc((char)code, f);
		else
			fprintf(f, code > 0xffff ? "\\U%08" PRIx32 : "\\u%04" PRIx32, code);
	}
	fputc('"', f);
}

static void print_rules(const struct config *c, FILE *f)
{
	fputs("\n# The first rule that matches decides; keys within a rule are AND, values are "
	      "globs.\n"
	      "# No rules: every Python.\n",
		f);
	if (!c->rules_given)
		fputs("# targets: []\n", f);
	else if (!c->n_rules)
		fputs("targets: []\n", f);
	else
		fputs("targets:\n", f);
	for (size_t i = 0; i < c->n_rules; i++) {
		const struct config_rule *r = &c->rules[i];
		const char *sep = "";

		fputs("  - match: {", f);
		for (size_t k = 0; k < N_MATCH_KEYS; k++) {
			const char *glob = *(char *const *)((const char *)r + match_keys[k].offset);

			if (!glob)
				continue;
			fprintf(f, "%s%s: ", sep, match_keys[k].name);
			print_string(f, glob);
			sep = ", ";
		}
		fprintf(f, "}\n    watch: %s\n", r->watch ? "true" : "false");
	}
}

static void print_when(const struct config_when *w, FILE *f);

/* The keys of a condition, without the braces. */
static void print_condition(const struct config_when *w, FILE *f)
{
	char buf[VALUE_TEXT_MAX];

	switch (w->kind) {
	case WHEN_VERDICT:
		fprintf(f, "verdict: %s", track_verdict_name(w->verdict));
		if (w->type) {
			fputs(", type: ", f);
			print_string(f, w->type);
		}
		break;
	case WHEN_COUNT:
		fputs("count_above: {type: ", f);
		print_string(f, w->type);
		fprintf(f, ", count: %s}", value_format(&when_count, &w->count, buf));
		break;
	case WHEN_RATE:
		fputs("growth_above: {type: ", f);
		print_string(f, w->type);
		fprintf(f, ", per_hour: %s}", value_format(&when_count, &w->count, buf));
		break;
	case WHEN_SHARE:
		fputs("share_above: {type: ", f);
		print_string(f, w->type);
		fprintf(f, ", share: %s}", value_format(&when_cgroup, &w->share, buf));
		break;
	case WHEN_RSS:
		fprintf(f, "rss_above: %s", value_format(&when_rss, &w->bytes, buf));
		break;
	case WHEN_CGROUP:
		fprintf(f, "cgroup_memory_above: %s", value_format(&when_cgroup, &w->share, buf));
		break;
	case WHEN_ANY:
		fputs("any: [", f);
		for (size_t i = 0; i < w->n_children; i++) {
			fputs(i ? ", " : "", f);
			print_when(&w->children[i], f);
		}
		fputc(']', f);
		break;
	case WHEN_ALL:
		for (size_t i = 0; i < w->n_children; i++) {
			fputs(i ? ", " : "", f);
			print_condition(&w->children[i], f);
		}
		break;
	}
}

static void print_when(const struct config_when *w, FILE *f)
{
	fputc('{', f);
	print_condition(w, f);
	fputc('}', f);
}

static void print_triggers(const struct config *c, FILE *f)
{
	char buf[VALUE_TEXT_MAX];

	fputs("\n# When a condition becomes an action.\n", f);
	fputs(c->n_triggers ? "triggers:\n" : "triggers: []\n", f);
	for (size_t i = 0; i < c->n_triggers; i++) {
		const struct config_trigger *t = &c->triggers[i];
		const char *sep = "";

		fputs("  - name: ", f);
		print_string(f, t->name);
		fputs("\n    when: ", f);
		print_when(&t->when, f);
		fprintf(f, "\n    hold: %s\n    do: [",
			value_format(&trigger_hold, &t->hold_ns, buf));
		for (size_t a = 0; a < N_ACTIONS; a++) {
			if (!(t->actions & action_names[a].action))
				continue;
			fprintf(f, "%s%s", sep, action_names[a].name);
			sep = ", ";
		}
		fprintf(f, "]\n    cooldown: %s\n",
			value_format(&trigger_cooldown, &t->cooldown_ns, buf));
		fprintf(f, "    per_day: %u\n", t->per_day);
	}
}

static void print_section(const struct config *c, FILE *f, const char *section, const char *why)
{
	char buf[VALUE_TEXT_MAX], line[VALUE_TEXT_MAX * 2];

	fprintf(f, "\n# %s\n%s:\n", why, section);
	for (size_t i = 0; i < N_SETTINGS; i++) {
		const struct setting *s = &settings[i];

		if (strcmp(s->section, section))
			continue;
		snprintf(line, sizeof(line), "%s: %s", s->key,
			value_format(&s->value, (const char *)c + s->offset, buf));
		fprintf(f, "  %-20s # %s\n", line, s->why);
	}
}

/* Goes on with the section growth. */
static void print_suppress(const struct config *c, FILE *f)
{
	char until[RFC3339_MAX];
	size_t benign = 0;

	for (size_t i = 0; i < c->n_suppress; i++)
		benign += c->suppress[i].benign;
	if (benign)
		fprintf(f, "  # growth that is known to end: %zu patterns of benign.yaml\n", benign);
	fputs(c->n_suppress > benign ? "  suppress: # verdicts that nobody wants to hear of\n" : "  suppress: []\n", f);
	for (size_t i = 0; i < c->n_suppress; i++) {
		const struct config_suppress *s = &c->suppress[i];

		if (s->benign)
			continue;
		fputs("    - type: ", f);
		print_string(f, s->type);
		if (s->service) {
			fputs("\n      service: ", f);
			print_string(f, s->service);
		}
		fputs("\n      reason: ", f);
		print_string(f, s->reason);
		if (s->until_ms)
			fprintf(f, "\n      until: %s", format_rfc3339(until, sizeof(until), s->until_ms));
		if (s->up_to)
			fprintf(f, "\n      up_to: %" PRIu64, s->up_to);
		fputc('\n', f);
	}
}

int config_print(const struct config *c, FILE *f)
{
	fputs("# The configuration in effect; see pyleakd.yaml(5).\n", f);
	print_rules(c, f);
	print_section(c, f, "budget", "What watching may cost the target.");
	print_section(c, f, "growth", "What is a leak.");
	print_suppress(c, f);
	print_triggers(c, f);
	print_section(c, f, "dump", "The in-process dump.");
	fputs("\n# Where news go.\n", f);
	if (c->metrics_listen)
		fprintf(f, "outputs:\n  metrics: {listen: \"%s\"}\n", c->metrics_listen);
	else
		fputs("outputs: {}\n", f);
	print_section(c, f, "storage", "What is kept on disk.");
	return ferror(f) ? -EIO : 0;
}
