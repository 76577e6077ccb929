// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0133]: call to unsafe function `InvalidateGuard::<'_, T>::truncate_range` is unsafe and requires unsafe block

//! Folios are removed when they were unmapped from everybody.

#![allow(missing_docs, unexpected_cfgs)]
#![forbid(unsafe_code)]

use kernel::{
    fs::inode::{Inode, InodeData},
    mm::pgoff::PageRange,
};

#[cfg(not(wrong))]
pub fn pull<T: InodeData>(inode: &Inode<T>) {
    inode
        .invalidate_lock()
        .unmap(PageRange::ALL)
        .remove_folios();
}

#[cfg(wrong)]
pub fn pull<T: InodeData>(inode: &Inode<T>) {
    inode
        .mapping()
        .invalidate_lock()
        .truncate_range(PageRange::ALL);
}
