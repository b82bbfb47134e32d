// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A congestion control that is loaded, and never registered, to find out whether libbpf and
 * the kernel load one (struct_ops that end with their link: Linux 6.4, libbpf 1.2).
 */
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

struct sock;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct tcp_congestion_ops {
	__u32 (*ssthresh)(struct sock *sk);
	void (*cong_avoid)(struct sock *sk, __u32 ack, __u32 acked);
	__u32 (*undo_cwnd)(struct sock *sk);
	char name[16];
};
#pragma clang attribute pop

SEC("struct_ops/ssthresh")
__u32 ssthresh(void)
{
	return 2;
}

SEC("struct_ops/cong_avoid")
void cong_avoid(void)
{
}

SEC("struct_ops/undo_cwnd")
__u32 undo_cwnd(void)
{
	return 2;
}

/* The kernel asks for these three. */
SEC(".struct_ops.link")
struct tcp_congestion_ops kmind_probe = {
	.ssthresh = (void *)ssthresh,
	.cong_avoid = (void *)cong_avoid,
	.undo_cwnd = (void *)undo_cwnd,
	.name = "kmind_probe",
};

char _license[] SEC("license") = "GPL";
