# SPDX-License-Identifier: GPL-2.0
# `make help` lists the targets.

# Targets that run on all of them are restricted by ARCH=.
ARCHES := $(or $(ARCH),x86_64 arm64)
ARCH ?= x86_64
VARIANT ?= debug
export KDIR REFETCH
# One clock for the whole run; see stage() in scripts/lib.sh.
export STAGE_START := $(shell date +%s)

.PHONY: help demo vmm test stress test-kvm-all bench bisect series doc boot kernel tree refresh clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo      a guest, and a scan of all host RAM that does not find its secret'
	@echo 'make vmm       that guest, and its shell'
	@echo 'make test      everything that is tested, fast checks first'
	@echo 'make test-kvm-all   the whole KVM selftest suite of Linux, with the series and without,'
	@echo '               on x86_64 and arm64 (or ARCH=): the two lists must be the same'
	@echo 'make stress    10,000 guests come and go while allocations fail, and with modules of KVM'
	@echo '               that are taken out and put back; and system calls race, under KASAN on x86_64:'
	@echo '               nothing is left behind'
	@echo 'make bench     what a page, a GiB and a boot cost: guest_memfd in Rust, in C, and without the series'
	@echo 'make doc       the documentation, of the Rust code too, in build/doc'
	@echo 'make boot      a shell in the patched kernel'
	@echo 'make kernel    build the patched kernel; VARIANT="no-rust kvm-module", a name'
	@echo '               each in configs/, builds another one beside it'
	@echo 'make tree      assemble the patched tree in build/linux, a commit a line of series'
	@echo 'make series    the series as mails, in build/series'
	@echo 'make bisect    build every commit of the series, on x86_64 and arm64'
	@echo 'make refresh   write the commits of build/linux back to patches and new files'
	@echo 'make clean     remove build/; the cache stays (~/.cache/no-direct-map, removed last)'
	@echo
	@echo 'ARCH is x86_64, or arm64 (cross-built). KDIR=/path/to/linux-7.3 is the base instead of'
	@echo "Debian's linux-source-7.3 (give it each time); REFETCH=1 looks for a newer one of these."

demo: kernel
	@scripts/vmm --arch $(ARCH) --variant "$(VARIANT)" --log build/run/demo.log --timeout 600 -- \
		build/$(ARCH)/gmem/gmem-demo --kernel vmlinuz --initrd initrd

vmm: kernel
	@scripts/vmm --arch $(ARCH) --variant "$(VARIANT)"

test:
	@scripts/test

bench:
	@scripts/bench --arch $(ARCH)

doc:
	@scripts/doc

series:
	@scripts/series

bisect:
	@scripts/bisect $(ARCHES)

stress:
	@scripts/stress $(ARCHES)

test-kvm-all:
	@scripts/test-kvm-all --variant "$(VARIANT)" $(ARCHES)

boot: kernel
	@scripts/boot --arch $(ARCH) --variant "$(VARIANT)"

kernel:
	@scripts/kernel --arch $(ARCH) --variant "$(VARIANT)"

tree:
	@scripts/setup
	@scripts/assemble

refresh:
	@scripts/refresh

clean:
	@scripts/clean
