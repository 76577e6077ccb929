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
        Files, //
    }, //
};
use kernel::{
    fs::inode::Inode,
    mm::pgoff::PageRange, //
};

/// Pages that no guest has mapped. Guest faults on them retry until this is dropped.
///
/// The files, and with them their bindings, are borrowed. So the set of memslots in the range
/// cannot change, and exactly the invalidations that were started are ended.
#[must_use = "guests can map the pages again immediately when this is unused"]
pub(crate) struct Invalidated<'a> {
    files: &'a Files,
    pages: PageRange,
}

impl Drop for Invalidated<'_> {
    fn drop(&mut self) {
        for view in self.files.iter() {
            if view.has_slots(self.pages) {
                view.vm().end_invalidation();
            }
        }
    }
}

/// Unmaps `pages` of `inode` from the guests of all `files`.
pub(crate) fn unmap<'a>(
    inode: &Inode<Memory>,
    files: &'a Files,
    pages: PageRange,
) -> Invalidated<'a> {
    for view in files.iter() {
        start(inode, view, pages);
    }
    Invalidated { files, pages }
}

/// Unmaps all pages of `inode` from the guest of one file, which is being closed.
///
/// The pages are not mapped again. A guest fault that has a page already retries because of the
/// invalidation, and then gets no reference to the file.
pub(crate) fn unmap_closing(inode: &Inode<Memory>, view: &BoundView) {
    if start(inode, view, PageRange::ALL) {
        view.vm().end_invalidation();
    }
}

/// Unmaps `pages` from stage 2 and from `gfn_to_pfn_cache`s of one file's VM.
///
/// Returns whether an invalidation was started: whether a memslot has some of the pages. Without a
/// memslot there is nothing to unmap: unbinding one unmaps its pages.
fn start(inode: &Inode<Memory>, view: &BoundView, pages: PageRange) -> bool {
    let private = !inode.data().has(Flag::InitShared);
    let Some(invalidation) = view.unmap(pages, private) else {
        return false;
    };

    view.vm().keep(invalidation);
    view.vm().unmap_pfncaches(inode.mapping(), pages);
    true
}
