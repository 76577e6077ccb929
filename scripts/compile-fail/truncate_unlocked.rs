// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0599]: no method named `unmap` found for struct `SharedInvalidateGuard<'_, <T as InodeData>::Locked>` in the current scope

//! Folios are removed under the `invalidate_lock`.

#![allow(missing_docs, unexpected_cfgs)]
#![forbid(unsafe_code)]

use kernel::{
    fs::inode::{Inode, InodeData},
    mm::pgoff::PageRange,
};

#[cfg(not(wrong))]
pub fn empty<T: InodeData>(inode: &Inode<T>) {
    inode
        .invalidate_lock()
        .unmap(PageRange::ALL)
        .remove_folios();
}

#[cfg(wrong)]
pub fn empty<T: InodeData>(inode: &Inode<T>) {
    inode
        .invalidate_lock_shared()
        .unmap(PageRange::ALL)
        .remove_folios();
}
