/* SPDX-License-Identifier: MIT */
#include "capture/child.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <linux/ptrace.h> /* after sys/ptrace.h: they share names */
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

#include "capture/graph.h"
#include "capture/loan.h"
#include "capture/stop.h"
#include "capture/view.h"
#include "daemon/python/mem.h"
#include "daemon/util/units.h"

#ifndef PTRACE_SYSEMU
#define PTRACE_SYSEMU 31
#endif

#define HALF       (CHILD_UNITS_BYTES / 2)
#define UNITS      (HALF / sizeof(struct walk_unit))
#define BATCH      (CHILD_BATCH_BYTES / sizeof(uint64_t))
#define FAULTS_MAX 1000
#define STUCK_NS   ((uint64_t)1000 * 1000000)
#define STUCK_CPU_NS (STUCK_NS * 9 / 10)
#define NICE_NS    ((uint64_t)500 * 1000000)

extern const uint8_t walk_blob[];
extern const uint64_t walk_blob_bytes;

static void *number(uint64_t v)
{
	return (void *)(uintptr_t)v;
}

static int write_child(const struct job *j, uint64_t at, const void *buf, size_t n)
{
	struct iovec local = {.iov_base = (void *)(uintptr_t)buf, .iov_len = n};
	struct iovec remote = {.iov_base = number(at), .iov_len = n};
	ssize_t put = process_vm_writev(j->child, &local, 1, &remote, 1, 0);

	return put == (ssize_t)n ? 0 : put < 0 ? -errno : -EFAULT;
}

/* On a busy host nice 19 may hardly run at all, while every page the target writes is copied for
 * it: not for long. */
static void hurry(struct walker *w)
{
	if (w->hurried || now_monotonic_ns() - w->began_ns < NICE_NS)
		return;
	w->hurried = true;
	(void)setpriority(PRIO_PROCESS, (id_t)w->job->child, 5);
}

static int died(const struct walker *w, struct err *err)
{
	int r = guard_check(w->guard, 0, err);

	return r < 0 ? r
		     : err_set(err, -EIO, "pid %d: its frozen copy died (out of memory, or killed)",
			       (int)w->job->pid);
}

/* Next stop of the copy. -ETIME: it makes no progress. */
static int await(struct walker *w, uint64_t limit_ns, int *ret_status, struct err *err)
{
	struct job *j = w->job;
	int r;

	hurry(w);
	r = stop_wait(j->wake, j->child, limit_ns, ret_status);
	if (r == -ETIMEDOUT)
		return -ETIME;
	return r == -ESRCH ? died(w, err) : r;
}

/* ---- system calls in the copy: only these few, to map the walker ---- */

static int remote_call(
	struct walker *w, long nr, const uint64_t a[6], uint64_t *ret, struct err *err)
{
	struct job *j = w->job;
	struct user_regs_struct regs;
	int status = 0, r;

	if (ptrace(PTRACE_GETREGS, j->child, NULL, &regs) < 0)
		return err_set(
			err, -errno, "cannot read the copy's registers: %s", strerror(errno));
	regs.rip = j->places->syscall_ret;
	regs.rax = (unsigned long)nr;
	regs.orig_rax = (unsigned long)-1;
	regs.rdi = a[0];
	regs.rsi = a[1];
	regs.rdx = a[2];
	regs.r10 = a[3];
	regs.r8 = a[4];
	regs.r9 = a[5];
	if (ptrace(PTRACE_SETREGS, j->child, NULL, &regs) < 0)
		return err_set(err, -errno, "cannot set the copy's registers: %s", strerror(errno));
	for (int stops = 0, tries = 0; stops < 2 && tries < 16; tries++) {
		if (ptrace(PTRACE_SYSCALL, j->child, NULL, NULL) < 0)
			return err_set(err, -errno, "cannot run the copy: %s", strerror(errno));
		r = await(w, job_time_left(j, UINT64_MAX), &status, err);
		if (r < 0)
			return r == -ETIME ? err_set(err, r, "the copy does not come back") : r;
		stops += STOP_IS_SYSCALL(status);
	}
	if (ptrace(PTRACE_GETREGS, j->child, NULL, &regs) < 0)
		return err_set(
			err, -errno, "cannot read the copy's registers: %s", strerror(errno));
	if ((long)regs.rax < 0 && (long)regs.rax > -4096)
		return err_set(err, (int)(long)regs.rax, "pid %d: system call %ld in its copy: %s",
			(int)j->pid, nr, strerror((int)-(long)regs.rax));
	*ret = regs.rax;
	return 0;
}

static int remote_map(struct walker *w, size_t size, uint64_t *ret, struct err *err)
{
	const uint64_t a[6] = {0, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, (uint64_t)-1, 0};

	return remote_call(w, SYS_mmap, a, ret, err);
}

static int map_code(struct walker *w, struct err *err)
{
	size_t size = walk_blob_bytes, mapped = (size + 4095) & ~4095UL;
	uint64_t none;
	int r = remote_map(w, mapped, &w->code, err);

	if (r < 0)
		return r;
	r = write_child(w->job, w->code, walk_blob, size);
	if (r < 0)
		return err_set(err, r, "pid %d: cannot write into its copy: %s", (int)w->job->pid,
			strerror(-r));
	w->code_end = w->code + size;
	const uint64_t a[6] = {w->code, mapped, PROT_READ | PROT_EXEC};
	r = remote_call(w, SYS_mprotect, a, &none, err);
	if (r == -EACCES || r == -EPERM)
		return err_set(err, -EPERM,
			"pid %d: a security module forbids new code in its copy: not captured",
			(int)w->job->pid);
	return r;
}

/* ---- what the walker is told ---- */

static void know(const struct python *p, const char *symbol, uint64_t *ret)
{
	if (python_symbol(p, symbol, ret, NULL) < 0)
		*ret = 0;
}

static void hint(struct walk_ctx *c, uint64_t type, int32_t offset, uint8_t tag, uint8_t label)
{
	if (!type || offset < 0 || c->n_hints >= WALK_MAX_HINTS)
		return;
	c->hint[c->n_hints++] = (struct walk_hint){
		.type = type, .offset = (uint32_t)offset, .tag = tag, .label = label};
}

/* For types of C code that no symbol names. */
static void hint_by_name(
	struct walk_ctx *c, const char *type, int32_t offset, uint8_t tag, uint8_t label)
{
	uint32_t n = c->n_hints;

	hint(c, walk_name_hash(type), offset, tag, label);
	if (c->n_hints > n)
		c->hint[n].by_name = 1;
}

static void tell_types(struct walk_ctx *c, const struct python *p)
{
	static const char *const symbol[WALK_KNOW_COUNT] = {
		[WALK_KNOW_LIST] = "PyList_Type",
		[WALK_KNOW_TUPLE] = "PyTuple_Type",
		[WALK_KNOW_DICT] = "PyDict_Type",
		[WALK_KNOW_SET] = "PySet_Type",
		[WALK_KNOW_FROZENSET] = "PyFrozenSet_Type",
		[WALK_KNOW_BYTEARRAY] = "PyByteArray_Type",
		[WALK_KNOW_ODICT] = "PyODict_Type",
		[WALK_KNOW_GEN] = "PyGen_Type",
		[WALK_KNOW_CORO] = "PyCoro_Type",
		[WALK_KNOW_ASYNC_GEN] = "PyAsyncGen_Type",
		[WALK_KNOW_FRAME] = "PyFrame_Type",
		[WALK_KNOW_CODE] = "PyCode_Type",
		[WALK_KNOW_CELL] = "PyCell_Type",
	};

	for (int i = 0; i < WALK_KNOW_COUNT; i++)
		if (symbol[i])
			know(p, symbol[i], &c->known[i]);
}

#define NAMED(type, field, name) hint(c, type, l->field, WALK_EDGE_LABEL, WALK_LABEL_##name)

static void tell_hints(struct walk_ctx *c, const struct python *p)
{
	const struct layout *l = &p->layout;
	uint64_t t;

	know(p, "PyFunction_Type", &t);
	NAMED(t, func_code, CODE);
	NAMED(t, func_defaults, DEFAULTS);
	NAMED(t, func_kwdefaults, KWDEFAULTS);
	NAMED(t, func_closure, CLOSURE);
	NAMED(t, func_doc, DOC);
	NAMED(t, func_name, NAME);
	NAMED(t, func_qualname, QUALNAME);
	NAMED(t, func_module, MODULE);
	NAMED(t, func_annotations, ANNOTATIONS);
	NAMED(t, func_builtins, BUILTINS);
	NAMED(t, func_typeparams, TYPE_PARAMS);
	NAMED(t, func_annotate, ANNOTATE);
	hint(c, t, l->func_globals, WALK_EDGE_GLOBALS, 0);
	know(p, "PyMethod_Type", &t);
	NAMED(t, method_func, FUNC);
	NAMED(t, method_self, SELF);
	know(p, "PyCFunction_Type", &t);
	NAMED(t, cfunc_self, SELF);
	NAMED(t, cfunc_module, MODULE);
	know(p, "PyCell_Type", &t);
	hint(c, t, l->cell_ref, WALK_EDGE_CELL, 0);
	know(p, "PyModule_Type", &t);
	hint(c, t, l->module_dict, WALK_EDGE_DICT, 0);
	know(p, "PyType_Type", &t);
	hint(c, t, l->tp_dict, WALK_EDGE_DICT, 0);
	NAMED(t, tp_mro, MRO);
	NAMED(t, tp_bases, BASES);
	NAMED(t, tp_base, BASE);
	NAMED(t, ht_module, MODULE);
	if (python_symbol(p, "PyExc_BaseException", &t, NULL) == 0 &&
		mem_read_u64(p->id.pid, t, &t) == 0) {
		NAMED(t, exc_args, ARGS);
		NAMED(t, exc_traceback, TRACEBACK);
		NAMED(t, exc_context, CONTEXT);
		NAMED(t, exc_cause, CAUSE);
		NAMED(t, exc_notes, NOTES);
	}
	know(p, "PyTraceBack_Type", &t);
	NAMED(t, tb_next, TB_NEXT);
	NAMED(t, tb_frame, TB_FRAME);
	know(p, "_PyWeakref_RefType", &t);
	NAMED(t, weakref_callback, CALLBACK);
	know(p, "PyFrame_Type", &t);
	NAMED(t, fo_back, F_BACK);
	NAMED(t, fo_code, F_CODE);
	NAMED(t, fo_builtins, F_BUILTINS);
	hint(c, t, l->fo_globals, WALK_EDGE_GLOBALS, 0);
	NAMED(t, fo_locals, F_LOCALS);
	NAMED(t, fo_trace, F_TRACE);
	NAMED(c->known[WALK_KNOW_GEN], gen_frame, GI_FRAME);
	NAMED(c->known[WALK_KNOW_GEN], gen_code, GI_CODE);
	NAMED(c->known[WALK_KNOW_CORO], gen_frame, CR_FRAME);
	NAMED(c->known[WALK_KNOW_CORO], gen_code, CR_CODE);
	NAMED(c->known[WALK_KNOW_ASYNC_GEN], gen_frame, AG_FRAME);
	NAMED(c->known[WALK_KNOW_ASYNC_GEN], gen_code, AG_CODE);
	t = c->known[WALK_KNOW_CODE];
	NAMED(t, co_consts, CO_CONSTS);
	NAMED(t, co_names, CO_NAMES);
	NAMED(t, co_varnames, CO_VARNAMES);
	NAMED(t, co_freevars, CO_FREEVARS);
	NAMED(t, co_cellvars, CO_CELLVARS);
	NAMED(t, co_localsplusnames, CO_LOCALSPLUSNAMES);
	NAMED(t, co_localspluskinds, CO_LOCALSPLUSKINDS);
	NAMED(t, co_filename, CO_FILENAME);
	NAMED(t, co_name, CO_NAME);
	NAMED(t, co_qualname, CO_QUALNAME);
	NAMED(t, co_linetable, CO_LINETABLE);
	NAMED(t, co_exceptiontable, CO_EXCEPTIONTABLE);
	NAMED(t, co_code, CO_CODE);
}

#define NAMED_IN(type, field, name)                                                                \
	hint_by_name(c, type, l->field, WALK_EDGE_LABEL, WALK_LABEL_##name)

/* By the tp_name, which lost its module's name or got one in some version. */
static void tell_hints_by_name(struct walk_ctx *c, const struct layout *l)
{
	static const char *const future[] = {"_asyncio.Future", "_asyncio.Task"};
	static const char *const views[] = {"dict_keys", "dict_values", "dict_items"};

	NAMED_IN("property", property_get, FGET);
	NAMED_IN("property", property_set, FSET);
	NAMED_IN("property", property_del, FDEL);
	NAMED_IN("property", property_doc, DOC);
	NAMED_IN("classmethod", classmethod_callable, FUNC);
	NAMED_IN("staticmethod", classmethod_callable, FUNC);
	NAMED_IN("super", super_type, THISCLASS);
	NAMED_IN("super", super_obj, SELF);
	NAMED_IN("super", super_obj_type, SELF_CLASS);
	NAMED_IN("mappingproxy", mappingproxy_mapping, MAPPING);
	for (size_t i = 0; i < ARRAY_SIZE(views); i++)
		NAMED_IN(views[i], mappingproxy_mapping, MAPPING);
	hint_by_name(c, "slice", l->slice_start, WALK_EDGE_LABEL, WALK_LABEL_START);
	hint_by_name(c, "slice", l->slice_start + 8, WALK_EDGE_LABEL, WALK_LABEL_STOP);
	hint_by_name(c, "slice", l->slice_start + 16, WALK_EDGE_LABEL, WALK_LABEL_STEP);
	NAMED_IN("collections.defaultdict", defaultdict_factory, DEFAULT_FACTORY);
	NAMED_IN("functools._lru_cache_wrapper", lru_cache, CACHE);
	NAMED_IN("functools._lru_cache_wrapper", lru_func, WRAPPED);
	hint_by_name(c, "functools._lru_cache_wrapper", 0, WALK_SHAPE, WALK_SHAPE_LRU);
	NAMED_IN("Context", ctx_vars, VARS);
	NAMED_IN("_contextvars.Context", ctx_vars, VARS);
	NAMED_IN("ContextVar", contextvar_default, DEFAULT);
	NAMED_IN("_contextvars.ContextVar", contextvar_default, DEFAULT);
	NAMED_IN("hamt", hamt_root, ROOT);
	hint_by_name(c, "hamt_bitmap_node", 0, WALK_SHAPE, WALK_SHAPE_PAIRS);
	hint_by_name(c, "hamt_collision_node", 0, WALK_SHAPE, WALK_SHAPE_PAIRS);
	NAMED_IN("_queue.SimpleQueue", simplequeue_list, LST);
	if (l->simplequeue_list < 0)
		hint_by_name(c, "_queue.SimpleQueue", 0, WALK_SHAPE, WALK_SHAPE_ARRAY);
	NAMED_IN("_thread._local", local_dummies, DUMMIES);
	for (size_t i = 0; i < ARRAY_SIZE(future); i++) {
		NAMED_IN(future[i], future_loop, FUT_LOOP);
		NAMED_IN(future[i], future_callback0, FUT_CALLBACK);
		NAMED_IN(future[i], future_callbacks, FUT_CALLBACKS);
		NAMED_IN(future[i], future_exception, FUT_EXCEPTION);
		NAMED_IN(future[i], future_result, FUT_RESULT);
	}
	NAMED_IN("_asyncio.Task", task_waiter, TASK_WAITER);
	NAMED_IN("_asyncio.Task", task_coro, TASK_CORO);
	NAMED_IN("_asyncio.Task", task_context, TASK_CONTEXT);
	NAMED_IN("_abc_data", abc_registry, ABC_REGISTRY);
	NAMED_IN("_abc_data", abc_cache, ABC_CACHE);
	NAMED_IN("_abc_data", abc_negative_cache, ABC_NEGATIVE);
	NAMED_IN("_abc._abc_data", abc_registry, ABC_REGISTRY);
	NAMED_IN("_abc._abc_data", abc_cache, ABC_CACHE);
	NAMED_IN("_abc._abc_data", abc_negative_cache, ABC_NEGATIVE);
	NAMED_IN("_ctypes._CData", cdata_base, CT_BASE);
	NAMED_IN("_ctypes._CData", cdata_objects, CT_OBJECTS);
}

/* Types that no symbol names: what a module of C code calls them. */
static uint64_t module_member(struct view *v, const char *module, const char *name)
{
	uint64_t modules = view_u64(v, v->python->interp + (uint64_t)v->l->interp_modules);
	uint64_t m = view_dict_get(v, modules, module), t;

	if (!m)
		return 0;
	t = view_dict_get(v, view_u64(v, m + (uint64_t)v->l->module_dict), name);
	return view_flags(v, t) & TPFLAGS_TYPE_SUBCLASS ? t : 0;
}

static void tell(struct walk_ctx *c, const struct job *j, struct view *v)
{
	const struct layout *l = &j->python->layout;
	const struct python_rings *r = &j->rings;

	/* Oldest first, as SNAPSHOT_NODES wants them. */
	for (int i = 3; i >= 0; i--)
		if (r->head[i])
			c->heads[c->n_heads++] = r->head[i];
	c->off.minor = l->minor;
#define X(name) c->off.name = l->name;
	WALK_OFFSETS(X)
#undef X
	tell_types(c, j->python);
	c->known[WALK_KNOW_DEQUE] = module_member(v, "_collections", "deque");
	tell_hints(c, j->python);
	tell_hints_by_name(c, l);
	uint64_t partial = module_member(v, "_functools", "partial");
	NAMED(partial, partial_fn, PARTIAL_FUNC);
	NAMED(partial, partial_args, ARGS);
	NAMED(partial, partial_kw, PARTIAL_KEYWORDS);
}

/* What changes from run to run, at the context's start. */
#define RUN_PART offsetof(struct walk_ctx, heads)

static int map_all(struct walker *w, struct err *err)
{
	uint64_t none;
	int r;

	r = map_code(w, err);
	if (r == 0)
		r = remote_map(w, (sizeof(struct walk_ctx) + 4095) & ~4095UL, &w->ctx, err);
	if (r == 0)
		r = remote_map(w, CHILD_STACK_BYTES, &w->stack_top, err);
	if (r == 0)
		r = remote_map(w, CHILD_UNITS_BYTES, &w->units, err);
	if (r == 0)
		r = remote_map(w, CHILD_BATCH_BYTES, &w->in, err);
	if (r == 0) {
		/* below the stack lies the buffer: a page that faults instead */
		const uint64_t guard[6] = {w->stack_top, 4096, PROT_NONE};

		r = remote_call(w, SYS_mprotect, guard, &none, err);
		w->stack_top += CHILD_STACK_BYTES - 4096;
	}
	return r;
}

static int write_context(struct walker *w, struct view *v, struct err *err)
{
	_cleanup_free_ struct walk_ctx *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return err_set(err, -ENOMEM, "out of memory");
	tell(c, w->job, v);
	r = write_child(w->job, w->ctx, c, offsetof(struct walk_ctx, ring));
	return r < 0 ? err_set(err, r, "pid %d: cannot write into its copy: %s", (int)w->job->pid,
			       strerror(-r))
		     : 0;
}

int child_setup(struct walker *w, struct job *j, struct graph *g, struct view *v,
	struct guard *guard, struct err *err)
{
	const uint64_t die[6] = {PR_SET_PDEATHSIG, SIGKILL};
	struct user_regs_struct regs;
	uint64_t none;
	int r = 0;

	*w = (struct walker){.job = j, .graph = g, .guard = guard, .began_ns = now_monotonic_ns()};
	w->until_ns = w->began_ns + job_time_left(j, UINT64_MAX) / 2;
	if (ptrace(PTRACE_GETREGS, j->child, NULL, &regs) == 0)
		w->sp = regs.rsp;
	w->local = malloc(UNITS * sizeof(*w->local));
	if (!w->local)
		return err_set(err, -ENOMEM, "out of memory");
	/*
	 * The signal comes at the end of the *thread* that made the copy (prctl(2)), and request
	 * threads end all the time: with them it killed one copy in fifteen of a busy threaded
	 * server. It is for the main thread only. Without it the copy ends all the same with us
	 * (EXITKILL), and we watch the target's pidfd.
	 */
	if (j->lender == j->pid)
		r = remote_call(w, SYS_prctl, die, &none, err);
	if (r == 0)
		r = map_all(w, err);
	if (r == 0)
		r = write_context(w, v, err);
	/* until here it was quick to follow; what comes takes time, and is in nobody's way */
	(void)setpriority(PRIO_PROCESS, (id_t)j->child, 19);
	if (r == 0)
		job_die_at(j, STEP_CHILD_READY);
	return r;
}

void child_release(struct walker *w)
{
	free(w->local);
	w->local = NULL;
}

/* ---- running ---- */

static int start(struct walker *w, struct err *err)
{
	pid_t child = w->job->child;
	struct user_regs_struct regs;

	if (ptrace(PTRACE_GETREGS, child, NULL, &regs) < 0)
		return err_set(
			err, -errno, "cannot read the copy's registers: %s", strerror(errno));
	regs.rip = w->code;
	regs.rdi = w->ctx;
	regs.rsp = w->stack_top - 8; /* as behind a call */
	regs.rbp = 0;
	regs.orig_rax = (unsigned long)-1;
	regs.eflags &= ~0x500UL; /* direction, trap */
	if (ptrace(PTRACE_SETREGS, child, NULL, &regs) < 0)
		return err_set(err, -errno, "cannot set the copy's registers: %s", strerror(errno));
	return 0;
}

/* The walker's own int3, and not a breakpoint somewhere in the target's code. */
static bool is_event(const struct walker *w, int status)
{
	struct user_regs_struct regs;

	return STOP_EVENT(status) == 0 && STOP_SIGNAL(status) == SIGTRAP &&
	       ptrace(PTRACE_GETREGS, w->job->child, NULL, &regs) == 0 && regs.rip >= w->code &&
	       regs.rip <= w->code_end;
}

/* Something went wrong in the object it looks at: tell the walker to step over it. */
static int fault(struct walker *w, struct err *err)
{
	const uint32_t yes = 1;
	int r;

	if (++w->faults > FAULTS_MAX) {
		job_truncate(w->job, LEVEL_OBJECTS,
			"more than %d objects could not be traversed", FAULTS_MAX);
		return -EOVERFLOW;
	}
	r = write_child(w->job, w->ctx + offsetof(struct walk_ctx, fault), &yes, sizeof(yes));
	if (r < 0)
		return err_set(err, r, "pid %d: cannot write into its copy: %s", (int)w->job->pid,
			strerror(-r));
	return start(w, err);
}

/* A buffer is full, or it was the last: the walker gets the other one. */
static int drain(struct walker *w, struct walk_ctx *c, struct err *err)
{
	int r;

	r = mem_read(w->job->child, w->ctx, c, RUN_PART);
	if (r < 0 || c->n_units > UNITS)
		return err_set(
			err, -EIO, "pid %d: the walker in its copy is lost", (int)w->job->pid);
	w->full = w->units + w->half * HALF;
	w->n_full = c->n_units;
	w->half ^= 1;
	c->units = w->units + w->half * HALF;
	c->n_units = 0;
	r = write_child(w->job, w->ctx, c, RUN_PART);
	if (r < 0)
		return err_set(
			err, r, "pid %d: cannot write into its copy: %s", (int)w->job->pid, strerror(-r));
	if (!w->first_drain) {
		w->first_drain = true;
		job_die_at(w->job, STEP_CHILD_WALKING);
	}
	return 0;
}

/* What is in the full buffer into the graph, while the walker runs on. */
static int take(struct walker *w, struct err *err)
{
	size_t n = w->n_full;
	int r;

	w->n_full = 0;
	r = mem_read(w->job->child, w->full, w->local, n * sizeof(*w->local));
	if (r < 0)
		return died(w, err);
	r = graph_take(w->graph, w->local, n);
	if (r == -ENOMEM) {
		snprintf(w->too_much, sizeof(w->too_much),
			"more memory than there is for it on this host (%zu objects, %zu references "
			"so far)",
			w->graph->n_nodes, w->graph->n_edges);
		return -E2BIG;
	}
	if (r < 0)
		return err_set(err, -EIO,
			"pid %d: the walker in its copy wrote what makes no sense",
			(int)w->job->pid);
	return 0;
}

static uint64_t cpu_ns(pid_t pid)
{
	struct timespec t = {0};
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) == 0)
		(void)clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* In the middle of a walk that is given up. */
static void halt(struct walker *w)
{
	int status;

	if (!w->running)
		return;
	w->running = false;
	if (ptrace(PTRACE_INTERRUPT, w->job->child, NULL, NULL) == 0)
		(void)stop_wait(w->job->wake, w->job->child, STUCK_NS, &status);
}

/* Runs the walker until its job is done. -EOVERFLOW: a cap was reached, what there is stays; -E2BIG: too
 * much memory or time. */
static int run(struct walker *w, struct walk_ctx *c, struct err *err)
{
	struct job *j = w->job;
	uint64_t seen = UINT64_MAX, seen_cpu = 0;
	int status = 0, r;

	r = write_child(j, w->ctx, c, RUN_PART);
	if (r < 0)
		return err_set(err, r, "pid %d: cannot write into its copy: %s", (int)j->pid,
			strerror(-r));
	r = start(w, err);
	while (r == 0) {
		if (ptrace(PTRACE_SYSEMU, j->child, NULL, NULL) < 0)
			return err_set(err, -errno, "cannot run the copy: %s", strerror(errno));
		w->running = true;
		r = take(w, err);
		if (r == 0 && now_monotonic_ns() >= w->until_ns) {
			snprintf(w->too_much, sizeof(w->too_much),
				"more time than dump.deadline leaves for it (%zu objects so far)",
				w->graph->n_nodes);
			r = -E2BIG;
		}
		if (r < 0) {
			halt(w);
			return r;
		}
		r = await(w, STUCK_NS, &status, err);
		if (r == -ETIME) {
			uint64_t at, cpu = cpu_ns(j->child);

			r = mem_read_u64(
				j->child, w->ctx + offsetof(struct walk_ctx, current), &at);
			if (r < 0 || ptrace(PTRACE_INTERRUPT, j->child, NULL, NULL) < 0)
				return err_set(err, -EIO, "the copy is lost");
			r = await(w, job_time_left(j, UINT64_MAX), &status, err);
			if (r < 0)
				return r == -ETIME ? err_set(err, r, "the copy does not stop") : r;
			/* one object for a second of its own time: a loop in its tp_traverse, unless
			 * it is huge; on a busy host it may just have waited for a processor */
			if (at != seen) {
				seen = at;
				seen_cpu = cpu;
			} else if (cpu - seen_cpu >= STUCK_CPU_NS && !is_event(w, status)) {
				r = fault(w, err);
				continue;
			}
		}
		if (r < 0)
			return r;
		w->running = false;
		if (is_event(w, status)) {
			r = drain(w, c, err);
			if (r < 0 || c->event != WALK_FULL)
				break;
			continue;
		}
		if (STOP_EVENT(status) == PTRACE_EVENT_STOP)
			continue;
		/* a signal of its own doing, or an attempt to make a system call */
		if (STOP_IS_SYSCALL(status) || STOP_SIGNAL(status) == SIGSEGV ||
			STOP_SIGNAL(status) == SIGBUS || STOP_SIGNAL(status) == SIGFPE ||
			STOP_SIGNAL(status) == SIGILL || STOP_SIGNAL(status) == SIGTRAP ||
			STOP_SIGNAL(status) == SIGABRT)
			r = fault(w, err);
	}
	if (r == 0)
		r = take(w, err);
	if (r < 0)
		return r;
	if (c->n_headers_lost)
		job_truncate(j, LEVEL_OBJECTS, "%" PRIu64 " objects were damaged", c->n_headers_lost);
	if (c->event == WALK_BROKEN)
		job_truncate(j, LEVEL_OBJECTS, "a list of the collector could not be followed to its end");
	if (c->event == WALK_CAPPED) {
		job_truncate(j, LEVEL_OBJECTS, "capped at %" PRIu64 " objects", j->req.max_objects);
		return -EOVERFLOW;
	}
	return 0;
}

static void prepare(const struct walker *w, struct walk_ctx *c, uint32_t op)
{
	uint64_t max = w->job->req.max_objects;

	memset(c, 0, sizeof(*c));
	c->op = op;
	c->units = w->units + w->half * HALF;
	c->cap_units = UNITS;
	c->n_objects = w->graph->n_nodes;
	c->max_objects = max ? max : UINT64_MAX;
}

static bool keeps_edges(const struct graph *g)
{
	return g->keep == GRAPH_ALL || g->keep == GRAPH_NEAR;
}

int child_walk_rings(struct walker *w, struct err *err)
{
	_cleanup_free_ struct walk_ctx *c = malloc(sizeof(*c));
	const uint64_t nowhere[2] = {0};
	int r;

	if (!c)
		return err_set(err, -ENOMEM, "out of memory");
	prepare(w, c, keeps_edges(w->graph) ? WALK_RINGS : WALK_HEADERS);
	/* from the start, wherever an earlier walk has ended */
	r = write_child(w->job, w->ctx + offsetof(struct walk_ctx, ring), nowhere, sizeof(nowhere));
	r = r < 0 ? err_set(err, r, "pid %d: cannot write into its copy: %s", (int)w->job->pid,
			    strerror(-r))
		  : run(w, c, err);
	w->job->skipped = w->graph->skipped;
	return r == -EOVERFLOW ? 0 : r;
}

int child_expand(struct walker *w, struct err *err)
{
	_cleanup_free_ struct walk_ctx *c = malloc(sizeof(*c));
	struct graph *g = w->graph;
	int r = 0;

	if (!c)
		return err_set(err, -ENOMEM, "out of memory");
	while (r == 0 && g->queue_at < g->n_queue) {
		size_t n = MIN(g->n_queue - g->queue_at, (size_t)BATCH);
		const uint64_t zero = 0;

		prepare(w, c, WALK_EXPAND);
		c->in = w->in;
		c->n_in = n;
		r = write_child(w->job, w->in, g->queue + g->queue_at, n * sizeof(uint64_t));
		if (r == 0)
			r = write_child(
				w->job, w->ctx + offsetof(struct walk_ctx, in_next), &zero, 8);
		if (r < 0)
			return err_set(err, r, "pid %d: cannot write into its copy: %s",
				(int)w->job->pid, strerror(-r));
		g->queue_at += n;
		r = run(w, c, err);
	}
	w->job->skipped = g->skipped;
	return r == -EOVERFLOW ? 0 : r;
}
