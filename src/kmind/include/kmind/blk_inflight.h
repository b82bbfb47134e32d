/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Requests between their issue to a disk and their completion.
 *
 * A module that includes this attaches its hook on block_rq_complete before
 * that on block_rq_issue (the first in its source): or what came and went in
 * between would be counted as in the disk for ever.
 */
#ifndef KMIND_BLK_INFLIGHT_H
#define KMIND_BLK_INFLIGHT_H

#include <kmind/agent.h>

#define KM_FLIGHTS 4096 /* requests in the disk that can be timed */

/* A request in the disk. Of three that share two places the earliest goes untimed. */
struct km_flight {
	__u64 request;
	__u64 issued_ns;
	__u64 note; /* the module's own */
};

static struct km_flight km_flights[KM_FLIGHTS];
static __u64 km_in_flight;

/* Completions come in interrupts and in tasks: only an atomic addition loses none. */
static __always_inline void km_count_atomic(struct km_cpu *own, __u32 feature, __u64 by)
{
	__sync_fetch_and_add(&own->value[feature], by);
}

static __always_inline bool km_is_targets(struct request *rq)
{
	struct gendisk *disk = rq->q->disk;

	return disk && km_is_target((__u32)disk->major << KM_MINOR_BITS | (__u32)disk->first_minor);
}

/* A hook's first argument as a number: the verifier allows no sums with a pointer. */
static __always_inline __u64 km_flight_name(const void *arguments)
{
	__u64 name = 0;

	bpf_probe_read_kernel(&name, sizeof(name), arguments);
	return name;
}

static __always_inline struct km_flight *km_flight_place(__u64 name)
{
	/*
	 * The first of two places. Requests lie in rows: with one multiplication alone all of a
	 * row could share their places with those of another, so both halves are mixed.
	 */
	name *= 0x9e3779b97f4a7c15ULL;
	name ^= name >> 32;
	name *= 0xd6e8feb86659fd93ULL;
	return &km_flights[(name >> 40) & (KM_FLIGHTS - 2)];
}

/* The disk gets a request: from here on the time is its own. */
static __always_inline void km_flight_begin(__u64 name, __u64 note)
{
	struct km_flight *flight = km_flight_place(name);
	__u64 other = READ_ONCE(flight->request);

	if (other && other != name)
		flight++;
	flight->issued_ns = bpf_ktime_get_ns();
	flight->note = note;
	if (!__sync_lock_test_and_set(&flight->request, name))
		__sync_fetch_and_add(&km_in_flight, 1);
}

/* It is done: false if its issue was not seen. */
static __always_inline bool km_flight_end(__u64 name, struct km_flight *found)
{
	struct km_flight *flight = km_flight_place(name);

	if (READ_ONCE(flight->request) != name)
		flight++;
	found->issued_ns = flight->issued_ns;
	found->note = flight->note;
	if (__sync_val_compare_and_swap(&flight->request, name, 0) != name)
		return false;
	__sync_fetch_and_sub(&km_in_flight, 1);
	return true;
}

#endif
