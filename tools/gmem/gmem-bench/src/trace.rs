// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Trace events, counted by the kernel: it knows how many it has logged, even if they are
//! overwritten.

use std::{fs, path::PathBuf};

use crate::Error;

const TRACING: &str = "/sys/kernel/tracing";

/// An event that is counted as long as this exists.
pub struct Event {
    /// Of an instance of tracing that has no other event.
    dir: PathBuf,
}

impl Event {
    /// Starts counting the events `name` of `group` that pass `filter`. [`None`] if the kernel does
    /// not have the event, or what the filter names.
    pub fn count(group: &str, name: &str, filter: &str) -> Option<Self> {
        let dir = PathBuf::from(TRACING)
            .join("instances")
            .join(format!("gmem-bench-{name}"));
        fs::create_dir(&dir).ok()?;
        let event = Self { dir };
        let control = event.dir.join("events").join(group).join(name);
        fs::write(control.join("filter"), filter).ok()?;
        fs::write(control.join("enable"), "1").ok()?;
        Some(event)
    }

    /// How many there were so far.
    pub fn so_far(&self) -> Result<u64, Error> {
        let read = || {
            let mut sum = 0;
            for cpu in fs::read_dir(self.dir.join("per_cpu"))? {
                sum += logged(&fs::read_to_string(cpu?.path().join("stats"))?);
            }
            Ok(sum)
        };
        read().map_err(|e| Error::Call("tracing/per_cpu/*/stats", e))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // If that fails, the next one with that name cannot be counted.
        let _ = fs::remove_dir(&self.dir);
    }
}

/// How many events a CPU has logged, those that are there and those that were overwritten.
fn logged(stats: &str) -> u64 {
    stats
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| ["entries", "overrun"].contains(name))
        .filter_map(|(_, number)| number.trim().parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overwritten_events_count() {
        let stats = "entries: 12\noverrun: 30\ncommit overrun: 5\nbytes: 7\n\
                     oldest event ts:     1.000002\ndropped events: 3\nread events: 0\n";
        assert_eq!(logged(stats), 42);
    }
}
