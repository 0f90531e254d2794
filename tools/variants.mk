# SPDX-License-Identifier: LGPL-2.1-or-later
# Compile rules per variant. $(1) = folder, $(2) = extra flags for compiling and linking.
# src/engine is built without the red zone: its handlers push flags inside inline assembly.
# jit_lean.c, jit_tlb.c and tlb.c have what generated code calls while the host's vector registers are the guest's.
# The shim and sig.c are called by ThreadSanitizer's own start, before instrumented code may run.

define variant
FLAGS_$(1) := $(2)
$(1)/obj/%.o: src/%.c
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS_ALL) $(2) $$(if $$(findstring src/engine/,$$<),-mno-red-zone) \
		$$(if $$(findstring tlb.c,$$<)$$(findstring jit_lean.c,$$<),-mgeneral-regs-only -fno-sanitize=all) \
		$$(if $$(findstring src/shim/,$$<)$$(findstring src/base/sig.c,$$<),-fno-sanitize=thread) -c $$< -o $$@
$(1)/libuserkvm.so: $$(SRC:src/%.c=$(1)/obj/%.o) tools/exports.map
	$$(Q)$$(CC) -shared -Wl,-z,now -Wl,--version-script=tools/exports.map $(2) -o $$@ $$(filter %.o,$$^) $$(LIBS)
$(1)/rooms.a: $$(filter-out $(1)/obj/shim/%,$$(SRC:src/%.c=$(1)/obj/%.o))
	$$(Q)rm -f $$@ && ar rcs $$@ $$^
$(1)/userkvm: $$(CLISRC:src/%.c=$(1)/obj/%.o) $(1)/libuserkvm.so
	$$(Q)$$(CC) $(2) -o $$@ $$(CLISRC:src/%.c=$(1)/obj/%.o) -L$(1) -luserkvm \
		-Wl,-rpath,'$$$$ORIGIN' -Wl,-rpath,'$$$$ORIGIN/../lib' $$(LIBS)
-include $$(SRC:src/%.c=$(1)/obj/%.d) $$(CLISRC:src/%.c=$(1)/obj/%.d)
endef

$(eval $(call variant,$(O),-O2))
$(eval $(call variant,$(O)/checked,-O2 -DUSERKVM_CHECKED))
$(eval $(call variant,$(O)/thread,-O1 -DUSERKVM_CHECKED -fsanitize=thread))
$(eval $(call variant,$(O)/address,-O1 -DUSERKVM_CHECKED -fsanitize=address))
