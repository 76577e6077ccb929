// SPDX-License-Identifier: GPL-2.0

//! Unmapping pages from guests, until their folios are removed or guests may have them again.
//!
//! KVM maps guest memory into stage 2 without a reference to the folio, and maps pages that it
//! accesses itself through `gfn_to_pfn_cache`. Both have to let go of a page before its folio is
//! freed, and must not map it again in between.
//!
//! [`unmap`] does that for all files of an inode. [`InodeGuard::unmap`] calls it, so that nobody
//! can remove folios without it: see [`kernel::fs::inode`].
//!
//! [`InodeGuard::unmap`]: kernel::fs::inode::InodeGuard::unmap

use crate::{
    flags::Flag,
    inode::Memory,
    memslots::{
        BoundView,
        Files,
        Invalidated, //
    }, //
};
use kernel::{
    fs::inode::Inode,
    mm::pgoff::PageRange, //
};

/// Returns whether the memory is private to the guest.
fn is_private(inode: &Inode<Memory>) -> bool {
    !inode.data().has(Flag::InitShared)
}

/// Unmaps `pages` of `inode` from the guests of all `files`, until the result is dropped.
///
/// Without a memslot there is nothing to unmap: unbinding one unmaps its pages.
pub(crate) fn unmap<'a>(
    inode: &Inode<Memory>,
    files: &'a Files,
    pages: PageRange,
) -> Invalidated<'a> {
    let invalidated = files.unmap(pages, is_private(inode));

    for vm in invalidated.vms() {
        vm.unmap_pfncaches(inode.mapping(), pages);
    }
    invalidated
}

/// Unmaps all pages of `inode` from the guest of one file, which is being closed.
///
/// The pages are not mapped again. A guest fault that has a page already retries because of the
/// invalidation, and then gets no reference to the file.
pub(crate) fn unmap_closing(inode: &Inode<Memory>, view: &BoundView) {
    let pages = PageRange::ALL;

    if let Some(_invalidation) = view.unmap(pages, is_private(inode)) {
        view.vm().unmap_pfncaches(inode.mapping(), pages);
    }
}
