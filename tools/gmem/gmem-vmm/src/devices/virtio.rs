// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The registers of a virtio device in memory (virtio 1.2, 4.2.2).

use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_bindings::{
    virtio_config::{VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED, VIRTIO_F_VERSION_1},
    virtio_ids::VIRTIO_ID_BLOCK,
    virtio_mmio::*,
};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vm_superio::Trigger;

use super::{Interrupt, block::Disk};
use crate::error::{Error, call};

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
/// What Linux shows as the vendor; no registry has it.
const VENDOR: u32 = u32::from_le_bytes(*b"gmem");
/// Requests that can be under way.
const QUEUE_SIZE: u16 = 256;

/// A disk, and the registers by which the guest reaches it.
pub struct Transport(Mutex<State>);

struct State {
    disk: Disk,
    memory: GuestMemoryMmap,
    interrupt: Interrupt,
    queue: Queue,
    status: u32,
    pending: u32,
    /// Which half of the device's features is looked at. Those that the driver accepts need not
    /// be known: without one of them the device works as well.
    device_half: u32,
    /// Which queue is looked at. There is just one.
    selected: u32,
}

impl Transport {
    pub fn new(disk: Disk, memory: GuestMemoryMmap, interrupt: Interrupt) -> Result<Self, Error> {
        let queue = Queue::new(QUEUE_SIZE)
            .map_err(|e| call("creating a virtio queue")(std::io::Error::other(e)))?;
        Ok(Self(Mutex::new(State {
            disk,
            memory,
            interrupt,
            queue,
            status: 0,
            pending: 0,
            device_half: 0,
            selected: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A vCPU reads at this offset.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let state = self.state();
        match offset.checked_sub(u64::from(VIRTIO_MMIO_CONFIG)) {
            Some(at) => {
                let config = state.disk.config();
                for (byte, at) in data.iter_mut().zip(at as usize..) {
                    *byte = config.get(at).copied().unwrap_or(0);
                }
            }
            None if data.len() == 4 => {
                data.copy_from_slice(&state.register(offset as u32).to_le_bytes());
            }
            None => data.fill(0),
        }
    }

    /// A vCPU writes at this offset.
    pub fn write(&self, offset: u64, data: &[u8]) {
        // Nothing of a disk's configuration can be written.
        if let (Ok(bytes), Ok(offset)) = (data.try_into(), u32::try_from(offset)) {
            self.state().set_register(offset, u32::from_le_bytes(bytes));
        }
    }
}

impl State {
    fn register(&self, offset: u32) -> u32 {
        let here = self.selected == 0;
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => VIRTIO_ID_BLOCK,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => {
                let features = self.disk.features() | 1 << VIRTIO_F_VERSION_1;
                features.checked_shr(32 * self.device_half).unwrap_or(0) as u32
            }
            VIRTIO_MMIO_QUEUE_NUM_MAX if here => u32::from(QUEUE_SIZE),
            VIRTIO_MMIO_QUEUE_READY if here => u32::from(self.queue.ready()),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.pending,
            VIRTIO_MMIO_STATUS => self.status,
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u32, value: u32) {
        let here = self.selected == 0;
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_half = value,
            VIRTIO_MMIO_QUEUE_SEL => self.selected = value,
            VIRTIO_MMIO_QUEUE_NUM if here => self.queue.set_size(value as u16),
            VIRTIO_MMIO_QUEUE_READY if here => self.queue.set_ready(value == 1),
            VIRTIO_MMIO_QUEUE_DESC_LOW if here => {
                self.queue.set_desc_table_address(Some(value), None);
            }
            VIRTIO_MMIO_QUEUE_DESC_HIGH if here => {
                self.queue.set_desc_table_address(None, Some(value));
            }
            VIRTIO_MMIO_QUEUE_AVAIL_LOW if here => {
                self.queue.set_avail_ring_address(Some(value), None);
            }
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH if here => {
                self.queue.set_avail_ring_address(None, Some(value));
            }
            VIRTIO_MMIO_QUEUE_USED_LOW if here => {
                self.queue.set_used_ring_address(Some(value), None);
            }
            VIRTIO_MMIO_QUEUE_USED_HIGH if here => {
                self.queue.set_used_ring_address(None, Some(value));
            }
            VIRTIO_MMIO_QUEUE_NOTIFY => self.serve(),
            VIRTIO_MMIO_INTERRUPT_ACK => self.pending &= !value,
            VIRTIO_MMIO_STATUS if value == 0 => {
                self.queue.reset();
                self.status = 0;
                self.pending = 0;
            }
            VIRTIO_MMIO_STATUS => self.status = value,
            _ => (),
        }
    }

    /// Serves all requests that are there, in the thread of the vCPU that said so.
    fn serve(&mut self) {
        if self.status & (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED)
            != VIRTIO_CONFIG_S_DRIVER_OK
            || !self.queue.is_valid(&self.memory)
        {
            return;
        }
        let memory = &self.memory;
        let mut served = false;
        while let Some(chain) = self.queue.pop_descriptor_chain(memory) {
            let head = chain.head_index();
            let written = self.disk.serve(memory, chain);
            // It fails where the guest's ring is not in its memory: then nobody waits for it.
            served |= self.queue.add_used(memory, head, written).is_ok();
        }
        if served {
            self.pending |= VIRTIO_MMIO_INT_VRING;
            // It fails if the guest does not take interrupts; then that is pending already.
            let _ = self.interrupt.trigger();
        }
    }
}
