// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0599]: no method named `read` found for struct `NewFolio<Uninit>` in the current scope

//! Memory that was not cleared cannot be read.

#![allow(missing_docs, unexpected_cfgs)]
#![forbid(unsafe_code)]

use kernel::{
    mm::{folio::NewFolio, pgoff::Order},
    prelude::*,
};

pub fn read(buffer: &mut [u8]) -> Result {
    let folio = NewFolio::alloc(Order::PAGE, GFP_KERNEL)?;
    #[cfg(not(wrong))]
    let folio = folio.zero();
    folio.read(0, buffer)
}
