// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The program that holds the secret, inside a guest. It talks with the host by its terminal.

use std::{fmt::Write, io::stdin};

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

/// The digits of the complement, which [`parse`] reads.
pub fn to_digits(pattern: &Pattern) -> String {
    pattern.inverted().iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// Reads what [`to_digits`] wrote.
pub fn parse(digits: &str) -> Result<Pattern, String> {
    let mut inverted = [0; Pattern::LEN];
    if digits.len() != 2 * inverted.len() || !digits.is_ascii() {
        return Err(format!("{} digits are needed", 2 * inverted.len()));
    }
    for (i, byte) in inverted.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).map_err(|e| e.to_string())?;
    }
    Ok(Pattern::from_inverted(inverted))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_the_complement() {
        let pattern = Pattern::from_inverted(std::array::from_fn(|i| 0x10 + i as u8));
        let digits = to_digits(&pattern);
        assert_eq!(digits, "101112131415161718191a1b1c1d1e1f");
        assert_eq!(parse(&digits), Ok(pattern));
        assert!(parse("10").is_err());
        assert!(parse(&digits.replace('f', "g")).is_err());
    }
}
