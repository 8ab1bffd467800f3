# SPDX-License-Identifier: MIT
#
#   make deps          install what is needed (Debian 12 or 13, root); demo and check do it, too
#   make               everything into build/
#   make demo          a leaking service, the daemon, and the picture of the leak (root)
#   make check         unit tests (ASan, UBSan) and integration tests on real processes (root)
#   make lint          cppcheck and clang-tidy
#   make install       DESTDIR= PREFIX=/usr/local; never runs systemctl
#
# V=1 shows the commands; DEVELOPER=1 makes warnings errors; SANITIZE=address,undefined builds
# with those sanitizers (use O= to keep it apart).

VERSION   := 0.1.0
O         ?= build
PREFIX    ?= /usr/local
SBINDIR   ?= $(PREFIX)/sbin
BINDIR    ?= $(PREFIX)/bin
LIBEXECDIR ?= $(PREFIX)/libexec/pyleak
MANDIR    ?= $(PREFIX)/share/man
DOCDIR    ?= $(PREFIX)/share/doc/pyleak
SYSCONFDIR ?= /etc
UNITDIR   ?= /usr/lib/systemd/system
SYSUSERSDIR ?= /usr/lib/sysusers.d

CC        ?= gcc
CLANG     ?= clang
BPFTOOL   ?= $(firstword $(wildcard /usr/sbin/bpftool /usr/bin/bpftool) bpftool)
PKG_CONFIG ?= pkg-config

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-8s %s\n' $(1) $(2))

# sub-folders of daemon/ that make up the daemon, in the order of STYLE.md
DAEMON_MODULES := util python probe budget track record trigger dump store serve config watch


WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
	-Wwrite-strings -Wformat=2 -Wno-unused-parameter -Wno-format-nonliteral
CFLAGS  ?= -O2 -g
CFLAGS  += -std=gnu11 -fno-strict-aliasing $(WARN) $(if $(DEVELOPER),-Werror)
CPPFLAGS += -D_GNU_SOURCE -I. -Iinclude -I$(O) -DPYLEAK_VERSION='"$(VERSION)"' \
	-DPYLEAK_LIBEXECDIR='"$(LIBEXECDIR)"' -DPYLEAK_SYSCONFDIR='"$(SYSCONFDIR)"'
ifdef SANITIZE
CFLAGS  += -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer
LDFLAGS += -fsanitize=$(SANITIZE)
else
CPPFLAGS += -D_FORTIFY_SOURCE=2
CFLAGS  += -fstack-protector-strong
endif
LDFLAGS += -Wl,--as-needed

# ---- what is linked with what -------------------------------------------------------------

LIBS_util    := -lm
LIBS_python  := -lelf
LIBS_probe   := -lbpf -lelf -lz -lcapstone
LIBS_config  := -lyaml
LIBS_store   := -lsqlite3
LIBS_serve   := -ljansson -lsystemd -lmicrohttpd
LIBS_watch   := -ljansson -lsystemd
LIBS_dump    := -ljansson -lsystemd
LIBS_graph   := -ljansson -lzstd -lcgraph -lgvc -lseccomp -lm
LIBS_ctl     := -ljansson -lm

daemon_src = $(wildcard daemon/$(1)/*.c)
obj = $(patsubst %.c,$(O)/obj/%.o,$(filter %.c,$(1))) $(patsubst %.S,$(O)/obj/%.o,$(filter %.S,$(1)))

$(foreach m,$(DAEMON_MODULES),$(eval SRC_$(m) := $(call daemon_src,$(m))))
SRC_graph   := $(filter-out graph/explain_main.c,$(wildcard graph/*.c))
SRC_capture := $(filter-out capture/main.c,$(wildcard capture/*.c)) $(wildcard capture/*.S)
# the part of it that decodes the target's memory, for the fuzzer: without the walker
SRC_labels  := $(addprefix capture/,frames.c graph.c labels.c strings.c view.c)
SRC_ctl     := $(filter-out ctl/main.c,$(wildcard ctl/*.c))

SRC_pyleakd        := daemon/main.c $(foreach m,$(DAEMON_MODULES),$(SRC_$(m)))
SRC_pyleakctl      := ctl/main.c $(SRC_ctl) $(SRC_util) $(SRC_track) $(SRC_record) $(SRC_config)
SRC_pyleak-capture := capture/main.c $(SRC_capture) $(SRC_python) $(SRC_util)
SRC_pyleak-explain := graph/explain_main.c $(SRC_graph) $(SRC_util)

LIBS_pyleakd        := $(foreach m,$(DAEMON_MODULES),$(LIBS_$(m)))
LIBS_pyleakctl      := -ljansson -lyaml -lm
LIBS_pyleak-capture := -lelf -lzstd -ljansson -lm
LIBS_pyleak-explain := $(LIBS_graph)

PROGRAMS := pyleakd pyleakctl pyleak-capture pyleak-explain
BPF_OBJS := $(patsubst bpf/%.bpf.c,$(O)/bpf/%.bpf.o,$(wildcard bpf/*.bpf.c))
SKELS    := $(BPF_OBJS:.bpf.o=.skel.h)
MANPAGES := $(wildcard docs/man/*.[1-8])

# unit tests: tests/unit/test_NAME.c, with the modules it needs
UNIT := $(patsubst tests/unit/%.c,%,$(wildcard tests/unit/test_*.c))
-include tests/unit/modules.mk

.PHONY: all bench deps docs demo check check-unit check-long lint install uninstall clean unit-build fuzzers fuzz-build compile_commands.json
.SECONDARY:
.DELETE_ON_ERROR:

all: $(addprefix $(O)/,$(PROGRAMS)) compile_commands.json

deps:
	$(Q)build-aux/deps.sh

# ---- compiling -----------------------------------------------------------------------------

GRAPHVIZ_CFLAGS := -I/usr/include/graphviz

$(O)/obj/%.o: %.c
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(if $(filter graph/%,$<),$(GRAPHVIZ_CFLAGS)) $(CFLAGS) -MMD -MP -c $< -o $@

$(O)/obj/%.o: %.S
	$(call say,AS,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) -MMD -MP -c $< -o $@

define program
$(O)/$(1): $$(call obj,$$(SRC_$(1)))
	$$(call say,LD,$$@)
	$$(Q)$$(CC) $$(CFLAGS) $$(LDFLAGS) $$^ $$(LIBS_$(1)) -o $$@
endef
$(foreach p,$(PROGRAMS),$(eval $(call program,$(p))))

# BPF: no vmlinux.h, so that a build host needs no BTF; only user-space types are touched.
$(O)/bpf/%.bpf.o: bpf/%.bpf.c
	$(call say,BPF,$<)
	@mkdir -p $(@D)
	$(Q)$(CLANG) -g -O2 -target bpf -mcpu=v3 -D__TARGET_ARCH_x86 -I. -Iinclude \
		-I/usr/include/$(shell $(CC) -dumpmachine) $(WARN_BPF) $(if $(DEVELOPER),-Werror) -Wall -MMD -MP -MT $@ -c $< -o $@
$(O)/bpf/%.skel.h: $(O)/bpf/%.bpf.o
	$(call say,SKEL,$@)
	$(Q)$(BPFTOOL) gen skeleton $< name $(subst -,_,$*)_bpf > $@
$(call obj,$(SRC_probe)): | $(SKELS)

# The walker: freestanding, position independent, one flat piece of code, no relocations.
$(O)/agent/walk.elf: agent/walk.c agent/walk.lds
	$(call say,AGENT,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -O2 -g -fPIE -ffreestanding -fno-stack-protector -fno-builtin -fcf-protection=none \
		-fno-asynchronous-unwind-tables -fno-jump-tables -fno-tree-loop-distribute-patterns -mno-sse -mno-avx $(WARN) $(if $(DEVELOPER),-Werror) \
		-I. -Iinclude -MMD -MP -MT $@ -nostdlib -static -Wl,-T,agent/walk.lds -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
		$< -o $@
	$(Q)! readelf -rW $@ | grep -q R_X86_64 || { echo "agent/walk.c: needs relocations" >&2; rm -f $@; exit 1; }
$(O)/agent/walk.bin: $(O)/agent/walk.elf
	$(Q)objcopy -O binary $< $@
$(O)/obj/capture/blob.o: $(O)/agent/walk.bin

compile_commands.json:
	@{ echo '['; sep=; for f in $(sort $(foreach p,$(PROGRAMS),$(filter %.c,$(SRC_$(p))))); do \
		printf '%s{"directory": "%s", "file": "%s", "arguments": ["$(CC)", %s "-c", "%s"]}' "$$sep" "$(CURDIR)" "$$f" \
		'$(foreach a,$(filter-out -D%VERSION% -D%DIR%,$(CPPFLAGS)) $(GRAPHVIZ_CFLAGS) -std=gnu11,"$(a)",) "-DPYLEAK_VERSION=\"$(VERSION)\"", "-DPYLEAK_LIBEXECDIR=\"$(LIBEXECDIR)\"", "-DPYLEAK_SYSCONFDIR=\"$(SYSCONFDIR)\"",' "$$f"; sep=','; echo; done; echo ']'; } > $@

# ---- tests ---------------------------------------------------------------------------------

define unit_test
$(O)/tests/$(1): $$(call obj,tests/unit/$(1).c $$(foreach m,$$(MODULES_$(1)),$$(SRC_$$(m))))
	$$(call say,LD,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS) $$(LDFLAGS) $$^ $$(foreach m,$$(MODULES_$(1)),$$(LIBS_$$(m))) -lcmocka -o $$@
endef
$(foreach t,$(UNIT),$(eval $(call unit_test,$(t))))
unit-build: $(addprefix $(O)/tests/,$(UNIT))

# Fuzzers: tests/fuzz/fuzz_NAME.c, libFuzzer, MODULES_fuzz_NAME as above. `make fuzz-build`, then
# build/fuzz/tests/fuzz_NAME [-max_total_time=SECONDS]; tests/integration/test_fuzz.py runs each for 20 s.
FUZZ := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
define fuzz_test
$(O)/tests/$(1): $$(call obj,tests/fuzz/$(1).c $$(foreach m,$$(MODULES_$(1)),$$(SRC_$$(m))))
	$$(call say,LD,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS) $$(LDFLAGS) -fsanitize=fuzzer $$^ $$(foreach m,$$(MODULES_$(1)),$$(LIBS_$$(m))) -o $$@
endef
$(foreach t,$(FUZZ),$(eval $(call fuzz_test,$(t))))
fuzzers: $(addprefix $(O)/tests/,$(FUZZ))
fuzz-build:
	+$(Q)$(MAKE) --no-print-directory O=$(O)/fuzz CC=$(CLANG) SANITIZE=fuzzer-no-link,address,undefined fuzzers

# deps first, so that one command does on a bare machine; then a make that sees what they brought.
check: deps
	+$(Q)$(MAKE) --no-print-directory all
	+$(Q)$(MAKE) --no-print-directory O=$(O)/san SANITIZE=address,undefined unit-build
	+$(Q)$(MAKE) --no-print-directory fuzz-build
	$(Q)tests/run.py --build $(O) unit integration safety
check-unit:
	+$(Q)$(MAKE) --no-print-directory O=$(O)/san SANITIZE=address,undefined unit-build
	$(Q)tests/run.py --build $(O) unit
check-long: all
	+$(Q)$(MAKE) --no-print-directory O=$(O)/san SANITIZE=address,undefined unit-build
	$(Q)PYLEAK_LONG=1 tests/run.py --build $(O) safety long

lint: all
	$(Q)cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=1 \
		--suppress=missingIncludeSystem --suppress=memleak --suppress=resourceLeak \
		--suppress=comparePointers:capture/child.c --suppress=identicalInnerCondition:capture/strings.c \
		--suppress=uninitvar:daemon/track/series.c --include=build-aux/cppcheck.h -D__x86_64__ -D_GNU_SOURCE \
		-DPYLEAK_VERSION='""' -DPYLEAK_LIBEXECDIR='""' -DPYLEAK_SYSCONFDIR='""' -I. -Iinclude \
		agent capture ctl daemon graph
	$(Q)clang-tidy --quiet $(sort $(foreach p,$(PROGRAMS),$(filter %.c,$(SRC_$(p))))) 2>/dev/null

# Counts against the truth on every build of CPython, into docs/matrix.md; borrows other Debian
# releases as roots below $(O) (root, debootstrap, a network when they are made).
matrix: all
	tests/matrix/matrix.py --build $(O) --roots $(O)/roots --output docs/matrix.md

docs/%.svg: docs/%.dot
	dot -Tsvg $< -o $@
docs: docs/dataflow.svg

# Benchmarks: bench/NAME.c, linked with the modules in MODULES_bench_NAME; `make bench`, then
# build/bench/NAME.
BENCH := $(patsubst bench/%.c,%,$(wildcard bench/*.c))
MODULES_bench_probe := util python probe
MODULES_bench_census := util python probe
MODULES_bench_explain := util graph
MODULES_bench_verdicts := util track
MODULES_bench_engine := util track
define bench_program
$(O)/bench/$(1): $$(call obj,bench/$(1).c $$(foreach m,$$(MODULES_bench_$(1)),$$(SRC_$$(m))))
	$$(call say,LD,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS) $$(LDFLAGS) $$^ $$(foreach m,$$(MODULES_bench_$(1)),$$(LIBS_$$(m))) -o $$@
endef
$(foreach b,$(BENCH),$(eval $(call bench_program,$(b))))
$(call obj,$(patsubst %,bench/%.c,$(BENCH))): | $(SKELS)
bench: $(addprefix $(O)/bench/,$(BENCH))

demo: deps
	+$(Q)$(MAKE) --no-print-directory all
	$(Q)tests/demo/demo.sh $(O)

# ---- installing ----------------------------------------------------------------------------

install: all
	install -D -m 0755 $(O)/pyleakd $(DESTDIR)$(SBINDIR)/pyleakd
	install -D -m 0755 $(O)/pyleakctl $(DESTDIR)$(BINDIR)/pyleakctl
	install -D -m 0755 -t $(DESTDIR)$(LIBEXECDIR) $(O)/pyleak-capture $(O)/pyleak-explain
	install -D -m 0644 config/pyleakd.yaml $(DESTDIR)$(SYSCONFDIR)/pyleak/pyleakd.yaml.new
	test -e $(DESTDIR)$(SYSCONFDIR)/pyleak/pyleakd.yaml || \
		cp $(DESTDIR)$(SYSCONFDIR)/pyleak/pyleakd.yaml.new $(DESTDIR)$(SYSCONFDIR)/pyleak/pyleakd.yaml
	cmp -s $(DESTDIR)$(SYSCONFDIR)/pyleak/pyleakd.yaml.new $(DESTDIR)$(SYSCONFDIR)/pyleak/pyleakd.yaml && \
		rm $(DESTDIR)$(SYSCONFDIR)/pyleak/pyleakd.yaml.new || true
	install -D -m 0644 config/benign.yaml $(DESTDIR)$(SYSCONFDIR)/pyleak/benign.yaml
	for u in systemd/*.service systemd/*.socket; do \
		mkdir -p $(DESTDIR)$(UNITDIR) && \
		sed -e 's#@SBINDIR@#$(SBINDIR)#g; s#@LIBEXECDIR@#$(LIBEXECDIR)#g; s#@SYSCONFDIR@#$(SYSCONFDIR)#g' $$u \
		> $(DESTDIR)$(UNITDIR)/$$(basename $$u) || exit 1; done
	$(if $(wildcard systemd/*.sysusers),install -D -m 0644 systemd/pyleak.sysusers $(DESTDIR)$(SYSUSERSDIR)/pyleak.conf)
	for m in $(MANPAGES); do install -D -m 0644 $$m $(DESTDIR)$(MANDIR)/man$${m##*.}/$$(basename $$m) || exit 1; done
	install -D -m 0644 -t $(DESTDIR)$(DOCDIR) README.md LICENSE

uninstall:
	rm -f $(DESTDIR)$(SBINDIR)/pyleakd $(DESTDIR)$(BINDIR)/pyleakctl
	rm -rf $(DESTDIR)$(LIBEXECDIR) $(DESTDIR)$(DOCDIR)
	for u in systemd/*.service systemd/*.socket; do rm -f $(DESTDIR)$(UNITDIR)/$$(basename $$u); done
	rm -f $(DESTDIR)$(SYSUSERSDIR)/pyleak.conf $(DESTDIR)$(SYSCONFDIR)/pyleak/pyleakd.yaml.new \
		$(DESTDIR)$(SYSCONFDIR)/pyleak/benign.yaml
	for m in $(MANPAGES); do rm -f $(DESTDIR)$(MANDIR)/man$${m##*.}/$$(basename $$m); done
	@echo "kept: $(DESTDIR)$(SYSCONFDIR)/pyleak/pyleakd.yaml and /var/lib/pyleak"

clean:
	rm -rf $(O) compile_commands.json

-include $(shell find $(O) -path $(O)/roots -prune -o -name '*.d' -type f -print 2>/dev/null)
