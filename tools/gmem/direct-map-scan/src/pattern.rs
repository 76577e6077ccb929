// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A pattern that can be compared with memory without being in memory.

use std::{fmt, str::FromStr};

/// Sixteen bytes to look for, held with every bit inverted, so that a search of all RAM does not
/// find the searcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    inverted: [u8; Self::LEN],
}

impl Pattern {
    /// The length in bytes.
    pub const LEN: usize = 16;

    /// A pattern from the complement of its bytes.
    ///
    /// Random bytes make a random pattern that was never in memory.
    pub fn from_inverted(inverted: [u8; Self::LEN]) -> Self {
        Self { inverted }
    }

    /// The complement of the pattern's bytes.
    pub fn inverted(&self) -> &[u8; Self::LEN] {
        &self.inverted
    }

    /// Is this the pattern? `bytes` has [`LEN`](Self::LEN) bytes.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        bytes.len() == Self::LEN && bytes.iter().zip(&self.inverted).all(|(b, i)| *b == !*i)
    }

    /// The offsets in `haystack` where the pattern stands, at any alignment.
    pub fn find_in<'a>(&'a self, haystack: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
        // A single byte of the pattern gives nothing away.
        memchr::memchr_iter(!self.inverted[0], haystack).filter(|&at| {
            haystack
                .get(at..at + Self::LEN)
                .is_some_and(|bytes| self.matches(bytes))
        })
    }
}

/// Why a text is no pattern.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseError {
    /// The length is wrong.
    #[error("a pattern is 16 bytes, that is 32 hexadecimal digits, not {0}")]
    Length(usize),
    /// Something else than a hexadecimal digit.
    #[error("{0:?} is not a hexadecimal digit")]
    Digit(char),
}

impl FromStr for Pattern {
    type Err = ParseError;

    /// Reads 32 hexadecimal digits. The text is not the pattern, so it does no harm in memory.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.len() != Self::LEN * 2 {
            return Err(ParseError::Length(text.len()));
        }
        let mut inverted = [0u8; Self::LEN];
        for (i, c) in text.chars().enumerate() {
            let digit = c.to_digit(16).ok_or(ParseError::Digit(c))?;
            let digit = 0xf & !(digit as u8);
            inverted[i / 2] |= digit << if i % 2 == 0 { 4 } else { 0 };
        }
        Ok(Self { inverted })
    }
}

impl fmt::Display for Pattern {
    /// Writes what [`from_str`](Self::from_str) reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inverted
            .iter()
            .try_for_each(|i| write!(f, "{:02x}", !i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00112233445566778899aabbccddeeff";

    fn plain() -> Vec<u8> {
        (0..16).map(|i| i * 0x11).collect()
    }

    #[test]
    fn parses_hex() {
        let pattern: Pattern = TEXT.parse().unwrap();
        assert!(pattern.matches(&plain()));
        assert_eq!(pattern.inverted()[1], 0xee);
        assert_eq!(pattern.to_string(), TEXT);
    }

    #[test]
    fn refuses_other_text() {
        assert_eq!("0011".parse::<Pattern>(), Err(ParseError::Length(4)));
        assert_eq!(
            TEXT.replace('e', "g").parse::<Pattern>(),
            Err(ParseError::Digit('g'))
        );
    }

    #[test]
    fn does_not_match_its_own_disguise() {
        let pattern: Pattern = TEXT.parse().unwrap();
        assert!(!pattern.matches(pattern.inverted()));
        assert_eq!(pattern.find_in(TEXT.as_bytes()).count(), 0);
    }

    #[test]
    fn finds_at_any_offset() {
        let pattern: Pattern = TEXT.parse().unwrap();
        let mut memory = vec![0u8; 100];
        memory[7..23].copy_from_slice(&plain());
        memory[84..].copy_from_slice(&plain());
        assert_eq!(pattern.find_in(&memory).collect::<Vec<_>>(), [7, 84]);
        // Cut off at the end: not there.
        assert_eq!(pattern.find_in(&memory[..99]).collect::<Vec<_>>(), [7]);
    }
}
