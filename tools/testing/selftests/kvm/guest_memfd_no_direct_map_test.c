// SPDX-License-Identifier: GPL-2.0
/*
 * Test guest_memfd with GUEST_MEMFD_FLAG_NO_DIRECT_MAP: invalid use is refused, and
 * after each test all memory is back in the direct map, even after errors.
 *
 * The latter is checked by the counter in /proc/vmstat, and by the kernel's page
 * tables in debugfs. Tests that do not depend on KVM also run on memfd_secret()
 * memory, to which the same rule applies.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/sizes.h>
#include <linux/suspend_ioctls.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "direct_map.h"
#include "kselftest_harness.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#ifdef __x86_64__
#include "sev.h"
#endif
#include "test_util.h"
#include "ucall_common.h"

#define FLAGS	(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED | \
		 GUEST_MEMFD_FLAG_NO_DIRECT_MAP)
#define SIZE	SZ_4M

#define DEBUGFS	"/sys/kernel/debug/"

/* Timeout in seconds for slow tests, on a busy machine under emulation. */
#define LONG	300

/* Reads the number after @key in a file with lines like "key 1" or "Node 0 key:  1 kB". */
static bool lookup(const char *path, const char *key, long *value)
{
	size_t len = strlen(key);
	char line[256], *at, *end;
	bool found = false;
	FILE *f;

	f = fopen(path, "r");
	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f)) {
		at = strstr(line, key);
		if (!at || (at != line && at[-1] != ' ') || (at[len] != ' ' && at[len] != ':'))
			continue;
		at += len + (at[len] == ':');
		*value = strtol(at, &end, 10);
		found = end != at;
	}
	fclose(f);
	return found;
}

/* Returns the value of @name in /proc/vmstat, or 0 if it is not there. */
static long vm_stat(const char *name)
{
	long value;

	return lookup("/proc/vmstat", name, &value) ? value : 0;
}

/* Returns the number of pages out of the direct map, without leaked ones. */
static long hidden_pages(void)
{
	return vm_stat("nr_no_direct_map") - vm_stat("direct_map_leaked");
}

/* Adjacent entries of the direct map with equal flags, regardless of their size. */
struct range {
	unsigned long start, end;
	char flags[96];
};

struct direct_map {
	struct range *ranges;
	size_t nr;
};

/* Returns whether @word of an entry's line depends on its size, which a split changes. */
static bool is_size(const char *word)
{
	static const char *const sizes[] = {
		"PGD", "P4D", "PUD", "PMD", "PTE", "pgd", "p4d", "pud", "pmd", "pte",
		"PSE", "BLK", "CON",
	};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		if (!strcmp(word, sizes[i]))
			return true;
	}
	return isdigit(*word);
}

/* Reads the valid entries from debugfs. Returns false if it does not show them. */
static bool read_direct_map(struct direct_map *map)
{
	char line[256], *word, *state;
	bool inside = false;
	struct range *last;
	struct range new;
	FILE *f;

	*map = (struct direct_map) {};
	f = fopen(DEBUGFS "page_tables/kernel", "r");
	if (!f)
		f = fopen(DEBUGFS "kernel_page_tables", "r");
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, "---[", 4)) {
			inside = strstr(line, "Low Kernel Mapping") ||
				 strstr(line, "Linear Mapping start");
			continue;
		}
		/* arm64 also shows invalid entries, with an F. */
		if (!inside || (!strstr(line, " RW ") && !strstr(line, " ro ")) ||
		    strstr(line, " F ") ||
		    sscanf(line, "0x%lx-0x%lx", &new.start, &new.end) != 2)
			continue;

		new.flags[0] = '\0';
		strtok_r(line, "\n ", &state);
		while ((word = strtok_r(NULL, "\n ", &state))) {
			if (is_size(word))
				continue;
			TEST_ASSERT(strlen(new.flags) + strlen(word) + 2 < sizeof(new.flags),
				    "Flags of an entry do not fit");
			strcat(strcat(new.flags, " "), word);
		}

		last = map->nr ? &map->ranges[map->nr - 1] : NULL;
		if (last && last->end == new.start && !strcmp(last->flags, new.flags)) {
			last->end = new.end;
			continue;
		}
		map->ranges = realloc(map->ranges, (map->nr + 1) * sizeof(new));
		TEST_ASSERT(map->ranges, "Out of memory");
		map->ranges[map->nr++] = new;
	}
	fclose(f);
	return true;
}

/* Returns the index of the first range that differs, or -1. */
static ssize_t compare_direct_maps(const struct direct_map *a, const struct direct_map *b)
{
	size_t i;

	for (i = 0; i < a->nr && i < b->nr; i++) {
		const struct range *x = &a->ranges[i], *y = &b->ranges[i];

		if (x->start != y->start || x->end != y->end || strcmp(x->flags, y->flags))
			return i;
	}
	return a->nr == b->nr ? -1 : (ssize_t)i;
}

/* Counts the pages in the direct map by the page tables. Returns -1 if not available. */
static long direct_map_pages(void)
{
	struct direct_map map;
	long size = 0;

	if (!read_direct_map(&map))
		return -1;
	for (size_t i = 0; i < map.nr; i++)
		size += (map.ranges[i].end - map.ranges[i].start) / getpagesize();
	free(map.ranges);
	return size;
}

/*
 * The same, but also returns -1 if other pages may be out of the direct map: KFENCE
 * removes pages at any time, and debug_pagealloc removes all free pages.
 */
static long quiet_direct_map_pages(void)
{
	FILE *f = fopen("/sys/module/kfence/parameters/sample_interval", "r");
	long pages = direct_map_pages(), interval = 0;
	char *mem;

	if (f) {
		TEST_ASSERT(fscanf(f, "%ld", &interval) == 1, "Cannot read KFENCE's interval");
		fclose(f);
	}
	mem = kvm_mmap(SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memset(mem, 1, SIZE);
	if (interval || pages != direct_map_pages())
		pages = -1;
	kvm_munmap(mem, SIZE);
	return pages;
}

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return ok;
}

/*
 * Makes @function, or any page allocation if NULL, fail with @probability percent,
 * at most @times times. Allocations fail for this task only; functions fail for all
 * tasks, since the probe's handler does not run in task context.
 */
static bool inject(const char *dir, const char *function, const char *probability,
		   const char *times)
{
	char path[128];
	bool ok = true;

#define SET(file, text) ({						\
	snprintf(path, sizeof(path), DEBUGFS "%s/%s", dir, file);	\
	ok &= write_file(path, text);					\
})
	SET("probability", probability);
	SET("times", times);
	SET("interval", "1");
	SET("space", "0");
	SET("verbose", "0");
	SET("task-filter", function ? "N" : "Y");
	if (function) {
		SET("inject", function);
		snprintf(path, sizeof(path), DEBUGFS "%s/%s/retval", dir, function);
		/* -ENOMEM */
		ok &= write_file(path, "0xfffffffffffffff4");
	} else {
		SET("min-order", "0");
		SET("ignore-gfp-wait", "N");
		SET("ignore-gfp-highmem", "N");
	}
#undef SET
	return ok && write_file("/proc/self/make-it-fail", "1");
}

static void stop_injecting(const char *dir)
{
	char path[128];

	write_file("/proc/self/make-it-fail", "0");
	snprintf(path, sizeof(path), DEBUGFS "%s/inject", dir);
	write_file(path, "");
	snprintf(path, sizeof(path), DEBUGFS "%s/probability", dir);
	write_file(path, "0");
}

/* Restricts failures to allocations by @function and its callees, or lifts that if NULL. */
static bool require_caller(const char *dir, const char *function)
{
	char path[128], name[128], text[32];
	unsigned long addr, start = 0, end = -1UL;
	FILE *f;

	f = fopen("/proc/kallsyms", "r");
	if (!f)
		return false;
	/* Sorted by address: the function ends at the next symbol. */
	while (function && fscanf(f, "%lx %*c %127s%*[^\n]", &addr, name) == 2) {
		if (start && addr > start) {
			end = addr;
			break;
		}
		if (!strcmp(name, function))
			start = addr;
	}
	fclose(f);
	if (function && (!start || end == -1UL))
		return false;

	snprintf(path, sizeof(path), DEBUGFS "%s/require-start", dir);
	snprintf(text, sizeof(text), "%#lx", start);
	if (!write_file(path, text))
		return false;
	snprintf(path, sizeof(path), DEBUGFS "%s/require-end", dir);
	snprintf(text, sizeof(text), "%#lx", end);
	return write_file(path, text);
}

static int open_fds(void)
{
	int fd, n = 0;

	for (fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Does not use SKIP(), which needs variables of the harness. */
static bool supported(struct kvm_vm *vm)
{
	return vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_NO_DIRECT_MAP;
}

FIXTURE(gmem) {
	struct kvm_vm *vm;
	long page_size;
	long direct_map;
	long hidden;
	long leaked;
};

FIXTURE_SETUP(gmem)
{
	self->page_size = getpagesize();
	self->direct_map = quiet_direct_map_pages();
	self->hidden = hidden_pages();
	self->leaked = vm_stat("direct_map_leaked");
	self->vm = vm_create_barebones();
	if (!supported(self->vm))
		SKIP(return, "This host cannot remove guest_memfd from the direct map");
}

FIXTURE_TEARDOWN(gmem)
{
	if (self->vm)
		kvm_vm_free(self->vm);

	/* All pages are restored, except those leaked on purpose. */
	EXPECT_EQ(self->hidden, hidden_pages());
	if (self->direct_map >= 0)
		EXPECT_EQ(self->direct_map - (vm_stat("direct_map_leaked") - self->leaked),
			  direct_map_pages());
}

static void *map(int fd)
{
	return kvm_mmap(SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
}

static int punch(int fd, off_t offset, off_t len)
{
	return fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, len);
}

static int allocate(int fd, off_t offset, off_t len)
{
	return fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, len);
}

TEST_F(gmem, flag_is_enumerated_for_the_machine_and_the_vm)
{
	ASSERT_TRUE(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_NO_DIRECT_MAP);
}

TEST_F(gmem, bad_arguments_are_refused_and_nothing_is_leaked)
{
	const struct {
		u64 size, flags;
	} bad[] = {
		{ SIZE, FLAGS | (1ULL << 3) },
		{ SIZE, FLAGS | (1ULL << 63) },
		{ 0, FLAGS },
		{ -self->page_size, FLAGS },
		{ 1ULL << 63, FLAGS },
		{ SIZE + 1, FLAGS },
		{ self->page_size / 2, FLAGS },
	};
	int fds = open_fds();

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		errno = 0;
		EXPECT_EQ(-1, __vm_create_guest_memfd(self->vm, bad[i].size, bad[i].flags)) {
			TH_LOG("size %#lx flags %#lx", (long)bad[i].size, (long)bad[i].flags);
		}
		EXPECT_EQ(EINVAL, errno);
	}
	EXPECT_EQ(fds, open_fds());
}

/* After all memslots. */
#define MMIO_ADDR	0x100000000ULL
#define QUESTION	0x0123456789abcdefULL

static void guest_mmio(void)
{
	u64 *mmio = (void *)MMIO_ADDR;

	/* A fixed address: arm64 cannot emulate accesses with writeback. */
	for (u64 i = 0; i < 16; i++)
		WRITE_ONCE(*mmio, ~READ_ONCE(*mmio) + i);
	GUEST_DONE();
}

/*
 * All guest memory is of this type, including the program and the page tables. To
 * emulate an instruction, KVM fetches it and walks the tables by the user mapping.
 */
TEST_F(gmem, guest_runs_from_such_memory_and_does_mmio)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = VM_TYPE_DEFAULT,
		.src_type = VM_MEM_SRC_GUEST_MEMFD_NO_DIRECT_MAP,
	};
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vm_create_shape_with_one_vcpu(shape, &vcpu, guest_mmio);
	u64 question = QUESTION, answer;
	long reads = 0, writes = 0;

	EXPECT_GT(hidden_pages(), self->hidden);
	virt_map(vm, MMIO_ADDR, MMIO_ADDR, 1);
	for (;;) {
		struct kvm_run *run = vcpu->run;

		vcpu_run(vcpu);
		if (run->exit_reason != KVM_EXIT_MMIO || run->mmio.phys_addr != MMIO_ADDR)
			break;
		ASSERT_EQ(sizeof(question), run->mmio.len);
		if (run->mmio.is_write) {
			memcpy(&answer, run->mmio.data, sizeof(answer));
			EXPECT_EQ(~QUESTION + writes++, answer);
		} else {
			memcpy(run->mmio.data, &question, sizeof(question));
			reads++;
		}
	}
	EXPECT_EQ(UCALL_DONE, get_ucall(vcpu, NULL));
	EXPECT_EQ(16, reads);
	EXPECT_EQ(16, writes);
	kvm_vm_free(vm);
}

/*
 * Creation must refuse flags that the capability does not report. Runs for every type
 * of VM, and on machines where the other tests are skipped.
 */
TEST(flag_is_refused_where_it_is_not_enumerated)
{
	bool machine = kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_NO_DIRECT_MAP;
	unsigned int types = 1;
	int checked = 0;

#ifdef __x86_64__
	types = kvm_check_cap(KVM_CAP_VM_TYPES);
#endif
	for (int type = 0; type < 32; type++) {
		struct kvm_vm *vm;
		int fd;

		if (!(types & (1U << type)))
			continue;
#ifdef __x86_64__
		vm = vm_create_barebones_type(type);
		/* Pages of all other types are pinned, or accessed through the direct map. */
		EXPECT_EQ(machine && (type == KVM_X86_DEFAULT_VM ||
				      type == KVM_X86_SW_PROTECTED_VM), supported(vm)) {
			TH_LOG("VM type %d", type);
		}
#else
		vm = vm_create_barebones();
		EXPECT_EQ(machine, supported(vm));
#endif
		fd = __vm_create_guest_memfd(vm, SIZE, GUEST_MEMFD_FLAG_NO_DIRECT_MAP);
		EXPECT_EQ(supported(vm), fd >= 0) {
			TH_LOG("VM type %d", type);
		}
		if (fd >= 0)
			close(fd);
		else
			EXPECT_EQ(EINVAL, errno);
		kvm_vm_free(vm);
		checked++;
	}
	EXPECT_GE(checked, 1);
}

#ifdef __x86_64__
/* KVM_SEV_INIT turns a VM of the default type, which may have such memory, into an SEV VM. */
TEST_F(gmem, default_vm_does_not_become_sev)
{
	int fd;
	char *mem;

	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SEV_VM)))
		SKIP(return, "no SEV here");

	fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
	mem = kvm_mmap(SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	vm_set_user_memory_region2(self->vm, 0, KVM_MEM_GUEST_MEMFD, 0, SIZE, mem, fd, 0);
	self->vm->arch.sev_fd = open_sev_dev_path_or_exit();
	EXPECT_EQ(-1, __vm_sev_ioctl(self->vm, KVM_SEV_INIT, NULL));
	EXPECT_EQ(EINVAL, errno);
	kvm_munmap(mem, SIZE);
	close(fd);
}
#endif

/* The parameter affects only creation: memory of existing files stays hidden and usable. */
TEST_F(gmem, administrator_can_forbid_the_flag)
{
	static const char parameter[] = "/sys/module/kvm/parameters/guest_memfd_no_direct_map";
	int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS), other, err;
	long pages = SIZE / self->page_size, hidden;
	bool machine, vm;
	char *mem;

	ASSERT_EQ(0, access(parameter, F_OK));
	mem = kvm_mmap(SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	mem[0] = 1;
	if (!write_file(parameter, "0"))
		SKIP(close(fd); return, "guest_memfd_no_direct_map can be set at boot only");
	machine = kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_NO_DIRECT_MAP;
	vm = supported(self->vm);
	other = __vm_create_guest_memfd(self->vm, SIZE, FLAGS);
	err = errno;
	memset(mem, 1, SIZE);
	hidden = hidden_pages();
	/* Other tests need it. */
	ASSERT_TRUE(write_file(parameter, "1"));

	EXPECT_FALSE(machine);
	EXPECT_FALSE(vm);
	EXPECT_EQ(-1, other);
	EXPECT_EQ(EINVAL, err);
	EXPECT_EQ(self->hidden + pages, hidden);
	kvm_munmap(mem, SIZE);
	close(fd);

	EXPECT_TRUE(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_NO_DIRECT_MAP);
	EXPECT_TRUE(supported(self->vm));
	close(vm_create_guest_memfd(self->vm, SIZE, FLAGS));
}

TEST_F(gmem, touched_pages_are_hidden_zero_and_writable)
{
	int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
	long pages = SIZE / self->page_size;
	char *mem = map(fd);

	for (size_t i = 0; i < SIZE; i++)
		ASSERT_EQ(0, mem[i]);
	memset(mem, 0xa5, SIZE);
	for (size_t i = 0; i < SIZE; i++)
		ASSERT_EQ((char)0xa5, mem[i]);

	EXPECT_EQ(self->hidden + pages, hidden_pages());
	if (self->direct_map >= 0)
		EXPECT_EQ(self->direct_map - pages, direct_map_pages());

	kvm_munmap(mem, SIZE);
	close(fd);
}

/*
 * Compares flags, since page counts do not show entries restored with other flags. On x86
 * the flag that may be lost is the global one, which entries have with pti=off.
 */
TEST_F(gmem, entries_come_back_as_they_were)
{
	long pages = SIZE / self->page_size;
	struct direct_map before, now;
	bool global = false;
	ssize_t i;

	if (self->direct_map < 0)
		SKIP(return, "not only such memory leaves the direct map here");

	ASSERT_TRUE(read_direct_map(&before));
	for (size_t i = 0; i < before.nr; i++)
		global |= !!strstr(before.ranges[i].flags, " GLB");
	TH_LOG("%zu ranges, %s global entries", before.nr, global ? "with" : "without");

	for (int life = 0; life < 2; life++) {
		int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);

		ASSERT_EQ(0, allocate(fd, 0, SIZE));
		EXPECT_EQ(self->hidden + pages, hidden_pages());
		ASSERT_TRUE(read_direct_map(&now));
		EXPECT_GE(compare_direct_maps(&before, &now), 0);
		free(now.ranges);
		if (life)
			ASSERT_EQ(0, punch(fd, 0, SIZE));
		close(fd);
		EXPECT_EQ(self->hidden, hidden_pages());

		ASSERT_TRUE(read_direct_map(&now));
		i = compare_direct_maps(&before, &now);
		EXPECT_EQ(-1, i) {
			if ((size_t)i < before.nr && (size_t)i < now.nr)
				TH_LOG("in life %d %#lx-%#lx%s became %#lx-%#lx%s", life,
				       before.ranges[i].start, before.ranges[i].end,
				       before.ranges[i].flags, now.ranges[i].start,
				       now.ranges[i].end, now.ranges[i].flags);
		}
		free(now.ranges);
	}
	free(before.ranges);
}

/* Returns whether this kernel joins entries, and can do so now: no CPU is offline. */
static bool joins_entries(void)
{
	FILE *f = fopen("/sys/module/direct_map_join/parameters/enabled", "r");
	char enabled = 'N';

	if (f) {
		enabled = fgetc(f);
		fclose(f);
	}
	return enabled == 'Y' && sysconf(_SC_NPROCESSORS_CONF) == sysconf(_SC_NPROCESSORS_ONLN);
}

/* Returns whether the entry for @addr is small, and, if it is not, large and present. */
static bool is_split(unsigned long addr)
{
	char entry[128];

	TEST_ASSERT(direct_map_entry(addr, entry, sizeof(entry)), "Cannot read page tables");
	TEST_ASSERT(entry_is_small(entry) || entry_is_present(entry), "%#lx is %s", addr, entry);
	return entry_is_small(entry);
}

/*
 * Allocates pages until one of them splits a large entry, and frees them except that one, at
 * @offset. Returns the address of its neighbour in the direct map, or 0 if none splits one.
 */
static unsigned long split_an_entry(int fd, off_t most, off_t *offset)
{
	long page = getpagesize();
	char *mem = kvm_mmap(most, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	unsigned long found = 0;

	for (*offset = 0; *offset < most; *offset += page) {
		long splits = vm_stat("direct_map_level2_splits");
		unsigned long addr;

		/* The machine may have less memory. */
		if (allocate(fd, *offset, page))
			break;
		/* Others split entries as well: look closely. */
		if (splits == vm_stat("direct_map_level2_splits"))
			continue;
		(void)READ_ONCE(mem[*offset]);
		addr = direct_map_addr(phys_addr(mem + *offset)) ^ page;
		if (is_split(addr)) {
			found = addr;
			break;
		}
	}
	kvm_munmap(mem, most);
	TEST_ASSERT(!found || !*offset || !punch(fd, 0, *offset), "Cannot punch a hole");
	return found;
}

/* Waits until the entry for @addr is large, for as long as joining takes and a bit more. */
static bool becomes_large(unsigned long addr)
{
	for (int i = 0; i < 25 && is_split(addr); i++)
		sleep(1);
	return !is_split(addr);
}

/* Once its last page is back, and not before, an entry that was split is large again (x86). */
TEST_F_TIMEOUT(gmem, split_entries_are_joined, LONG)
{
	bool joined = false;

	if (!joins_entries())
		SKIP(return, "This machine has no large entry to split");
	if (access(DEBUGFS "page_tables/kernel", R_OK) || access("/proc/kcore", R_OK))
		SKIP(return, "This kernel lacks CONFIG_PTDUMP_DEBUGFS or CONFIG_PROC_KCORE");
	/* Others may use pages there in a way that prevents it. */
	for (int tries = 0; tries < 3 && !joined; tries++) {
		int fd = vm_create_guest_memfd(self->vm, SZ_512M, FLAGS);
		unsigned long addr;
		off_t offset;

		addr = split_an_entry(fd, SZ_512M, &offset);
		if (!addr)
			SKIP(close(fd); return, "This machine has no large entry to split");
		EXPECT_FALSE(becomes_large(addr));
		EXPECT_EQ(self->hidden + 1, hidden_pages());
		ASSERT_EQ(0, punch(fd, offset, self->page_size));
		joined = becomes_large(addr);
		close(fd);
	}
	EXPECT_TRUE(joined);
}

TEST_F(gmem, punched_pages_come_back_zero)
{
	int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
	long page_size = self->page_size, pages = SIZE / page_size;
	char *mem = map(fd);

	memset(mem, 0xa5, SIZE);
	ASSERT_EQ(0, punch(fd, SIZE / 4, SIZE / 2));
	EXPECT_EQ(self->hidden + pages / 2, hidden_pages());

	/* Still mapped: punched pages read as zeros, the others are unchanged. */
	EXPECT_EQ(0, mem[SIZE / 4]);
	EXPECT_EQ(0, mem[SIZE / 4 * 3 - 1]);
	EXPECT_EQ((char)0xa5, mem[SIZE / 4 - 1]);
	EXPECT_EQ((char)0xa5, mem[SIZE / 4 * 3]);
	EXPECT_EQ(self->hidden + pages / 2 + 2, hidden_pages());

	kvm_munmap(mem, SIZE);
	close(fd);
}

/* All orders of these steps, with a mapping. The teardown checks for leaks. */
TEST_F(gmem, allocate_punch_and_close_in_any_order)
{
	static const char *const orders[] = {
		"apc", "pac", "acp", "cpa", "cap", "pca", "aptc", "tpac", "tcp", "atpatc",
	};

	for (size_t i = 0; i < ARRAY_SIZE(orders); i++) {
		int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
		/* After "c" only the mapping keeps the file alive. */
		int other = dup(fd);
		char *mem = map(fd);

		for (const char *step = orders[i]; *step; step++) {
			switch (*step) {
			case 'a':
				ASSERT_EQ(0, allocate(other, 0, SIZE));
				break;
			case 'p':
				ASSERT_EQ(0, punch(other, SIZE / 8, SIZE / 2));
				break;
			case 't':
				memset(mem, 0xa5, SIZE);
				break;
			case 'c':
				close(fd);
				break;
			}
		}
		close(other);
		mem[SIZE / 3] = 1;
		kvm_munmap(mem, SIZE);
		ASSERT_EQ(self->hidden, hidden_pages()) {
			TH_LOG("order %s", orders[i]);
		}
	}
}

/*
 * In other mappings, soft offline drops a clean page that was only read, and migrates
 * one that was written to. A guest may have either of them mapped.
 */
static void soft_offline(struct __test_metadata *_metadata, struct kvm_vm *vm, u64 flags)
{
	long expected = hidden_pages() + !!(flags & GUEST_MEMFD_FLAG_NO_DIRECT_MAP);
	int fd = vm_create_guest_memfd(vm, SIZE, flags);
	unsigned long addr;
	char *mem = map(fd), text[32];

	for (int written = 0; written <= 1; written++) {
		if (written)
			WRITE_ONCE(*mem, 0x5a);
		ASSERT_EQ(written ? 0x5a : 0, READ_ONCE(*mem));
		addr = phys_addr(mem);
		snprintf(text, sizeof(text), "%#lx", addr);
		kvm_munmap(mem, SIZE);

		EXPECT_FALSE(write_file("/sys/devices/system/memory/soft_offline_page", text));
		EXPECT_EQ(expected, hidden_pages());
		mem = map(fd);
		EXPECT_EQ(written ? 0x5a : 0, READ_ONCE(*mem));
		EXPECT_EQ(addr, phys_addr(mem));
	}
	kvm_munmap(mem, SIZE);
	close(fd);
}

TEST_F(gmem, soft_offline_neither_drops_nor_moves_a_page)
{
	if (access("/sys/devices/system/memory/soft_offline_page", W_OK))
		SKIP(return, "This kernel lacks CONFIG_MEMORY_HOTPLUG");

	soft_offline(_metadata, self->vm, FLAGS);
	soft_offline(_metadata, self->vm, FLAGS & ~GUEST_MEMFD_FLAG_NO_DIRECT_MAP);
}

/*
 * Like /proc/kcore, BPF programs and kprobes, /dev/mem reads through the direct map and
 * handles faults.
 */
TEST_F(gmem, dev_mem_finds_nothing)
{
	char *plain = kvm_mmap(self->page_size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1);
	int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
	int dev_mem = open("/dev/mem", O_RDONLY);
	char *mem = map(fd), byte = 0;
	bool can_read = false;

	*plain = 0x5a;
	*mem = 0x5a;
	if (dev_mem >= 0 && (pread(dev_mem, &byte, 1, phys_addr(plain)) == 1 || errno != EPERM)) {
		can_read = true;
		EXPECT_EQ(0x5a, byte);
		EXPECT_EQ(-1, pread(dev_mem, &byte, 1, phys_addr(mem)));
		EXPECT_EQ(EFAULT, errno);
	}
	close(dev_mem);
	kvm_munmap(mem, SIZE);
	close(fd);
	kvm_munmap(plain, self->page_size);
	if (!can_read)
		SKIP(return, "This kernel lacks CONFIG_DEVMEM, or has CONFIG_STRICT_DEVMEM");
}

/* Creates a file with one page of memory without a direct map, mapped at *@mem. */
static int one_page(struct kvm_vm *vm, bool secretmem, char **mem)
{
	size_t size = getpagesize();
	int fd;

	if (!secretmem) {
		fd = vm_create_guest_memfd(vm, size, FLAGS);
	} else {
		fd = syscall(SYS_memfd_secret, 0);
		if (fd < 0)
			return fd;
		TEST_ASSERT(!ftruncate(fd, size), "Cannot size a memfd_secret file");
	}
	*mem = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	return fd;
}

/* Sums @key over the nodes' files @file. Returns false if node 0 has no such key. */
static bool lookup_nodes(const char *file, const char *key, long *sum)
{
	char path[128];
	long value;
	int node;

	*sum = 0;
	for (node = 0; node < 64; node++) {
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/%s", node, file);
		if (lookup(path, key, &value))
			*sum += value;
		else if (!node)
			return false;
	}
	return true;
}

/* Checks that all files that show the counter have the value @start + @more. */
static void check_gauge(struct __test_metadata *_metadata, long start, long more)
{
	long page_kb = getpagesize() / 1024, value = -1;

	EXPECT_TRUE(lookup("/proc/vmstat", "nr_no_direct_map", &value));
	EXPECT_EQ(start + more, value);
	EXPECT_TRUE(lookup("/proc/meminfo", "NoDirectMap", &value));
	EXPECT_EQ((start + more) * page_kb, value);
	if (lookup_nodes("vmstat", "nr_no_direct_map", &value))
		EXPECT_EQ(start + more, value);
	if (lookup_nodes("meminfo", "NoDirectMap", &value))
		EXPECT_EQ((start + more) * page_kb, value);
}

TEST_F(gmem, gauge_counts_what_is_out_now)
{
	long pages = SIZE / self->page_size, start = vm_stat("nr_no_direct_map"), value;
	int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS), secret;
	char *mem = map(fd), *secret_mem;

	EXPECT_TRUE(lookup("/proc/vmstat", "direct_map_leaked", &value));
	check_gauge(_metadata, start, 0);
	mem[0] = 1;
	check_gauge(_metadata, start, 1);
	memset(mem, 1, SIZE);
	check_gauge(_metadata, start, pages);
	secret = one_page(self->vm, true, &secret_mem);
	if (secret >= 0) {
		secret_mem[0] = 1;
		check_gauge(_metadata, start, pages + 1);
		kvm_munmap(secret_mem, self->page_size);
		close(secret);
	}
	ASSERT_EQ(0, punch(fd, 0, SIZE / 2));
	/* secretmem files are released by deferred work. */
	for (int i = 0; i < 100 && vm_stat("nr_no_direct_map") != start + pages / 2; i++)
		usleep(10000);
	check_gauge(_metadata, start, pages / 2);
	kvm_munmap(mem, SIZE);
	close(fd);
	check_gauge(_metadata, start, 0);
}

/* Returns the kB out of the direct map according to fdinfo, or -1 without that line. */
static long fdinfo_kb(int fd)
{
	char path[64], line[256], expected[64];
	long kb, found = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "r");
	TEST_ASSERT(f, "Cannot open %s", path);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "no-direct-map: %ld", &kb) != 1)
			continue;
		snprintf(expected, sizeof(expected), "no-direct-map:\t%ld kB\n", kb);
		TEST_ASSERT(!strcmp(line, expected), "%s has: %s", path, line);
		found = kb;
	}
	fclose(f);
	return found;
}

TEST_F(gmem, fdinfo_says_how_much_is_hidden)
{
	int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
	int other = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
	int plain = vm_create_guest_memfd(self->vm, SIZE, FLAGS & ~GUEST_MEMFD_FLAG_NO_DIRECT_MAP);
	long page_kb = self->page_size / 1024;
	char *mem = map(fd);

	EXPECT_EQ(0, fdinfo_kb(fd));
	mem[0] = 1;
	EXPECT_EQ(page_kb, fdinfo_kb(fd));
	memset(mem, 1, SIZE);
	EXPECT_EQ(SIZE / 1024, fdinfo_kb(fd));
	ASSERT_EQ(0, punch(fd, SIZE / 4, SIZE / 2));
	EXPECT_EQ(SIZE / 2 / 1024, fdinfo_kb(fd));

	/* Each file has its own count, and only files with the flag have the line. */
	ASSERT_EQ(0, allocate(other, 0, self->page_size));
	EXPECT_EQ(page_kb, fdinfo_kb(other));
	EXPECT_EQ(SIZE / 2 / 1024, fdinfo_kb(fd));
	ASSERT_EQ(0, allocate(plain, 0, SIZE));
	EXPECT_EQ(-1, fdinfo_kb(plain));

	ASSERT_EQ(0, punch(fd, 0, SIZE));
	EXPECT_EQ(0, fdinfo_kb(fd));
	kvm_munmap(mem, SIZE);
	close(fd);
	close(other);
	close(plain);
}

static bool hibernation_is_offered(void)
{
	char text[128] = "[disabled]";
	FILE *f = fopen("/sys/power/disk", "r");

	if (f) {
		if (!fgets(text, sizeof(text), f))
			text[0] = '\0';
		fclose(f);
	}
	return !strstr(text, "[disabled]");
}

/* Returns whether @text contains the number @n, not as part of a longer one. */
static bool has_number(const char *text, long n)
{
	while (*text) {
		char *end;

		if (!isdigit(*text)) {
			text++;
			continue;
		}
		if (strtol(text, &end, 10) == n)
			return true;
		text = end;
	}
	return false;
}

/*
 * Returns whether the next records in the log have the amount of memory out of the direct
 * map, and name this process as an owner.
 */
static bool refusal_is_logged(int kmsg)
{
	long pages = vm_stat("nr_no_direct_map"), kb = pages * (getpagesize() / 1024);
	bool amount = false, owner = false;
	char record[2048], comm[32] = "";
	ssize_t len;
	FILE *f;

	f = fopen("/proc/self/comm", "r");
	TEST_ASSERT(f && fgets(comm, sizeof(comm), f), "Cannot read /proc/self/comm");
	fclose(f);
	comm[strcspn(comm, "\n")] = '\0';

	for (;;) {
		char *text;

		len = read(kmsg, record, sizeof(record) - 1);
		/* The next record was overwritten. */
		if (len < 0 && errno == EPIPE)
			continue;
		if (len <= 0)
			break;
		record[len] = '\0';
		text = strchr(record, ';');
		if (!text)
			continue;
		amount |= has_number(text, kb) || has_number(text, pages);
		owner |= strstr(text, comm) && has_number(text, getpid());
	}
	return amount && owner;
}

/* Opens the kernel log at its end. */
static int open_log(void)
{
	int kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);

	TEST_ASSERT(kmsg >= 0 && lseek(kmsg, 0, SEEK_END) >= 0, "Cannot read /dev/kmsg");
	return kmsg;
}

/*
 * An image of all memory would contain this memory. The order matters: a process that
 * opened /dev/snapshot before there was such memory must not get an image either.
 */
static void refuse_hibernation(struct __test_metadata *_metadata, struct kvm_vm *vm,
			       bool secretmem)
{
	int snapshot = open("/dev/snapshot", O_RDONLY), fd, in_suspend = 0, kmsg = open_log();
	char *mem;

	ASSERT_GE(snapshot, 0);
	fd = one_page(vm, secretmem, &mem);
	if (fd < 0 && secretmem) {
		TH_LOG("no memfd_secret() here");
		close(snapshot);
		close(kmsg);
		return;
	}
	ASSERT_GE(fd, 0);
	*mem = 1;
	/* Making an image stops this machine: do not try if the kernel would do so. */
	ASSERT_FALSE(hibernation_is_offered());

	ASSERT_EQ(0, ioctl(snapshot, SNAPSHOT_FREEZE));
	EXPECT_EQ(-1, ioctl(snapshot, SNAPSHOT_CREATE_IMAGE, &in_suspend));
	EXPECT_EQ(EPERM, errno);
	ASSERT_EQ(0, ioctl(snapshot, SNAPSHOT_UNFREEZE));
	EXPECT_TRUE(refusal_is_logged(kmsg));
	close(snapshot);

	/* The file is closed, but the mapping keeps the memory. */
	close(fd);
	EXPECT_FALSE(hibernation_is_offered());
	errno = 0;
	EXPECT_EQ(-1, open("/dev/snapshot", O_RDONLY));
	EXPECT_EQ(EPERM, errno);
	EXPECT_TRUE(refusal_is_logged(kmsg));
	close(kmsg);

	kvm_munmap(mem, getpagesize());
	for (int i = 0; i < 100 && !hibernation_is_offered(); i++)
		usleep(10000);
	EXPECT_TRUE(hibernation_is_offered());
}

TEST_F(gmem, hibernation_is_refused_while_there_is_such_memory)
{
	if (!hibernation_is_offered())
		SKIP(return, "This kernel cannot hibernate, or not any more: pages were leaked");

	refuse_hibernation(_metadata, self->vm, false);
	refuse_hibernation(_metadata, self->vm, true);
}

static bool hibernation_is_allowed(void)
{
	int snapshot = open("/dev/snapshot", O_RDONLY);

	if (snapshot < 0)
		return false;
	close(snapshot);
	return hibernation_is_offered();
}

/* An image must not contain such pages; a file without pages is harmless. */
TEST_F(gmem, hibernation_is_allowed_while_files_are_empty)
{
	int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS), secret;
	char *mem = map(fd), *secret_mem;

	if (!hibernation_is_allowed())
		SKIP(kvm_munmap(mem, SIZE); close(fd); return,
		     "This kernel cannot hibernate, or not any more: pages were leaked");

	secret = one_page(self->vm, true, &secret_mem);
	EXPECT_TRUE(hibernation_is_allowed());
	if (secret >= 0) {
		kvm_munmap(secret_mem, self->page_size);
		close(secret);
	}

	mem[0] = 1;
	EXPECT_FALSE(hibernation_is_allowed());
	ASSERT_EQ(0, punch(fd, 0, self->page_size));
	EXPECT_TRUE(hibernation_is_allowed());
	kvm_munmap(mem, SIZE);
	close(fd);
}

/* The log must not name the owner of an empty file, which does not prevent hibernation. */
TEST_F(gmem, log_names_an_owner_who_has_pages)
{
	const long pages = 37;
	int ready[2], fd, kmsg;
	char byte, *mem;
	pid_t child;

	if (!hibernation_is_allowed())
		SKIP(return, "This kernel cannot hibernate, or not any more: pages were leaked");

	for (int before = 0; before <= 1; before++) {
		ASSERT_EQ(0, pipe(ready));
		fd = before ? vm_create_guest_memfd(self->vm, SIZE, FLAGS) : -1;
		child = fork();
		ASSERT_GE(child, 0);
		if (!child) {
			struct kvm_vm *vm = vm_create_barebones();

			vm_create_guest_memfd(vm, SIZE, FLAGS);
			if (write(ready[1], "", 1) == 1)
				pause();
			_exit(1);
		}
		ASSERT_EQ(1, read(ready[0], &byte, 1));
		if (!before)
			fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
		mem = map(fd);
		memset(mem, 1, pages * self->page_size);
		kmsg = open_log();
		EXPECT_FALSE(hibernation_is_allowed());
		EXPECT_TRUE(refusal_is_logged(kmsg)) {
			TH_LOG("created %s the other's file", before ? "before" : "after");
		}

		close(kmsg);
		kill(child, SIGKILL);
		ASSERT_EQ(child, waitpid(child, NULL, 0));
		kvm_munmap(mem, SIZE);
		close(fd);
		close(ready[0]);
		close(ready[1]);
	}
}

struct storm {
	char *mem;
	int fd;
	long page_size;
};

static void *storm_thread(void *arg)
{
	struct storm *s = arg;
	unsigned int seed = kvm_gettid();

	for (;;) {
		size_t page = rand_r(&seed) % (SIZE / s->page_size);

		s->mem[page * s->page_size] = 1;
		if (seed % 64 == 0)
			punch(s->fd, 0, SIZE / 2);
	}
	return NULL;
}

TEST_F_TIMEOUT(gmem, killed_in_a_fault_storm, LONG)
{
	for (int round = 0; round < 20; round++) {
		pid_t child = fork();

		ASSERT_GE(child, 0);
		if (!child) {
			struct kvm_vm *vm = vm_create_barebones();
			struct storm s = {
				.fd = vm_create_guest_memfd(vm, SIZE, FLAGS),
				.page_size = self->page_size,
			};
			pthread_t thread;

			s.mem = map(s.fd);
			for (int i = 0; i < 4; i++)
				pthread_create(&thread, NULL, storm_thread, &s);
			pause();
		}
		usleep(20000 + round * 3000);
		kill(child, SIGKILL);
		ASSERT_EQ(child, waitpid(child, NULL, 0));
	}
	/* The last references are dropped by deferred work. */
	for (int i = 0; i < 100 && hidden_pages() != self->hidden; i++)
		usleep(50000);
}

/* If the zap fails for all pages of fallocate(), it returns an error without any effect. */
TEST_F(gmem, a_failing_zap_is_an_error)
{
	int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
	int ret, err;

	if (!inject("fail_function", "folio_batch_zap_direct_map", "100", "-1"))
		SKIP(close(fd); return, "This kernel lacks CONFIG_FAIL_FUNCTION");
	ret = allocate(fd, 0, SIZE);
	err = errno;
	stop_injecting("fail_function");

	EXPECT_EQ(-1, ret);
	EXPECT_EQ(ENOMEM, err);
	EXPECT_EQ(self->hidden, hidden_pages());
	EXPECT_EQ(0, allocate(fd, 0, SIZE));
	EXPECT_EQ(self->hidden + SIZE / self->page_size, hidden_pages());
	close(fd);
}

/* If the zap of a single page fails, the fault fails. */
TEST_F(gmem, a_failing_zap_fails_the_fault)
{
	int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
	char *mem = map(fd), byte = 1;
	int pipes[2], err;
	ssize_t ret;

	ASSERT_EQ(0, pipe(pipes));
	if (!inject("fail_function", "folio_zap_direct_map", "100", "-1"))
		SKIP(close(fd); return, "This kernel lacks CONFIG_FAIL_FUNCTION");
	/* The system call copies, so the fault is an error, not a signal. */
	ret = write(pipes[1], mem, 1);
	err = errno;
	stop_injecting("fail_function");

	EXPECT_EQ(-1, ret);
	EXPECT_EQ(EFAULT, err);
	EXPECT_EQ(self->hidden, hidden_pages());
	EXPECT_EQ(1, write(pipes[1], mem, 1));
	EXPECT_EQ(1, read(pipes[0], &byte, 1));
	EXPECT_EQ(0, byte);
	EXPECT_EQ(self->hidden + 1, hidden_pages());

	close(pipes[0]);
	close(pipes[1]);
	kvm_munmap(mem, SIZE);
	close(fd);
}

/* Random allocation failures, in any step. */
TEST_F_TIMEOUT(gmem, out_of_memory_is_an_error, LONG)
{
	long failed = 0, done = 0, other = 0;

	if (!inject("fail_page_alloc", NULL, "10", "-1"))
		SKIP(return, "This kernel lacks CONFIG_FAIL_PAGE_ALLOC");
	for (int round = 0; round < 20; round++) {
		int fd = __vm_create_guest_memfd(self->vm, SIZE, FLAGS);

		if (fd < 0)
			continue;
		for (off_t offset = 0; offset < SIZE; offset += self->page_size) {
			if (!allocate(fd, offset, self->page_size)) {
				done++;
				continue;
			}
			failed++;
			other += errno != ENOMEM;
		}
		close(fd);
	}
	stop_injecting("fail_page_alloc");

	EXPECT_GT(failed, 0);
	EXPECT_GT(done, 0);
	EXPECT_EQ(0, other);
}

/*
 * Allocation failure in the middle of the zap. A large entry of the direct map is split
 * for the first page of its region, and only then, so allocate pages until one is from
 * a region that was not split yet.
 */
TEST_F_TIMEOUT(gmem, a_split_without_memory_is_an_error, LONG)
{
	const off_t most = SZ_512M;
	int fd = vm_create_guest_memfd(self->vm, most, FLAGS);
	off_t offset = 0;
	int err = 0;

	if (!require_caller("fail_page_alloc", "folio_batch_zap_direct_map") ||
	    !inject("fail_page_alloc", NULL, "100", "-1"))
		SKIP(close(fd); return, "This kernel lacks FAULT_INJECTION_STACKTRACE_FILTER");
	for (; !err && offset < most; offset += self->page_size) {
		if (allocate(fd, offset, self->page_size))
			err = errno;
	}
	stop_injecting("fail_page_alloc");
	require_caller("fail_page_alloc", NULL);
	if (!err)
		SKIP(close(fd); return, "This machine has no large entry to split");

	offset -= self->page_size;
	EXPECT_EQ(ENOMEM, err);
	EXPECT_EQ(self->hidden + offset / self->page_size, hidden_pages());
	EXPECT_EQ(0, allocate(fd, offset, self->page_size));
	EXPECT_EQ(self->hidden + offset / self->page_size + 1, hidden_pages());
	close(fd);
}

/*
 * Allocation failure in the middle of a batch: its folios that were already zapped must be
 * restored. The folio that meets a new region is rarely the first one of its batch.
 */
TEST_F_TIMEOUT(gmem, a_split_without_memory_undoes_the_batch, LONG)
{
	const off_t most = SZ_512M, chunk = 15 * self->page_size;
	int fd = vm_create_guest_memfd(self->vm, most, FLAGS);
	int failed = 0, other = 0, err;
	off_t offset = 0;

	if (!require_caller("fail_page_alloc", "folio_batch_zap_direct_map"))
		SKIP(close(fd); return, "This kernel lacks FAULT_INJECTION_STACKTRACE_FILTER");
	while (failed < 16 && offset + chunk <= most) {
		ASSERT_TRUE(inject("fail_page_alloc", NULL, "100", "-1"));
		for (err = 0; !err && offset + chunk <= most; offset += chunk) {
			if (allocate(fd, offset, chunk))
				err = errno;
		}
		stop_injecting("fail_page_alloc");
		if (!err)
			break;
		offset -= chunk;
		failed++;
		other += err != ENOMEM;
		ASSERT_EQ(self->hidden + offset / self->page_size, hidden_pages());
		if (self->direct_map >= 0)
			ASSERT_EQ(self->direct_map - offset / self->page_size, direct_map_pages());
		ASSERT_EQ(0, allocate(fd, offset, chunk));
		offset += chunk;
	}
	require_caller("fail_page_alloc", NULL);
	if (!failed)
		SKIP(close(fd); return, "This machine has no large entry to split");

	TH_LOG("%d batches failed", failed);
	EXPECT_EQ(0, other);
	close(fd);
}

/* A page that cannot be restored must not get to the allocator, and must be counted. */
TEST_F_TIMEOUT(gmem, a_failing_restore_leaks_and_is_counted, LONG)
{
	int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
	long start = vm_stat("nr_no_direct_map");

	ASSERT_EQ(0, allocate(fd, 0, SIZE));
	if (!inject("fail_function", "folio_restore_direct_map", "100", "8"))
		SKIP(close(fd); return, "This kernel lacks CONFIG_FAIL_FUNCTION");
	EXPECT_EQ(0, punch(fd, 0, SIZE));
	stop_injecting("fail_function");

	EXPECT_EQ(self->leaked + 8, vm_stat("direct_map_leaked"));
	EXPECT_EQ(self->hidden, hidden_pages());
	if (self->direct_map >= 0)
		EXPECT_EQ(self->direct_map - 8, direct_map_pages());
	/* Leaked pages are out of the direct map, and prevent hibernation. */
	check_gauge(_metadata, start, 8);
	EXPECT_FALSE(hibernation_is_offered());
	EXPECT_EQ(0, fdinfo_kb(fd));
	close(fd);

	/*
	 * If one of these pages had been freed, the kernel would crash here: the next
	 * file would get it from the allocator, and clear it through the direct map.
	 */
	fd = vm_create_guest_memfd(self->vm, SZ_64M, FLAGS & ~GUEST_MEMFD_FLAG_NO_DIRECT_MAP);
	EXPECT_EQ(0, allocate(fd, 0, SZ_64M));
	close(fd);
}

/*
 * A page with a hardware error must not be read any more, not even to scrub it, and must
 * not be reused. Poison it by pfn: MADV_HWPOISON takes the page by get_user_pages().
 */
TEST_F(gmem, a_poisoned_page_is_leaked_and_stays_poisoned)
{
	if (access(DEBUGFS "hwpoison/corrupt-pfn", W_OK))
		SKIP(return, "This kernel lacks CONFIG_HWPOISON_INJECT");

	for (int secretmem = 0; secretmem <= 1; secretmem++) {
		for (int dirty = 0; dirty <= 1; dirty++) {
			long leaked = vm_stat("direct_map_leaked");
			long start = vm_stat("nr_no_direct_map");
			char *mem, text[32];
			int fd = one_page(self->vm, secretmem, &mem);

			if (fd < 0) {
				TH_LOG("no memfd_secret() here");
				continue;
			}
			if (dirty)
				*mem = 1;
			else
				ASSERT_EQ(0, READ_ONCE(*mem));
			snprintf(text, sizeof(text), "%#lx",
				 phys_addr(mem) / self->page_size);
			/* Memory failure kills processes that map a dirty page. */
			kvm_munmap(mem, self->page_size);

			/* May fail, if the page was not recovered. */
			write_file(DEBUGFS "hwpoison/corrupt-pfn", text);
			EXPECT_FALSE(write_file(DEBUGFS "hwpoison/unpoison-pfn", text));
			close(fd);

			/* secretmem and guest_memfd files are released by deferred work. */
			for (int i = 0; i < 100 && vm_stat("direct_map_leaked") == leaked; i++)
				usleep(10000);
			EXPECT_EQ(leaked + 1, vm_stat("direct_map_leaked")) {
				TH_LOG("secretmem %d dirty %d", secretmem, dirty);
			}
			EXPECT_EQ(start + 1, vm_stat("nr_no_direct_map"));
			EXPECT_FALSE(write_file(DEBUGFS "hwpoison/unpoison-pfn", text));
		}
	}
}

int main(int argc, char **argv)
{
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_GUEST_MEMFD));

	return test_harness_run(argc, argv);
}
