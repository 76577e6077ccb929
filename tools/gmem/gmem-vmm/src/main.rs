// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A small VMM that boots Linux from memory its host's kernel cannot read.

mod devices;
mod error;
mod image;
mod machine;
mod terminal;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use guest_memfd::{Flags, GUEST_MEMFD_FLAG_NO_DIRECT_MAP, Support, probe};
use kvm_ioctls::Kvm;

use crate::{
    error::{Error, call},
    machine::{End, Machine},
};

const AFTER_HELP: &str = "\
Examples:
  gmem-vmm --probe
  gmem-vmm --kernel vmlinuz --initrd initrd.img
  gmem-vmm --kernel vmlinuz --initrd initrd.img --cpus 2 --memory 1G --disk disk.img

The console is the first serial port; in a terminal, Ctrl-A X ends the guest. A disk is a raw \
image, the first one /dev/vda in the guest (modules virtio_mmio and virtio_blk).

Exit status: 0 if the guest powered off, 1 if it reset or crashed, 2 on errors.";

/// Boot Linux from memory that the host's kernel has no mapping of.
///
/// All of the guest's RAM is one guest_memfd, out of the host's direct map: no gadget in the
/// host's kernel can read it, not even speculatively.
#[derive(Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Args {
    /// Print what this host supports, and if that is not enough, why not; boot nothing.
    #[arg(long)]
    probe: bool,

    /// The kernel: on x86_64 a bzImage (vmlinuz) or an ELF file (vmlinux), on arm64 an Image.
    #[arg(long, required_unless_present = "probe")]
    kernel: Option<PathBuf>,

    /// The initial RAM disk.
    #[arg(long)]
    initrd: Option<PathBuf>,

    /// Words for the kernel's command line, behind those for the console.
    #[arg(long, default_value = "")]
    cmdline: String,

    /// RAM of the guest, with K, M or G: a multiple of the page size.
    #[arg(long, default_value = "256M", value_parser = size)]
    memory: u64,

    /// vCPUs of the guest.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u8).range(1..=arch::MAX_CPUS))]
    cpus: u8,

    /// A raw disk image, written to if its permissions allow; can be given several times.
    #[arg(long)]
    disk: Vec<PathBuf>,

    /// Keep the guest's RAM out of the host's direct map.
    #[arg(long, default_value = "on", default_missing_value = "on", num_args = 0..=1,
          require_equals = true)]
    no_direct_map: Switch,

    /// Have the guest's RAM in huge pages, of 2 MiB on most machines, and allocate all of it before
    /// the guest boots. "auto": if there are enough of them, else in single pages.
    #[arg(long, default_value = "auto", default_missing_value = "on", num_args = 0..=1,
          require_equals = true)]
    huge_pages: Huge,

    /// Allocate all RAM before the guest boots, in single pages too.
    #[arg(long)]
    prealloc: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Huge {
    Auto,
    On,
    Off,
}

/// Parses "256M" into bytes.
fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let size = digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << unit))
        .ok_or("not a size; for example 512M or 2G")?;
    if size == 0 || size % arch::PAGE_SIZE != 0 {
        return Err(format!("not a multiple of {} bytes", arch::PAGE_SIZE));
    }
    if size > arch::MAX_MEMORY {
        return Err(format!("more than {} GiB", arch::MAX_MEMORY >> 30));
    }
    Ok(size)
}

fn print_support(support: &Support) -> bool {
    println!(
        "guest_memfd (capability 234)       {}",
        if support.guest_memfd { "yes" } else { "no" }
    );
    let row = |what: &str, flags: Flags| println!("{what:<34} {flags}");
    row("flags of this machine (244)", support.machine);
    row("flags of a VM of the default type", support.vm);
    let missing = support.check(machine::FLAGS | GUEST_MEMFD_FLAG_NO_DIRECT_MAP);
    match missing {
        Ok(()) => println!("guests without a direct map        yes"),
        Err(why) => println!("guests without a direct map        no: {why}"),
    }
    missing.is_ok()
}

/// arm64: KVM's nested virtualization works on such memory, and gmem-vmm offers it to no guest.
#[cfg(target_arch = "x86_64")]
fn print_nested(kvm: &Kvm) -> Result<(), Error> {
    let row = if arch::nested(kvm)? {
        "hidden from guests without a direct map: their first L2 entry would end the VM"
    } else {
        "no"
    };
    println!("nested virtualization              {row}");
    Ok(())
}

fn run(args: &Args) -> Result<ExitCode, Error> {
    let kvm = Kvm::new().map_err(call("opening /dev/kvm"))?;
    if args.probe {
        let vm = kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
        let enough = print_support(&probe(&kvm, &vm));
        #[cfg(target_arch = "x86_64")]
        print_nested(&kvm)?;
        return Ok(ExitCode::from(u8::from(!enough)));
    }
    let end = Machine::new(&kvm, args)?.run()?;
    if end == End::PowerOff {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("gmem-vmm: {end}");
    Ok(ExitCode::FAILURE)
}

fn main() -> ExitCode {
    run(&Args::parse()).unwrap_or_else(|e| {
        eprintln!("gmem-vmm: {e}");
        ExitCode::from(2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::CommandFactory;

    #[test]
    fn arguments_are_sound() {
        Args::command().debug_assert();
        let args = Args::try_parse_from(["gmem-vmm", "--kernel", "k"]);
        assert!(args.is_ok_and(|a| {
            a.no_direct_map == Switch::On && a.memory == 256 << 20 && a.huge_pages == Huge::Auto
        }));
        let args = Args::try_parse_from(["gmem-vmm", "--kernel", "k", "--no-direct-map=off"]);
        assert!(args.is_ok_and(|a| a.no_direct_map == Switch::Off));
        assert!(Args::try_parse_from(["gmem-vmm"]).is_err());
        assert!(Args::try_parse_from(["gmem-vmm", "--probe"]).is_ok());
        assert!(Args::try_parse_from(["gmem-vmm", "--kernel", "k", "--cpus", "0"]).is_err());
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("256M"), Ok(256 << 20));
        assert_eq!(size("2g"), Ok(2 << 30));
        assert_eq!(size("128K"), Ok(128 << 10));
        assert_eq!(size("131072"), Ok(128 << 10));
        for wrong in [
            "",
            "M",
            "0",
            "1",
            "-1G",
            "1T",
            "18446744073709551615G",
            "1000G",
        ] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
