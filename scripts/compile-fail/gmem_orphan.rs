// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0599]: no method named `clear_file` found for reference `&Slot` in the current scope

//! A memslot loses its file when it is unbound.

#![allow(dead_code, missing_docs, unexpected_cfgs, unreachable_pub)]

include!("gmem.inc");

pub(crate) fn orphan(slot: &kvm::Slot, bound: kvm::BoundSlot, slots: &kvm::SlotsLocked) {
    #[cfg(not(wrong))]
    bound.clear_file(slots);
    #[cfg(wrong)]
    slot.clear_file(slots);
    let _ = slot;
}
