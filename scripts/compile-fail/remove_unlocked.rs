// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0716]: temporary value dropped while borrowed

//! What is unmapped can be mapped again when the lock is released.

#![allow(missing_docs, unexpected_cfgs)]
#![forbid(unsafe_code)]

use kernel::{
    fs::inode::{Inode, InodeData},
    mm::pgoff::PageRange,
};

pub fn pull<T: InodeData>(inode: &Inode<T>) {
    #[cfg(not(wrong))]
    let locked = inode.invalidate_lock();
    #[cfg(not(wrong))]
    let unmapped = locked.unmap(PageRange::ALL);
    #[cfg(wrong)]
    let unmapped = inode.invalidate_lock().unmap(PageRange::ALL);
    unmapped.remove_folios();
}
