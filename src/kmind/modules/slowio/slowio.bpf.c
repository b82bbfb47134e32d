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

#include "agent.h"

#define SIO_FLIGHTS 4096 /* requests in the disk that can be timed */
#define SIO_CLASSES 32
#define SIO_LEARN 256 /* requests of a class before its median is held */
#define SIO_NS_PER_S 1000000000ULL
#define SIO_US_MAX 0xffffffffULL

KM_FEATURES(slowio_feature);
const volatile __u32 param_outlier = 16;
const volatile __u32 param_learn = 10;

/* A request in the disk. Two that share a place: the earlier one goes untimed. */
struct sio_flight {
	__u64 request;
	__u64 issued_ns;
	__u64 class;
};

/* Races between CPUs cost a sample, no more. */
struct sio_class {
	__u64 requests;
	__u64 first_ns;
	__u64 median_ns;
	__u64 spread_ns; /* running median of the distance to the median */
	__u64 held_ns;	 /* 0: still learning */
};

static struct sio_flight sio_flights[SIO_FLIGHTS];
static struct sio_class sio_classes[SIO_CLASSES];
static __u64 sio_depth;

/* Completions come in interrupts and in tasks: only an atomic addition loses none. */
static __always_inline void sio_count(struct km_cpu *own, __u32 feature, __u64 by)
{
	__sync_fetch_and_add(&own->value[feature], by);
}

static __always_inline bool sio_is_ours(struct request *rq)
{
	struct gendisk *disk = rq->q->disk;

	return disk && km_is_target((__u32)disk->major << KM_MINOR_BITS | (__u32)disk->first_minor);
}

/* A hook's first argument as a number: the verifier allows no sums with a pointer. */
static __always_inline __u64 sio_name(const void *arguments)
{
	__u64 name = 0;

	bpf_probe_read_kernel(&name, sizeof(name), arguments);
	return name;
}

static __always_inline struct sio_flight *sio_place(__u64 name)
{
	return &sio_flights[(name * 0x9e3779b97f4a7c15ULL >> 40) & (SIO_FLIGHTS - 1)];
}

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
		sio_count(own, SIO_LEARNING, 1);
	} else {
		/* The mask is for the verifier. */
		sio_count(own, SIO_RATIO_00 + (sio_bin((took << 6) / held) & 15), 1);
		if (took > 2 * median && took > median + param_outlier * spread) {
			sio_count(own, SIO_OUTLIERS, 1);
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

/*
 * Hooks are attached in the order in which they stand here: this one first, or
 * what came and went in between would be counted as in the disk for ever.
 */
SEC("tp_btf/block_rq_complete")
int KM_HOOK(on_complete, struct request *rq, int error, unsigned int bytes)
{
	__u32 cpu, op = rq->cmd_flags & KM_REQ_OP_MASK;
	struct sio_flight *flight;
	struct km_cpu *own;
	__u64 now, took, name;

	if (!sio_is_ours(rq))
		return 0;
	own = km_this_cpu(&cpu);
	if (op > KM_REQ_OP_WRITE || !bytes) {
		/* A flush, a discard, or the end of a write that had a flush around it. */
		sio_count(own, SIO_OTHERS, 1);
		return 0;
	}
	sio_count(own, SIO_BYTES, bytes);
	if (bytes < rq->__data_len)
		return 0; /* a part of it: the rest follows */
	sio_count(own, op == KM_REQ_OP_READ ? SIO_READS : SIO_WRITES, 1);
	if (error)
		sio_count(own, SIO_ERRORS, 1);
	name = sio_name(ctx);
	flight = sio_place(name);
	now = bpf_ktime_get_ns();
	took = now - flight->issued_ns;
	if (__sync_val_compare_and_swap(&flight->request, name, 0) != name) {
		sio_count(own, SIO_UNTIMED, 1);
		return 0;
	}
	__sync_fetch_and_sub(&sio_depth, 1);
	sio_count(own, SIO_DEVICE_NS, took);
	sio_judge((__u32)flight->class, took, now);
	return 0;
}

/* The disk gets a request: from here on the time is its own. */
SEC("tp_btf/block_rq_issue")
int KM_HOOK(on_issue, struct request *rq)
{
	__u32 op = rq->cmd_flags & KM_REQ_OP_MASK, bytes = rq->__data_len;
	struct sio_flight *flight;
	__u64 name;

	if (op > KM_REQ_OP_WRITE || !bytes || !sio_is_ours(rq))
		return 0;
	name = sio_name(ctx);
	flight = sio_place(name);
	flight->issued_ns = bpf_ktime_get_ns();
	flight->class = sio_class_of(op, bytes, READ_ONCE(sio_depth) + 1);
	if (!__sync_lock_test_and_set(&flight->request, name))
		__sync_fetch_and_add(&sio_depth, 1);
	return 0;
}
