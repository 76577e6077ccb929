// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The kinds of guest memory that are compared.

use guest_memfd::{
    GUEST_MEMFD_FLAG_NO_DIRECT_MAP, GUEST_MEMFD_FLAG_PAGE_ORDER, pmd_order, supported_flags,
};
use kvm_ioctls::Kvm;

use crate::Error;

/// A kind of memory.
#[derive(Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    /// Those besides the two that it takes to map the file.
    pub flags: u64,
    pub order: u32,
}

/// Those that KVM has on this machine.
pub fn supported() -> Result<impl Iterator<Item = Kind>, Error> {
    let supported = supported_flags(&Kvm::new()?.create_vm()?).0;
    let order = pmd_order().unwrap_or(0);
    let kind = |name, flags, order| Kind { name, flags, order };
    Ok([
        kind("direct map", 0, 0),
        kind("no direct map", GUEST_MEMFD_FLAG_NO_DIRECT_MAP, 0),
        kind("direct map 2M", GUEST_MEMFD_FLAG_PAGE_ORDER, order),
        kind(
            "no direct map 2M",
            GUEST_MEMFD_FLAG_NO_DIRECT_MAP | GUEST_MEMFD_FLAG_PAGE_ORDER,
            order,
        ),
    ]
    .into_iter()
    .filter(move |kind| kind.flags & !supported == 0))
}
