/* SPDX-License-Identifier: MIT */
/*
 * Zooms and pans the report's picture: + and - and a wheel with Ctrl change how wide it is, its
 * frame scrolls. Without script it is as wide as the page.
 *
 * The page allows this script and no other, by its hash: whoever changes the text has to write the
 * new one here (tests/integration/test_ask.py tells it).
 */
#ifndef PYLEAK_GRAPH_REPORT_SCRIPT_H
#define PYLEAK_GRAPH_REPORT_SCRIPT_H

#define REPORT_SCRIPT_HASH "sha256-itShsEyvyuo/gOswOM36Daa45IR8+iRbqxcPOVMIvqE="

static const char report_script[] =
	"\n"
	"(function () {\n"
	"\tdocument.querySelectorAll('.picture').forEach(function (p) {\n"
	"\t\tvar v = p.querySelector('.view'), s = v && v.querySelector('svg');\n"
	"\t\tif (!s) return;\n"
	"\t\tvar box = s.viewBox.baseVal, natural = box.width * 4 / 3, zoom = 1;\n"
	"\t\tvar base = Math.max(Math.min(natural, v.clientWidth), Math.min(natural, 544));\n"
	"\t\tfunction set(z, x, y) {\n"
	"\t\t\tvar k;\n"
	"\t\t\tz = Math.min(Math.max(z, 0.2), 12);\n"
	"\t\t\tk = z / zoom;\n"
	"\t\t\tzoom = z;\n"
	"\t\t\ts.style.width = base * zoom + 'px';\n"
	"\t\t\tv.scrollLeft = (v.scrollLeft + x) * k - x;\n"
	"\t\t\tv.scrollTop = (v.scrollTop + y) * k - y;\n"
	"\t\t}\n"
	"\t\tfunction middle(z) { set(z, v.clientWidth / 2, v.clientHeight / 2); }\n"
	"\t\ts.style.maxWidth = 'none';\n"
	"\t\ts.style.minWidth = '0';\n"
	"\t\tset(1, 0, 0);\n"
	"\t\tp.querySelectorAll('button').forEach(function (b) {\n"
	"\t\t\tb.addEventListener('click', function () {\n"
	"\t\t\t\tvar by = b.dataset.zoom;\n"
	"\t\t\t\tmiddle(by === '0' ? v.clientWidth / base : zoom * by);\n"
	"\t\t\t});\n"
	"\t\t});\n"
	"\t\tp.querySelector('.tools').hidden = false;\n"
	"\t\tv.addEventListener('wheel', function (e) {\n"
	"\t\t\tvar r = v.getBoundingClientRect();\n"
	"\t\t\tif (!e.ctrlKey && !e.metaKey) return;\n"
	"\t\t\te.preventDefault();\n"
	"\t\t\tset(zoom * Math.exp(-e.deltaY / 300), e.clientX - r.left, e.clientY - r.top);\n"
	"\t\t}, {passive: false});\n"
	"\t\tv.addEventListener('pointerdown', function (e) {\n"
	"\t\t\tvar x = e.clientX, y = e.clientY;\n"
	"\t\t\tif (e.pointerType !== 'mouse' || e.button) return;\n"
	"\t\t\tfunction move(m) {\n"
	"\t\t\t\tv.scrollLeft += x - m.clientX;\n"
	"\t\t\t\tv.scrollTop += y - m.clientY;\n"
	"\t\t\t\tx = m.clientX;\n"
	"\t\t\t\ty = m.clientY;\n"
	"\t\t\t}\n"
	"\t\t\tfunction up() {\n"
	"\t\t\t\tremoveEventListener('pointermove', move);\n"
	"\t\t\t\tremoveEventListener('pointerup', up);\n"
	"\t\t\t}\n"
	"\t\t\taddEventListener('pointermove', move);\n"
	"\t\t\taddEventListener('pointerup', up);\n"
	"\t\t\te.preventDefault();\n"
	"\t\t});\n"
	"\t});\n"
	"})();\n";

#endif
