// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What it costs to populate guest memory and to free it, per page: with a direct map and without,
//! many pages at once, one by one, and by touching them.
//!
//! Under QEMU's `-icount shift=0` a nanosecond is an instruction, and two runs agree. With more
//! than one CPU, what counts is how often the others are interrupted, to flush their TLBs.

use std::{
    fs, io,
    os::fd::AsRawFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use guest_memfd::{
    GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP, GUEST_MEMFD_FLAG_NO_DIRECT_MAP, GuestMemfd,
};
use kvm_ioctls::Kvm;

const PAGE_SIZE: usize = 4096;

/// Measure what a page of guest memory costs.
#[derive(Parser)]
struct Args {
    /// How many pages are populated and freed in each round.
    #[arg(long, default_value = "4096")]
    pages: usize,
    /// How many rounds are measured, after one that is not.
    #[arg(long, default_value = "4")]
    rounds: u32,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("KVM: {0}")]
    Kvm(#[from] kvm_ioctls::Error),
    #[error(transparent)]
    Gmem(#[from] guest_memfd::Error),
    #[error("fallocate: {0}")]
    Fallocate(io::Error),
    #[error("/proc/interrupts: {0}")]
    Interrupts(io::Error),
}

/// How pages come.
#[derive(Clone, Copy)]
enum Way {
    AllAtOnce,
    PageByPage,
    Touch,
}

impl Way {
    const ALL: [(Self, &'static str); 3] = [
        (Self::AllAtOnce, "fallocate, all at once"),
        (Self::PageByPage, "fallocate, page by page"),
        (Self::Touch, "first touch"),
    ];
}

/// What was counted over some time.
#[derive(Default, Clone, Copy)]
struct Cost {
    time: Duration,
    calls: u64,
}

impl Cost {
    /// Calls `f` and adds what it costs.
    fn add(&mut self, f: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        let before = calls()?;
        let start = Instant::now();
        f()?;
        self.time += start.elapsed();
        self.calls += calls()? - before;
        Ok(())
    }
}

/// Calls of functions that CPUs got from others, so far. That is how x86 calls their TLBs; arm64
/// has no need to ask them.
fn calls() -> Result<u64, Error> {
    let text = fs::read_to_string("/proc/interrupts").map_err(Error::Interrupts)?;
    Ok(text
        .lines()
        .filter(|line| line.ends_with("Function call interrupts"))
        .flat_map(|line| line.split_whitespace())
        .filter_map(|word| word.parse::<u64>().ok())
        .sum())
}

fn fallocate(memory: &GuestMemfd, mode: i32, page: usize, pages: usize) -> Result<(), Error> {
    // SAFETY: No pointers are passed.
    let ret = unsafe {
        libc::fallocate(
            memory.file().as_raw_fd(),
            libc::FALLOC_FL_KEEP_SIZE | mode,
            (page * PAGE_SIZE) as libc::off_t,
            (pages * PAGE_SIZE) as libc::off_t,
        )
    };
    if ret == 0 {
        Ok(())
    } else {
        Err(Error::Fallocate(io::Error::last_os_error()))
    }
}

/// Populates and frees, `rounds` times.
fn measure(memory: &GuestMemfd, way: Way, args: &Args) -> Result<(Cost, Cost), Error> {
    let (mut populate, mut free) = (Cost::default(), Cost::default());
    let mapping = memory.map()?;
    for round in 0..=args.rounds {
        let (mut come, mut go) = (Cost::default(), Cost::default());
        come.add(|| match way {
            Way::AllAtOnce => fallocate(memory, 0, 0, args.pages),
            Way::PageByPage => (0..args.pages).try_for_each(|page| fallocate(memory, 0, page, 1)),
            Way::Touch => {
                for page in 0..args.pages {
                    // SAFETY: Within the mapping, which nobody else uses.
                    unsafe { mapping.as_ptr().add(page * PAGE_SIZE).write_volatile(1) };
                }
                Ok(())
            }
        })?;
        go.add(|| fallocate(memory, libc::FALLOC_FL_PUNCH_HOLE, 0, args.pages))?;
        if round > 0 {
            populate.time += come.time;
            populate.calls += come.calls;
            free.time += go.time;
            free.calls += go.calls;
        }
    }
    Ok((populate, free))
}

fn run(args: &Args) -> Result<(), Error> {
    let vm = Kvm::new()?.create_vm()?;
    let ordinary = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
    let pages = f64::from(args.rounds) * args.pages as f64;

    println!(
        "{:<16} {:<24} {:>12} {:>9} {:>12} {:>9}",
        "per page", "", "populate ns", "calls", "free ns", "calls"
    );
    for (name, flags) in [
        ("direct map", ordinary),
        ("no direct map", ordinary | GUEST_MEMFD_FLAG_NO_DIRECT_MAP),
    ] {
        for (way, what) in Way::ALL {
            let memory = GuestMemfd::create(&vm, (args.pages * PAGE_SIZE) as u64, flags)?;
            let (populate, free) = measure(&memory, way, args)?;
            println!(
                "{name:<16} {what:<24} {:>12.0} {:>9.3} {:>12.0} {:>9.3}",
                populate.time.as_nanos() as f64 / pages,
                populate.calls as f64 / pages,
                free.time.as_nanos() as f64 / pages,
                free.calls as f64 / pages,
            );
        }
    }
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
