// SPDX-License-Identifier: GPL-2.0
/*
 * Join entries of the direct map that were split.
 *
 * Taking a page out of the direct map splits the large entry that maps it. When
 * all pages of such an area are back, the large entry comes back here, and the
 * table is freed.
 *
 * Nothing else frees tables of the direct map, apart from memory hotplug. What
 * uses one must be excluded, or waited for:
 *
 * - CPA, which changes entries: by cpa_lock. It drops the lock only where it
 *   looks the entry up again. For debug_pagealloc, CPA takes no lock, so then
 *   nothing is joined.
 * - set_memory_*(), which drop cpa_lock between pages, and ptdump: by init_mm's
 *   mmap lock. Others look each page up again, with cpa_lock held.
 * - Memory hotplug: by get_online_mems().
 * - KFENCE, which changes the entries of its pool without a lock: it marks them
 *   with _PAGE_KERNEL_4K. Such a table is never joined.
 * - Lookups without a lock: they hold the RCU read lock, or have interrupts off,
 *   and read the PMD once. Tables are freed after a grace period. RCU does not
 *   know CPUs that are coming or going, so CPU hotplug is excluded as well.
 * - Page walks by hardware, and its caches of the paging structures: by a TLB
 *   flush before the table is freed. pagetable_dtor_free() does it for IOMMUs.
 *   The flush does not reach a CPU that has gone offline, but such a CPU can wake
 *   up in between and use the direct map. While there is one, nothing is joined.
 *
 * The new entry must not differ from what the TLBs hold for its pages. cpa_lock
 * keeps the entries as they are, but an earlier change may not be flushed yet,
 * for example set_memory_wb(), which flushes after it has dropped all locks. So
 * the TLBs are flushed before entries are joined, too.
 */

#include <linux/bitops.h>
#include <linux/cache.h>
#include <linux/cc_platform.h>
#include <linux/cpu.h>
#include <linux/cpufeature.h>
#include <linux/cpumask.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/memblock.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/pgtable.h>
#include <linux/rcupdate.h>
#include <linux/rwsem.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include <asm/tlbflush.h>

#include "../mm_internal.h"

/*
 * An area is joined one to two delays after its last page has come back. It may be
 * split again right afterwards: the delay limits how often that can happen.
 */
#define JOIN_DELAY	(5 * HZ)

/* Areas that are examined under the locks, and joined with one flush before and after. */
#define JOIN_BATCH	32

/*
 * Bitmaps, with a bit for each area: 2 MiB of physical memory, aligned. Memory
 * that is added above the last page of boot has none, and is not joined. (The
 * firmware may announce all of the address space for it.)
 */
static unsigned long *restored_areas __ro_after_init;	/* Pages came back since the last run */
static unsigned long *settling_areas __ro_after_init;	/* ... and in the run before that */
static unsigned long nr_areas __ro_after_init;
static bool enabled __ro_after_init = true;

static void join_areas(struct work_struct *work);
static DECLARE_DELAYED_WORK(join_work, join_areas);

/**
 * direct_map_restored() - Note that pages are back in the direct map.
 * @addr: Address of the first page, in the direct map.
 * @nr: Number of pages, at least 1.
 *
 * If all pages around them are back as well, their large entry comes back later.
 *
 * Context: Any.
 */
void direct_map_restored(unsigned long addr, unsigned int nr)
{
	unsigned long first = __pa(addr) >> PMD_SHIFT;
	unsigned long last = (__pa(addr) + ((unsigned long)nr << PAGE_SHIFT) - 1) >> PMD_SHIFT;
	/* Pairs with direct_map_join_init(). */
	unsigned long *areas = smp_load_acquire(&restored_areas);

	/* Hibernation maps pages while it copies the kernel's own data. */
	if (!areas || system_state == SYSTEM_SUSPEND)
		return;

	for (; first <= last && first < nr_areas; first++) {
		/* Nearly always set already, by the page before. */
		if (!test_bit(first, areas))
			set_bit(first, areas);
	}
	/* set_bit() is a full barrier here: work that is pending will see the bit. */
	if (!delayed_work_pending(&join_work))
		queue_delayed_work(system_dfl_long_wq, &join_work, JOIN_DELAY);
}

/*
 * Returns whether a TLB flush reaches all CPUs. A CPU that is present can run kernel
 * code, and use the direct map, without being online.
 */
static bool can_flush_all_cpus(void)
{
	return cpumask_subset(cpu_present_mask, cpu_online_mask);
}

static unsigned long area_pfn(unsigned long area)
{
	return area << (PMD_SHIFT - PAGE_SHIFT);
}

static pmd_t *area_pmd(unsigned long area)
{
	return lookup_pmd_address((unsigned long)pfn_to_kaddr(area_pfn(area)));
}

/* Returns whether the area has a table, and all its entries are what a large one would be. */
static bool can_join(unsigned long area)
{
	unsigned long pfn = area_pfn(area);
	pmd_t *pmd = area_pmd(area);
	pte_t *table;
	int i;

	lockdep_assert_held(&cpa_lock);

	if (!pmd || !pmd_present(*pmd) || pmd_leaf(*pmd))
		return false;

	/* Tables from boot and from memory hotplug are not the result of a split. */
	if (!PageTable(pmd_page(*pmd)))
		return false;

	table = (pte_t *)pmd_page_vaddr(*pmd);
	for (i = 0; i < PTRS_PER_PTE; i++) {
		pteval_t wanted = pte_val(pfn_pte(pfn + i, PAGE_KERNEL));

		/*
		 * Compares all of the entry: also the memory type, encryption, and
		 * _PAGE_KERNEL_4K. Hardware sets Accessed and Dirty on its own, and
		 * both are set in the large entry.
		 */
		if ((pte_val(ptep_get(table + i)) ^ wanted) & ~(_PAGE_ACCESSED | _PAGE_DIRTY))
			return false;
	}
	return true;
}

static void join(unsigned long area, struct list_head *tables)
{
	unsigned long pfn = area_pfn(area);
	pmd_t *pmd = area_pmd(area);

	list_add(&page_ptdesc(pmd_page(*pmd))->pt_list, tables);
	set_pmd(pmd, pfn_pmd(pfn, PAGE_KERNEL_LARGE));
	if (pfn_range_is_mapped(pfn, pfn + 1))
		collapse_page_count(PG_LEVEL_2M);
}

/*
 * Joins those of @nr @areas that are complete. Adds the old tables to @tables. Returns
 * false if that cannot be done now.
 */
static bool join_batch(unsigned long *areas, unsigned int nr, struct list_head *tables)
{
	unsigned int i, complete = 0;
	bool locked = false;

	cpus_read_lock();
	if (!can_flush_all_cpus())
		goto unlock_cpus;
	get_online_mems();
	/*
	 * Waiting would stop readers, some of which take the lock twice, in reclaim.
	 * (mmap_write_lock() has no such variant. It also marks VMAs, which are not here.)
	 */
	locked = down_write_trylock(&init_mm.mmap_lock);
	if (!locked)
		goto unlock_mems;
	spin_lock(&cpa_lock);

	for (i = 0; i < nr; i++) {
		if (can_join(areas[i]))
			areas[complete++] = areas[i];
	}
	if (complete) {
		/* No CPU may have a translation that differs from the entries. */
		flush_tlb_all();

		spin_lock(&pgd_lock);
		for (i = 0; i < complete; i++)
			join(areas[i], tables);
		spin_unlock(&pgd_lock);

		/* INVLPGB is ordered weakly: no CPU may find an old table after it. */
		smp_mb();

		/*
		 * Nobody may change or split the new entries while a CPU has both
		 * large and small translations, so keep cpa_lock. No CPU walks the
		 * old tables any more after this.
		 */
		flush_tlb_all();
	}

	spin_unlock(&cpa_lock);
	up_write(&init_mm.mmap_lock);
unlock_mems:
	put_online_mems();
unlock_cpus:
	cpus_read_unlock();
	return locked;
}

/* Areas of the current run. The work does not run twice at a time. */
static unsigned long batch[JOIN_BATCH];
static unsigned int batch_nr;

/* Joins the areas of the batch, now or after another delay. */
static void join_or_defer(struct list_head *tables)
{
	if (!join_batch(batch, batch_nr, tables)) {
		while (batch_nr)
			set_bit(batch[--batch_nr], restored_areas);
		queue_delayed_work(system_dfl_long_wq, &join_work, JOIN_DELAY);
	}
	batch_nr = 0;
	cond_resched();
}

static void join_areas(struct work_struct *work)
{
	unsigned long restored, settled, word;
	struct ptdesc *table, *next;
	unsigned int bit;
	bool again = false;
	LIST_HEAD(tables);

	/* The next page that comes back tries again. */
	if (!can_flush_all_cpus())
		return;

	for (word = 0; word < BITS_TO_LONGS(nr_areas); word++) {
		restored = 0;
		if (READ_ONCE(restored_areas[word]))
			restored = xchg(&restored_areas[word], 0);
		settled = settling_areas[word] & ~restored;
		settling_areas[word] = restored;
		again |= restored;

		for_each_set_bit(bit, &settled, BITS_PER_LONG) {
			batch[batch_nr++] = word * BITS_PER_LONG + bit;
			if (batch_nr == JOIN_BATCH)
				join_or_defer(&tables);
		}
	}
	if (batch_nr)
		join_or_defer(&tables);
	if (again)
		queue_delayed_work(system_dfl_long_wq, &join_work, JOIN_DELAY);
	if (list_empty(&tables))
		return;

	/* Wait for lookups that have found an old table. */
	synchronize_rcu();
	list_for_each_entry_safe(table, next, &tables, pt_list) {
		list_del(&table->pt_list);
		pagetable_dtor_free(table);
	}
}

/* In sysfs, whether it is done. */
module_param(enabled, bool, 0444);
MODULE_PARM_DESC(enabled, "Join entries of the direct map that were split");

static bool __init can_join_areas(void)
{
	if (!enabled)
		return false;

	/* The direct map has no large entries, and CPA may not take cpa_lock. */
	if (!boot_cpu_has(X86_FEATURE_PSE) || debug_pagealloc_enabled())
		return false;

	/* Tables are pinned, and shared with the mapping of the kernel image. */
	if (cpu_feature_enabled(X86_FEATURE_XENPV))
		return false;

	/*
	 * A host must not write to private pages of SNP guests, nor through a
	 * large entry that covers one. Tables that were split already are not
	 * marked as needed for that.
	 */
	if (cc_platform_has(CC_ATTR_HOST_SEV_SNP))
		return false;

	/* Guests look entries up to tell the hypervisor what they share with it. */
	if (cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT))
		return false;

	/*
	 * Some CPUs fail if their TLB has translations of both sizes, and some if
	 * they fetch instructions from there.
	 */
	if (boot_cpu_has_bug(X86_BUG_AMD_TLB_MMATCH) || !(__supported_pte_mask & _PAGE_NX))
		return false;

	/* The test looks entries up without a lock. */
	return !IS_ENABLED(CONFIG_CPA_DEBUG);
}

static int __init direct_map_join_init(void)
{
	unsigned long nr = DIV_ROUND_UP(max_pfn, PTRS_PER_PTE);
	unsigned long *areas;

	enabled = can_join_areas();
	if (!enabled)
		return 0;

	areas = kvcalloc(BITS_TO_LONGS(nr), sizeof(long), GFP_KERNEL);
	settling_areas = kvcalloc(BITS_TO_LONGS(nr), sizeof(long), GFP_KERNEL);
	if (!areas || !settling_areas) {
		kvfree(areas);
		kvfree(settling_areas);
		enabled = false;
		return -ENOMEM;
	}

	nr_areas = nr;
	/* Pairs with direct_map_restored(). */
	smp_store_release(&restored_areas, areas);
	return 0;
}
late_initcall(direct_map_join_init);

#ifdef CONFIG_DIRECT_MAP_JOIN_KUNIT_TEST
#include "direct_map_join_kunit.c"
#endif
