// SPDX-License-Identifier: GPL-2.0
/*
 * kvm-clock in guest_memfd memory without a direct map: KVM writes it by a mapping
 * of its own, which must be gone before the memory is.
 *
 * That is checked by KVM's statistic, and in the kernel's list of such mappings.
 */
#include <asm/kvm_para.h>
#include <asm/pvclock-abi.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#define FLAGS	(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED | \
		 GUEST_MEMFD_FLAG_NO_DIRECT_MAP)
#define SLOT	10
#define GPA	0xc0000000ul
#define SIZE	(2 * PAGE_SIZE)
#define ROUNDS	4000

static void guest_main(void)
{
	wrmsr(MSR_KVM_SYSTEM_TIME_NEW, GPA | KVM_MSR_ENABLED);
	for (;;)
		GUEST_SYNC(0);
}

static void set_slot(struct kvm_vm *vm, u64 size, void *mem, int fd)
{
	vm_set_user_memory_region2(vm, SLOT, KVM_MEM_GUEST_MEMFD, GPA, size, mem, fd, 0);
}

FIXTURE(clock) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct pvclock_vcpu_time_info *clock;
	int fd;
};

FIXTURE_SETUP(clock)
{
	self->vm = vm_create_with_one_vcpu(&self->vcpu, guest_main);
	self->fd = -1;
	if (!(vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_NO_DIRECT_MAP))
		SKIP(return, "This host cannot remove guest_memfd from the direct map");

	self->fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
	self->clock = kvm_mmap(SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd);
	set_slot(self->vm, SIZE, self->clock, self->fd);
}

FIXTURE_TEARDOWN(clock)
{
	if (self->clock)
		kvm_munmap(self->clock, SIZE);
	if (self->fd >= 0)
		close(self->fd);
	kvm_vm_free(self->vm);
}

static void set_clock(struct kvm_vm *vm)
{
	struct kvm_clock_data data = { .clock = NSEC_PER_SEC };

	vm_ioctl(vm, KVM_SET_CLOCK, &data);
}

/* Has KVM write the clock once more. */
static void run(struct kvm_vcpu *vcpu)
{
	set_clock(vcpu->vm);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
}

/* The mappings that the kernel has for caches of any VM. */
static int kernel_mappings(void)
{
	char line[512];
	int count = 0;
	FILE *f;

	f = fopen("/proc/vmallocinfo", "r");
	TEST_ASSERT(f, "Cannot open /proc/vmallocinfo");
	while (fgets(line, sizeof(line), f))
		count += !!strstr(line, " kvm_gpc_");
	fclose(f);
	return count;
}

/* What the VM has by its statistic, where there is no other; -1 if the kernel's list differs. */
static int aliases(struct kvm_vm *vm)
{
	int count = vm_get_stat(vm, pfncache_aliases);

	return count == kernel_mappings() ? count : -1;
}

static int punch(int fd, off_t offset, off_t len)
{
	return fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, len);
}

TEST_F(clock, is_written_by_one_alias)
{
	EXPECT_EQ(0, aliases(self->vm));
	run(self->vcpu);
	EXPECT_NE(0, self->clock->tsc_to_system_mul);
	EXPECT_EQ(1, aliases(self->vm));

	/* And not by another each time. */
	for (int i = 0; i < 10; i++)
		run(self->vcpu);
	EXPECT_EQ(1, aliases(self->vm));

	vcpu_set_msr(self->vcpu, MSR_KVM_SYSTEM_TIME_NEW, 0);
	EXPECT_EQ(0, aliases(self->vm));
}

TEST_F(clock, moves_with_its_address)
{
	struct pvclock_vcpu_time_info *other = (void *)self->clock + PAGE_SIZE;

	run(self->vcpu);
	vcpu_set_msr(self->vcpu, MSR_KVM_SYSTEM_TIME_NEW,
		     (GPA + PAGE_SIZE) | KVM_MSR_ENABLED);
	EXPECT_EQ(0, other->tsc_to_system_mul);
	run(self->vcpu);
	EXPECT_NE(0, other->tsc_to_system_mul);
	EXPECT_EQ(1, aliases(self->vm));

	/* The page that it left is of no interest any more, the new one is. */
	EXPECT_EQ(0, punch(self->fd, 0, PAGE_SIZE));
	EXPECT_EQ(1, aliases(self->vm));
	EXPECT_EQ(0, punch(self->fd, PAGE_SIZE, PAGE_SIZE));
	EXPECT_EQ(0, aliases(self->vm));
}

TEST_F(clock, punching_a_hole_removes_the_alias)
{
	run(self->vcpu);
	EXPECT_EQ(1, aliases(self->vm));
	EXPECT_EQ(0, punch(self->fd, 0, PAGE_SIZE));
	EXPECT_EQ(0, aliases(self->vm));

	/* KVM takes the page that is there now. */
	EXPECT_EQ(0, self->clock->tsc_to_system_mul);
	run(self->vcpu);
	EXPECT_NE(0, self->clock->tsc_to_system_mul);
	EXPECT_EQ(1, aliases(self->vm));
}

TEST_F(clock, memory_failure_removes_the_alias)
{
	const char *path = "/sys/kernel/debug/hwpoison/corrupt-pfn";
	u64 entry;
	FILE *f;
	int fd;

	if (access(path, W_OK))
		SKIP(return, "This kernel lacks CONFIG_HWPOISON_INJECT");

	run(self->vcpu);
	EXPECT_NE(0, self->clock->tsc_to_system_mul);
	fd = open("/proc/self/pagemap", O_RDONLY);
	ASSERT_EQ(sizeof(entry), pread(fd, &entry, sizeof(entry),
				       (unsigned long)self->clock / PAGE_SIZE * sizeof(entry)));
	close(fd);

	/* Memory failure kills whoever maps a dirty page. */
	kvm_munmap(self->clock, SIZE);
	self->clock = NULL;
	f = fopen(path, "w");
	fprintf(f, "%#llx", (unsigned long long)entry & ((1ull << 55) - 1));
	fclose(f);
	EXPECT_EQ(0, aliases(self->vm));
	run(self->vcpu);
	EXPECT_EQ(0, aliases(self->vm));
}

TEST_F(clock, deleting_the_memslot_removes_the_alias)
{
	struct pvclock_vcpu_time_info *other = (void *)self->clock + PAGE_SIZE;

	run(self->vcpu);
	EXPECT_EQ(1, aliases(self->vm));
	set_slot(self->vm, 0, NULL, -1);
	EXPECT_EQ(0, aliases(self->vm));

	/* Nothing is written where the memslot was. */
	memset(self->clock, 0, sizeof(*self->clock));
	run(self->vcpu);
	EXPECT_EQ(0, self->clock->tsc_to_system_mul);
	EXPECT_EQ(0, aliases(self->vm));

	/* The same address, but another page of the file. */
	vm_set_user_memory_region2(self->vm, SLOT, KVM_MEM_GUEST_MEMFD, GPA, PAGE_SIZE,
				   other, self->fd, PAGE_SIZE);
	run(self->vcpu);
	EXPECT_EQ(0, self->clock->tsc_to_system_mul);
	EXPECT_NE(0, other->tsc_to_system_mul);
}

TEST_F(clock, closing_the_file_removes_the_alias)
{
	run(self->vcpu);
	EXPECT_EQ(1, aliases(self->vm));
	kvm_munmap(self->clock, SIZE);
	self->clock = NULL;
	close(self->fd);
	self->fd = -1;
	EXPECT_EQ(0, aliases(self->vm));
	run(self->vcpu);
	EXPECT_EQ(0, aliases(self->vm));
}

static bool stop;

static void *punch_thread(void *fd)
{
	while (!READ_ONCE(stop))
		TEST_ASSERT(!punch(*(int *)fd, 0, SIZE), "Cannot punch a hole");
	return NULL;
}

static void *slot_thread(void *arg)
{
	struct _test_data_clock *self = arg;

	while (!READ_ONCE(stop)) {
		set_slot(self->vm, 0, NULL, -1);
		set_slot(self->vm, SIZE, self->clock, self->fd);
	}
	return NULL;
}

/* The vCPU makes aliases, and others take their memory away, all at once. */
TEST_F_TIMEOUT(clock, survives_races, 300)
{
	pthread_t threads[3];

	pthread_create(&threads[0], NULL, punch_thread, &self->fd);
	pthread_create(&threads[1], NULL, punch_thread, &self->fd);
	pthread_create(&threads[2], NULL, slot_thread, self);
	for (int i = 0; i < ROUNDS; i++)
		run(self->vcpu);
	WRITE_ONCE(stop, true);
	for (int i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);

	run(self->vcpu);
	EXPECT_NE(0, self->clock->tsc_to_system_mul);
	EXPECT_EQ(1, aliases(self->vm));
	EXPECT_EQ(0, punch(self->fd, 0, SIZE));
	EXPECT_EQ(0, aliases(self->vm));
}

TEST_HARNESS_MAIN
