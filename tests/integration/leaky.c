/* SPDX-License-Identifier: MIT */
/* A library that keeps pointers in the ways of C code, for holders.py. Its names are looked for. */
#include <stdlib.h>
#include <unistd.h>

#define ROOM 1000

static void *volatile held[ROOM];
static unsigned int n_held;
static struct {
	long number;
	void *volatile object, *volatile more;
} leaky_one, leaky_other;
static void *volatile *leaky_table;
static void *volatile given[2];
void *volatile leaky_waits; /* not NULL: somebody is in leaky_wait() */

void leaky_hold(void *object)
{
	if (n_held < ROOM)
		held[n_held++] = object;
}

void leaky_hold_one(void *object)
{
	leaky_one.object = object;
}

void leaky_hold_other(void *object)
{
	leaky_other.more = object;
}

void leaky_table_hold(void *object, unsigned int i)
{
	if (!leaky_table)
		leaky_table = calloc(ROOM, sizeof(*leaky_table));
	if (leaky_table && i < ROOM)
		leaky_table[i] = object;
}

void leaky_give(void *object, unsigned int i)
{
	given[i % 2] = object;
}

/* Keeps what was given on its stack until the descriptor ends. */
int leaky_wait(int fd)
{
	void *volatile mine[2] = {given[0], given[1]};
	char byte;

	given[0] = given[1] = NULL;
	leaky_waits = (void *)&n_held;
	return read(fd, &byte, 1) == 0 && mine[0] && mine[1];
}
