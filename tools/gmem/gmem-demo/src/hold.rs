// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The program that holds the secret, inside a guest. It talks with the host by its terminal.

use std::io::stdin;

use direct_map_scan::Pattern;
use vm_memory::MmapRegion;

use crate::{
    Error, call,
    secret::{self, PAGE_SIZE},
};

/// What it says, behind the number of pages.
pub const ANSWER: &str = " pages hold the secret";
/// Has it look again.
pub const CHECK: &str = "check";
/// Has it end.
pub const END: &str = "end";

/// Fills `pages` pages with the secret, and says how many hold it, now and for each line of
/// standard input, until that is [`END`].
pub fn run(pattern: &Pattern, pages: usize) -> Result<(), Error> {
    let region = MmapRegion::<()>::new(pages * PAGE_SIZE).map_err(guest_memfd::Error::from)?;
    // SAFETY: The region has that many pages, and nobody else has it.
    unsafe { secret::fill(pattern, region.as_ptr(), pages) };
    let mut line = String::new();
    while line.trim() != END {
        // SAFETY: Likewise.
        let wrong = unsafe { secret::pages_without(pattern, region.as_ptr(), pages) };
        println!("{}{ANSWER}", pages - wrong);
        line.clear();
        if stdin()
            .read_line(&mut line)
            .map_err(call("reading standard input"))?
            == 0
        {
            break;
        }
    }
    Ok(())
}
