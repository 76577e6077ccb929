// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What guest memory costs the host.
//!
//! Under QEMU's `-icount shift=0` a nanosecond is an instruction, and two runs agree. With more
//! than one CPU, what counts is how often the others are interrupted, to flush their TLBs.

mod boot;
mod gib;
mod kind;
mod memory;
mod meter;
mod page;
mod trace;

use std::{io, process::ExitCode};

use clap::{Parser, Subcommand};

/// Measure what guest memory costs the host.
///
/// Kinds of memory that KVM does not have are left out.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
    /// Print lines for a program to read, of a kernel of this name.
    #[arg(long, global = true)]
    csv: Option<String>,
}

#[derive(Subcommand)]
enum What {
    Page(page::Args),
    Gib(gib::Args),
    Boot(boot::Args),
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
    #[error("the guest did not power off; it said:\n{0}")]
    Boot(String),
    #[error("{0}: {1}")]
    Call(&'static str, io::Error),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let csv = args.csv.as_deref();
    let result = match &args.what {
        What::Page(args) => page::run(args, csv),
        What::Gib(args) => gib::run(args, csv),
        What::Boot(args) => boot::run(args, csv),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
