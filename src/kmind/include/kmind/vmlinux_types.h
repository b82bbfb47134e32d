/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The few kernel types that agents look into. libbpf relocates each access to
 * the running kernel's own layout (CO-RE), so only names and types matter.
 */
#ifndef KMIND_VMLINUX_TYPES_H
#define KMIND_VMLINUX_TYPES_H

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct backing_dev_info;

struct super_block {
	__u32 s_dev;
	struct backing_dev_info *s_bdi;
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

struct file {
	struct address_space *f_mapping;
};

struct kiocb {
	struct file *ki_filp;
	long long ki_pos;
};

struct iov_iter {
	unsigned long count;
};

struct readahead_control {
	struct address_space *mapping;
};

struct vm_area_struct {
	struct file *vm_file;
};

struct vm_fault {
	struct vm_area_struct *vma;
	unsigned long pgoff;
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

/* Before Linux 6.15. */
struct folio___before {
	unsigned int _folio_nr_pages;
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

struct percpu_counter {
	long long count;
};

struct mm_struct {
	struct percpu_counter rss_stat[4];
};

struct signal_struct {
	unsigned long long sum_sched_runtime;
};

typedef struct {
	unsigned int val;
} kuid_t;

struct cred {
	kuid_t uid;
};

struct sched_entity {
	__u64 sum_exec_runtime;
};

struct task_struct {
	int pid;
	struct sched_entity se;
	struct mm_struct *mm;
	const struct cred *cred;
	struct signal_struct *signal;
};

struct seq_file;
struct bpf_map;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
};

struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	void *key;
	void *value;
};

enum pageflags {
	PG_head = 6,
};

#pragma clang attribute pop

/* Not relocated: it lies on a program's stack (include/uapi/linux/bpf.h). */
struct bpf_iter_task {
	__u64 __opaque[3];
} __attribute__((aligned(8)));

#define KM_ITER_ALL_PROCS 0    /* BPF_TASK_ITER_ALL_PROCS, Linux 6.7 */
#define KM_ITER_PROC_THREADS 2 /* BPF_TASK_ITER_PROC_THREADS, Linux 6.7 */
#define KM_MINOR_BITS 20       /* include/linux/kdev_t.h */
#define KM_PAGE_SHIFT 12
#define KM_REQ_OP_MASK 0xff /* include/linux/blk_types.h: REQ_OP_BITS is 8 */
#define KM_REQ_OP_READ 0
#define KM_REQ_OP_WRITE 1

#endif
