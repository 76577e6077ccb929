// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Standard input as the keyboard of the guest's console.

use std::{io::Read, os::fd::RawFd};

use vmm_sys_util::terminal::Terminal;

/// Ctrl-A: what follows is for the VMM.
const ESCAPE: u8 = 1;

/// Standard input, without the lock that the one who reads it holds.
struct Stdin;

// SAFETY: It is a descriptor that this process does not close.
unsafe impl Terminal for Stdin {
    fn tty_fd(&self) -> RawFd {
        libc::STDIN_FILENO
    }
}

/// Standard input, in raw mode if it is a terminal, until this goes out of scope.
pub struct RawTerminal {
    changed: bool,
}

impl RawTerminal {
    pub fn new() -> Self {
        // It fails if this is no terminal: then there is no mode to change.
        Self {
            changed: Stdin.set_raw_mode().is_ok(),
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if self.changed {
            let _ = Stdin.set_canon_mode();
        }
    }
}

/// What came from the keyboard.
#[derive(Debug, PartialEq)]
pub enum Input {
    /// For the guest.
    Keys(Vec<u8>),
    /// Ctrl-A X.
    Quit,
    /// Nothing more will come.
    End,
}

/// Tells what is for the guest from what is for the VMM.
#[derive(Default)]
pub struct Keyboard {
    escaped: bool,
}

impl Keyboard {
    /// Waits for input.
    pub fn read(&mut self, mut from: impl Read) -> Input {
        let mut buffer = [0; 64];
        match from.read(&mut buffer) {
            Ok(0) | Err(_) => Input::End,
            Ok(len) => self.split(&buffer[..len]),
        }
    }

    fn split(&mut self, bytes: &[u8]) -> Input {
        let mut keys = Vec::new();
        for &byte in bytes {
            match (self.escaped, byte) {
                (false, ESCAPE) => {
                    self.escaped = true;
                    continue;
                }
                (true, b'x' | b'X') => return Input::Quit,
                // Twice is once for the guest.
                (true, ESCAPE) | (false, _) => keys.push(byte),
                (true, _) => keys.extend([ESCAPE, byte]),
            }
            self.escaped = false;
        }
        Input::Keys(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_is_for_the_vmm() {
        let mut keyboard = Keyboard::default();
        let keys = |text: &[u8]| Input::Keys(text.to_vec());
        assert_eq!(keyboard.read(&b"ls\n"[..]), keys(b"ls\n"));
        assert_eq!(keyboard.read(&b"a\x01"[..]), keys(b"a"));
        assert_eq!(keyboard.read(&b"\x01b"[..]), keys(b"\x01b"));
        assert_eq!(keyboard.read(&b"\x01c"[..]), keys(b"\x01c"));
        assert_eq!(keyboard.read(&b"\x01"[..]), keys(b""));
        assert_eq!(keyboard.read(&b"x"[..]), Input::Quit);
        assert_eq!(Keyboard::default().read(&b""[..]), Input::End);
    }
}
