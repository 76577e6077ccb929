// SPDX-License-Identifier: GPL-2.0

#include <linux/pagemap.h>

__rust_helper void
rust_helper_mapping_set_inaccessible(struct address_space *mapping)
{
	mapping_set_inaccessible(mapping);
}

__rust_helper bool
rust_helper_mapping_no_direct_map(const struct address_space *mapping)
{
	return mapping_no_direct_map(mapping);
}

__rust_helper bool
rust_helper_mapping_zaps_direct_map(const struct address_space *mapping)
{
	return mapping_zaps_direct_map(mapping);
}

__rust_helper void
rust_helper_mapping_set_direct_map_by_owner(struct address_space *mapping)
{
	mapping_set_direct_map_by_owner(mapping);
}

__rust_helper void
rust_helper_mapping_set_large_folios(struct address_space *mapping)
{
	mapping_set_large_folios(mapping);
}

__rust_helper void
rust_helper_mapping_set_folio_order_range(struct address_space *mapping,
					  unsigned int min, unsigned int max)
{
	mapping_set_folio_order_range(mapping, min, max);
}

__rust_helper unsigned int
rust_helper_mapping_min_folio_order(const struct address_space *mapping)
{
	return mapping_min_folio_order(mapping);
}

__rust_helper unsigned int
rust_helper_mapping_max_folio_order(const struct address_space *mapping)
{
	return mapping_max_folio_order(mapping);
}

__rust_helper struct folio *
rust_helper_filemap_alloc_folio(gfp_t gfp, unsigned int order,
				struct mempolicy *policy)
{
	return filemap_alloc_folio(gfp, order, policy);
}

__rust_helper struct folio *
rust_helper_filemap_lock_folio(struct address_space *mapping, pgoff_t index)
{
	return filemap_lock_folio(mapping, index);
}

__rust_helper void
rust_helper_filemap_invalidate_lock(struct address_space *mapping)
{
	filemap_invalidate_lock(mapping);
}

__rust_helper void
rust_helper_filemap_invalidate_unlock(struct address_space *mapping)
{
	filemap_invalidate_unlock(mapping);
}

__rust_helper void
rust_helper_filemap_invalidate_lock_shared(struct address_space *mapping)
{
	filemap_invalidate_lock_shared(mapping);
}

__rust_helper int
rust_helper_filemap_invalidate_trylock_shared(struct address_space *mapping)
{
	return filemap_invalidate_trylock_shared(mapping);
}

__rust_helper void
rust_helper_filemap_invalidate_unlock_shared(struct address_space *mapping)
{
	filemap_invalidate_unlock_shared(mapping);
}

__rust_helper pgoff_t
rust_helper_linear_page_index(const struct vm_area_struct *vma,
			      unsigned long address)
{
	return linear_page_index(vma, address);
}
