// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The block I/O agent: a record for each read and write of a disk, made when it
 * is done. module.toml says where in the record each number stands.
 */
/* The columns of a window; module.toml says what each means. */
enum blockio_feature {
	BIO_READS,
	BIO_WRITES,
	BIO_ERRORS,
	BIO_READ_BYTES,
	BIO_WRITE_BYTES,
	BIO_READ_NS,
	BIO_WRITE_NS,
	BIO_UNTIMED,
};

#include <kmind/blk_inflight.h>

#define BIO_SECTORS 0xffffULL	     /* larger requests count as that */
#define BIO_FAR 0x7fff		     /* sectors: what is further away counts as that */
#define BIO_NS ((1ULL << 40) - 1)    /* 18 minutes: longer ones count as that */
#define BIO_DEPTH ((1ULL << 16) - 1) /* more in the disk count as that */

KM_FEATURES(blockio_feature);

static __u64 bio_end; /* sector after the request that was issued last */

/* Only the hooks know the sector where a request begins: it moves as parts are done. */
SEC("tp_btf/block_rq_complete")
int KM_HOOK(on_complete, struct request *rq, int error, unsigned int bytes)
{
	__u32 cpu, op = rq->cmd_flags & KM_REQ_OP_MASK;
	struct km_flight flight;
	struct km_cpu *own;
	__u64 took;

	if (op > KM_REQ_OP_WRITE || !bytes || !km_is_targets(rq))
		return 0;
	own = km_this_cpu(&cpu);
	km_count_atomic(own, op == KM_REQ_OP_READ ? BIO_READ_BYTES : BIO_WRITE_BYTES, bytes);
	if (bytes < rq->__data_len)
		return 0; /* a part of it: the rest follows */
	km_count_atomic(own, op == KM_REQ_OP_READ ? BIO_READS : BIO_WRITES, 1);
	if (error)
		km_count_atomic(own, BIO_ERRORS, 1);
	if (!km_flight_end(km_flight_name(ctx), &flight)) {
		km_count_atomic(own, BIO_UNTIMED, 1);
		return 0;
	}
	took = bpf_ktime_get_ns() - flight.issued_ns;
	took = took < BIO_NS ? took : BIO_NS;
	km_count_atomic(own, op == KM_REQ_OP_READ ? BIO_READ_NS : BIO_WRITE_NS, took);
	km_push(KMIND_KIND_MODULE + op, (__u32)flight.note,
		took | flight.note >> 32 << 40 | (error ? 1ULL << 56 : 0), flight.issued_ns);
	return 0;
}

SEC("tp_btf/block_rq_issue")
int KM_HOOK(on_issue, struct request *rq)
{
	__u32 op = rq->cmd_flags & KM_REQ_OP_MASK, bytes = rq->__data_len;
	__u64 sectors = bytes >> 9, sector = rq->__sector, depth;
	long distance;

	if (op > KM_REQ_OP_WRITE || !bytes || !km_is_targets(rq))
		return 0;
	distance = (long)(sector - READ_ONCE(bio_end));
	distance = distance < BIO_FAR ? distance : BIO_FAR;
	distance = distance > -BIO_FAR ? distance : -BIO_FAR;
	WRITE_ONCE(bio_end, sector + sectors);
	sectors = sectors < BIO_SECTORS ? sectors : BIO_SECTORS;
	depth = READ_ONCE(km_in_flight) + 1;
	depth = depth < BIO_DEPTH ? depth : BIO_DEPTH;
	km_flight_begin(km_flight_name(ctx),
			sectors | ((__u64)distance & 0xffff) << 16 | depth << 32);
	return 0;
}
