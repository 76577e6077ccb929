// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Xen's shared pages (vcpu info, time, runstate across two pages, shared info) are set and cleared
//! while holes are punched there, the slot is unbound and bound, the vCPU runs, and event channels
//! are signalled.

use std::{
    os::fd::{AsRawFd, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

use guest_memfd::GuestMemfd;
use kvm_bindings::{
    KVM_XEN_ATTR_TYPE_LONG_MODE, KVM_XEN_ATTR_TYPE_SHARED_INFO, KVM_XEN_HVM_CONFIG_EVTCHN_SEND,
    KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL, KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR,
    KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO, KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO, KVMIO,
    kvm_irq_routing_xen_evtchn, kvm_xen_hvm_attr, kvm_xen_hvm_config, kvm_xen_vcpu_attr,
};
use tiny_guest::has_halted;
use vmm_sys_util::{errno, ioctl::ioctl_with_ref, ioctl_iow_nr};

use super::{
    Act, Rng, Successes, at_once,
    guest::{DATA, Guest},
};
use crate::{Error, call, round::PAGE};

ioctl_iow_nr!(KVM_XEN_HVM_CONFIG, KVMIO, 0x7a, kvm_xen_hvm_config);
ioctl_iow_nr!(KVM_XEN_HVM_SET_ATTR, KVMIO, 0xc9, kvm_xen_hvm_attr);
ioctl_iow_nr!(KVM_XEN_VCPU_SET_ATTR, KVMIO, 0xcb, kvm_xen_vcpu_attr);
ioctl_iow_nr!(
    KVM_XEN_HVM_EVTCHN_SEND,
    KVMIO,
    0xd0,
    kvm_irq_routing_xen_evtchn
);

const PAGES: u64 = 4;
/// `KVM_XEN_INVALID_GFN` and `KVM_XEN_INVALID_GPA`: none.
const NONE: u64 = u64::MAX;
/// 1,200 rounds take ten minutes.
const LENGTH: Duration = Duration::from_millis(500);
/// How long the data stays bound, at most, in microseconds.
const BOUND_FOR: u64 = 100_000;

/// One of the four.
const SHARED_INFO: u64 = 0;

const SET: usize = 0;
const CLEARED: usize = 1;
const PUNCHED: usize = 2;
const BOUND: usize = 3;
const RAN: usize = 4;
const SENT: usize = 5;

/// A Xen guest's VM or vCPU.
#[derive(Clone, Copy)]
struct Fd<'a>(BorrowedFd<'a>);

impl Fd<'_> {
    /// # Safety
    ///
    /// Callers must ensure that `request` reads a `T`, and does not write.
    unsafe fn set<T>(self, request: libc::c_ulong, arg: &T) -> Result<(), errno::Error> {
        // SAFETY: The caller promises that no more than the structure is read.
        match unsafe { ioctl_with_ref(&self.0, request, arg) } {
            0.. => Ok(()),
            _ => Err(errno::Error::last()),
        }
    }

    fn vm_attribute(self, kind: u32, value: u64) -> Result<(), errno::Error> {
        let mut attr = kvm_xen_hvm_attr {
            type_: kind as u16,
            ..Default::default()
        };
        attr.u.pad = [value, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: It is the structure of this ioctl.
        unsafe { self.set(KVM_XEN_HVM_SET_ATTR(), &attr) }
    }

    fn vcpu_attribute(self, kind: u32, value: u64) -> Result<(), errno::Error> {
        let mut attr = kvm_xen_vcpu_attr {
            type_: kind as u16,
            ..Default::default()
        };
        attr.u.pad = [value, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: It is the structure of this ioctl.
        unsafe { self.set(KVM_XEN_VCPU_SET_ATTR(), &attr) }
    }

    /// Sets or clears one of the four.
    fn attribute(self, vm: Self, kind: u64, at: Option<u64>) -> Result<(), errno::Error> {
        match kind {
            SHARED_INFO => vm.vm_attribute(
                KVM_XEN_ATTR_TYPE_SHARED_INFO,
                at.map_or(NONE, |at| at / PAGE),
            ),
            1 => self.vcpu_attribute(KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO, at.unwrap_or(NONE)),
            2 => self.vcpu_attribute(KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO, at.unwrap_or(NONE)),
            // Half of it in the page before.
            _ => self.vcpu_attribute(
                KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR,
                at.map_or(NONE, |at| at.max(2 * PAGE) - 24),
            ),
        }
    }

    fn send(self, port: u32) -> Result<(), errno::Error> {
        let event = kvm_irq_routing_xen_evtchn {
            port,
            vcpu: 0,
            // KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL
            priority: u32::MAX,
        };
        // SAFETY: It is the structure of this ioctl.
        unsafe { self.set(KVM_XEN_HVM_EVTCHN_SEND(), &event) }
    }
}

pub fn rounds(rounds: u32, rng: &mut Rng) -> Result<(), Error> {
    let successes = Successes::of(["set", "cleared", "punched", "bound", "ran", "sent"]);
    (0..rounds).try_for_each(|_| round(&successes, rng))?;
    successes.check(rounds)
}

fn round(successes: &Successes<6>, rng: &mut Rng) -> Result<(), Error> {
    let guest = Guest::new(PAGES as usize)?;
    let mut vcpu = guest.vm.create_vcpu(0).map_err(call("KVM_CREATE_VCPU"))?;
    // SAFETY: They are open as long as the threads below run.
    let (vm, cpu) = unsafe {
        (
            Fd(BorrowedFd::borrow_raw(guest.vm.as_raw_fd())),
            Fd(BorrowedFd::borrow_raw(vcpu.as_raw_fd())),
        )
    };
    let config = kvm_xen_hvm_config {
        flags: KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL | KVM_XEN_HVM_CONFIG_EVTCHN_SEND,
        ..Default::default()
    };
    // SAFETY: It is the structure of this ioctl.
    unsafe { vm.set(KVM_XEN_HVM_CONFIG(), &config) }.map_err(call("KVM_XEN_HVM_CONFIG"))?;
    vm.vm_attribute(KVM_XEN_ATTR_TYPE_LONG_MODE, 1)
        .map_err(call("KVM_XEN_HVM_SET_ATTR"))?;
    // Linux 7.3 warns of an event where there has never been a shared info page.
    cpu.attribute(vm, SHARED_INFO, Some(PAGE))
        .map_err(call("KVM_XEN_HVM_SET_ATTR"))?;

    let guest = &guest;
    let end = Instant::now() + LENGTH;
    let until_end = |mut step: Box<dyn FnMut() -> Result<(), Error> + Send>| -> Act<'_> {
        Box::new(move || {
            while Instant::now() < end {
                step()?;
            }
            Ok(())
        })
    };
    let page = |rng: &mut Rng| PAGE + rng.below(PAGES) * PAGE;

    let mut acts = Vec::new();
    for mut rng in [rng.fork(), rng.fork()] {
        acts.push(until_end(Box::new(move || {
            // They fail while nothing is bound.
            let (kind, at) = (rng.below(4), page(&mut rng));
            if rng.below(4) > 0 {
                successes.count(SET, cpu.attribute(vm, kind, Some(at)));
            } else {
                successes.count(CLEARED, cpu.attribute(vm, kind, None));
            }
            Ok(())
        })));
    }
    let mut holes = rng.fork();
    acts.push(until_end(Box::new(move || {
        let result = guest.memory.punch_hole(page(&mut holes), PAGE);
        successes.count(PUNCHED, result.as_ref());
        result.map_err(call("fallocate"))
    })));
    let mut pauses = rng.fork();
    acts.push(until_end(Box::new(move || {
        GuestMemfd::unbind(&guest.vm, DATA)?;
        let result = guest.bind_data();
        successes.count(BOUND, result.as_ref());
        thread::sleep(Duration::from_micros(pauses.below(BOUND_FOR)));
        result
    })));
    let mut ports = rng.fork();
    acts.push(until_end(Box::new(move || {
        successes.count(SENT, vm.send(1 + ports.below(1000) as u32));
        Ok(())
    })));
    acts.push(Box::new(move || {
        while Instant::now() < end {
            guest.start(&vcpu)?;
            // Without its memory it does not halt.
            let halted = vcpu.run().is_ok_and(|exit| has_halted(&exit));
            successes.count(RAN, halted.then_some(()).ok_or(()));
        }
        Ok(())
    }));
    at_once(acts, rng)
}
