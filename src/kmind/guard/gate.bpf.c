// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The gate: sees each write to a sysctl before the kernel does.
 *
 * A sysctl that no instance holds is let through after one lookup. Of one that is
 * held, everybody but the owner may do with it what he likes, and the owner is told;
 * the owner himself gets only what was approved past it, or the value that stood
 * before. From an outsider's write on the owner gets nothing past it at all, until he
 * has settled with that write: so the admin's word is the last, however the two race.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "kmind.h"

#define REFUSE 0
#define PASS 1

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

/* Below /proc/sys, as "vm/swappiness"; filled up with zeros. */
struct gate_name {
	char text[GATE_NAME];
};

/* A sysctl that is gated, and the knob that it belongs to. */
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

/* Python's struct in gate.py says the same. */
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
	__type(key, struct gate_name);
	__type(value, struct gate_file);
} km_gate_files SEC(".maps");

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

/* With no room left the event is lost; the owner then sees the value when he reads it. */
static void tell(struct bpf_sysctl *ctx, const struct gate_name *name, const struct gate_file *file)
{
	struct gate_event *event = bpf_ringbuf_reserve(&km_gate_events, sizeof(*event), 0);
	struct task_struct *task = bpf_get_current_task_btf();

	if (!event)
		return;
	event->time_ns = bpf_ktime_get_ns();
	event->key = file->key;
	event->pid = task->tgid;
	event->own = file->own;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	__builtin_memcpy(event->name, name->text, sizeof(event->name));
	bpf_sysctl_get_new_value(ctx, event->value, sizeof(event->value));
	bpf_ringbuf_submit(event, 0);
}

/* The decimal number that is to be written; not 0 if it is none. */
static int number(struct bpf_sysctl *ctx, __s64 *value)
{
	char text[GATE_VALUE] = {};
	long parsed = 0;
	int length, used;

	length = bpf_sysctl_get_new_value(ctx, text, sizeof(text));
	if (length <= 0 || length >= GATE_VALUE)
		return -1;
	used = bpf_strtol(text, length, 10, &parsed);
	if (used <= 0)
		return -1;
	for (int i = 0; i < GATE_VALUE; i++) {
		if (i >= used && text[i] != '\n' && text[i] != ' ' && text[i] != '\0')
			return -1;
	}
	*value = parsed;
	return 0;
}

static int rewrite(struct bpf_sysctl *ctx, __s64 value)
{
	char text[GATE_VALUE] = {};
	long length = BPF_SNPRINTF(text, sizeof(text), "%lld", value);

	if (length <= 1 || length > GATE_VALUE)
		return REFUSE;
	/* The length that it returns includes the final zero. */
	return bpf_sysctl_set_new_value(ctx, text, length - 1) ? REFUSE : PASS;
}

SEC("cgroup/sysctl")
int gate(struct bpf_sysctl *ctx)
{
	struct kmind_approved *approved;
	struct gate_name name = {};
	struct kmind_grant_key key;
	struct gate_file *file;
	struct gate_held *held;
	__s64 value = 0;

	if (!ctx->write)
		return PASS;
	/* A name that is too long for us is none that we gate. */
	if (bpf_sysctl_get_name(ctx, name.text, sizeof(name.text), 0) < 0)
		return PASS;
	file = bpf_map_lookup_elem(&km_gate_files, &name);
	if (!file)
		return PASS;
	key = file->key;
	held = bpf_map_lookup_elem(&km_gate_held, &key);
	if (!held)
		return PASS;
	if (!by_owner()) {
		held->noticed = 1;
		tell(ctx, &name, file);
		return PASS;
	}
	/* The kernel may take a write that does not start at 0 for none (sysctl_writes_strict). */
	if (!file->own || held->noticed || ctx->file_pos)
		return REFUSE;
	approved = bpf_map_lookup_elem(&km_approved, &key);
	if (!number(ctx, &value) &&
	    (value == held->baseline || (approved && value == approved->value)))
		return PASS;
	return approved ? rewrite(ctx, approved->value) : REFUSE;
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

char LICENSE[] SEC("license") = "Dual BSD/GPL";
