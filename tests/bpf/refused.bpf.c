// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A program that the verifier must refuse: it reads through a pointer that may be NULL.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} table SEC(".maps");

SEC("syscall")
int careless(void *ctx)
{
	__u32 key = 1;
	__u64 *value = bpf_map_lookup_elem(&table, &key);

	return *value; /* refused here */
}

SEC("?tp_btf/no_such_tracepoint")
int nowhere(void *ctx)
{
	return 0;
}

char _license[] SEC("license") = "GPL";
