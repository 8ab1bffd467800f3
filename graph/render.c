/* SPDX-License-Identifier: MIT */
#include "graph/render.h"

#include <gvc.h>
#include <string.h>

#include "daemon/util/units.h"
#include "graph/text.h"

#define FONT       "Helvetica,Arial,sans-serif"
#define NAME_CHARS 44
#define TYPE_CHARS 52
#define EDGE_CHARS 36
#define ROOT_CHARS 48

enum role {
	ROLE_MODULE,
	ROLE_INTERPRETER,
	ROLE_FRAME,
	ROLE_C,
	ROLE_STEP,
	ROLE_SUSPECT,
	ROLE_SUSPECT_FEW, /* a small part of them: not what the eye should go to */
	ROLE_MORE,
};

#define FEW 0.1

/* Paths with less than this are not drawn, except the first one, and where more than usual were asked
 * for: they are in the list. */
#define SHARE_MIN 0.01

static const struct look {
	const char *class, *fill, *border, *text;
} looks[] = {
	[ROLE_MODULE] = {"module", "#c9e7cd", "#2e7d32", "#1b4d20"},
	[ROLE_INTERPRETER] = {"interpreter", "#e4dcf2", "#6a4fa3", "#3d2a6b"},
	[ROLE_FRAME] = {"frame", "#cfe3f7", "#2066a8", "#123f69"},
	[ROLE_C] = {"c-reference", "#fbdcb4", "#c2680b", "#6f3a03"},
	[ROLE_STEP] = {"step", "#ffffff", "#8a8580", "#2b2724"},
	[ROLE_SUSPECT] = {"suspect", "#e5594b", "#a3261a", "#ffffff"},
	[ROLE_SUSPECT_FEW] = {"suspect few", "#f6b8b0", "#c0392b", "#5c130b"},
	[ROLE_MORE] = {"more", "#ffffff", "#c0392b", "#a3261a"},
};

/* A place in the picture: all paths that agree up to it share it. */
struct place {
	uint32_t shape; /* 0: private */
	enum role role;
	Agnode_t *node;
	const struct explain_step *step; /* NULL: a root or a "more" */
	const struct explain_path *path; /* the first through it */
	const struct explain_suspect *suspect;
	uint64_t instances; /* that hang below or are here */
	uint64_t total;     /* of the suspects of those: 100 % */
	unsigned int depth; /* steps to the suspect, the least */
	bool accumulates;
	bool is_end;
};

struct picture {
	Agraph_t *g;
	struct place *places;
	size_t n_places;
	bool failed; /* out of memory somewhere: every setter notes it, one place asks */
};

static char graph_name[] = "pyleak";

static void set(struct picture *p, void *object, const char *key, const char *value)
{
	static char none[] = "";

	/* libcgraph takes char * and leaves it alone. */
	if (!value || agsafeset(object, (char *)key, (char *)value, none) != 0)
		p->failed = true;
}

/* Tooltips are "escStrings": a backslash would be the start of a \N. */
static void set_escaped(struct picture *p, void *object, const char *key, const char *text)
{
	_cleanup_free_ char *s = malloc(2 * strlen(text) + 1);
	char *o = s;

	for (const char *i = text; s && *i; i++) {
		if (*i == '\\')
			*o++ = '\\';
		*o++ = *i;
	}
	if (s)
		*o = 0;
	set(p, object, key, s);
}

/* What text_html() has written, without tags, as an "escString" of a line for each of its lines. */
static char *plain_of(const char *html)
{
	static const char *const entities[][2] = {{"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"},
		{"&quot;", "\""}, {"&#39;", "'"}, {"&#92;", "\\\\"}};
	char *text = malloc(strlen(html) + 1), *o = text, *line = text;

	for (const char *s = html; text && *s;) {
		size_t i = 0;

		if (*s == '<') {
			/* An empty line only makes room. */
			if (!strncmp(s, "<br", 3) && o > line) {
				*o++ = '\\';
				*o++ = 'n';
				line = o;
			}
			s += strcspn(s, ">");
			s += *s == '>';
			continue;
		}
		while (i < ARRAY_SIZE(entities) &&
			strncmp(s, entities[i][0], strlen(entities[i][0])) != 0)
			i++;
		if (i < ARRAY_SIZE(entities)) {
			o = stpcpy(o, entities[i][1]);
			s += strlen(entities[i][0]);
		} else if (*s != ' ' || o > line) {
			*o++ = *s++;
		} else {
			s++;
		}
	}
	if (!text)
		return NULL;
	if (o == line && o > text)
		o -= 2;
	while (o > text && o[-1] == ' ')
		o--;
	*o = 0;
	return text;
}

/* A label as text, which every reader of DOT understands, and for drawing as HTML. */
static void set_label(struct picture *p, void *object, const char *html)
{
	_cleanup_free_ char *plain = html ? plain_of(html) : NULL;
	/* A string is HTML or is not: as it stands here, libcgraph would know it as one that is not. */
	_cleanup_free_ char *marked = html ? text_format(" %s", html) : NULL;

	set(p, object, "html", marked);
	if (plain)
		set(p, object, "label", plain);
	else
		p->failed = true;
}

static void elided(FILE *f, const char *s, size_t max)
{
	_cleanup_free_ char *short_one = text_elide(s, max);

	text_html(f, short_one ? short_one : "…");
}

/* ---- places -------------------------------------------------------------------------------- */

static struct place *place_get(struct picture *p, uint32_t shape, bool *ret_new)
{
	char name[24];

	*ret_new = false;
	for (size_t i = 0; shape && i < p->n_places; i++) {
		if (p->places[i].shape == shape)
			return &p->places[i];
	}
	if (p->n_places >= RENDER_NODES_MAX)
		return NULL;
	snprintf(name, sizeof(name), "n%zu", p->n_places);
	p->places[p->n_places] =
		(struct place){.shape = shape, .node = agnode(p->g, name, 1), .depth = UINT32_MAX};
	if (!p->places[p->n_places].node) {
		p->failed = true;
		return NULL;
	}
	*ret_new = true;
	return &p->places[p->n_places++];
}

static enum role role_of_root(enum path_root root)
{
	switch (root) {
	case PATH_MODULE:
		return ROLE_MODULE;
	case PATH_FRAME:
		return ROLE_FRAME;
	case PATH_C_REFERENCE:
		return ROLE_C;
	default:
		return ROLE_INTERPRETER;
	}
}

/* Room for the path's new places? */
static bool fits(const struct picture *p, const struct explain_path *way)
{
	return p->n_places + way->n_steps + 2 <= RENDER_NODES_MAX;
}

static double share_of(uint64_t part, uint64_t whole)
{
	return whole ? (double)part / (double)whole : 0;
}

/* How the edge between two places looks is settled when all paths are in: the instances that pass
 * are kept in the edge's weight until then. */
struct flow {
	Agrec_t header;
	uint64_t instances, total;
};

/* Some room around, and below so that the line does not cross the text out. */
static char *edge_label(const char *edge)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	fputs(" ", f);
	elided(f, edge, EDGE_CHARS);
	fputs(" <br/><font point-size=\"4\"> </font>", f);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

static void add_edge(struct picture *p, struct place *from, struct place *to,
	const struct explain_path *way, const struct explain_step *step,
	const struct explain_suspect *suspect)
{
	static char record[] = "flow", none[] = "";
	Agedge_t *e = agedge(p->g, from->node, to->node, none, 0);
	struct flow *flow;
	bool new = !e;

	if (new)
		e = agedge(p->g, from->node, to->node, none, 1);
	flow = e ? agbindrec(e, record, sizeof(*flow), 0) : NULL;
	if (!flow) {
		p->failed = true;
		return;
	}
	flow->instances += way->instances;
	flow->total = MAX(flow->total, suspect->instances);
	if (new) {
		_cleanup_free_ char *label = edge_label(step->edge);

		if (*step->edge)
			set_label(p, e, label);
		set_escaped(p, e, "edgetooltip", way->sentence);
		set_escaped(p, e, "labeltooltip", way->sentence);
	}
}

static void add_path(
	struct picture *p, const struct explain_suspect *suspect, const struct explain_path *way)
{
	struct place *before, *first = NULL;
	bool new;

	before = place_get(p, way->is_cycle ? 0 : way->root_shape, &new);
	if (!before)
		return;
	if (new) {
		before->role = role_of_root(way->root);
		before->path = way;
		before->suspect = suspect;
	}
	before->instances += way->instances;
	before->total = MAX(before->total, suspect->instances);
	before->accumulates |= way->accumulation < 0 && way->n_steps > 1 && !way->is_cycle &&
			       way->root == PATH_MODULE;
	before->depth = MIN(before->depth, (unsigned int)way->n_steps);
	for (size_t i = 0; i < way->n_steps; i++) {
		const struct explain_step *step = &way->steps[i];
		struct place *here;

		/* The last step of a cycle is the first one again. */
		if (way->is_cycle && i > 0 && i + 1 == way->n_steps && first) {
			add_edge(p, before, first, way, step, suspect);
			return;
		}
		here = place_get(p, way->is_cycle ? 0 : step->shape, &new);
		if (!here)
			return;
		if (new) {
			here->role = step->gap ? ROLE_MORE : ROLE_STEP;
			here->step = step;
			here->path = way;
			here->suspect = suspect;
		}
		here->instances += way->instances;
		here->total = MAX(here->total, suspect->instances);
		here->depth = MIN(here->depth, (unsigned int)(way->n_steps - 1 - i));
		here->accumulates |= way->accumulation == (ssize_t)i && way->instances > 1;
		if (i + 1 == way->n_steps || (way->is_cycle && i == 0)) {
			here->is_end = true;
			here->role = ROLE_SUSPECT;
			here->path = way;
			here->suspect = suspect;
			here->step = step;
		}
		add_edge(p, before, here, way, step, suspect);
		if (step->repeats)
			add_edge(p, here, here, way, step, suspect);
		if (!i)
			first = here;
		before = here;
	}
}

static char *text_of_more(const struct explain_suspect *suspect, uint64_t paths, uint64_t instances)
{
	char a[TEXT_NUMBER_MAX], b[TEXT_NUMBER_MAX], c[TEXT_NUMBER_MAX];
	const char *objects = instances == 1 ? "object" : "objects";

	text_number(b, sizeof(b), instances);
	text_percent(c, sizeof(c), share_of(instances, suspect->instances));
	return paths ? text_format("%s more %s\\n%s %s, %s", text_number(a, sizeof(a), paths),
			       paths == 1 ? "path" : "paths", b, objects, c)
		     : text_format("not looked at\\n%s %s, %s", b, objects, c);
}

/* "3 more paths": dotted, in front of the objects of that type; no paths: objects that the search did
 * not come to. */
static void add_more(struct picture *p, const struct explain_suspect *suspect, uint64_t paths,
	uint64_t instances)
{
	_cleanup_free_ char *label = NULL;
	struct place *more, *end = NULL;
	bool new;

	for (size_t i = 0; i < p->n_places && !end; i++) {
		if (p->places[i].is_end && p->places[i].suspect == suspect)
			end = &p->places[i];
	}
	more = place_get(p, 0, &new);
	if (!more)
		return;
	more->role = ROLE_MORE;
	more->suspect = suspect;
	more->instances = instances;
	label = text_of_more(suspect, paths, instances);
	set(p, more->node, "label", label);
	if (end) {
		static char none[] = "";
		Agedge_t *e = agedge(p->g, more->node, end->node, none, 1);

		if (!e) {
			p->failed = true;
			return;
		}
		set(p, e, "style", "dotted");
		set(p, e, "color", looks[ROLE_MORE].border);
		set(p, e, "class", "more");
	}
}

/* ---- looks --------------------------------------------------------------------------------- */

/* The pale red of what is next to the leak fades to white five steps away. */
static void fade(unsigned int depth, char buf[8])
{
	static const int near[3] = {0xf8, 0xd9, 0xd0};
	int c[3], k = (int)MIN(depth ? depth - 1 : 0, 5u);

	for (int i = 0; i < 3; i++)
		c[i] = near[i] + (255 - near[i]) * k / 5;
	snprintf(buf, 8, "#%02x%02x%02x", (unsigned int)c[0] & 255, (unsigned int)c[1] & 255,
		(unsigned int)c[2] & 255);
}

#define SMALL "<font point-size=\"10\">"
/* Between small lines: an underscore is as low as the next line is high. */
#define ROOM  "<br/><font point-size=\"2\"> </font><br/>"

static void label_root(FILE *f, const struct place *at)
{
	static const char *const captions[] = {[PATH_MODULE] = "module",
		[PATH_INTERPRETER] = "interpreter",
		[PATH_FRAME] = "frame",
		[PATH_C_REFERENCE] = "reference not explained by any object",
		[PATH_UNREACHABLE] = "nobody holds them"};

	fprintf(f, SMALL "%s</font><br/><b>", captions[at->path->root]);
	elided(f, at->path->root_name, ROOT_CHARS);
	fputs("</b>", f);
}

static void label_end(FILE *f, const struct place *at)
{
	char n[TEXT_NUMBER_MAX], all[TEXT_NUMBER_MAX], percent[TEXT_NUMBER_MAX];

	fprintf(f, "<b>%s × ", text_number(n, sizeof(n), at->path->instances));
	elided(f, text_short_type(at->step->type), NAME_CHARS);
	fputs("</b><br/>" SMALL, f);
	elided(f, at->step->type, TYPE_CHARS);
	fprintf(f, "</font>" ROOM SMALL "%s of %s</font>",
		text_percent(percent, sizeof(percent), at->path->share),
		text_number(all, sizeof(all), at->suspect->instances));
}

static void label_step(FILE *f, const struct place *at)
{
	char n[TEXT_NUMBER_MAX];

	fputs("<b>", f);
	elided(f, at->step->label, NAME_CHARS);
	fputs("</b><br/>" SMALL, f);
	elided(f, at->step->type, TYPE_CHARS);
	if (at->step->nodes > 1)
		fprintf(f, ", %s of them", text_number(n, sizeof(n), at->step->nodes));
	fputs("</font>", f);
	if (at->accumulates)
		fprintf(f, ROOM SMALL "<b>%s pass through here</b></font>",
			text_number(n, sizeof(n), at->instances));
}

static void dress_node(
	struct picture *p, const struct explanation *x, const struct place *at)
{
	const struct look *look =
		&looks[at->role == ROLE_SUSPECT && share_of(at->instances, at->total) < FEW
				? ROLE_SUSPECT_FEW
				: at->role];
	_cleanup_free_ char *label = NULL, *class = NULL;
	char fill[8];
	size_t size;
	FILE *f;

	set(p, at->node, "color", look->border);
	set(p, at->node, "fontcolor", look->text);
	set(p, at->node, "fillcolor", look->fill);
	class = text_format("%s%s", look->class, at->accumulates ? " accumulation" : "");
	set(p, at->node, "class", class);
	if (at->path)
		set_escaped(p, at->node, "tooltip", at->path->sentence);
	if (at->role == ROLE_MORE) {
		set(p, at->node, "style", "rounded,dotted");
		if (at->step)
			set_escaped(p, at->node, "label", at->step->label);
		return;
	}
	if (at->is_end) {
		_cleanup_free_ char *link =
			text_format("#suspect-%zu", (size_t)(at->suspect - x->suspects) + 1);

		/* To the table on the page. */
		set(p, at->node, "URL", link);
	}
	if (at->role == ROLE_STEP) {
		fade(at->depth, fill);
		set(p, at->node, "fillcolor", fill);
	}
	if (at->accumulates) {
		set(p, at->node, "penwidth", "3.5");
		set(p, at->node, "color", looks[ROLE_SUSPECT].border);
	}

	f = open_memstream(&label, &size);
	if (!f) {
		p->failed = true;
		return;
	}
	if (!at->step)
		label_root(f, at);
	else if (at->is_end)
		label_end(f, at);
	else
		label_step(f, at);
	if (fclose(f) != 0)
		p->failed = true;
	else
		set_label(p, at->node, label);
}

static void dress_edges(struct picture *p)
{
	static char record[] = "flow";

	for (Agnode_t *n = agfstnode(p->g); n; n = agnxtnode(p->g, n)) {
		for (Agedge_t *e = agfstout(p->g, n); e; e = agnxtout(p->g, e)) {
			const struct flow *flow = (struct flow *)aggetrec(e, record, 0);
			double share;
			char width[16];

			if (!flow)
				continue;
			share = share_of(flow->instances, flow->total);
			snprintf(width, sizeof(width), "%.1f", 0.8 + 4.2 * MIN(share, 1.0));
			set(p, e, "penwidth", width);
			/* Wide ones straight down the middle. */
			set(p, e, "weight", share > 0.5 ? "8" : share > 0.1 ? "3" : "1");
			set(p, e, "class", "holds");
		}
	}
}

static void title_caption(FILE *f, const char *caption)
{
	if (caption) {
		fputs("<font point-size=\"4\"> <br/></font>", f);
		fputs("<font point-size=\"11\" color=\"#6b6661\">", f);
		elided(f, caption, 160);
		fputs("</font><br/>", f);
	}
	fputs("<font point-size=\"8\"> </font>", f);
}

static char *title(const struct explanation *x, const char *caption)
{
	char n[TEXT_NUMBER_MAX];
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	for (size_t i = 0; i < MIN(x->n_suspects, (size_t)4); i++) {
		const struct explain_suspect *s = &x->suspects[i];

		fprintf(f, "<font point-size=\"18\"><b>%s ",
			text_number(n, sizeof(n), s->instances));
		elided(f, s->type, 80);
		fputs("</b></font><br/>", f);
	}
	if (x->n_suspects > 4)
		fprintf(f, "and %zu more types<br/>", x->n_suspects - 4);
	if (!x->n_suspects)
		fputs("<font point-size=\"18\"><b>no objects to explain</b></font><br/>", f);
	title_caption(f, caption);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

static void default_attribute(struct picture *p, int kind, const char *key, const char *value)
{
	if (!agattr(p->g, kind, (char *)key, (char *)value))
		p->failed = true;
}

static void set_defaults(struct picture *p)
{
	default_attribute(p, AGRAPH, "charset", "UTF-8");
	/* A string in one line: not every reader of DOT knows how Graphviz continues one. */
	default_attribute(p, AGRAPH, "linelength", "0");
	default_attribute(p, AGRAPH, "rankdir", "LR");
	default_attribute(p, AGRAPH, "fontname", FONT);
	default_attribute(p, AGRAPH, "fontsize", "12");
	default_attribute(p, AGRAPH, "fontcolor", "#2b2724");
	default_attribute(p, AGRAPH, "labelloc", "t");
	default_attribute(p, AGRAPH, "nodesep", "0.28");
	default_attribute(p, AGRAPH, "ranksep", "0.35");
	default_attribute(p, AGRAPH, "pad", "0.25");
	default_attribute(p, AGRAPH, "bgcolor", "transparent");
	default_attribute(p, AGRAPH, "tooltip", " ");
	default_attribute(p, AGNODE, "shape", "box");
	default_attribute(p, AGNODE, "style", "rounded,filled");
	default_attribute(p, AGNODE, "fontname", FONT);
	default_attribute(p, AGNODE, "fontsize", "13");
	default_attribute(p, AGNODE, "margin", "0.16,0.09");
	default_attribute(p, AGNODE, "height", "0.3");
	default_attribute(p, AGNODE, "penwidth", "1.2");
	default_attribute(p, AGEDGE, "fontname", FONT);
	default_attribute(p, AGEDGE, "fontsize", "11");
	default_attribute(p, AGEDGE, "fontcolor", "#4a4541");
	default_attribute(p, AGEDGE, "color", "#6b6661");
	default_attribute(p, AGEDGE, "arrowsize", "0.7");
}

/* ---- Graphviz ------------------------------------------------------------------------------ */

static char last_error[160];

static int keep_error(char *message)
{
	snprintf(last_error, sizeof(last_error), "%.150s", message);
	last_error[strcspn(last_error, "\n")] = 0;
	return 0;
}

static void picture_release(struct picture *p)
{
	if (p->g)
		agclose(p->g);
	free(p->places);
}

static int picture_init(struct picture *p, struct err *err)
{
	*p = (struct picture){0};
	agseterrf(keep_error);
	last_error[0] = 0;
	p->g = agopen(graph_name, Agstrictdirected, NULL);
	p->places = calloc(RENDER_NODES_MAX, sizeof(*p->places));
	if (!p->g || !p->places)
		return err_set(err, -ENOMEM, "not enough memory for the picture");
	set_defaults(p);
	return 0;
}

static char roots_name[] = "roots";

/* The roots are in one column, in the order of the paths, those in the order of their shares. */
static void group_roots(struct picture *p)
{
	Agraph_t *roots = agsubg(p->g, roots_name, 1);

	if (!roots) {
		p->failed = true;
		return;
	}
	set(p, roots, "rank", "same");
	for (size_t i = 0; i < p->n_places; i++) {
		if (!p->places[i].step && p->places[i].role != ROLE_MORE)
			agsubnode(roots, p->places[i].node, 1);
	}
}

static void compose(struct picture *p, const struct explanation *x)
{
	for (size_t i = 0; i < x->n_suspects; i++) {
		const struct explain_suspect *s = &x->suspects[i];
		uint64_t paths = s->other_paths, instances = s->other_instances;

		for (size_t k = 0; k < s->n_paths; k++) {
			if (fits(p, &s->paths[k]) &&
				(!k || s->n_paths > EXPLAIN_PATHS_DEFAULT ||
					s->paths[k].share >= SHARE_MIN)) {
				add_path(p, s, &s->paths[k]);
			} else {
				paths++;
				instances += s->paths[k].instances;
			}
		}
		if (paths)
			add_more(p, s, paths, instances);
		if (s->unseen)
			add_more(p, s, 0, s->unseen);
	}
	for (size_t i = 0; i < p->n_places; i++)
		dress_node(p, x, &p->places[i]);
	dress_edges(p);
	group_roots(p);
}

static int write_dot(FILE *dot, struct picture *p, size_t *ret_nodes, struct err *err)
{
	if (p->failed)
		return err_set(err, -ENOMEM, "not enough memory for the picture");
	if (agwrite(p->g, dot) != 0 || fflush(dot) != 0)
		return err_set(err, -EIO, "cannot write the DOT file: %s", strerror(errno));
	if (ret_nodes)
		*ret_nodes = (size_t)agnnodes(p->g);
	return 0;
}

int render_dot(FILE *dot, const struct explanation *x, const char *caption, size_t *ret_nodes,
	struct err *err)
{
	_cleanup_free_ char *label = title(x, caption);
	_cleanup_(picture_release) struct picture p;
	int rc = picture_init(&p, err);

	if (rc < 0)
		return rc;
	set_label(&p, p.g, label);
	compose(&p, x);
	return write_dot(dot, &p, ret_nodes, err);
}

/* ---- a web --------------------------------------------------------------------------------- */

static Agnode_t *new_node(struct picture *p, const char *prefix, uint32_t i)
{
	char name[24];
	Agnode_t *n;

	snprintf(name, sizeof(name), "%s%u", prefix, i);
	n = agnode(p->g, name, 1);
	if (!n)
		p->failed = true;
	return n;
}

static Agedge_t *new_edge(struct picture *p, Agnode_t *from, Agnode_t *to)
{
	static char none[] = "";
	Agedge_t *e = from && to ? agedge(p->g, from, to, none, 1) : NULL;

	if (!e)
		p->failed = true;
	return e;
}

static void wear(struct picture *p, Agnode_t *n, enum role role)
{
	set(p, n, "color", looks[role].border);
	set(p, n, "fontcolor", looks[role].text);
	set(p, n, "fillcolor", looks[role].fill);
	set(p, n, "class", looks[role].class);
}

/* Name or path in bold, below it the type and the address, by which to ask on. */
static char *web_label(const char *name, const char *type, uint64_t addr)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	fputs("<b>", f);
	elided(f, name, NAME_CHARS);
	fputs("</b>", f);
	if (type && strcmp(type, name) != 0) {
		fputs("<br/>" SMALL, f);
		elided(f, type, TYPE_CHARS);
		fputs("</font>", f);
	}
	if (addr)
		fprintf(f, ROOM SMALL "0x%llx</font>", (unsigned long long)addr);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

static Agnode_t *draw_object(
	struct picture *p, const struct graph *g, const struct web_node *w, uint32_t i)
{
	Agnode_t *n = new_node(p, "n", i);
	_cleanup_free_ char *label = NULL, *tip = NULL;
	char fill[8], size[32];
	const struct snapshot_node *object = &g->s.nodes[w->node];

	if (!n)
		return NULL;
	wear(p, n, !w->depth ? ROLE_SUSPECT : w->is_module ? ROLE_MODULE : ROLE_STEP);
	if (w->depth && !w->is_module) {
		fade(w->depth, fill);
		set(p, n, "fillcolor", fill);
	}
	label = web_label(w->label, w->is_module ? "module" : graph_type_name(g, w->node),
		w->is_module ? 0 : object->addr);
	set_label(p, n, label);
	format_size(size, sizeof(size), object->bytes);
	tip = object->flags & SNAPSHOT_NODE_IMMORTAL
		      ? text_format("%s, %s, immortal", w->label, size)
		      : text_format("%s, %s, %lld %s", w->label, size,
				(long long)object->refcount,
				object->refcount == 1 ? "reference" : "references");
	set_escaped(p, n, "tooltip", tip ? tip : "");
	return n;
}

static void draw_more(
	struct picture *p, const struct web *w, const struct web_node *at, Agnode_t *n, uint32_t i)
{
	Agnode_t *more = new_node(p, "more", i);
	_cleanup_free_ char *label = NULL;
	char number[TEXT_NUMBER_MAX];
	Agedge_t *e;

	if (!more)
		return;
	wear(p, more, ROLE_MORE);
	label = text_format("%s more %s", text_number(number, sizeof(number), at->more),
		w->backwards ? "backreferences" : "references");
	set(p, more, "label", label);
	set(p, more, "style", "rounded,dotted");
	e = w->backwards ? new_edge(p, more, n) : new_edge(p, n, more);
	if (e) {
		set(p, e, "style", "dotted");
		set(p, e, "color", looks[ROLE_MORE].border);
		set(p, e, "class", "more");
	}
}

static void draw_held(struct picture *p, Agnode_t *from, Agnode_t *to, const char *label)
{
	Agedge_t *e = new_edge(p, from, to);
	_cleanup_free_ char *html = NULL;

	if (!e)
		return;
	set(p, e, "class", "holds");
	if (*label) {
		html = edge_label(label);
		set_label(p, e, html);
	}
}

/* Roots of one name and kind are one box. */
static void draw_roots(
	struct picture *p, const struct graph *g, const struct web *w, Agnode_t *const *nodes)
{
	_cleanup_free_ Agnode_t **boxes = calloc(MAX(w->n_roots, 1u), sizeof(Agnode_t *));

	if (!boxes) {
		p->failed = true;
		return;
	}
	for (uint32_t i = 0; i < w->n_roots; i++) {
		const struct web_root *r = &w->roots[i];

		for (uint32_t k = 0; k < i && !boxes[i]; k++) {
			if (w->roots[k].kind == r->kind && w->roots[k].name == r->name)
				boxes[i] = boxes[k];
		}
		if (!boxes[i]) {
			_cleanup_free_ char *label = web_label(
				explain_root_name(g, r->kind, r->name),
				explain_root_kind(r->kind), 0);

			boxes[i] = new_node(p, "root", i);
			if (!boxes[i])
				return;
			wear(p, boxes[i], role_of_root(r->kind));
			set_label(p, boxes[i], label);
		}
		draw_held(p, boxes[i], nodes[r->to], r->label);
	}
}

static char *web_title(const struct graph *g, const struct web *w, const char *caption)
{
	char *text = NULL;
	uint32_t n = 0;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	while (n < w->n_nodes && !w->nodes[n].depth)
		n++;
	fprintf(f, "<font point-size=\"18\"><b>what %s", w->backwards ? "refers to " : "");
	if (n != 1)
		fprintf(f, "%u objects like ", n);
	if (n)
		elided(f, graph_type_name(g, w->nodes[0].node), 80);
	if (n == 1)
		fprintf(f, " at 0x%llx", (unsigned long long)g->s.nodes[w->nodes[0].node].addr);
	fprintf(f, "%s</b></font><br/>", w->backwards ? "" : n == 1 ? " refers to" : " refer to");
	title_caption(f, caption);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

int render_web(FILE *dot, const struct graph *g, const struct web *w, const char *caption,
	size_t *ret_nodes, struct err *err)
{
	_cleanup_free_ Agnode_t **nodes = calloc(MAX(w->n_nodes, 1u), sizeof(Agnode_t *));
	_cleanup_(picture_release) struct picture p;
	_cleanup_free_ char *label = NULL;
	int rc = picture_init(&p, err);

	if (rc < 0)
		return rc;
	label = web_title(g, w, caption);
	set_label(&p, p.g, label);
	for (uint32_t i = 0; nodes && i < w->n_nodes; i++) {
		nodes[i] = draw_object(&p, g, &w->nodes[i], i);
		if (nodes[i] && w->nodes[i].more)
			draw_more(&p, w, &w->nodes[i], nodes[i], i);
	}
	p.failed |= !nodes;
	if (!p.failed) {
		for (uint32_t i = 0; i < w->n_edges; i++)
			draw_held(&p, nodes[w->edges[i].from], nodes[w->edges[i].to],
				w->edges[i].label);
		draw_roots(&p, g, w, nodes);
	}
	return write_dot(dot, &p, ret_nodes, err);
}

/* One for the process: making it reads Graphviz's list of plugins and loads them, which a sandbox
 * forbids the second time. It lives as long as the process. */
static GVC_t *gvc;

static int draw(Agraph_t *g, FILE *picture, const char *format, struct err *err)
{
	int rc = -EIO;

	if (!gvc)
		gvc = gvContext();
	if (!gvc)
		return err_set(err, -ENOMEM, "not enough memory for Graphviz");
	if (gvLayout(gvc, g, "dot") != 0) {
		err_set(err, rc, "Graphviz cannot lay the picture out: %s",
			*last_error ? last_error : "is libgvc's dot plugin installed?");
	} else {
		if (gvRender(gvc, g, format, picture) != 0 || fflush(picture) != 0)
			err_set(err, rc, "Graphviz cannot draw the picture: %s",
				*last_error ? last_error : "is libgvc's plugin for that format installed?");
		else
			rc = 0;
		gvFreeLayout(gvc, g);
	}
	return rc;
}

/* The one with the largest share on top: a chain of unseen edges, which are no business of others who
 * read the file. */
static void line_up_roots(Agraph_t *g)
{
	static char line[] = "line", style[] = "style", invisible[] = "invis", none[] = "";
	Agraph_t *roots = agsubg(g, roots_name, 0);
	Agnode_t *last = NULL;

	for (Agnode_t *n = roots ? agfstnode(roots) : NULL; n; n = agnxtnode(roots, n)) {
		Agedge_t *e = last ? agedge(roots, last, n, line, 1) : NULL;

		if (e)
			agsafeset(e, style, invisible, none);
		last = n;
	}
}

static void use_html(Agraph_t *g, void *object)
{
	static char key[] = "html", label[] = "label", none[] = "";
	char *html = agget(object, key), *s;

	if (!html || !*html)
		return;
	s = agstrdup_html(g, html + 1);
	agsafeset(object, label, s, none);
	agstrfree(g, s);
}

int render_picture(FILE *dot, FILE *picture, const char *format, struct err *err)
{
	Agraph_t *g;
	int rc;

	agseterrf(keep_error);
	last_error[0] = 0;
	g = agread(dot, NULL);
	if (!g)
		return err_set(err, -EIO, "Graphviz cannot read the DOT file: %s",
			*last_error ? last_error : "it is empty");
	line_up_roots(g);
	use_html(g, g);
	for (Agnode_t *n = agfstnode(g); n; n = agnxtnode(g, n)) {
		use_html(g, n);
		for (Agedge_t *e = agfstout(g, n); e; e = agnxtout(g, e))
			use_html(g, e);
	}
	/* A page has a ground of its own; what shows a file may have any. */
	if (strcmp(format, "svg") != 0) {
		static char key[] = "bgcolor", white[] = "white";

		static char dpi[] = "dpi", screen[] = "72";

		agattr(g, AGRAPH, key, white);
		agset(g, key, white);
		/* 300 boxes are 4 000 by 20 000 pixels at 96, which take ten seconds. */
		if (agnnodes(g) > 100)
			agattr(g, AGRAPH, dpi, screen);
	}
	rc = draw(g, picture, format, err);
	agclose(g);
	return rc;
}

/* Every size that is used, plain and bold, in several scripts: a raster is drawn with fonts that
 * are opened one by one, as they are needed. */
static char *all_fonts(void)
{
	static const int sizes[] = {2, 4, 8, 10, 11, 12, 13, 18};
	static const char *sample = "a × … → Ж α ع א 中 あ 한 ก";
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		fprintf(f, "<font point-size=\"%d\">%s<b>%s</b></font>", sizes[i], sample, sample);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

int render_warm_up(const char *format, struct err *err)
{
	static char name[] = "n";
	_cleanup_free_ char *fonts = all_fonts();
	_cleanup_(picture_release) struct picture p;
	_cleanup_free_ char *picture = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&picture, &size);
	Agnode_t *n = NULL;
	int rc = picture_init(&p, err);

	if (rc == 0)
		n = agnode(p.g, name, 1);
	if (n) {
		set_label(&p, n, fonts);
		use_html(p.g, n);
	}
	if (rc == 0)
		rc = f && n && !p.failed ? draw(p.g, f, format, err)
					 : err_set(err, -ENOMEM, "not enough memory for Graphviz");
	if (f)
		fclose(f);
	if (rc == 0 && size < 64)
		rc = err_set(err, -EIO, "Graphviz draws nothing: are libgvc's plugins installed?");
	return rc;
}
