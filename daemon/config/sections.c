/* SPDX-License-Identifier: MIT */
/* A whole document: its sections, the settings in them, and `outputs`. */
#include <stdlib.h>
#include <string.h>

#include "daemon/config/loader.h"
#include "daemon/util/address.h"

#define METRICS_LISTEN "127.0.0.1:9477"

static const char *const output_names[] = {"metrics", "journal", "webhook", "alertmanager", "exec"};

static void read_setting(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	const struct setting *s = arg;

	if (read_value(l, v, &s->value, (char *)l->config + s->offset))
		l->set_at[s - settings] = place_of(l, v);
}

/* A section that is made of settings, but for growth.suppress. */
static void read_section(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct key keys[KEYS_MAX];
	size_t n = 0;

	if (is_null(v)) /* all of it commented out */
		return;
	for (size_t i = 0; i < N_SETTINGS; i++)
		if (!strcmp(settings[i].section, arg))
			keys[n++] =
				(struct key){settings[i].key, read_setting, &settings[i], false};
	if (!strcmp(arg, "growth"))
		keys[n++] = (struct key){"suppress", read_suppress, NULL, false};
	read_mapping(l, v, keys, n, NULL, NULL);
}

static void refuse_output(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	error_node(l, v, "this version has no such output, it has `metrics`");
}

static void read_listen(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	static const char allowed[] = "an address and a port such as 127.0.0.1:9477 or [::1]:9477";
	const char *text = read_scalar(l, v, allowed);
	struct sockaddr_storage a;
	socklen_t n;

	if (text && address_parse(text, &a, &n))
		error_node(l, v, "'%.80s' is no address to listen at, it takes %s", text, allowed);
	else if (text)
		copy_text(l, &l->config->metrics_listen, text);
}

static const struct key metrics_keys[] = {
	{"listen", read_listen, NULL, false},
};

static void read_metrics(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	if (is_null(v)) { /* a drop-in takes it back */
		free(TAKE_PTR(l->config->metrics_listen));
		return;
	}
	read_mapping(l, v, metrics_keys, ARRAY_SIZE(metrics_keys), NULL, NULL);
	if (!l->config->metrics_listen)
		copy_text(l, &l->config->metrics_listen, METRICS_LISTEN);
}

static void read_outputs(struct loader *l, const yaml_node_t *v, void *object, const void *arg)
{
	struct key keys[ARRAY_SIZE(output_names)];

	if (is_null(v))
		return;
	for (size_t i = 0; i < ARRAY_SIZE(output_names); i++)
		keys[i] = (struct key){output_names[i],
			strcmp(output_names[i], "metrics") ? refuse_output : read_metrics, NULL,
			false};
	read_mapping(l, v, keys, ARRAY_SIZE(output_names), NULL, NULL);
}

static const struct key sections[] = {
	{"targets", read_targets, NULL, false},
	{"budget", read_section, "budget", false},
	{"growth", read_section, "growth", false},
	{"triggers", read_triggers, NULL, false},
	{"dump", read_section, "dump", false},
	{"outputs", read_outputs, NULL, false},
	{"storage", read_section, "storage", false},
};

static const struct key benign_sections[] = {
	{"benign", read_suppress, BENIGN, false},
};

void read_document(struct loader *l)
{
	yaml_node_t *root = yaml_document_get_root_node(l->document);

	l->visits = 0;
	l->where[0] = '\0';
	if (!root || is_null(root))
		return; /* nothing but comments */
	if (l->benign)
		read_mapping(l, root, benign_sections, ARRAY_SIZE(benign_sections), NULL, NULL);
	else
		read_mapping(l, root, sections, ARRAY_SIZE(sections), NULL, NULL);
	if (l->visits > VISITS_MAX) {
		struct place p = place_of(l, root);

		error_at(l, &p, "more than %d values, aliases counted each time they are used",
			VISITS_MAX);
	}
}
