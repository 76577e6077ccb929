// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Allocations, and functions of the page cache, that fail.

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

/// Functions of the page cache and of the direct map that fail at random.
pub struct Functions(());

const FAIL_FUNCTION: &str = "/sys/kernel/debug/fail_function";

/// Those that have an error to return, and do not let go of a page without its entry.
pub const FUNCTIONS: [&str; 4] = [
    "__filemap_add_folio",
    "folio_zap_direct_map",
    "folio_batch_zap_direct_map",
    "folio_restore_direct_map",
];

impl Functions {
    /// Has each of `functions` fail in `percent` of its calls, for anybody, with `ENOMEM`.
    pub fn new(functions: &[&str], percent: u8) -> Result<Self, Error> {
        let set = |file: &str, value: &str| {
            fs::write(format!("{FAIL_FUNCTION}/{file}"), value)
                .map_err(call("setting up fail_function in debugfs"))
        };
        let this = Self(());
        for function in functions {
            set("inject", function)?;
            set(&format!("{function}/retval"), "0xfffffffffffffff4")?;
        }
        for (file, value) in [
            ("task-filter", "N"),
            ("interval", "1"),
            ("space", "0"),
            ("times", "-1"),
            ("verbose", "0"),
            ("probability", &percent.to_string()),
        ] {
            set(file, value)?;
        }
        Ok(this)
    }
}

impl Drop for Functions {
    fn drop(&mut self) {
        // Nothing can be done about it if this fails; what is counted then will tell.
        let _ = fs::write(format!("{FAIL_FUNCTION}/probability"), "0");
        let _ = fs::write(format!("{FAIL_FUNCTION}/inject"), "\n");
    }
}
