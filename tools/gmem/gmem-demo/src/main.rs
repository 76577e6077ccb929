// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Runs a guest that fills its memory with a secret, and scans all of the host's RAM for that
//! secret while the guest lives and after it is gone: with plain guest_memfd, with
//! `GUEST_MEMFD_FLAG_NO_DIRECT_MAP`, and with `memfd_secret()` as the known-good reference.

mod guest;
mod hold;
mod linux;
mod secret;
mod secretmem;
mod steps;

use std::{fmt, num::NonZeroUsize, process::ExitCode, time::Instant};

use clap::Parser;
use direct_map_scan::{Kind, Pattern, Report, scan};

use crate::{guest::Guest, linux::Linux, secretmem::SecretMem};

/// Show that the host kernel cannot read guest memory that has no direct map.
///
/// Exit status: 0 if the plain guest's secret was found and the others' were not, 1 if not, 2 on
/// errors.
#[derive(Parser)]
struct Args {
    /// How many pages are filled with the secret.
    #[arg(long, default_value = "1024")]
    pages: NonZeroUsize,

    /// Scan after each step of the memory's life instead: mapped, partly punched out, the VM
    /// gone, the memory gone, and used for something else.
    #[arg(long)]
    steps: bool,

    #[command(flatten)]
    linux: Linux,

    /// Be the program in such a guest: fill the pages with this, 16 bytes as 32 hexadecimal
    /// digits, and say for each line of standard input how many hold it, until one is "end".
    #[arg(long, value_name = "PATTERN")]
    hold: Option<Pattern>,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{call}: {source}")]
    Call {
        call: &'static str,
        source: std::io::Error,
    },
    #[error(transparent)]
    Gmem(#[from] guest_memfd::Error),
    #[error(transparent)]
    Scan(#[from] direct_map_scan::Error),
    #[error("access to the guest's memory: {0}")]
    Memory(#[from] vm_memory::VolatileMemoryError),
    #[error("the guest ended with {0}")]
    Exit(String),
    #[error("the guest does not come to say {text:?}: {why}")]
    Silent {
        text: &'static str,
        why: &'static str,
    },
    #[error("{wrong} of {pages} pages do not hold the secret: there is nothing to look for")]
    NotWritten { wrong: usize, pages: usize },
}

/// Makes an [`Error`] of an errno, with the call that gave it.
fn call<E: Into<std::io::Error>>(call: &'static str) -> impl FnOnce(E) -> Error {
    move |e| Error::Call {
        call,
        source: e.into(),
    }
}

/// Memory that holds a secret until it is dropped.
trait Holder {
    /// Sees to it that all pages hold the secret, as userspace sees them.
    fn check(&mut self, pattern: &Pattern) -> Result<(), Error>;

    /// Has it end, and the memory go.
    fn end(self) -> Result<(), Error>
    where
        Self: Sized,
    {
        Ok(())
    }
}

/// What the two scans saw.
struct Outcome {
    name: &'static str,
    what: &'static str,
    alive: Report,
    after: Report,
}

impl Outcome {
    fn of<H: Holder>(
        name: &'static str,
        what: &'static str,
        create: impl FnOnce(&Pattern) -> Result<H, Error>,
    ) -> Result<Self, Error> {
        let pattern = secret::random()?;
        let mut holder = create(&pattern)?;
        holder.check(&pattern)?;
        let alive = scan(&pattern)?;
        // Still there, so that it was there during the scan.
        holder.check(&pattern)?;
        holder.end()?;
        let after = scan(&pattern)?;
        Ok(Self {
            name,
            what,
            alive,
            after,
        })
    }

    fn is_hidden(&self) -> bool {
        self.alive.pages() == 0 && self.after.pages() == 0
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<44} {:>12} {:>12}",
            self.what,
            self.alive.pages(),
            self.after.pages()
        )?;
        let aliases = |r: &Report| {
            r.hits
                .iter()
                .filter(|hit| hit.kind == Kind::KernelImage)
                .count()
        };
        match aliases(&self.alive) + aliases(&self.after) {
            0 => Ok(()),
            n => write!(f, "  ({n} through the kernel image mapping)"),
        }
    }
}

fn run(args: &Args) -> Result<bool, Error> {
    let pages = args.pages.get();
    if let Some(pattern) = &args.hold {
        hold::run(pattern, pages)?;
        return Ok(true);
    }
    if args.steps {
        return steps::run(pages);
    }
    let start = Instant::now();

    println!(
        "A guest fills {pages} pages with a secret; then all RAM is scanned for it through the"
    );
    println!("kernel's own mappings (/proc/kcore), and again after the guest is gone.");
    println!();

    let guest = |name, what, flags| {
        if args.linux.is_given() {
            println!("Linux boots, {what}:");
            Outcome::of(name, what, |pattern| {
                args.linux.run(pattern, pages, flags != 0)
            })
        } else {
            Outcome::of(name, what, |pattern| Guest::run(pattern, pages, flags))
        }
    };
    let plain = guest("plain", "guest_memfd", 0)?;
    let hidden = guest(
        "no-direct-map",
        "guest_memfd, GUEST_MEMFD_FLAG_NO_DIRECT_MAP",
        guest_memfd::GUEST_MEMFD_FLAG_NO_DIRECT_MAP,
    )?;
    let reference = Outcome::of("secretmem", "memfd_secret(), no guest", |pattern| {
        SecretMem::filled(pattern, pages)
    })?;

    println!();
    println!(
        "{:<44} {:>12} {:>12}",
        "pages found by the host kernel", "guest alive", "guest gone"
    );
    for outcome in [&plain, &hidden, &reference] {
        println!("{outcome}");
    }
    println!();
    println!(
        "{} MiB were scanned 6 times in {:.0} s.",
        plain.alive.scanned >> 20,
        start.elapsed().as_secs_f64()
    );
    println!();
    for outcome in [&plain, &hidden, &reference] {
        println!(
            "demo: {} alive={} after={}",
            outcome.name,
            outcome.alive.pages(),
            outcome.after.pages()
        );
    }
    Ok(plain.alive.pages() >= pages && hidden.is_hidden() && reference.is_hidden())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("gmem-demo: that is not as it should be");
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("gmem-demo: {e}");
            ExitCode::from(2)
        }
    }
}
