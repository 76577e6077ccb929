// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0133]: call to unsafe function `Unmapping::<'a>::unmap` is unsafe and requires unsafe block

//! A memslot is unmapped from the VM that it is of, which no type says.

#![allow(dead_code, missing_docs, unexpected_cfgs, unreachable_pub, unused_mut)]

include!("gmem.inc");

use core::ptr::NonNull;

pub(crate) fn unmap(vm: &kvm::Vm, slot: NonNull<kvm::Slot>, gfn: range::Gfn) {
    let mut unmapping = vm.start_invalidation();
    #[cfg(not(wrong))]
    let _ = (slot, gfn);
    #[cfg(wrong)]
    unmapping.unmap(slot, gfn..gfn, true);
    drop(unmapping.finish());
}
