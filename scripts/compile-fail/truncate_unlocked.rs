// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0599]: no method named `truncate` found for reference `&AddressSpace` in the current scope

//! Folios are removed under the `invalidate_lock`.

#![allow(missing_docs, unexpected_cfgs)]

use kernel::mm::address_space::AddressSpace;

#[cfg(not(wrong))]
pub fn empty(mapping: &AddressSpace) {
    mapping.invalidate_lock().truncate(0..usize::MAX);
}

#[cfg(wrong)]
pub fn empty(mapping: &AddressSpace) {
    mapping.truncate(0..usize::MAX);
}
