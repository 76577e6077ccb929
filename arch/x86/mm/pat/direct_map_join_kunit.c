// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests for joining entries of the direct map. Included by direct_map_join.c.
 */

#include <kunit/test.h>
#include <linux/bitmap.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/mmap_lock.h>
#include <linux/set_memory.h>
#include <linux/vmstat.h>

#define AREA_PAGES	PTRS_PER_PTE
#define NR_AREAS	(JOIN_BATCH + 2)

/* A block of 2 MiB, mapped by a large entry that had these flags before it was split. */
struct test_area {
	struct page *page;
	unsigned long addr;
	pteval_t flags;
};

struct test_areas {
	struct test_area area[NR_AREAS];
};

static unsigned long page_addr(const struct test_area *area, unsigned int page)
{
	return area->addr + page * PAGE_SIZE;
}

static pteval_t entry_of(unsigned long addr, unsigned int *level)
{
	pte_t *pte;

	guard(rcu)();
	pte = lookup_address(addr, level);
	return pte ? pte_val(*pte) : 0;
}

static bool is_joined(const struct test_area *area)
{
	unsigned int level;
	pteval_t entry = entry_of(area->addr, &level);

	return level == PG_LEVEL_2M && (entry & PTE_FLAGS_MASK) == area->flags &&
	       (entry & PTE_PFN_MASK) == page_to_phys(area->page);
}

static bool is_split(const struct test_area *area)
{
	unsigned int level;

	entry_of(area->addr, &level);
	return level == PG_LEVEL_4K;
}

static bool is_present(const struct test_area *area, unsigned int page)
{
	unsigned int level;

	return entry_of(page_addr(area, page), &level) & _PAGE_PRESENT;
}

static void zap(struct kunit *test, const struct test_area *area, unsigned int page)
{
	unsigned long addr = page_addr(area, page);

	KUNIT_ASSERT_EQ(test, set_direct_map_invalid_noflush(addr, 1), 0);
	flush_tlb_kernel_range(addr, addr + PAGE_SIZE);
}

static void restore(struct kunit *test, const struct test_area *area, unsigned int page)
{
	KUNIT_ASSERT_EQ(test, set_direct_map_default_noflush(page_addr(area, page), 1), 0);
}

/* Runs the work as after a delay. */
static void run_once(void)
{
	mod_delayed_work(system_dfl_long_wq, &join_work, 0);
	flush_delayed_work(&join_work);
}

/* Runs it until nothing is left to be done, even if somebody has init_mm's lock now and then. */
static void run_all(void)
{
	for (int i = 0; i < 100; i++) {
		run_once();
		if (bitmap_empty(restored_areas, nr_areas) &&
		    bitmap_empty(settling_areas, nr_areas))
			return;
		msleep(20);
	}
}

/* Fills @area with a large entry's block. Returns false if there is none. */
static bool alloc_area(struct test_area *area)
{
	struct page *other[8];
	unsigned int level, nr = 0;
	pteval_t entry;

	area->page = NULL;
	while (nr < ARRAY_SIZE(other)) {
		struct page *page = alloc_pages(GFP_KERNEL | __GFP_NOWARN, PMD_SHIFT - PAGE_SHIFT);

		if (!page)
			break;
		area->addr = (unsigned long)page_address(page);
		entry = entry_of(area->addr, &level);
		if (level == PG_LEVEL_2M || level == PG_LEVEL_1G) {
			area->page = page;
			area->flags = entry & PTE_FLAGS_MASK;
			break;
		}
		other[nr++] = page;
	}
	while (nr--)
		__free_pages(other[nr], PMD_SHIFT - PAGE_SHIFT);
	return area->page;
}

static int join_test_init(struct kunit *test)
{
	struct test_areas *areas;
	int i, j;

	if (!restored_areas || !can_flush_all_cpus())
		kunit_skip(test, "entries are not joined on this machine");

	areas = kunit_kzalloc(test, sizeof(*areas), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, areas);
	test->priv = areas;
	for (i = 0; i < NR_AREAS; i++) {
		if (!alloc_area(&areas->area[i]))
			kunit_skip(test, "no memory that is mapped by large entries");
		for (j = 0; j < AREA_PAGES; j++)
			*(unsigned long *)page_addr(&areas->area[i], j) = i * AREA_PAGES + j;
	}
	/* Nothing of other tests is waiting. */
	run_all();
	return 0;
}

static void join_test_exit(struct kunit *test)
{
	struct test_areas *areas = test->priv;
	int i;

	for (i = 0; areas && i < NR_AREAS; i++) {
		if (!areas->area[i].page)
			continue;
		/* Tests may have failed in between. */
		if (WARN_ON(set_direct_map_default_noflush(areas->area[i].addr, AREA_PAGES)))
			continue;
		__free_pages(areas->area[i].page, PMD_SHIFT - PAGE_SHIFT);
	}
	run_all();
}

/* When all pages are back, the entry is what it was, and so is the memory. */
static void join_restores_the_entry(struct kunit *test)
{
	const struct test_area *area = ((struct test_areas *)test->priv)->area;
	int i;

	zap(test, area, 7);
	zap(test, area, AREA_PAGES - 1);
	KUNIT_EXPECT_TRUE(test, is_split(area));
	KUNIT_EXPECT_FALSE(test, is_present(area, 7));
	KUNIT_EXPECT_FALSE(test, is_present(area, AREA_PAGES - 1));
	restore(test, area, 7);
	restore(test, area, AREA_PAGES - 1);
	KUNIT_EXPECT_TRUE(test, is_split(area));

	run_all();
	KUNIT_EXPECT_TRUE(test, is_joined(area));
	for (i = 0; i < AREA_PAGES; i++)
		KUNIT_ASSERT_EQ(test, *(unsigned long *)page_addr(area, i), i);

	/* It can be split again. */
	zap(test, area, 0);
	KUNIT_EXPECT_TRUE(test, is_split(area));
	restore(test, area, 0);
	run_all();
	KUNIT_EXPECT_TRUE(test, is_joined(area));
}

/* While a page is missing, nothing is joined, and the page does not come back. */
static void join_needs_all_pages(struct kunit *test)
{
	const struct test_area *area = ((struct test_areas *)test->priv)->area;
	const unsigned int missing[] = { 0, 6, AREA_PAGES - 1 };
	int i;

	for (i = 0; i < ARRAY_SIZE(missing); i++) {
		zap(test, area, missing[i]);
		zap(test, area, 5);
		restore(test, area, 5);
		run_all();
		KUNIT_EXPECT_TRUE(test, is_split(area));
		KUNIT_EXPECT_TRUE(test, is_present(area, 5));
		KUNIT_EXPECT_FALSE(test, is_present(area, missing[i]));

		restore(test, area, missing[i]);
		run_all();
		KUNIT_EXPECT_TRUE(test, is_joined(area));
	}
}

/* While an entry differs, nothing is joined, and the entry remains different. */
static void join_needs_equal_flags(struct kunit *test)
{
	const struct test_area *area = ((struct test_areas *)test->priv)->area;
	const unsigned int pages[] = { 0, 9, AREA_PAGES - 1 };
	unsigned int level;
	int i;

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		unsigned long addr = page_addr(area, pages[i]);

		zap(test, area, 1);
		KUNIT_ASSERT_EQ(test, set_memory_ro(addr, 1), 0);
		restore(test, area, 1);
		run_all();
		KUNIT_EXPECT_TRUE(test, is_split(area));
		KUNIT_EXPECT_EQ(test, entry_of(addr, &level) & (_PAGE_PRESENT | _PAGE_RW),
				_PAGE_PRESENT);

		KUNIT_ASSERT_EQ(test, set_memory_rw(addr, 1), 0);
		zap(test, area, 1);
		restore(test, area, 1);
		run_all();
		KUNIT_EXPECT_TRUE(test, is_joined(area));
	}

	/* Neither if all of them differ in the same way. */
	zap(test, area, 1);
	restore(test, area, 1);
	KUNIT_ASSERT_EQ(test, set_memory_ro(area->addr, AREA_PAGES), 0);
	run_all();
	KUNIT_EXPECT_TRUE(test, is_split(area));
	KUNIT_ASSERT_EQ(test, set_memory_rw(area->addr, AREA_PAGES), 0);
}

/* What is marked as 4K, as KFENCE's pool is, remains so: nothing removes the mark. */
static void join_leaves_4k(struct kunit *test)
{
	const struct test_area *area = ((struct test_areas *)test->priv)->area;

	KUNIT_ASSERT_EQ(test, set_memory_4k(page_addr(area, 3), 1), 0);
	zap(test, area, 1);
	restore(test, area, 1);
	run_all();
	KUNIT_EXPECT_TRUE(test, is_split(area));
	KUNIT_EXPECT_TRUE(test, is_present(area, 3));
}

/* An area is left alone for a whole delay after its last page came back. */
static void join_waits(struct kunit *test)
{
	const struct test_area *area = ((struct test_areas *)test->priv)->area;
	int i;

	for (i = 0; i < 3; i++) {
		zap(test, area, i);
		restore(test, area, i);
		run_once();
		KUNIT_EXPECT_TRUE(test, is_split(area));
	}
	run_all();
	KUNIT_EXPECT_TRUE(test, is_joined(area));
}

struct lock_holder {
	struct work_struct work;
	struct completion locked, release;
};

static void hold_lock(struct work_struct *work)
{
	struct lock_holder *holder = container_of(work, struct lock_holder, work);

	mmap_read_lock(&init_mm);
	complete(&holder->locked);
	/* The test waits for locks that somebody may hold who waits for this one. */
	wait_for_completion_timeout(&holder->release, 20 * HZ);
	mmap_read_unlock(&init_mm);
}

/* Nobody is waited for: while init_mm's lock is held, areas are kept for a later run. */
static void join_does_not_wait(struct kunit *test)
{
	const struct test_area *area = ((struct test_areas *)test->priv)->area;
	struct lock_holder holder;
	int i;

	zap(test, area, 0);
	restore(test, area, 0);
	INIT_WORK_ONSTACK(&holder.work, hold_lock);
	init_completion(&holder.locked);
	init_completion(&holder.release);
	queue_work(system_dfl_long_wq, &holder.work);
	wait_for_completion(&holder.locked);
	for (i = 0; i < 3; i++)
		run_once();
	KUNIT_EXPECT_TRUE(test, is_split(area));
	complete(&holder.release);
	flush_work(&holder.work);
	destroy_work_on_stack(&holder.work);
	run_all();
	KUNIT_EXPECT_TRUE(test, is_joined(area));
}

static unsigned long nr_events(enum vm_event_item item)
{
	unsigned long *events = kcalloc(NR_VM_EVENT_ITEMS, sizeof(*events), GFP_KERNEL);
	unsigned long nr;

	if (!events)
		return 0;
	all_vm_events(events);
	nr = events[item];
	kfree(events);
	return nr;
}

/* Many are joined at a time, and each is counted. */
static void join_is_batched(struct kunit *test)
{
	const struct test_area *area = ((struct test_areas *)test->priv)->area;
	unsigned long joined, flushes = 0;
	int i;

	for (i = 0; i < NR_AREAS; i++)
		zap(test, &area[i], i);
	for (i = 0; i < NR_AREAS; i++)
		restore(test, &area[i], i);
	run_once();
	joined = nr_events(DIRECT_MAP_LEVEL2_COLLAPSE);
#ifdef CONFIG_DEBUG_TLBFLUSH
	flushes = nr_events(NR_TLB_REMOTE_FLUSH);
#endif
	run_all();
#ifdef CONFIG_DEBUG_TLBFLUSH
	flushes = nr_events(NR_TLB_REMOTE_FLUSH) - flushes;
#endif
	for (i = 0; i < NR_AREAS; i++)
		KUNIT_EXPECT_TRUE(test, is_joined(&area[i]));
	/* Events are counted only in a system that is running. */
	if (IS_ENABLED(CONFIG_VM_EVENT_COUNTERS) && system_state == SYSTEM_RUNNING)
		KUNIT_EXPECT_GE(test, nr_events(DIRECT_MAP_LEVEL2_COLLAPSE) - joined, NR_AREAS);
	/* One before, one after; user space may add some, but not at boot. */
	KUNIT_EXPECT_LT(test, flushes, NR_AREAS);
}

struct reader {
	const struct test_area *area;
	unsigned long wrong, rounds;
};

/* Page 1 comes and goes; the others are always there. */
static int read_area(void *data)
{
	struct reader *reader = data;
	const struct test_area *area = reader->area;
	unsigned int page = 2;

	while (!kthread_should_stop()) {
		void *addr = (void *)page_addr(area, page);

		if (!kernel_page_present(area->page + page) ||
		    slow_virt_to_phys(addr) != page_to_phys(area->page + page) ||
		    READ_ONCE(*(unsigned long *)addr) != page)
			reader->wrong++;
		reader->rounds++;
		if (++page == AREA_PAGES)
			page = 2;
		cond_resched();
	}
	return 0;
}

/* Lookups without a lock never see a table that was freed, nor half of a change. */
static void join_has_readers(struct kunit *test)
{
	const struct test_area *area = ((struct test_areas *)test->priv)->area;
	struct reader reader = { .area = area };
	struct task_struct *task;
	int i;

	task = kthread_run(read_area, &reader, "join_reader");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, task);
	for (i = 0; i < 30; i++) {
		set_direct_map_invalid_noflush(page_addr(area, 1), 1);
		flush_tlb_kernel_range(page_addr(area, 1), page_addr(area, 2));
		KUNIT_EXPECT_TRUE(test, is_split(area));
		set_direct_map_default_noflush(page_addr(area, 1), 1);
		run_all();
		KUNIT_EXPECT_TRUE(test, is_joined(area));
	}
	while (!READ_ONCE(reader.rounds))
		msleep(20);
	kthread_stop(task);
	KUNIT_EXPECT_EQ(test, reader.wrong, 0);
}

static struct kunit_case join_test_cases[] = {
	KUNIT_CASE(join_restores_the_entry),
	KUNIT_CASE(join_needs_all_pages),
	KUNIT_CASE(join_needs_equal_flags),
	KUNIT_CASE(join_leaves_4k),
	KUNIT_CASE(join_waits),
	KUNIT_CASE(join_does_not_wait),
	KUNIT_CASE(join_is_batched),
	KUNIT_CASE(join_has_readers),
	{}
};

static struct kunit_suite join_test_suite = {
	.name = "direct_map_join",
	.init = join_test_init,
	.exit = join_test_exit,
	.test_cases = join_test_cases,
};

kunit_test_suite(join_test_suite);
