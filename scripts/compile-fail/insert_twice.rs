// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0382]: use of moved value: `folio`

//! A folio is in one page cache, once.

#![allow(missing_docs, unexpected_cfgs)]
#![forbid(unsafe_code)]

use kernel::{
    mm::{
        address_space::AddressSpace,
        folio::{Init, NewFolio},
        pgoff::PageIndex,
    },
    prelude::*,
};

pub fn insert(m: &AddressSpace, folio: NewFolio<Init>, other: NewFolio<Init>) -> Result {
    drop(m.add_folio(folio, PageIndex::new(0), GFP_KERNEL)?);
    #[cfg(wrong)]
    let other = {
        drop(other);
        folio
    };
    drop(m.add_folio(other, PageIndex::new(1), GFP_KERNEL)?);
    Ok(())
}
