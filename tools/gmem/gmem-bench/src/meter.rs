// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Time, calls from other CPUs, and what the kernel counts.

use std::{
    fs, io,
    ops::AddAssign,
    time::{Duration, Instant},
};

use crate::{Error, memory::PAGE_SIZE};

/// What something cost that was done to so many pages.
#[derive(Default, Clone, Copy)]
pub struct Cost {
    pub time: Duration,
    pub calls: u64,
    pub pages: usize,
}

impl Cost {
    /// Calls `f`, which does something to `pages` pages, and returns what that cost.
    pub fn of(pages: usize, f: impl FnOnce() -> Result<(), Error>) -> Result<Self, Error> {
        let before = calls()?;
        let mut result = Ok(());
        let cost = Self::of_time(pages, || result = f());
        result?;
        Ok(Self {
            calls: calls()? - before,
            ..cost
        })
    }

    /// The same in time alone.
    pub fn of_time(pages: usize, f: impl FnOnce()) -> Self {
        let start = Instant::now();
        f();
        Self {
            time: start.elapsed(),
            calls: 0,
            pages,
        }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.time += other.time;
        self.calls += other.calls;
        self.pages += other.pages;
    }
}

/// Calls of functions that CPUs got from others, so far. That is how x86 calls their TLBs; arm64
/// has no need to ask them.
pub fn calls() -> Result<u64, Error> {
    Ok(read("/proc/interrupts")?
        .lines()
        .filter(|line| line.ends_with("Function call interrupts"))
        .flat_map(|line| line.split_whitespace())
        .filter_map(|word| word.parse::<u64>().ok())
        .sum())
}

/// A counter of `/proc/vmstat`, if this kernel has it.
pub fn vmstat(name: &str) -> Result<Option<u64>, Error> {
    Ok(read("/proc/vmstat")?
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(counter, _)| *counter == name)
        .and_then(|(_, number)| number.parse().ok()))
}

fn read(path: &'static str) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|e| Error::Call(path, e))
}

/// How many pages of this machine are free.
pub fn free_pages() -> Result<usize, Error> {
    let mut info = std::mem::MaybeUninit::<libc::sysinfo>::uninit();
    // SAFETY: The structure is valid for writes.
    if unsafe { libc::sysinfo(info.as_mut_ptr()) } != 0 {
        return Err(Error::Call("sysinfo", io::Error::last_os_error()));
    }
    // SAFETY: sysinfo() has filled it.
    let info = unsafe { info.assume_init() };
    Ok(info.freeram as usize * info.mem_unit as usize / PAGE_SIZE)
}
