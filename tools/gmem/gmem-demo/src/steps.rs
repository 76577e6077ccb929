// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The whole way of a page: out of the direct map, and back to whoever gets it next.

use std::collections::BTreeSet;

use direct_map_scan::{Pagemap, scan};

use crate::{
    Error, Holder, call,
    guest::Guest,
    secret::{self, PAGE_SIZE},
};

/// How much more memory another guest has, so that some of it is the same.
const MORE: usize = 4;

/// Scans for a guest's secret after each step, none of which must show it; then for another
/// secret, of a guest of ordinary memory, which must be found whole, and partly where the first was.
/// Returns whether it is so.
pub fn run(pages: usize) -> Result<bool, Error> {
    let pattern = secret::random()?;
    let mut seen = 0;
    let mut step = |what: &str| -> Result<(), Error> {
        let found = scan(&pattern)?.pages();
        println!("{what:<44} {found:>12}");
        seen += found;
        Ok(())
    };

    let mut guest = Guest::run(&pattern, pages, guest_memfd::GUEST_MEMFD_FLAG_NO_DIRECT_MAP)?;
    guest.check(&pattern)?;
    let physical = physical_pages(guest.secrets(), pages)?;
    step("mapped, and the guest alive")?;
    guest.check(&pattern)?;
    guest.punch_hole(pages / 2)?;
    step("half of it punched out")?;
    guest.stop();
    guest.check(&pattern)?;
    step("the VM gone, the memory still mapped")?;
    guest.check(&pattern)?;
    drop(guest);
    step("the memory gone")?;

    let other = secret::random()?;
    let mut plain = Guest::run(&other, MORE * pages, 0)?;
    plain.check(&other)?;
    let found = scan(&other)?;
    let reused = found
        .hits
        .iter()
        .map(|hit| hit.physical)
        .collect::<BTreeSet<_>>()
        .intersection(&physical)
        .count();
    println!(
        "{:<44} {:>12}, {reused} of them the guest's",
        "another guest, of ordinary memory",
        found.pages()
    );
    Ok(seen == 0 && found.pages() >= MORE * pages && reused > 0)
}

/// The physical addresses of `pages` pages from `memory`, which are there.
fn physical_pages(memory: *const u8, pages: usize) -> Result<BTreeSet<u64>, Error> {
    let pagemap = Pagemap::open()?;
    (0..pages)
        .map(|page| {
            pagemap
                .physical(memory.wrapping_add(page * PAGE_SIZE))
                .map_err(call("reading the pagemap"))
        })
        .collect()
}
