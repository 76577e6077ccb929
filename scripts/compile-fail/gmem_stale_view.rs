// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0505]: cannot move out of `files` because it is borrowed

//! Bindings are not looked at after the lock was released.

#![allow(dead_code, missing_docs, unexpected_cfgs, unreachable_pub)]

include!("gmem.inc");

use kernel::{fs::inode::Inode, mm::pgoff::PageRange};

pub(crate) fn first(inode: &Inode<inode::Memory>) -> Option<bool> {
    let files = inode.invalidate_lock();
    let view = files.iter().next()?;
    #[cfg(wrong)]
    drop(files);
    Some(view.has_slots(PageRange::ALL))
}
