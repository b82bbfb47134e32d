// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Lists the regular files that processes hold open or mapped, with their
 * readahead state: two iterators that print binary records. Only files whose
 * readahead follows a disk's read_ahead_kb are listed.
 */
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include <kmind/pids.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct backing_dev_info;

struct gendisk {
	int major;
	int first_minor;
	struct backing_dev_info *bdi;
};

struct block_device {
	struct gendisk *bd_disk;
};

struct super_block {
	__u32 s_dev;
	struct block_device *s_bdev;
	struct backing_dev_info *s_bdi;
};

struct inode {
	__u16 i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
};

struct file_ra_state {
	unsigned long start;
	unsigned int size;
	unsigned int ra_pages;
};

struct file {
	unsigned int f_mode;
	struct inode *f_inode;
	struct file_ra_state f_ra;
};

struct task_struct {
	struct task_struct *group_leader;
};

struct vm_area_struct {
	struct file *vm_file;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

struct bpf_iter__task_vma {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	struct vm_area_struct *vma;
};

#pragma clang attribute pop

/* Python's struct in openfiles.py says the same. */
struct open_file {
	__u64 file; /* which struct file: descriptors may share one */
	__u64 inode;
	__u64 start; /* of what was read ahead last, in pages */
	__u32 disk;  /* dev_t of the whole disk */
	__u32 dev;   /* dev_t of the file system */
	__s32 pid;   /* as who reads this numbers it */
	__s32 tgid;
	__u32 fd;
	__u32 mode;
	__u32 ra_pages;
	__u32 window; /* how many pages were read ahead last */
};

#define MINOR_BITS 20 /* include/linux/kdev_t.h */
#define S_IFMT 0170000
#define S_IFREG 0100000

static void print(struct bpf_iter_meta *meta, struct task_struct *task, struct file *file, __u32 fd)
{
	struct inode *inode = file->f_inode;
	struct super_block *sb = inode->i_sb;
	struct block_device *bdev = sb->s_bdev;
	struct open_file out = {};

	if ((inode->i_mode & S_IFMT) != S_IFREG || !bdev)
		return;
	/* btrfs and others read ahead by a value of their own, not the disk's. */
	if (bdev->bd_disk->bdi != sb->s_bdi)
		return;
	out.file = (__u64)file;
	out.inode = inode->i_ino;
	out.disk = (__u32)bdev->bd_disk->major << MINOR_BITS | bdev->bd_disk->first_minor;
	out.dev = sb->s_dev;
	out.pid = km_pid_here(task);
	out.tgid = km_pid_here(task->group_leader);
	out.fd = fd;
	out.mode = file->f_mode;
	/* By the helper: f_ra shares its place with others, and the verifier takes the first. */
	bpf_core_read(&out.start, sizeof(out.start), &file->f_ra.start);
	bpf_core_read(&out.window, sizeof(out.window), &file->f_ra.size);
	out.ra_pages = file->f_ra.ra_pages;
	bpf_seq_write(meta->seq, &out, sizeof(out));
}

SEC("iter/task_file")
int descriptors(struct bpf_iter__task_file *ctx)
{
	/* Copies: the verifier forgets what it knew of a field that is read twice. */
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;

	/* Both are absent in the last call, which ends the listing. */
	if (task && file)
		print(ctx->meta, task, file, ctx->fd);
	return 0;
}

SEC("iter/task_vma")
int mappings(struct bpf_iter__task_vma *ctx)
{
	struct task_struct *task = ctx->task;
	struct vm_area_struct *vma = ctx->vma;
	struct file *file;

	if (!task || !vma)
		return 0;
	file = vma->vm_file;
	if (file)
		print(ctx->meta, task, file, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
