/* SPDX-License-Identifier: MIT */
/* F(name) for every field of layout_rows.h, in its order; the includer defines F. No guard: this
 * is included once per use. */
#define ROW(name, ...) F(name)
#include "daemon/python/layout_rows.h"
#undef ROW
