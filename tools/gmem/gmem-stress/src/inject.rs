// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Allocations of the kernel that fail.

use std::{
    fs::{self, File},
    io::{Read, Write},
};

use crate::{Error, call};

/// The kernel's fault injection, set up for allocations of any kind in this thread.
pub struct Injector(());

const NTH: &str = "/proc/thread-self/fail-nth";

impl Injector {
    /// Sets it up. Nothing fails by that alone.
    pub fn new() -> Result<Self, Error> {
        // By default the allocator is spared where it may wait, and for larger orders.
        for (file, value) in [
            ("failslab/ignore-gfp-wait", "N"),
            ("failslab/verbose", "0"),
            ("fail_page_alloc/ignore-gfp-wait", "N"),
            ("fail_page_alloc/ignore-gfp-highmem", "N"),
            ("fail_page_alloc/min-order", "0"),
            ("fail_page_alloc/verbose", "0"),
        ] {
            fs::write(format!("/sys/kernel/debug/{file}"), value)
                .map_err(call("setting up fault injection in debugfs"))?;
        }
        Ok(Self(()))
    }

    /// Calls `f`, in which the `nth` allocation of this thread fails, counted from 1. Returns what
    /// it returned, and whether there was one.
    pub fn fail_nth<T>(&self, nth: u32, f: impl FnOnce() -> T) -> Result<(T, bool), Error> {
        // Opening a file allocates: so both are open before. (It has no position to go back to.)
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .open(NTH)
                .map_err(call("opening fail-nth"))
        };
        let (mut to, mut from) = (open()?, open()?);
        to.write_all(nth.to_string().as_bytes())
            .map_err(call("writing fail-nth"))?;
        let result = f();

        let mut left = [0; 16];
        let len = from.read(&mut left).map_err(call("reading fail-nth"))?;
        to.write_all(b"0").map_err(call("resetting fail-nth"))?;
        Ok((result, left[..len].starts_with(b"0")))
    }
}
