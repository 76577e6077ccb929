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
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/set_memory.h>
#include <linux/swap.h>
#include <linux/vmstat.h>

#include <asm/tlbflush.h>

#include "internal.h"

#undef pr_fmt
#define pr_fmt(fmt) "no_direct_map: " fmt

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
	const long nr = folio_nr_pages(folio);
	int err;

	might_sleep();
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);
	VM_WARN_ON_ONCE_FOLIO(folio->mapping, folio);

	if (!can_set_direct_map() || folio_test_highmem(folio))
		return -EINVAL;

	err = set_direct_map_valid_noflush(folio_page(folio, 0), nr, false);
	count_vm_events(DIRECT_MAP_ZAPPED, nr);
	if (unlikely(err)) {
		/* Some of the entries may be gone, some not. */
		folio_restore_or_leak(folio);
		return err;
	}

	flush_tlb_kernel_range(addr, addr + folio_size(folio));
	return 0;
}
ALLOW_ERROR_INJECTION(folio_zap_direct_map, ERRNO);

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

	err = set_direct_map_valid_noflush(folio_page(folio, 0), nr, true);
	if (likely(!err))
		count_vm_events(DIRECT_MAP_RESTORED, nr);
	return err;
}
ALLOW_ERROR_INJECTION(folio_restore_direct_map, ERRNO);

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
	const long nr = folio_nr_pages(folio);
	int err = folio_restore_direct_map(folio);

	if (likely(!err))
		return true;

	folio_get(folio);
	count_vm_events(DIRECT_MAP_LEAKED, nr);
	pr_err_once("cannot restore %ld page(s) at pfn %#lx (%d), keeping them from being freed\n",
		    nr, folio_pfn(folio), err);
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
 * Context: Process context, may sleep. No lock of the page cache is held.
 */
void filemap_restore_folio(struct folio *folio)
{
	might_sleep();

	if (likely(folio_restore_or_leak(folio))) {
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
