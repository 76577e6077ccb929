// SPDX-License-Identifier: GPL-2.0

#include <linux/mempolicy.h>

/* With CONFIG_NUMA these are functions, which are not for everyone. */
#ifndef CONFIG_NUMA
__rust_helper void rust_helper_mpol_shared_policy_init(struct shared_policy *sp,
						       struct mempolicy *mpol)
{
	mpol_shared_policy_init(sp, mpol);
}

__rust_helper void rust_helper_mpol_free_shared_policy(struct shared_policy *sp)
{
	mpol_free_shared_policy(sp);
}

__rust_helper struct mempolicy *
rust_helper_mpol_shared_policy_lookup(struct shared_policy *sp, pgoff_t idx)
{
	return mpol_shared_policy_lookup(sp, idx);
}
#endif
