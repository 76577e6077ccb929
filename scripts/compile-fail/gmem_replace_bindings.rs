// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0308]: mismatched types

//! Bindings are not replaced by others.

#![allow(dead_code, missing_docs, unexpected_cfgs, unreachable_pub)]

include!("gmem.inc");

use kernel::{fs::inode::Inode, prelude::*};

pub(crate) fn replace(inode: &Inode<inode::Memory>, view: memslots::BoundView) -> Result {
    let mut files = inode.invalidate_lock();
    let other = memslots::Files::new(view)?;
    #[cfg(not(wrong))]
    let _ = (files.as_mut(), other);
    #[cfg(wrong)]
    files.as_mut().set(other);
    Ok(())
}
