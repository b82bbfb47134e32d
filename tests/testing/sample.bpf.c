// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The agent of the module that test_contract.py writes: one hook, two features, a table. */
enum sample_feature {
	SAMPLE_READS,
	SAMPLE_LEFT,
};

#define KM_GAUGES (1ULL << SAMPLE_LEFT)
#define KM_TABLES(table) table(files)
#include <kmind/agent.h>
#include <kmind/table.h>

KM_FEATURES(sample_feature);
const volatile __u32 param_step = 1;

struct files_key {
	__u32 device;
	__u32 kind;
};

struct files_row {
	KM_ROW(struct files_key);
	__u64 faults;
	__u64 pages[KM_BUCKETS(0, 0, 8)];
} KM_ROW_ALIGNED;

KM_TABLE(files);

SEC("tp_btf/mm_filemap_fault")
int KM_HOOK(on_fault, struct address_space *mapping, unsigned long index)
{
	struct files_key key = {.device = 7};
	struct files_row *row = km_files(&key);
	__u32 cpu;

	if (row) {
		km_add(&row->faults, 1);
		km_observe(row->pages, 0, 0, 8, index);
	}
	km_count(km_this_cpu(&cpu), SAMPLE_READS, param_step);
	km_set_gauge(SAMPLE_LEFT, index);
	return 0;
}
