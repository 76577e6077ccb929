// SPDX-License-Identifier: GPL-2.0
/*
 * Test access to memory without a direct map: copies through a user mapping work,
 * operations that take the page itself are refused, or have no effect.
 *
 * guest_memfd and memfd_secret() must behave alike, since both are refused by the same
 * flag of the mapping.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

/* The kernel's HMM test driver, which has no header in include/uapi. */
#include "../../../../lib/test_hmm_uapi.h"

#define PAGES	64
#define BYTE	((char)0xa5)
/* Timeout in seconds for slow tests, on a busy machine under emulation. */
#define LONG	300

/* Missing in older headers of the C library. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#define MADV_POPULATE_WRITE	23
#endif

/* <linux/io_uring.h> needs more of <linux/stddef.h> than tools/include has. */
#define IORING_REGISTER_BUFFERS	0

#define EXPECT_ERRNO(err, call) do {			\
	errno = 0;					\
	EXPECT_EQ(-1, (long)(call));			\
	EXPECT_EQ(err, errno) {				\
		TH_LOG("%s", #call);			\
	}						\
} while (0)

FIXTURE(hidden) {
	struct kvm_vm *vm;
	size_t page_size, size;
	char *mem;
	int fd;
};

FIXTURE_VARIANT(hidden) {
	bool secretmem;
};

FIXTURE_VARIANT_ADD(hidden, guest_memfd) {
	.secretmem = false,
};

FIXTURE_VARIANT_ADD(hidden, memfd_secret) {
	.secretmem = true,
};

FIXTURE_SETUP(hidden)
{
	const u64 flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED |
			  GUEST_MEMFD_FLAG_NO_DIRECT_MAP;

	self->page_size = getpagesize();
	self->size = PAGES * self->page_size;
	self->vm = vm_create_barebones();
	if (variant->secretmem) {
		self->fd = syscall(SYS_memfd_secret, 0);
		if (self->fd < 0)
			SKIP(return, "This kernel lacks CONFIG_SECRETMEM");
		ASSERT_EQ(0, ftruncate(self->fd, self->size));
	} else {
		if (!(vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_FLAGS) &
		      GUEST_MEMFD_FLAG_NO_DIRECT_MAP))
			SKIP(return, "This host cannot remove guest_memfd from the direct map");
		self->fd = vm_create_guest_memfd(self->vm, self->size, flags);
	}
	self->mem = kvm_mmap(self->size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd);
	memset(self->mem, BYTE, self->size);
}

FIXTURE_TEARDOWN(hidden)
{
	if (self->mem) {
		kvm_munmap(self->mem, self->size);
		close(self->fd);
	}
	kvm_vm_free(self->vm);
}

/* Returns whether a refused operation has not written to @mem. */
static bool untouched(const char *mem, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (mem[i] != BYTE)
			return false;
	}
	return true;
}

TEST_F(hidden, copies_work)
{
	char out[2] = { 1, 2 }, in[2] = { 0 };
	int pipes[2], sockets[2];
	FILE *file = tmpfile();

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	ASSERT_TRUE(file);

	EXPECT_EQ(2, write(pipes[1], self->mem, 2));
	EXPECT_EQ(2, read(pipes[0], in, 2));
	EXPECT_EQ(BYTE, in[1]);
	EXPECT_EQ(2, send(sockets[0], self->mem, 2, 0));
	EXPECT_EQ(2, recv(sockets[1], in, 2, 0));
	EXPECT_EQ(BYTE, in[0]);
	EXPECT_EQ(2, pwrite(fileno(file), self->mem, 2, 0));

	EXPECT_EQ(2, write(pipes[1], out, 2));
	EXPECT_EQ(2, read(pipes[0], self->mem, 2));
	EXPECT_EQ(2, self->mem[1]);
	EXPECT_EQ(2, send(sockets[0], out, 2, 0));
	EXPECT_EQ(2, recv(sockets[1], self->mem + 2, 2, 0));
	EXPECT_EQ(1, self->mem[2]);
	EXPECT_EQ(2, pread(fileno(file), self->mem, 2, 0));
	EXPECT_EQ(BYTE, self->mem[0]);

	fclose(file);
	for (int i = 0; i < 2; i++) {
		close(pipes[i]);
		close(sockets[i]);
	}
}

TEST_F(hidden, direct_io_is_refused)
{
	int direct = open("/dev/ram0", O_RDWR | O_DIRECT), buffered = open("/dev/ram0", O_RDWR);
	char *plain = kvm_mmap(self->page_size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1);

	if (direct < 0)
		SKIP(return, "This kernel lacks CONFIG_BLK_DEV_RAM");

	/* The same works on ordinary memory. */
	ASSERT_EQ(self->page_size, pwrite(direct, plain, self->page_size, 0));
	EXPECT_ERRNO(EFAULT, pwrite(direct, self->mem, self->page_size, 0));
	EXPECT_ERRNO(EFAULT, pread(direct, self->mem, self->page_size, 0));
	ASSERT_EQ(self->page_size, pread(direct, plain, self->page_size, 0));
	EXPECT_EQ(0, *plain);
	EXPECT_TRUE(untouched(self->mem, self->size));

	EXPECT_EQ(self->page_size, pwrite(buffered, self->mem, self->page_size, 0));
	*self->mem = 0;
	EXPECT_EQ(self->page_size, pread(buffered, self->mem, self->page_size, 0));
	EXPECT_TRUE(untouched(self->mem, self->size));
	kvm_munmap(plain, self->page_size);
	close(direct);
	close(buffered);
}

TEST_F(hidden, taking_pages_is_refused)
{
	char byte = 1;
	struct iovec local = { &byte, 1 }, remote = { self->mem, 1 };
	struct iovec buffer = { self->mem, self->size };
	u64 params[32] = {};	/* Larger than struct io_uring_params. */
	int pipes[2], mem, ring;

	ASSERT_EQ(0, pipe(pipes));
	EXPECT_ERRNO(EFAULT, vmsplice(pipes[1], &remote, 1, 0));
	EXPECT_ERRNO(EFAULT, vmsplice(pipes[1], &remote, 1, SPLICE_F_GIFT));

	EXPECT_ERRNO(EFAULT, process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
	EXPECT_ERRNO(EFAULT, process_vm_writev(getpid(), &local, 1, &remote, 1, 0));

	mem = open("/proc/self/mem", O_RDWR);
	ASSERT_GE(mem, 0);
	EXPECT_ERRNO(EIO, pread(mem, &byte, 1, (unsigned long)self->mem));
	EXPECT_ERRNO(EIO, pwrite(mem, &byte, 1, (unsigned long)self->mem));
	close(mem);

	ring = syscall(__NR_io_uring_setup, 1, params);
	if (ring >= 0) {
		EXPECT_ERRNO(EFAULT, syscall(__NR_io_uring_register, ring,
					     IORING_REGISTER_BUFFERS, &buffer, 1));
		close(ring);
	} else {
		TH_LOG("no io_uring here");
	}

	EXPECT_EQ(1, byte);
	EXPECT_TRUE(untouched(self->mem, self->size));
	close(pipes[0]);
	close(pipes[1]);
}

/* Copy-on-write copies the page through the direct map. */
TEST_F(hidden, a_private_mapping_is_refused)
{
	EXPECT_ERRNO(EINVAL, mmap(NULL, self->size, PROT_READ, MAP_PRIVATE, self->fd, 0));
}

TEST_F(hidden, a_debugger_is_refused)
{
	pid_t child = fork();
	int status;

	ASSERT_GE(child, 0);
	if (!child) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(!untouched(self->mem, self->size));
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	ASSERT_TRUE(WIFSTOPPED(status));
	EXPECT_ERRNO(EIO, ptrace(PTRACE_PEEKDATA, child, self->mem, NULL));
	EXPECT_ERRNO(EIO, ptrace(PTRACE_POKEDATA, child, self->mem, 1L));
	ASSERT_EQ(0, ptrace(PTRACE_CONT, child, NULL, NULL));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
}

TEST_F(hidden, locking_and_populating_are_refused)
{
	EXPECT_ERRNO(ENOMEM, mlock(self->mem, self->size));
	EXPECT_ERRNO(ENOMEM, syscall(__NR_mlock2, self->mem, self->size, 0));
	EXPECT_ERRNO(ENOMEM, syscall(__NR_mlock2, self->mem, self->size, MLOCK_ONFAULT));
	EXPECT_ERRNO(EINVAL, madvise(self->mem, self->size, MADV_POPULATE_READ));
	EXPECT_ERRNO(EINVAL, madvise(self->mem, self->size, MADV_POPULATE_WRITE));
	EXPECT_TRUE(untouched(self->mem, self->size));
}

TEST_F(hidden, a_shared_futex_is_refused)
{
	u32 *futex = (void *)self->mem;

	/* Private futexes do not depend on the page. */
	EXPECT_ERRNO(EAGAIN, syscall(__NR_futex, futex, FUTEX_WAIT_PRIVATE, *futex + 1, NULL));
	EXPECT_ERRNO(EFAULT, syscall(__NR_futex, futex, FUTEX_WAIT, *futex + 1, NULL));
	EXPECT_ERRNO(EFAULT, syscall(__NR_futex, futex, FUTEX_WAKE, 1));
}

TEST_F(hidden, userfaultfd_is_refused)
{
	struct uffdio_api api = { .api = UFFD_API };
	int uffd = syscall(__NR_userfaultfd, O_CLOEXEC);

	if (uffd < 0)
		SKIP(return, "This kernel lacks CONFIG_USERFAULTFD");
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_API, &api));
	for (u64 mode = UFFDIO_REGISTER_MODE_MISSING; mode <= UFFDIO_REGISTER_MODE_MINOR;
	     mode <<= 1) {
		struct uffdio_register range = {
			.range = { (unsigned long)self->mem, self->size },
			.mode = mode,
		};

		EXPECT_ERRNO(EINVAL, ioctl(uffd, UFFDIO_REGISTER, &range));
	}
	close(uffd);
}

/* Merging would compare and copy the pages. The advice is accepted without effect. */
TEST_F(hidden, advice_to_merge_has_no_effect)
{
	char line[256], first[32];
	bool inside = false, merged = false, seen = false;
	FILE *f;

	if (madvise(self->mem, self->size, MADV_MERGEABLE)) {
		EXPECT_EQ(EINVAL, errno);
		SKIP(return, "This kernel lacks CONFIG_KSM");
	}
	snprintf(first, sizeof(first), "%lx-", (unsigned long)self->mem);
	f = fopen("/proc/self/smaps", "r");
	ASSERT_TRUE(f);
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, first, strlen(first)))
			inside = true;
		if (inside && !strncmp(line, "VmFlags:", 8)) {
			seen = true;
			merged = strstr(line, " mg");
			break;
		}
	}
	fclose(f);
	EXPECT_TRUE(seen);
	EXPECT_FALSE(merged);
}

static bool file_contains(const char *path, const char *what, size_t len)
{
	int fd = open(path, O_RDONLY);
	off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
	bool found = false;
	void *image;

	if (size > 0) {
		image = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (image != MAP_FAILED) {
			found = memmem(image, size, what, len);
			munmap(image, size);
		}
	}
	if (fd >= 0)
		close(fd);
	return found;
}

static bool write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

/* Even if coredump_filter selects everything, this memory is left out. */
TEST_F(hidden, a_core_dump_is_without)
{
	static const char pattern_file[] = "/proc/sys/kernel/core_pattern";
	char pattern[128] = "", path[64];
	char *plain = kvm_mmap(self->page_size, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1);
	int fd = open(pattern_file, O_RDONLY), status;
	pid_t child;

	if (fd < 0)
		SKIP(return, "This kernel lacks CONFIG_COREDUMP");
	ASSERT_GT(read(fd, pattern, sizeof(pattern) - 1), 0);
	close(fd);
	snprintf(path, sizeof(path), "/tmp/guest_memfd_access_test.%d", getpid());
	if (!write_text(pattern_file, path))
		SKIP(return, "Core dumps are not ours to configure");

	child = fork();
	ASSERT_GE(child, 0);
	if (!child) {
		struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };

		/* A pattern that is nowhere else in this process. */
		getrandom(plain, 16, 0);
		getrandom(self->mem, 16, 0);
		setrlimit(RLIMIT_CORE, &unlimited);
		write_text("/proc/self/coredump_filter", "0x1ff");
		abort();
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_TRUE(write_text(pattern_file, pattern));

	/* With core_uses_pid the file name has a suffix. */
	if (access(path, R_OK))
		snprintf(path + strlen(path), sizeof(path) - strlen(path), ".%d", child);
	EXPECT_TRUE(WCOREDUMP(status));
	EXPECT_TRUE(file_contains(path, plain, 16));
	EXPECT_FALSE(file_contains(path, self->mem, 16));
	unlink(path);
	kvm_munmap(plain, self->page_size);
}

/* Sends a command for @pages at @mem to the HMM test driver, which writes to @out. */
static int mirror(int hmm, unsigned long command, void *mem, long pages, void *out, long *done)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = (unsigned long)mem,
		.ptr = (unsigned long)out,
		.npages = pages,
	};
	int ret = ioctl(hmm, command, &cmd);

	*done = ret ? 0 : cmd.cpages;
	return ret;
}

/* Returns whether a device's page tables would have any of @pages at @mem. */
static bool mirror_sees(int hmm, void *mem, long pages)
{
	unsigned char state[PAGES] = {};
	long done;

	if (mirror(hmm, HMM_DMIRROR_SNAPSHOT, mem, pages, state, &done)) {
		TEST_ASSERT(errno == EFAULT, "A snapshot fails with %s", strerror(errno));
		return false;
	}
	for (long i = 0; i < pages; i++) {
		if (state[i] != HMM_DMIRROR_PROT_ERROR && state[i] != HMM_DMIRROR_PROT_NONE)
			return true;
	}
	return false;
}

/*
 * A device that mirrors a process walks its page tables without taking pages, and can
 * migrate pages to its own memory. The HMM test driver emulates such a device.
 */
TEST_F(hidden, a_mirroring_device_is_refused)
{
	int hmm = open("/dev/hmm_dmirror0", O_RDWR);
	char *both, *buffer, *plain;
	long done;

	if (hmm < 0)
		SKIP(return, "This kernel lacks CONFIG_TEST_HMM");
	buffer = kvm_mmap(self->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	plain = kvm_mmap(self->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	/* The same works on ordinary memory. */
	memset(plain, 1, self->size);
	EXPECT_TRUE(mirror_sees(hmm, plain, PAGES));
	ASSERT_EQ(0, mirror(hmm, HMM_DMIRROR_READ, plain, PAGES, buffer, &done));
	EXPECT_EQ(PAGES, done);
	EXPECT_EQ(1, buffer[self->size - 1]);
	memset(buffer, BYTE, self->size);
	ASSERT_EQ(0, mirror(hmm, HMM_DMIRROR_WRITE, plain, PAGES, buffer, &done));
	EXPECT_EQ(PAGES, done);
	EXPECT_TRUE(untouched(plain, self->size));
	memset(buffer, 0, self->size);
	ASSERT_EQ(0, mirror(hmm, HMM_DMIRROR_MIGRATE_TO_DEV, plain, PAGES, buffer, &done));
	EXPECT_EQ(PAGES, done);
	EXPECT_TRUE(untouched(buffer, self->size));
	EXPECT_TRUE(untouched(plain, self->size));

	memset(buffer, 1, self->size);
	EXPECT_FALSE(mirror_sees(hmm, self->mem, PAGES));
	EXPECT_ERRNO(EFAULT, mirror(hmm, HMM_DMIRROR_READ, self->mem, PAGES, buffer, &done));
	EXPECT_ERRNO(EFAULT, mirror(hmm, HMM_DMIRROR_READ_UNLOCKED, self->mem, PAGES, buffer,
				    &done));
	EXPECT_ERRNO(EFAULT, mirror(hmm, HMM_DMIRROR_WRITE, self->mem, PAGES, buffer, &done));
	EXPECT_ERRNO(EINVAL, mirror(hmm, HMM_DMIRROR_MIGRATE_TO_DEV, self->mem, PAGES, buffer,
				    &done));
	EXPECT_ERRNO(EINVAL, mirror(hmm, HMM_DMIRROR_MIGRATE_TO_SYS, self->mem, PAGES, buffer,
				    &done));
	EXPECT_ERRNO(EFAULT, mirror(hmm, HMM_DMIRROR_EXCLUSIVE, self->mem, PAGES, buffer, &done));
	EXPECT_EQ(1, buffer[0]);
	EXPECT_TRUE(untouched(self->mem, self->size));

	/* Refused as well after ordinary memory in the same request. */
	both = kvm_mmap(2 * self->page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1);
	*both = 1;
	ASSERT_EQ(both + self->page_size,
		  mmap(both + self->page_size, self->page_size, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_FIXED, self->fd, 0));
	EXPECT_ERRNO(EFAULT, mirror(hmm, HMM_DMIRROR_READ, both, 2, buffer, &done));
	EXPECT_ERRNO(EFAULT, mirror(hmm, HMM_DMIRROR_WRITE, both, 2, buffer, &done));
	EXPECT_ERRNO(EINVAL, mirror(hmm, HMM_DMIRROR_MIGRATE_TO_DEV, both, 2, buffer, &done));
	EXPECT_TRUE(untouched(self->mem, self->size));
	kvm_munmap(both, 2 * self->page_size);

	/* Refused as well where there is no page. Pages of secretmem cannot be punched. */
	if (!variant->secretmem) {
		ASSERT_EQ(0, fallocate(self->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0,
				       self->page_size));
		EXPECT_ERRNO(EFAULT, mirror(hmm, HMM_DMIRROR_READ, self->mem, 1, buffer, &done));
		EXPECT_FALSE(mirror_sees(hmm, self->mem, 1));
		EXPECT_EQ(0, *self->mem);
	}

	close(hmm);
	kvm_munmap(buffer, self->size);
	kvm_munmap(plain, self->size);
}

struct race {
	char *mem;
	size_t page_size;
	long got, refused;
	bool stop;
};

static void *take_pages(void *arg)
{
	struct race *r = arg;
	int pipes[2];

	TEST_ASSERT(!pipe(pipes), "Cannot create a pipe");
	while (!READ_ONCE(r->stop)) {
		for (size_t page = 0; page < 8; page++) {
			struct iovec iov = { r->mem + page * r->page_size, 1 };

			/* vmsplice() tries GUP-fast first. */
			if (vmsplice(pipes[1], &iov, 1, SPLICE_F_NONBLOCK) < 0 && errno == EFAULT)
				r->refused++;
			else
				r->got++;
		}
	}
	close(pipes[0]);
	close(pipes[1]);
	return NULL;
}

/*
 * Pages are allocated and removed all the time: a folio that is being removed no longer
 * has the mapping by which it is refused, and is not in the direct map yet.
 */
TEST_F_TIMEOUT(hidden, gup_fast_gets_nothing_while_pages_go, LONG)
{
	struct race r = { .mem = self->mem, .page_size = self->page_size };
	pthread_t thread;

	/* secretmem does not support punching holes. */
	if (variant->secretmem)
		return;
	ASSERT_EQ(0, pthread_create(&thread, NULL, take_pages, &r));
	for (int round = 0; round < 500; round++) {
		for (size_t page = 0; page < 8; page++)
			self->mem[page * self->page_size] = 1;
		ASSERT_EQ(0, fallocate(self->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0,
				       8 * self->page_size));
	}
	WRITE_ONCE(r.stop, true);
	pthread_join(thread, NULL);
	EXPECT_EQ(0, r.got);
	EXPECT_GT(r.refused, 0);
}

static void *touch(void *arg)
{
	struct race *r = arg;

	while (!READ_ONCE(r->stop)) {
		char byte = READ_ONCE(*r->mem);

		/* Either zero, as allocated, or the value that all threads write. */
		if (byte && byte != BYTE)
			r->got++;
		WRITE_ONCE(*r->mem, BYTE);
	}
	return NULL;
}

/* All threads touch one page, while another one punches and allocates it. */
TEST_F_TIMEOUT(hidden, faults_race_on_one_index, LONG)
{
	struct race r = { .mem = self->mem, .page_size = self->page_size };
	long cpus = sysconf(_SC_NPROCESSORS_ONLN) * 2;
	pthread_t threads[16];

	/* secretmem does not support punching holes. */
	if (variant->secretmem)
		return;
	if (cpus > 16)
		cpus = 16;
	for (long i = 0; i < cpus; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, touch, &r));
	for (int round = 0; round < 500; round++) {
		ASSERT_EQ(0, fallocate(self->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0,
				       self->page_size));
		if (round % 2)
			ASSERT_EQ(0, fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, self->page_size));
	}
	WRITE_ONCE(r.stop, true);
	for (long i = 0; i < cpus; i++)
		pthread_join(threads[i], NULL);
	EXPECT_EQ(0, r.got);
	EXPECT_TRUE(untouched(self->mem + self->page_size, self->size - self->page_size));
}

int main(int argc, char **argv)
{
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_GUEST_MEMFD));

	return test_harness_run(argc, argv);
}
