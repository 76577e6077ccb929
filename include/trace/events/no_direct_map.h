/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM no_direct_map

#if !defined(_TRACE_NO_DIRECT_MAP_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_NO_DIRECT_MAP_H

#include <linux/mm.h>
#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(no_direct_map,

	TP_PROTO(struct folio *folio, int err),

	TP_ARGS(folio, err),

	TP_STRUCT__entry(
		__field(unsigned long, pfn)
		__field(unsigned int, order)
		__field(int, err)
	),

	TP_fast_assign(
		__entry->pfn = folio_pfn(folio);
		__entry->order = folio_order(folio);
		__entry->err = err;
	),

	TP_printk("pfn=0x%lx order=%u err=%d",
		  __entry->pfn, __entry->order, __entry->err)
);

DEFINE_EVENT(no_direct_map, folio_zap_direct_map,

	TP_PROTO(struct folio *folio, int err),

	TP_ARGS(folio, err)
);

DEFINE_EVENT(no_direct_map, folio_restore_direct_map,

	TP_PROTO(struct folio *folio, int err),

	TP_ARGS(folio, err)
);

#endif /* _TRACE_NO_DIRECT_MAP_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
