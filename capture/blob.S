/* SPDX-License-Identifier: MIT */
/* The walker's code (agent/walk.c) inside of the helper. The build's folder is on the include
 * path. */
	.section .rodata
	.globl walk_blob
	.globl walk_blob_bytes
	.balign 16
walk_blob:
	.incbin "agent/walk.bin"
walk_blob_end:
	.balign 8
walk_blob_bytes:
	.quad walk_blob_end - walk_blob
	.section .note.GNU-stack, "", @progbits
