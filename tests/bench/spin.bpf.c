// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A program that takes some time when it is told to.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("syscall")
int spin(__u64 *turns)
{
	__u64 i;

	for (i = 0; i < 100 && i < *turns; i++)
		bpf_ktime_get_ns();
	return 0;
}

char _license[] SEC("license") = "GPL";
