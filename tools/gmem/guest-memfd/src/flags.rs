// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The flags of guest_memfd, and which of them a host has.

use std::fmt;

use kvm_ioctls::{Cap, Kvm, VmFd};

/// The capability that enumerates the flags of `KVM_CREATE_GUEST_MEMFD` (`<linux/kvm.h>`).
pub const KVM_CAP_GUEST_MEMFD_FLAGS: libc::c_ulong = 244;
/// The file can be mapped by userspace.
pub const GUEST_MEMFD_FLAG_MMAP: u64 = 1 << 0;
/// All memory is shared with the host's userspace from the start.
pub const GUEST_MEMFD_FLAG_INIT_SHARED: u64 = 1 << 1;
/// The kernel has no mapping of the memory: it is not in the direct map.
pub const GUEST_MEMFD_FLAG_NO_DIRECT_MAP: u64 = 1 << 2;
/// The memory is allocated in blocks of a given order.
pub const GUEST_MEMFD_FLAG_PAGE_ORDER: u64 = 1 << 4;

/// Flags of `KVM_CREATE_GUEST_MEMFD`, written with their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u64);

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flags {:#x}", self.0)?;
        for (flag, name) in [
            (GUEST_MEMFD_FLAG_MMAP, "MMAP"),
            (GUEST_MEMFD_FLAG_INIT_SHARED, "INIT_SHARED"),
            (GUEST_MEMFD_FLAG_NO_DIRECT_MAP, "NO_DIRECT_MAP"),
            (GUEST_MEMFD_FLAG_PAGE_ORDER, "PAGE_ORDER"),
        ] {
            if self.0 & flag != 0 {
                write!(f, " {name}")?;
            }
        }
        Ok(())
    }
}

/// Why a host does not have a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// No guest_memfd at all.
    #[error(
        "this host's KVM has no guest_memfd (capability 234); the kernel is too old (before 6.8) \
         or built without it"
    )]
    GuestMemfd,
    /// No flags that could be asked for.
    #[error(
        "this host's kernel is too old: its KVM does not enumerate flags of guest_memfd \
         (capability 244)"
    )]
    Capability,
    /// Not on this machine, for whatever VM.
    #[error(
        "this host's KVM has guest_memfd with {has}: the kernel does not have the rest, or this \
         machine cannot do it"
    )]
    Machine {
        /// The flags that are there.
        has: Flags,
    },
    /// Not for this VM, for whatever reason; [`probe`] can tell which.
    #[error(
        "this VM has guest_memfd with {has}: the kernel does not have the rest, this machine \
         cannot do it, or VMs of this type cannot have it"
    )]
    Vm {
        /// The flags that are there.
        has: Flags,
    },
    /// Not for VMs of this type, although the machine can do it.
    #[error(
        "this host's KVM has guest_memfd with {has} for this VM: VMs of its type cannot have the \
         rest"
    )]
    VmType {
        /// The flags that are there.
        has: Flags,
    },
}

/// What a host has of guest_memfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Support {
    /// guest_memfd is there (`KVM_CAP_GUEST_MEMFD`).
    pub guest_memfd: bool,
    /// The flags of which `/dev/kvm` says that the machine can have them for VMs of the default
    /// type; zero where KVM does not enumerate them.
    pub machine: Flags,
    /// The flags for one VM; zero where KVM does not enumerate them.
    pub vm: Flags,
}

impl Support {
    /// Tells whether all of `flags` can be had for the VM, and if not, why not.
    ///
    /// # Errors
    ///
    /// What is [`Missing`].
    ///
    /// # Examples
    ///
    /// ```
    /// use guest_memfd::{Flags, GUEST_MEMFD_FLAG_NO_DIRECT_MAP, Missing, Support};
    ///
    /// let stock = Support { guest_memfd: true, machine: Flags(3), vm: Flags(3) };
    /// assert_eq!(stock.check(3), Ok(()));
    /// assert_eq!(
    ///     stock.check(GUEST_MEMFD_FLAG_NO_DIRECT_MAP),
    ///     Err(Missing::Machine { has: Flags(3) }),
    /// );
    /// ```
    pub fn check(&self, flags: u64) -> Result<(), Missing> {
        if flags & !self.vm.0 == 0 && self.guest_memfd {
            Ok(())
        } else if !self.guest_memfd {
            Err(Missing::GuestMemfd)
        } else if self.machine.0 == 0 && self.vm.0 == 0 {
            Err(Missing::Capability)
        } else if flags & !self.machine.0 != 0 {
            Err(Missing::Machine { has: self.machine })
        } else {
            Err(Missing::VmType { has: self.vm })
        }
    }
}

/// Asks what `kvm` has of guest_memfd, for `vm` and for VMs of the default type. Changes nothing.
pub fn probe(kvm: &Kvm, vm: &VmFd) -> Support {
    Support {
        guest_memfd: vm.check_extension(Cap::GuestMemfd),
        machine: enumerated(kvm.check_extension_raw(KVM_CAP_GUEST_MEMFD_FLAGS)),
        vm: supported_flags(vm),
    }
}

/// The flags that [`GuestMemfd::create`](crate::GuestMemfd::create) takes for this VM, zero where
/// KVM does not enumerate them.
pub fn supported_flags(vm: &VmFd) -> Flags {
    enumerated(vm.check_extension_raw(KVM_CAP_GUEST_MEMFD_FLAGS))
}

/// The order of a PMD, 9 with pages of 4 KiB: the larger one of the two that
/// [`GuestMemfd::create_in_blocks`](crate::GuestMemfd::create_in_blocks) takes. [`None`] if the
/// kernel has no transparent huge pages; it does not have the flag then.
pub fn pmd_order() -> Option<u32> {
    let size =
        std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").ok()?;
    let pages = size.trim().parse::<u64>().ok()?.checked_div(page_size())?;
    (pages.is_power_of_two() && pages > 1).then(|| pages.ilog2())
}

/// The size of a page, in bytes.
pub(crate) fn page_size() -> u64 {
    // SAFETY: It has no effect on memory.
    (unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) as u64
}

/// What the capability's value says; a negative one is an error.
fn enumerated(value: i32) -> Flags {
    Flags(u64::try_from(value).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 7;

    fn support(machine: u64, vm: u64) -> Support {
        Support {
            guest_memfd: true,
            machine: Flags(machine),
            vm: Flags(vm),
        }
    }

    #[test]
    fn what_is_missing_is_told_apart() {
        let none = Support {
            guest_memfd: false,
            ..support(0, 0)
        };
        assert_eq!(none.check(0), Err(Missing::GuestMemfd));
        assert_eq!(none.check(ALL), Err(Missing::GuestMemfd));
        assert_eq!(support(0, 0).check(0), Ok(()));
        assert_eq!(support(0, 0).check(ALL), Err(Missing::Capability));
        let has = Flags(3);
        assert_eq!(support(3, 3).check(ALL), Err(Missing::Machine { has }));
        assert_eq!(support(7, 3).check(ALL), Err(Missing::VmType { has }));
        assert_eq!(support(7, 7).check(ALL), Ok(()));
    }

    #[test]
    fn flags_are_named() {
        assert_eq!(Flags(0).to_string(), "flags 0x0");
        assert_eq!(
            Flags(13).to_string(),
            "flags 0xd MMAP NO_DIRECT_MAP",
            "an unknown one has no name"
        );
        assert_eq!(Flags(17).to_string(), "flags 0x11 MMAP PAGE_ORDER");
    }
}
