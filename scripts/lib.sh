# SPDX-License-Identifier: GPL-2.0
# Sourced by every script here: paths, messages, locks and architectures.
# shellcheck shell=bash
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$top/build
# Read by the scripts that source this file.
# shellcheck disable=SC2034
cache=${XDG_CACHE_HOME:-$HOME/.cache}/no-direct-map
# shellcheck disable=SC2034
linux=$build/linux

# stage TEXT: prints what starts now, with the time since the command was started. A
# `make` run has one clock: the first script sets it, the others inherit it.
export STAGE_START=${STAGE_START:-$(date +%s)}
stage() {
	local t=$(($(date +%s) - STAGE_START))
	printf '==> [%2d:%02d] %s\n' $((t / 60)) $((t % 60)) "$*" >&"${STAGE_FD:-2}"
}

# die WHAT [THE WAY OUT]: every line after the first is indented under it.
die() {
	printf 'error: %s\n' "$1" >&2
	shift
	[ $# -eq 0 ] || printf '       %s\n' "$@" >&2
	exit 1
}

# need_space DIR GIB: checks the free space before a long step starts.
need_space() {
	local free
	mkdir -p "$1"
	free=$(($(df -Pk "$1" | awk 'NR == 2 { print $4 }') / 1048576))
	[ "$free" -ge "$2" ] ||
		die "$1 has $free GiB free, this step needs $2 GiB" \
		    "free some space, or set XDG_CACHE_HOME or clone to a larger disk"
}

# locked NAME: one run at a time; the process releases the lock when it ends.
locked() {
	mkdir -p "$build"
	exec {lock_fd}>"$build/.$1.lock"
	flock -n "$lock_fd" || {
		stage "waiting for another run of '$1'"
		flock "$lock_fd"
	}
}

# set_arch ARCH: sets the variables that depend on the architecture.
# shellcheck disable=SC2034
set_arch() {
	arch=$1
	case $arch in
	x86_64)
		image=arch/x86/boot/bzImage console=ttyS0
		machine=(qemu-system-x86_64 -machine q35) cpu=max
		debian_arch=amd64 cross='' rust_target=x86_64-unknown-linux-gnu
		;;
	arm64)
		# EL2, for KVM. QEMU's own pointer authentication, since the
		# architecture's takes four times as long to emulate.
		image=arch/arm64/boot/Image console=ttyAMA0
		machine=(qemu-system-aarch64 -machine "virt,virtualization=on,gic-version=3")
		cpu=max,pauth-impdef=on
		debian_arch=arm64 cross=aarch64-linux-gnu- rust_target=aarch64-unknown-linux-gnu
		;;
	*) die "ARCH=$arch is none of this project's architectures" "there is: x86_64, arm64" ;;
	esac
}

# files_of PACKAGE: the root of the files of a package that scripts/setup has installed, or
# unpacked in the cache: packages of other architectures, and Xen, which must not become this
# machine's hypervisor.
files_of() {
	case $cross:$1 in
	:xen-*) ;;
	:*) return ;;
	esac
	echo "$cache/$debian_arch/$1"
}

# out_dir ARCH VARIANT [TREE]: where that kernel is built; with TREE, from build/linux-TREE
# instead of build/linux.
out_dir() {
	local name=$1
	[ "$2" = debug ] || name+=-${2// /-}
	echo "$build/$name${3:+-$3}"
}

# splats LOG: the lines of a kernel log that indicate a bug, with their numbers. Call traces
# of failed allocations, or of MSRs that Xen does not have, are ignored.
splats() {
	awk '/vmalloc error: size|unchecked MSR access error.*\(xen_(read|write)_msr/ { missing = NR }
	     /Call Trace/ && missing && NR - missing <= 4 { next }
	     /BUG:|WARNING:|Oops|Call Trace|Kernel panic|general protection|INFO: (task|rcu|possible)|suspicious RCU|lock held|UBSAN|KASAN/ {
		print NR ":" $0 }' "$1"
}

# series_files N: the files that the lines of series name from field N on: 2 for patches
# and new files, 3 for new files only.
series_files() {
	awk -v first="$1" '!/^#/ { for (i = first; i <= NF; i++) print $i }' "$top/series"
}

# record_assembled: records what build/linux was made from, so that `make refresh` does
# not overwrite a later edit.
record_assembled() {
	(cd "$top" && series_files 2 | xargs sha256sum) >"$build/.assembled"
}
