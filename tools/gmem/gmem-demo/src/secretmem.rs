// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The reference: memory of `memfd_secret()`, which is out of the direct map on stock kernels too.

use std::{
    fs::File,
    io,
    os::fd::{FromRawFd, OwnedFd},
};

use direct_map_scan::Pattern;
use vm_memory::{FileOffset, MmapRegion};

use crate::{
    Error, Holder, call,
    secret::{self, PAGE_SIZE},
};

/// Pages of `memfd_secret()` that are filled with a secret.
pub struct SecretMem {
    pages: usize,
    region: MmapRegion,
}

impl SecretMem {
    /// Creates and fills them.
    pub fn filled(pattern: &Pattern, pages: usize) -> Result<Self, Error> {
        let unlimited = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        // Secret memory is charged to it.
        // SAFETY: The structure is valid for reads.
        if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &unlimited) } != 0 {
            return Err(call("setrlimit(RLIMIT_MEMLOCK)")(io::Error::last_os_error()));
        }
        // SAFETY: No pointers are passed.
        let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(call("memfd_secret()")(io::Error::last_os_error()));
        }
        // SAFETY: The kernel just gave us this descriptor, nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let file = File::from(fd);
        let size = pages * PAGE_SIZE;
        file.set_len(size as u64)
            .map_err(call("ftruncate() of secret memory"))?;

        let region = MmapRegion::from_file(FileOffset::new(file, 0), size)
            .map_err(guest_memfd::Error::from)?;
        // SAFETY: The region has that many pages, and nobody else has it.
        unsafe { secret::fill(pattern, region.as_ptr(), pages) };
        Ok(Self { pages, region })
    }
}

impl Holder for SecretMem {
    fn check(&mut self, pattern: &Pattern) -> Result<(), Error> {
        // SAFETY: The region has that many pages.
        match unsafe { secret::pages_without(pattern, self.region.as_ptr(), self.pages) } {
            0 => Ok(()),
            wrong => Err(Error::NotWritten {
                wrong,
                pages: self.pages,
            }),
        }
    }
}
