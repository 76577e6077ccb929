// SPDX-License-Identifier: Apache-2.0 OR MIT

//! System calls that race for one piece of memory, many rounds of each.

mod close;
mod guest;
mod process;
mod secretmem;

#[cfg(target_arch = "x86_64")]
mod offline;
#[cfg(target_arch = "x86_64")]
mod pre_fault;
#[cfg(target_arch = "x86_64")]
mod xen;

use std::{
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use clap::ValueEnum;

use crate::{Error, left::Left};

/// What races with what.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Race {
    /// The last close of a guest_memfd with all else that is done to it.
    Close,
    /// Xen's shared pages with holes and memslots.
    #[cfg(target_arch = "x86_64")]
    Xen,
    /// Faults on one page of a memfd_secret() file, which fail in half of the rounds.
    Secretmem,
    /// KVM_PRE_FAULT_MEMORY with holes, memslots and signals.
    #[cfg(target_arch = "x86_64")]
    PreFault,
    /// Offlining of memory with pages that are out of the direct map, which nothing races with.
    #[cfg(target_arch = "x86_64")]
    Offline,
}

impl Race {
    /// Runs that many rounds, and compares what is left with what was there after the first tenth.
    pub fn run(self, rounds: u32) -> Result<(), Error> {
        let start = Instant::now();
        let mut rng = Rng::new(start);
        let warm = rounds / 10;
        self.rounds(warm.max(1), &mut rng)?;
        let before = Left::now()?;
        self.rounds((rounds - warm).max(1), &mut rng)?;
        println!(
            "stress: {self:?}: {rounds} rounds in {} s",
            start.elapsed().as_secs()
        );
        before.check()
    }

    fn rounds(self, rounds: u32, rng: &mut Rng) -> Result<(), Error> {
        match self {
            Self::Close => (0..rounds).try_for_each(|number| close::round(number, rng)),
            #[cfg(target_arch = "x86_64")]
            Self::Xen => xen::rounds(rounds, rng),
            Self::Secretmem => secretmem::rounds(rounds, rng),
            #[cfg(target_arch = "x86_64")]
            Self::PreFault => (0..rounds).try_for_each(|_| pre_fault::round(rng)),
            #[cfg(target_arch = "x86_64")]
            Self::Offline => (0..rounds).try_for_each(|_| offline::round()),
        }
    }
}

/// Numbers that are random enough to vary which of two threads is first.
pub struct Rng(u64);

impl Rng {
    fn new(start: Instant) -> Self {
        Self((&raw const start).addr() as u64 | 1)
    }

    /// A number below `end`, by Marsaglia's xorshift.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    /// Another one, for another thread.
    #[cfg(target_arch = "x86_64")]
    pub fn fork(&mut self) -> Self {
        Self(self.below(u64::MAX) << 1 | 1)
    }
}

/// What a thread does in a race.
pub type Act<'a> = Box<dyn FnOnce() -> Result<(), Error> + Send + 'a>;

/// Runs all of `acts` at once, each in a thread of its own and a random moment later, and returns
/// when all have ended.
pub fn at_once(acts: Vec<Act<'_>>, rng: &mut Rng) -> Result<(), Error> {
    /// About a tenth of a millisecond.
    const SPINS: u64 = 20_000;

    let start = Barrier::new(acts.len());
    thread::scope(|scope| {
        let threads: Vec<_> = acts
            .into_iter()
            .map(|act| {
                let spins = rng.below(SPINS);
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    (0..spins).for_each(|_| std::hint::spin_loop());
                    act()
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })
}

/// How often each kind of step of a race succeeded. A race with a step that never does is none.
pub struct Successes<const N: usize> {
    names: [&'static str; N],
    counts: [AtomicU64; N],
}

impl<const N: usize> Successes<N> {
    pub fn of(names: [&'static str; N]) -> Self {
        Self {
            names,
            counts: [const { AtomicU64::new(0) }; N],
        }
    }

    /// Counts `result` as one of step number `step`, if it is a success.
    pub fn count<T, E>(&self, step: usize, result: Result<T, E>) {
        if result.is_ok() {
            self.counts[step].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Prints the numbers. Few rounds need not have each kind.
    pub fn check(&self, rounds: u32) -> Result<(), Error> {
        const FEW: u32 = 10;

        let counts = self.counts.each_ref().map(|c| c.load(Ordering::Relaxed));
        for (name, count) in self.names.iter().zip(counts) {
            print!("{name} {count}  ");
        }
        println!();
        match counts.iter().position(|count| *count == 0) {
            Some(step) if rounds >= FEW => Err(Error::Race(format!(
                "no step of the kind {} succeeded",
                self.names[step]
            ))),
            _ => Ok(()),
        }
    }
}
