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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_x86() {
        const BASE: u64 = 0xffff_8880_0000_0000;

        let text = "\
---[ User Space ]---
0x0000000000000000-0x00007fffffffffff  128T  RW  pgd
---[ Low Kernel Mapping ]---
0xffff888000098000-0xffff888000099000   4K     ro                 GLB NX pte
0xffff888000200000-0xffff888001000000  14M     RW         PSE     GLB NX pmd
0xffff888001000000-0xffff888001001000   4K                               pte
---[ vmalloc() Area ]---
0xffffc90000000000-0xffffc90000001000   4K     RW                 GLB NX pte
";
        let run = |start, end, entry, present| Run {
            virt: BASE + start..BASE + end,
            entry,
            present,
        };
        assert_eq!(
            parse(text),
            [
                run(0x98000, 0x99000, 4 << 10, true),
                run(0x20_0000, 0x100_0000, 2 << 20, true),
                run(0x100_0000, 0x100_1000, 4 << 10, false),
            ]
        );
    }

    #[test]
    fn reads_arm64_with_entries_that_are_invalid() {
        let text = "\
---[ Linear Mapping start ]---
0xfff0000000200000-0xfff0000000b30000  9408K PTE       ro NX     AF            UXN    MEM/NORMAL
0xfff0000000bf0000-0xfff00000017e8000 12256K PTE F     RW NX     AF NG         UXN    MEM/NORMAL-TAGGED
0xfff0000040000000-0xfff0008000000000   511G PUD
---[ Linear Mapping end ]---
";
        let found: Vec<_> = parse(text).iter().map(|r| (r.entry, r.present)).collect();
        assert_eq!(found, [(4 << 10, true), (4 << 10, false), (1 << 30, false)]);
    }
}
