// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The gate for files of sysfs, where the kernel asks BPF security modules.
 *
 * As in gate.bpf.c, everybody but the owner writes as ever, and the owner is told; the
 * owner himself writes only while something is approved. What he writes is not seen
 * here: the actuator compares it with the approval, and reads it back.
 */
#include "gate.h"

#define PASS 0
#define REFUSE -1 /* EPERM */

#define MAY_WRITE 2
#define SYSFS_MAGIC 0x62656572

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct super_block {
	unsigned long s_magic;
};

struct inode {
	struct super_block *i_sb;
	unsigned long i_ino;
};

struct file {
	struct inode *f_inode;
};

#pragma clang attribute pop

struct lsm_file {
	struct gate_file file;
	struct gate_name name;
};

/*
 * By number of the inode. All mounts of sysfs show one tree, whose numbers are unique;
 * their devices differ by network namespace, and say nothing.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, GATE_FILES);
	__type(key, __u64);
	__type(value, struct lsm_file);
} km_lsm_files SEC(".maps");

/* Knob that the owner is putting back to its previous value. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, GATE_FILES);
	__type(key, struct kmind_grant_key);
	__type(value, __u32);
} km_lsm_returns SEC(".maps");

SEC("lsm/file_permission")
int gate_sysfs(__u64 *ctx)
{
	struct file *file = (struct file *)ctx[0];
	struct inode *inode = file->f_inode;
	int mask = (int)ctx[1];
	struct kmind_grant_key key;
	struct gate_event *event;
	struct gate_held *held;
	struct lsm_file *found;
	__u64 number;

	if (!(mask & MAY_WRITE) || inode->i_sb->s_magic != SYSFS_MAGIC)
		return PASS;
	number = inode->i_ino;
	found = bpf_map_lookup_elem(&km_lsm_files, &number);
	if (!found)
		return PASS;
	key = found->file.key;
	held = bpf_map_lookup_elem(&km_gate_held, &key);
	if (!held)
		return PASS;
	if (!by_owner()) {
		held->noticed = 1;
		event = begin_event(&found->name, &found->file);
		if (event) {
			__builtin_memset(event->value, 0, sizeof(event->value));
			bpf_ringbuf_submit(event, 0);
		}
		return PASS;
	}
	if (held->noticed)
		return REFUSE;
	if (bpf_map_lookup_elem(&km_approved, &key) || bpf_map_lookup_elem(&km_lsm_returns, &key))
		return PASS;
	return REFUSE;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
