/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shared by all agents: the maps of the core object, and the leases.
 *
 * Each agent declares these maps, and its loader puts the core's in their
 * place. A lease is one word that changes by compare-and-exchange only. Who
 * asks for one has it, or is refused at once: nobody ever waits for a lease, so
 * nobody waits while holding one, and a deadlock cannot come about.
 */
#ifndef KMIND_LEASE_H
#define KMIND_LEASE_H

#include <kmind/approved.h>
#include <kmind/arena.h>
#include <kmind/abi.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KMIND_INSTANCES);
	__type(key, __u32);
	__type(value, struct kmind_instance);
} km_instances SEC(".maps");

/*
 * A grant names the place of its lease here, so a verdict looks for none. Caches are cold
 * when one is given, and then each line of memory counts: the kernel's hash maps touch five
 * or more. Maps that can be mapped start at a page, so that no entry lies across two lines;
 * extensions have no way to them.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, KMIND_LEASES);
	__type(key, __u32);
	__type(value, struct kmind_lease);
} km_leases SEC(".maps");

/* Values that the owner may write; the gate reads them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, KMIND_LEASES);
	__type(key, struct kmind_grant_key);
	__type(value, struct kmind_approved);
} km_approved SEC(".maps");

/* To the owner: verdicts and modes. Extensions have no way to it. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} km_actions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kmind_owner);
} km_owner SEC(".maps");

#define KM_ENOENT 2
#define KM_EBUSY 16
#define KM_EINVAL 22
#define KM_ENOSPC 28
#define KM_LEASE_TURNS 8
#define KM_LEASE_PLACE 0xffff /* of a handle; above it: the generation */

/* A request for a lease, and its result. */
struct km_claim {
	__u32 slot, priority;
	__u32 hold_ms;
	__u64 now;	/* ns */
	__u32 holder;	/* out: who has it now; 0 if nobody has */
	__u32 previous; /* out: from whom it was taken */
	bool fresh;	/* out: it was not held on to, but taken */
};

static __always_inline __u64 km_lease_word(__u64 expires_ms, __u32 priority, __u32 generation,
					   __u32 holder)
{
	return expires_ms << 24 | (__u64)(priority & 0xff) << 16 |
	       (generation & (KMIND_GENERATIONS - 1)) << 6 | (holder & (KMIND_INSTANCES - 1));
}

static __always_inline __u32 km_lease_holder(__u64 word)
{
	return word & (KMIND_INSTANCES - 1);
}

static __always_inline __u32 km_lease_generation(__u64 word)
{
	return word >> 6 & (KMIND_GENERATIONS - 1);
}

/* May the word be taken by that slot and priority? */
static __always_inline bool km_lease_open(__u64 word, __u32 slot, __u32 priority, __u64 now_ms)
{
	return !km_lease_holder(word) || km_lease_holder(word) == slot || word >> 24 <= now_ms ||
	       (word >> 16 & 0xff) < priority;
}

/* A grant's handle of its lease's place: never 0. */
static __always_inline __u32 km_lease_handle(__u32 place, __u64 word)
{
	return (place + 1) | km_lease_generation(word) << 16;
}

/* The lease at a place, whoever's it is by now: the word's generation says. */
static __always_inline struct kmind_lease *km_lease_at(__u32 handle)
{
	__u32 place = (handle & KM_LEASE_PLACE) - 1;

	return bpf_map_lookup_elem(&km_leases, &place);
}

/* Does that slot hold it, and not only did? */
static __always_inline bool km_lease_held(__u32 handle, __u32 slot, __u64 now)
{
	struct kmind_lease *lease = km_lease_at(handle);
	__u64 word = lease ? READ_ONCE(lease->word) : 0;

	return slot && km_lease_holder(word) == slot && km_lease_generation(word) == handle >> 16 &&
	       word >> 24 > now / 1000000;
}

/* One more lease of an instance, or one less. */
static __always_inline void km_lease_counted(__u32 slot, __s32 by)
{
	struct kmind_instance *instance;

	if (!slot)
		return;
	instance = bpf_map_lookup_elem(&km_instances, &slot);
	if (instance)
		__sync_fetch_and_add(&instance->held, by);
}

/*
 * Take a lease, or hold on to it: until its hold is over, and some time more
 * for the owner to undo. An expired one still names its last holder, whose
 * change may still stand: `previous` says so, and the owner undoes that first.
 * Approved, or why not.
 */
static __always_inline __u32 km_lease_acquire(__u32 handle, struct km_claim *claim)
{
	__u64 now_ms = claim->now / 1000000;
	__u64 expires_ms = now_ms + claim->hold_ms + KMIND_LEASE_SLACK_MS;
	struct kmind_lease *lease = km_lease_at(handle);
	__u64 word = 0, want, until;
	__u32 holder;

	claim->holder = claim->previous = 0;
	claim->fresh = false;
	if (!lease)
		return KMIND_VERDICT_ROOM;
	for (int turn = 0; turn < KM_LEASE_TURNS; turn++) {
		word = READ_ONCE(lease->word);
		/* Given to another key since; if between here and the exchange, that fails. */
		if (km_lease_generation(word) != handle >> 16)
			return KMIND_VERDICT_ROOM;
		holder = km_lease_holder(word);
		if (!km_lease_open(word, claim->slot, claim->priority, now_ms)) {
			claim->holder = holder;
			__sync_fetch_and_add(&lease->denied, 1);
			return KMIND_VERDICT_LEASE;
		}
		until = expires_ms;
		if (holder == claim->slot && word >> 24 > until)
			until = word >> 24;
		want = km_lease_word(until, claim->priority, handle >> 16, claim->slot);
		if (__sync_val_compare_and_swap(&lease->word, word, want) != word)
			continue;
		claim->holder = claim->slot;
		if (holder != claim->slot) {
			claim->fresh = true;
			claim->previous = holder;
			km_lease_counted(holder, -1);
			km_lease_counted(claim->slot, 1);
		}
		return KMIND_VERDICT_APPROVED;
	}
	/* Outrun by others at every turn. */
	claim->holder = km_lease_holder(word);
	__sync_fetch_and_add(&lease->denied, 1);
	return claim->holder && claim->holder != claim->slot ? KMIND_VERDICT_LEASE :
							       KMIND_VERDICT_BUSY;
}

/* Give a lease back, if it is that slot's. */
static __always_inline bool km_lease_release(struct kmind_lease *lease, __u32 slot)
{
	__u64 word, free;

	for (int turn = 0; turn < KM_LEASE_TURNS; turn++) {
		word = READ_ONCE(lease->word);
		if (!slot || km_lease_holder(word) != slot)
			return false;
		free = km_lease_word(0, 0, km_lease_generation(word), 0);
		if (__sync_val_compare_and_swap(&lease->word, word, free) == word) {
			km_lease_counted(slot, -1);
			return true;
		}
	}
	return false;
}

/* Did an owner promise to give signs of life, and stop? */
static __always_inline bool km_owner_gone(__u64 now)
{
	struct kmind_owner *owner;
	__u32 zero = 0;
	__u64 beat;

	owner = bpf_map_lookup_elem(&km_owner, &zero);
	beat = owner ? READ_ONCE(owner->beat_ns) : 0;
	return beat && now > beat && now - beat > KMIND_OWNER_MS * 1000000ULL;
}

#endif
