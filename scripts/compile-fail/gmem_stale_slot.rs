// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0505]: cannot move out of `files` because it is borrowed

//! A memslot that was found among the bindings is not used after the lock was released.

#![allow(dead_code, missing_docs, unexpected_cfgs, unreachable_pub)]

include!("gmem.inc");

use kernel::{fs::inode::Inode, mm::pgoff::PageRange};

pub(crate) fn first(inode: &Inode<inode::Memory>) -> Option<range::Placement> {
    let files = inode.invalidate_lock();
    let slot = files.iter().next()?.slots(PageRange::ALL).next()?;
    #[cfg(wrong)]
    drop(files);
    Some(slot.placement())
}
