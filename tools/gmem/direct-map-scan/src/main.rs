// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Reports where in RAM a pattern stands, as far as the kernel has it mapped.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use direct_map_scan::{Kind, Pattern, scan, scan_file};

/// Read all RAM through the kernel's own mappings and report where a pattern stands.
///
/// Memory that the kernel has no mapping of, such as memfd_secret() and guest_memfd with
/// GUEST_MEMFD_FLAG_NO_DIRECT_MAP, cannot be found. Needs root and CONFIG_PROC_KCORE.
///
/// Exit status: 0 if the pattern was found, 1 if it was not, 2 on errors.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// What to look for: 16 bytes as 32 hexadecimal digits.
    pattern: Pattern,
    /// Print the pages' addresses: physical, virtual, and which mapping.
    #[arg(short, long)]
    list: bool,
    /// Another core file than /proc/kcore.
    #[arg(long)]
    kcore: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let report = match &args.kcore {
        Some(path) => scan_file(path, &args.pattern),
        None => scan(&args.pattern),
    };
    let report = match report {
        Ok(report) => report,
        Err(e) => {
            eprintln!("direct-map-scan: {e}");
            return ExitCode::from(2);
        }
    };
    if args.list {
        for hit in &report.hits {
            let kind = match hit.kind {
                Kind::DirectMap => "direct map",
                Kind::KernelImage => "kernel image",
            };
            println!("{:#014x}  {:#018x}  {kind}", hit.physical, hit.virt);
        }
    }
    println!(
        "found in {} pages; {} MiB scanned, {} MiB not readable",
        report.pages(),
        report.scanned >> 20,
        report.unreadable >> 20
    );
    ExitCode::from(u8::from(report.pages() == 0))
}
