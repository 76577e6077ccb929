// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Reports where in RAM a pattern stands, as far as the kernel has it mapped, or draws what it has
//! mapped.

use std::{fs, path::PathBuf, process::ExitCode};

use clap::Parser;
use direct_map_scan::{Kind, Map, Pattern, scan, scan_file};

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
    #[arg(required_unless_present = "map")]
    pattern: Option<Pattern>,
    /// Draw the direct map instead: in the terminal, and as a picture to FILE. What there is of
    /// guests is found by the processes that have it. Needs debugfs, CONFIG_PTDUMP_DEBUGFS.
    #[arg(long, value_name = "FILE.svg", num_args = 0..=1, require_equals = true)]
    map: Option<Option<PathBuf>>,
    /// Print the pages' addresses: physical, virtual, and which mapping.
    #[arg(short, long)]
    list: bool,
    /// Another core file than /proc/kcore.
    #[arg(long)]
    kcore: Option<PathBuf>,
}

/// Rows of the picture in a terminal.
const ROWS: u64 = 32;

fn draw(file: Option<&PathBuf>) -> Result<(), Box<dyn std::error::Error>> {
    let map = Map::read()?;
    print!("{}", map.text(ROWS));
    if let Some(file) = file {
        fs::write(file, map.svg()).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    Ok(())
}

fn search(args: &Args, pattern: &Pattern) -> Result<bool, Box<dyn std::error::Error>> {
    let report = match &args.kcore {
        Some(path) => scan_file(path, pattern)?,
        None => scan(pattern)?,
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
    Ok(report.pages() > 0)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match (&args.map, &args.pattern) {
        (Some(file), _) => draw(file.as_ref()).map(|()| true),
        (None, Some(pattern)) => search(&args, pattern),
        (None, None) => Err("a pattern, or --map".into()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            eprintln!("direct-map-scan: {e}");
            ExitCode::from(2)
        }
    }
}
