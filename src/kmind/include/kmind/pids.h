/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Numbers of processes. A program sees those of the initial PID namespace, and who reads what it
 * prints may live in another one, a container, where the same process has another number
 * (pid_namespaces(7), include/linux/pid.h).
 */
#ifndef KMIND_PIDS_H
#define KMIND_PIDS_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct upid___km {
	int nr;
	void *ns;
};

struct pid___km {
	unsigned int level;
	struct upid___km numbers[1];
};

struct task_struct___km {
	int pid;
	struct pid___km *thread_pid;
};

#pragma clang attribute pop

static __always_inline struct upid___km *km_number(struct pid___km *pid, __u32 level)
{
	return (void *)pid + bpf_core_field_offset(struct pid___km, numbers) +
	       level * bpf_core_type_size(struct upid___km);
}

static __always_inline struct pid___km *km_pid_of(const void *task)
{
	return BPF_CORE_READ((struct task_struct___km *)task, thread_pid);
}

/* Depth of the current task's PID namespace; 0 is the initial one. */
static __always_inline __u32 km_pid_level(void)
{
	struct pid___km *own = km_pid_of((void *)bpf_get_current_task());

	return BPF_CORE_READ(own, level);
}

/* A task's number in the PID namespace of the current task; 0: it has none there. */
static __always_inline __u32 km_pid_here(const void *task)
{
	struct pid___km *own = km_pid_of((void *)bpf_get_current_task()), *other = km_pid_of(task);
	__u32 level = BPF_CORE_READ(own, level);

	if (!other || BPF_CORE_READ(other, level) < level)
		return 0;
	if (BPF_CORE_READ(km_number(own, level), ns) != BPF_CORE_READ(km_number(other, level), ns))
		return 0;
	return BPF_CORE_READ(km_number(other, level), nr);
}

#endif
