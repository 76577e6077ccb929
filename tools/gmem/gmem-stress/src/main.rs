// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Guests come and go while allocations fail, and nothing may be left behind.
//!
//! In each round a guest is created with a guest_memfd, which is bound, runs, has holes punched, is
//! unbound, and is closed. One allocation of the kernel fails in it: the first in the first round,
//! the second in the next one, and so on, until a round has no allocation left to fail; then from
//! the first again, with other flags and in another order.
//!
//! Or system calls race with each other, each at a random moment.

mod inject;
mod left;
mod modules;
mod races;
mod round;

use std::{io, process::ExitCode, time::Instant};

use clap::Parser;

use crate::{
    inject::{FUNCTIONS, Functions, Injector},
    left::Left,
    modules::Modules,
    races::Race,
    round::Plan,
};

/// Have guests come and go while the kernel's allocations fail, or system calls race.
///
/// Exit status: 0 if each round succeeded or had an allocation fail, and nothing is left behind; 1
/// otherwise.
#[derive(Parser)]
struct Args {
    /// How many rounds.
    #[arg(long, default_value = "10000")]
    rounds: u32,
    /// Have no allocation fail.
    #[arg(long)]
    no_errors: bool,
    /// Have functions of the page cache fail at random, and no allocation.
    #[arg(long, conflicts_with = "no_errors")]
    functions: bool,
    /// Take KVM's modules out before each round, and put them back.
    #[arg(long)]
    reload: bool,
    /// Run rounds of a race instead; can be given several times.
    #[arg(long, conflicts_with_all = ["no_errors", "functions", "reload"])]
    race: Vec<Race>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}: {1}")]
    Call(&'static str, io::Error),
    #[error(transparent)]
    Gmem(#[from] guest_memfd::Error),
    #[error(transparent)]
    Scan(#[from] direct_map_scan::Error),
    #[error("access to the guest's memory: {0}")]
    Memory(#[from] vm_memory::VolatileMemoryError),
    #[error("the guest stopped with {0} instead of halting")]
    Exit(String),
    #[error("round {0}, in which no allocation failed: {1}")]
    Round(u32, Box<Error>),
    #[error("{0}")]
    Left(String),
    #[error("{0}")]
    Race(String),
    #[error("not enough rounds for each allocation to fail once")]
    TooFew,
}

/// Makes an [`Error`] of an errno, with the call that gave it.
fn call<E: Into<io::Error>>(call: &'static str) -> impl FnOnce(E) -> Error {
    move |e| Error::Call(call, e.into())
}

fn run(args: &Args) -> Result<(), Error> {
    if !args.race.is_empty() {
        return args.race.iter().try_for_each(|race| race.run(args.rounds));
    }
    let nth_fails = !args.no_errors && !args.functions;
    let injector = nth_fails.then(Injector::new).transpose()?;
    let modules = args.reload.then(Modules::find).transpose()?;
    // KVM's first VM and its last one switch preemption notifiers on and off, by patching code.
    // Under QEMU 7.2 another CPU may run the old code once more on arm64, about once in 3,000
    // rounds, and a vCPU that it schedules is lost. There is no last one with another VM there.
    let _vm = cfg!(target_arch = "aarch64")
        .then(round::create_vm)
        .transpose()?;
    let (mut nth, mut turns, mut failed, mut most) = (1, 0, 0, 0);
    let start = Instant::now();
    let mut before = None;
    let functions = args
        .functions
        .then(|| Functions::new(&FUNCTIONS, 1))
        .transpose()?;

    for number in 0..args.rounds {
        // What is allocated once is there before anything is counted: each kind of round has had
        // each of its allocations fail, and caches have grown.
        if before.is_none() && turns >= u32::from(Plan::KINDS) && number >= args.rounds / 10 {
            before = Some(Left::now()?);
        }
        if let Some(modules) = &modules {
            modules.reload()?;
        }

        let mut plan = Plan::new(turns);
        // A huge page that is leaked on purpose is two MiB less, and soon too many.
        if functions.is_some() {
            plan = plan.in_pages();
        }
        let (result, injected) = match &injector {
            Some(injector) => injector.fail_nth(nth, || plan.run())?,
            None => (plan.run(), false),
        };
        match result {
            Ok(()) if !injected => {
                most = most.max(nth - 1);
                nth = 0;
                turns += 1;
            }
            Ok(()) => {}
            Err(_) if injected || functions.is_some() => failed += 1,
            Err(e) => return Err(Error::Round(number, Box::new(e))),
        }
        nth += 1;
        if number % 1000 == 999 {
            println!("{} rounds in {} s", number + 1, start.elapsed().as_secs());
        }
    }

    drop(functions);
    println!(
        "stress: {} rounds in {} s; {failed} ended with an error; up to {most} allocations in one, \
         each failed in turn, {turns} times",
        args.rounds,
        start.elapsed().as_secs()
    );
    before.ok_or(Error::TooFew)?.check()
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
