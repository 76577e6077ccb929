// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::{
    io::{self, Stdout},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use vm_superio::{Serial, serial::NoEvents};

use super::Interrupt;
use crate::terminal::{Input, Keyboard};

/// The bytes of address space, or the ports, that it has.
pub const SIZE: u64 = 8;

/// A 16550 serial port, which writes to standard output.
pub struct Console(Mutex<Serial<Interrupt, NoEvents, Stdout>>);

impl Console {
    pub(super) fn new(interrupt: Interrupt) -> Self {
        Self(Mutex::new(Serial::new(interrupt, io::stdout())))
    }

    fn with<R>(&self, act: impl FnOnce(&mut Serial<Interrupt, NoEvents, Stdout>) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A vCPU reads a register.
    pub fn read(&self, register: u64, data: &mut [u8]) {
        if let ([byte], 0..SIZE) = (data, register) {
            *byte = self.with(|serial| serial.read(register as u8));
        }
    }

    /// A vCPU writes a register.
    pub fn write(&self, register: u64, data: &[u8]) {
        if let (&[byte], 0..SIZE) = (data, register) {
            // If nobody reads standard output any more, the guest goes on without.
            let _ = self.with(|serial| serial.write(register as u8, byte));
        }
    }

    /// Passes on what comes from standard input, until it ends. Returns whether that is what
    /// the user asked for.
    pub fn type_in(&self) -> bool {
        let mut keyboard = Keyboard::default();
        loop {
            match keyboard.read(io::stdin()) {
                Input::Keys(keys) => self.enter(&keys),
                Input::Quit => return true,
                Input::End => return false,
            }
        }
    }

    /// Puts bytes into the port's queue, as there is room.
    fn enter(&self, mut keys: &[u8]) {
        while !keys.is_empty() {
            let len = self.with(|serial| {
                let len = keys.len().min(serial.fifo_capacity());
                // It is in loopback mode, or there is no interrupt: the key is lost.
                let _ = serial.enqueue_raw_bytes(&keys[..len]);
                len
            });
            keys = &keys[len..];
            if !keys.is_empty() {
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
