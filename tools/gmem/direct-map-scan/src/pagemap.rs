// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where memory of this process is, physically.

use std::{fs::File, io, os::unix::fs::FileExt};

use crate::{Error, PAGE_SIZE};

/// This process's page tables, as `/proc/self/pagemap` has them.
pub struct Pagemap(File);

impl Pagemap {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// [`Error::Open`].
    pub fn open() -> Result<Self, Error> {
        let path = "/proc/self/pagemap";
        File::open(path).map(Self).map_err(|source| Error::Open {
            path: path.into(),
            source,
        })
    }

    /// The physical address of the page at `memory`; 0 if it is not there, or nobody's business.
    ///
    /// # Errors
    ///
    /// What reading gives.
    pub fn physical(&self, memory: *const u8) -> io::Result<u64> {
        const NUMBER: u64 = (1 << 55) - 1;

        let mut entry = [0; 8];
        let index = memory.addr() as u64 / PAGE_SIZE;
        self.0.read_exact_at(&mut entry, index * 8)?;
        Ok((u64::from_ne_bytes(entry) & NUMBER) * PAGE_SIZE)
    }
}
