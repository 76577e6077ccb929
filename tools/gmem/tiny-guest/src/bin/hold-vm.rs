// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Creates a virtual machine, and keeps it until it is killed.
//!
//! While there is one, KVM and the scheduler do not patch their code whenever another one comes or
//! goes, which QEMU's emulation does not always survive; see `scripts/guest/kvm-suite`.

use std::thread;

use kvm_ioctls::{Error, Kvm};

fn main() -> Result<(), Error> {
    let _vm = Kvm::new()?.create_vm()?;
    loop {
        thread::park();
    }
}
