// SPDX-License-Identifier: GPL-2.0

//! KUnit suite of the page cache rule for memory without a direct map.
//!
//! The oracle is the direct map itself: each test reads a folio by its direct-map address, with a
//! load that may fault, at the moment when the rule says that it must, or must not.
//!
//! A failed assertion ends the thread without running destructors. So each test collects what it
//! sees, lets go of all folios and locks, and asserts last.
//!
//! Where the direct map cannot be changed, the tests that need it are skipped.
//!
//! C source: [`mm/no_direct_map.c`](srctree/mm/no_direct_map.c)

/// The name in the kernel log, as `module!` would define it.
#[allow(dead_code)]
const __LOG_PREFIX: &[u8] = b"no_direct_map_kunit\0";

use kernel::prelude::*;

#[kunit_tests(no_direct_map)]
mod tests {
    use kernel::{
        alloc::flags::{
            GFP_KERNEL, //
        },
        bindings,
        error::{
            code::{
                EEXIST,
                EINVAL,
                EOPNOTSUPP, //
            },
            from_err_ptr, //
        },
        ffi::{
            c_int,
            c_uint,
            c_void, //
        },
        mm::{
            address_space::{
                AddressSpace,
                FolioBatch,
                InsertError, //
            },
            folio::{
                Folio,
                Init,
                LockedFolio,
                NewFolio, //
            },
            pgoff::{
                Order,
                PageIndex,
                PageRange, //
            }, //
        },
        page::PAGE_SIZE,
        prelude::*,
        sync::aref::ARef, //
    };

    // In `mm/internal.h`, which is not bound. They are called by pointer, so the types must be
    // those in C (kCFI).
    #[allow(improper_ctypes)]
    extern "C" {
        fn folio_zap_direct_map(folio: *mut bindings::folio) -> c_int;
        fn folio_restore_direct_map(folio: *mut bindings::folio) -> c_int;
    }

    // In `linux/vmalloc.h`, which is not bound.
    extern "C" {
        fn vmalloc_noprof(size: usize) -> *mut c_void;
        fn vfree(addr: *const c_void);
        fn vm_map_ram(pages: *mut *mut c_void, count: c_uint, node: c_int) -> *mut c_void;
        fn vm_unmap_ram(mem: *const c_void, count: c_uint);
    }

    const SECRET: u64 = 0x5ec2e75e_c2e75ec2;

    /// Skips the running test, as `kunit_skip()`. Destructors of the caller do not run.
    fn skip() {
        // SAFETY: This can be called anywhere.
        let test = unsafe { bindings::kunit_get_current_test() };

        if !test.is_null() {
            // SAFETY: The test is valid, and this is its thread.
            unsafe { (*test).status = bindings::kunit_status_KUNIT_SKIPPED };
            // SAFETY: As above. This ends the thread.
            unsafe { bindings::__kunit_abort(test) };
        }
    }

    /// The address space of an anonymous inode.
    struct Mapping {
        file: *mut bindings::file,
    }

    impl Mapping {
        /// One whose folios stay in the direct map.
        fn ordinary() -> Result<Self> {
            struct Fops(bindings::file_operations);
            // SAFETY: It is never written to.
            unsafe impl Sync for Fops {}
            static FOPS: Fops = Fops(pin_init::zeroed());

            // SAFETY: The name and the operations are valid for as long as the kernel runs.
            let file = unsafe {
                bindings::anon_inode_create_getfile(
                    c"[no_direct_map_kunit]".as_char_ptr(),
                    &FOPS.0,
                    core::ptr::null_mut(),
                    0,
                    core::ptr::null(),
                )
            };
            Ok(Self {
                file: from_err_ptr(file)?,
            })
        }

        /// One whose folios leave the direct map.
        ///
        /// Skips the test where the direct map cannot be changed.
        fn hidden() -> Result<Self> {
            let this = Self::ordinary()?;
            // SAFETY: It was just created: empty, and nobody else knows it.
            let result = unsafe { this.space().set_no_direct_map() };
            if result == Err(EOPNOTSUPP) {
                drop(this);
                skip();
                return Err(EOPNOTSUPP);
            }
            result?;
            Ok(this)
        }

        fn space(&self) -> &AddressSpace {
            // SAFETY: The file is ours and pins the inode. Nobody else uses its address space, and
            // anonymous inodes have no use for folios.
            unsafe { AddressSpace::from_raw((*self.file).f_mapping) }
        }

        /// Allocates a folio, fills it with secrets, and inserts it.
        fn insert_secret(&self, index: usize, order: u32) -> Result<LockedFolio<'_>> {
            Ok(self.insert(secret(order)?, index)?)
        }

        fn insert(
            &self,
            folio: NewFolio<Init>,
            index: usize,
        ) -> Result<LockedFolio<'_>, InsertError> {
            self.space()
                .add_folio(folio, PageIndex::new(index), GFP_KERNEL)
        }

        fn lock(&self, index: usize) -> Result<LockedFolio<'_>> {
            self.space().lock_folio(PageIndex::new(index))
        }

        /// Takes large folios, in a kernel that has them.
        fn large(self) -> Self {
            // SAFETY: The mapping is valid, empty, and nobody else uses it.
            unsafe { bindings::mapping_set_large_folios(self.space().as_ptr()) };
            self
        }

        fn truncate(&self) {
            self.punch(PageRange::ALL);
        }

        fn punch(&self, pages: impl Into<PageRange>) {
            // SAFETY: Nobody but the page cache uses the folios.
            unsafe { self.space().invalidate_lock().truncate_range(pages.into()) };
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            self.truncate();
            // SAFETY: We own the reference.
            unsafe { bindings::fput(self.file) };
        }
    }

    /// The contents of the direct map at the address of a folio.
    #[derive(PartialEq, Eq, Clone, Copy)]
    enum Seen {
        /// Every page faults.
        Absent,
        /// Every page can be read, and all of it is zero.
        Zero,
        /// Every page can be read, and all of it is [`SECRET`].
        Secret,
        /// None of the above.
        Mixed,
    }

    fn look(folio: &Folio) -> Seen {
        look_at(folio.as_ptr(), folio.size())
    }

    fn look_new<S>(folio: &NewFolio<S>) -> Seen {
        look_at(folio.as_ptr(), folio.size())
    }

    fn look_at(folio: *mut bindings::folio, size: usize) -> Seen {
        // SAFETY: The folio is valid.
        look_by(unsafe { bindings::folio_address(folio) }, size)
    }

    /// Looks at any kernel address.
    fn look_by(addr: *const c_void, size: usize) -> Seen {
        const WORDS: usize = 64;
        const BYTES: usize = core::mem::size_of::<[u64; WORDS]>();
        let mut seen = None;

        for offset in (0..size).step_by(BYTES) {
            let mut words = [0u64; WORDS];
            // SAFETY: `words` is valid for writes; any source will do.
            let ret = unsafe {
                bindings::copy_from_kernel_nofault(
                    words.as_mut_ptr().cast(),
                    addr.wrapping_byte_add(offset),
                    BYTES,
                )
            };
            let now = if ret != 0 {
                Seen::Absent
            } else if words == [0; WORDS] {
                Seen::Zero
            } else if words == [SECRET; WORDS] {
                Seen::Secret
            } else {
                return Seen::Mixed;
            };
            if *seen.get_or_insert(now) != now {
                return Seen::Mixed;
            }
        }
        seen.unwrap_or(Seen::Mixed)
    }

    fn order(order: u32) -> Result<Order> {
        Order::new(order).ok_or(EINVAL)
    }

    fn secret(number: u32) -> Result<NewFolio<Init>> {
        let mut folio = NewFolio::alloc(order(number)?, GFP_KERNEL)?.zero();
        let mut part = [0u8; 512];
        for word in part.chunks_exact_mut(8) {
            word.copy_from_slice(&SECRET.to_ne_bytes());
        }
        for offset in (0..folio.size()).step_by(part.len()) {
            folio.write(offset, &part)?;
        }
        Ok(folio)
    }

    /// The load that may fault does see what it should see.
    #[test]
    fn oracle_reads_the_direct_map() -> Result {
        let written = look_new(&secret(0)?);
        let zeroed = look_new(&NewFolio::alloc_zeroed(order(2)?, GFP_KERNEL)?);

        assert!(written == Seen::Secret);
        assert!(zeroed == Seen::Zero);
        Ok(())
    }

    #[test]
    fn absent_while_in_the_page_cache() -> Result {
        let mapping = Mapping::hidden()?;
        let locked = mapping.insert_secret(0, 0)?;
        let while_locked = look(&locked);
        let folio = locked.unlock();
        let while_cached = look(&folio);
        drop(mapping);

        assert!(while_locked == Seen::Absent);
        assert!(while_cached == Seen::Absent);
        Ok(())
    }

    #[test]
    fn present_and_scrubbed_after_truncation() -> Result {
        let mapping = Mapping::hidden()?;
        let folio = mapping.insert_secret(0, 0)?.unlock();
        mapping.truncate();
        let after = look(&folio);

        assert!(after == Seen::Zero);
        Ok(())
    }

    /// The removal of a single folio is another path than that of a batch.
    #[test]
    fn present_and_scrubbed_after_removal() -> Result {
        let mapping = Mapping::hidden()?;
        let locked = mapping.insert_secret(0, 0)?;
        // SAFETY: The folio is locked and in the page cache, and `locked` has a reference.
        unsafe { bindings::filemap_remove_folio(locked.as_ptr()) };
        let after = look(&locked);
        drop(locked);

        assert!(after == Seen::Zero);
        Ok(())
    }

    #[test]
    fn present_and_unchanged_after_a_failed_insertion() -> Result {
        let mapping = Mapping::hidden()?;
        let winner = mapping.insert_secret(7, 0)?.unlock();
        let (error, loser) = match mapping.insert(secret(0)?, 7) {
            Ok(_) => (None, Seen::Mixed),
            Err(e) => (Some(e.error), e.folio.map_or(Seen::Mixed, |f| look_new(&f))),
        };
        let winner_stays = look(&winner);
        drop(mapping);

        assert!(error == Some(EEXIST));
        assert!(loser == Seen::Secret);
        assert!(winner_stays == Seen::Absent);
        Ok(())
    }

    #[test]
    fn ordinary_mapping_is_left_alone() -> Result {
        let mapping = Mapping::ordinary()?;
        let folio = mapping.insert_secret(0, 0)?.unlock();
        let cached = look(&folio);
        mapping.truncate();
        let after = look(&folio);

        assert!(!mapping.space().no_direct_map());
        assert!(cached == Seen::Secret);
        assert!(after == Seen::Secret);
        Ok(())
    }

    /// More than a folio batch, and than the 2 MiB that one large entry may cover.
    #[test]
    fn many_pages() -> Result {
        const PAGES: usize = 1200;
        let mapping = Mapping::hidden()?;
        let mut folios = KVec::<ARef<Folio>>::with_capacity(PAGES, GFP_KERNEL)?;
        for index in 0..PAGES {
            folios.push(mapping.insert_secret(index, 0)?.unlock(), GFP_KERNEL)?;
        }
        let absent = folios.iter().filter(|f| look(f) == Seen::Absent).count();

        // A hole in the middle: its pages come back, their neighbours do not.
        mapping.punch(300..900);
        let holed = folios[300..900]
            .iter()
            .filter(|f| look(f) == Seen::Zero)
            .count();
        let kept = folios.iter().filter(|f| look(f) == Seen::Absent).count();
        mapping.truncate();
        let zero = folios.iter().filter(|f| look(f) == Seen::Zero).count();
        drop(folios);

        assert_eq!(absent, PAGES);
        assert_eq!(holed, 600);
        assert_eq!(kept, PAGES - 600);
        assert_eq!(zero, PAGES);
        Ok(())
    }

    #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
    #[test]
    fn large_folios() -> Result {
        let mapping = Mapping::hidden()?.large();
        // The last is as large as a large entry of x86.
        for order in [1, 3, 9] {
            let folio = mapping.insert_secret(0, order)?.unlock();
            let cached = look(&folio);
            mapping.truncate();
            let after = look(&folio);
            drop(folio);

            assert!(cached == Seen::Absent);
            assert!(after == Seen::Zero);
        }
        Ok(())
    }

    /// A hole in the middle of a large folio, which is restored as it was zapped: as a whole.
    #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
    #[test]
    fn a_large_folio_is_not_split() -> Result {
        let mapping = Mapping::hidden()?.large();
        let folio = mapping.insert_secret(8, 3)?.unlock();
        mapping.punch(8..11);
        mapping.punch(13..16);
        let (pages, holed) = (folio.nr_pages(), look(&folio));
        mapping.punch(8..16);
        let after = look(&folio);

        assert_eq!(pages, 8);
        assert!(holed == Seen::Absent);
        assert!(after == Seen::Zero);
        Ok(())
    }

    /// Folios at an index beyond the end of the largest file, or not aligned to their size.
    #[test]
    fn bad_indices_are_refused() -> Result {
        let mapping = Mapping::hidden()?.large();
        let mut refused = 0;
        for (index, order) in [(usize::MAX, 0), (usize::MAX / PAGE_SIZE, 0), (4, 3), (7, 1)] {
            let result = mapping.insert(secret(order)?, index);
            let error = result.err();
            let intact = error.is_some_and(|e| {
                e.error == EINVAL && e.folio.is_some_and(|f| look_new(&f) == Seen::Secret)
            });
            refused += usize::from(intact);
        }

        assert_eq!(refused, 4);
        Ok(())
    }

    #[test]
    fn an_index_is_used_again() -> Result {
        let mapping = Mapping::hidden()?;
        let mut wrong = 0;
        for _ in 0..100 {
            let folio = mapping.insert_secret(3, 0)?.unlock();
            wrong += usize::from(look(&folio) != Seen::Absent);
            mapping.truncate();
            wrong += usize::from(look(&folio) != Seen::Zero);
        }

        assert_eq!(wrong, 0);
        Ok(())
    }

    /// The same folio, found by a look-up.
    #[test]
    fn a_lookup_finds_it_absent() -> Result {
        let mapping = Mapping::hidden()?;
        let pfn = mapping.insert_secret(5, 0)?.pfn();
        let found = mapping.lock(5)?;
        let (same, index, seen) = (found.pfn() == pfn, found.index(), look(&found));
        drop(found);
        drop(mapping);

        assert!(same);
        assert_eq!(index, PageIndex::new(5));
        assert!(seen == Seen::Absent);
        Ok(())
    }

    /// One batch, of which one folio comes too late.
    #[test]
    fn a_batch_is_absent() -> Result {
        let mapping = Mapping::hidden()?;
        let winner = mapping.insert_secret(3, 0)?.pfn();
        let mut batch = FolioBatch::new();
        let mut pages = 0;
        while !batch.is_full() {
            batch.push(secret(0)?, PageIndex::new(pages))?;
            pages += 1;
        }
        let too_many = batch.push(secret(0)?, PageIndex::new(pages)).is_err();
        let result = mapping.space().add_batch(&mut batch);
        let full = batch.is_full();

        let mut absent = 0;
        for index in 0..pages {
            absent += usize::from(look(&*mapping.lock(index)?) == Seen::Absent);
        }
        let winner_stays = mapping.lock(3)?.pfn() == winner;
        let one = mapping.lock(0)?.unlock();
        drop(mapping);
        let after = look(&one);

        assert!(too_many);
        assert!(result.is_ok());
        assert!(!full);
        assert!(pages > 8);
        assert_eq!(absent, pages);
        assert!(winner_stays);
        assert!(after == Seen::Zero);
        Ok(())
    }

    /// Nothing is zapped for a mapping that keeps its direct map.
    #[test]
    fn a_batch_is_refused_by_an_ordinary_mapping() -> Result {
        let mapping = Mapping::ordinary()?;
        let mut batch = FolioBatch::new();
        batch.push(secret(0)?, PageIndex::new(0))?;
        let error = mapping.space().add_batch(&mut batch).err();
        let empty = mapping.lock(0).is_err();
        drop(mapping);

        assert!(error == Some(EINVAL));
        assert!(empty);
        Ok(())
    }

    /// Calls `f` with the folio locked.
    fn locked(folio: &Folio, f: unsafe extern "C" fn(*mut bindings::folio) -> c_int) -> c_int {
        // SAFETY: The folio is valid, and in no page cache whenever this is called.
        unsafe {
            bindings::__folio_lock(folio.as_ptr());
            let ret = f(folio.as_ptr());
            bindings::folio_unlock(folio.as_ptr());
            ret
        }
    }

    /// Memory that is out already stays out, and keeps what it holds.
    #[test]
    fn the_owner_manages_the_direct_map() -> Result {
        let mapping = Mapping::hidden()?;
        // SAFETY: It was just created: empty, and nobody else knows it.
        unsafe { bindings::mapping_set_direct_map_by_owner(mapping.space().as_ptr()) };

        // A `NewFolio` is in the direct map, and so not welcome here.
        let refused = mapping.insert(secret(0)?, 0).err().map(|e| e.error);
        let new = secret(0)?;
        // SAFETY: The folio is valid, and `new` is not used for its contents any more.
        let folio: ARef<Folio> = unsafe { &*new.as_ptr().cast::<Folio>() }.into();
        let zapped = locked(&folio, folio_zap_direct_map);
        // A reference for `insert_raw` to consume.
        core::mem::forget(new);
        let inserted = insert_raw(&mapping, folio.as_ptr(), 0);
        let cached = look(&folio);
        mapping.truncate();
        let removed = look(&folio);
        let restored = locked(&folio, folio_restore_direct_map);
        let after = look(&folio);

        assert_eq!(refused, Some(EINVAL));
        assert!(inserted.is_ok());
        assert_eq!(zapped, 0);
        assert!(mapping.space().no_direct_map());
        assert!(cached == Seen::Absent);
        assert!(removed == Seen::Absent);
        assert_eq!(restored, 0);
        assert!(after == Seen::Secret);
        Ok(())
    }

    /// Pages that are out of the direct map, as `/proc/vmstat` has it, and hibernation.
    fn counted() -> i64 {
        const ITEM: usize = bindings::node_stat_item_NR_NO_DIRECT_MAP as usize;

        // SAFETY: An atomic counter, which is read as `atomic_long_read()` does.
        unsafe { (&raw const bindings::vm_node_stat[ITEM].counter).read_volatile() }
    }

    /// Exactly, at each moment: an image of all memory is not made while there is one such page.
    /// (If nobody else has such memory.)
    #[test]
    fn pages_are_counted() -> Result {
        let mapping = Mapping::hidden()?.large();
        // Without this, there are no large folios in the page cache.
        let order = if cfg!(CONFIG_TRANSPARENT_HUGEPAGE) {
            3
        } else {
            0
        };
        let before = counted();
        drop(mapping.insert_secret(0, 0)?);
        let one = counted() - before;
        drop(mapping.insert_secret(8, order)?);
        let more = counted() - before;
        let lost = mapping.insert(secret(0)?, 0).is_err();
        let no_more = counted() - before;
        mapping.truncate();
        let none = counted() - before;

        assert_eq!(one, 1);
        assert_eq!(more, 1 + (1 << order));
        assert!(lost);
        assert_eq!(no_more, more);
        assert_eq!(none, 0);
        Ok(())
    }

    /// Inserts a folio that is not in a [`NewFolio`], whose last reference this consumes.
    fn insert_raw(mapping: &Mapping, folio: *mut bindings::folio, index: usize) -> Result {
        // SAFETY: The folio is valid, and ours alone. Once it is in the page cache it is locked.
        unsafe {
            let ret = bindings::filemap_add_folio(
                mapping.space().as_ptr(),
                folio,
                index,
                bindings::GFP_KERNEL,
            );
            if ret == 0 {
                bindings::folio_unlock(folio);
            }
            bindings::folio_put(folio);
            kernel::error::to_result(ret)
        }
    }

    /// Counts how often a page can be read at another kernel address, before and after the page was
    /// unmapped there and inserted.
    ///
    /// `map` maps a page and returns the address, and a function that unmaps and inserts it.
    fn reached<F: FnOnce() -> Result>(
        mut map: impl FnMut(usize) -> Result<(*mut c_void, F)>,
    ) -> Result<(usize, usize)> {
        let (mut before, mut after) = (0, 0);
        for index in 0..ROUNDS {
            let (addr, unmap_and_insert) = map(index)?;
            before += usize::from(look_by(addr, PAGE_SIZE) == Seen::Secret);
            unmap_and_insert()?;
            after += usize::from(look_by(addr, PAGE_SIZE) == Seen::Secret);
        }
        Ok((before, after))
    }

    const ROUNDS: usize = 64;

    /// `vfree()` frees a page while CPUs may still have a translation for it. None is left when the
    /// page is in the page cache.
    ///
    /// An emulated x86 CPU flushes more than it is asked to, and hides a flush that is missing. On
    /// an emulated arm64 CPU this fails without the flush.
    #[test]
    fn not_reached_by_what_vfree_left() -> Result {
        let mapping = Mapping::hidden()?;
        let counts = reached(|index| {
            // SAFETY: Any size will do.
            let addr = unsafe { vmalloc_noprof(PAGE_SIZE) };
            if addr.is_null() {
                return Err(ENOMEM);
            }
            for word in 0..PAGE_SIZE / 8 {
                // SAFETY: The area has this word, and nobody else uses it.
                unsafe { addr.cast::<u64>().add(word).write(SECRET) };
            }
            // SAFETY: The address is in the area.
            let folio: *mut bindings::folio = unsafe { bindings::vmalloc_to_page(addr) }.cast();
            // SAFETY: The page is valid. `insert_raw` consumes the reference.
            unsafe { bindings::folio_get(folio) };
            let mapping = &mapping;
            Ok((addr, move || {
                // SAFETY: The area was allocated above, and is not used any more.
                unsafe { vfree(addr) };
                insert_raw(mapping, folio, index)
            }))
        });
        drop(mapping);

        assert_eq!(counts, Ok((ROUNDS, 0)));
        Ok(())
    }

    /// `vm_unmap_ram()` leaves translations as well, on a list of its own.
    #[test]
    fn not_reached_by_what_vm_unmap_ram_left() -> Result {
        let mapping = Mapping::hidden()?;
        let counts = reached(|index| {
            let folio = secret(0)?;
            let mut page: *mut c_void = folio.as_ptr().cast();
            // SAFETY: There is one page, which nobody else uses.
            let addr = unsafe { vm_map_ram(&raw mut page, 1, -1) };
            if addr.is_null() {
                return Err(ENOMEM);
            }
            let mapping = &mapping;
            Ok((addr, move || {
                // SAFETY: It was mapped above, and is not used any more.
                unsafe { vm_unmap_ram(addr, 1) };
                drop(mapping.insert(folio, index)?);
                Ok(())
            }))
        });
        drop(mapping);

        assert_eq!(counts, Ok((ROUNDS, 0)));
        Ok(())
    }

    /// A mapping has folios of the orders that it was set up for.
    #[test]
    fn other_orders_are_refused() -> Result {
        let mapping = Mapping::ordinary()?;
        let error = mapping.insert(secret(1)?, 0).err().map(|e| e.error);
        let empty = !mapping.space().has_folio(PageIndex::new(0));
        drop(mapping);

        assert_eq!(error, Some(EINVAL));
        assert!(empty);
        Ok(())
    }

    /// An entry without a folio, as reclaim leaves one behind.
    #[test]
    fn a_shadow_entry_is_no_folio() -> Result {
        let mapping = Mapping::ordinary()?;
        // SAFETY: The mapping is valid, and a field of it is computed.
        let pages = unsafe { &raw mut (*mapping.space().as_ptr()).i_pages };
        let shadow = core::ptr::without_provenance_mut(1);
        // SAFETY: The array is valid, and 1 is the value entry of 0.
        unsafe { bindings::xa_store(pages, 5, shadow, bindings::GFP_KERNEL) };
        let seen = mapping.space().has_folio(PageIndex::new(5));
        // SAFETY: The array is valid.
        unsafe { bindings::xa_erase(pages, 5) };
        drop(mapping.insert_secret(5, 0)?);
        let folio = mapping.space().has_folio(PageIndex::new(5));
        drop(mapping);

        assert!(!seen);
        assert!(folio);
        Ok(())
    }

    /// A page fault checks this before it maps a folio.
    #[test]
    fn a_folio_is_where_it_is() -> Result {
        let (mapping, other) = (Mapping::ordinary()?, Mapping::ordinary()?);
        let folio = mapping.insert_secret(5, 0)?;
        let at =
            |mapping: &Mapping, index| mapping.space().is_folio_at(&folio, PageIndex::new(index));
        let seen = [4, 5, 6].map(|index| at(&mapping, index));
        let elsewhere = at(&other, 5);
        let pfn = [4, 5, 6].map(|index| folio.pfn_of(PageIndex::new(index)));
        let own = folio.pfn();
        drop(folio);
        drop(mapping);
        drop(other);

        assert_eq!(seen, [false, true, false]);
        assert!(!elsewhere);
        assert_eq!(pfn, [None, Some(own), None]);
        Ok(())
    }

    /// Memory that was not cleared cannot be read before it is.
    #[test]
    fn a_new_folio_is_cleared() -> Result {
        let seen = look_new(&NewFolio::alloc(order(1)?, GFP_KERNEL)?.zero());

        assert!(seen == Seen::Zero);
        Ok(())
    }

    /// A reference that outlives the mapping does not keep the contents.
    #[test]
    fn scrubbed_although_referenced() -> Result {
        let mapping = Mapping::hidden()?;
        let folio = mapping.insert_secret(0, 0)?.unlock();
        drop(mapping);
        let after = look(&folio);

        assert!(after == Seen::Zero);
        assert_eq!(folio.size(), PAGE_SIZE);
        Ok(())
    }
}
