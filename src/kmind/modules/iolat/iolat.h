/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a request is predicted by. recipe.py computes the same from records of
 * blockio, and tests/modules/test_iolat.py holds each against the other; so
 * this needs nothing of the kernel.
 */
#ifndef KMIND_IOLAT_H
#define KMIND_IOLAT_H

#include <linux/types.h>

#define IOL_PAST 4	   /* requests that were done last */
#define IOL_MOST 0xffffULL /* of sectors and of depths */
#define IOL_WAS_SLOW (1U << 31)

/* In the manifest's order. */
enum iol_input {
	IOL_DEPTH,
	IOL_SECTORS,
	IOL_WRITE,
	IOL_GAP,
	IOL_LATENCY, /* and those before */
	IOL_DEPTHS = IOL_LATENCY + IOL_PAST,
	IOL_INPUTS = IOL_DEPTHS + IOL_PAST,
};

/* A word a request: logarithm of the latency, depth << 12, slow << 31. Races cost a sample. */
struct iol_history {
	__u64 issued_ns; /* 0: none yet */
	__u32 done;
	__u32 past[IOL_PAST];
};

/* The logarithm to base 2 in sixteenths, with straight lines between the powers. */
static inline __u32 iol_log(__u64 value)
{
	__u32 power = 0;
	__u64 rest = value;

	if (value < 2)
		return 0;
	for (__u32 step = 32; step; step >>= 1) {
		if (rest >> step) {
			rest >>= step;
			power += step;
		}
	}
	rest = power < 4 ? value << (4 - power) : value >> (power - 4);
	return power << 4 | (rest & 15);
}

static inline __u64 iol_most(__u64 value)
{
	return value < IOL_MOST ? value : IOL_MOST;
}

/* The latest request that was done, and those before: 0 where there was none. */
static inline __u32 iol_past(const struct iol_history *history, __u32 back)
{
	return history->past[(history->done - 1 - back) & (IOL_PAST - 1)];
}

/* A request goes to the disk, which then has `depth` of them: what it is predicted by. */
static inline void iol_inputs(const struct iol_history *history, __u64 now, __u64 depth,
			      __u64 sectors, bool write, __s64 *x)
{
	__u64 before = history->issued_ns;
	__u32 past;

	x[IOL_DEPTH] = iol_most(depth);
	x[IOL_SECTORS] = iol_most(sectors);
	x[IOL_WRITE] = write;
	x[IOL_GAP] = before && now > before ? iol_log(now - before) : 0;
#pragma unroll
	for (__u32 i = 0; i < IOL_PAST; i++) {
		past = iol_past(history, i);
		x[IOL_LATENCY + i] = past & 0xfff;
		x[IOL_DEPTHS + i] = past >> 12 & IOL_MOST;
	}
}

/* One was done. */
static inline void iol_done(struct iol_history *history, __u64 took, __u64 depth, bool slow)
{
	__u32 at = __sync_fetch_and_add(&history->done, 1);

	history->past[at & (IOL_PAST - 1)] =
		iol_log(took) | (__u32)iol_most(depth) << 12 | (slow ? IOL_WAS_SLOW : 0);
}

#endif
