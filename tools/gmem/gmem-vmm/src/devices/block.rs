// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_ID_BYTES,
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_queue::{DescriptorChain, Reader, Writer};
use vm_memory::GuestMemoryMmap;

use crate::error::Error;

/// In bytes, whatever the disk's are.
const SECTOR: u64 = 512;
/// Segments of a request. With its header and its status it has to fit into the queue.
const SEGMENTS: u32 = 64;
/// How much of a request is in the VMM's own memory at a time.
const CHUNK: usize = 64 << 10;

/// A disk image as a virtio block device.
///
/// Data goes through a buffer. Direct I/O to the guest's memory would be refused: the host's
/// kernel has no mapping of it, and none of the devices may get one.
pub struct Disk {
    file: File,
    sectors: u64,
    writable: bool,
    buffer: Vec<u8>,
}

impl Disk {
    /// Opens an image, to be read only if it cannot be written.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let open = |writable| OpenOptions::new().read(true).write(writable).open(path);
        let wrong = |source| Error::File {
            path: path.into(),
            source,
        };
        let (file, writable) = match open(true) {
            Ok(file) => (file, true),
            Err(e) if refuses_writing(&e) => (open(false).map_err(wrong)?, false),
            Err(e) => return Err(wrong(e)),
        };
        // Not from its metadata: a block device has a size too.
        let size = io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(wrong)?;
        if size % SECTOR != 0 {
            return Err(Error::Image {
                path: path.into(),
                why: format!("its {size} bytes are no multiple of {SECTOR}: is it a raw image?"),
            });
        }
        Ok(Self {
            file,
            sectors: size / SECTOR,
            writable,
            buffer: vec![0; CHUNK],
        })
    }

    pub fn features(&self) -> u64 {
        let read_only = u64::from(!self.writable) << VIRTIO_BLK_F_RO;
        1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_SEG_MAX | read_only
    }

    /// The start of `struct virtio_blk_config`: capacity, size_max, seg_max.
    pub fn config(&self) -> [u8; 16] {
        let mut config = [0; 16];
        config[..8].copy_from_slice(&self.sectors.to_le_bytes());
        config[12..].copy_from_slice(&SEGMENTS.to_le_bytes());
        config
    }

    /// Serves a request. Returns how many bytes were written to the guest's memory.
    pub fn serve(
        &mut self,
        memory: &GuestMemoryMmap,
        chain: DescriptorChain<&GuestMemoryMmap>,
    ) -> u32 {
        let (Ok(mut from), Ok(mut to)) = (
            chain.clone().reader::<()>(memory),
            chain.writer::<()>(memory),
        ) else {
            return 0;
        };
        // Its last byte is for the status.
        let data = to.available_bytes().saturating_sub(1);
        let Ok(mut status) = to.split_at(data) else {
            return 0;
        };
        let result = self
            .transfer(&mut from, &mut to)
            .unwrap_or(VIRTIO_BLK_S_IOERR);
        let written = to.bytes_written() as u32;
        match status.write_all(&[result as u8]) {
            Ok(()) => written + 1,
            Err(_) => written,
        }
    }

    fn transfer(&mut self, from: &mut Reader<'_>, to: &mut Writer<'_>) -> io::Result<u32> {
        let kind = from.read_obj::<u32>()?;
        let _reserved = from.read_obj::<u32>()?;
        let sector = from.read_obj::<u64>()?;
        match kind {
            VIRTIO_BLK_T_IN => {
                let (mut at, mut left) = self.within(sector, to.available_bytes())?;
                while left > 0 {
                    let buffer = &mut self.buffer[..left.min(CHUNK)];
                    self.file.read_exact_at(buffer, at)?;
                    to.write_all(buffer)?;
                    at += buffer.len() as u64;
                    left -= buffer.len();
                }
            }
            VIRTIO_BLK_T_OUT if self.writable => {
                let (mut at, mut left) = self.within(sector, from.available_bytes())?;
                while left > 0 {
                    let buffer = &mut self.buffer[..left.min(CHUNK)];
                    from.read_exact(buffer)?;
                    self.file.write_all_at(buffer, at)?;
                    at += buffer.len() as u64;
                    left -= buffer.len();
                }
            }
            VIRTIO_BLK_T_OUT => return Ok(VIRTIO_BLK_S_IOERR),
            VIRTIO_BLK_T_FLUSH => self.file.sync_data()?,
            VIRTIO_BLK_T_GET_ID => {
                let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
                id[..8].copy_from_slice(b"gmem-vmm");
                to.write_all(&id)?;
            }
            _ => return Ok(VIRTIO_BLK_S_UNSUPP),
        }
        Ok(VIRTIO_BLK_S_OK)
    }

    /// Where in the file `len` bytes from `sector` are, if they are within it.
    fn within(&self, sector: u64, len: usize) -> io::Result<(u64, usize)> {
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let left = self.sectors.checked_sub(sector).ok_or_else(outside)?;
        if len as u64 > left * SECTOR || len as u64 % SECTOR != 0 {
            return Err(outside());
        }
        Ok((sector * SECTOR, len))
    }
}

fn refuses_writing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}
