// SPDX-License-Identifier: GPL-2.0

//! The initial contents of private memory, for TDX and SNP.
//!
//! The architecture copies a page of userspace into private memory and has the firmware measure it,
//! by a callback for each page.

use crate::{
    guest_fault::lock_page,
    inode::Opened,
    kvm::{
        Slot,
        SlotsLocked,
        UserPage, //
    },
    range::Gfn, //
};
use kernel::{
    current,
    mm::pgoff::Pfn,
    page::PAGE_SIZE,
    prelude::*,
    uaccess::UserPtr, //
};

/// The pages of userspace to copy from.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    /// The first page, if there are any.
    pub(crate) start: Option<UserPtr>,
    /// Whether the architecture may write to the pages.
    pub(crate) writable: bool,
}

/// Calls `post_populate` for up to `count` pages of `slot` from `first` on, with the source page of
/// each, and returns for how many it succeeded. `gmem` is the file that the slot had.
///
/// # Errors
///
/// If not a single page was populated: `EINVAL` if the memory is not private; `EFAULT` if the slot
/// lost its file or there is no source page; `EINTR`; those of [`lock_page`] and of
/// `post_populate`.
pub(crate) fn populate(
    slots: &SlotsLocked,
    gmem: Opened<'_>,
    slot: &Slot,
    first: Gfn,
    source: Source,
    count: usize,
    mut post_populate: impl FnMut(Gfn, Pfn, Option<&UserPage>) -> Result,
) -> Result<usize> {
    let placement = slot.placement();
    let count = placement
        .pages
        .tail(placement.index(first))
        .len()
        .min(count);

    for done in 0..count {
        let gfn = first.wrapping_add(done);
        let result = source.page(done).and_then(|page| {
            populate_page(slots, gmem, slot, gfn, |pfn| {
                post_populate(gfn, pfn, page.as_ref())
            })
        });

        match result {
            Ok(()) => {}
            Err(err) if done == 0 => return Err(err),
            Err(_) => return Ok(done),
        }
    }
    Ok(count)
}

impl Source {
    /// Returns the page number `n`, if there are any.
    ///
    /// # Errors
    ///
    /// `EINTR` if a signal is pending; those of [`UserPage::get`].
    fn page(self, n: usize) -> Result<Option<UserPage>> {
        if current!().signal_pending() {
            return Err(EINTR);
        }
        self.start
            .map(|start| {
                UserPage::get(
                    start.wrapping_byte_add(n.wrapping_mul(PAGE_SIZE)),
                    self.writable,
                )
            })
            .transpose()
    }
}

fn populate_page(
    slots: &SlotsLocked,
    gmem: Opened<'_>,
    slot: &Slot,
    gfn: Gfn,
    post_populate: impl FnOnce(Pfn) -> Result,
) -> Result {
    // Keeps the folio from being removed.
    let _locked = gmem.inode.invalidate_lock();
    let page = lock_page(gmem, slot, gfn)?;

    if !slots.vm().is_private(gfn) {
        return Err(EINVAL);
    }
    let valid = page.folio.is_uptodate();
    page.folio.clear_uptodate();
    let folio = page.folio.unlock();

    // If this fails, the page may hold a part of the source. Then it stays not up to date, and
    // guest faults fail, until it is populated again or a hole is punched. (In C the next fault
    // clears it, unless it was up to date before. This crate cannot write to a folio in the page
    // cache, and must not free one that the firmware may own.)
    let result = post_populate(page.pfn);
    // `EEXIST`: the guest has the page already, and nothing was written to it.
    if result.is_ok() || (valid && result == Err(EEXIST)) {
        folio.mark_uptodate();
    }
    result
}
