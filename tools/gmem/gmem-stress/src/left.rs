// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is left behind.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use direct_map_scan::page_tables;

use crate::{Error, call};

/// Memory and the direct map, as the kernel counts them.
pub struct Left {
    /// What is in `/proc/meminfo`, in KiB.
    memory: BTreeMap<String, i64>,
    free_kib: i64,
    /// Pages out of the direct map that will come back, and leaked pages, which will not.
    absent: i64,
    leaked: i64,
    /// Pages that the kernel's page tables have in the direct map.
    present: i64,
    /// Large entries of the direct map that are split, in a kernel that joins them (x86).
    split: Option<i64>,
}

/// Memory that comes and goes by itself: a page for each ten rounds that lose one is more.
const NOISE_KIB: i64 = 4 * 1024;

/// Entries that are split by others, such as modules that are loaded.
const NOISE_ENTRIES: i64 = 16;

/// The longest that joining entries takes.
const JOINING: Duration = Duration::from_secs(30);

/// What is between two scans of kmemleak, which believes only in what is older.
const OLD: Duration = Duration::from_secs(6);

const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";

fn read(path: &'static str) -> Result<String, Error> {
    fs::read_to_string(path).map_err(call(path))
}

/// The numbers behind names, a line each.
fn numbers(text: &str) -> BTreeMap<String, i64> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?.trim_end_matches(':').to_owned();
            Some((name, words.next()?.parse().ok()?))
        })
        .collect()
}

/// Large entries that were split, without those that were joined again.
fn split_entries() -> Result<Option<i64>, Error> {
    let vmstat = numbers(&read("/proc/vmstat")?);
    let count = |name| vmstat.get(name).copied();

    Ok(count("direct_map_level2_splits")
        .zip(count("direct_map_level2_collapses"))
        .map(|(splits, collapses)| splits - collapses))
}

/// Memory of objects that were freed, but that KASAN keeps for a while: at most a 32nd of all.
fn kept_by_kasan(memory: &BTreeMap<String, i64>) -> Result<i64, Error> {
    let symbols = read("/proc/kallsyms")?;
    let kept = symbols
        .lines()
        .any(|line| line.ends_with(" kasan_quarantine_put"));

    let total = memory.get("MemTotal").copied().unwrap_or(0);
    Ok(if kept { total / 32 } else { 0 })
}

/// Pages that are free, but kept by a CPU for itself.
fn kept_by_cpus(zoneinfo: &str) -> i64 {
    zoneinfo
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("count:"))
        .filter_map(|count| count.trim().parse::<i64>().ok())
        .sum()
}

impl Left {
    /// Counts, after what is freed later has been.
    pub fn now() -> Result<Self, Error> {
        thread::sleep(Duration::from_secs(2));
        fs::write("/proc/sys/vm/drop_caches", "3").map_err(call("drop_caches"))?;
        let memory = numbers(&read("/proc/meminfo")?);
        let vmstat = numbers(&read("/proc/vmstat")?);
        let count = |name| {
            let number = vmstat.get(name).copied();
            number.ok_or_else(|| Error::Left(format!("no {name} in /proc/vmstat")))
        };
        Ok(Self {
            free_kib: memory.get("MemFree").copied().unwrap_or(0)
                + 4 * kept_by_cpus(&read("/proc/zoneinfo")?),
            absent: count("nr_no_direct_map")? - count("direct_map_leaked")?,
            leaked: count("direct_map_leaked")?,
            present: page_tables::direct_map()?
                .iter()
                .filter(|run| run.present)
                .map(|run| (run.virt.end - run.virt.start) as i64 / 4096)
                .sum(),
            split: split_entries()?,
            memory,
        })
    }

    /// Compares with how it is now.
    pub fn check(&self) -> Result<(), Error> {
        let now = Self::now()?;
        let leaked = now.leaked - self.leaked;
        println!(
            "stress: {} KiB free before, {} after; {} pages out of the direct map, {leaked} leaked \
             on purpose; of {} pages in the page tables {} are left",
            self.free_kib, now.free_kib, now.absent, self.present, now.present
        );
        if now.absent != 0 {
            return Err(Error::Left(format!(
                "{} pages did not come back to the direct map",
                now.absent
            )));
        }
        if now.present == 0 || now.present + leaked != self.present {
            return Err(Error::Left("the page tables are not whole".into()));
        }
        self.joined(leaked)?;
        now.unreferenced()?;
        let kept = kept_by_kasan(&now.memory)?;
        if now.free_kib + 4 * leaked + NOISE_KIB + kept < self.free_kib {
            let kinds: String = now
                .memory
                .iter()
                .map(|(name, kib)| (name, kib - self.memory.get(name).unwrap_or(&0)))
                .filter(|(_, change)| change.abs() >= 256)
                .map(|(name, change)| format!("\n    {name} {change:+}"))
                .collect();
            return Err(Error::Left(format!(
                "{} KiB are gone; in /proc/meminfo: {kinds}",
                self.free_kib - now.free_kib
            )));
        }
        Ok(())
    }

    /// Waits until entries that were split meanwhile are joined, except those with a leaked page.
    fn joined(&self, leaked: i64) -> Result<(), Error> {
        let begun = Instant::now();
        let Some(before) = self.split else {
            return Ok(());
        };
        loop {
            let split = split_entries()?.unwrap_or(before);
            if split <= before + leaked + NOISE_ENTRIES {
                println!("stress: {before} large entries split before, {split} after");
                return Ok(());
            }
            if begun.elapsed() > JOINING {
                return Err(Error::Left(format!(
                    "{split} large entries of the direct map are split, {before} before"
                )));
            }
            thread::sleep(Duration::from_secs(1));
        }
    }

    /// Asks kmemleak, in a kernel that has it.
    fn unreferenced(&self) -> Result<(), Error> {
        for _ in 0..2 {
            if fs::write(KMEMLEAK, "scan").is_err() {
                return Ok(());
            }
            thread::sleep(OLD);
        }
        let leaks = read(KMEMLEAK)?;
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
