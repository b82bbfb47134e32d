// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The static agent: what the disk does while its knob is held. */
/* The columns of a window; module.toml says what each means. */
enum static_feature {
	ST_REQUESTS,
	ST_BYTES,
	ST_DEVICE_NS,
};

#include <kmind/agent.h>

KM_FEATURES(static_feature);

SEC("tp_btf/block_rq_complete")
int KM_HOOK(on_complete, struct request *rq, int error, unsigned int bytes)
{
	struct gendisk *disk = rq->q->disk;
	struct km_cpu *own;
	__u32 cpu;

	if (!disk || !km_is_target((__u32)disk->major << KM_MINOR_BITS | (__u32)disk->first_minor))
		return 0;
	if ((rq->cmd_flags & KM_REQ_OP_MASK) > KM_REQ_OP_WRITE)
		return 0;
	own = km_this_cpu(&cpu);
	km_count(own, ST_REQUESTS, 1);
	km_count(own, ST_BYTES, bytes);
	if (rq->start_time_ns)
		km_count(own, ST_DEVICE_NS, bpf_ktime_get_ns() - rq->start_time_ns);
	return 0;
}
