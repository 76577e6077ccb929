// SPDX-License-Identifier: GPL-2.0-only
/*
 * Caches of guest memory that is not in the direct map.
 *
 * Such memory has no kernel address, and get_user_pages() refuses it.  So the
 * page comes from the memslot's guest_memfd, and is mapped by an alias that
 * only this cache has.  The page cache does not know of it: when the page gets
 * out of the file, the alias must be gone.  For that
 *
 *  - guest_memfd calls kvm_gpc_unmap_gmem() before it removes pages, and before
 *    a memslot goes.  No alias is made meanwhile, see mmu_invalidate_retry();
 *  - an alias holds a reference to its page until it has left the TLBs, so that
 *    nobody gets the page while a cache is just about to let go of it.
 *
 * gpc->lock protects the alias a cache has.  Unmapping sleeps: whoever does that
 * takes the alias out of the cache first, and has it alone then.
 */

#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/vmalloc.h>

#include "kvm_mm.h"

static void count_aliases(struct kvm *kvm, int nr)
{
	spin_lock(&kvm->gpc_lock);
	kvm->stat.generic.pfncache_aliases += nr;
	spin_unlock(&kvm->gpc_lock);
}

/* Is @khva an alias of @pfn, which kvm_gpc_free_alias() removes? */
bool kvm_gpc_is_alias(kvm_pfn_t pfn, const void *khva)
{
	return !is_error_noslot_pfn(pfn) && pfn_valid(pfn) && is_vmalloc_addr(khva);
}

static void *kvm_gpc_make_alias(struct kvm *kvm, struct page *page)
{
	void *khva = vmap(&page, 1, VM_MAP, PAGE_KERNEL);

	if (khva)
		count_aliases(kvm, 1);
	return khva;
}

/* Unmaps the alias @khva of @pfn, and puts the reference to the page. */
void kvm_gpc_free_alias(struct kvm *kvm, kvm_pfn_t pfn, void *khva)
{
	vunmap(khva);
	/* vunmap() leaves stale TLB entries for later, and they can be used. */
	vm_unmap_aliases();
	put_page(pfn_to_page(pfn));
	count_aliases(kvm, -1);
}

/**
 * kvm_gpc_map_gmem - map the page of a cache in a guest_memfd without a direct map
 * @gpc: The cache, with the new gpa and memslot, and without an alias.
 *
 * Context: Holds gpc->refresh_lock and, for writing, gpc->lock, which it drops
 * and takes again.
 * Return: 0, or -EFAULT if there is no such page or no memory.
 */
int kvm_gpc_map_gmem(struct gfn_to_pfn_cache *gpc)
{
	struct kvm *kvm = gpc->kvm;
	struct page *page = NULL;
	void *khva = NULL;
	unsigned long seq;
	kvm_pfn_t pfn;

	lockdep_assert_held(&gpc->refresh_lock);
	lockdep_assert_held_write(&gpc->lock);

	gpc->valid = false;

	do {
		write_unlock_irq(&gpc->lock);

		if (khva)
			kvm_gpc_free_alias(kvm, pfn, khva);

		/* Do not allocate again and again what is being freed. */
		while (READ_ONCE(kvm->mmu_invalidate_in_progress))
			cond_resched();

		seq = READ_ONCE(kvm->mmu_invalidate_seq);
		/* As for guest faults: the page is no older than the sequence. */
		smp_rmb();

		khva = NULL;
		if (!kvm_gmem_get_pfn(kvm, gpc->memslot, gpa_to_gfn(gpc->gpa),
				      &pfn, &page, NULL)) {
			khva = kvm_gpc_make_alias(kvm, page);
			if (!khva)
				put_page(page);
		}

		write_lock_irq(&gpc->lock);

		if (!khva)
			return -EFAULT;

		/*
		 * guest_memfd counts an invalidation before it looks at caches,
		 * with this lock: either it finds the alias, or is found here.
		 */
	} while (mmu_invalidate_retry(kvm, seq));

	gpc->valid = true;
	gpc->pfn = pfn;
	gpc->khva = khva + offset_in_page(gpc->gpa);

	return 0;
}

/* Takes an alias of a page that @mapping has from @start to @end out of its cache. */
static bool take_alias(struct kvm *kvm, struct address_space *mapping,
		       pgoff_t start, pgoff_t end, kvm_pfn_t *pfn, void **khva)
{
	struct gfn_to_pfn_cache *gpc;
	bool found = false;

	spin_lock(&kvm->gpc_lock);
	list_for_each_entry(gpc, &kvm->gpc_list, list) {
		write_lock_irq(&gpc->lock);
		if (kvm_gpc_is_alias(gpc->pfn, gpc->khva)) {
			struct folio *folio = page_folio(pfn_to_page(gpc->pfn));

			found = folio->mapping == mapping &&
				folio->index >= start && folio->index < end;
		}
		if (found) {
			*pfn = gpc->pfn;
			*khva = PTR_ALIGN_DOWN(gpc->khva, PAGE_SIZE);
			gpc->valid = false;
			gpc->pfn = KVM_PFN_ERR_FAULT;
			gpc->khva = NULL;
		}
		write_unlock_irq(&gpc->lock);
		if (found)
			break;
	}
	spin_unlock(&kvm->gpc_lock);

	return found;
}

/**
 * kvm_gpc_unmap_gmem - remove the aliases of memory that goes
 * @kvm: The VM, whose caches may have mapped the memory.
 * @mapping: The mapping of the guest_memfd.
 * @start: Index of the first page.
 * @end: Index after the last page.
 *
 * Afterwards no cache of @kvm has such an alias.  The caller sees to it that none
 * is made: there is an invalidation in progress, or no memslot for the pages.
 *
 * Context: Sleeps.  Holds the invalidate_lock of @mapping.
 */
void kvm_gpc_unmap_gmem(struct kvm *kvm, struct address_space *mapping,
			pgoff_t start, pgoff_t end)
{
	kvm_pfn_t pfn;
	void *khva;

	if (!mapping_no_direct_map(mapping))
		return;

	while (take_alias(kvm, mapping, start, end, &pfn, &khva))
		kvm_gpc_free_alias(kvm, pfn, khva);
}
