// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of guest_memfd in Rust: access to fields of structures that are opaque
 * to Rust, macros, weak functions, and calls of functions that are exported to kvm
 * only. The functions that this file exports are defined in exports.rs.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "../kvm_mm.h"
#include "kvm.h"

bool __weak kvm_arch_supports_gmem_init_shared(struct kvm *kvm)
{
	return true;
}

bool __weak kvm_arch_gmem_supports_no_direct_map(struct kvm *kvm)
{
	return false;
}

struct gmem_slot gmem_slot(const struct kvm_memory_slot *slot)
{
	BUILD_BUG_ON(sizeof(gpa_t) != sizeof(uoff_t));
	BUILD_BUG_ON(sizeof(gfn_t) != sizeof(slot->gmem.pgoff));

	return (struct gmem_slot) {
		.base_gfn = slot->base_gfn,
		.npages = slot->npages,
		.pgoff = slot->gmem.pgoff,
	};
}

unsigned int gmem_slot_max_order(const struct kvm_memory_slot *slot, gfn_t gfn)
{
	return kvm_gmem_max_order(slot, gfn);
}

bool gmem_slot_is_gmem_only(const struct kvm_memory_slot *slot)
{
	return slot->flags & KVM_MEMSLOT_GMEM_ONLY;
}

void gmem_slot_set_file(struct kvm_memory_slot *slot, struct file *file,
			unsigned long pgoff, bool gmem_only, bool no_direct_map,
			unsigned int order)
{
	WRITE_ONCE(slot->gmem.file, file);
	slot->gmem.pgoff = pgoff;
	slot->gmem.order = order;
	if (gmem_only)
		slot->flags |= KVM_MEMSLOT_GMEM_ONLY;
	if (no_direct_map)
		slot->flags |= KVM_MEMSLOT_NO_DIRECT_MAP;
}

void gmem_slot_clear_file(struct kvm_memory_slot *slot)
{
	WRITE_ONCE(slot->gmem.file, NULL);
}

struct file *gmem_slot_file(const struct kvm_memory_slot *slot)
{
	return READ_ONCE(slot->gmem.file);
}

/* Returns NULL if the file is being closed, even while the slot still has it. */
struct file *gmem_slot_get_file(struct kvm_memory_slot *slot)
{
	return get_file_active(&slot->gmem.file);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_gmem_get_pfn);

struct kvm_memory_slot *gmem_slot_of(struct kvm *kvm, gfn_t gfn)
{
	struct kvm_memory_slot *slot;

	lockdep_assert_held(&kvm->slots_lock);

	slot = gfn_to_memslot(kvm, gfn);
	return kvm_slot_has_gmem(slot) ? slot : NULL;
}

u64 gmem_supported_flags(struct kvm *kvm)
{
	return kvm_gmem_get_supported_flags(kvm);
}

struct inode *gmem_make_inode(struct super_block *sb, const char *name)
{
	return anon_inode_make_secure_inode(sb, name, NULL);
}

void gmem_slots_lock(struct kvm *kvm)
{
	mutex_lock(&kvm->slots_lock);
}

void gmem_slots_unlock(struct kvm *kvm)
{
	mutex_unlock(&kvm->slots_lock);
}

void gmem_invalidate_start(struct kvm *kvm)
{
	KVM_MMU_LOCK(kvm);
	kvm_mmu_invalidate_start(kvm);
}

bool gmem_invalidate_range(struct kvm *kvm, struct kvm_memory_slot *slot,
			   gfn_t start, gfn_t end, bool private)
{
	struct kvm_gfn_range range = {
		.start = start,
		.end = end,
		.slot = slot,
		.may_block = true,
		.attr_filter = private ? KVM_FILTER_PRIVATE : KVM_FILTER_SHARED,
	};
	bool flush = kvm_mmu_unmap_gfn_range(kvm, &range);

#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_INVALIDATE
	kvm_arch_gmem_invalidate_range(kvm, &range);
#endif
	return flush;
}

void gmem_invalidate_unlock(struct kvm *kvm, bool flush)
{
	if (flush)
		kvm_flush_remote_tlbs(kvm);
	KVM_MMU_UNLOCK(kvm);
}

void gmem_invalidate_end(struct kvm *kvm)
{
	KVM_MMU_LOCK(kvm);
	kvm_mmu_invalidate_end(kvm);
	KVM_MMU_UNLOCK(kvm);
}

void gmem_unmap_pfncaches(struct kvm *kvm, struct address_space *mapping,
			  unsigned long start, unsigned long end)
{
	kvm_gpc_unmap_gmem(kvm, mapping, start, end);
}

static struct workqueue_struct *gmem_workqueue;

int gmem_create_workqueue(void)
{
	gmem_workqueue = alloc_workqueue("kvm_gmem", WQ_UNBOUND, 0);
	return gmem_workqueue ? 0 : -ENOMEM;
}

void gmem_destroy_workqueue(void)
{
	destroy_workqueue(gmem_workqueue);
}

struct gmem_deferred_unmap {
	struct work_struct work;
	struct inode *inode;
	unsigned long start;
	unsigned long end;
	gmem_unmap_cb unmap;
};

static void gmem_deferred_unmap_work(struct work_struct *work)
{
	struct gmem_deferred_unmap *deferred =
		container_of(work, struct gmem_deferred_unmap, work);

	deferred->unmap(deferred->inode, deferred->start, deferred->end);
	iput(deferred->inode);
	kfree(deferred);
}

void gmem_defer_unmap(struct inode *inode, unsigned long start,
		      unsigned long end, gmem_unmap_cb unmap)
{
	struct gmem_deferred_unmap *deferred;

	/* An inode that is being evicted has no files, and so no guests. */
	if (!igrab(inode))
		return;

	/* If this failed, guests would keep a page that has an error. */
	deferred = kmalloc_obj(*deferred, GFP_KERNEL | __GFP_NOFAIL);
	INIT_WORK(&deferred->work, gmem_deferred_unmap_work);
	deferred->inode = inode;
	deferred->start = start;
	deferred->end = end;
	deferred->unmap = unmap;
	queue_work(gmem_workqueue, &deferred->work);
}

#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_CONVERT
int gmem_make_private(struct kvm *kvm, gfn_t gfn, kvm_pfn_t pfn,
		      kvm_pfn_t nr_pages)
{
	return kvm_arch_gmem_make_private(kvm, gfn, pfn, nr_pages);
}
#endif

#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM
void gmem_reclaim(kvm_pfn_t pfn, kvm_pfn_t nr_pages)
{
	kvm_arch_gmem_reclaim(pfn, nr_pages);
}
#endif

#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_POPULATE
bool gmem_is_private(struct kvm *kvm, gfn_t gfn)
{
	return kvm_range_has_memory_attributes(kvm, gfn, gfn + 1,
					       KVM_MEMORY_ATTRIBUTE_PRIVATE,
					       KVM_MEMORY_ATTRIBUTE_PRIVATE);
}

void gmem_put_page(struct page *page)
{
	put_page(page);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_gmem_populate);
#endif
