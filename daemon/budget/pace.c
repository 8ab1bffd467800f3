/* SPDX-License-Identifier: MIT */
#include "daemon/budget/pace.h"

#include "daemon/util/macros.h"

#define DEBT_MAX_NS UINT64_C(60000000000)

bool pace_turn_come(struct pace *p, struct pace_turn *t, uint64_t now_ns, uint64_t patience_ns)
{
	if (!t->asked_ns) {
		t->next = NULL;
		if (p->last)
			p->last->next = t;
		else
			p->first = t;
		p->last = t;
	}
	t->asked_ns = MAX(now_ns, UINT64_C(1));
	while (p->first != t && now_ns - MIN(p->first->asked_ns, now_ns) > patience_ns)
		pace_turn_end(p, p->first);
	return p->first == t && now_ns >= p->next_ns;
}

void pace_turn_end(struct pace *p, struct pace_turn *t)
{
	struct pace_turn **at = &p->first, *before = NULL;

	if (!t->asked_ns)
		return;
	while (*at != t) {
		before = *at;
		at = &before->next;
	}
	*at = t->next;
	if (p->last == t)
		p->last = before;
	*t = (struct pace_turn){0};
}

void pace_spend(struct pace *p, uint64_t now_ns, uint64_t took_ns)
{
	uint64_t rest_ns = (uint64_t)((double)took_ns / p->share);

	p->next_ns = MIN(MAX(p->next_ns, now_ns) + rest_ns, now_ns + MAX(rest_ns, DEBT_MAX_NS));
}
