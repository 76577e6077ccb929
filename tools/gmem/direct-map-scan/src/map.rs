// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A picture of the direct map: all RAM in the order of physical addresses, what of it is present,
//! by entries of which size, and where guests are.

use std::{collections::BTreeSet, fmt::Write, ops::Range, path::Path};

use crate::{Error, KCORE, Kind, PAGE_SIZE, Segment, guests, open, page_tables};

/// What a cell of the picture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    NoRam,
    Large,
    Small,
    Partly,
    Absent,
    GuestAbsent,
    GuestPresent,
}

impl Cell {
    /// Those that there is something to say about.
    const LEGEND: [Self; 6] = [
        Self::Large,
        Self::Small,
        Self::Partly,
        Self::Absent,
        Self::GuestAbsent,
        Self::GuestPresent,
    ];

    /// Its character, its colour, and what it means.
    fn look(self) -> (char, &'static str, &'static str) {
        match self {
            Self::Large => ('#', "#30638e", "present, by large entries"),
            Self::Small => ('+', "#8fb8de", "present, by entries of a page"),
            Self::Partly => ('-', "#d9c9a3", "partly absent"),
            Self::Absent => ('.', "#e4e4e4", "absent"),
            Self::GuestAbsent => ('G', "#2e8b57", "a guest's, absent"),
            Self::GuestPresent => ('!', "#d1495b", "a guest's, present"),
            Self::NoRam => (' ', "none", "no RAM"),
        }
    }
}

/// How many pages of a cell are what.
#[derive(Clone, Copy, Default)]
struct Count {
    ram: u64,
    present: u64,
    large: u64,
    guest: u64,
    guest_present: u64,
}

impl Count {
    fn cell(&self) -> Cell {
        match *self {
            Self { ram: 0, .. } => Cell::NoRam,
            Self {
                guest_present: 1.., ..
            } => Cell::GuestPresent,
            // Most of it at least.
            Self { guest, ram, .. } if 2 * guest > ram => Cell::GuestAbsent,
            Self { present: 0, .. } => Cell::Absent,
            Self { present, ram, .. } if present < ram => Cell::Partly,
            Self { large, ram, .. } if 2 * large >= ram => Cell::Large,
            _ => Cell::Small,
        }
    }
}

/// RAM, and how the direct map has it.
pub struct Map {
    /// Physical addresses.
    ram: Vec<Range<u64>>,
    present: Vec<(Range<u64>, u64)>,
    guests: BTreeSet<u64>,
}

impl Map {
    /// Looks at this machine.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; it takes root, debugfs and `/proc/kcore`.
    pub fn read() -> Result<Self, Error> {
        let (_, segments) = open(Path::new(KCORE))?;
        let guests = guests::pages()?;
        Ok(Self::new(&segments, &page_tables::direct_map()?, guests))
    }

    fn new(segments: &[Segment], runs: &[page_tables::Run], guests: BTreeSet<u64>) -> Self {
        let (mut ram, mut present) = (Vec::new(), Vec::new());
        for s in segments.iter().filter(|s| s.kind == Kind::DirectMap) {
            ram.push(s.physical..s.physical + s.size);
            for run in runs.iter().filter(|run| run.present) {
                let virt = run.virt.start.max(s.virt)..run.virt.end.min(s.virt + s.size);
                if !virt.is_empty() {
                    let physical = |virt: u64| virt - s.virt + s.physical;
                    present.push((physical(virt.start)..physical(virt.end), run.entry));
                }
            }
        }
        // Not all kernels have their segments in order; `has` wants them so.
        present.sort_by_key(|(range, _): &(Range<u64>, u64)| range.start);
        Self {
            ram,
            present,
            guests,
        }
    }

    /// The picture in `count` cells, and where it begins and how much one has.
    fn cells(&self, count: u64) -> (Vec<Count>, u64, u64) {
        let start = self.ram.iter().map(|r| r.start).min().unwrap_or(0);
        let end = self.ram.iter().map(|r| r.end).max().unwrap_or(0);
        let pages = (end - start).div_ceil(PAGE_SIZE).div_ceil(count).max(1);
        // So that an entry of 2 MiB is in one, or some are in it.
        let size = pages.next_power_of_two() * PAGE_SIZE;
        let start = start / size * size;
        let mut cells = vec![Count::default(); (end - start).div_ceil(size) as usize];
        let mut add = |range: &Range<u64>, what: &dyn Fn(&mut Count, u64)| {
            let mut at = range.start;
            while at < range.end {
                let index = (at - start) / size;
                let next = range.end.min(start + (index + 1) * size);
                what(&mut cells[index as usize], (next - at).div_ceil(PAGE_SIZE));
                at = next;
            }
        };
        for range in &self.ram {
            add(range, &|cell, pages| cell.ram += pages);
        }
        for (range, entry) in &self.present {
            let large = *entry > PAGE_SIZE;
            add(range, &|cell, pages| {
                cell.present += pages;
                cell.large += if large { pages } else { 0 };
            });
        }
        for &page in &self.guests {
            let exposed = u64::from(self.has(page));
            add(&(page..page + PAGE_SIZE), &|cell, pages| {
                cell.guest += pages;
                cell.guest_present += exposed;
            });
        }
        (cells, start, size)
    }

    /// Does the direct map have this page?
    fn has(&self, page: u64) -> bool {
        let after = self.present.partition_point(|(range, _)| range.end <= page);
        self.present
            .get(after)
            .is_some_and(|(range, _)| range.contains(&page))
    }

    /// The picture for a terminal, of at most `rows` rows.
    pub fn text(&self, rows: u64) -> String {
        const COLUMNS: usize = 64;
        let (cells, start, size) = self.cells(rows * COLUMNS as u64);
        let mut text = String::new();
        for (row, cells) in cells.chunks(COLUMNS).enumerate() {
            let at = start + (row * COLUMNS) as u64 * size;
            let line: String = cells.iter().map(|c| c.cell().look().0).collect();
            let _ = writeln!(text, "{at:#014x}  {}", line.trim_end());
        }
        let _ = writeln!(text, "\n{} KiB a character:", size >> 10);
        for kind in Cell::LEGEND {
            if cells.iter().any(|c| c.cell() == kind) {
                let _ = writeln!(text, "  {}  {}", kind.look().0, kind.look().2);
            }
        }
        let _ = writeln!(text, "{}", self.summary());
        text
    }

    /// What is where, in MiB.
    fn summary(&self) -> String {
        let mib = |pages: u64| (pages * PAGE_SIZE) >> 20;
        let (cells, ..) = self.cells(1);
        let all = cells.iter().fold(Count::default(), |a, c| Count {
            ram: a.ram + c.ram,
            present: a.present + c.present,
            large: a.large + c.large,
            guest: a.guest + c.guest,
            guest_present: a.guest_present + c.guest_present,
        });
        format!(
            "{} MiB of RAM: {} present by large entries, {} by pages, {} absent; guests have {}, \
             {} of them present",
            mib(all.ram),
            mib(all.large),
            mib(all.present - all.large),
            mib(all.ram - all.present.min(all.ram)),
            mib(all.guest),
            mib(all.guest_present)
        )
    }

    /// The picture as SVG.
    pub fn svg(&self) -> String {
        const COLUMNS: usize = 128;
        const SIDE: usize = 6;
        let (cells, start, size) = self.cells(64 * COLUMNS as u64);
        let rows = cells.len().div_ceil(COLUMNS);
        let (width, height) = (COLUMNS * SIDE + 20, rows * SIDE + 98);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
        );
        for (row, cells) in cells.chunks(COLUMNS).enumerate() {
            let mut column = 0;
            for alike in cells.chunk_by(|a, b| a.cell() == b.cell()) {
                if alike[0].cell() != Cell::NoRam {
                    let _ = writeln!(
                        svg,
                        "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{SIDE}\" fill=\"{}\"/>",
                        10 + column * SIDE,
                        10 + row * SIDE,
                        alike.len() * SIDE,
                        alike[0].cell().look().1
                    );
                }
                column += alike.len();
            }
        }
        for (i, kind) in Cell::LEGEND.iter().enumerate() {
            let (x, y) = (10 + i % 3 * 240, rows * SIDE + 20 + i / 3 * 18);
            let (_, colour, what) = kind.look();
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
                 <text x=\"{}\" y=\"{}\">{what}</text>",
                x + 18,
                y + 10
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"10\" y=\"{}\">{}</text>\n\
             <text x=\"10\" y=\"{}\">From {start:#x}, {} KiB a square</text>\n</svg>",
            rows * SIDE + 70,
            self.summary(),
            rows * SIDE + 88,
            size >> 10
        );
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const VIRT: u64 = 0xff11 << 48;

    fn map() -> Map {
        let segment = |physical, size| Segment {
            file_offset: 0,
            physical,
            virt: VIRT + physical,
            size,
            kind: Kind::DirectMap,
        };
        let run = |start, end, entry, present| page_tables::Run {
            virt: VIRT + start..VIRT + end,
            entry,
            present,
        };
        // 4 MiB, a hole of 2, and 4 more.
        Map::new(
            &[segment(0, 4 * MIB), segment(6 * MIB, 4 * MIB)],
            &[
                run(0, 2 * MIB, 2 * MIB, true),
                run(2 * MIB, 3 * MIB, PAGE_SIZE, true),
                run(3 * MIB, 4 * MIB, PAGE_SIZE, false),
                // The direct map may have more than there is RAM.
                run(4 * MIB, 8 * MIB, 2 * MIB, true),
                run(8 * MIB, 9 * MIB, PAGE_SIZE, false),
                run(9 * MIB, 10 * MIB, PAGE_SIZE, true),
            ],
            (8 * MIB..9 * MIB)
                .step_by(PAGE_SIZE as usize)
                .chain([9 * MIB])
                .collect(),
        )
    }

    #[test]
    fn cells_are_what_is_there() {
        let (cells, start, size) = map().cells(10);
        let kinds: Vec<_> = cells.iter().map(Count::cell).collect();
        use Cell::{Absent, GuestAbsent, GuestPresent, Large, NoRam, Small};
        assert_eq!((start, size), (0, MIB));
        assert_eq!(
            kinds,
            [
                Large,
                Large,
                Small,
                Absent,
                NoRam,
                NoRam,
                Large,
                Large,
                GuestAbsent,
                GuestPresent
            ]
        );
    }

    #[test]
    fn pictures_have_them_all() {
        assert!(
            map()
                .text(1)
                .contains("########++++....        ########GGGG!+++\n")
        );
        assert!(map().summary().starts_with(
            "8 MiB of RAM: 4 present by large entries, 2 by pages, 2 absent; guests have 1, 0"
        ));
        let svg = map().svg();
        for kind in [Cell::Large, Cell::Small, Cell::GuestAbsent] {
            assert!(svg.contains(kind.look().1));
        }
    }
}
