// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * An agent that counts how often tasks rename themselves to "km:" and a number,
 * and pushes that number: a test knows from elsewhere how often they did.
 */
#include <kmind/agent.h>

#define PREFIX 0x3a6d6b /* "km:" */

static __always_inline bool is_ours(const char *name, __u64 *number)
{
	__u32 prefix = 0;

	bpf_probe_read_kernel(&prefix, sizeof(prefix), name);
	bpf_probe_read_kernel(number, sizeof(*number), name + 4);
	return (prefix & 0xffffff) == PREFIX;
}

SEC("tp_btf/task_rename")
int KM_HOOK(on_rename, void *task, const char *name)
{
	__u64 number = 0;
	__u32 cpu;

	if (!is_ours(name, &number))
		return 0;
	km_count(km_this_cpu(&cpu), 0, 1);
	km_push(KMIND_KIND_MODULE, 0, number, 0);
	return 0;
}

/* In interrupts, between two programs of the event above, and anywhere else. */
SEC("tp_btf/hrtimer_expire_exit")
int KM_HOOK(on_timer, void *timer)
{
	__u32 cpu;

	km_count(km_this_cpu(&cpu), 1, 1);
	return 0;
}
