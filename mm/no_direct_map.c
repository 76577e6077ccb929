// SPDX-License-Identifier: GPL-2.0
/*
 * Page cache folios without a direct map.
 *
 * A folio in the page cache of an AS_NO_DIRECT_MAP mapping has no valid
 * direct-map entry, on any CPU, from before it can be found until after it can
 * no longer be found. The page cache enforces this rule where it inserts and
 * removes folios, by calling the functions in this file. The owner of the
 * mapping only sets the flag.
 */

#include <linux/error-injection.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/folio_batch.h>
#include <linux/highmem.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/set_memory.h>
#include <linux/swap.h>
#include <linux/vmstat.h>

#include "internal.h"

#define CREATE_TRACE_POINTS
#include <trace/events/no_direct_map.h>

#undef pr_fmt
#define pr_fmt(fmt) "no_direct_map: " fmt

/**
 * mapping_set_no_direct_map() - Keep a mapping's folios out of the direct map.
 * @mapping: The mapping. Empty, and not reachable by others yet.
 *
 * From then on no folio in @mapping has a valid direct-map entry, from before
 * it can be found in the page cache until after it can no longer be found. The
 * page cache ensures that, and scrubs each folio on removal. The owner has to
 * fill folios, or allocate them zeroed, before it inserts them.
 *
 * The contents have no kernel address, so such a mapping is inaccessible, too:
 * unevictable, and its folios do not move. This cannot be undone.
 *
 * Return: 0, or -EOPNOTSUPP if the direct map cannot be changed.
 */
int mapping_set_no_direct_map(struct address_space *mapping)
{
	VM_WARN_ON_ONCE(!mapping_empty(mapping));
	/* Some architectures maintain caches by address for executable pages. */
	VM_WARN_ON_ONCE(!(mapping->host->i_sb->s_iflags & SB_I_NOEXEC));

	if (!can_set_direct_map())
		return -EOPNOTSUPP;

	mapping_set_inaccessible(mapping);
	set_bit(AS_NO_DIRECT_MAP, &mapping->flags);
	return 0;
}
EXPORT_SYMBOL_FOR_MODULES(mapping_set_no_direct_map, "kvm");

/*
 * Not batched per CPU: hibernation must know if there is even one such page. An
 * atomic is cheap compared to a change of the direct map.
 */
static void count_no_direct_map(struct folio *folio, long nr)
{
	node_page_state_add(nr, folio_pgdat(folio), NR_NO_DIRECT_MAP);
}

/* Removes the entries. The caller must flush the TLBs. */
static int folio_zap_noflush(struct folio *folio)
{
	const long nr = folio_nr_pages(folio);
	int err = -EINVAL;

	might_sleep();
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);
	VM_WARN_ON_ONCE_FOLIO(folio->mapping, folio);

	if (can_set_direct_map() && !folio_test_highmem(folio)) {
		count_no_direct_map(folio, nr);
		err = set_direct_map_valid_noflush((unsigned long)folio_address(folio),
						   nr, false);
		/*
		 * Some of the entries may be gone. If none is, do not restore
		 * them, which could fail for the same reason.
		 */
		if (unlikely(err)) {
			if (direct_map_is(&folio->page, nr, true))
				count_no_direct_map(folio, -nr);
			else
				folio_restore_or_leak(folio);
		}
	}

	trace_folio_zap_direct_map(folio, err);
	return err;
}

/**
 * folio_zap_direct_map() - Remove a folio from the direct map.
 * @folio: The folio, of any order. Locked, and in no page cache yet.
 *
 * On success, no CPU can access the folio, not even speculatively, through the
 * direct map or through stale TLB entries of vmalloc() or vmap(): the entries
 * are gone and the TLBs flushed. On failure, the folio is in the direct map as
 * before, or, if it cannot be restored, leaked by an extra reference.
 *
 * The caller must restore the folio with folio_restore_direct_map() before it
 * drops its last reference.
 *
 * Context: Process context, may sleep: a large entry may have to be split.
 * Return: 0, -ENOMEM if the page table for a split cannot be allocated, or
 * -EINVAL if the direct map of this machine cannot be changed, or the folio is
 * in highmem.
 */
noinline int folio_zap_direct_map(struct folio *folio)
{
	const unsigned long addr = (unsigned long)folio_address(folio);
	int err = folio_zap_noflush(folio);

	if (likely(!err))
		vm_flush_direct_map(addr, addr + folio_size(folio));
	return err;
}
ALLOW_ERROR_INJECTION(folio_zap_direct_map, ERRNO);

/**
 * folio_batch_zap_direct_map() - Remove many folios from the direct map.
 * @fbatch: The folios, each as for folio_zap_direct_map().
 *
 * Like folio_zap_direct_map() for each of them, but with one TLB flush for all.
 * Removes all folios or, on failure, none.
 *
 * Context: Process context, may sleep.
 * Return: See folio_zap_direct_map().
 */
noinline int folio_batch_zap_direct_map(struct folio_batch *fbatch)
{
	unsigned long start = ULONG_MAX, end = 0;
	unsigned int i;
	int err;

	for (i = 0; i < folio_batch_count(fbatch); i++) {
		struct folio *folio = fbatch->folios[i];
		const unsigned long addr = (unsigned long)folio_address(folio);

		err = folio_zap_noflush(folio);
		if (unlikely(err))
			goto undo;
		start = min(start, addr);
		end = max(end, addr + folio_size(folio));
	}

	/* The architecture flushes all if that is cheaper than this range. */
	if (start < end)
		vm_flush_direct_map(start, end);
	return 0;

undo:
	while (i--)
		folio_restore_or_leak(fbatch->folios[i]);
	return err;
}
ALLOW_ERROR_INJECTION(folio_batch_zap_direct_map, ERRNO);

/**
 * folio_restore_direct_map() - Put a folio back into the direct map.
 * @folio: The folio, of the same order as when it was zapped. Locked, and
 *	removed from the page cache.
 *
 * Needs no TLB flush: CPUs do not cache absent entries, and where some do, the
 * architecture's primitive flushes.
 *
 * If this fails, the folio must not be freed: the allocator and the next user
 * write to the memory through the direct map.
 *
 * Context: Process context.
 * Return: 0, or a negative error number of the architecture. No failure is
 * expected: the granularity is that of the zap, so nothing has to be split.
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
		count_no_direct_map(folio, -nr);
	trace_folio_restore_direct_map(folio, err);
	return err;
}
ALLOW_ERROR_INJECTION(folio_restore_direct_map, ERRNO);

/* The folio remains counted in NR_NO_DIRECT_MAP. */
static void folio_leak(struct folio *folio)
{
	folio_get(folio);
	count_vm_events(DIRECT_MAP_LEAKED, folio_nr_pages(folio));
}

/* Memory failure marks the page at once, and a large folio only later. */
static bool folio_has_error(struct folio *folio)
{
	long i;

	for (i = 0; i < folio_nr_pages(folio); i++) {
		if (PageHWPoison(folio_page(folio, i)))
			return true;
	}
	return false;
}

/**
 * folio_restore_or_leak() - Restore a folio, or ensure that it is never freed.
 * @folio: The folio, as for folio_restore_direct_map().
 *
 * A page without a direct-map entry must never get to the allocator. A folio
 * that cannot be restored is leaked, by an extra reference.
 *
 * A folio with a hardware error is leaked as well: its entry would expose the
 * error to stray and speculative reads. The extra reference also keeps it from
 * being unpoisoned.
 *
 * Context: Process context.
 * Return: Whether the folio is in the direct map again.
 */
bool folio_restore_or_leak(struct folio *folio)
{
	int err;

	if (likely(!folio_has_error(folio))) {
		err = folio_restore_direct_map(folio);
		if (likely(!err))
			return true;
		pr_err_ratelimited("cannot restore %ld page(s) at pfn %#lx (%d), keeping them from being freed\n",
				   folio_nr_pages(folio), folio_pfn(folio), err);
	}

	folio_leak(folio);
	return false;
}

/**
 * filemap_restore_folio() - Restore a folio removed from the page cache.
 * @folio: The folio. Locked, removed from its page cache, with at least one
 *	reference held by the caller.
 *
 * Restores the folio and scrubs it before anything else can allocate it. If it
 * cannot be restored, it is leaked, and if possible removed from the LRU and
 * uncharged, so that it does not pin a dead memory cgroup. Memory failure has
 * done that for a small folio with a hardware error.
 *
 * Context: Process context, may sleep. No lock of the page cache is held.
 */
void filemap_restore_folio(struct folio *folio)
{
	long i;

	might_sleep();

	if (likely(folio_restore_or_leak(folio))) {
		for (i = 0; i < folio_nr_pages(folio); i++) {
			clear_highpage(folio_page(folio, i));
			cond_resched();
		}
		return;
	}

	/* It may still be in some CPU's batch of additions to the LRU. */
	if (!folio_test_lru(folio) && !folio_contain_hwpoisoned_page(folio))
		lru_add_drain_all();
	if (folio_isolate_lru(folio)) {
		folio_put(folio);
		mem_cgroup_uncharge(folio);
	}
}

/**
 * direct_map_is() - Check the direct map, for assertions.
 * @page: The first page.
 * @nr: Number of pages.
 * @present: Whether they should be in the direct map.
 *
 * Return: true if all of the pages are in the direct map, or all are out of it,
 * as @present says. Pages in highmem or with a hardware error are ignored.
 */
bool direct_map_is(struct page *page, unsigned long nr, bool present)
{
	unsigned long i;

	for (i = 0; !PageHighMem(page) && i < nr; i++) {
		if (!PageHWPoison(page + i) && kernel_page_present(page + i) != present)
			return false;
	}
	return true;
}

static bool file_has_hidden_pages(struct file *file)
{
	return mapping_no_direct_map(file->f_mapping) && file->f_mapping->nrpages;
}

/* Files and mappings that are looked at for a report, since RCU waits for all of them. */
#define REPORT_BUDGET	1000000

/* Returns whether @task has such a file open or mapped. */
static bool task_has_hidden_pages(struct task_struct *task, unsigned int *budget)
{
	struct vm_area_struct *vma;
	struct mm_struct *mm;
	struct file *file;
	unsigned int fd;
	bool has = false;

	for (fd = 0; !has && *budget && (file = fget_task_next(task, &fd)); fd++) {
		has = file_has_hidden_pages(file);
		fput(file);
		--*budget;
	}

	task_lock(task);
	mm = task->mm;
	if (!has && mm && mmap_read_trylock(mm)) {
		VMA_ITERATOR(vmi, mm, 0);

		for_each_vma(vmi, vma) {
			has = vma->vm_file && file_has_hidden_pages(vma->vm_file);
			if (has || !*budget)
				break;
			--*budget;
		}
		mmap_read_unlock(mm);
	}
	task_unlock(task);
	return has;
}

/**
 * no_direct_map_report() - Log how much memory has no direct map, and whose it is.
 * @what: The operation that is refused, possibly for that reason.
 *
 * Names one process that has such memory open or mapped. There may be none: the
 * memory may be leaked, or its file in flight in a socket. The search ends where it
 * would take too long. Logs nothing if no
 * memory is out of the direct map.
 *
 * Context: Process context.
 */
void no_direct_map_report(const char *what)
{
	struct task_struct *process, *task;
	unsigned int budget = REPORT_BUDGET;
	char comm[TASK_COMM_LEN] = "";
	pid_t pid = 0;

	if (!no_direct_map_pages())
		return;

	rcu_read_lock();
	for_each_process_thread(process, task) {
		/* Most threads share the files of the first, which may have exited. */
		if (task != process && task->files == process->files)
			continue;
		if (task_has_hidden_pages(task, &budget)) {
			get_task_comm(comm, task);
			pid = task_tgid_nr(task);
			goto found;
		}
	}
found:
	rcu_read_unlock();

	if (pid)
		pr_warn("no %s with %lu kB out of the direct map: %s[%d] has some of it\n",
			what, no_direct_map_pages() << (PAGE_SHIFT - 10), comm, pid);
	else
		pr_warn("no %s with %lu kB out of the direct map: no process was found that has it\n",
			what, no_direct_map_pages() << (PAGE_SHIFT - 10));
}
