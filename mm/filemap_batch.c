// SPDX-License-Identifier: GPL-2.0
/*
 * Insertion of many folios into a mapping without a direct map.
 *
 * What is expensive about such a folio is the TLB flush, on all CPUs, before it
 * may be found. One flush does for as many folios as are zapped before it.
 */

#include <linux/folio_batch.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/swap.h>

#include "internal.h"

/**
 * filemap_add_batch() - Insert many folios into a mapping without a direct map.
 * @mapping: The mapping, of which mapping_no_direct_map() is true, and whose
 *	owner leaves the direct map to the page cache.
 * @fbatch: The folios, each with the index where it belongs in folio->index, and
 *	with its contents. The caller's references are consumed.
 *
 * The folios that have been inserted are up to date, on the LRU, and unlocked.
 * An index that is taken already is no error: what is there stays, and the folio
 * for it is freed. So are those that are left when another error occurs.
 *
 * Context: Process context, may sleep.
 * Return: 0, -EINVAL if @mapping is not such a mapping, -EINVAL or -ENOMEM as
 * folio_zap_direct_map(), or -ENOMEM of the memory cgroup or the page cache. Only
 * in the last case may there be folios that have been inserted.
 */
int filemap_add_batch(struct address_space *mapping, struct folio_batch *fbatch)
{
	const gfp_t gfp = mapping_gfp_mask(mapping);
	int err = mapping_zaps_direct_map(mapping) ? 0 : -EINVAL;
	bool zapped = false;
	unsigned int i;

	for (i = 0; i < folio_batch_count(fbatch); i++) {
		__folio_set_locked(fbatch->folios[i]);
		if (likely(!err))
			err = mem_cgroup_charge(fbatch->folios[i], NULL, gfp);
	}
	if (likely(!err)) {
		err = folio_batch_zap_direct_map(fbatch);
		zapped = !err;
	}

	for (i = 0; i < folio_batch_count(fbatch); i++) {
		struct folio *folio = fbatch->folios[i];
		int ret = err;

		if (likely(!ret)) {
			folio_mark_uptodate(folio);
			ret = __filemap_add_folio(mapping, folio, folio->index, gfp, NULL);
		}
		if (likely(!ret)) {
			folio_add_lru(folio);
			folio_unlock(folio);
		} else {
			if (zapped)
				folio_restore_or_leak(folio);
			mem_cgroup_uncharge(folio);
			__folio_clear_locked(folio);
			if (ret != -EEXIST)
				err = ret;
		}
		folio_put(folio);
	}

	folio_batch_reinit(fbatch);
	return err;
}
EXPORT_SYMBOL_FOR_MODULES(filemap_add_batch, "kvm");
