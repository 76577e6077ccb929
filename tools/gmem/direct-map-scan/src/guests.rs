// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where the memory of guests is.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    ptr,
};

use crate::{Error, PAGE_SIZE, Pagemap};

/// The physical pages of each guest_memfd that a process of this machine has open and that can be
/// mapped. None is allocated by looking, unless a guest frees it just then.
///
/// # Errors
///
/// [`Error::Open`], or [`Error::Guest`] with the call.
pub fn pages() -> Result<BTreeSet<u64>, Error> {
    let mut seen = BTreeSet::new();
    let mut pages = BTreeSet::new();
    for (pid, fd) in descriptors() {
        // The process, or the descriptor, may be gone by now.
        let Ok(file) = take(pid, fd) else { continue };
        let metadata = file.metadata().map_err(call("fstat()"))?;
        if seen.insert(metadata.ino()) {
            resident(&file, metadata.len(), &mut pages)?;
        }
    }
    Ok(pages)
}

/// The processes that have a guest_memfd, and their descriptors of it.
fn descriptors() -> Vec<(i32, i32)> {
    let number = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    let entries = |path: String| fs::read_dir(path).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for process in entries("/proc".into()) {
        let Some(pid) = number(&process) else {
            continue;
        };
        for link in entries(format!("/proc/{pid}/fd")) {
            let target = fs::read_link(link.path()).unwrap_or_default();
            if target.to_string_lossy().contains("[kvm-gmem]") {
                found.extend(number(&link).map(|fd| (pid, fd)));
            }
        }
    }
    found
}

/// Makes an [`Error`] of an errno, with the call that gave it.
fn call(call: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Guest { call, source }
}

/// The descriptor that a system call returned.
fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: The kernel just gave us this descriptor, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Another process's file.
fn take(pid: i32, fd: i32) -> io::Result<File> {
    // SAFETY: No pointers are passed.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: Likewise.
    let file = owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })?;
    Ok(file.into())
}

/// Adds the physical addresses of the pages that `file` has in memory.
fn resident(file: &File, size: u64, pages: &mut BTreeSet<u64>) -> Result<(), Error> {
    let pagemap = Pagemap::open()?;
    let len = size as usize;
    let fd = file.as_raw_fd();
    // SAFETY: A new mapping, of whatever the file has.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ,
            libc::MAP_SHARED,
            fd,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        // It was created without the flag for that.
        return Ok(());
    }
    let mut residency = vec![0u8; len / PAGE_SIZE as usize];
    // SAFETY: The mapping is of that size, and the vector has a byte for each page.
    let mut result = match unsafe { libc::mincore(memory, len, residency.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(call("mincore()")(io::Error::last_os_error())),
    };
    for (page, _) in residency.iter().enumerate().filter(|(_, r)| *r & 1 != 0) {
        let at = memory
            .wrapping_byte_add(page * PAGE_SIZE as usize)
            .cast::<u8>();
        // SAFETY: Within the mapping; a byte of any value. It is in our page tables then.
        unsafe { at.read_volatile() };
        match pagemap.physical(at) {
            Ok(physical) => pages.insert(physical),
            Err(e) => {
                result = Err(call("reading the pagemap")(e));
                break;
            }
        };
    }
    // SAFETY: It is our mapping, and nobody has an address in it any more.
    unsafe { libc::munmap(memory, len) };
    result
}
