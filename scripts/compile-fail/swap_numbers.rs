// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0308]: mismatched types

//! A page frame number is not an index.

#![allow(missing_docs, unexpected_cfgs)]
#![forbid(unsafe_code)]

use kernel::{
    mm::{
        address_space::AddressSpace,
        folio::LockedFolio, //
    },
    prelude::*,
};

pub fn find<'a>(m: &'a AddressSpace, folio: &LockedFolio<'_>) -> Result<LockedFolio<'a>> {
    #[cfg(not(wrong))]
    return m.lock_folio(folio.index());
    #[cfg(wrong)]
    return m.lock_folio(folio.pfn());
}
