// SPDX-License-Identifier: GPL-2.0

//! Hardware errors in memory.
//!
//! A page with an error is unmapped from guests, and stays in the file until userspace punches a
//! hole there: what becomes of the memory is userspace's decision. A guest that touches the page
//! again makes KVM look it up, which finds the error and reports it to the VMM.

use crate::{
    inode::Memory,
    invalidate,
    kvm, //
};
use kernel::{
    fs::inode::Inode,
    mm::pgoff::PageRange, //
};

/// Unmaps `pages` from guests, now or soon.
///
/// The caller holds the folio lock. Punching a hole holds the `invalidate_lock` when it waits for
/// folio locks, so this must not wait for the `invalidate_lock`. If that is taken, a work item
/// waits for it and unmaps the pages.
pub(crate) fn error_remove_folio(inode: &Inode<Memory>, pages: PageRange) {
    match inode.try_invalidate_lock_shared() {
        Some(files) => drop(invalidate::unmap(inode, &files, pages)),
        None => kvm::defer_unmap(inode, pages),
    }
}
