// SPDX-License-Identifier: GPL-2.0

//! The flags of `KVM_CREATE_GUEST_MEMFD`.

use kernel::{
    bindings,
    impl_flags,
    prelude::*, //
};

impl_flags!(
    /// The flags of a guest_memfd.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct Flags(u64);

    /// One of the flags of a guest_memfd, `GUEST_MEMFD_FLAG_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) enum Flag {
        /// Userspace may map the file.
        Mmap = bindings::GUEST_MEMFD_FLAG_MMAP as u64,
        /// The memory is shared between guest and host. Without this it is private to the guest.
        InitShared = bindings::GUEST_MEMFD_FLAG_INIT_SHARED as u64,
        /// The memory is not in the direct map.
        NoDirectMap = bindings::GUEST_MEMFD_FLAG_NO_DIRECT_MAP as u64,
        /// The order of the folios is given.
        PageOrder = bindings::GUEST_MEMFD_FLAG_PAGE_ORDER as u64,
    }
);

impl Flags {
    /// Checks the flags that userspace asks for against those that the VM supports.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is another flag.
    pub(crate) fn new(asked: u64, supported: u64) -> Result<Self> {
        if asked & !(supported & Self::all_bits()) != 0 {
            return Err(EINVAL);
        }
        Ok(Self(asked))
    }
}

#[cfg(CONFIG_KVM_GUEST_MEMFD_RUST_KUNIT_TEST)]
#[kunit_tests(guest_memfd_flags)]
mod tests {
    use super::*;

    const ALL: u64 = Flags::all_bits();

    #[test]
    fn the_numbers_are_those_of_the_uapi() {
        assert_eq!(Flag::Mmap as u64, 1);
        assert_eq!(Flag::InitShared as u64, 2);
        assert_eq!(Flag::NoDirectMap as u64, 4);
        assert_eq!(Flag::PageOrder as u64, 16);
        assert_eq!(ALL, 23);
    }

    #[test]
    fn unsupported_flags_are_refused() {
        assert!(Flags::new(ALL, ALL).is_ok());
        assert!(Flags::new(0, 0).is_ok());
        assert!(Flags::new(4, ALL & !4).is_err());
        for bit in 3..u64::BITS {
            let flag = 1u64.wrapping_shl(bit);

            if flag & ALL == 0 {
                assert!(Flags::new(flag, ALL).is_err());
                assert!(Flags::new(ALL | flag, u64::MAX).is_err());
            }
        }
    }

    #[test]
    fn supported_flags_are_kept() {
        for flag in [
            Flag::Mmap,
            Flag::InitShared,
            Flag::NoDirectMap,
            Flag::PageOrder,
        ] {
            let flags = Flags::new(flag as u64, ALL).unwrap_or(Flags::empty());
            assert!(flags == flag.into());
        }
    }
}
