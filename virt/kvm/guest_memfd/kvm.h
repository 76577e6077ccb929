/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Functions between guest_memfd in Rust and the rest of KVM, in both directions.
 *
 * This is what bindgen reads instead of kvm_host.h, so struct kvm and struct
 * kvm_memory_slot are opaque to Rust. A function that is declared in both headers
 * must be declared the same; the compiler checks that in kvm.c, which includes both.
 */
#ifndef __KVM_GUEST_MEMFD_KVM_H
#define __KVM_GUEST_MEMFD_KVM_H

#include <linux/kvm_types.h>
#include <linux/magic.h>
#include <uapi/linux/kvm.h>

#include "../guest_memfd.h"

struct address_space;
struct file;
struct inode;
struct page;
struct super_block;

/* In Rust: exports.rs. Six more are in guest_memfd.h. */

typedef int (*kvm_gmem_populate_cb)(struct kvm *kvm, gfn_t gfn, kvm_pfn_t pfn,
				    struct page *page, void *opaque);

int kvm_gmem_get_pfn(struct kvm *kvm, struct kvm_memory_slot *slot,
		     gfn_t gfn, kvm_pfn_t *pfn, struct page **page,
		     int *max_order);
long kvm_gmem_populate(struct kvm *kvm, gfn_t start_gfn, void __user *src,
		       long npages, bool may_writeback_src,
		       kvm_gmem_populate_cb post_populate, void *opaque);

/* Unmaps the pages from @start to @end, which is exclusive, from guests. */
typedef void (*gmem_unmap_cb)(struct inode *inode, unsigned long start,
			      unsigned long end);

/* In C: kvm_main.c and kvm.c. */

void kvm_get_kvm(struct kvm *kvm);
void kvm_put_kvm(struct kvm *kvm);

/**
 * struct gmem_slot - The place of a memslot in the guest and in its file.
 * @base_gfn: First guest frame number.
 * @npages: Number of pages.
 * @pgoff: Index of the first page in the file.
 */
struct gmem_slot {
	gfn_t base_gfn;
	unsigned long npages;
	unsigned long pgoff;
};

/* For Rust, which has no macros that are not a number. */
enum { GMEM_PMD_ORDER = PMD_ORDER };

struct gmem_slot gmem_slot(const struct kvm_memory_slot *slot);
unsigned int gmem_slot_max_order(const struct kvm_memory_slot *slot, gfn_t gfn);
bool gmem_slot_is_gmem_only(const struct kvm_memory_slot *slot);
void gmem_slot_set_file(struct kvm_memory_slot *slot, struct file *file,
			unsigned long pgoff, bool gmem_only, bool no_direct_map,
			unsigned int order);
void gmem_slot_clear_file(struct kvm_memory_slot *slot);
struct file *gmem_slot_file(const struct kvm_memory_slot *slot);
struct file *gmem_slot_get_file(struct kvm_memory_slot *slot);
struct kvm_memory_slot *gmem_slot_of(struct kvm *kvm, gfn_t gfn);

u64 gmem_supported_flags(struct kvm *kvm);
struct inode *gmem_make_inode(struct super_block *sb, const char *name);

void gmem_slots_lock(struct kvm *kvm);
void gmem_slots_unlock(struct kvm *kvm);

void gmem_invalidate_start(struct kvm *kvm);
bool gmem_invalidate_range(struct kvm *kvm, struct kvm_memory_slot *slot,
			   gfn_t start, gfn_t end, bool private);
void gmem_invalidate_unlock(struct kvm *kvm, bool flush);
void gmem_invalidate_end(struct kvm *kvm);
void gmem_unmap_pfncaches(struct kvm *kvm, struct address_space *mapping,
			  unsigned long start, unsigned long end);

int gmem_create_workqueue(void);
void gmem_destroy_workqueue(void);
void gmem_defer_unmap(struct inode *inode, unsigned long start,
		      unsigned long end, gmem_unmap_cb unmap);

bool gmem_is_private(struct kvm *kvm, gfn_t gfn);
int gmem_make_private(struct kvm *kvm, gfn_t gfn, kvm_pfn_t pfn,
		      kvm_pfn_t nr_pages);
void gmem_put_page(struct page *page);
void gmem_reclaim(kvm_pfn_t pfn, kvm_pfn_t nr_pages);

#endif
