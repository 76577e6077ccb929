/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What maps a page in the kernel's direct map, as /proc/kcore and debugfs show it.
 */
#ifndef SELFTEST_KVM_DIRECT_MAP_H
#define SELFTEST_KVM_DIRECT_MAP_H

#include <fcntl.h>
#include <linux/elf.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kvm_util.h"
#include "test_util.h"

/* Returns the physical address of the page at @mem, or 0 if it is not mapped. */
static inline unsigned long phys_addr(void *mem)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	u64 entry = 0;

	TEST_ASSERT(pread(fd, &entry, sizeof(entry),
			  (unsigned long)mem / getpagesize() * sizeof(entry)) == sizeof(entry),
		    "Cannot read /proc/self/pagemap");
	close(fd);
	return (entry & ((1ULL << 55) - 1)) * getpagesize();
}

/* Returns the address of @phys in the direct map, or 0 if /proc/kcore does not have it. */
static inline unsigned long direct_map_addr(unsigned long phys)
{
	unsigned long addr = 0;
	struct elf64_hdr header;
	struct elf64_phdr segment;
	int fd;

	fd = open("/proc/kcore", O_RDONLY);
	if (fd < 0)
		return 0;
	if (pread(fd, &header, sizeof(header), 0) != sizeof(header))
		header.e_phnum = 0;
	for (int i = 0; i < header.e_phnum; i++) {
		off_t at = header.e_phoff + i * sizeof(segment);

		if (pread(fd, &segment, sizeof(segment), at) != sizeof(segment) ||
		    segment.p_type != PT_LOAD || segment.p_paddr == -1ULL ||
		    phys - segment.p_paddr >= segment.p_memsz)
			continue;
		/* The image of the kernel has another mapping, above. */
		if (!addr || segment.p_vaddr < addr)
			addr = segment.p_vaddr + phys - segment.p_paddr;
	}
	close(fd);
	return addr;
}

/*
 * Reads what debugfs has about the entry for @addr: its flags, none if it is not present,
 * and its level, in @text. Returns false if debugfs does not show it.
 */
static inline bool direct_map_entry(unsigned long addr, char *text, size_t size)
{
	unsigned long start, end;
	bool found = false;
	char line[256];
	int flags;
	FILE *f;

	f = fopen("/sys/kernel/debug/page_tables/kernel", "r");
	if (!f)
		f = fopen("/sys/kernel/debug/kernel_page_tables", "r");
	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f)) {
		/* Adjacent entries that are alike have one line, with their size. */
		if (sscanf(line, "0x%lx-0x%lx %*s%n", &start, &end, &flags) != 2)
			continue;
		found = start <= addr && addr < end;
		if (found)
			snprintf(text, size, "%s", line + flags);
	}
	fclose(f);
	return found;
}

/* Returns whether an entry as of direct_map_entry() is present. */
static inline bool entry_is_present(const char *text)
{
	return (strstr(text, " RW ") || strstr(text, " ro ")) && !strstr(text, " F ");
}

/* Returns whether an entry is of the lowest level. */
static inline bool entry_is_small(const char *text)
{
	return strstr(text, " pte") || strstr(text, " PTE");
}

#endif /* SELFTEST_KVM_DIRECT_MAP_H */
