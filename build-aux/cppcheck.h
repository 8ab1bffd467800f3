/* SPDX-License-Identifier: MIT */
/* For cppcheck only, which reads no system headers: macros of libraries that look like statements. */
#define LIBBPF_OPTS(type, name, ...) struct type name = {__VA_ARGS__}
#define json_array_foreach(a, i, v) for (i = 0; i < json_array_size(a) && (v = json_array_get(a, i)); i++)
#define json_object_foreach(o, k, v) for (k = json_object_first(o, &v); k; k = json_object_next(o, k, &v))
#define bpf_object__for_each_program(p, o) for (p = bpf_object__next_program(o, NULL); p; p = bpf_object__next_program(o, p))
