// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::path::PathBuf;

/// What went wrong before or besides what the guest does.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{call}: {source}")]
    Call {
        call: &'static str,
        source: std::io::Error,
    },
    #[error("{source}{}", way_out(source))]
    Memory {
        #[from]
        source: guest_memfd::Error,
    },
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: {why}", path.display())]
    Image { path: PathBuf, why: String },
    #[error(
        "{what} needs {needs} MiB of RAM{}, and there are {has} MiB: give more with --memory",
        if *.near { " below 4 GiB" } else { "" }
    )]
    TooSmall {
        what: &'static str,
        needs: u64,
        has: u64,
        near: bool,
    },
    #[error("the command line is {len} bytes long, and the kernel takes {max}")]
    CommandLine { len: usize, max: usize },
    #[error("{count} disks are more than the {max} that there is room for")]
    Disks { count: usize, max: usize },
    #[cfg(target_arch = "aarch64")]
    #[error("making the device tree: {0}")]
    DeviceTree(#[from] vm_fdt::Error),
}

/// Makes an [`Error`] of an errno, with the call that gave it.
pub fn call<E: Into<std::io::Error>>(call: &'static str) -> impl FnOnce(E) -> Error {
    move |e| Error::Call {
        call,
        source: e.into(),
    }
}

/// The way out where a host cannot do it.
fn way_out(error: &guest_memfd::Error) -> &'static str {
    match error {
        guest_memfd::Error::Unsupported { .. } => {
            "; --probe says more, and --no-direct-map=off boots a guest that the host can read"
        }
        guest_memfd::Error::NoHugePages(_) => "; --huge-pages=off boots it in single pages",
        guest_memfd::Error::Allocate { .. } => {
            "; free memory or ask for less, or try --huge-pages=off"
        }
        _ => "",
    }
}
