// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0621]: explicit lifetime required in the type of `mapping`

//! A folio that is locked in the page cache of a file does not outlive the file.

#![allow(missing_docs, unexpected_cfgs)]
#![forbid(unsafe_code)]

use kernel::{
    mm::{address_space::AddressSpace, folio::LockedFolio, pgoff::PageIndex},
    prelude::*,
};

#[cfg(not(wrong))]
pub fn lock<'a>(mapping: &'a AddressSpace) -> Result<LockedFolio<'a>> {
    mapping.lock_folio(PageIndex::new(0))
}

#[cfg(wrong)]
pub fn lock<'a>(mapping: &AddressSpace) -> Result<LockedFolio<'a>> {
    mapping.lock_folio(PageIndex::new(0))
}
