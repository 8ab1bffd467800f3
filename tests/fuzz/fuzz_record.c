/* SPDX-License-Identifier: MIT */
/* libFuzzer over replay_run(), and over what a type is kept as: whatever is in a file or a database. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/record/replay.h"
#include "daemon/util/macros.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void replay(const uint8_t *data, size_t size)
{
	static const char head[] = RECORD_MAGIC "\nC 1000 0 60000 10\nT 1 7 1 s\nN 1 1 a.B\nJ 1 1\n";
	size_t n = sizeof(head) - 1;
	struct replay_settings s = {.warmup_ms = -1};
	struct err err = {{0}};
	struct replay r;
	char *bytes = malloc(n + size + 1);
	FILE *f;

	if (!bytes)
		abort();
	memcpy(bytes, head, n);
	memcpy(bytes + n, data, size);
	f = fmemopen(bytes, n + size, "r");
	if (f && replay_run(f, &s, &r, &err) == 0)
		replay_release(&r);
	if (f)
		fclose(f);
	free(bytes);
}

static void load(const uint8_t *data, size_t size)
{
	struct track_config c = {1000, 0, 60000, 10};
	struct track_type *ty;
	struct track *t;
	uint8_t again[TRACK_SAVED_MAX];

	if (track_new(&c, 0, &t))
		abort();
	ty = track_type_get(t, 1, "a.B");
	if (ty && track_type_load(ty, data, size) == 0) {
		for (int i = 0; i < 200; i++) {
			struct track_point p = {.at_ms = i * 1000, .count = 20 * i};

			track_sample(t, ty, &p);
		}
		track_type_save(ty, again, sizeof(again));
	}
	track_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] & 1)
		replay(data + 1, size - 1);
	else
		load(data + 1, size - 1);
	return 0;
}
