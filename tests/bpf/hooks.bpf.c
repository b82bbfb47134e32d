// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A tracepoint program that counts into an arena, and a task iterator.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define __arena __attribute__((address_space(1)))

struct {
	__uint(type, 33);	    // BPF_MAP_TYPE_ARENA, which these headers may not know
	__uint(map_flags, 1 << 10); // BPF_F_MMAPABLE
	__uint(max_entries, 1);
} arena SEC(".maps");

const volatile __u64 arena_base = 0;
const volatile __u32 watched_pid = 0;

struct task_struct {
	int pid;
	int tgid;
} __attribute__((preserve_access_index));

struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
} __attribute__((preserve_access_index));

// Only the sys_enter tracepoint and the task's own calls: counts nobody else's.
SEC("tp_btf/sys_enter")
int count_calls(__u64 *ctx)
{
	__u64 __arena *slots = (void __arena *)arena_base;

	// The verifier ties the program to its arena by this reference.
	asm volatile("" ::"r"(&arena));
	if (bpf_get_current_pid_tgid() >> 32 != watched_pid)
		return 0;
	__sync_fetch_and_add(&slots[0], 1);
	*(volatile __u64 __arena *)&slots[513] = ctx[1];
	return 0;
}

SEC("iter/task")
int list_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;

	if (task && task->pid == task->tgid)
		BPF_SEQ_PRINTF(ctx->meta->seq, "%d\n", task->pid);
	return 0;
}

char _license[] SEC("license") = "GPL";
