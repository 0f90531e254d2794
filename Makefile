# SPDX-License-Identifier: LGPL-2.1-or-later
# userkvm: one Makefile, no configure step. `make help` lists what there is.
#
#   B       build folder of the product (release)           default build
#   SAN     thread | address: the suites under a sanitizer
#   V=1     show commands
#   CC      gcc or clang

CC      ?= gcc
B       ?= build
VERSION := 0.1.0
PREFIX  ?= /usr/local
ROOMS   := base mem bus engine irq vcpu api shim
WARN    := -Wall -Wextra -Werror -Wno-unused-parameter
CFLAGS_ALL := -std=gnu11 -D_GNU_SOURCE -fPIC -g $(WARN) -Isrc -Iinclude -fvisibility=hidden -fno-strict-aliasing \
              -DUSERKVM_VERSION='"$(VERSION)"' -MMD -MP $(CFLAGS)
LIBS    := -lZydis -lpthread -ldl
Q       := $(if $(V),,@)

SRC     := $(foreach r,$(ROOMS),$(wildcard src/$(r)/*.c))
CLISRC  := $(wildcard src/cli/*.c)

# -- Variants: release (build/), checked (build/checked: lockdep, assertions), thread, address --
include tools/variants.mk

.PHONY: all clean
all: $(B)/userkvm $(B)/libuserkvm.so

clean:
	rm -rf $(B)
