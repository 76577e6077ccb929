// SPDX-License-Identifier: GPL-2.0

//! Page faults of guests.

use crate::{
    boundary::{
        self,
        Slot, //
    },
    memory::{
        get_folio,
        GuestMemfd, //
    }, //
};
use kernel::{
    fs::operations::OpenFile,
    mm::folio::{
        Folio,
        LockedFolio, //
    },
    prelude::*,
    sync::aref::ARef, //
};

/// Returns the folio behind `gfn`, which is in `slot`; `file` is what the slot had.
///
/// # Errors
///
/// `EFAULT` if the slot lost its file meanwhile, `EIO` if it lost its pages in the file,
/// `EHWPOISON` if the hardware reported an error in the memory, `ENOMEM`.
pub(crate) fn lock_folio<'a>(
    file: &'a OpenFile<GuestMemfd>,
    slot: &Slot,
    gfn: u64,
) -> Result<(usize, LockedFolio<'a>)> {
    if !slot.has_file(file) {
        return Err(EFAULT);
    }

    let index = slot.placement().index(gfn);
    if !file.data().is_bound(index, slot) {
        return Err(EIO);
    }

    let folio = get_folio(file.inode(), index)?;
    if folio.is_hwpoisoned() {
        return Err(EHWPOISON);
    }
    Ok((index, folio))
}

/// Returns the page frame number behind `gfn`, which is in `slot`, and the folio of it.
///
/// Where memory is private to the guest, it is the guest's when this returns.
///
/// # Errors
///
/// `EFAULT` if the file is being closed; those of [`lock_folio`]; those of the architecture.
pub(crate) fn get_pfn(slot: &Slot, gfn: u64) -> Result<(usize, ARef<Folio>, usize)> {
    let file = slot.file().ok_or(EFAULT)?;
    let (index, folio) = lock_folio(&file, slot, gfn)?;
    let pfn = folio.pfn_at(index);

    if !file.inode().data().flags().is_shared() {
        boundary::make_private(file.data().vm(), gfn, &folio, index)?;
    }
    Ok((pfn, folio.unlock(), index))
}
