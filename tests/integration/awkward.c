/* SPDX-License-Identifier: MIT */
/*
 * Types that make and free their objects in every way that extensions do, for awkward.py. Each says
 * itself how many of it are alive. Any CPython from 3.8 on.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <string.h>

struct thing {
	PyObject_VAR_HEAD
	PyObject *held;
	struct living *counted;
	void *words[2];
};

/* Who lives, of these types and of those that derive from them. */
static struct living {
	PyTypeObject *type;
	long alive;
} living[128];

static struct kind {
	PyTypeObject type;
	struct thing *pool[2000]; /* dead ones, to be used again */
	int pooled, room;
	int births;
} kinds[24];
static int n_kinds;
static struct kind *shared; /* kinds from here on have one pool, the first one's */

static struct kind *kind_of(PyTypeObject *t)
{
	while (t && !((char *)t >= (char *)kinds && (char *)t < (char *)(kinds + 24)))
		t = t->tp_base;
	return t ? (struct kind *)((char *)t - offsetof(struct kind, type)) : NULL;
}

/* ---- what all have in common ---- */

static int thing_traverse(PyObject *o, visitproc visit, void *arg)
{
	Py_VISIT(((struct thing *)o)->held);
	return 0;
}

static int thing_clear(PyObject *o)
{
	Py_CLEAR(((struct thing *)o)->held);
	return 0;
}

/* Counts and fills what an allocator has given; takes the argument, if there is one. */
static PyObject *born(PyObject *o, PyObject *args)
{
	struct thing *x = (struct thing *)o;
	struct living *l = living;

	if (!o)
		return NULL;
	while (l->type && l->type != Py_TYPE(o))
		l++;
	l->type = Py_TYPE(o);
	l->alive++;
	x->counted = l;
	x->held = NULL;
	if (args && PyTuple_GET_SIZE(args)) {
		x->held = PyTuple_GET_ITEM(args, 0);
		Py_INCREF(x->held);
	}
	return o;
}

static void dies(PyObject *o)
{
	struct thing *x = (struct thing *)o;

	x->counted->alive--;
	Py_CLEAR(x->held);
}

/* PyObject_GC_New() leaves what stands behind the head as it was. */
static PyObject *blank(PyObject *o, PyTypeObject *t)
{
	size_t head = t->tp_itemsize ? sizeof(PyVarObject) : sizeof(PyObject);
	size_t n = t->tp_itemsize ? (size_t)Py_SIZE(o) : 0;

	if (o)
		memset((char *)o + head, 0, _PyObject_VAR_SIZE(t, n) - head);
	return o;
}

/* ---- ways to be born ---- */

static PyObject *new_generic(PyTypeObject *t, PyObject *args, PyObject *kw)
{
	return born(t->tp_alloc(t, 0), args);
}

static PyObject *alloc_booked(PyTypeObject *t, Py_ssize_t n)
{
	kind_of(t)->births++;
	return PyType_GenericAlloc(t, n);
}

static PyObject *new_direct(PyTypeObject *t, PyObject *args, PyObject *kw)
{
	PyObject *o = born(blank((PyObject *)PyObject_GC_New(struct thing, t), t), args);

	if (o)
		PyObject_GC_Track(o);
	return o;
}

static PyObject *new_var(PyTypeObject *t, PyObject *args, PyObject *kw)
{
	Py_ssize_t n = ++kind_of(t)->births % 7;
	struct thing *o = PyObject_GC_NewVar(struct thing, t, n);

	if (o && n == 3)
		o = PyObject_GC_Resize(struct thing, o, 100); /* it moves */
	if (born(blank((PyObject *)o, t), args))
		PyObject_GC_Track(o);
	return (PyObject *)o;
}

/* As Cython does it for a class with a free list: what has its size takes from there. */
static int pools(const struct kind *k, PyTypeObject *t)
{
	return t->tp_basicsize == sizeof(struct thing) && !t->tp_dictoffset && !t->tp_weaklistoffset &&
	       PyType_IS_GC(t) == PyType_IS_GC((PyTypeObject *)&k->type);
}

static PyObject *new_pooled(PyTypeObject *t, PyObject *args, PyObject *kw)
{
	struct kind *k = kind_of(t), *from = shared && k >= shared ? shared : k;
	PyObject *o;

	if (from->pooled && pools(k, t)) {
		o = (PyObject *)from->pool[--from->pooled];
		memset(o, 0, sizeof(struct thing));
		(void)PyObject_Init(o, t);
		if (PyType_IS_GC(t))
			PyObject_GC_Track(o);
	} else {
		o = t->tp_alloc(t, 0);
	}
	return born(o, args);
}

/* With the collector's header laid by hand: no function of CPython sees the type. */
static PyObject *new_by_hand(PyTypeObject *t, PyObject *args, PyObject *kw)
{
	char *p = PyObject_Malloc(16 + (size_t)t->tp_basicsize);
	PyObject *o;

	if (!p)
		return PyErr_NoMemory();
	memset(p, 0, 16 + (size_t)t->tp_basicsize);
	o = PyObject_Init((PyObject *)(p + 16), t);
	born(o, args);
	PyObject_GC_Track(o);
	return o;
}

/* Tracked only if it holds something that is. */
static PyObject *new_lazy(PyTypeObject *t, PyObject *args, PyObject *kw)
{
	PyObject *o = born(blank((PyObject *)PyObject_GC_New(struct thing, t), t), args);

	if (o && ((struct thing *)o)->held)
		PyObject_GC_Track(o);
	return o;
}

/* A template that nobody sees, for each. */
static PyObject *new_twice(PyTypeObject *t, PyObject *args, PyObject *kw)
{
	PyObject *template = blank((PyObject *)PyObject_GC_New(struct thing, t), t), *o;

	if (!template)
		return NULL;
	o = born(t->tp_alloc(t, 0), args);
	if (t->tp_flags & Py_TPFLAGS_HEAPTYPE)
		Py_DECREF(t);
	PyObject_GC_Del(template);
	return o;
}

static PyObject *new_small(PyTypeObject *t, PyObject *args, PyObject *kw)
{
	return born(blank((PyObject *)PyObject_New(struct thing, t), t), args);
}

/* ---- ways to die ---- */

static void dealloc_generic(PyObject *o)
{
	PyTypeObject *t = Py_TYPE(o);

	if (PyType_IS_GC(t))
		PyObject_GC_UnTrack(o);
	dies(o);
	t->tp_free(o);
}

static void dealloc_direct(PyObject *o)
{
	PyObject_GC_UnTrack(o);
	dies(o);
	PyObject_GC_Del(o);
}

static void dealloc_pooled(PyObject *o)
{
	PyTypeObject *t = Py_TYPE(o);
	struct kind *k = kind_of(t), *to = shared && k >= shared ? shared : k;

	if (PyType_IS_GC(t))
		PyObject_GC_UnTrack(o);
	dies(o);
	if (to->pooled < to->room && pools(k, t))
		to->pool[to->pooled++] = (struct thing *)o;
	else
		t->tp_free(o);
}

static void dealloc_by_hand(PyObject *o)
{
	PyObject_GC_UnTrack(o);
	dies(o);
	PyObject_Free((char *)o - 16);
}

static void dealloc_small(PyObject *o)
{
	dies(o);
	PyObject_Free(o);
}

/* Every fourth comes back once. */
static void finalize(PyObject *o)
{
	static PyObject *risen;
	struct thing *x = (struct thing *)o;

	if (++kind_of(Py_TYPE(o))->births % 4)
		return;
	Py_INCREF(o);
	Py_XDECREF(risen);
	risen = o;
	x->words[0] = x;
}

static void dealloc_rising(PyObject *o)
{
	if (PyObject_CallFinalizerFromDealloc(o) == 0)
		dealloc_generic(o);
}

static void dealloc_trashcan(PyObject *o)
{
	PyTypeObject *t = Py_TYPE(o);

	PyObject_GC_UnTrack(o);
	Py_TRASHCAN_BEGIN(o, dealloc_trashcan)
	dies(o);
	t->tp_free(o);
	Py_TRASHCAN_END
}

/* ---- the types ---- */

/* Leaves the collector's sight, or comes back. */
static PyObject *thing_leave(PyObject *o, PyObject *unused)
{
	PyObject_GC_UnTrack(o);
	Py_RETURN_NONE;
}

static PyMethodDef thing_methods[] = {{"leave", thing_leave, METH_NOARGS, NULL}, {0}};

static struct kind *add(const char *name, unsigned long flags, newfunc make,
	destructor dealloc)
{
	struct kind *k = &kinds[n_kinds++];
	PyTypeObject *t = &k->type;

	*t = (PyTypeObject){PyVarObject_HEAD_INIT(NULL, 0)};
	t->tp_name = name;
	t->tp_basicsize = sizeof(struct thing);
	t->tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | flags;
	t->tp_new = make;
	t->tp_dealloc = dealloc;
	t->tp_methods = thing_methods;
	if (flags & Py_TPFLAGS_HAVE_GC) {
		t->tp_traverse = thing_traverse;
		t->tp_clear = thing_clear;
		t->tp_free = PyObject_GC_Del;
	} else {
		t->tp_free = PyObject_Free;
	}
	return k;
}

static int ready(PyObject *m)
{
	for (int i = 0; i < n_kinds; i++) {
		PyTypeObject *t = &kinds[i].type;

		if (PyType_Ready(t))
			return -1;
		Py_INCREF(t);
		if (PyModule_AddObject(m, strchr(t->tp_name, '.') + 1, (PyObject *)t))
			return -1;
	}
	return 0;
}

/* Called without tp_new: the type's own vectorcall, from 3.9 on. */
static PyObject *called(PyObject *type, PyObject *const *args, size_t n, PyObject *names)
{
	PyObject *o = new_direct((PyTypeObject *)type, NULL, NULL);

	if (o && PyVectorcall_NARGS(n)) {
		Py_INCREF(args[0]);
		((struct thing *)o)->held = args[0];
	}
	return o;
}

/* A metaclass with an allocator of its own. */
static PyTypeObject meta = {PyVarObject_HEAD_INIT(NULL, 0)};

static PyObject *alloc_class(PyTypeObject *t, Py_ssize_t n)
{
	return PyType_GenericAlloc(t, n);
}

/* {type: alive} */
static PyObject *alive(PyObject *m, PyObject *unused)
{
	PyObject *d = PyDict_New(), *n;

	for (struct living *l = living; d && l->type; l++) {
		n = PyLong_FromLong(l->alive);
		PyDict_SetItem(d, (PyObject *)l->type, n);
		Py_DECREF(n);
	}
	return d;
}

static PyMethodDef methods[] = {{"alive", alive, METH_NOARGS, NULL}, {0}};
static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT, .m_name = "awkward", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_awkward(void)
{
	const unsigned long gc = Py_TPFLAGS_HAVE_GC;
	PyObject *m = PyModule_Create(&module);

	if (!m)
		return NULL;
	add("awkward.Generic", gc, new_generic, dealloc_generic);
	add("awkward.Booked", gc, new_generic, dealloc_generic)->type.tp_alloc = alloc_booked;
	add("awkward.Direct", gc, new_direct, dealloc_direct);
	add("awkward.Var", gc, new_var, dealloc_direct)->type.tp_itemsize = 8;
	add("awkward.Pool8", gc, new_pooled, dealloc_pooled)->room = 8;
	add("awkward.Pool500", gc, new_pooled, dealloc_pooled)->room = 500;
	add("awkward.ByHand", gc, new_by_hand, dealloc_direct);
	add("awkward.FreedByHand", gc, new_direct, dealloc_by_hand);
	add("awkward.AllByHand", gc, new_by_hand, dealloc_by_hand);
	add("awkward.Lazy", gc, new_lazy, dealloc_direct);
	add("awkward.Never", gc, new_lazy, dealloc_direct);
	add("awkward.Leaver", gc, new_direct, dealloc_direct);
	add("awkward.Twice", gc, new_twice, dealloc_direct);
	add("awkward.Rising", gc, new_generic, dealloc_rising)->type.tp_finalize = finalize;
	add("awkward.Trashcan", gc, new_generic, dealloc_trashcan);
	add("awkward.Called", gc, new_direct, dealloc_direct);
	add("awkward.Small", 0, new_small, dealloc_small);
	add("awkward.SmallGeneric", 0, new_generic, dealloc_generic);
	add("awkward.SmallPool", 0, new_pooled, dealloc_pooled)->room = 500;
	shared = add("awkward.SharedOne", gc, new_pooled, dealloc_pooled);
	shared->room = 300;
	add("awkward.SharedOther", gc, new_pooled, dealloc_pooled);
	if (ready(m))
		return NULL;
#if PY_VERSION_HEX >= 0x03090000
	for (int i = 0; i < n_kinds; i++)
		if (!strcmp(kinds[i].type.tp_name, "awkward.Called"))
			kinds[i].type.tp_vectorcall = called;
#endif
	meta.tp_name = "awkward.Meta";
	meta.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE;
	meta.tp_base = &PyType_Type;
	meta.tp_alloc = alloc_class;
	if (PyType_Ready(&meta))
		return NULL;
	Py_INCREF(&meta);
	if (PyModule_AddObject(m, "Meta", (PyObject *)&meta))
		return NULL;
	return m;
}
