// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0308]: mismatched types

//! Memory that was not cleared cannot be added to a page cache.

#![allow(missing_docs, unexpected_cfgs)]
#![forbid(unsafe_code)]

use kernel::{
    mm::{
        address_space::AddressSpace,
        folio::NewFolio,
        pgoff::{Order, PageIndex},
    },
    prelude::*,
};

pub fn insert(mapping: &AddressSpace) -> Result {
    let folio = NewFolio::alloc(Order::PAGE, GFP_KERNEL)?;
    #[cfg(not(wrong))]
    let folio = folio.zero();
    drop(mapping.add_folio(folio, PageIndex::new(0), GFP_KERNEL)?);
    Ok(())
}
