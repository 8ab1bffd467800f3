/* SPDX-License-Identifier: MIT */
#include "capture/roots.h"

#include <elf.h>
#include <inttypes.h>
#include <string.h>

#include "capture/frames.h"
#include "capture/labels.h"

#define THREADS_MAX    65536
#define MODULES_MAX    (1u << 20)
#define ATEXIT_MAX     4096
#define FRAME_NAME_MAX 512
#define INTERPRETERS_MAX 64

struct roots {
	struct graph *graph;
	struct view *view;
	struct strings *strings;
	uint64_t interp;
	char prefix[48];       /* of names: which interpreter, "" for the main one */
	uint64_t threads_dict; /* threading._active */
	int error;
};

static uint32_t text(struct roots *r, const char *s)
{
	char name[sizeof(r->prefix) + FRAME_NAME_MAX];

	if (!r->prefix[0])
		return strings_add(r->strings, s, strlen(s));
	snprintf(name, sizeof(name), "%s%.511s", r->prefix, s);
	return strings_add(r->strings, name, strlen(name));
}

/* As the walker's untracked(): whether o is certainly in no ring. */
static bool untracked(struct view *v, uint64_t o)
{
	uint64_t t = view_type(v, o), flags = view_u64(v, t + OFF_TP_FLAGS);

	if (!(flags & TPFLAGS_HAVE_GC))
		return true;
	if (flags & TPFLAGS_TYPE_SUBCLASS) {
		if (!(view_u64(v, o + OFF_TP_FLAGS) & TPFLAGS_HEAPTYPE))
			return true;
	} else if (view_u64(v, t + (uint64_t)v->l->tp_is_gc)) {
		return false;
	}
	return view_u64(v, o - GC_HEAD_BYTES) == 0;
}

static void add(struct roots *r, uint64_t o, uint32_t kind, uint32_t name, uint32_t edge_kind,
	uint32_t edge_arg)
{
	int e;

	if (!o || r->error || !view_is_object(r->view, o))
		return;
	e = graph_add_root(r->graph, o, kind, name, edge_kind, edge_arg);
	if (e == 0 && untracked(r->view, o))
		e = graph_want(r->graph, o);
	if (e < 0)
		r->error = e;
}

/* ---- modules ---- */

static int add_module(void *arg, uint64_t key, uint64_t value)
{
	struct roots *r = arg;
	char name[256];

	if (labels_module_name(r->view, key, name, sizeof(name)) == 0)
		snprintf(name, sizeof(name), "?");
	add(r, value, ROOT_MODULE, text(r, name), EDGE_PLAIN, 0);
	return r->error;
}

/* ---- threads ---- */

/* Value of a small int object, 0 if it is none. */
static uint64_t int_value(struct view *v, uint64_t o)
{
	uint64_t flags = view_flags(v, o), x = 0;
	int64_t n;

	if (!(flags & TPFLAGS_LONG_SUBCLASS))
		return 0;
	n = v->l->minor >= 12 ? (int64_t)(view_u64(v, o + (uint64_t)v->l->long_tag) >> 3)
			      : (int64_t)view_u64(v, o + OFF_OB_SIZE);
	if (n < 0 || n > 3)
		return 0;
	for (int64_t i = n - 1; i >= 0; i--)
		x = x << 30 | view_u32(v, o + (uint64_t)v->l->long_digit + 4 * (uint64_t)i);
	return x;
}

struct named_thread {
	struct roots *roots;
	uint64_t ident;
	char *buf;
	size_t n;
};

static int is_thread(void *arg, uint64_t key, uint64_t value)
{
	struct named_thread *t = arg;
	struct view *v = t->roots->view;
	uint64_t name;

	if (int_value(v, key) != t->ident)
		return 0;
	name = view_attribute(v, value, "_name");
	(void)view_str(v, name, t->buf, t->n);
	return 1;
}

/* What threading calls it, else its number. */
static void thread_name(struct roots *r, uint64_t ts, char *buf, size_t n)
{
	struct view *v = r->view;
	uint64_t ident = view_u64(v, ts + (uint64_t)v->l->ts_thread_id);
	struct named_thread t = {.roots = r, .ident = ident, .buf = buf, .n = n};

	buf[0] = '\0';
	if (r->threads_dict && ident)
		(void)view_dict_each(v, r->threads_dict, THREADS_MAX, is_thread, &t);
	if (buf[0])
		return;
	if (v->l->ts_native_thread_id >= 0)
		snprintf(buf, n, "thread %" PRIu64,
			view_u64(v, ts + (uint64_t)v->l->ts_native_thread_id));
	else
		snprintf(buf, n, "thread %#" PRIx64, ident);
}

static uint32_t frame_name(struct roots *r, const struct frame_info *f, const char *thread)
{
	const struct layout *l = r->view->l;
	char function[160], file[256], name[FRAME_NAME_MAX];
	const char *base;

	view_str(r->view,
		view_u64(r->view,
			f->code + (uint64_t)(l->co_qualname >= 0 ? l->co_qualname : l->co_name)),
		function, sizeof(function));
	view_str(
		r->view, view_u64(r->view, f->code + (uint64_t)l->co_filename), file, sizeof(file));
	base = strrchr(file, '/');
	snprintf(name, sizeof(name), "%s in %s at %s:%d", thread, function[0] ? function : "?",
		base      ? base + 1
		: file[0] ? file
			  : "?",
		frames_line(r->view, f));
	return text(r, name);
}

static void add_frame(struct roots *r, const struct frame_info *f, const char *thread)
{
	struct view *v = r->view;
	uint32_t name = frame_name(r, f, thread);

	/* a module's frame has the module's dict for locals: that is the module's, not the
	 * frame's */
	if (f->locals && f->locals != f->globals)
		add(r, f->locals, ROOT_FRAME, name, EDGE_DICT, 0);
	if (v->l->minor <= 10)
		add(r, f->object, ROOT_FRAME, name, EDGE_PLAIN, 0);
	for (int64_t i = 0; i < f->n_slots; i++) {
		uint64_t o = frames_slot(v, f, i);

		if (o)
			add(r, o, ROOT_FRAME, name, EDGE_LOCAL,
				labels_identifier(v, r->strings, frames_slot_name(v, f, i)));
	}
	for (int64_t i = 0; i < f->n_stack; i++)
		add(r, frames_slot(v, f, f->n_slots + i), ROOT_FRAME, name, EDGE_PLAIN, 0);
	/* last, so that whoever takes the first of several finds the locals */
	add(r, f->function, ROOT_FRAME, name, EDGE_PLAIN, 0);
	if (v->l->minor >= 11)
		add(r, f->object, ROOT_FRAME, name, EDGE_PLAIN, 0);
	add(r, f->code, ROOT_FRAME, name, EDGE_PLAIN, 0);
}

/* Up to 3.10 frames are objects that the collector sees; the newest is held by its thread, each
 * other one by the next (f_back). Their locals are edges then; as roots they would be there
 * twice, so those carry the frame only. */
static void add_frame_object(struct roots *r, const struct frame_info *f, const char *thread)
{
	add(r, f->object, ROOT_FRAME, frame_name(r, f, thread), EDGE_PLAIN, 0);
}

/* Every object that the thread's state holds, under what it is for the thread. */
static void add_thread_state(struct roots *r, uint64_t ts, const char *thread)
{
	const struct layout *l = r->view->l;
	const struct {
		const char *what;
		int32_t offset;
	} field[] = {
		{"thread-local storage", l->ts_dict},
		{"thread-local storage", l->ts_local_key},
		{"thread-local storage", l->ts_local_sentinel},
		{"context", l->ts_context},
		{"exception", l->ts_async_exc},
		{"exception", l->ts_current_exception},
		{"exception", l->ts_curexc_type},
		{"exception", l->ts_curexc_value},
		{"exception", l->ts_curexc_tb},
		{"profile function", l->ts_c_profileobj},
		{"trace function", l->ts_c_traceobj},
		{"asynchronous generator hooks", l->ts_async_gen_firstiter},
		{"asynchronous generator hooks", l->ts_async_gen_finalizer},
		{"running event loop", l->tsi_asyncio_loop},
		{"running event loop", l->tsi_asyncio_task},
		{"lazy imports", l->tsi_lazy_imports},
		{"thread state", l->ts_on_delete_data},
	};
	uint64_t exc = view_u64(r->view, ts + (uint64_t)l->ts_exc_info);
	char name[192];

	for (size_t i = 0; i < ARRAY_SIZE(field); i++) {
		if (field[i].offset < 0)
			continue;
		snprintf(name, sizeof(name), "%s of %s", field[i].what, thread);
		add(r, view_u64(r->view, ts + (uint64_t)field[i].offset), ROOT_INTERPRETER,
			text(r, name), EDGE_PLAIN, 0);
	}
	/* exceptions that are being handled */
	snprintf(name, sizeof(name), "exception of %s", thread);
	for (int depth = 0; exc && depth < 256; depth++) {
		const int32_t part[] = {l->exc_item_value, l->exc_item_type, l->exc_item_tb};

		for (size_t i = 0; i < ARRAY_SIZE(part); i++)
			if (part[i] >= 0)
				add(r, view_u64(r->view, exc + (uint64_t)part[i]), ROOT_INTERPRETER,
					text(r, name), EDGE_PLAIN, 0);
		exc = view_u64(r->view, exc + (uint64_t)l->exc_item_previous);
	}
}

static void add_thread(struct roots *r, uint64_t ts, struct frame_info *frames)
{
	const struct layout *l = r->view->l;
	char thread[128];
	size_t n;

	thread_name(r, ts, thread, sizeof(thread));
	n = frames_read(r->view, ts, frames, FRAMES_MAX);
	r->graph->frames_cut = r->graph->frames_cut || n == FRAMES_MAX;
	for (size_t i = 0; i < n && !r->error; i++) {
		/* a frame up to 3.10 whose locals the collector sees as its edges */
		if (l->minor <= 10)
			add_frame_object(r, &frames[i], thread);
		else
			add_frame(r, &frames[i], thread);
	}
	add_thread_state(r, ts, thread);
}

/* threading._active */
static uint64_t threads_dict(struct view *v, uint64_t interp)
{
	uint64_t modules = view_u64(v, interp + (uint64_t)v->l->interp_modules);
	uint64_t threading = view_dict_get(v, modules, "threading");

	return threading ? view_dict_get(v, view_u64(v, threading + (uint64_t)v->l->module_dict),
				   "_active")
			 : 0;
}

size_t roots_threads(struct view *v, struct roots_thread *ret, size_t max)
{
	struct roots r = {.view = v, .threads_dict = threads_dict(v, v->python->interp)};
	uint64_t ts = view_u64(v, v->python->interp + (uint64_t)v->l->interp_tstate_head);
	size_t n = 0;

	for (; ts && n < max; ts = view_u64(v, ts + (uint64_t)v->l->ts_next), n++) {
		ret[n].ts = ts;
		ret[n].ident = view_u64(v, ts + (uint64_t)v->l->ts_thread_id);
		thread_name(&r, ts, ret[n].name, sizeof(ret[n].name));
	}
	return n;
}

static void add_threads(struct roots *r)
{
	struct view *v = r->view;
	struct frame_info *frames = malloc(FRAMES_MAX * sizeof(*frames));
	uint64_t ts;

	if (!frames) {
		r->error = -ENOMEM;
		return;
	}
	r->threads_dict = threads_dict(v, r->interp);
	ts = view_u64(v, r->interp + (uint64_t)v->l->interp_tstate_head);
	for (int i = 0; ts && i < THREADS_MAX && !r->error; i++) {
		add_thread(r, ts, frames);
		ts = view_u64(v, ts + (uint64_t)v->l->ts_next);
	}
	free(frames);
}

/* ---- the interpreter ---- */

/* Functions registered with atexit: 3.8, 3.9 in the module's state; 3.10 to 3.13 an array in
 * the interpreter; then a list. */
static void add_atexit(struct roots *r, uint32_t name)
{
	struct view *v = r->view;
	const struct layout *l = v->l;
	uint64_t interp = r->interp, array = 0;
	int32_t n = 0;

	if (l->minor <= 9) {
		uint64_t module = view_u64(v, interp + (uint64_t)l->interp_pyexitmodule);
		uint64_t state = module ? view_u64(v, module + (uint64_t)l->module_state) : 0;

		array = state ? view_u64(v, state) : 0;
		n = state ? (int32_t)view_u32(v, state + 8) : 0;
	} else if (l->minor <= 13) {
		array = view_u64(v, interp + (uint64_t)l->interp_atexit_callbacks);
		n = (int32_t)view_u32(v, interp + (uint64_t)l->interp_atexit_ncallbacks);
	} else {
		add(r, view_u64(v, interp + (uint64_t)l->interp_atexit_callbacks), ROOT_INTERPRETER,
			name, EDGE_PLAIN, 0);
	}
	for (int32_t i = 0; array && i < MIN(n, ATEXIT_MAX); i++) {
		uint64_t callback = view_u64(v, array + 8 * (uint64_t)i);

		/* func, args, kwargs */
		for (uint64_t k = 0; callback && k < 24; k += 8)
			add(r, view_u64(v, callback + k), ROOT_INTERPRETER, name, EDGE_PLAIN, 0);
	}
}

/*
 * Calls that wait for the main thread (Py_AddPendingCall): what they will get, where it is an
 * object. A ring of 32 with its ends behind it up to 3.12 (pycore_ceval.h, pycore_interp.h), whose
 * used entries stay as they were; then an array of 300 whose used entries are cleared.
 */
static void add_pending(struct roots *r, uint64_t calls)
{
	struct view *v = r->view;
	bool ring = v->l->minor <= 12;
	uint64_t size = ring ? 16 : 24, n = ring ? 32 : 300;
	uint32_t name = text(r, "pending calls"), first = 0, last = (uint32_t)n;

	if (ring) {
		first = view_u32(v, calls + n * size);
		last = view_u32(v, calls + n * size + 4);
	}
	if (first >= n || last > n)
		return;
	for (uint32_t i = first; i != last && !r->error; i = ring ? (i + 1) % n : i + 1)
		if (view_u64(v, calls + i * size))
			add(r, view_u64(v, calls + i * size + 8), ROOT_INTERPRETER, name,
				EDGE_PLAIN, 0);
}

static void add_monitoring(struct roots *r)
{
	const struct layout *l = r->view->l;
	uint32_t name = text(r, "monitoring callbacks");

	if (l->interp_monitoring_callables < 0)
		return;
	for (int32_t i = 0; i < l->n_monitoring_callables; i++)
		add(r,
			view_u64(r->view, r->view->python->interp +
						  (uint64_t)l->interp_monitoring_callables +
						  8 * (uint64_t)i),
			ROOT_INTERPRETER, name, EDGE_PLAIN, 0);
}

/* ---- signal handlers ---- */

/*
 * Handlers[] of Modules/signalmodule.c, since 3.12 in _PyRuntime: 65 pairs of a number and what was
 * given to signal.signal(), the first one empty. No symbol names it, but it cannot be mistaken: 64
 * objects at equal distances behind a NULL, most of them the same few.
 */
#define N_SIGNALS       64
#define SIGNAL_WORDS    2
#define SIGNAL_SURE     32
#define STATIC_DATA_MAX ((uint64_t)16 << 20)

static bool is_handlers(struct view *v, const uint64_t *w, const uint64_t usual[4])
{
	int sure = 0;

	if (w[0] != 0)
		return false;
	for (int i = 1; i <= N_SIGNALS; i++) {
		uint64_t o = w[SIGNAL_WORDS * i];

		if (o == 0 || o % 8)
			return false;
		for (int k = 0; k < 4; k++)
			sure += o == usual[k];
	}
	return sure >= SIGNAL_SURE && view_is_object(v, w[SIGNAL_WORDS]);
}

static bool add_handlers_in(struct roots *r, uint64_t at, uint64_t n, const uint64_t usual[4])
{
	_cleanup_free_ uint64_t *w = malloc(n);
	uint32_t name = text(r, "signal handlers");

	if (!w || mem_read(r->view->python->id.pid, at, w, n) < 0)
		return false;
	for (uint64_t i = 0; i + SIGNAL_WORDS * N_SIGNALS < n / 8; i++) {
		if (!is_handlers(r->view, w + i, usual))
			continue;
		for (uint32_t k = 1; k <= N_SIGNALS; k++)
			add(r, w[i + SIGNAL_WORDS * k], ROOT_INTERPRETER, name, EDGE_INDEX, k);
		return true;
	}
	return false;
}

static void add_signals(struct roots *r)
{
	struct view *v = r->view;
	uint64_t modules = view_u64(v, v->python->interp + (uint64_t)v->l->interp_modules);
	uint64_t m = view_dict_get(v, modules, "_signal"), dict, usual[4];
	const struct elf_segment *s;

	if (!m)
		return;
	dict = view_u64(v, m + (uint64_t)v->l->module_dict);
	usual[0] = view_dict_get(v, dict, "SIG_DFL");
	usual[1] = view_dict_get(v, dict, "SIG_IGN");
	usual[2] = view_dict_get(v, dict, "default_int_handler");
	if (python_symbol(v->python, "_Py_NoneStruct", &usual[3], NULL) < 0)
		usual[3] = 0;
	for (size_t i = 0; (s = elf_image_segment(v->python->elf, i)) != NULL; i++) {
		uint64_t at = s->vaddr + v->python->bias, skip = -at & 7;

		if ((s->flags & PF_W) && s->memsz > skip &&
			add_handlers_in(
				r, at + skip, MIN(s->memsz - skip, STATIC_DATA_MAX) & ~7ULL, usual))
			return;
	}
}

/* What an interpreter holds itself. */
static void add_interpreter(struct roots *r)
{
	struct view *v = r->view;
	const struct layout *l = v->l;
	uint64_t interp = r->interp;
	const struct {
		const char *name;
		int32_t offset;
		uint32_t edge;
	} field[] = {
		{"sys.modules", l->interp_modules, EDGE_PLAIN},
		{"sys", l->interp_sysdict, EDGE_DICT},
		{"builtins", l->interp_builtins, EDGE_DICT},
		{"modules by index", l->interp_modules_by_index, EDGE_PLAIN},
		{"importlib", l->interp_importlib, EDGE_PLAIN},
		{"import function", l->interp_import_func, EDGE_PLAIN},
		{"interpreter dict", l->interp_dict, EDGE_PLAIN},
		{"builtins copy", l->interp_builtins_copy, EDGE_DICT},
		{"sys copy", l->interp_sysdict_copy, EDGE_DICT},
		{"codecs", l->interp_codec_search_path, EDGE_PLAIN},
		{"codecs", l->interp_codec_search_cache, EDGE_PLAIN},
		{"codecs", l->interp_codec_error_registry, EDGE_PLAIN},
		{"fork hooks", l->interp_before_forkers, EDGE_PLAIN},
		{"fork hooks", l->interp_after_forkers_parent, EDGE_PLAIN},
		{"fork hooks", l->interp_after_forkers_child, EDGE_PLAIN},
		{"audit hooks", l->interp_audit_hooks, EDGE_PLAIN},
		{"warnings", l->interp_warnings_filters, EDGE_PLAIN},
		{"warnings", l->interp_warnings_once, EDGE_PLAIN},
		{"warnings", l->interp_warnings_default, EDGE_PLAIN},
		{"warnings", l->interp_warnings_context, EDGE_PLAIN},
		{"atexit", l->interp_pyexitmodule, EDGE_PLAIN},
		{"lazy imports", l->interp_lazy_import_func, EDGE_PLAIN},
		{"lazy imports", l->interp_lazy_filter, EDGE_PLAIN},
		{"lazy imports", l->interp_lazy_modules, EDGE_PLAIN},
		{"lazy imports", l->interp_lazy_pending, EDGE_PLAIN},
		/* 3.12 never lets go of one; before and after, it does not count as a holder */
		{"interned", l->minor == 12 ? l->interp_interned : -1, EDGE_PLAIN},
	};

	for (size_t i = 0; i < ARRAY_SIZE(field); i++)
		if (field[i].offset >= 0)
			add(r, view_u64(v, interp + (uint64_t)field[i].offset), ROOT_INTERPRETER,
				text(r, field[i].name), field[i].edge, 0);
	add_atexit(r, text(r, "atexit"));
	if (l->interp_pending_calls >= 0)
		add_pending(r, interp + (uint64_t)l->interp_pending_calls);
}

/* What all interpreters share, and what only the main one has. */
static void add_runtime(struct roots *r)
{
	struct view *v = r->view;
	const struct layout *l = v->l;
	uint64_t gc = l->minor == 8 ? v->python->runtime + (uint64_t)l->rt_gc
				    : r->interp + (uint64_t)l->interp_gc;

	if (l->rt_pending_main >= 0)
		add_pending(r, v->python->runtime + (uint64_t)l->rt_pending_main);
	add_monitoring(r);
	add_signals(r);
	add(r, view_u64(v, gc + (uint64_t)l->gc_garbage), ROOT_INTERPRETER, text(r, "gc.garbage"),
		EDGE_PLAIN, 0);
	add(r, view_u64(v, gc + (uint64_t)l->gc_callbacks), ROOT_INTERPRETER,
		text(r, "gc.callbacks"), EDGE_PLAIN, 0);
}

static void add_roots_of(struct roots *r)
{
	struct view *v = r->view;

	(void)view_dict_each(v, view_u64(v, r->interp + (uint64_t)v->l->interp_modules),
		MODULES_MAX, add_module, r);
	add_interpreter(r);
	add_threads(r);
}

/* Up to 3.8 all interpreters have one collector, and so the objects of all are here. */
static void add_other_interpreters(struct roots *r)
{
	struct view *v = r->view;
	uint64_t at = view_u64(v, v->python->runtime + (uint64_t)v->l->rt_interp_head);

	for (int i = 0; at && i < INTERPRETERS_MAX && !r->error; i++) {
		r->interp = at;
		snprintf(r->prefix, sizeof(r->prefix), "interpreter %" PRIu64 ": ",
			view_u64(v, at + (uint64_t)v->l->interp_id));
		if (at != v->python->interp)
			add_roots_of(r);
		at = view_u64(v, at + (uint64_t)v->l->interp_next);
	}
}

int roots_collect(struct graph *g, struct view *v, struct strings *s)
{
	struct roots r = {.graph = g, .view = v, .strings = s, .interp = v->python->interp};

	add_roots_of(&r);
	add_runtime(&r);
	if (v->l->minor == 8)
		add_other_interpreters(&r);
	return r.error;
}

/* ---- static types ---- */

static int add_static_type(struct roots *r, uint64_t type, uint32_t dict, uint32_t other)
{
	struct view *v = r->view;
	size_t before = r->graph->n_roots;
	bool new;

	if (view_u64(v, type + OFF_TP_FLAGS) & TPFLAGS_HEAPTYPE)
		return 0;
	if (!u64map_upsert(&r->graph->static_types, type, 1, &new)) {
		r->error = -ENOMEM;
		return 0;
	}
	if (!new)
		return 0;
	add(r, view_type_dict(v, type), ROOT_INTERPRETER, dict, EDGE_DICT, 0);
	add(r, view_u64(v, type + (uint64_t)v->l->tp_mro), ROOT_INTERPRETER, other, EDGE_PLAIN, 0);
	add(r, view_u64(v, type + (uint64_t)v->l->tp_bases), ROOT_INTERPRETER, other, EDGE_PLAIN,
		0);
	return (int)(r->graph->n_roots - before);
}

int roots_static_types(
	struct graph *g, struct view *v, struct strings *s, size_t *at_type, size_t *at_node)
{
	struct roots r = {.graph = g, .view = v, .strings = s};
	uint32_t dict = strings_add(s, "static type dict", 16),
		 other = strings_add(s, "static type", 11);
	int n = 0;

	for (; *at_type < g->n_types && !r.error; ++*at_type) {
		struct snapshot_type *t = &g->types[*at_type];

		t->flags = view_u64(v, t->addr + OFF_TP_FLAGS);
		n += add_static_type(&r, t->addr, dict, other);
	}
	for (; *at_node < g->n_nodes && !r.error; ++*at_node) {
		const struct snapshot_node *node = &g->nodes[*at_node];

		if (g->types[node->type].flags & TPFLAGS_TYPE_SUBCLASS)
			n += add_static_type(&r, node->addr, dict, other);
	}
	return r.error ? r.error : n;
}
