// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is left behind.

use std::{fs, thread, time::Duration};

use crate::{Error, call};

/// Free memory and the direct map, as the kernel counts them.
pub struct Left {
    free_kib: u64,
    absent: i64,
}

/// Memory that comes and goes by itself: a page for each ten rounds that lose one is more.
const NOISE_KIB: u64 = 4 * 1024;

/// Reads a number behind `name` at the beginning of a line.
fn number(text: &str, name: &str) -> Option<i64> {
    text.lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .find(|(key, _)| key.trim_end_matches(':') == name)
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
}

impl Left {
    /// Counts, after what is freed later has been.
    pub fn now() -> Result<Self, Error> {
        thread::sleep(Duration::from_secs(2));
        fs::write("/proc/sys/vm/drop_caches", "3").map_err(call("drop_caches"))?;
        let memory = fs::read_to_string("/proc/meminfo").map_err(call("/proc/meminfo"))?;
        let vmstat = fs::read_to_string("/proc/vmstat").map_err(call("/proc/vmstat"))?;
        let count = |name| {
            number(&vmstat, name).ok_or_else(|| Error::Left(format!("no {name} in /proc/vmstat")))
        };
        Ok(Self {
            free_kib: number(&memory, "MemFree").unwrap_or(0).unsigned_abs(),
            absent: count("direct_map_zapped")?
                - count("direct_map_restored")?
                - count("direct_map_leaked")?,
        })
    }

    /// Compares with how it is now.
    pub fn check(&self) -> Result<(), Error> {
        let now = Self::now()?;
        println!(
            "stress: {} KiB free before, {} after; {} pages out of the direct map",
            self.free_kib, now.free_kib, now.absent
        );
        if now.absent != 0 {
            return Err(Error::Left(format!(
                "{} pages did not come back to the direct map",
                now.absent
            )));
        }
        if now.free_kib + NOISE_KIB < self.free_kib {
            return Err(Error::Left(format!(
                "{} KiB are gone",
                self.free_kib - now.free_kib
            )));
        }
        match fs::write("/sys/kernel/debug/kmemleak", "scan") {
            // A kernel without it.
            Err(_) => return Ok(()),
            // What is new is believed at the second scan.
            Ok(()) => thread::sleep(Duration::from_secs(6)),
        }
        fs::write("/sys/kernel/debug/kmemleak", "scan").map_err(call("kmemleak"))?;
        let leaks = fs::read_to_string("/sys/kernel/debug/kmemleak").map_err(call("kmemleak"))?;
        println!(
            "stress: kmemleak has {} reports",
            leaks.matches("unreferenced object").count()
        );
        if leaks.is_empty() {
            Ok(())
        } else {
            Err(Error::Left(leaks))
        }
    }
}
