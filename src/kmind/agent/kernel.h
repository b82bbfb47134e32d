/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The few kernel types that agents look into. libbpf relocates each access to
 * the running kernel's own layout (CO-RE), so only names and types matter.
 */
#ifndef KMIND_KERNEL_H
#define KMIND_KERNEL_H

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct super_block {
	__u32 s_dev;
};

struct address_space;

struct inode {
	struct super_block *i_sb;
	struct address_space *i_mapping;
	unsigned long i_ino;
	long long i_size;
};

struct address_space {
	struct inode *host;
	unsigned long nrpages;
};

struct file_ra_state {
	unsigned int size;
	unsigned int ra_pages;
};

typedef struct {
	long counter;
} atomic_long_t;

struct page_counter {
	atomic_long_t usage;
	unsigned long max;
	struct page_counter *parent;
};

struct zone {
	atomic_long_t vm_stat[1];
};

struct pglist_data {
	struct zone node_zones[1];
	int nr_zones;
};

struct lruvec {
	struct pglist_data *pgdat;
};

struct mem_cgroup_per_node {
	struct lruvec lruvec;
};

struct mem_cgroup {
	struct page_counter memory;
	struct mem_cgroup_per_node *nodeinfo[1];
};

struct folio {
	struct address_space *mapping;
	unsigned long index;
	unsigned long memcg_data;
	unsigned int _nr_pages;
};

struct gendisk {
	int major;
	int first_minor;
};

struct request_queue {
	struct gendisk *disk;
};

struct request {
	struct request_queue *q;
	unsigned int cmd_flags;
	unsigned int __data_len;
	unsigned long __sector;
	__u64 start_time_ns;
};

enum pageflags {
	PG_head = 6,
};

#pragma clang attribute pop

#define KM_MINOR_BITS 20 /* include/linux/kdev_t.h */
#define KM_PAGE_SHIFT 12
#define KM_REQ_OP_MASK 0xff /* include/linux/blk_types.h: REQ_OP_BITS is 8 */
#define KM_REQ_OP_READ 0
#define KM_REQ_OP_WRITE 1

#endif
