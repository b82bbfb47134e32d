// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The agent of the module that test_contract.py writes: one hook, two features. */
enum sample_feature {
	SAMPLE_READS,
	SAMPLE_LEFT,
};

#define KM_GAUGES (1ULL << SAMPLE_LEFT)
#include <kmind/agent.h>

KM_FEATURES(sample_feature);
const volatile __u32 param_step = 1;

SEC("tp_btf/mm_filemap_fault")
int KM_HOOK(on_fault, struct address_space *mapping, unsigned long index)
{
	__u32 cpu;

	km_count(km_this_cpu(&cpu), SAMPLE_READS, param_step);
	km_set_gauge(SAMPLE_LEFT, index);
	return 0;
}
