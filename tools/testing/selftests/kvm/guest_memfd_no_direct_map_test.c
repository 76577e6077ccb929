// SPDX-License-Identifier: GPL-2.0
/*
 * guest_memfd with GUEST_MEMFD_FLAG_NO_DIRECT_MAP: what is refused, and that all
 * memory is back in the direct map in the end, whatever happened in between.
 *
 * The end is checked twice: by the kernel's own account in /proc/vmstat, and in
 * its page tables, as debugfs shows them. memfd_secret() memory, which is kept
 * out by the same rule, has to pass what is not about KVM.
 */
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

#include "kselftest_harness.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"
#include "ucall_common.h"

#define FLAGS	(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED | \
		 GUEST_MEMFD_FLAG_NO_DIRECT_MAP)
#define SIZE	SZ_4M

#define DEBUGFS	"/sys/kernel/debug/"

/* In seconds, for what takes that long on a machine that emulates and is busy. */
#define LONG	300

/* The pages counted under @name in /proc/vmstat, 0 if the kernel does not know it. */
static long vm_event(const char *name)
{
	long value, found = 0;
	char key[64];
	FILE *f;

	f = fopen("/proc/vmstat", "r");
	TEST_ASSERT(f, "Cannot open /proc/vmstat");
	while (fscanf(f, "%63s %ld", key, &value) == 2) {
		if (!strcmp(key, name))
			found = value;
	}
	fclose(f);
	return found;
}

/* Pages that are out of the direct map now, and not for good. */
static long hidden_pages(void)
{
	return vm_event("direct_map_zapped") - vm_event("direct_map_restored") -
	       vm_event("direct_map_leaked");
}

/* The pages that the direct map has, by the page tables; -1 where they cannot be seen. */
static long direct_map_pages(void)
{
	unsigned long start, end;
	bool inside = false;
	char line[256];
	long size = 0;
	FILE *f;

	f = fopen(DEBUGFS "page_tables/kernel", "r");
	if (!f)
		f = fopen(DEBUGFS "kernel_page_tables", "r");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, "---[", 4))
			inside = strstr(line, "Low Kernel Mapping") ||
				 strstr(line, "Linear Mapping start");
		/* arm64 shows entries that were made invalid too, with an F. */
		else if (inside && (strstr(line, " RW ") || strstr(line, " ro ")) &&
			 !strstr(line, " F ") &&
			 sscanf(line, "0x%lx-0x%lx", &start, &end) == 2)
			size += (end - start) / getpagesize();
	}
	fclose(f);
	return size;
}

/*
 * The same, but -1 as well where not only such memory is out of the direct map: KFENCE
 * takes pages out at any time, and debug_pagealloc takes out all that are free.
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
 * Makes @function, or for NULL any page allocation, fail with @probability
 * percent, at most @times times. Allocations of this task only; functions for
 * all tasks, since the probe's handler does not run in task context.
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

/* Only what is allocated on behalf of @function fails, or for NULL anything again. */
static bool require_caller(const char *dir, const char *function)
{
	char path[128], name[128], text[32];
	unsigned long addr, start = 0, end = -1UL;
	FILE *f;

	f = fopen("/proc/kallsyms", "r");
	if (!f)
		return false;
	/* Sorted by address: the next symbol is the end. */
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

/* Without SKIP() in it, because that needs the harness's own variables. */
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
	self->leaked = vm_event("direct_map_leaked");
	self->vm = vm_create_barebones();
	if (!supported(self->vm))
		SKIP(return, "This host cannot remove guest_memfd from the direct map");
}

FIXTURE_TEARDOWN(gmem)
{
	if (self->vm)
		kvm_vm_free(self->vm);

	/* All is back, but for what was leaked on purpose. */
	EXPECT_EQ(self->hidden, hidden_pages());
	if (self->direct_map >= 0)
		EXPECT_EQ(self->direct_map - (vm_event("direct_map_leaked") - self->leaked),
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

/* Behind all memslots. */
#define MMIO_ADDR	0x100000000ULL
#define QUESTION	0x0123456789abcdefULL

static void guest_mmio(void)
{
	u64 *mmio = (void *)MMIO_ADDR;

	/* One address, so that arm64 has no need of an access that changes it, too. */
	for (u64 i = 0; i < 16; i++)
		WRITE_ONCE(*mmio, ~READ_ONCE(*mmio) + i);
	GUEST_DONE();
}

/*
 * All that a guest has lies in such memory: its program and its page tables too. To
 * emulate an instruction KVM fetches it and walks the tables, by the user mapping.
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
 * What the capability does not say, creation must refuse; for every type of VM, and
 * on machines where the other tests have to be skipped too.
 */
TEST(flag_is_refused_where_it_is_not_enumerated)
{
	int checked = 0;
	unsigned int types = 1;

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
		EXPECT_EQ(type != KVM_X86_SNP_VM && type != KVM_X86_TDX_VM, supported(vm));
#else
		vm = vm_create_barebones();
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

TEST_F(gmem, punched_pages_come_back_zero)
{
	int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
	long page_size = self->page_size, pages = SIZE / page_size;
	char *mem = map(fd);

	memset(mem, 0xa5, SIZE);
	ASSERT_EQ(0, punch(fd, SIZE / 4, SIZE / 2));
	EXPECT_EQ(self->hidden + pages / 2, hidden_pages());

	/* The mapping is alive: what was punched reads as new, the rest stays. */
	EXPECT_EQ(0, mem[SIZE / 4]);
	EXPECT_EQ(0, mem[SIZE / 4 * 3 - 1]);
	EXPECT_EQ((char)0xa5, mem[SIZE / 4 - 1]);
	EXPECT_EQ((char)0xa5, mem[SIZE / 4 * 3]);
	EXPECT_EQ(self->hidden + pages / 2 + 2, hidden_pages());

	kvm_munmap(mem, SIZE);
	close(fd);
}

/* Each step in each order with a mapping alive; the teardown sees what is left. */
TEST_F(gmem, allocate_punch_and_close_in_any_order)
{
	static const char *const orders[] = {
		"apc", "pac", "acp", "cpa", "cap", "pca", "aptc", "tpac", "tcp", "atpatc",
	};

	for (size_t i = 0; i < ARRAY_SIZE(orders); i++) {
		int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
		/* Behind "c" it is the mapping alone that keeps the file. */
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

/* The physical address of the page at @mem, 0 if it is not mapped. */
static unsigned long phys_addr(void *mem)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	u64 entry = 0;

	TEST_ASSERT(pread(fd, &entry, sizeof(entry),
			  (unsigned long)mem / getpagesize() * sizeof(entry)) == sizeof(entry),
		    "Cannot read /proc/self/pagemap");
	close(fd);
	return (entry & ((1ULL << 55) - 1)) * getpagesize();
}

/*
 * Of other mappings, soft offline drops a page that was only read, for it is clean,
 * and moves one that was written to.
 */
TEST_F(gmem, soft_offline_neither_drops_nor_moves_a_page)
{
	int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
	char *mem, text[32];
	unsigned long addr;

	if (access("/sys/devices/system/memory/soft_offline_page", W_OK))
		SKIP(close(fd); return, "This kernel lacks CONFIG_MEMORY_HOTPLUG");

	mem = map(fd);
	for (int written = 0; written <= 1; written++) {
		if (written)
			WRITE_ONCE(*mem, 0x5a);
		ASSERT_EQ(written ? 0x5a : 0, READ_ONCE(*mem));
		addr = phys_addr(mem);
		snprintf(text, sizeof(text), "%#lx", addr);
		kvm_munmap(mem, SIZE);

		EXPECT_FALSE(write_file("/sys/devices/system/memory/soft_offline_page", text));
		EXPECT_EQ(self->hidden + 1, hidden_pages());
		mem = map(fd);
		EXPECT_EQ(written ? 0x5a : 0, READ_ONCE(*mem));
		EXPECT_EQ(addr, phys_addr(mem));
	}
	kvm_munmap(mem, SIZE);
	close(fd);
}

/*
 * /dev/mem reads what is there through the direct map, prepared for a fault, as
 * /proc/kcore, BPF programs and kprobes do. Nothing is there.
 */
TEST_F(gmem, dev_mem_finds_nothing)
{
	char *plain = kvm_mmap(self->page_size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1);
	int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
	int dev_mem = open("/dev/mem", O_RDONLY);
	char *mem = map(fd), byte = 0;

	if (dev_mem >= 0) {
		*plain = 0x5a;
		*mem = 0x5a;
		ASSERT_EQ(1, pread(dev_mem, &byte, 1, phys_addr(plain)));
		EXPECT_EQ(0x5a, byte);
		EXPECT_EQ(-1, pread(dev_mem, &byte, 1, phys_addr(mem)));
		EXPECT_EQ(EFAULT, errno);
		close(dev_mem);
	}
	kvm_munmap(mem, SIZE);
	close(fd);
	kvm_munmap(plain, self->page_size);
	if (dev_mem < 0)
		SKIP(return, "This kernel lacks CONFIG_DEVMEM");
}

/* A file of one page in memory without a direct map; its page is mapped at *@mem. */
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

/*
 * An image of all memory would have this memory in it. The order matters: whoever
 * had /dev/snapshot open before there was such memory must not get an image either.
 */
static void refuse_hibernation(struct __test_metadata *_metadata, struct kvm_vm *vm,
			       bool secretmem)
{
	int snapshot = open("/dev/snapshot", O_RDONLY), fd, in_suspend = 0;
	char *mem;

	ASSERT_GE(snapshot, 0);
	fd = one_page(vm, secretmem, &mem);
	if (fd < 0 && secretmem) {
		TH_LOG("no memfd_secret() here");
		close(snapshot);
		return;
	}
	ASSERT_GE(fd, 0);
	*mem = 1;
	EXPECT_FALSE(hibernation_is_offered());

	ASSERT_EQ(0, ioctl(snapshot, SNAPSHOT_FREEZE));
	EXPECT_EQ(-1, ioctl(snapshot, SNAPSHOT_CREATE_IMAGE, &in_suspend));
	EXPECT_EQ(EPERM, errno);
	ASSERT_EQ(0, ioctl(snapshot, SNAPSHOT_UNFREEZE));
	close(snapshot);

	/* The file is gone, the memory is not. */
	close(fd);
	EXPECT_FALSE(hibernation_is_offered());
	errno = 0;
	EXPECT_EQ(-1, open("/dev/snapshot", O_RDONLY));
	EXPECT_EQ(EPERM, errno);

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
	/* The last references go with deferred work. */
	for (int i = 0; i < 100 && hidden_pages() != self->hidden; i++)
		usleep(50000);
}

/* The zap fails in all of what fallocate() wants: an error, and all is as before. */
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

/* A page at a time: the zap fails on behalf of a fault. */
TEST_F(gmem, a_failing_zap_fails_the_fault)
{
	int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
	char *mem = map(fd), byte = 1;
	int pipes[2], err;
	ssize_t ret;

	ASSERT_EQ(0, pipe(pipes));
	if (!inject("fail_function", "folio_zap_direct_map", "100", "-1"))
		SKIP(close(fd); return, "This kernel lacks CONFIG_FAIL_FUNCTION");
	/* The copy faults: an error instead of a signal. */
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

/* Out of memory, now and then, anywhere on the way. */
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
 * Out of memory in the middle of the zap. A large entry of the direct map has to
 * be split for the first page of a region, and never again, so take pages until
 * one comes from a region that is whole.
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

/* A page that cannot be restored must not get to the allocator, nor be lost track of. */
TEST_F_TIMEOUT(gmem, a_failing_restore_leaks_and_is_counted, LONG)
{
	int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);

	ASSERT_EQ(0, allocate(fd, 0, SIZE));
	if (!inject("fail_function", "folio_restore_direct_map", "100", "8"))
		SKIP(close(fd); return, "This kernel lacks CONFIG_FAIL_FUNCTION");
	EXPECT_EQ(0, punch(fd, 0, SIZE));
	stop_injecting("fail_function");

	EXPECT_EQ(self->leaked + 8, vm_event("direct_map_leaked"));
	EXPECT_EQ(self->hidden, hidden_pages());
	if (self->direct_map >= 0)
		EXPECT_EQ(self->direct_map - 8, direct_map_pages());
	close(fd);

	/*
	 * The kernel would die here, had it given one of these pages to somebody: it
	 * clears those of the next file through the direct map, and takes them from
	 * where these would be.
	 */
	fd = vm_create_guest_memfd(self->vm, SZ_64M, FLAGS & ~GUEST_MEMFD_FLAG_NO_DIRECT_MAP);
	EXPECT_EQ(0, allocate(fd, 0, SZ_64M));
	close(fd);
}

/*
 * A page with a hardware error must not be read any more, not by scrubbing either,
 * and must not be given to anybody. By pfn: what goes by address takes the page.
 */
TEST_F(gmem, a_poisoned_page_is_leaked_and_stays_poisoned)
{
	if (access(DEBUGFS "hwpoison/corrupt-pfn", W_OK))
		SKIP(return, "This kernel lacks CONFIG_HWPOISON_INJECT");

	for (int secretmem = 0; secretmem <= 1; secretmem++) {
		for (int dirty = 0; dirty <= 1; dirty++) {
			long leaked = vm_event("direct_map_leaked");
			long restored = vm_event("direct_map_restored");
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
			/* Memory failure kills whoever maps a dirty page. */
			kvm_munmap(mem, self->page_size);

			/* It may say that it could not recover the page. */
			write_file(DEBUGFS "hwpoison/corrupt-pfn", text);
			EXPECT_FALSE(write_file(DEBUGFS "hwpoison/unpoison-pfn", text));
			close(fd);

			/* secretmem and guest_memfd files are released with deferred work. */
			for (int i = 0; i < 100 && vm_event("direct_map_leaked") == leaked; i++)
				usleep(10000);
			EXPECT_EQ(leaked + 1, vm_event("direct_map_leaked")) {
				TH_LOG("secretmem %d dirty %d", secretmem, dirty);
			}
			EXPECT_EQ(restored, vm_event("direct_map_restored"));
			EXPECT_FALSE(write_file(DEBUGFS "hwpoison/unpoison-pfn", text));
		}
	}
}

int main(int argc, char **argv)
{
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_GUEST_MEMFD));

	return test_harness_run(argc, argv);
}
