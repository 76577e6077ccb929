// SPDX-License-Identifier: GPL-2.0
// wrong: error: lifetime may not live long enough

//! The file system is mounted while there are virtual machines.

#![allow(dead_code, missing_docs, unexpected_cfgs, unreachable_pub)]

include!("gmem.inc");

use kernel::fs::pseudo::Mount;

#[cfg(not(wrong))]
pub(crate) fn mount(vm: &kvm::Vm) -> Option<&Mount<inode::Memory>> {
    inode::MOUNT.get(vm)
}

#[cfg(wrong)]
pub(crate) fn mount(vm: &kvm::Vm) -> Option<&'static Mount<inode::Memory>> {
    inode::MOUNT.get(vm)
}
