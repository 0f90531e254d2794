# SPDX-License-Identifier: LGPL-2.1-or-later
# userkvm: one Makefile, no configure step. `make help` lists the targets.

CC      ?= gcc
O       ?= build
VERSION := 0.1.0
PREFIX  ?= /usr/local
DESTDIR ?=
ROOMS   := base mem bus engine file irq vcpu api vfio shim
WARN    := -Wall -Wextra -Werror -Wno-unused-parameter -Wno-gnu-variable-sized-type-not-at-end
CFLAGS_ALL = -std=gnu11 -D_GNU_SOURCE -fPIC -g $(WARN) -Isrc -Iinclude -fvisibility=hidden -fno-strict-aliasing \
             -DUSERKVM_VERSION='"$(VERSION)"' -MMD -MP $(CFLAGS)
LIBS    := -lZydis -lpthread -ldl
Q       := $(if $(V),,@)

SRC     := $(foreach r,$(ROOMS),$(wildcard src/$(r)/*.c))
CLISRC  := $(wildcard src/cli/*.c)
UNITS   := $(foreach r,base file mem bus engine irq vcpu life vfio lockorder,$(wildcard test/$(r)/*.c))
ABI     := $(wildcard test/api/*.c) $(wildcard test/guest/*.c)
VMM     := $(wildcard test/vmm/*.sh)

# The folder whose build the tests run: lockdep and assertions are on in every one of them.
TB      := $(O)/$(if $(SAN),$(SAN),checked)
# The engine's differential test is several files; a file named NAME_part.c belongs to NAME.
tests    = $(patsubst test/%.c,%,$(filter-out $(wildcard test/*/*_part.c),$(1)))
ALL_TESTS := $(call tests,$(UNITS) $(ABI)) $(if $(SAN),,$(patsubst test/%.sh,%,$(VMM)))
RUN_TESTS := $(if $(T),$(T),$(ALL_TESTS))

.PHONY: all check torture soak diff oracle selftests demo demo-shell bench lint install uninstall clean help tests abi-tests deps-build
all: deps-build
	$(Q)$(MAKE) --no-print-directory $(O)/userkvm $(O)/libuserkvm.so

deps-build:
	@tools/deps.sh build

include tools/variants.mk

# -- Tests --
# Unit tests link the rooms without the shim: their own libc calls must not come back to us.
define unit_test
$(TB)/test/$(1): test/$(1).c $(wildcard test/$(1)_*part.c) $(TB)/rooms.a
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS_ALL) $$(FLAGS_$(TB)) -Itest -o $$@ $$(filter %.c,$$^) $(TB)/rooms.a -lcmocka $$(LIBS)
endef
$(foreach t,$(call tests,$(UNITS)),$(eval $(call unit_test,$(t))))
# ABI tests know nothing of the library: the same binaries run on a real /dev/kvm.
define abi_test
$(TB)/test/$(1): test/$(1).c $(wildcard test/*.h)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS_ALL) $$(FLAGS_$(TB)) -Itest -o $$@ $$(filter %.c,$$^) -lcmocka -lpthread
endef
$(foreach t,$(call tests,$(ABI)),$(eval $(call abi_test,$(t))))

abi-tests: $(addprefix $(TB)/test/,$(call tests,$(ABI)))
tests: abi-tests $(addprefix $(TB)/test/,$(call tests,$(UNITS))) $(TB)/userkvm $(TB)/libuserkvm.so

check:
	@tools/deps.sh check
	$(Q)$(MAKE) --no-print-directory -j2 tests $(if $(SAN),,$(O)/userkvm $(O)/libuserkvm.so)
	@tools/check.sh $(TB) $(RUN_TESTS)

# The long form of the races: TIME seconds each. T=room/name: one program.
TIME ?= 60
torture:
	@tools/deps.sh check
	$(Q)$(MAKE) --no-print-directory -j2 tests
	@tools/torture.sh $(TB) $(TIME) $(T)

# Debian guests that compile, compute and keep a database, one per number of vCPUs, all at once for TIME seconds.
VCPUS ?= 1 2
soak:
	@tools/deps.sh soak
	$(Q)$(MAKE) --no-print-directory -j2 $(O)/userkvm $(O)/libuserkvm.so
	@tools/soak.sh $(O) $(TIME) $(VCPUS)

# The engine against the host's CPU and the translator against the interpreter, TIME seconds a tier; DIFF="--mode 64
# --seed 7 ...": more options (test/engine/diff.c), of which "--count 100000000" makes the numbers of instructions the goal
# and not the time. Coverage goes to TB/log/coverage-TIER, what was run and its rates to TB/log/diff-TIER.
diff: $(TB)/test/engine/diff
	@mkdir -p $(TB)/log
	$(Q)for e in interp jit:0; do echo "-- $$e"; rm -f $(TB)/log/diff-$${e%:*}; \
		USERKVM_ENGINE=$$e $(TB)/test/engine/diff --time $(TIME) --coverage $(TB)/log/coverage-$${e%:*} \
		--summary $(TB)/log/diff-$${e%:*} $(DIFF) || exit 1; done

# The programs that speak only the KVM ABI, on the machine's own /dev/kvm, gently.
oracle:
	@tools/deps.sh check
	$(Q)$(MAKE) --no-print-directory -j2 abi-tests
	@tools/oracle.sh $(TB) $(T)

# The kernel's own KVM selftests, on the plain build or a sanitizer's. T="program ...": only these.
selftests:
	@tools/deps.sh selftests
	$(Q)$(MAKE) --no-print-directory -j2 $(if $(SAN),$(TB),$(O))/userkvm $(if $(SAN),$(TB),$(O))/libuserkvm.so
	@tools/selftests.sh $(if $(SAN),$(TB),$(O)) $(T)

# -- Demo --
demo demo-shell:
	@tools/deps.sh demo
	$(Q)$(MAKE) --no-print-directory -j2 $(O)/userkvm $(O)/libuserkvm.so
	@tools/demo.sh $@

# -- Benchmarks --
# api speaks only the KVM ABI; interp is the engine without a VM. B=api, B=interp, B=guest or B=boot: that part alone;
# MD=1: tables for the README. nocheck.so is the library without the run loop's check of code bytes: it is only
# ever measured.
$(O)/bench/api: $(wildcard bench/api*.c) bench/bench.h $(wildcard test/*.h)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) -O2 -Itest -o $@ $(filter %.c,$^) -lpthread
$(O)/bench/interp: bench/interp.c $(O)/rooms.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) -O2 -o $@ $^ $(LIBS)
$(O)/bench/interp_nocheck.o: src/engine/interp.c $(O)/obj/engine/interp.o
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) -O2 -mno-red-zone -DUSERKVM_BENCH_NO_COHERENCE -c $< -o $@
$(O)/bench/nocheck.so: $(O)/bench/interp_nocheck.o $(O)/libuserkvm.so
	$(Q)$(CC) -shared -Wl,-z,now -Wl,--version-script=tools/exports.map -O2 -o $@ $< \
		$(filter-out %/engine/interp.o,$(SRC:src/%.c=$(O)/obj/%.o)) $(LIBS)
# What guests run, and this machine: static. Deflate's row is there where zlib is (zlib1g-dev).
GUEST_ZLIB := $(if $(wildcard /usr/include/zlib.h),-DWITH_ZLIB)
$(O)/bench/guest: $(wildcard bench/guest/*.c) bench/guest/guest.h
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -D_GNU_SOURCE $(WARN) -O2 -static $(GUEST_ZLIB) -o $@ $(filter %.c,$^) $(if $(GUEST_ZLIB),-lz) -lm
bench:
	@tools/deps.sh bench
	$(Q)$(MAKE) --no-print-directory -j2 $(O)/userkvm $(O)/libuserkvm.so $(O)/bench/api $(O)/bench/interp \
		$(O)/bench/nocheck.so $(O)/bench/guest
	@tools/bench.sh $(O) $(if $(MD),md,text) $(B)

lint:
	@tools/deps.sh lint
	@mkdir -p build
	@tools/lint.sh

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include \
		$(DESTDIR)$(PREFIX)/share/man/man1
	install -m 755 $(O)/userkvm $(DESTDIR)$(PREFIX)/bin/
	install -m 755 $(O)/libuserkvm.so $(DESTDIR)$(PREFIX)/lib/
	install -m 644 include/userkvm.h include/userkvm_driver.h $(DESTDIR)$(PREFIX)/include/
	install -m 644 doc/userkvm.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' tools/userkvm.pc.in \
		>$(DESTDIR)$(PREFIX)/lib/pkgconfig/userkvm.pc

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/userkvm $(DESTDIR)$(PREFIX)/lib/libuserkvm.so \
		$(DESTDIR)$(PREFIX)/include/userkvm.h $(DESTDIR)$(PREFIX)/include/userkvm_driver.h \
		$(DESTDIR)$(PREFIX)/share/man/man1/userkvm.1 \
		$(DESTDIR)$(PREFIX)/lib/pkgconfig/userkvm.pc

clean:
	rm -rf $(O)

help:
	@echo "make                    build/userkvm and build/libuserkvm.so"
	@echo "make demo               boots Debian's cloud kernel in QEMU on userkvm; demo-shell: with a shell"
	@echo "make check [T=room/name] [SAN=thread|address]"
	@echo "make torture TIME=60     the long form of the races, with SAN= too"
	@echo "make soak TIME=3600 [VCPUS=\"1 2\"]  Debian guests at work: a compiler, a database, results checked"
	@echo "make diff TIME=600 [DIFF=\"--mode 64 ...\"]  random instructions and sequences, host against engine"
	@echo "make oracle [T=room/name]  the tests of the KVM ABI on the machine's own /dev/kvm, gently"
	@echo "make selftests [T=program] [SAN=thread|address]  the kernel's KVM selftests; writes doc/selftests.md"
	@echo "make bench [B=api|interp|guest|boot] [MD=1]  benchmarks against their baselines"
	@echo "make lint               format, floors, sizes, static analysis"
	@echo "make install PREFIX=    binary, library, header, pkg-config file, man page"
