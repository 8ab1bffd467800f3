/* SPDX-License-Identifier: MIT */
/*
 * The truth about a target's rings at the very instant a census closes, told by the target itself.
 * test_census.c builds this into a shared object and the target calls it by ctypes.PyDLL, GIL held:
 * it counts the rings and then, with nothing in between, makes an object of the type whose birth
 * the census closes at. It needs no header of Python's, so one object serves every build.
 */
#include <stdint.h>
#include <string.h>
#include <time.h>

#define TYPES   4096
#define RECORDS 128

struct node {
	struct node *next;
	uint64_t prev, refcnt;
	uint64_t type;
};

struct record {
	uint64_t begin_ns, end_ns; /* CLOCK_MONOTONIC, just before and after the birth */
	uint64_t objects, types;
	struct {
		uint64_t type, live;
	} v[TYPES];
};

struct records {
	uint64_t done; /* records ever finished; the next one goes to done % RECORDS */
	struct record r[RECORDS];
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* heads: of the rings, 0 where there is none. Returns what alloc does: a new reference. */
void *truth_then_birth(void *(*alloc)(void *type, intptr_t n), void *type,
	struct node *const heads[4], struct records *out)
{
	struct record *r = &out->r[out->done % RECORDS];
	static uint64_t live[TYPES];
	static uint64_t slot_type[TYPES];
	void *o;

	memset(live, 0, sizeof(live));
	memset(slot_type, 0, sizeof(slot_type));
	r->objects = r->types = 0;
	for (int i = 0; i < 4; i++) {
		if (!heads[i])
			continue;
		for (struct node *n = heads[i]->next; n != heads[i];
			n = (struct node *)((uintptr_t)n->next & ~(uintptr_t)3)) {
			uint64_t h = (n->type >> 4) * 0x9e3779b97f4a7c15u >> 52;

			while (slot_type[h] && slot_type[h] != n->type)
				h = (h + 1) % TYPES;
			slot_type[h] = n->type;
			live[h]++;
			r->objects++;
		}
	}
	for (int h = 0; h < TYPES; h++)
		if (slot_type[h]) {
			r->v[r->types].type = slot_type[h];
			r->v[r->types++].live = live[h];
		}
	r->begin_ns = now_ns();
	o = alloc(type, 0);
	r->end_ns = now_ns();
	__atomic_add_fetch(&out->done, 1, __ATOMIC_SEQ_CST);
	return o;
}
