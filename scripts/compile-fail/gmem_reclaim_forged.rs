// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0451]: fields `pfn` and `nr_pages` of struct `RemovedFolio` are private

//! Only a folio that was removed is given back to the host.

#![allow(
    dead_code,
    missing_docs,
    unexpected_cfgs,
    unreachable_pub,
    unused_imports
)]

include!("gmem.inc");

use kernel::{fs::inode::RemovedFolio, mm::pgoff::Pfn};

#[cfg(not(wrong))]
pub(crate) fn size(folio: &RemovedFolio) -> usize {
    folio.nr_pages()
}

#[cfg(wrong)]
pub(crate) fn size() -> usize {
    RemovedFolio {
        pfn: Pfn::new(0x1000),
        nr_pages: 1,
    }
    .nr_pages()
}
