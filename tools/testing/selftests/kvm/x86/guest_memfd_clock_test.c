// SPDX-License-Identifier: GPL-2.0
/*
 * Test kvm-clock in guest_memfd memory without a direct map: KVM writes it by a mapping
 * of its own, an alias, which must be removed before the memory is freed. Operations of
 * the guest or the VMM on the clock must not stall the host, or the vCPU for long.
 *
 * Aliases are counted by KVM's statistic, and by the kernel's list of vmalloc() areas.
 */
#include <asm/kvm_para.h>
#include <asm/pvclock-abi.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/elf.h>
#include <linux/falloc.h>
#include <linux/sizes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "direct_map.h"
#include "kselftest_harness.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#define FLAGS	(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED | \
		 GUEST_MEMFD_FLAG_NO_DIRECT_MAP)
#define SLOT	10
#define GPA	0xc0000000ul
#define SIZE	(4 * PAGE_SIZE)
#define ROUNDS	4000

/* A second file, which takes long to free. */
#define LARGE_SLOT	11
#define LARGE_GPA	0x100000000ul
#define LARGE		(384ul * SZ_1M)

#define DEBUGFS	"/sys/kernel/debug/"

/* Timeout in seconds for slow tests, on a busy machine under emulation. */
#define LONG	300

static void guest_main(void)
{
	wrmsr(MSR_KVM_SYSTEM_TIME_NEW, GPA | KVM_MSR_ENABLED);
	for (;;)
		GUEST_SYNC(0);
}

/* These guests leave the clock to the VMM. */
static void guest_sync(void)
{
	for (;;)
		GUEST_SYNC(0);
}

static void guest_spin(void)
{
	for (;;)
		cpu_relax();
}

static void set_slot(struct kvm_vm *vm, u64 size, void *mem, int fd)
{
	vm_set_user_memory_region2(vm, SLOT, KVM_MEM_GUEST_MEMFD, GPA, size, mem, fd, 0);
}

/* Counts the kernel's mappings for caches of all VMs. */
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
	if (kernel_mappings())
		SKIP(return, "Another VM has its clock in such memory");

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
	if (self->fd >= 0)
		EXPECT_EQ(0, kernel_mappings());
}

static void set_clock(struct kvm_vm *vm)
{
	struct kvm_clock_data data = { .clock = NSEC_PER_SEC };

	vm_ioctl(vm, KVM_SET_CLOCK, &data);
}

/* Makes KVM write the clock once more. */
static void run(struct kvm_vcpu *vcpu)
{
	set_clock(vcpu->vm);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
}

/* Returns the VM's statistic, or -1 if the kernel's list differs. There must be no other VM. */
static int aliases(struct kvm_vm *vm)
{
	int count = vm_get_stat(vm, pfncache_aliases);

	return count == kernel_mappings() ? count : -1;
}

/*
 * The same, after waiting for @expected: an unused alias may stay for about a second,
 * unless its memory is freed.
 */
static int aliases_later(struct kvm_vm *vm, int expected)
{
	int count = aliases(vm);

	for (int i = 0; i < 500 && count != expected; i++) {
		usleep(10000);
		count = aliases(vm);
	}
	return count;
}

/* Returns the first address in the kernel's list, hashed without no_hash_pointers, or 0. */
static unsigned long alias_address(void)
{
	unsigned long address = 0;
	char line[512];
	FILE *f;

	f = fopen("/proc/vmallocinfo", "r");
	TEST_ASSERT(f, "Cannot open /proc/vmallocinfo");
	while (!address && fgets(line, sizeof(line), f)) {
		if (strstr(line, " kvm_gpc_"))
			address = strtoul(line, NULL, 0);
	}
	fclose(f);
	return address;
}

static int punch(int fd, off_t offset, off_t len)
{
	return fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, len);
}

static int allocate(int fd, off_t offset, off_t len)
{
	return fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, len);
}

/* Moves the clock to @gpa. */
static void move_clock(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	vcpu_set_msr(vcpu, MSR_KVM_SYSTEM_TIME_NEW, gpa | KVM_MSR_ENABLED);
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
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

/* Runs @call in a child, so that only the child hangs. Returns -1 if it does not finish. */
static int in_child(int (*call)(void *), void *arg)
{
	pid_t child = fork();
	int status;

	TEST_ASSERT(child >= 0, "Cannot fork");
	if (!child)
		_exit(call(arg));
	for (int i = 0; i < 3000; i++) {
		if (waitpid(child, &status, WNOHANG) == child)
			return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
		usleep(10000);
	}
	kill(child, SIGKILL);
	return -1;
}

TEST_F(clock, is_written_by_one_alias)
{
	EXPECT_EQ(0, aliases(self->vm));
	run(self->vcpu);
	EXPECT_NE(0, self->clock->tsc_to_system_mul);
	EXPECT_EQ(1, aliases(self->vm));

	/* Each write uses the same alias. */
	for (int i = 0; i < 10; i++)
		run(self->vcpu);
	EXPECT_EQ(1, aliases(self->vm));

	vcpu_set_msr(self->vcpu, MSR_KVM_SYSTEM_TIME_NEW, 0);
	EXPECT_EQ(0, aliases_later(self->vm, 0));
}

TEST_F(clock, moves_with_its_address)
{
	struct pvclock_vcpu_time_info *other = (void *)self->clock + PAGE_SIZE;

	run(self->vcpu);
	move_clock(self->vcpu, GPA + PAGE_SIZE);
	EXPECT_EQ(0, other->tsc_to_system_mul);
	run(self->vcpu);
	EXPECT_NE(0, other->tsc_to_system_mul);
	EXPECT_EQ(1, aliases_later(self->vm, 1));

	/* Punching the old page keeps the alias, punching the new page removes it. */
	EXPECT_EQ(0, punch(self->fd, 0, PAGE_SIZE));
	EXPECT_EQ(1, aliases(self->vm));
	EXPECT_EQ(0, punch(self->fd, PAGE_SIZE, PAGE_SIZE));
	EXPECT_EQ(0, aliases(self->vm));
}

/* Unused aliases are removed before their memory is freed, too. */
TEST_F(clock, unused_aliases_go_with_their_memory)
{
	for (int how = 0; how < 3; how++) {
		vcpu_set_msr(self->vcpu, MSR_KVM_SYSTEM_TIME_NEW, 0);
		for (int page = 0; page < 4; page++)
			move_clock(self->vcpu, GPA + page * PAGE_SIZE);
		/* Page 3 has an alias that is used, the other pages may have unused ones. */
		EXPECT_GE(aliases(self->vm), 1);
		switch (how) {
		case 0:
			EXPECT_EQ(0, punch(self->fd, 0, 3 * PAGE_SIZE));
			EXPECT_EQ(1, aliases(self->vm));
			EXPECT_EQ(0, punch(self->fd, 0, SIZE));
			break;
		case 1:
			set_slot(self->vm, 0, NULL, -1);
			EXPECT_EQ(0, aliases(self->vm));
			set_slot(self->vm, SIZE, self->clock, self->fd);
			break;
		case 2:
			kvm_munmap(self->clock, SIZE);
			self->clock = NULL;
			close(self->fd);
			self->fd = -1;
			break;
		}
		EXPECT_EQ(0, aliases(self->vm)) {
			TH_LOG("in case %d", how);
		}
	}
}

/* Sums the function-call interrupts of all CPUs, which flush kernel addresses. */
static long function_calls(void)
{
	char *line = NULL, *at, *end;
	size_t len = 0;
	long sum = -1;
	FILE *f;

	f = fopen("/proc/interrupts", "r");
	TEST_ASSERT(f, "Cannot open /proc/interrupts");
	while (sum < 0 && getline(&line, &len, f) > 0) {
		at = strstr(line, "CAL:");
		if (!at)
			continue;
		sum = 0;
		for (at += 4; ; at = end) {
			long count = strtol(at, &end, 10);

			if (end == at)
				break;
			sum += count;
		}
	}
	free(line);
	fclose(f);
	TEST_ASSERT(sum >= 0, "No CAL in /proc/interrupts");
	return sum;
}

/* A flush for each of 1,000 changes would be about 1,000 calls for each CPU. */
static long few_calls(void)
{
	return 100 * sysconf(_SC_NPROCESSORS_ONLN);
}

/*
 * KVM may keep unused aliases, but not as many as a guest has pages, and must not flush
 * them one at a time.
 */
TEST_F(clock, unused_aliases_are_few)
{
	const int pages = 1000;
	int fd = vm_create_guest_memfd(self->vm, pages * PAGE_SIZE, FLAGS), most = 0, count;
	void *mem = kvm_mmap(pages * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	double took;
	long calls;

	ASSERT_EQ(0, allocate(fd, 0, pages * PAGE_SIZE));
	vm_set_user_memory_region2(self->vm, LARGE_SLOT, KVM_MEM_GUEST_MEMFD, LARGE_GPA,
				   pages * PAGE_SIZE, mem, fd, 0);
	calls = function_calls();
	took = seconds();
	for (int page = 0; page < pages; page++) {
		move_clock(self->vcpu, LARGE_GPA + page * PAGE_SIZE);
		count = vm_get_stat(self->vm, pfncache_aliases);
		if (count > most)
			most = count;
	}
	took = seconds() - took;
	calls = function_calls() - calls;
	TH_LOG("up to %d aliases, %ld function calls, %.1f s", most, calls, took);
	ASSERT_GT(most, 0);
	EXPECT_LE(most, 128);
	/* Each flush removes all unused aliases. There are at most ten of them a second. */
	EXPECT_GE(took, 0.1 * (pages / most - 2));
	EXPECT_LE(calls, few_calls());
	EXPECT_EQ(1, aliases_later(self->vm, 1));
	kvm_munmap(mem, pages * PAGE_SIZE);
	close(fd);
	EXPECT_EQ(0, aliases(self->vm));
}

/* The alias maps the file's page, whether or where the VMM maps it. */
TEST_F(clock, changes_of_the_user_mapping_keep_the_alias)
{
	unsigned long address;
	u32 version;

	run(self->vcpu);
	address = alias_address();
	ASSERT_NE(0, address);
	for (int how = 0; how < 3; how++) {
		version = READ_ONCE(self->clock->version);
		switch (how) {
		case 0:
			ASSERT_EQ(0, mprotect(self->clock, SIZE, PROT_NONE));
			run(self->vcpu);
			ASSERT_EQ(0, mprotect(self->clock, SIZE, PROT_READ | PROT_WRITE));
			break;
		case 1:
			ASSERT_EQ(0, madvise(self->clock, SIZE, MADV_DONTNEED));
			run(self->vcpu);
			break;
		case 2:
			ASSERT_EQ(self->clock, mmap(self->clock, SIZE, PROT_NONE,
						    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
						    -1, 0));
			run(self->vcpu);
			ASSERT_EQ(self->clock, mmap(self->clock, SIZE, PROT_READ | PROT_WRITE,
						    MAP_SHARED | MAP_FIXED, self->fd, 0));
			break;
		}
		EXPECT_NE(version, READ_ONCE(self->clock->version)) {
			TH_LOG("in case %d", how);
		}
		EXPECT_EQ(address, alias_address()) {
			TH_LOG("in case %d", how);
		}
		EXPECT_EQ(1, aliases(self->vm));
	}
}

#define VCPUS	4

TEST_F(clock, vcpus_share_the_alias_of_a_page)
{
	struct kvm_vcpu *vcpus[VCPUS];
	struct kvm_vm *vm = vm_create_with_vcpus(VCPUS, guest_sync, vcpus);
	int fd = vm_create_guest_memfd(vm, SIZE, FLAGS);
	struct pvclock_vcpu_time_info *clocks, *own;

	clocks = kvm_mmap(SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	set_slot(vm, SIZE, clocks, fd);
	for (int i = 0; i < VCPUS; i++) {
		move_clock(vcpus[i], GPA + i * sizeof(*clocks));
		run(vcpus[i]);
		EXPECT_NE(0, clocks[i].tsc_to_system_mul);
		EXPECT_EQ(1, aliases(vm));
	}

	/* The last cache keeps the alias. */
	for (int i = 0; i < VCPUS - 1; i++)
		vcpu_set_msr(vcpus[i], MSR_KVM_SYSTEM_TIME_NEW, 0);
	sleep(2);
	EXPECT_EQ(1, aliases(vm));
	clocks[VCPUS - 1].tsc_to_system_mul = 0;
	run(vcpus[VCPUS - 1]);
	EXPECT_NE(0, clocks[VCPUS - 1].tsc_to_system_mul);

	/* One page for each vCPU. */
	for (int i = 0; i < VCPUS; i++) {
		own = (void *)clocks + i * PAGE_SIZE;
		own->tsc_to_system_mul = 0;
		move_clock(vcpus[i], GPA + i * PAGE_SIZE);
		run(vcpus[i]);
		EXPECT_NE(0, own->tsc_to_system_mul);
	}
	EXPECT_EQ(VCPUS, aliases_later(vm, VCPUS));
	EXPECT_EQ(0, punch(fd, PAGE_SIZE, PAGE_SIZE));
	EXPECT_EQ(VCPUS - 1, aliases(vm));
	run(vcpus[1]);
	EXPECT_EQ(VCPUS, aliases(vm));
	EXPECT_EQ(0, punch(fd, 0, SIZE));
	EXPECT_EQ(0, aliases(vm));

	kvm_munmap(clocks, SIZE);
	close(fd);
	kvm_vm_free(vm);
}

#define WRITES	1000

static void guest_moves_clock(void)
{
	for (int i = 0; i < WRITES; i++)
		wrmsr(MSR_KVM_SYSTEM_TIME_NEW, (GPA + i % 2 * PAGE_SIZE) | KVM_MSR_ENABLED);
	GUEST_SYNC(0);
}

/*
 * Flushing an alias interrupts all CPUs, and a guest can move its clock as often as it
 * likes: many aliases must share a flush.
 */
TEST_F_TIMEOUT(clock, moving_the_clock_rarely_interrupts_other_cpus, LONG)
{
	const struct {
		const char *name;
		u64 values[2];
	} how[] = {
		{ "two pages in turn", { GPA | KVM_MSR_ENABLED,
					 (GPA + PAGE_SIZE) | KVM_MSR_ENABLED } },
		{ "on and off", { GPA | KVM_MSR_ENABLED, 0 } },
		{ "by the guest, two pages in turn" },
	};
	long calls;

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "This machine has one CPU");

	ASSERT_EQ(0, allocate(self->fd, 0, SIZE));
	vcpu_arch_set_entry_point(self->vcpu, guest_moves_clock);
	for (int i = 0; i < ARRAY_SIZE(how); i++) {
		calls = function_calls();
		if (how[i].values[0]) {
			for (int j = 0; j < WRITES; j++)
				vcpu_set_msr(self->vcpu, MSR_KVM_SYSTEM_TIME_NEW,
					     how[i].values[j % 2]);
		} else {
			vcpu_run(self->vcpu);
			TEST_ASSERT_KVM_EXIT_REASON(self->vcpu, KVM_EXIT_IO);
		}
		calls = function_calls() - calls;
		TH_LOG("%d writes, %s: %ld function calls", WRITES, how[i].name, calls);
		EXPECT_LE(calls, few_calls());
	}
}

struct puncher {
	pthread_t thread;
	int fd, rounds;
	off_t offset, len;
	bool refill, stop, busy;
	int done;
	double longest;
};

static void *punch_again(void *arg)
{
	struct puncher *p = arg;
	double start;

	while (!READ_ONCE(p->stop) && (!p->rounds || p->done < p->rounds)) {
		if (p->refill)
			TEST_ASSERT(!allocate(p->fd, p->offset, p->len), "Cannot allocate");
		start = seconds();
		WRITE_ONCE(p->busy, true);
		TEST_ASSERT(!punch(p->fd, p->offset, p->len), "Cannot punch a hole");
		WRITE_ONCE(p->busy, false);
		if (seconds() - start > p->longest)
			p->longest = seconds() - start;
		WRITE_ONCE(p->done, p->done + 1);
	}
	return NULL;
}

static void *large_file(struct kvm_vm *vm, u64 flags, int *fd)
{
	void *mem;

	*fd = vm_create_guest_memfd(vm, LARGE, flags);
	mem = kvm_mmap(LARGE, PROT_READ | PROT_WRITE, MAP_SHARED, *fd);
	vm_set_user_memory_region2(vm, LARGE_SLOT, KVM_MEM_GUEST_MEMFD, LARGE_GPA, LARGE, mem,
				   *fd, 0);
	return mem;
}

static void free_large_file(struct kvm_vm *vm, void *mem, int fd)
{
	vm_set_user_memory_region2(vm, LARGE_SLOT, KVM_MEM_GUEST_MEMFD, LARGE_GPA, 0, NULL, -1,
				   0);
	kvm_munmap(mem, LARGE);
	close(fd);
}

static void on_alarm(int signal)
{
}

static void every(long usec)
{
	const struct itimerval timer = {
		.it_value = { .tv_usec = usec },
		.it_interval = { .tv_usec = usec },
	};

	TEST_ASSERT(!setitimer(ITIMER_REAL, &timer, NULL), "Cannot set a timer");
}

/*
 * While the clock's page is punched, over and over, the vCPU makes progress, and a signal
 * ends KVM_RUN.
 */
TEST_F_TIMEOUT(clock, a_signal_ends_the_wait_for_a_punch, LONG)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct pvclock_vcpu_time_info *clock;
	sigset_t alarm;
	int fd;

	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	ASSERT_EQ(0, sigaction(SIGALRM, &action, NULL));
	clock = large_file(self->vm, FLAGS, &fd);
	move_clock(self->vcpu, LARGE_GPA);

	for (int whole = 0; whole <= 1; whole++) {
		struct puncher p = {
			.fd = fd,
			.len = whole ? LARGE : PAGE_SIZE,
			.refill = whole,
		};
		double worst = 0;

		pthread_sigmask(SIG_BLOCK, &alarm, NULL);
		ASSERT_EQ(0, pthread_create(&p.thread, NULL, punch_again, &p));
		pthread_sigmask(SIG_UNBLOCK, &alarm, NULL);

		for (int spin = 0; spin <= 1; spin++) {
			double end = seconds() + 5, slowest = 0;
			int runs = 0, signals = 0;

			vcpu_arch_set_entry_point(self->vcpu, spin ? guest_spin : guest_sync);
			every(20000);
			while (seconds() < end) {
				double start = seconds();
				int ret;

				set_clock(self->vm);
				ret = __vcpu_run(self->vcpu);
				if (!ret)
					runs++;
				else if (errno == EINTR)
					signals++;
				else
					TEST_FAIL("KVM_RUN: %s", strerror(errno));
				if (seconds() - start > slowest)
					slowest = seconds() - start;
			}
			every(0);
			TH_LOG("punching %s, guest %s: %d exits, %d signals, slowest %.3f s",
			       whole ? "the file" : "one page", spin ? "spins" : "exits",
			       runs, signals, slowest);
			EXPECT_LE(slowest, 2);
			EXPECT_GT(spin ? signals : runs, 0);
			if (slowest > worst)
				worst = slowest;
		}
		WRITE_ONCE(p.stop, true);
		pthread_join(p.thread, NULL);
		EXPECT_GT(p.done, 0);
		TH_LOG("%d punches, longest %.3f s", p.done, p.longest);
		/* The vCPU has not waited for the end of a punch. */
		if (p.longest > 1)
			EXPECT_LE(worst, p.longest / 2);

		/* The clock is written once its page is no longer punched. */
		vcpu_arch_set_entry_point(self->vcpu, guest_sync);
		run(self->vcpu);
		EXPECT_NE(0, clock->tsc_to_system_mul);
		EXPECT_EQ(0, punch(fd, 0, PAGE_SIZE));
	}
	free_large_file(self->vm, clock, fd);
}

/* As for an ordinary file, punching other pages does not delay the clock. */
TEST_F_TIMEOUT(clock, a_punch_elsewhere_is_not_waited_for, LONG)
{
	double slowest[2] = {}, longest[2];
	long during[2] = {};

	for (int hidden = 0; hidden <= 1; hidden++) {
		u64 flags = hidden ? FLAGS : FLAGS & ~GUEST_MEMFD_FLAG_NO_DIRECT_MAP;
		struct puncher p = {
			.offset = 2 * PAGE_SIZE,
			.len = LARGE - 2 * PAGE_SIZE,
			.refill = true,
			.rounds = 2,
		};
		void *mem = large_file(self->vm, flags, &p.fd);

		ASSERT_EQ(0, allocate(p.fd, 0, 2 * PAGE_SIZE));
		ASSERT_EQ(0, pthread_create(&p.thread, NULL, punch_again, &p));
		for (int i = 0; READ_ONCE(p.done) < p.rounds; i++) {
			int done = READ_ONCE(p.done);
			double start, took;

			if (!READ_ONCE(p.busy)) {
				usleep(100);
				continue;
			}
			start = seconds();
			move_clock(self->vcpu, LARGE_GPA + i % 2 * PAGE_SIZE);
			took = seconds() - start;
			if (took > slowest[hidden])
				slowest[hidden] = took;
			during[hidden] += READ_ONCE(p.busy) && READ_ONCE(p.done) == done;
		}
		pthread_join(p.thread, NULL);
		longest[hidden] = p.longest;
		TH_LOG("%s file: %ld writes during %d punches of up to %.3f s, slowest %.4f s",
		       hidden ? "hidden" : "ordinary", during[hidden], p.done, p.longest,
		       slowest[hidden]);
		free_large_file(self->vm, mem, p.fd);
	}
	EXPECT_GE(during[1], 10);
	/* A busy machine delays anything, but by much less than a whole punch. */
	if (slowest[1] > longest[1] / 4)
		EXPECT_LE(slowest[1], 10 * slowest[0]);
}

/* Returns the offset of @address in /proc/kcore, or -1 if it is not there. */
static off_t kcore_offset(unsigned long address)
{
	int fd = open("/proc/kcore", O_RDONLY);
	struct elf64_phdr segment;
	struct elf64_hdr header;
	off_t offset = -1;

	if (fd < 0)
		return -1;
	TEST_ASSERT(pread(fd, &header, sizeof(header), 0) == sizeof(header),
		    "Cannot read the header of /proc/kcore");
	for (int i = 0; i < header.e_phnum && offset < 0; i++) {
		TEST_ASSERT(pread(fd, &segment, sizeof(segment),
				  header.e_phoff + i * sizeof(segment)) == sizeof(segment),
			    "Cannot read the headers of /proc/kcore");
		if (segment.p_type == PT_LOAD && address >= segment.p_vaddr &&
		    address - segment.p_vaddr <= segment.p_memsz - PAGE_SIZE)
			offset = segment.p_offset + (address - segment.p_vaddr);
	}
	close(fd);
	return offset;
}

struct kcore_read {
	enum { KCORE_READ, KCORE_SPLICE, KCORE_SENDFILE, KCORE_WAYS } how;
	off_t offset;
};

/* Runs in a child. Returns 0 if the page reads as zeros, 1 if as data, 2 on errors. */
static int read_kcore(void *arg)
{
	struct kcore_read *r = arg;
	int kcore = open("/proc/kcore", O_RDONLY), pipes[2], out;
	char page[PAGE_SIZE] = { 1 };
	off_t offset = r->offset;
	ssize_t ret = -1;

	switch (r->how) {
	case KCORE_READ:
		ret = pread(kcore, page, PAGE_SIZE, offset);
		break;
	case KCORE_SPLICE:
		if (pipe(pipes) || splice(kcore, &offset, pipes[1], NULL, PAGE_SIZE, 0) <= 0)
			break;
		ret = read(pipes[0], page, PAGE_SIZE);
		break;
	case KCORE_SENDFILE:
		out = memfd_create("kcore", 0);
		ret = sendfile(out, kcore, &offset, PAGE_SIZE);
		/* The offsets of vmalloc() addresses are too large for sendfile(2) on proc. */
		if (ret < 0 && errno == EOVERFLOW)
			return 0;
		if (ret <= 0)
			break;
		ret = pread(out, page, PAGE_SIZE, 0);
		break;
	default:
		break;
	}
	if (ret <= 0)
		return 2;
	for (ssize_t i = 0; i < ret; i++) {
		if (page[i])
			return 1;
	}
	return 0;
}

/*
 * Reads many times, and returns the worst result: other aliases come and go at the address,
 * and are there for a moment only.
 */
static int read_kcore_again(void *arg)
{
	int ret, worst = 0;

	for (int i = 0; i < 200 && worst < 2; i++) {
		ret = read_kcore(arg);
		if (ret > worst)
			worst = ret;
		close_range(STDERR_FILENO + 1, ~0U, 0);
	}
	return worst;
}

/* Times out later than a read that does not end, which is then the failure. */
TEST_F_TIMEOUT(clock, the_alias_reads_as_zeros_in_kcore, LONG)
{
	struct kcore_read r;

	run(self->vcpu);
	EXPECT_NE(0, self->clock->tsc_to_system_mul);
	r.offset = kcore_offset(alias_address());
	if (r.offset < 0)
		SKIP(return, "This kernel lacks CONFIG_PROC_KCORE, or no_hash_pointers");

	for (r.how = 0; r.how < KCORE_WAYS; r.how++) {
		ASSERT_EQ(0, in_child(read_kcore, &r)) {
			TH_LOG("way %d", r.how);
		}
	}
	/* Reading did not leak a reference or a lock. */
	EXPECT_EQ(1, aliases(self->vm));
	EXPECT_EQ(0, punch(self->fd, 0, PAGE_SIZE));
	EXPECT_EQ(0, aliases(self->vm));
	run(self->vcpu);
	EXPECT_NE(0, self->clock->tsc_to_system_mul);
}

/* Fails allocations of this task by @function and its callees. Returns false if unsupported. */
static bool fail_on_behalf_of(const char *dir, const char *function)
{
	static const char *const settings[][2] = {
		{ "interval", "1" }, { "space", "0" }, { "verbose", "0" },
		{ "task-filter", "Y" }, { "ignore-gfp-wait", "N" },
		/* Each of these exists for one kind of injection only. */
		{ "ignore-gfp-highmem", "N" }, { "min-order", "0" }, { "cache-filter", "N" },
		{ "times", "1000000" }, { "probability", "100" },
	};
	unsigned long address, start = 0, end = -1UL;
	char path[128], name[128], text[32];
	FILE *f;

	/* The function ends at the next address. Symbols of modules are not sorted. */
	for (int pass = 0; pass < 2; pass++) {
		f = fopen("/proc/kallsyms", "r");
		if (!f)
			return false;
		while (fscanf(f, "%lx %*c %127s%*[^\n]", &address, name) == 2) {
			if (!pass && !strcmp(name, function))
				start = address;
			if (pass && address > start && address < end)
				end = address;
		}
		fclose(f);
		if (!start)
			return false;
	}
	snprintf(path, sizeof(path), DEBUGFS "%s/require-start", dir);
	snprintf(text, sizeof(text), "%#lx", start);
	if (!write_file(path, text))
		return false;
	snprintf(path, sizeof(path), DEBUGFS "%s/require-end", dir);
	snprintf(text, sizeof(text), "%#lx", end);
	if (!write_file(path, text))
		return false;
	for (int i = 0; i < ARRAY_SIZE(settings); i++) {
		snprintf(path, sizeof(path), DEBUGFS "%s/%s", dir, settings[i][0]);
		write_file(path, settings[i][1]);
	}
	return write_file("/proc/self/make-it-fail", "1");
}

/* Returns the number of failures that were injected. */
static int stop_failing(const char *dir)
{
	static const char *const settings[][2] = {
		{ "probability", "0" }, { "require-start", "0" },
		{ "require-end", "0xffffffffffffffff" },
	};
	char path[128];
	int times = 0;
	FILE *f;

	write_file("/proc/self/make-it-fail", "0");
	for (int i = 0; i < ARRAY_SIZE(settings); i++) {
		snprintf(path, sizeof(path), DEBUGFS "%s/%s", dir, settings[i][0]);
		write_file(path, settings[i][1]);
	}
	snprintf(path, sizeof(path), DEBUGFS "%s/times", dir);
	f = fopen(path, "r");
	TEST_ASSERT(f && fscanf(f, "%d", &times) == 1, "Cannot read %s", path);
	fclose(f);
	return 1000000 - times;
}

/* A clock that could not be written for lack of memory is written later. */
TEST_F_TIMEOUT(clock, is_written_later_if_memory_runs_out, LONG)
{
	static const char *const dirs[] = { "fail_page_alloc", "failslab" };
	struct sigaction action = { .sa_handler = on_alarm };
	int ret, err, failed;

	/* Migration to another CPU may cause KVM to write the clock. */
	pin_self_to_any_cpu();
	ASSERT_EQ(0, sigaction(SIGALRM, &action, NULL));
	for (int i = 0; i < ARRAY_SIZE(dirs); i++) {
		run(self->vcpu);
		EXPECT_NE(0, self->clock->tsc_to_system_mul);
		/* Now there is no page and no alias, and both must be allocated. */
		EXPECT_EQ(0, punch(self->fd, 0, PAGE_SIZE));
		set_clock(self->vm);

		if (!fail_on_behalf_of(dirs[i], "kvm_gpc_refresh"))
			SKIP(return, "This kernel lacks FAULT_INJECTION_STACKTRACE_FILTER");
		/* If KVM retries in the kernel, this ends it. */
		every(500000);
		ret = __vcpu_run(self->vcpu);
		err = errno;
		every(0);
		failed = stop_failing(dirs[i]);

		TH_LOG("%s: %d failed", dirs[i], failed);
		EXPECT_GT(failed, 0);
		EXPECT_EQ(0, self->clock->tsc_to_system_mul);
		if (ret)
			EXPECT_EQ(EINTR, err);

		/* Nothing here requests another update. */
		for (int j = 0; j < 100 && !READ_ONCE(self->clock->tsc_to_system_mul); j++) {
			vcpu_run(self->vcpu);
			usleep(10000);
		}
		EXPECT_NE(0, self->clock->tsc_to_system_mul) {
			TH_LOG("after %s", dirs[i]);
		}
		EXPECT_EQ(1, aliases_later(self->vm, 1));
	}
}

TEST_F(clock, punching_a_hole_removes_the_alias)
{
	run(self->vcpu);
	EXPECT_EQ(1, aliases(self->vm));
	EXPECT_EQ(0, punch(self->fd, 0, PAGE_SIZE));
	EXPECT_EQ(0, aliases(self->vm));

	/* KVM uses the new page. */
	EXPECT_EQ(0, self->clock->tsc_to_system_mul);
	run(self->vcpu);
	EXPECT_NE(0, self->clock->tsc_to_system_mul);
	EXPECT_EQ(1, aliases(self->vm));
}

#define CORRUPT_PFN	DEBUGFS "hwpoison/corrupt-pfn"

/* Returns the page frame number of the page at @offset, which need not be mapped. */
static u64 pfn_at(int fd, off_t offset)
{
	char *page = __kvm_mmap(PAGE_SIZE, PROT_READ, MAP_SHARED, fd, offset);
	u64 pfn;

	READ_ONCE(*page);
	pfn = phys_addr(page) / PAGE_SIZE;
	kvm_munmap(page, PAGE_SIZE);
	return pfn;
}

/*
 * Reports a hardware error. Processes that map a dirty page are killed. The result does
 * not matter: the page may be gone, or not be recovered.
 */
static void poison(u64 pfn)
{
	char text[32];

	snprintf(text, sizeof(text), "%#llx", (unsigned long long)pfn);
	write_file(CORRUPT_PFN, text);
}

TEST_F(clock, memory_failure_removes_the_alias)
{
	u64 pfn;

	if (access(CORRUPT_PFN, W_OK))
		SKIP(return, "This kernel lacks CONFIG_HWPOISON_INJECT");

	run(self->vcpu);
	EXPECT_NE(0, self->clock->tsc_to_system_mul);
	pfn = pfn_at(self->fd, 0);
	kvm_munmap(self->clock, SIZE);
	self->clock = NULL;
	ASSERT_EQ(1, aliases(self->vm));
	poison(pfn);
	EXPECT_EQ(0, aliases(self->vm));
	run(self->vcpu);
	EXPECT_EQ(0, aliases(self->vm));
}

/* Pages of a large folio have an alias each, which goes with any part of the folio. */
TEST_F(clock, pages_of_a_large_folio_have_aliases)
{
	struct kvm_create_guest_memfd args = {
		.size = 2 * SZ_2M,
		.flags = FLAGS | GUEST_MEMFD_FLAG_PAGE_ORDER,
		.page_order = 9,
	};
	struct pvclock_vcpu_time_info *at[2];
	int fd, pages[] = { 5, 511 };
	char *mem;
	u64 pfn;

	if (!(vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_PAGE_ORDER))
		SKIP(return, "This kernel lacks GUEST_MEMFD_FLAG_PAGE_ORDER");

	fd = __vm_ioctl(self->vm, KVM_CREATE_GUEST_MEMFD, &args);
	ASSERT_LE(0, fd);
	mem = kvm_mmap(2 * SZ_2M, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	vm_set_user_memory_region2(self->vm, LARGE_SLOT, KVM_MEM_GUEST_MEMFD, LARGE_GPA, 2 * SZ_2M,
				   mem, fd, 0);
	vcpu_arch_set_entry_point(self->vcpu, guest_sync);
	for (int i = 0; i < 2; i++) {
		at[i] = (void *)mem + SZ_2M + pages[i] * PAGE_SIZE;
		move_clock(self->vcpu, LARGE_GPA + SZ_2M + pages[i] * PAGE_SIZE);
		run(self->vcpu);
		EXPECT_NE(0, at[i]->tsc_to_system_mul);
		EXPECT_LE(1, aliases(self->vm));
	}
	for (int page = 0; page < 512; page++) {
		at[0] = (void *)mem + SZ_2M + page * PAGE_SIZE;
		EXPECT_EQ(page == pages[0] || page == pages[1], !!at[0]->tsc_to_system_mul);
	}

	EXPECT_EQ(0, punch(fd, 0, SZ_2M));
	EXPECT_LE(1, aliases(self->vm));
	EXPECT_EQ(0, punch(fd, SZ_2M, SZ_2M));
	EXPECT_EQ(0, aliases(self->vm));
	EXPECT_EQ(0, at[1]->tsc_to_system_mul);
	run(self->vcpu);
	EXPECT_NE(0, at[1]->tsc_to_system_mul);

	if (!access(CORRUPT_PFN, W_OK)) {
		pfn = pfn_at(fd, SZ_2M);
		kvm_munmap(mem, 2 * SZ_2M);
		ASSERT_EQ(1, aliases(self->vm));
		/* Another page of the folio: it is safe to remove more than that page. */
		poison(pfn);
		EXPECT_EQ(0, aliases(self->vm));
		run(self->vcpu);
		EXPECT_EQ(1, aliases(self->vm));
		poison(pfn + pages[1]);
		EXPECT_EQ(0, aliases(self->vm));
		run(self->vcpu);
		EXPECT_EQ(0, aliases(self->vm));
	} else {
		kvm_munmap(mem, 2 * SZ_2M);
	}
	close(fd);
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
/* Microseconds for which the threads leave the memory alone, so that aliases are there. */
static int pause_us;

static void *punch_thread(void *fd)
{
	while (!READ_ONCE(stop)) {
		TEST_ASSERT(!punch(*(int *)fd, 0, SIZE), "Cannot punch a hole");
		if (pause_us)
			usleep(pause_us);
	}
	return NULL;
}

static void *slot_thread(void *arg)
{
	struct _test_data_clock *self = arg;

	while (!READ_ONCE(stop)) {
		set_slot(self->vm, 0, NULL, -1);
		set_slot(self->vm, SIZE, self->clock, self->fd);
		if (pause_us)
			usleep(pause_us);
	}
	return NULL;
}

static void *run_thread(void *vcpu)
{
	while (!READ_ONCE(stop))
		run(vcpu);
	return NULL;
}

/* The vCPU creates aliases while other threads remove their memory. */
TEST_F_TIMEOUT(clock, survives_races, LONG)
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
	EXPECT_EQ(1, aliases_later(self->vm, 1));
	EXPECT_EQ(0, punch(self->fd, 0, SIZE));
	EXPECT_EQ(0, aliases(self->vm));
}

/* The same, while reading /proc/kcore where an alias is, or was just before. */
TEST_F_TIMEOUT(clock, kcore_survives_races, LONG)
{
	struct kcore_read r = {};
	pthread_t threads[3];
	int ret = 0;

	run(self->vcpu);
	r.offset = kcore_offset(alias_address());
	if (r.offset < 0)
		SKIP(return, "This kernel lacks CONFIG_PROC_KCORE, or no_hash_pointers");

	pause_us = 1000;
	pthread_create(&threads[0], NULL, punch_thread, &self->fd);
	pthread_create(&threads[1], NULL, run_thread, self->vcpu);
	pthread_create(&threads[2], NULL, slot_thread, self);
	/* Need not read as zeros: another mapping may be there by the time of the read. */
	for (int round = 0; round < 100 && (ret == 0 || ret == 1); round++) {
		unsigned long address = alias_address();
		off_t offset = address ? kcore_offset(address) : -1;

		/* If there is no alias now, read where the last one was. */
		if (offset >= 0)
			r.offset = offset;
		r.how = round % KCORE_WAYS;
		ret = in_child(read_kcore_again, &r);
	}
	WRITE_ONCE(stop, true);
	for (int i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	EXPECT_TRUE(ret == 0 || ret == 1) {
		TH_LOG("way %d: %d", r.how, ret);
	}
}

/* Releases the file under a vCPU that keeps writing its clock. */
TEST_F_TIMEOUT(clock, files_are_closed_while_the_vcpu_runs, LONG)
{
	pthread_t thread;

	set_slot(self->vm, 0, NULL, -1);
	pthread_create(&thread, NULL, run_thread, self->vcpu);
	for (int round = 0; round < 200; round++) {
		int fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
		void *mem = kvm_mmap(SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);

		set_slot(self->vm, SIZE, mem, fd);
		usleep(round * 100);
		kvm_munmap(mem, SIZE);
		close(fd);
		/* A refresh in progress may hold the last reference to the file. */
		ASSERT_EQ(0, aliases_later(self->vm, 0)) {
			TH_LOG("in round %d", round);
		}
		set_slot(self->vm, 0, NULL, -1);
	}
	WRITE_ONCE(stop, true);
	pthread_join(thread, NULL);
	set_slot(self->vm, SIZE, self->clock, self->fd);
	run(self->vcpu);
	EXPECT_NE(0, self->clock->tsc_to_system_mul);
	EXPECT_EQ(1, aliases_later(self->vm, 1));
}

#define POISON_SIZE	SZ_16M

static void *punch_once(void *fd)
{
	TEST_ASSERT(!punch(*(int *)fd, 0, POISON_SIZE), "Cannot punch a hole");
	return NULL;
}

/*
 * Runs in a child. Poisons the last page of the file while the whole file is punched. A
 * punch holds the invalidate_lock and waits for the folio lock, memory failure the reverse.
 */
static int punch_and_poison(void *fd)
{
	u64 pfn = pfn_at(*(int *)fd, POISON_SIZE - PAGE_SIZE);
	pthread_t thread;

	if (pthread_create(&thread, NULL, punch_once, fd))
		return 1;
	usleep(1000);
	poison(pfn);
	pthread_join(thread, NULL);
	return 0;
}

TEST_F_TIMEOUT(clock, memory_failure_and_holes_do_not_deadlock, LONG)
{
	void *mem;
	int fd;

	if (access(CORRUPT_PFN, W_OK))
		SKIP(return, "This kernel lacks CONFIG_HWPOISON_INJECT");

	fd = vm_create_guest_memfd(self->vm, POISON_SIZE, FLAGS);
	mem = kvm_mmap(POISON_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	vm_set_user_memory_region2(self->vm, LARGE_SLOT, KVM_MEM_GUEST_MEMFD, LARGE_GPA,
				   POISON_SIZE, mem, fd, 0);
	vcpu_arch_set_entry_point(self->vcpu, guest_sync);
	for (int round = 0; round < 10; round++) {
		ASSERT_EQ(0, allocate(fd, 0, POISON_SIZE));
		move_clock(self->vcpu, LARGE_GPA + POISON_SIZE - PAGE_SIZE);
		run(self->vcpu);
		EXPECT_EQ(1, aliases_later(self->vm, 1));
		ASSERT_EQ(0, in_child(punch_and_poison, &fd)) {
			TH_LOG("in round %d", round);
		}
		EXPECT_EQ(0, aliases_later(self->vm, 0));
		EXPECT_EQ(0, punch(fd, 0, POISON_SIZE));
	}
	run(self->vcpu);
	EXPECT_EQ(1, aliases_later(self->vm, 1));
	kvm_munmap(mem, POISON_SIZE);
	close(fd);
	EXPECT_EQ(0, aliases(self->vm));
}

/*
 * Memory failure must not wait for a punch that holds the invalidate_lock: it leaves the
 * alias to a work item. The punch is elsewhere in the file, so nothing else removes it.
 */
TEST_F_TIMEOUT(clock, memory_failure_during_a_punch_elsewhere_removes_the_alias, LONG)
{
	const int rounds = 3;
	struct puncher p = {
		.offset = rounds * PAGE_SIZE,
		.len = LARGE - rounds * PAGE_SIZE,
		.refill = true,
	};
	int deferred = 0;
	void *mem;

	if (access(CORRUPT_PFN, W_OK))
		SKIP(return, "This kernel lacks CONFIG_HWPOISON_INJECT");

	mem = large_file(self->vm, FLAGS, &p.fd);
	vcpu_arch_set_entry_point(self->vcpu, guest_sync);
	for (int round = 0; round < rounds; round++) {
		double start, took;
		int left;
		u64 pfn;

		move_clock(self->vcpu, LARGE_GPA + round * PAGE_SIZE);
		run(self->vcpu);
		EXPECT_EQ(1, aliases_later(self->vm, 1));
		pfn = pfn_at(p.fd, round * PAGE_SIZE);

		p.rounds = round + 1;
		ASSERT_EQ(0, pthread_create(&p.thread, NULL, punch_again, &p));
		while (!READ_ONCE(p.busy))
			usleep(100);
		usleep(1000);
		start = seconds();
		poison(pfn);
		took = seconds() - start;
		/* While the punch is going on, the work item waits. */
		left = aliases(self->vm);
		deferred += left == 1 && READ_ONCE(p.busy);
		EXPECT_EQ(0, aliases_later(self->vm, 0));
		pthread_join(p.thread, NULL);
		TH_LOG("%.3f s for the failure, up to %.3f s for a punch, %d aliases in between",
		       took, p.longest, left);
		run(self->vcpu);
		EXPECT_EQ(0, aliases(self->vm));
	}
	EXPECT_GT(deferred, 0);
	free_large_file(self->vm, mem, p.fd);
}

TEST_HARNESS_MAIN
