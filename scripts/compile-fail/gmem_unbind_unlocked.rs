// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0308]: mismatched types

//! Memslots are unbound under `slots_lock`.

#![allow(dead_code, missing_docs, unexpected_cfgs, unreachable_pub)]

include!("gmem.inc");

use kernel::fs::inode::Inode;

pub(crate) fn unbind(inode: &Inode<inode::Memory>, view: &memslots::View, slot: &kvm::Slot) {
    #[cfg(not(wrong))]
    file::unbind(inode, view, slot, &view.vm().lock_slots());
    #[cfg(wrong)]
    file::unbind(inode, view, slot, view.vm());
}
