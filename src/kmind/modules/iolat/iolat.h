/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Features of a prediction, and the conditions to publish it. recipe.py
 * computes the former from records of blockio, and the tests hold each against
 * the other; so this needs nothing of the kernel.
 */
#ifndef KMIND_IOLAT_H
#define KMIND_IOLAT_H

#include <kmind/log2.h>

#define IOL_PAST 4	   /* requests that were done last */
#define IOL_MOST 0xffffULL /* of sectors and of depths */
#define IOL_WAS_SLOW (1U << 31)
#define IOL_FEW 16   /* requests, of either kind: below that nothing is said */
#define IOL_GAIN 20  /* 1/1000 above the last latency, to begin with */
#define IOL_SLACK 50 /* 1/1000 below min_accuracy, to go on with */

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
	x[IOL_GAP] = before && now > before ? km_log2(now - before) : 0;
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
		km_log2(took) | (__u32)iol_most(depth) << 12 | (slow ? IOL_WAS_SLOW : 0);
}

/* Requests that were decided, and how they came out; at each judgement all is halved. */
struct iol_recent {
	__u64 decided;
	__u64 slow, slow_right, fast_right;
	__u64 last_slow_right, last_fast_right;
};

/* Balanced accuracy in 1/1000; 0 where one of the two did not occur. */
static inline __u32 iol_balanced(const struct iol_recent *recent, __u64 slow_right,
				 __u64 fast_right)
{
	__u64 slow = recent->slow, fast = recent->decided - slow;

	return slow && fast ? (1000 * slow_right / slow + 1000 * fast_right / fast) / 2 : 0;
}

static inline __u32 iol_accuracy(const struct iol_recent *recent)
{
	return iol_balanced(recent, recent->slow_right, recent->fast_right);
}

/* Of the last latency, on the same requests. */
static inline __u32 iol_last_accuracy(const struct iol_recent *recent)
{
	return iol_balanced(recent, recent->last_slow_right, recent->last_fast_right);
}

/*
 * Are predictions worth more than the last latency? min_slow and min_accuracy
 * are in 1/1000. What has been believed (publishing) is so a little longer.
 */
static inline bool iol_believed(const struct iol_recent *recent, bool publishing, __u32 min_slow,
				__u32 min_accuracy)
{
	__u64 slow = recent->slow, fast = recent->decided - slow;
	__u32 least = min_accuracy - (publishing ? IOL_SLACK : 0);
	__u32 gain = publishing ? 0 : IOL_GAIN;

	/* Others count meanwhile: slow may be ahead of decided. */
	if (slow > recent->decided || slow < IOL_FEW || fast < IOL_FEW ||
	    slow * 1000 < recent->decided * min_slow)
		return false;
	return iol_accuracy(recent) >= least &&
	       iol_accuracy(recent) > iol_last_accuracy(recent) + gain;
}

#endif
