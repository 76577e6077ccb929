// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What happens to the host's direct map and TLBs when a GiB of guest memory comes and goes.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    Error,
    kind::{self, Kind},
    memory::{Gmem, PAGE_SIZE, Way},
    meter::{calls, vmstat},
    trace::Event,
};

const GIB: usize = (1 << 30) / PAGE_SIZE;

/// How long entries have to be joined again after the memory is freed.
const JOINING: Duration = Duration::from_secs(20);

/// Functions that flush the TLB on all CPUs, with which others are called.
const FLUSHES: &str = "func.function == do_flush_tlb_all || func.function == do_kernel_range_flush";

/// What a GiB costs, in operations.
///
/// Prints a table, or, with --csv, a line for each row: kernel, memory, what, pages out of the
/// direct map, removals, flushes of all TLBs, calls of other CPUs, entries split, and entries that
/// are still split 20 s after the memory was freed. "-" is what this kernel does not count: removals
/// and flushes take trace events, flushes also other CPUs to call (x86), and split entries take
/// counters in /proc/vmstat (x86).
///
/// Run it on a host whose direct map is whole. Rows are in an order in which those that split
/// entries come last; where these are not joined again, only the first of them finds any to split.
#[derive(clap::Args)]
pub struct Args {
    /// How many pages come and go. The numbers are for a GiB all the same.
    #[arg(long, default_value_t = GIB)]
    pages: usize,
}

/// The rows.
const ROWS: [(Way, &str); 3] = [
    (Way::Touch, "user touch"),
    (Way::Guest(1), "guest fault"),
    (Way::Fallocate, "fallocate and touch"),
];

/// Counted operations; [`None`] is not counted by this kernel.
type Count = Option<u64>;

/// What is counted when `pages` pages come, and what is left of that when they have gone.
fn measure(pages: usize, kind: Kind, way: Way) -> Result<[Count; 6], Error> {
    let whole = split()?;
    let mut memory = Gmem::new(pages, way.vcpus(), kind)?;
    let pages = memory.pages();
    let removed = Event::count("no_direct_map", "folio_zap_direct_map", "err == 0");
    let flushed = Event::count("csd", "csd_queue_cpu", FLUSHES);

    let before = (vmstat("nr_no_direct_map")?, splits()?, calls()?);
    memory.populate(way)?;
    let after = (vmstat("nr_no_direct_map")?, splits()?, calls()?);

    let so_far = |event: Option<Event>| event.map(|event| event.so_far()).transpose();
    let removals = so_far(removed)?;
    let others = thread::available_parallelism().map_or(0, |cpus| cpus.get() as u64 - 1);
    let flushes = so_far(flushed)?.and_then(|calls| calls.checked_div(others));
    drop(memory);
    Ok([
        more(before.0, after.0),
        removals,
        flushes,
        Some(after.2 - before.2),
        more(before.1, after.1),
        still_split(whole)?,
    ]
    .map(|count| count.map(|count| (count * GIB as u64).div_ceil(pages as u64))))
}

/// By how much a counter has grown.
fn more(before: Count, after: Count) -> Count {
    Some(after?.saturating_sub(before?))
}

/// Entries of 2 MiB of the direct map that were split so far. How many of 1 GiB are split does not
/// depend on the number of pages alone.
fn splits() -> Result<Count, Error> {
    vmstat("direct_map_level2_splits")
}

/// Entries that were split, without those that were joined again.
fn split() -> Result<Count, Error> {
    let joined = vmstat("direct_map_level2_collapses")?;
    Ok(more(joined, splits()?))
}

/// How many entries more are split than in the beginning, when the kernel has had time to join
/// them.
fn still_split(whole: Count) -> Result<Count, Error> {
    let freed = Instant::now();
    loop {
        let left = more(whole, split()?);
        if matches!(left, None | Some(0)) || freed.elapsed() >= JOINING {
            return Ok(left);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn row(csv: Option<&str>, memory: &str, what: &str, counts: [Count; 6]) {
    let counts = counts.map(|count| count.map_or_else(|| "-".into(), |count| count.to_string()));
    match csv {
        Some(kernel) => println!("{kernel},{memory},{what},{}", counts.join(",")),
        None => print_columns(memory, what, &counts.each_ref().map(String::as_str)),
    }
}

fn print_columns(memory: &str, what: &str, columns: &[&str; 6]) {
    print!("{memory:<16} {what:<20}");
    for column in columns {
        print!(" {column:>10}");
    }
    println!();
}

/// Measures all kinds of memory, and prints what comes out.
pub fn run(args: &Args, csv: Option<&str>) -> Result<(), Error> {
    if csv.is_none() {
        let columns = [
            "hidden",
            "removals",
            "flushes",
            "calls",
            "split",
            "left split",
        ];
        print_columns("per GiB", "", &columns);
    }
    let mut kinds: Vec<_> = kind::supported()?.collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.order));
    for kind in kinds {
        for (way, what) in ROWS {
            row(csv, kind.name, what, measure(args.pages, kind, way)?);
        }
    }
    Ok(())
}
