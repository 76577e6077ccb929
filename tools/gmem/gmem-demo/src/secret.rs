// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Secrets that are only where they were put on purpose.

use std::{fs::File, io::Read};

use direct_map_scan::Pattern;

use crate::{Error, call};

/// Bytes a page has.
pub const PAGE_SIZE: usize = 4096;

/// A secret that never was in memory.
pub fn random() -> Result<Pattern, Error> {
    let mut inverted = [0u8; Pattern::LEN];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut inverted))
        .map_err(call("reading /dev/urandom"))?;
    // Most of RAM is zero; a pattern that begins otherwise is found faster.
    inverted[0] &= 0x7f;
    Ok(Pattern::from_inverted(inverted))
}

/// Fills the pages at `memory` with the secret.
///
/// # Safety
///
/// `memory` is valid for writes of `pages` pages.
pub unsafe fn fill(pattern: &Pattern, memory: *mut u8, pages: usize) {
    for i in 0..pages * PAGE_SIZE {
        let byte = !pattern.inverted()[i % Pattern::LEN];
        // SAFETY: Within the pages that the caller promised. Volatile, a byte at a time: no copy
        // of the secret must get to where the kernel can find it.
        unsafe { memory.add(i).write_volatile(byte) };
    }
}

/// How many of the pages at `memory` do not consist of the secret.
///
/// # Safety
///
/// `memory` is valid for reads of `pages` pages.
pub unsafe fn pages_without(pattern: &Pattern, memory: *const u8, pages: usize) -> usize {
    let mut wrong = 0;
    for page in 0..pages {
        let ok = (0..PAGE_SIZE).all(|i| {
            // SAFETY: Within the pages that the caller promised. Volatile, a byte at a time: no
            // copy of the secret must get to where the kernel can find it.
            let byte = unsafe { memory.add(page * PAGE_SIZE + i).read_volatile() };
            byte == !pattern.inverted()[i % Pattern::LEN]
        });
        wrong += usize::from(!ok);
    }
    wrong
}
