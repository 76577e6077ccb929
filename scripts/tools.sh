# SPDX-License-Identifier: GPL-2.0
# Sourced: versions of the compilers and of Xen. Rust is the distribution's, because the kernel
# builds `core` from source, which must match the compiler: a rustup toolchain in PATH has
# another version, or no source. LLVM is the version that this rustc is built on, so that C
# helpers can be inlined into Rust.
# shellcheck shell=bash disable=SC2034

if grep -qs '^VERSION_ID="12"' /etc/os-release; then
	RUST_PACKAGES=(rustc-web cargo-web rustfmt-web rust-web-clippy rust-web-src)
	RUST_STD=libstd-rust-web-dev
	LLVM_MAJOR=22
	XEN=xen-hypervisor-4.17-amd64
else
	RUST_PACKAGES=(rustc cargo rustfmt rust-clippy rust-src)
	RUST_STD=libstd-rust-dev
	LLVM_MAJOR=19
	XEN=xen-hypervisor-4.20-amd64
fi

RUSTC=${RUSTC:-/usr/bin/rustc}
CARGO=${CARGO:-/usr/bin/cargo}
RUSTFMT=${RUSTFMT:-/usr/bin/rustfmt}
if [ -x "$RUSTC" ]; then
	llvm_of_rustc=$("$RUSTC" -vV 2>/dev/null | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p' || :)
	LLVM_MAJOR=${llvm_of_rustc:-$LLVM_MAJOR}
fi
BINDGEN=${BINDGEN:-$cache/bindgen/bin/bindgen}

# rust_std: the package of std for another architecture, matching the compiler.
rust_std() { echo "$RUST_STD=$(dpkg-query -W -f='${Version}' "${RUST_PACKAGES[0]}")"; }
