// SPDX-License-Identifier: GPL-2.0-only
/*
 * gfn_to_pfn_caches of guest memory that is not in the direct map.
 *
 * Such memory has no kernel address, and get_user_pages() refuses it.  So the
 * page is taken from the memslot's guest_memfd, and mapped by an alias, which
 * all caches of that page in a VM share.  The page cache is not aware of it, so
 * guest_memfd calls kvm_gpc_unmap_gmem() before a page leaves the file, and
 * before a memslot or the file is released.
 *
 * Removing an alias flushes the TLBs of all CPUs, and the guest controls how
 * often a cache moves to another page.  So an alias without a cache is retired:
 * it stays mapped, with a reference to its page, and a cache of that page can
 * use it again.  All retired aliases are removed at once: when there are too
 * many, but at most every MIN_PURGE_INTERVAL; a second after one retired; or
 * when another alias must be removed anyway.
 *
 * kvm->gpc_aliases.lock protects the list, the aliases and gpc->alias.  It nests
 * inside gpc->refresh_lock, and inside the invalidate_lock and the folio lock
 * that guest_memfd may hold; mmu_lock and gpc_lock > gpc->lock nest inside it.
 */

#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/vmalloc.h>

#include "kvm_mm.h"

#define MAX_RETIRED	32
#define MIN_PURGE_INTERVAL	((long)HZ / 10)

struct kvm_gpc_alias {
	struct list_head list;
	struct page *page;
	void *khva;
	/* Number of caches.  Retired if zero. */
	unsigned int users;
};

static void kvm_gpc_free_alias(struct kvm *kvm, struct kvm_gpc_alias *alias)
{
	list_del(&alias->list);
	put_page(alias->page);
	kfree(alias);
	kvm->stat.generic.pfncache_aliases--;
}

/* Removes all retired aliases, with one TLB flush. */
static void kvm_gpc_purge_aliases(struct kvm *kvm)
{
	struct kvm_gpc_alias *alias, *tmp;

	if (!kvm->gpc_aliases.nr_retired)
		return;

	list_for_each_entry(alias, &kvm->gpc_aliases.list, list) {
		if (!alias->users)
			vunmap(alias->khva);
	}

	/* vunmap() defers the flush, and stale TLB entries can be used. */
	vm_unmap_aliases();

	/* Only after the flush: an empty list means that nothing is mapped. */
	list_for_each_entry_safe(alias, tmp, &kvm->gpc_aliases.list, list) {
		if (!alias->users)
			kvm_gpc_free_alias(kvm, alias);
	}
	kvm->gpc_aliases.nr_retired = 0;
	kvm->gpc_aliases.purged = jiffies;
}

/* Returns how long to wait before another alias may be added, in jiffies. */
static long kvm_gpc_pause(struct kvm *kvm)
{
	long pause = READ_ONCE(kvm->gpc_aliases.purged) + MIN_PURGE_INTERVAL - jiffies;

	if (READ_ONCE(kvm->gpc_aliases.nr_retired) < MAX_RETIRED)
		return 0;
	return clamp(pause, 0L, MIN_PURGE_INTERVAL);
}

static void kvm_gpc_purge_work(struct work_struct *work)
{
	struct kvm *kvm = container_of(to_delayed_work(work), struct kvm,
				       gpc_aliases.purge);

	guard(mutex)(&kvm->gpc_aliases.lock);
	kvm_gpc_purge_aliases(kvm);
}

static void kvm_gpc_release_alias(struct kvm *kvm, struct kvm_gpc_alias *alias)
{
	if (--alias->users)
		return;

	kvm->gpc_aliases.nr_retired++;
	schedule_delayed_work(&kvm->gpc_aliases.purge, HZ);
}

/**
 * kvm_gpc_put_alias - release the alias of a cache, if it has one
 * @gpc: The cache, whose khva no longer points into the alias.
 *
 * Context: May sleep.  The caller holds gpc->refresh_lock.
 */
void kvm_gpc_put_alias(struct gfn_to_pfn_cache *gpc)
{
	struct kvm *kvm = gpc->kvm;

	lockdep_assert_held(&gpc->refresh_lock);

	/* A cache gets an alias only under refresh_lock. */
	if (!READ_ONCE(gpc->alias))
		return;

	guard(mutex)(&kvm->gpc_aliases.lock);

	if (gpc->alias) {
		kvm_gpc_release_alias(kvm, gpc->alias);
		WRITE_ONCE(gpc->alias, NULL);
	}
}

/*
 * Finds or adds the alias of @page.  Consumes the reference to @page.  Returns
 * -EAGAIN if too many are retired, and the last purge was too recent.
 *
 * The list has up to one alias per cache, and MAX_RETIRED more.  A walk is cheap:
 * MMU notifiers walk all caches, and lock each.  The last one used is first.
 */
static struct kvm_gpc_alias *kvm_gpc_get_alias(struct kvm *kvm, struct page *page)
{
	struct kvm_gpc_alias *alias;

	list_for_each_entry(alias, &kvm->gpc_aliases.list, list) {
		if (alias->page != page)
			continue;

		put_page(page);
		if (!alias->users++)
			kvm->gpc_aliases.nr_retired--;
		/* list_move() would make a list of one look empty for a moment. */
		if (!list_is_first(&alias->list, &kvm->gpc_aliases.list))
			list_move(&alias->list, &kvm->gpc_aliases.list);
		return alias;
	}

	if (kvm_gpc_pause(kvm)) {
		put_page(page);
		return ERR_PTR(-EAGAIN);
	}
	if (kvm->gpc_aliases.nr_retired >= MAX_RETIRED)
		kvm_gpc_purge_aliases(kvm);

	alias = kzalloc_obj(*alias, GFP_KERNEL_ACCOUNT);
	if (!alias) {
		put_page(page);
		return ERR_PTR(-ENOMEM);
	}

	alias->page = page;
	alias->users = 1;
	list_add(&alias->list, &kvm->gpc_aliases.list);
	kvm->stat.generic.pfncache_aliases++;
	return alias;
}

/* Returns whether no invalidation of @gfn is in progress, and the sequence count. */
static bool kvm_gpc_is_quiet(struct kvm *kvm, gfn_t gfn, unsigned long *seq)
{
	bool quiet;

	KVM_MMU_READ_LOCK(kvm);
	*seq = kvm->mmu_invalidate_seq;
	quiet = !mmu_invalidate_retry_gfn(kvm, *seq, gfn);
	KVM_MMU_READ_UNLOCK(kvm);

	return quiet;
}

/* Maps the page, unless it was invalidated since @seq. */
static int kvm_gpc_map_alias(struct gfn_to_pfn_cache *gpc, unsigned long seq)
{
	gfn_t gfn = gpa_to_gfn(gpc->gpa);
	struct kvm_gpc_alias *alias, *old;
	struct kvm *kvm = gpc->kvm;
	unsigned long now;
	struct page *page;
	kvm_pfn_t pfn;
	int r;

	r = kvm_gmem_get_pfn(kvm, gpc->memslot, gfn, &pfn, &page, NULL);
	if (r)
		return r == -ENOMEM ? r : -EFAULT;

	guard(mutex)(&kvm->gpc_aliases.lock);

	alias = kvm_gpc_get_alias(kvm, page);
	if (IS_ERR(alias))
		return PTR_ERR(alias);

	/*
	 * guest_memfd starts an invalidation under mmu_lock, and then checks
	 * the list, which already has the alias: either it finds the alias, or
	 * the invalidation is found here.
	 */
	if (!kvm_gpc_is_quiet(kvm, gfn, &now) || now != seq) {
		r = -EAGAIN;
	} else if (!alias->khva) {
		/* /proc/kcore reads VM_IOREMAP as zeros, not by the direct map. */
		alias->khva = vmap(&page, 1, VM_MAP | VM_IOREMAP, PAGE_KERNEL);
		if (!alias->khva)
			r = -ENOMEM;
	}

	if (r) {
		if (alias->khva)
			kvm_gpc_release_alias(kvm, alias);
		else
			kvm_gpc_free_alias(kvm, alias);
		return r;
	}

	old = gpc->alias;

	write_lock_irq(&gpc->lock);
	WRITE_ONCE(gpc->alias, alias);
	gpc->khva = alias->khva + offset_in_page(gpc->gpa);
	/* MMU notifiers and gpc_unmap() must ignore an alias. */
	gpc->pfn = KVM_PFN_ERR_FAULT;
	gpc->valid = true;
	write_unlock_irq(&gpc->lock);

	if (old)
		kvm_gpc_release_alias(kvm, old);

	return 0;
}

/**
 * kvm_gpc_map_gmem - map the page of a cache in a guest_memfd without a direct map
 * @gpc: The cache, with the new gpa and memslot.
 *
 * The cache keeps its alias if the page is the same.
 *
 * Context: May sleep.  The caller holds kvm->srcu, gpc->refresh_lock and, for
 * writing, gpc->lock, which is dropped and taken again.
 * Return: 0, although the page may have been invalidated since; -EAGAIN if the
 * caller should retry after kvm_gpc_wait(); -ENOMEM; or -EFAULT if there is no
 * such page, or it is poisoned.
 */
int kvm_gpc_map_gmem(struct gfn_to_pfn_cache *gpc)
{
	unsigned long seq;
	int r = -EAGAIN;

	lockdep_assert_held(&gpc->refresh_lock);
	lockdep_assert_held_write(&gpc->lock);

	gpc->valid = false;
	write_unlock_irq(&gpc->lock);

	/* Do not allocate a page again while it is being freed. */
	if (kvm_gpc_is_quiet(gpc->kvm, gpa_to_gfn(gpc->gpa), &seq)) {
		/*
		 * As for guest faults, look up the page after reading the
		 * sequence count.  Pairs with kvm_mmu_invalidate_end().
		 */
		smp_rmb();
		r = kvm_gpc_map_alias(gpc, seq);
	}

	write_lock_irq(&gpc->lock);
	return r;
}

/**
 * kvm_gpc_wait - wait before a refresh that returned -EAGAIN is retried
 * @gpc: The cache.
 *
 * Waits for the end of an invalidation, which can take as long as freeing a whole
 * file.  If a guest keeps moving its clock, waits between flushes.
 *
 * Context: Sleeps.  The caller must not hold gpc->refresh_lock: KVM_RUN would wait
 * for it uninterruptibly.  For kvm->srcu and xen_lock, which callers may hold, only
 * ioctls of the VM wait that change memslots and Xen's attributes.
 * Return: 0, or -EINTR if a signal is pending.
 */
int kvm_gpc_wait(struct gfn_to_pfn_cache *gpc)
{
	gfn_t gfn = gpa_to_gfn(READ_ONCE(gpc->gpa));
	struct kvm *kvm = gpc->kvm;
	unsigned long seq;
	long pause;

	if (signal_pending(current) ||
	    wait_event_interruptible(kvm->gpc_aliases.wait,
				     kvm_gpc_is_quiet(kvm, gfn, &seq)))
		return -EINTR;

	pause = kvm_gpc_pause(kvm);
	if (pause)
		schedule_timeout_interruptible(pause);

	return signal_pending(current) ? -EINTR : 0;
}

/* While a page has an alias, it stays in its file, at the same index. */
static bool kvm_gpc_alias_is_in(const struct kvm_gpc_alias *alias,
				const struct address_space *mapping,
				pgoff_t start, pgoff_t end)
{
	const struct folio *folio = page_folio(alias->page);
	pgoff_t index = page_pgoff(folio, alias->page);

	return folio->mapping == mapping && index >= start && index < end;
}

/**
 * kvm_gpc_unmap_gmem - remove the aliases of memory that is invalidated
 * @kvm: The VM, whose caches may have mapped the memory.
 * @mapping: The mapping of the guest_memfd.
 * @start: Index of the first page.
 * @end: Index after the last page.
 *
 * Afterwards @kvm has no alias of the pages, in use or retired, and no TLB has an
 * entry of one.  The caller ensures that none is added: an invalidation is in
 * progress, or there is no memslot for the pages.
 *
 * Context: May sleep.  The caller holds the invalidate_lock of @mapping.
 */
void kvm_gpc_unmap_gmem(struct kvm *kvm, struct address_space *mapping,
			pgoff_t start, pgoff_t end)
{
	struct gfn_to_pfn_cache *gpc;
	struct kvm_gpc_alias *alias;
	bool found = false;

	/*
	 * An alias that is added from here on is of other pages, or will not be
	 * mapped: the refresh takes mmu_lock after adding it, and finds the
	 * invalidation, which was started under mmu_lock before.  Without a
	 * memslot, synchronize_srcu() has waited for refreshes that used it.
	 */
	if (list_empty(&kvm->gpc_aliases.list))
		return;

	guard(mutex)(&kvm->gpc_aliases.lock);

	list_for_each_entry(alias, &kvm->gpc_aliases.list, list) {
		found = kvm_gpc_alias_is_in(alias, mapping, start, end);
		if (found)
			break;
	}
	if (!found)
		return;

	spin_lock(&kvm->gpc_lock);
	list_for_each_entry(gpc, &kvm->gpc_list, list) {
		alias = gpc->alias;
		if (!alias || !kvm_gpc_alias_is_in(alias, mapping, start, end))
			continue;

		write_lock_irq(&gpc->lock);
		WRITE_ONCE(gpc->alias, NULL);
		/* With a pfn, the cache has moved, and is about to put the alias. */
		if (is_error_noslot_pfn(gpc->pfn)) {
			gpc->khva = NULL;
			gpc->valid = false;
		}
		write_unlock_irq(&gpc->lock);

		if (!--alias->users)
			kvm->gpc_aliases.nr_retired++;
	}
	spin_unlock(&kvm->gpc_lock);

	kvm_gpc_purge_aliases(kvm);
}

void kvm_gpc_init_aliases(struct kvm *kvm)
{
	mutex_init(&kvm->gpc_aliases.lock);
	INIT_LIST_HEAD(&kvm->gpc_aliases.list);
	kvm->gpc_aliases.purged = jiffies;
	INIT_DELAYED_WORK(&kvm->gpc_aliases.purge, kvm_gpc_purge_work);
	init_waitqueue_head(&kvm->gpc_aliases.wait);
}

void kvm_gpc_destroy_aliases(struct kvm *kvm)
{
	cancel_delayed_work_sync(&kvm->gpc_aliases.purge);

	/* Files hold a reference to the VM, and have removed their aliases. */
	WARN_ON_ONCE(!list_empty(&kvm->gpc_aliases.list));
}
