/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Values that the owner may write now: approvals, by knob and target.
 *
 * The owner may take one back at any time, and an approval that is replaced has new memory:
 * what a look-up found may be another key's a moment later. So nobody writes in place, and
 * what was read counts only if the same approval is still there afterwards.
 */
#ifndef KMIND_APPROVED_H
#define KMIND_APPROVED_H

#include <kmind/arena.h>
#include <kmind/abi.h>

#define KM_E2BIG 7
#define KM_APPROVED_TURNS 4

/* Copy the approval of a key: 1, or 0 if there is none, or below 0 if it did not stand still. */
static __always_inline int km_read_approved(void *map, const struct kmind_grant_key *key,
					    struct kmind_approved *copy)
{
	struct kmind_approved *found, *after;
	__u64 time_ns;

	for (int turn = 0; turn < KM_APPROVED_TURNS; turn++) {
		found = bpf_map_lookup_elem(map, key);
		if (!found)
			return 0;
		copy->time_ns = READ_ONCE(found->time_ns);
		copy->value = READ_ONCE(found->value);
		copy->baseline = READ_ONCE(found->baseline);
		copy->instance = READ_ONCE(found->instance);
		copy->id = READ_ONCE(found->id);
		KM_ACQUIRE_FENCE();
		after = bpf_map_lookup_elem(map, key);
		/* Read before it is compared: Linux 6.1 does not see that `after` is no null then.
		 */
		time_ns = READ_ONCE(found->time_ns);
		if (after == found && time_ns == copy->time_ns)
			return 1;
	}
	return -1;
}

/*
 * Approve, or why not. What stood before the first change of those that stand remains the
 * way back; where there is none, `approved` brings it.
 */
static __always_inline __u32 km_approve(void *map, const struct kmind_grant_key *key,
					struct kmind_approved *approved)
{
	struct kmind_approved before;
	int known = km_read_approved(map, key, &before);
	long error;

	if (known < 0)
		return KMIND_VERDICT_BUSY;
	if (known)
		approved->baseline = before.baseline;
	error = bpf_map_update_elem(map, key, approved, BPF_ANY);
	if (error)
		return error == -KM_E2BIG ? KMIND_VERDICT_ROOM : KMIND_VERDICT_BUSY;
	return KMIND_VERDICT_APPROVED;
}

#endif
