// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Programs for the tests of the binding: a syscall program with variables and maps.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 factor = 1;
const volatile __s16 offsets[4] = {1, 2, 3, 4};
const volatile char label[8] = "none";
const volatile struct {
	__u32 a, b;
} pair;

struct call {
	__u64 in;
	__u64 out;
	char label[8];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} per_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

SEC("syscall")
int multiply(struct call *call)
{
	__u64 in = call->in, out = in * factor + offsets[3] + pair.b;
	__u32 key = in, zero = 0;
	__u32 *count = bpf_map_lookup_elem(&per_cpu, &zero);

	if (count)
		*count += 1;
	call->out = out;
	for (int i = 0; i < 8; i++)
		call->label[i] = label[i];
	bpf_map_update_elem(&seen, &key, &out, BPF_ANY);
	bpf_ringbuf_output(&ring, &in, sizeof(in), 0);
	return -7;
}

// Refuses every access to a sysctl from the cgroup that it is attached to.
SEC("cgroup/sysctl")
int refuse(void *ctx)
{
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
