// SPDX-License-Identifier: GPL-2.0

//! Page faults of guests.
//!
//! KVM resolves a fault on memory from a guest_memfd by asking for the page frame number behind a
//! guest frame number. This takes no lock but that of the folio. Meanwhile,
//!
//! * the page may be removed: KVM retries, since that changes `mmu_invalidate_seq`;
//! * the memslot may be deleted: KVM waits for `kvm->srcu`, which the fault holds, before it
//!   unbinds and frees it;
//! * the file may be closed: a fault on a file without references is refused, and one that has a
//!   page already retries, since closing changes `mmu_invalidate_seq`.

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
            Order,
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
    /// The largest order in which the guest can map the page.
    pub(crate) max_order: Order,
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

    let folio = get_folio(gmem.inode, index)?;
    if folio.is_page_hwpoisoned(index) {
        return Err(EHWPOISON);
    }
    // Around an error, the guest maps page by page.
    let max_order = if folio.is_hwpoisoned() {
        Order::PAGE
    } else {
        slot.max_order(gfn)
    };
    Ok(GuestPage {
        pfn: folio.pfn_of(index).ok_or(EIO)?,
        max_order,
        folio,
        index,
    })
}

/// Returns the page behind `gfn`, which is in `slot`, with a reference to its folio.
///
/// If the file is private to the guest, the page is converted to private memory first.
///
/// # Errors
///
/// Those of [`lock_page`] and of the architecture. `EIO` if the page is being populated, or
/// populating it failed: it may hold a part of the data.
pub(crate) fn get_pfn(gmem: Opened<'_>, slot: &Slot, gfn: Gfn) -> Result<GuestPage<ARef<Folio>>> {
    let page = lock_page(gmem, slot, gfn)?;

    if !page.folio.is_uptodate() {
        return Err(EIO);
    }
    if !gmem.inode.data().has(Flag::InitShared) {
        gmem.view.vm().make_private(gfn, &page.folio, page.index)?;
    }
    Ok(GuestPage {
        folio: page.folio.unlock(),
        index: page.index,
        pfn: page.pfn,
        max_order: page.max_order,
    })
}
