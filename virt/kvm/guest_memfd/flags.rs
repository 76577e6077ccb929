// SPDX-License-Identifier: GPL-2.0

//! The flags of `KVM_CREATE_GUEST_MEMFD`.

use kernel::{
    bindings,
    prelude::*, //
};

/// Flags that are valid together, and supported where they are used.
#[derive(Clone, Copy)]
pub(crate) struct Flags(u64);

impl Flags {
    const MMAP: u64 = bindings::GUEST_MEMFD_FLAG_MMAP as u64;
    const INIT_SHARED: u64 = bindings::GUEST_MEMFD_FLAG_INIT_SHARED as u64;
    const NO_DIRECT_MAP: u64 = bindings::GUEST_MEMFD_FLAG_NO_DIRECT_MAP as u64;

    /// Checks what userspace asks for.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is a flag that is not `supported`.
    pub(crate) fn new(asked: u64, supported: u64) -> Result<Self> {
        if asked & !supported != 0 {
            return Err(EINVAL);
        }
        Ok(Self(asked))
    }

    /// Userspace may map the file.
    pub(crate) fn can_be_mapped(self) -> bool {
        self.0 & Self::MMAP != 0
    }

    /// The memory is shared between the guest and the host; private to the guest otherwise.
    pub(crate) fn is_shared(self) -> bool {
        self.0 & Self::INIT_SHARED != 0
    }

    /// The memory is not in the direct map.
    pub(crate) fn no_direct_map(self) -> bool {
        self.0 & Self::NO_DIRECT_MAP != 0
    }
}

#[cfg(CONFIG_KVM_GUEST_MEMFD_RUST_KUNIT_TEST)]
#[kunit_tests(guest_memfd_flags)]
mod tests {
    use super::*;

    const ALL: u64 = Flags::MMAP | Flags::INIT_SHARED | Flags::NO_DIRECT_MAP;

    #[test]
    fn each_flag_is_its_own() {
        for bit in [Flags::MMAP, Flags::INIT_SHARED, Flags::NO_DIRECT_MAP] {
            let flags = Flags::new(bit, ALL).unwrap_or(Flags(0));
            assert_eq!(flags.can_be_mapped(), bit == Flags::MMAP);
            assert_eq!(flags.is_shared(), bit == Flags::INIT_SHARED);
            assert_eq!(flags.no_direct_map(), bit == Flags::NO_DIRECT_MAP);
        }
    }

    #[test]
    fn the_numbers_are_those_of_the_uapi() {
        assert_eq!(Flags::MMAP, 1);
        assert_eq!(Flags::INIT_SHARED, 2);
        assert_eq!(Flags::NO_DIRECT_MAP, 4);
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        assert!(Flags::new(ALL, ALL).is_ok());
        assert!(Flags::new(0, 0).is_ok());
        assert!(Flags::new(Flags::NO_DIRECT_MAP, ALL & !Flags::NO_DIRECT_MAP).is_err());
        for bit in 3..u64::BITS {
            assert!(Flags::new(1 << bit, ALL).is_err());
            assert!(Flags::new(ALL | 1 << bit, ALL).is_err());
        }
    }
}
