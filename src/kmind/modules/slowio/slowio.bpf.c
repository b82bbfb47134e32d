// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The slow I/O agent: how long each request stays in the disk, against what
 * requests of its class took.
 *
 * A class is an operation, a size and a depth (how many requests the disk had
 * when this one came): a disk that is asked for more takes longer, and is not
 * slow for that. Two references are kept for each class. The running median
 * goes along with the load, and says which single request is an outlier. The
 * median that was held when the class had been learnt stays, and says whether
 * the disk as a whole has become slow: features count the ratios to it.
 */
/* The columns of a window; module.toml says what each means. */
enum slowio_feature {
	SIO_READS,
	SIO_WRITES,
	SIO_OTHERS,
	SIO_ERRORS,
	SIO_BYTES,
	SIO_DEVICE_NS,
	SIO_UNTIMED,
	SIO_LEARNING,
	SIO_OUTLIERS,
	SIO_RATIO_00,
	SIO_RATIO_01,
	SIO_RATIO_02,
	SIO_RATIO_03,
	SIO_RATIO_04,
	SIO_RATIO_05,
	SIO_RATIO_06,
	SIO_RATIO_07,
	SIO_RATIO_08,
	SIO_RATIO_09,
	SIO_RATIO_10,
	SIO_RATIO_11,
};

#include <kmind/blk_inflight.h>

#define SIO_CLASSES 32
#define SIO_LEARN 256 /* requests of a class before its median is held */
#define SIO_NS_PER_S 1000000000ULL
#define SIO_US_MAX 0xffffffffULL

KM_FEATURES(slowio_feature);
const volatile __u32 param_outlier = 16;
const volatile __u32 param_learn = 10;

/* Races between CPUs cost a sample, no more. */
struct sio_class {
	__u64 requests;
	__u64 first_ns;
	__u64 median_ns;
	__u64 spread_ns; /* running median of the distance to the median */
	__u64 held_ns;	 /* 0: still learning */
};

static struct sio_class sio_classes[SIO_CLASSES];

static __always_inline __u32 sio_class_of(__u32 op, __u32 bytes, __u64 depth)
{
	__u32 size = (bytes > 8 << 10) + (bytes > 64 << 10) + (bytes > 512 << 10);
	__u32 load = (depth > 1) + (depth > 4) + (depth > 16);

	return (op & 1) | size << 1 | load << 3;
}

/*
 * A median without a memory: one step towards each sample, however far it is,
 * so no outlier moves it by more than that. M. Ma, S. Muthukrishnan and
 * M. Sandler, "Frugal Streaming for Estimating Quantiles" (2013), with steps
 * that are a share of the estimate.
 */
static __always_inline __u64 sio_step(__u64 estimate, __u64 sample, __u32 shift)
{
	__u64 step = (estimate >> shift) + 1;

	if (sample > estimate)
		return estimate + step;
	return sample < estimate && estimate > step ? estimate - step : estimate;
}

/* Into which of twelve bins a ratio in 1/64 falls; extension.py has the same edges. */
static __always_inline __u32 sio_bin(__u64 ratio)
{
	__u32 bin = 0;

	bin += ratio >= 16;
	bin += ratio >= 32;
	bin += ratio >= 45;
	bin += ratio >= 54;
	bin += ratio >= 64;
	bin += ratio >= 76;
	bin += ratio >= 91;
	bin += ratio >= 128;
	bin += ratio >= 181;
	bin += ratio >= 256;
	bin += ratio >= 512;
	return bin;
}

static __always_inline __u64 sio_us(__u64 ns)
{
	return ns / 1000 < SIO_US_MAX ? ns / 1000 : SIO_US_MAX;
}

/* One request was timed: compare it, then learn from it. */
static __noinline int sio_judge(__u32 number, __u64 took, __u64 now)
{
	struct sio_class *class = &sio_classes[number & (SIO_CLASSES - 1)];
	__u64 median = class->median_ns, spread = class->spread_ns, held = class->held_ns;
	struct km_cpu *own;
	__u32 cpu, shift;

	KM_USES_ARENA();
	own = km_this_cpu(&cpu);
	if (!held) {
		km_count_atomic(own, SIO_LEARNING, 1);
	} else {
		/* The mask is for the verifier. */
		km_count_atomic(own, SIO_RATIO_00 + (sio_bin((took << 6) / held) & 15), 1);
		if (took > 2 * median && took > median + param_outlier * spread) {
			km_count_atomic(own, SIO_OUTLIERS, 1);
			km_push(KMIND_KIND_MODULE, number, sio_us(took) << 32 | sio_us(median),
				now);
		}
	}
	if (!class->requests) {
		class->first_ns = now;
		median = took;
		spread = took >> 2;
	}
	/* Large steps first, to get there soon. */
	shift = class->requests < 32 ? 3 : class->requests < 128 ? 5 : 7;
	class->requests++;
	class->median_ns = sio_step(median, took, shift);
	class->spread_ns = sio_step(spread, took > median ? took - median : median - took, shift);
	if (!held && class->requests >= SIO_LEARN &&
	    now - class->first_ns >= param_learn * SIO_NS_PER_S)
		class->held_ns = class->median_ns;
	return 0;
}

SEC("tp_btf/block_rq_complete")
int KM_HOOK(on_complete, struct request *rq, int error, unsigned int bytes)
{
	__u32 cpu, op = rq->cmd_flags & KM_REQ_OP_MASK;
	struct km_flight flight;
	struct km_cpu *own;
	__u64 now, took;

	if (!km_is_targets(rq))
		return 0;
	own = km_this_cpu(&cpu);
	if (op > KM_REQ_OP_WRITE || !bytes) {
		/* A flush, a discard, or the end of a write that had a flush around it. */
		km_count_atomic(own, SIO_OTHERS, 1);
		return 0;
	}
	km_count_atomic(own, SIO_BYTES, bytes);
	if (bytes < rq->__data_len)
		return 0; /* a part of it: the rest follows */
	km_count_atomic(own, op == KM_REQ_OP_READ ? SIO_READS : SIO_WRITES, 1);
	if (error)
		km_count_atomic(own, SIO_ERRORS, 1);
	now = bpf_ktime_get_ns();
	if (!km_flight_end(km_flight_name(ctx), &flight)) {
		km_count_atomic(own, SIO_UNTIMED, 1);
		return 0;
	}
	took = now - flight.issued_ns;
	km_count_atomic(own, SIO_DEVICE_NS, took);
	sio_judge((__u32)flight.note, took, now);
	return 0;
}

SEC("tp_btf/block_rq_issue")
int KM_HOOK(on_issue, struct request *rq)
{
	__u32 op = rq->cmd_flags & KM_REQ_OP_MASK, bytes = rq->__data_len;

	if (op > KM_REQ_OP_WRITE || !bytes || !km_is_targets(rq))
		return 0;
	km_flight_begin(km_flight_name(ctx), sio_class_of(op, bytes, READ_ONCE(km_in_flight) + 1));
	return 0;
}
