// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0382]: use of moved value: `folio`

//! A folio is in one page cache, once.

#![allow(missing_docs, unexpected_cfgs)]

use kernel::{
    mm::{
        address_space::AddressSpace,
        folio::NewFolio,
    },
    prelude::*,
};

pub fn insert(mapping: &AddressSpace, folio: NewFolio, other: NewFolio) -> Result {
    drop(mapping.insert(folio, 0, GFP_KERNEL)?);
    #[cfg(wrong)]
    let other = {
        drop(other);
        folio
    };
    drop(mapping.insert(other, 1, GFP_KERNEL)?);
    Ok(())
}
