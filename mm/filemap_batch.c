// SPDX-License-Identifier: GPL-2.0
/*
 * Insertion of many folios into a mapping without a direct map.
 *
 * The expensive part is the TLB flush on all CPUs, before such a folio can be
 * found. One flush covers all folios that were zapped before it.
 */

#include <linux/folio_batch.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/swap.h>

#include "internal.h"

/**
 * filemap_add_batch() - Insert many folios into a mapping without a direct map.
 * @mapping: The mapping, for which mapping_zaps_direct_map() is true.
 * @fbatch: The folios, with their contents, and each with its index in
 *	folio->index. The caller's references are consumed.
 *
 * Inserted folios are up to date, on the LRU, and unlocked. If an index is already
 * taken, that is no error: the folio there stays, and the new one is freed. On any
 * other error the remaining folios are freed.
 *
 * Context: Process context, may sleep.
 * Return: 0; -EINVAL if @mapping is not such a mapping; an error of
 * folio_zap_direct_map(); or an error of the memory cgroup or the page cache. Only
 * an error of the page cache can leave some of the folios inserted.
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
