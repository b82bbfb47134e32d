// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The autotune agent: which phase the machine is in, by its I/O and its memory. */
/* The columns of a window; module.toml says what each means. */
enum autotune_feature {
	AT_REQUESTS,
	AT_READS,
	AT_BYTES,
	AT_FLUSHES,
	AT_DEVICE_NS,
	AT_RECLAIMS,
};

#include <kmind/agent.h>

#define AT_REQ_OP_FLUSH 2 /* include/linux/blk_types.h */

KM_FEATURES(autotune_feature);

/* Bound to no disk, it counts them all. */
static __always_inline bool at_is_target(struct request *rq)
{
	struct gendisk *disk = rq->q->disk;

	if (!disk)
		return false;
	return !km_nr_devices ||
	       km_is_target((__u32)disk->major << KM_MINOR_BITS | (__u32)disk->first_minor);
}

SEC("tp_btf/block_rq_complete")
int KM_HOOK(on_complete, struct request *rq, int error, unsigned int bytes)
{
	__u32 op = rq->cmd_flags & KM_REQ_OP_MASK, cpu;
	struct km_cpu *own;

	if (op > AT_REQ_OP_FLUSH || !at_is_target(rq))
		return 0;
	own = km_this_cpu(&cpu);
	if (op == AT_REQ_OP_FLUSH) {
		km_count(own, AT_FLUSHES, 1);
		return 0;
	}
	km_count(own, AT_REQUESTS, 1);
	km_count(own, AT_READS, op == 0);
	km_count(own, AT_BYTES, bytes);
	if (rq->start_time_ns)
		km_count(own, AT_DEVICE_NS, bpf_ktime_get_ns() - rq->start_time_ns);
	return 0;
}

/* A task has to free memory itself before it gets some. */
SEC("tp_btf/mm_vmscan_direct_reclaim_begin")
int KM_TASK_HOOK(on_reclaim)
{
	__u32 cpu;

	km_count(km_this_cpu(&cpu), AT_RECLAIMS, 1);
	return 0;
}
