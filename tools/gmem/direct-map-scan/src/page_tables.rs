// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The kernel's page tables, as debugfs shows them (CONFIG_PTDUMP_DEBUGFS).

use std::{fs, ops::Range};

use crate::Error;

const PATHS: [&str; 2] = [
    "/sys/kernel/debug/page_tables/kernel",
    "/sys/kernel/debug/kernel_page_tables",
];

/// A range of the direct map whose entries are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Virtual addresses.
    pub virt: Range<u64>,
    /// Bytes that one entry maps, or would.
    pub entry: u64,
    /// Whether there is something mapped.
    pub present: bool,
}

/// Reads the direct map of this machine.
///
/// # Errors
///
/// [`Error::Open`] if debugfs does not show it, [`Error::NoDirectMap`] if what it shows is not
/// understood.
pub fn direct_map() -> Result<Vec<Run>, Error> {
    let text = fs::read_to_string(PATHS[0])
        .or_else(|_| fs::read_to_string(PATHS[1]))
        .map_err(|source| Error::Open {
            path: PATHS[1].into(),
            source,
        })?;
    let runs = parse(&text);
    if runs.iter().any(|run| run.present) {
        Ok(runs)
    } else {
        Err(Error::NoDirectMap)
    }
}

fn parse(text: &str) -> Vec<Run> {
    let mut inside = false;
    let mut runs = Vec::new();
    for line in text.lines() {
        if line.starts_with("---[") {
            inside = line.contains("Low Kernel Mapping") || line.contains("Linear Mapping start");
        } else if inside {
            runs.extend(parse_line(line));
        }
    }
    runs
}

fn parse_line(line: &str) -> Option<Run> {
    let address = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let has = |word: &str| {
        line.split_whitespace()
            .any(|w| w.eq_ignore_ascii_case(word))
    };
    Some(Run {
        virt: address(start)?..address(end)?,
        entry: match () {
            () if has("pmd") => 2 << 20,
            () if has("pud") => 1 << 30,
            () => 4 << 10,
        },
        // arm64 shows entries that were made invalid too, with an F.
        present: (has("RW") || has("ro")) && !has("F"),
    })
}
