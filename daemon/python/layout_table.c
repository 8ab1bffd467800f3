/* SPDX-License-Identifier: MIT */
#include "daemon/python/layout.h"

#include <stddef.h>

#include "daemon/util/macros.h"

/* The rows of layout_rows.h, turned by ninety degrees: one struct a minor. */
static const struct layout tables[] = {
	{
		.minor = 8,
#define ROW(name, v8, v9, v10, v11, v12, v13, v14, v15) .name = v8,
#include "daemon/python/layout_rows.h"
#undef ROW
	},
	{
		.minor = 9,
#define ROW(name, v8, v9, v10, v11, v12, v13, v14, v15) .name = v9,
#include "daemon/python/layout_rows.h"
#undef ROW
	},
	{
		.minor = 10,
#define ROW(name, v8, v9, v10, v11, v12, v13, v14, v15) .name = v10,
#include "daemon/python/layout_rows.h"
#undef ROW
	},
	{
		.minor = 11,
#define ROW(name, v8, v9, v10, v11, v12, v13, v14, v15) .name = v11,
#include "daemon/python/layout_rows.h"
#undef ROW
	},
	{
		.minor = 12,
#define ROW(name, v8, v9, v10, v11, v12, v13, v14, v15) .name = v12,
#include "daemon/python/layout_rows.h"
#undef ROW
	},
	{
		.minor = 13,
#define ROW(name, v8, v9, v10, v11, v12, v13, v14, v15) .name = v13,
#include "daemon/python/layout_rows.h"
#undef ROW
	},
	{
		.minor = 14,
#define ROW(name, v8, v9, v10, v11, v12, v13, v14, v15) .name = v14,
#include "daemon/python/layout_rows.h"
#undef ROW
	},
	{
		.minor = 15,
#define ROW(name, v8, v9, v10, v11, v12, v13, v14, v15) .name = v15,
#include "daemon/python/layout_rows.h"
#undef ROW
	},
};

const struct layout *layout_table(int minor)
{
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
		if (tables[i].minor == minor)
			return &tables[i];
	return NULL;
}
