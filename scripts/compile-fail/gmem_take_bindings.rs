// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0596]: cannot borrow data in dereference of `InodeGuard<'_, Memory>` as mutable

//! Bindings stay behind the lock.

#![allow(dead_code, missing_docs, unexpected_cfgs, unreachable_pub)]

include!("gmem.inc");

use kernel::fs::inode::Inode;

pub(crate) fn take(inode: &Inode<inode::Memory>, other: memslots::Files) {
    let mut files = inode.invalidate_lock();
    let _ = files.as_mut();
    #[cfg(wrong)]
    let other = core::mem::replace(&mut *files, other);
    drop(other);
}
