// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a page costs: to come, by each way that it can, and to go.

use std::hint;

use crate::{
    Error,
    kind::{self, Kind},
    memory::{Gmem, PAGE_SIZE, Secret, Way},
    meter::{self, Cost},
};

/// The size of the image that is copied to a new guest's memory, in pages: 512 MiB.
const IMAGE: usize = (512 << 20) / PAGE_SIZE;

/// What 4 KiB cost.
///
/// Prints a table, or, with --csv, a line for each row: kernel, memory, what, nanoseconds a page,
/// calls of other CPUs a page.
#[derive(clap::Args)]
pub struct Args {
    /// How many pages come and go in each round.
    #[arg(long, default_value = "4096")]
    pages: usize,
    /// How many rounds are measured, after one that is not. Of blocks 16 times as many: they cost so
    /// little that something else which the kernel does meanwhile would be most of it.
    #[arg(long, default_value = "4")]
    rounds: u32,
}

/// How pages go.
#[derive(Clone, Copy)]
enum End {
    PunchHole,
    Close,
}

/// The rows: what is measured when pages come, in which way, and when they go.
const ROWS: [(Way, &str, End, &str); 5] = [
    (Way::Touch, "user touch", End::PunchHole, "punch hole"),
    (Way::Guest(1), "guest fault", End::Close, "close"),
    (Way::Guest(4), "guest fault by 4 vCPUs", End::Close, ""),
    (Way::Fallocate, "fallocate and touch", End::PunchHole, ""),
    (
        Way::PageByPage,
        "fallocate by pages and touch",
        End::PunchHole,
        "",
    ),
];

/// What a row of each kind costs, in all rounds but the first.
fn measure(args: &Args, kind: Kind, way: Way, end: End) -> Result<(Cost, Cost), Error> {
    let (mut come, mut go) = (Cost::default(), Cost::default());
    let rounds = args.rounds * if kind.order > 0 { 16 } else { 1 };
    for round in 0..=rounds {
        let mut memory = Gmem::new(args.pages, way.vcpus(), kind)?;
        let pages = memory.pages();
        let came = Cost::of(pages, || memory.populate(way))?;
        let went = match end {
            End::PunchHole => Cost::of(pages, || memory.punch_hole())?,
            End::Close => {
                let (memory, _machine) = memory.unbind()?;
                Cost::of(pages, || {
                    drop(memory);
                    Ok(())
                })?
            }
        };
        if round > 0 {
            come += came;
            go += went;
        }
    }
    Ok((come, go))
}

/// What it costs to touch a page that comes after vfree(), in time alone.
fn measure_after_vfree(args: &Args, kind: Kind) -> Result<Cost, Error> {
    let mut come = Cost::default();
    for round in 0..=args.rounds {
        let touched = Gmem::new(args.pages, 1, kind)?.touch_after_vfree()?;
        if round > 0 {
            come += touched;
        }
    }
    Ok(come)
}

/// What it costs to copy an image to a new guest, and, once that has gone, until the next guest
/// has the same memory, cleared: from close(), with fallocate() and a touch.
fn measure_image(kind: Kind) -> Result<(Cost, Cost), Error> {
    let memory = Gmem::new(IMAGE, 1, kind)?;
    let next = Gmem::new(IMAGE, 1, kind)?;
    let copied = Cost::of(IMAGE, || memory.copy())?;
    // The next guest finds no other memory.
    let spare = meter::free_pages()?.saturating_sub(IMAGE / 2);
    let others = hint::black_box(vec![1u8; spare * PAGE_SIZE]);
    let (memory, _machine) = memory.unbind()?;
    let again = Cost::of(IMAGE, || {
        drop(memory);
        next.populate_when_free()
    })?;
    drop(others);
    Ok((copied, again))
}

/// What pages of `memfd_secret()` cost.
fn measure_secret(args: &Args) -> Result<(Cost, Cost), Error> {
    let (mut come, mut go) = (Cost::default(), Cost::default());
    for round in 0..=args.rounds {
        let memory = Secret::new(args.pages)?;
        let came = Cost::of(args.pages, || memory.touch())?;
        let went = Cost::of(args.pages, || {
            drop(memory);
            Ok(())
        })?;
        if round > 0 {
            come += came;
            go += went;
        }
    }
    Ok((come, go))
}

/// Prints a row, in one of two ways.
fn row(csv: Option<&str>, memory: &str, what: &str, cost: Cost) {
    let time = cost.time.as_nanos() as f64 / cost.pages as f64;
    let calls = cost.calls as f64 / cost.pages as f64;
    match csv {
        Some(kernel) => println!("{kernel},{memory},{what},{time:.1},{calls:.3}"),
        None => println!("{memory:<16} {what:<28} {time:>10.0} {calls:>8.3}"),
    }
}

/// Measures all kinds of memory, and prints what comes out.
pub fn run(args: &Args, csv: Option<&str>) -> Result<(), Error> {
    if csv.is_none() {
        println!(
            "{:<16} {:<28} {:>10} {:>8}",
            "per 4 KiB page", "", "ns", "calls"
        );
    }
    let row = |memory, what, cost| row(csv, memory, what, cost);

    for kind in kind::supported()? {
        for (way, coming, end, going) in ROWS {
            // On arm64 the first vCPU that is done stops the others.
            if matches!(way, Way::Guest(2..)) && cfg!(not(target_arch = "x86_64")) {
                continue;
            }
            let (come, go) = measure(args, kind, way, end)?;
            row(kind.name, coming, come);
            if !going.is_empty() {
                row(kind.name, going, go);
            }
        }
        // On arm64 a memslot has no arrays in vmalloc() memory.
        if cfg!(target_arch = "x86_64") && kind.order == 0 {
            let come = measure_after_vfree(args, kind)?;
            row(kind.name, "user touch after vfree()", come);
        }
        let (copied, again) = measure_image(kind)?;
        row(kind.name, "copy of 512 MiB", copied);
        row(kind.name, "close until the next has it", again);
    }
    let (come, go) = measure_secret(args)?;
    row("memfd_secret", "user touch", come);
    row("memfd_secret", "close", go);
    Ok(())
}
