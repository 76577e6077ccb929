// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0599]: no method named `read` found for reference `&LockedFolio<'_>` in the current scope

//! The contents of a folio that is in the page cache cannot be read.

#![allow(missing_docs, unexpected_cfgs)]
#![forbid(unsafe_code)]

use kernel::{
    mm::folio::{Init, LockedFolio, NewFolio},
    prelude::*,
};

/// The owner of a new folio can.
pub fn new(folio: &NewFolio<Init>, buffer: &mut [u8]) -> Result {
    folio.read(0, buffer)
}

#[cfg(not(wrong))]
pub fn resident(folio: &LockedFolio<'_>, _buffer: &mut [u8]) -> usize {
    folio.pfn().as_usize()
}

#[cfg(wrong)]
pub fn resident(folio: &LockedFolio<'_>, buffer: &mut [u8]) -> Result {
    folio.read(0, buffer)
}
