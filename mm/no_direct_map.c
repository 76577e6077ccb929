// SPDX-License-Identifier: GPL-2.0
/*
 * Page cache folios that the kernel has no mapping of.
 *
 * A folio in the page cache of an AS_NO_DIRECT_MAP mapping has no valid
 * direct-map entry, on any CPU, from before it can be found until after it can
 * no longer be found. The page cache itself keeps that rule, in the two places
 * where a folio enters and leaves it; this file has what it calls there. The
 * owner of the mapping sets the flag and need not do anything else.
 */

#include <linux/error-injection.h>
#include <linux/highmem.h>
#include <linux/memcontrol.h>
#include <linux/folio_batch.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/set_memory.h>
#include <linux/swap.h>
#include <linux/vmstat.h>

#include <asm/tlbflush.h>

#include "internal.h"

#define CREATE_TRACE_POINTS
#include <trace/events/no_direct_map.h>

#undef pr_fmt
#define pr_fmt(fmt) "no_direct_map: " fmt

/*
 * Reasons why an image of all memory cannot be made: address spaces without a
 * direct map, from when they become one until they are evicted, and folios
 * that were leaked.
 */
static atomic_long_t no_direct_map_users;

void no_direct_map_get(void)
{
	atomic_long_inc(&no_direct_map_users);
}
EXPORT_SYMBOL_FOR_MODULES(no_direct_map_get, "kvm");

void no_direct_map_put(void)
{
	WARN_ON_ONCE(atomic_long_dec_return(&no_direct_map_users) < 0);
}

/**
 * no_direct_map_active() - Is there memory that the kernel has no mapping of?
 *
 * Return: true while there is, or may be at any moment.
 */
bool no_direct_map_active(void)
{
	return atomic_long_read(&no_direct_map_users) > 0;
}

/* Does not flush. */
static int zap(struct folio *folio)
{
	const long nr = folio_nr_pages(folio);
	int err = -EINVAL;

	might_sleep();
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);
	VM_WARN_ON_ONCE_FOLIO(folio->mapping, folio);

	if (can_set_direct_map() && !folio_test_highmem(folio)) {
		err = set_direct_map_valid_noflush((unsigned long)folio_address(folio),
						   nr, false);
		count_vm_events(DIRECT_MAP_ZAPPED, nr);
		/* Some of the entries may be gone, some not. */
		if (unlikely(err))
			folio_restore_or_leak(folio);
	}

	trace_folio_zap_direct_map(folio, err);
	return err;
}

/**
 * folio_zap_direct_map() - Remove a folio from the direct map.
 * @folio: The folio, of any order. Locked, and in no page cache yet.
 *
 * When this returns success, no CPU can reach the folio through the direct
 * map, speculatively or otherwise: the entries are gone and the TLBs flushed.
 * When it fails, the folio is in the direct map as before. Should that be
 * impossible to achieve, the folio has one more reference, which nobody drops.
 *
 * The caller restores the folio with folio_restore_direct_map() before it
 * drops its last reference.
 *
 * Context: Process context, may sleep: a large entry may have to be split.
 * Return: 0, -ENOMEM where a split found no memory for the page table, or
 * -EINVAL if there is nothing to remove: the direct map cannot be changed on
 * this machine, or the folio lies in highmem.
 */
noinline int folio_zap_direct_map(struct folio *folio)
{
	const unsigned long addr = (unsigned long)folio_address(folio);
	int err = zap(folio);

	if (likely(!err))
		flush_tlb_direct_map(addr, addr + folio_size(folio));
	return err;
}
ALLOW_ERROR_INJECTION(folio_zap_direct_map, ERRNO);

/**
 * folio_batch_zap_direct_map() - Remove many folios from the direct map.
 * @fbatch: The folios, each as for folio_zap_direct_map().
 *
 * As folio_zap_direct_map() for each of them, but for one TLB flush for all.
 * They are all removed, or, if it fails, none.
 *
 * Context: Process context, may sleep.
 * Return: as folio_zap_direct_map().
 */
noinline int folio_batch_zap_direct_map(struct folio_batch *fbatch)
{
	unsigned long start = ULONG_MAX, end = 0;
	unsigned int i;
	int err;

	for (i = 0; i < folio_batch_count(fbatch); i++) {
		struct folio *folio = fbatch->folios[i];
		const unsigned long addr = (unsigned long)folio_address(folio);

		err = zap(folio);
		if (unlikely(err))
			goto undo;
		start = min(start, addr);
		end = max(end, addr + folio_size(folio));
	}

	/* The architecture flushes all if that is cheaper than this range. */
	if (start < end)
		flush_tlb_direct_map(start, end);
	return 0;

undo:
	while (i--)
		folio_restore_or_leak(fbatch->folios[i]);
	return err;
}
ALLOW_ERROR_INJECTION(folio_batch_zap_direct_map, ERRNO);

/**
 * folio_restore_direct_map() - Put a folio back into the direct map.
 * @folio: The folio, as folio_zap_direct_map() removed it: same order. Locked,
 *	and in no page cache any more.
 *
 * Needs no TLB flush: entries that are not present are not cached.
 *
 * If this fails, the folio must not be freed: the allocator and whoever gets
 * the memory next write to it through the direct map.
 *
 * Context: Process context.
 * Return: 0, or a negative error number of the architecture. It restores what
 * it removed, at the same granularity, so nothing has to be split and no
 * failure is expected.
 */
noinline int folio_restore_direct_map(struct folio *folio)
{
	const long nr = folio_nr_pages(folio);
	int err;

	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);
	VM_WARN_ON_ONCE_FOLIO(folio->mapping, folio);

	err = set_direct_map_valid_noflush((unsigned long)folio_address(folio),
					   nr, true);
	if (likely(!err))
		count_vm_events(DIRECT_MAP_RESTORED, nr);
	trace_folio_restore_direct_map(folio, err);
	return err;
}
ALLOW_ERROR_INJECTION(folio_restore_direct_map, ERRNO);

/**
 * folio_check_no_direct_map() - Warn of a folio that is in the direct map.
 * @folio: The folio.
 *
 * For folios that are kept out by somebody else. Debug builds only.
 */
void folio_check_no_direct_map(struct folio *folio)
{
	long i;

	if (!IS_ENABLED(CONFIG_DEBUG_VM))
		return;

	for (i = 0; i < folio_nr_pages(folio); i++)
		VM_WARN_ON_ONCE_FOLIO(kernel_page_present(folio_page(folio, i)), folio);
}

static void folio_leak(struct folio *folio)
{
	folio_get(folio);
	no_direct_map_get();
	count_vm_events(DIRECT_MAP_LEAKED, folio_nr_pages(folio));
}

/**
 * folio_restore_or_leak() - Restore a folio, or see that it is never freed.
 * @folio: The folio, as for folio_restore_direct_map().
 *
 * A page without a direct-map entry must never get to the allocator. If it
 * cannot be restored, it gets a reference of its own that nobody drops.
 *
 * Context: Process context.
 * Return: Whether the folio is in the direct map again.
 */
bool folio_restore_or_leak(struct folio *folio)
{
	int err = folio_restore_direct_map(folio);

	if (likely(!err))
		return true;

	folio_leak(folio);
	pr_err_once("cannot restore %ld page(s) at pfn %#lx (%d), keeping them from being freed\n",
		    folio_nr_pages(folio), folio_pfn(folio), err);
	return false;
}

/**
 * filemap_restore_folio() - A folio has left an AS_NO_DIRECT_MAP mapping.
 * @folio: The folio. Locked, removed from its page cache, with at least one
 *	reference held by the caller.
 *
 * Restores the folio and scrubs it before anything else can allocate it. If it
 * cannot be restored, it is leaked: off the LRU, and without its charge, so
 * that no dead memory cgroup lives on for it.
 *
 * So is a folio with a hardware error. Restoring it would expose the error to
 * stray and speculative reads, and scrubbing would run into it. The reference
 * that it keeps also tells memory failure that it is not free to be unpoisoned.
 *
 * Context: Process context, may sleep. No lock of the page cache is held.
 */
void filemap_restore_folio(struct folio *folio)
{
	might_sleep();

	if (unlikely(folio_contain_hwpoisoned_page(folio))) {
		folio_leak(folio);
	} else if (likely(folio_restore_or_leak(folio))) {
		folio_zero_range(folio, 0, folio_size(folio));
		return;
	}

	/* It may still be on its way to the LRU, in some CPU's batch. */
	lru_add_drain_all();
	if (folio_isolate_lru(folio)) {
		folio_put(folio);
		mem_cgroup_uncharge(folio);
	}
}
