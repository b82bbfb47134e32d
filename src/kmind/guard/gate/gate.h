/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shared parts of the gates for sysctls and for sysfs: who the owner is, what is held, what
 * is approved, and the ring by which the owner is told.
 */
#ifndef KMIND_GATE_H
#define KMIND_GATE_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <kmind/abi.h>

enum gate_limit {
	GATE_NAME = 64,	 /* bytes of a sysctl's name, its end included */
	GATE_VALUE = 32, /* bytes of what is written that the gate looks at */
	GATE_COMM = 16,
	GATE_FILES = 256,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct task_struct {
	int tgid;
	struct task_struct *group_leader;
	__u64 start_boottime;
};

#pragma clang attribute pop

/* Below /proc/sys, as "vm/swappiness", or the path of a file in sysfs; filled up with zeros. */
struct gate_name {
	char text[GATE_NAME];
};

/* A file that is gated, and the knob that it belongs to. */
struct gate_file {
	struct kmind_grant_key key;
	__u32 own; /* 1: it is the knob itself; 0: writing it resets the knob */
	__u32 pad;
};

struct gate_held {
	__s64 baseline;
	__u32 noticed; /* an outsider wrote, and the owner has not settled with that yet */
	__u32 pad;
};

/* A process: its number may be given to another one day, its start may not. */
struct gate_owner {
	__u64 start;
	__u32 tgid;
	__u32 pad;
};

/* Python's struct in _gate_layout.py says the same. */
struct gate_event {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	struct kmind_grant_key key;
	__u32 pid;
	__u32 own;
	char comm[GATE_COMM];
	char name[GATE_NAME];
	char value[GATE_VALUE];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, GATE_FILES);
	__type(key, struct kmind_grant_key);
	__type(value, struct gate_held);
} km_gate_held SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gate_owner);
} km_gate_owner SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} km_gate_events SEC(".maps");

/* Written by admission, in the agents; the loader puts their map in its place. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, GATE_FILES);
	__type(key, struct kmind_grant_key);
	__type(value, struct kmind_approved);
} km_approved SEC(".maps");

static void identify(struct gate_owner *who)
{
	struct task_struct *task = bpf_get_current_task_btf();

	who->start = task->group_leader->start_boottime;
	who->tgid = task->tgid;
}

static int by_owner(void)
{
	struct gate_owner *owner, who = {};
	__u32 zero = 0;

	owner = bpf_map_lookup_elem(&km_gate_owner, &zero);
	if (!owner)
		return 0;
	identify(&who);
	return who.tgid == owner->tgid && who.start == owner->start;
}

/* Of somebody else's write to a file that is held. Its value is left to the caller. */
static struct gate_event *begin_event(const struct gate_name *name, const struct gate_file *file)
{
	struct gate_event *event = bpf_ringbuf_reserve(&km_gate_events, sizeof(*event), 0);
	struct task_struct *task = bpf_get_current_task_btf();

	if (!event)
		return event;
	event->time_ns = bpf_ktime_get_ns();
	event->key = file->key;
	event->pid = task->tgid;
	event->own = file->own;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	__builtin_memcpy(event->name, name->text, sizeof(event->name));
	return event;
}

/* Makes the process that runs it the owner. */
SEC("syscall")
int own(void *ctx)
{
	struct gate_owner who = {};
	__u32 zero = 0;

	(void)ctx;
	identify(&who);
	return bpf_map_update_elem(&km_gate_owner, &zero, &who, BPF_ANY);
}

#endif
