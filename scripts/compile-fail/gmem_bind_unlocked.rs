// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0599]: no method named `as_mut` found for struct `SharedInvalidateGuard<'_, Files>` in the current scope

//! Binding takes the `invalidate_lock` for writing.

#![allow(dead_code, missing_docs, unexpected_cfgs, unreachable_pub)]

include!("gmem.inc");

use kernel::{fs::inode::Inode, prelude::*};

pub(crate) fn bind(
    inode: &Inode<inode::Memory>,
    view: &memslots::View,
    slot: kvm::BoundSlot,
) -> Result {
    #[cfg(not(wrong))]
    return inode.invalidate_lock().as_mut().bind(view, slot);
    #[cfg(wrong)]
    return inode.invalidate_lock_shared().as_mut().bind(view, slot);
}
