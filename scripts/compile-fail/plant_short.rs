// SPDX-License-Identifier: GPL-2.0
// wrong: error[E0716]: temporary value dropped while borrowed

//! A guard does not take a reference that lives shorter than the data behind the lock.

#![allow(missing_docs, unexpected_cfgs)]
#![forbid(unsafe_code)]

use kernel::mm::address_space::InvalidateGuard;

pub fn plant(guard: InvalidateGuard<'_, Option<&'static [u8]>>) {
    #[cfg(not(wrong))]
    static BYTES: [u8; 16] = [7; 16];
    #[cfg(not(wrong))]
    let bytes = &BYTES;
    #[cfg(wrong)]
    let bytes = &[7u8; 16].map(|byte| byte + 1);
    let mut guard: InvalidateGuard<'_, Option<&[u8]>> = guard;
    *guard = Some(bytes);
}
