// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What it costs to boot Linux in a gmem-vmm.

use std::{
    io,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use guest_memfd::GUEST_MEMFD_FLAG_NO_DIRECT_MAP;

use crate::{
    Error,
    kind::{self, Kind},
};

/// What a guest's boot costs.
///
/// Prints a table, or, with --csv, a line for each row: kernel, memory, microseconds of CPU. It is
/// the time that the VMM runs until the guest has powered off and its memory is freed, without what
/// it waits. The guest's own instructions are in it, since the emulator counts them alike.
#[derive(clap::Args)]
pub struct Args {
    /// The kernel that boots.
    #[arg(long, default_value = "vmlinuz")]
    kernel: PathBuf,
    /// Its initial RAM disk, which powers off if "off" is on the command line.
    #[arg(long, default_value = "initrd")]
    initrd: PathBuf,
    /// RAM of the guest.
    #[arg(long, default_value = "256M")]
    memory: String,
    /// The VMM that boots it.
    #[arg(long, default_value = "gmem-vmm")]
    vmm: PathBuf,
}

/// Boots a guest in such memory, and returns the CPU time that took.
fn boot(args: &Args, kind: Kind) -> Result<Duration, Error> {
    let switch = |on| if on { "on" } else { "off" };
    let hidden = kind.flags & GUEST_MEMFD_FLAG_NO_DIRECT_MAP != 0;
    let before = cpu_time_of_children()?;
    let output = Command::new(&args.vmm)
        .arg("--kernel")
        .arg(&args.kernel)
        .arg("--initrd")
        .arg(&args.initrd)
        .args(["--memory", &args.memory, "--cmdline", "quiet panic=-1 off"])
        .arg(format!("--no-direct-map={}", switch(hidden)))
        .arg(format!("--huge-pages={}", switch(kind.order != 0)))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::Call("starting the VMM", e))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        return Err(Error::Boot(String::from_utf8_lossy(&said).into_owned()));
    }
    Ok(cpu_time_of_children()? - before)
}

/// The CPU time of all children that were waited for.
fn cpu_time_of_children() -> Result<Duration, Error> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: The structure is valid for writes.
    if unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) } != 0 {
        return Err(Error::Call("getrusage", io::Error::last_os_error()));
    }
    // SAFETY: getrusage() has filled it.
    let usage = unsafe { usage.assume_init() };
    Ok([usage.ru_utime, usage.ru_stime]
        .iter()
        .map(|time| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000))
        .sum())
}

/// Boots a guest in each kind of memory, and prints what comes out.
pub fn run(args: &Args, csv: Option<&str>) -> Result<(), Error> {
    if csv.is_none() {
        println!("{:<16} {:>10}", "per boot", "us of CPU");
    }
    for kind in kind::supported()? {
        let time = boot(args, kind)?.as_micros();
        match csv {
            Some(kernel) => println!("{kernel},{},{time}", kind.name),
            None => println!("{:<16} {time:>10}", kind.name),
        }
    }
    Ok(())
}
