// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Cost of one verdict for the hook that gives it. */
#include <kmind/agent.h>

struct bench_admit_args {
	__u64 ns;
};

/* As a hook ends: one recommendation answered, or none there. */
SEC("syscall")
int bench_admit(struct bench_admit_args *args)
{
	__u64 start;

	KM_USES_ARENA();
	start = bpf_ktime_get_ns();
	km_admit(1);
	args->ns = bpf_ktime_get_ns() - start;
	return 0;
}
