// SPDX-License-Identifier: GPL-2.0

//! Page faults of guests.
//!
//! KVM resolves a fault on memory from a guest_memfd by asking for the page frame number behind a
//! guest frame number. This takes no lock but that of the folio. The memslot may be deleted, the
//! file closed or the page removed at any time. KVM notices the first and the last by
//! `mmu_invalidate_seq`, and retries; a file that is being closed is refused here.

use crate::{
    flags::Flag,
    inode::{
        get_folio,
        Opened, //
    },
    kvm::Slot,
    range::Gfn, //
};
use kernel::{
    mm::{
        folio::{
            Folio,
            LockedFolio, //
        },
        pgoff::{
            PageIndex,
            Pfn, //
        }, //
    },
    prelude::*,
    sync::aref::ARef, //
};

/// A page behind a guest frame number.
pub(crate) struct GuestPage<F> {
    /// The folio that has the page.
    pub(crate) folio: F,
    /// The index of the page in the file.
    pub(crate) index: PageIndex,
    /// The page frame number.
    pub(crate) pfn: Pfn,
    /// Whether the page was added to the page cache for this.
    pub(crate) added: bool,
}

/// Returns the page behind `gfn`, which is in `slot`. `gmem` is the file that the slot had.
///
/// # Errors
///
/// `EFAULT` if the slot lost its file meanwhile, `EIO` if the slot is not bound to the page any
/// more, `EHWPOISON` if the hardware reported an error in the memory, `ENOMEM`.
pub(crate) fn lock_page<'a>(
    gmem: Opened<'a>,
    slot: &Slot,
    gfn: Gfn,
) -> Result<GuestPage<LockedFolio<'a>>> {
    if !slot.has_file(gmem.file) {
        return Err(EFAULT);
    }
    let index = slot.placement().index(gfn);
    if !gmem.view.is_bound(index, slot) {
        return Err(EIO);
    }

    let (folio, added) = get_folio(gmem.inode, index)?;
    if folio.is_hwpoisoned() {
        return Err(EHWPOISON);
    }
    Ok(GuestPage {
        pfn: folio.pfn_of(index).ok_or(EIO)?,
        folio,
        index,
        added,
    })
}

/// Returns the page behind `gfn`, which is in `slot`, with a reference to its folio.
///
/// Memory that is private to the guest is made so before this returns.
///
/// # Errors
///
/// Those of [`lock_page`] and of the architecture.
pub(crate) fn get_pfn(gmem: Opened<'_>, slot: &Slot, gfn: Gfn) -> Result<GuestPage<ARef<Folio>>> {
    let page = lock_page(gmem, slot, gfn)?;

    if !gmem.inode.data().has(Flag::InitShared) {
        gmem.view.vm().make_private(gfn, page.pfn)?;
    }
    Ok(GuestPage {
        folio: page.folio.unlock(),
        index: page.index,
        pfn: page.pfn,
        added: page.added,
    })
}
