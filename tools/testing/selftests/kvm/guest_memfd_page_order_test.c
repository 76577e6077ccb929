// SPDX-License-Identifier: GPL-2.0
/*
 * Test guest_memfd with GUEST_MEMFD_FLAG_PAGE_ORDER: with folios of the size of a PMD,
 * everything is done in that size, and the guest always gets the right page.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/sizes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "direct_map.h"
#include "kselftest_harness.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define PLAIN	(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED | \
		 GUEST_MEMFD_FLAG_PAGE_ORDER)
#define HIDDEN	(PLAIN | GUEST_MEMFD_FLAG_NO_DIRECT_MAP)

#define DEBUGFS	"/sys/kernel/debug/"

/* The tested memslot. The program of the guest is in slot 0. */
#define SLOT	10
#define GPA	((gpa_t)SZ_1G)

/* Of /proc/kpageflags */
#define BIT_LRU		5
#define BIT_BUDDY	10
#define BIT_HWPOISON	19

#define LONG	300

/* Reads the number after @key, at the beginning of a line. Returns -1 if there is none. */
static long lookup(const char *path, const char *key)
{
	char line[256];
	long value = -1;
	FILE *f = fopen(path, "r");

	while (f && value < 0 && fgets(line, sizeof(line), f)) {
		char *at = line + strlen(key);

		if (!strncmp(line, key, strlen(key)))
			sscanf(at + strspn(at, " :\t"), "%ld", &value);
	}
	if (f)
		fclose(f);
	return value;
}

static long hidden_pages(void)
{
	return lookup("/proc/vmstat", "nr_no_direct_map") -
	       lookup("/proc/vmstat", "direct_map_leaked");
}

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	close(fd);
	return ok;
}

static int punch(int fd, off_t offset, off_t len)
{
	return fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, len);
}

static int allocate(int fd, off_t offset, off_t len)
{
	return fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, len);
}

static char *map(int fd, size_t size)
{
	return kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
}

/* The size of a PMD, and its order, as far as userspace can know them. */
static unsigned long pmd_size(void)
{
	long size = lookup("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "");

	return size > 0 ? size : getpagesize() / sizeof(u64) * getpagesize();
}

static int create(struct kvm_vm *vm, u64 size, u64 flags, u64 order)
{
	struct kvm_create_guest_memfd args = {
		.size = size,
		.flags = flags,
		.page_order = order,
	};

	return __vm_ioctl(vm, KVM_CREATE_GUEST_MEMFD, &args);
}

static unsigned long pfn_of(void *mem)
{
	return phys_addr(mem) / getpagesize();
}

static u64 page_flags(unsigned long pfn)
{
	int fd = open("/proc/kpageflags", O_RDONLY);
	u64 flags = 0;

	TEST_ASSERT(pread(fd, &flags, sizeof(flags), pfn * sizeof(flags)) == sizeof(flags),
		    "Cannot read /proc/kpageflags");
	close(fd);
	return flags;
}

/* Returns how much of the mapping at @mem is mapped by PMDs, in bytes. */
static long mapped_by_pmds(void *mem)
{
	char line[256], start[32];
	bool inside = false;
	long kb = -1;
	FILE *f;

	snprintf(start, sizeof(start), "%lx-", (unsigned long)mem);
	f = fopen("/proc/self/smaps", "r");
	TEST_ASSERT(f, "Cannot open /proc/self/smaps");
	while (kb < 0 && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, start, strlen(start)))
			inside = true;
		if (inside)
			sscanf(line, "FilePmdMapped: %ld kB", &kb);
	}
	fclose(f);
	TEST_ASSERT(kb >= 0, "The mapping has no FilePmdMapped");
	return kb * 1024;
}

#ifdef __x86_64__
/* Shadow page tables have the size of the guest's entries, which are small: returns -1. */
static long guest_large_pages(struct kvm_vm *vm)
{
	return kvm_is_tdp_enabled() ? vm_get_stat(vm, pages_2m) : -1;
}
#else
/* Counts the block entries of stage 2, all of one size. Returns -1 if debugfs lacks them. */
static long guest_large_pages(struct kvm_vm *vm)
{
	char path[300], line[256], name[32];
	unsigned long start, end;
	struct dirent *entry;
	long blocks = -1;
	FILE *f;
	DIR *d;

	snprintf(name, sizeof(name), "%d-%d", getpid(), vm->fd);
	d = opendir(DEBUGFS "kvm");
	while (d && (entry = readdir(d))) {
		if (strcmp(entry->d_name, name))
			continue;
		snprintf(path, sizeof(path), DEBUGFS "kvm/%s/stage2_page_tables", name);
		f = fopen(path, "r");
		if (!f)
			continue;
		/* A line is for all adjacent entries that are alike. */
		for (blocks = 0; fgets(line, sizeof(line), f); ) {
			if (strstr(line, "BLK") && sscanf(line, "0x%lx-0x%lx", &start, &end) == 2)
				blocks += (end - start) / pmd_size();
		}
		fclose(f);
	}
	if (d)
		closedir(d);
	return blocks;
}
#endif

static u64 page_value(u64 page)
{
	return 0x123456789abcdef0ul + page;
}

/* Checks the first word of each page, and inverts it. */
static void guest_check(gpa_t gpa, u64 pages, u64 page_size)
{
	for (u64 i = 0; i < pages; i++) {
		u64 *word = (void *)(gpa + i * page_size);

		GUEST_ASSERT_EQ(READ_ONCE(*word), page_value(i));
		WRITE_ONCE(*word, ~page_value(i));
	}
	GUEST_DONE();
}

static void guest_touch(gpa_t gpa)
{
	WRITE_ONCE(*(u64 *)gpa, 1);
	GUEST_DONE();
}

FIXTURE(order) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	long page_size, size, pages, order;
	long hidden, leaked;
	/* Pages out of the direct map for each folio. */
	long hides;
};

FIXTURE_VARIANT(order) {
	u64 flags;
};

FIXTURE_VARIANT_ADD(order, plain) {
	.flags = PLAIN,
};

FIXTURE_VARIANT_ADD(order, no_direct_map) {
	.flags = HIDDEN,
};

FIXTURE_SETUP(order)
{
	u64 supported = kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS);

	if ((supported & variant->flags) != variant->flags)
		SKIP(return, "This kernel lacks GUEST_MEMFD_FLAG_PAGE_ORDER");

	self->page_size = getpagesize();
	self->size = pmd_size();
	self->pages = self->size / self->page_size;
	self->order = __builtin_ctzl(self->pages);
	self->hidden = hidden_pages();
	self->leaked = lookup("/proc/vmstat", "direct_map_leaked");
	self->hides = variant->flags & GUEST_MEMFD_FLAG_NO_DIRECT_MAP ? self->pages : 0;
	self->vm = vm_create_with_one_vcpu(&self->vcpu, guest_check);
}

FIXTURE_TEARDOWN(order)
{
	if (self->vm)
		kvm_vm_free(self->vm);
	EXPECT_EQ(self->hidden, hidden_pages());
}

/* Adds the memslot, and maps it in the guest, by its own page size. */
static void add_slot(struct kvm_vm *vm, gpa_t gpa, size_t size, void *mem, int fd, off_t offset)
{
	vm_set_user_memory_region2(vm, SLOT, KVM_MEM_GUEST_MEMFD, gpa, size, mem, fd, offset);
	virt_map(vm, gpa, gpa, size / vm->page_size);
}

TEST_F(order, arguments_are_checked)
{
	const u64 flags = variant->flags;
	struct kvm_create_guest_memfd args;

	for (long order = 0; order < 64; order++) {
		int fd = create(self->vm, 4 * self->size, flags, order);

		EXPECT_EQ(order == 0 || order == self->order, fd >= 0);
		if (fd >= 0)
			close(fd);
		else
			EXPECT_EQ(EINVAL, errno);
	}
	EXPECT_EQ(-1, create(self->vm, self->size, flags, 1ull << 32 | self->order));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, create(self->vm, self->size + self->page_size, flags, self->order));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, create(self->vm, self->page_size, flags, self->order));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, create(self->vm, 0, flags, self->order));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, create(self->vm, self->size, flags & ~GUEST_MEMFD_FLAG_INIT_SHARED,
			     self->order));
	EXPECT_EQ(EINVAL, errno);

	for (size_t i = 0; i < ARRAY_SIZE(args.reserved); i++) {
		args = (struct kvm_create_guest_memfd) {
			.size = self->size,
			.flags = flags,
			.page_order = self->order,
		};
		args.reserved[i] = 1;
		EXPECT_EQ(-1, __vm_ioctl(self->vm, KVM_CREATE_GUEST_MEMFD, &args));
		EXPECT_EQ(EINVAL, errno);
	}
}

/* The kernel has never looked at these words without the flag. */
TEST_F(order, without_the_flag_the_order_is_ignored)
{
	struct kvm_create_guest_memfd args = {
		.size = self->page_size,
		.flags = variant->flags & ~GUEST_MEMFD_FLAG_PAGE_ORDER,
		.page_order = self->order,
		.reserved = { 1, 2, 3 },
	};
	int fd = __vm_ioctl(self->vm, KVM_CREATE_GUEST_MEMFD, &args);

	ASSERT_LE(0, fd);
	EXPECT_EQ(0, allocate(fd, 0, self->page_size));
	EXPECT_EQ(self->hidden + !!self->hides, hidden_pages());
	close(fd);
}

TEST_F(order, order_zero_is_an_ordinary_file)
{
	int fd = create(self->vm, self->page_size, GUEST_MEMFD_FLAG_PAGE_ORDER, 0);

	EXPECT_LE(0, fd);
	close(fd);
	fd = create(self->vm, self->page_size, variant->flags, 0);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, allocate(fd, 0, self->page_size));
	EXPECT_EQ(self->hidden + !!self->hides, hidden_pages());
	EXPECT_EQ(0, punch(fd, 0, self->page_size));
	EXPECT_EQ(self->hidden, hidden_pages());
	close(fd);
}

TEST_F(order, nothing_is_done_in_part)
{
	const off_t page = self->page_size, size = self->size;
	const off_t ranges[][2] = {
		{ 0, page }, { page, size }, { 0, size + page }, { size - page, page },
		{ size, size - page },
	};
	int fd = create(self->vm, 4 * size, variant->flags, self->order);
	char *mem;

	ASSERT_LE(0, fd);
	mem = map(fd, 4 * size);
	memset(mem, 0x5a, 2 * size);
	EXPECT_EQ(self->hidden + 2 * self->hides, hidden_pages());
	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		EXPECT_EQ(-1, punch(fd, ranges[i][0], ranges[i][1]));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(-1, allocate(fd, ranges[i][0], ranges[i][1]));
		EXPECT_EQ(EINVAL, errno);
	}
	EXPECT_EQ(self->hidden + 2 * self->hides, hidden_pages());
	for (off_t i = 0; i < 2 * size; i++)
		ASSERT_EQ(0x5a, mem[i]);

	EXPECT_EQ(-1, __vm_set_user_memory_region2(self->vm, SLOT, KVM_MEM_GUEST_MEMFD, GPA, size,
						   mem, fd, page));
	EXPECT_EQ(EINVAL, errno);

	/* What is aligned is done, and the rest stays. */
	EXPECT_EQ(0, punch(fd, 0, size));
	EXPECT_EQ(self->hidden + self->hides, hidden_pages());
	for (off_t i = 0; i < size; i++)
		ASSERT_EQ(0, mem[i]);
	for (off_t i = size; i < 2 * size; i++)
		ASSERT_EQ(0x5a, mem[i]);
	EXPECT_EQ(0, allocate(fd, 2 * size, 2 * size));
	EXPECT_EQ(self->hidden + 4 * self->hides, hidden_pages());
	kvm_munmap(mem, 4 * size);
	close(fd);
}

/* One touch brings all of a folio, aligned, zero, and mapped by one PMD. */
TEST_F(order, userspace_maps_a_pmd)
{
	int fd = create(self->vm, 4 * self->size, variant->flags, self->order);
	unsigned long pfn;
	char *mem;

	ASSERT_LE(0, fd);
	mem = map(fd, 4 * self->size);
	EXPECT_EQ(0, (unsigned long)mem % self->size);
	mem[self->size + self->size / 2] = 1;
	EXPECT_EQ(self->hidden + self->hides, hidden_pages());
	EXPECT_EQ(self->size, mapped_by_pmds(mem));
	pfn = pfn_of(mem + self->size);
	EXPECT_EQ(0, pfn % self->pages);
	for (long i = 0; i < self->pages; i++)
		ASSERT_EQ(pfn + i, pfn_of(mem + self->size + i * self->page_size));
	for (long i = 0; i < self->size; i++)
		ASSERT_EQ(i == self->size / 2, mem[self->size + i]);

	EXPECT_EQ(-1, madvise(mem, 4 * self->size, MADV_COLLAPSE));
	kvm_munmap(mem, 4 * self->size);
	close(fd);
}

/*
 * Nothing is split: a folio's entry has the size and the flags that it had, and its large
 * entry is absent as a whole in between. (arm64 has only small ones here.)
 */
TEST_F_TIMEOUT(order, its_entry_is_as_it_was, LONG)
{
	const long blocks = 16;
	int fd = create(self->vm, blocks * self->size, variant->flags, self->order);
	char before[128], hidden[128], last[128], now[128];
	const char *skip = "all free memory was split before";
	bool large = false;
	char *mem;

	ASSERT_LE(0, fd);
	mem = map(fd, blocks * self->size);
	add_slot(self->vm, GPA, blocks * self->size, mem, fd, 0);
	for (long i = 0; i < blocks && !large; i++) {
		char *block = mem + i * self->size;
		unsigned long addr;

		/* The folio that was freed last is the next one, unless others take it. */
		*block = 1;
		addr = direct_map_addr(phys_addr(block));
		ASSERT_EQ(0, punch(fd, i * self->size, self->size));
		if (!addr || !direct_map_entry(addr, before, sizeof(before))) {
			skip = "This kernel lacks CONFIG_PTDUMP_DEBUGFS or CONFIG_PROC_KCORE";
			break;
		}
		if (!entry_is_present(before)) {
			/* Free pages are absent with debug_pagealloc. */
			skip = "not only such memory leaves the direct map here";
			break;
		}

		if (i % 2) {
			*block = 1;
		} else {
			vcpu_arch_set_entry_point(self->vcpu, guest_touch);
			vcpu_args_set(self->vcpu, 1, GPA + i * self->size);
			vcpu_run(self->vcpu);
			ASSERT_EQ(UCALL_DONE, get_ucall(self->vcpu, NULL));
			(void)READ_ONCE(*block);
		}
		if (addr != direct_map_addr(phys_addr(block)))
			continue;
		ASSERT_TRUE(direct_map_entry(addr, hidden, sizeof(hidden)));
		ASSERT_TRUE(direct_map_entry(addr + self->size - self->page_size, last,
					     sizeof(last)));
		EXPECT_STREQ(hidden, last);
		EXPECT_EQ(!self->hides, entry_is_present(hidden));
#ifdef __x86_64__
		/* If it was split already, keep it, and look at another one. */
		if (entry_is_small(before))
			continue;
		EXPECT_FALSE(entry_is_small(hidden));
#endif
		ASSERT_EQ(0, punch(fd, i * self->size, self->size));
		ASSERT_TRUE(direct_map_entry(addr, now, sizeof(now)));
		EXPECT_STREQ(before, now);
		large = true;
	}
	kvm_munmap(mem, blocks * self->size);
	close(fd);
	if (!large)
		SKIP(return, "%s", skip);
}

/* A mapping that is not aligned as the file is works, with small entries. */
TEST_F(order, userspace_may_map_it_unaligned)
{
	int fd = create(self->vm, 2 * self->size, variant->flags, self->order);
	char *area = kvm_mmap(4 * self->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	char *mem = align_ptr_up(area, self->size) + self->page_size;

	ASSERT_LE(0, fd);
	mem = mmap(mem, 2 * self->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	ASSERT_NE(MAP_FAILED, mem);
	for (long i = 0; i < 2 * self->pages; i++)
		*(u64 *)(mem + i * self->page_size) = page_value(i);
	EXPECT_EQ(0, mapped_by_pmds(mem));
	add_slot(self->vm, GPA, 2 * self->size, mem, fd, 0);
	vcpu_args_set(self->vcpu, 3, GPA, 2 * self->pages, self->page_size);
	vcpu_run(self->vcpu);
	EXPECT_EQ(UCALL_DONE, get_ucall(self->vcpu, NULL));
	for (long i = 0; i < 2 * self->pages; i++)
		EXPECT_EQ(~page_value(i), *(u64 *)(mem + i * self->page_size));
	if (guest_large_pages(self->vm) >= 0)
		EXPECT_EQ(2, guest_large_pages(self->vm));
	kvm_munmap(area, 4 * self->size);
	close(fd);
}

TEST_F(order, guest_maps_a_large_page)
{
	int fd = create(self->vm, 2 * self->size, variant->flags, self->order);
	char *mem;

	ASSERT_LE(0, fd);
	mem = map(fd, 2 * self->size);
	add_slot(self->vm, GPA, 2 * self->size, mem, fd, 0);
	vcpu_arch_set_entry_point(self->vcpu, guest_touch);
	vcpu_args_set(self->vcpu, 1, GPA + self->size + 5 * self->page_size);
	vcpu_run(self->vcpu);
	EXPECT_EQ(UCALL_DONE, get_ucall(self->vcpu, NULL));
	EXPECT_EQ(self->hidden + self->hides, hidden_pages());
	if (guest_large_pages(self->vm) >= 0)
		EXPECT_EQ(1, guest_large_pages(self->vm));
	EXPECT_EQ(1, mem[self->size + 5 * self->page_size]);

	/* It loses the page with a hole, and gets another one. */
	EXPECT_EQ(0, punch(fd, 0, 2 * self->size));
	EXPECT_EQ(self->hidden, hidden_pages());
	if (guest_large_pages(self->vm) >= 0)
		EXPECT_EQ(0, guest_large_pages(self->vm));
	EXPECT_EQ(0, mem[self->size + 5 * self->page_size]);
	kvm_munmap(mem, 2 * self->size);
	close(fd);
}

/*
 * Memslots that begin, end, or lie in the guest where no folio does: whatever the guest
 * maps, it is the page of the file that belongs there.
 */
TEST_F(order, guest_gets_the_right_pages)
{
	const struct {
		const char *what;
		/* In pages, but for the offset in the file, which is in folios. */
		long gpa, mem, offset, pages;
		long large;
	} slots[] = {
		{ "all of it", 0, 0, 0, 3 * self->pages, 3 },
		{ "from the second folio", 0, 0, 1, 2 * self->pages, 2 },
		{ "shifted by a page", 1, 0, 0, 2 * self->pages, 0 },
		{ "shifted by half a folio", self->pages / 2, 0, 0, 2 * self->pages, 0 },
		{ "shifted, and so is userspace", 5, 5, 0, 2 * self->pages, 0 },
		{ "only userspace is shifted", 0, 3, 0, 2 * self->pages, 2 },
		{ "ends within a folio", 0, 0, 0, 2 * self->pages - 1, 1 },
		{ "less than a folio", 0, 0, 0, self->pages / 2, 0 },
		{ "one page", 7, 0, 2, 1, 0 },
	};
	char *area = kvm_mmap(5 * self->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	for (size_t i = 0; i < ARRAY_SIZE(slots); i++) {
		struct kvm_vcpu *vcpu;
		struct kvm_vm *vm = vm_create_with_one_vcpu(&vcpu, guest_check);
		int file = create(vm, 3 * self->size, variant->flags, self->order);
		char *all = mmap(align_ptr_up(area, self->size) + slots[i].mem * self->page_size,
				 3 * self->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
				 file, 0);
		char *part = all + slots[i].offset * self->size;
		gpa_t gpa = GPA + slots[i].gpa * self->page_size;
		long large;

		ASSERT_NE(MAP_FAILED, all);
		for (long page = 0; page < slots[i].pages; page++)
			*(u64 *)(part + page * self->page_size) = page_value(page);
		add_slot(vm, gpa, slots[i].pages * self->page_size, part, file,
			 slots[i].offset * self->size);
		vcpu_args_set(vcpu, 3, gpa, slots[i].pages, self->page_size);
		vcpu_run(vcpu);
		EXPECT_EQ(UCALL_DONE, get_ucall(vcpu, NULL)) {
			TH_LOG("%s", slots[i].what);
		}
		for (long page = 0; page < slots[i].pages; page++) {
			ASSERT_EQ(~page_value(page), *(u64 *)(part + page * self->page_size)) {
				TH_LOG("%s", slots[i].what);
			}
		}
		large = guest_large_pages(vm);
		if (large >= 0)
			EXPECT_EQ(slots[i].large, large) {
				TH_LOG("%s", slots[i].what);
			}
		/* The fixture counts what is hidden. */
		ASSERT_EQ(all, mmap(all, 3 * self->size, PROT_NONE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		close(file);
		kvm_vm_free(vm);
	}
	kvm_munmap(area, 5 * self->size);
}

struct race {
	char *mem;
	pthread_barrier_t barrier;
	int rounds, begun;
};

static void *touch_thread(void *arg)
{
	struct race *race = arg;

	for (int i = 0; i < race->rounds; i++) {
		pthread_barrier_wait(&race->barrier);
		while (READ_ONCE(race->begun) <= i)
			;
		WRITE_ONCE(*race->mem, 1);
		pthread_barrier_wait(&race->barrier);
	}
	return NULL;
}

/* Touches the memory at the same time as those threads that have a CPU, and before the others. */
static void touch_with_threads(struct race *race)
{
	pthread_barrier_wait(&race->barrier);
	WRITE_ONCE(race->begun, race->begun + 1);
	WRITE_ONCE(*race->mem, 1);
	pthread_barrier_wait(&race->barrier);
}

/* Faults that race for one index bring one folio. The others are in the direct map again. */
TEST_F_TIMEOUT(order, faults_race_for_one_folio, LONG)
{
	int fd = create(self->vm, self->size, variant->flags, self->order);
	struct race race = { .rounds = 200 };
	pthread_t threads[4];

	ASSERT_LE(0, fd);
	race.mem = map(fd, self->size);
	pthread_barrier_init(&race.barrier, NULL, ARRAY_SIZE(threads) + 1);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, touch_thread, &race));
	for (int i = 0; i < race.rounds; i++) {
		touch_with_threads(&race);
		ASSERT_EQ(self->hidden + self->hides, hidden_pages());
		ASSERT_EQ(0, punch(fd, 0, self->size));
		ASSERT_EQ(self->hidden, hidden_pages());
	}
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	kvm_munmap(race.mem, self->size);
	close(fd);
}

/*
 * Returns the signal that reading @at ends in, or 0: SIGALRM if it does not end. With
 * @fail, allocations fail as fail_page_alloc is set up.
 */
static int signal_of_reading(char *at, bool fail)
{
	int status;
	pid_t child = fork();

	if (!child) {
		signal(SIGBUS, SIG_DFL);
		alarm(20);
		if (fail)
			write_file("/proc/self/make-it-fail", "1");
		(void)READ_ONCE(*at);
		_exit(0);
	}
	TEST_ASSERT(waitpid(child, &status, 0) == child, "No child");
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

/* Has allocations of blocks fail, after @pages pages, for tasks that ask for it. */
static void fail_allocations(long order, long pages)
{
	char number[2][32], path[128];
	const char *const settings[][2] = {
		{ "min-order", number[0] }, { "space", number[1] }, { "ignore-gfp-wait", "N" },
		{ "ignore-gfp-highmem", "N" }, { "interval", "1" }, { "times", "-1" },
		{ "task-filter", "Y" }, { "verbose", "0" },
		{ "probability", "100" },
	};

	snprintf(number[0], sizeof(number[0]), "%ld", order);
	snprintf(number[1], sizeof(number[1]), "%ld", pages);
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
		snprintf(path, sizeof(path), DEBUGFS "fail_page_alloc/%s", settings[i][0]);
		TEST_ASSERT(write_file(path, settings[i][1]), "Cannot write to %s", path);
	}
}

static void allocations_succeed(void)
{
	write_file(DEBUGFS "fail_page_alloc/probability", "0");
}

/* If there is memory for one block only, all tasks that fault on it get that one. */
TEST_F_TIMEOUT(order, faults_race_for_the_last_folio, LONG)
{
	struct race race = { .rounds = 30 };
	pthread_t threads[4];
	int fd;

	if (access(DEBUGFS "fail_page_alloc", F_OK))
		SKIP(return, "This kernel lacks CONFIG_FAIL_PAGE_ALLOC");

	fd = create(self->vm, self->size, variant->flags, self->order);
	ASSERT_LE(0, fd);
	race.mem = map(fd, self->size);
	pthread_barrier_init(&race.barrier, NULL, ARRAY_SIZE(threads) + 1);
	/* Threads inherit it. */
	write_file("/proc/self/make-it-fail", "1");
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, touch_thread, &race));
	for (int i = 0; i < race.rounds; i++) {
		/* An allocation that leaves nothing of the budget is the first to fail. */
		fail_allocations(self->order, self->pages + 1);
		touch_with_threads(&race);
		allocations_succeed();
		ASSERT_EQ(0, punch(fd, 0, self->size));
	}
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	kvm_munmap(race.mem, self->size);
	close(fd);
}

/* If there is no such folio, nothing has changed, and no fault is repeated for ever. */
TEST_F(order, no_memory_is_an_error)
{
	int fd, allocated, alloc_err, signal;
	char *mem;

	if (access(DEBUGFS "fail_page_alloc", F_OK))
		SKIP(return, "This kernel lacks CONFIG_FAIL_PAGE_ALLOC");

	fd = create(self->vm, 2 * self->size, variant->flags, self->order);
	ASSERT_LE(0, fd);
	mem = map(fd, 2 * self->size);
	fail_allocations(self->order, 0);
	write_file("/proc/self/make-it-fail", "1");
	allocated = allocate(fd, 0, 2 * self->size);
	alloc_err = errno;
	write_file("/proc/self/make-it-fail", "0");
	signal = signal_of_reading(mem, true);
	allocations_succeed();

	EXPECT_EQ(-1, allocated);
	EXPECT_EQ(ENOMEM, alloc_err);
	EXPECT_EQ(SIGBUS, signal);
	EXPECT_EQ(self->hidden, hidden_pages());

	EXPECT_EQ(0, allocate(fd, 0, 2 * self->size));
	EXPECT_EQ(0, mem[0]);
	kvm_munmap(mem, 2 * self->size);
	close(fd);
}

/* A folio that is not taken offline, since it is not split, is freed as others are. */
TEST_F(order, soft_offline_does_not_leak)
{
	bool leaked = true;
	unsigned long pfn;
	char text[32];
	char *mem;
	int fd;

	if (access("/sys/devices/system/memory/soft_offline_page", W_OK))
		SKIP(return, "This kernel lacks CONFIG_MEMORY_FAILURE");

	/* Once it is freed, others can have it: it may be on the LRU again. */
	for (int tries = 0; tries < 5 && leaked; tries++) {
		fd = create(self->vm, self->size, variant->flags, self->order);
		ASSERT_LE(0, fd);
		mem = map(fd, self->size);
		mem[0] = 1;
		pfn = pfn_of(mem);
		snprintf(text, sizeof(text), "%#lx", pfn * self->page_size);
		EXPECT_FALSE(write_file("/sys/devices/system/memory/soft_offline_page", text));
		if (errno == EOPNOTSUPP)
			SKIP(kvm_munmap(mem, self->size); close(fd); return,
			     "vm.enable_soft_offline is 0");
		EXPECT_EQ(EBUSY, errno);
		EXPECT_EQ(pfn, pfn_of(mem));
		EXPECT_EQ(1, mem[0]);

		ASSERT_TRUE(page_flags(pfn) & BIT_ULL(BIT_LRU));
		kvm_munmap(mem, self->size);
		close(fd);
		leaked = page_flags(pfn) & BIT_ULL(BIT_LRU);
	}
	EXPECT_FALSE(leaked);
}

/*
 * A hardware error costs one page. Guest and userspace keep the other pages of the folio,
 * and none of the pages is ever used for anything else.
 */
TEST_F(order, one_page_has_a_hardware_error)
{
	const long bad = 5;
	unsigned long pfn;
	char text[32];
	int fd, r, pipes[2];
	char *mem;

	if (access(DEBUGFS "hwpoison/corrupt-pfn", W_OK))
		SKIP(return, "This kernel lacks CONFIG_HWPOISON_INJECT");

	fd = create(self->vm, self->size, variant->flags, self->order);
	ASSERT_LE(0, fd);
	mem = map(fd, self->size);
	for (long i = 0; i < self->pages; i++)
		*(u64 *)(mem + i * self->page_size) = page_value(i);
	pfn = pfn_of(mem);
	add_slot(self->vm, GPA, self->size, mem, fd, 0);
	vcpu_arch_set_entry_point(self->vcpu, guest_touch);
	vcpu_args_set(self->vcpu, 1, GPA + bad * self->page_size);
	vcpu_run(self->vcpu);
	ASSERT_EQ(UCALL_DONE, get_ucall(self->vcpu, NULL));
	if (guest_large_pages(self->vm) >= 0)
		ASSERT_EQ(1, guest_large_pages(self->vm));

	ASSERT_EQ(self->size, mapped_by_pmds(mem));
	snprintf(text, sizeof(text), "%#lx", pfn + bad);
	write_file(DEBUGFS "hwpoison/corrupt-pfn", text);
	ASSERT_TRUE(page_flags(pfn + bad) & BIT_ULL(BIT_HWPOISON));
	if (guest_large_pages(self->vm) >= 0)
		EXPECT_EQ(0, guest_large_pages(self->vm));

	vcpu_arch_set_entry_point(self->vcpu, guest_touch);
	vcpu_args_set(self->vcpu, 1, GPA + bad * self->page_size);
	r = _vcpu_run(self->vcpu);
	EXPECT_EQ(-1, r);
	EXPECT_EQ(EHWPOISON, errno);

	/* The PMD is gone, and a fault on another page does not bring the bad one back. */
	EXPECT_EQ(0, mapped_by_pmds(mem));
	EXPECT_EQ(page_value(bad + 1), *(u64 *)(mem + (bad + 1) * self->page_size));
	EXPECT_EQ(pfn + bad + 1, pfn_of(mem + (bad + 1) * self->page_size));
	ASSERT_EQ(0, pipe(pipes));
	EXPECT_EQ(1, write(pipes[1], mem + (bad + 1) * self->page_size, 1));
	EXPECT_EQ(-1, write(pipes[1], mem + bad * self->page_size, 1));
	EXPECT_EQ(EFAULT, errno);
	close(pipes[0]);
	close(pipes[1]);
	EXPECT_EQ(SIGBUS, signal_of_reading(mem + bad * self->page_size, false));
	EXPECT_EQ(0, signal_of_reading(mem + (bad + 1) * self->page_size, false));

	vcpu_arch_set_entry_point(self->vcpu, guest_touch);
	vcpu_args_set(self->vcpu, 1, GPA + (bad + 1) * self->page_size);
	vcpu_run(self->vcpu);
	EXPECT_EQ(UCALL_DONE, get_ucall(self->vcpu, NULL));
	EXPECT_EQ(1, *(u64 *)(mem + (bad + 1) * self->page_size));
	if (guest_large_pages(self->vm) >= 0)
		EXPECT_EQ(0, guest_large_pages(self->vm));
	vcpu_arch_set_entry_point(self->vcpu, guest_touch);
	vcpu_args_set(self->vcpu, 1, GPA + bad * self->page_size);
	EXPECT_EQ(-1, _vcpu_run(self->vcpu));
	EXPECT_EQ(EHWPOISON, errno);

	EXPECT_EQ(0, punch(fd, 0, self->size));
	EXPECT_EQ(self->hides, lookup("/proc/vmstat", "direct_map_leaked") - self->leaked);
	/* Nobody is charged any more for memory that is out of the direct map. */
	EXPECT_FALSE(self->hides && (page_flags(pfn) & BIT_ULL(BIT_LRU)));
	for (long i = 0; i < self->pages; i++)
		ASSERT_FALSE(page_flags(pfn + i) & BIT_ULL(BIT_BUDDY));
	EXPECT_TRUE(page_flags(pfn + bad) & BIT_ULL(BIT_HWPOISON));
	EXPECT_FALSE(write_file(DEBUGFS "hwpoison/unpoison-pfn", text) && self->hides);

	/* The next folio is another one, without an error. */
	EXPECT_EQ(0, mem[bad * self->page_size]);
	EXPECT_NE(pfn, pfn_of(mem));
	kvm_munmap(mem, self->size);
	close(fd);
}

TEST_HARNESS_MAIN
