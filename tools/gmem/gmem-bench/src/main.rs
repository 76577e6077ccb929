// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a page of guest memory costs: to come, by each way that it can, and to go.
//!
//! Under QEMU's `-icount shift=0` a nanosecond is an instruction, and two runs agree. With more
//! than one CPU, what counts is how often the others are interrupted, to flush their TLBs.

mod memory;
mod meter;

use std::{io, process::ExitCode};

use clap::Parser;
use guest_memfd::{
    GUEST_MEMFD_FLAG_NO_DIRECT_MAP, GUEST_MEMFD_FLAG_PAGE_ORDER, pmd_order, supported_flags,
};
use kvm_ioctls::Kvm;

use crate::{
    memory::{Gmem, SAMPLE, Secret},
    meter::Cost,
};

/// Measure what a page of guest memory costs.
///
/// Prints a table, or, with --csv, a line for each row: kernel, memory, what, nanoseconds a page,
/// calls of other CPUs a page. Memory without a direct map is left out where KVM does not have it.
#[derive(Parser)]
struct Args {
    /// How many pages come and go in each round.
    #[arg(long, default_value = "4096")]
    pages: usize,
    /// How many rounds are measured, after one that is not.
    #[arg(long, default_value = "4")]
    rounds: u32,
    /// Print lines for a program to read, of a kernel of this name.
    #[arg(long)]
    csv: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("KVM: {0}")]
    Kvm(#[from] kvm_ioctls::Error),
    #[error("{}: {}", .0.call, .0.source)]
    Start(tiny_guest::Error),
    #[error("the guest stopped with {0} instead of halting")]
    Exit(String),
    #[error("a thread that runs a vCPU panicked")]
    Thread,
    #[error(transparent)]
    Gmem(#[from] guest_memfd::Error),
    #[error("access to the guest's memory: {0}")]
    Memory(#[from] vm_memory::VolatileMemoryError),
    #[error("{0}: {1}")]
    Call(&'static str, io::Error),
}

/// How pages come.
#[derive(Clone, Copy)]
enum Way {
    Touch,
    Fallocate,
    PageByPage,
    /// With so many vCPUs at once.
    Guest(usize),
}

/// How they go.
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

/// A kind of memory.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    flags: u64,
    order: u32,
}

/// What a row of each kind costs, in all rounds but the first.
fn measure(args: &Args, kind: Kind, way: Way, end: End) -> Result<(Cost, Cost), Error> {
    let (mut come, mut go) = (Cost::default(), Cost::default());
    for round in 0..=args.rounds {
        let vcpus = if let Way::Guest(vcpus) = way {
            vcpus
        } else {
            1
        };
        let mut memory = Gmem::new(args.pages, vcpus, kind.flags, kind.order)?;
        let came = Cost::of(|| match way {
            Way::Touch => memory.touch(),
            Way::Fallocate => {
                memory.fallocate(0, args.pages.next_multiple_of(memory.block()))?;
                memory.touch()
            }
            Way::PageByPage => {
                let block = memory.block();
                (0..args.pages)
                    .step_by(block)
                    .try_for_each(|page| memory.fallocate(page, block))?;
                memory.touch()
            }
            Way::Guest(_) => memory.run(),
        })?;
        let went = match end {
            End::PunchHole => Cost::of(|| memory.punch_hole())?,
            End::Close => {
                let (memory, _machine) = memory.unbind()?;
                Cost::of(|| {
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
fn measure_after_vfree(args: &Args, flags: u64) -> Result<Cost, Error> {
    let mut come = Cost::default();
    for round in 0..=args.rounds {
        let time = Gmem::new(args.pages, 1, flags, 0)?.touch_after_vfree()?;
        if round > 0 {
            come.time += time * SAMPLE as u32;
        }
    }
    Ok(come)
}

/// The same of `memfd_secret()`.
fn measure_secret(args: &Args) -> Result<(Cost, Cost), Error> {
    let (mut come, mut go) = (Cost::default(), Cost::default());
    for round in 0..=args.rounds {
        let memory = Secret::new(args.pages)?;
        let came = Cost::of(|| memory.touch())?;
        let went = Cost::of(|| {
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

/// Prints what comes out, in one of two ways.
struct Table<'a> {
    args: &'a Args,
}

impl<'a> Table<'a> {
    fn new(args: &'a Args) -> Self {
        if args.csv.is_none() {
            println!(
                "{:<16} {:<26} {:>10} {:>8}",
                "per 4 KiB page", "", "ns", "calls"
            );
        }
        Self { args }
    }

    fn row(&self, memory: &str, what: &str, cost: Cost) {
        let pages = f64::from(self.args.rounds) * self.args.pages as f64;
        let time = cost.time.as_nanos() as f64 / pages;
        let calls = cost.calls as f64 / pages;
        match &self.args.csv {
            Some(kernel) => println!("{kernel},{memory},{what},{time:.1},{calls:.3}"),
            None => println!("{memory:<16} {what:<26} {time:>10.0} {calls:>8.3}"),
        }
    }
}

fn run(args: &Args) -> Result<(), Error> {
    let supported = supported_flags(&Kvm::new()?.create_vm()?).0;
    let table = Table::new(args);

    let order = pmd_order().unwrap_or(0);
    let kind = |name, flags, order| Kind { name, flags, order };
    for kind in [
        kind("direct map", 0, 0),
        kind("no direct map", GUEST_MEMFD_FLAG_NO_DIRECT_MAP, 0),
        kind("direct map 2M", GUEST_MEMFD_FLAG_PAGE_ORDER, order),
        kind(
            "no direct map 2M",
            GUEST_MEMFD_FLAG_NO_DIRECT_MAP | GUEST_MEMFD_FLAG_PAGE_ORDER,
            order,
        ),
    ] {
        if kind.flags & !supported != 0 {
            continue;
        }
        for (way, coming, end, going) in ROWS {
            // On arm64 the first vCPU that is done stops the others.
            if matches!(way, Way::Guest(2..)) && cfg!(not(target_arch = "x86_64")) {
                continue;
            }
            let (come, go) = measure(args, kind, way, end)?;
            table.row(kind.name, coming, come);
            if !going.is_empty() {
                table.row(kind.name, going, go);
            }
        }
        // On arm64 a memslot has no arrays in vmalloc() memory.
        if cfg!(target_arch = "x86_64") && kind.order == 0 {
            let come = measure_after_vfree(args, kind.flags)?;
            table.row(kind.name, "user touch after vfree()", come);
        }
    }
    let (come, go) = measure_secret(args)?;
    table.row("memfd_secret", "user touch", come);
    table.row("memfd_secret", "close", go);
    Ok(())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
