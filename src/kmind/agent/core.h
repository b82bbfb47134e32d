/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What all agents share: the maps of the core object, and the leases.
 *
 * Each agent declares these maps, and its loader puts the core's in their
 * place. A lease is one word that changes by compare-and-exchange only. Who
 * asks for one has it, or is refused at once: nobody ever waits for a lease, so
 * nobody waits while holding one, and a deadlock cannot come about.
 */
#ifndef KMIND_CORE_H
#define KMIND_CORE_H

#include "approved.h"
#include "arena.h"
#include "kmind.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KMIND_INSTANCES);
	__type(key, __u32);
	__type(value, struct kmind_instance);
} km_instances SEC(".maps");

/*
 * A table with the keys in it, each in one of the places from km_place() on. A
 * verdict is given when caches are cold, and then each line of memory counts:
 * the kernel's hash maps touch five or more. Maps that can be mapped start at a
 * page, so that no entry lies across two lines; extensions have no way to them.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, KMIND_LEASES);
	__type(key, __u32);
	__type(value, struct kmind_lease);
} km_leases SEC(".maps");

/* What the owner may write; the gate reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, KMIND_KNOBS);
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

#define KM_LEASE_TURNS 8

/* Who asks for a lease, and what came of it. */
struct km_claim {
	__u32 slot, priority;
	__u32 hold_ms;
	__u64 now;	/* ns */
	__u32 holder;	/* out: who has it now; 0 if there was no room for one more */
	__u32 previous; /* out: from whom it was taken */
};

static __always_inline __u64 km_lease_word(__u64 expires_ms, __u32 priority, __u32 holder)
{
	return expires_ms << 24 | (__u64)(priority & 0xff) << 16 | (holder & 0xffff);
}

static __always_inline __u32 km_lease_holder(__u64 word)
{
	return word & 0xffff;
}

/* May the word be taken by that slot and priority? */
static __always_inline bool km_lease_open(__u64 word, __u32 slot, __u32 priority, __u64 now_ms)
{
	return !km_lease_holder(word) || km_lease_holder(word) == slot || word >> 24 <= now_ms ||
	       (word >> 16 & 0xff) < priority;
}

/* The first of the places that a key may have; Fibonacci hashing (Knuth, volume 3, 6.4). */
static __always_inline __u32 km_place(const struct kmind_grant_key *key, __u32 places)
{
	__u32 hash = key->knob * 0x9e3779b1U ^ key->target * 0x85ebca6bU;

	return (hash ^ hash >> 15) * 0x9e3779b1U >> 8 & (places - 1);
}

/*
 * The lease of a key. With `make` it gets one if it has none: a place changes
 * from free to one key, for good, so a word in somebody's hands is never another
 * key's. Where all its places are taken there is none.
 */
static __always_inline struct kmind_lease *km_lease_of(const struct kmind_grant_key *key, bool make)
{
	__u32 place = km_place(key, KMIND_LEASES);
	__u64 mark = kmind_mark(key), found;
	struct kmind_lease *lease;

	if (!mark)
		return NULL;
#pragma clang loop unroll(disable)
	for (int probe = 0; probe < KMIND_PROBES; probe++) {
		lease = bpf_map_lookup_elem(&km_leases, &place);
		if (!lease)
			return NULL;
		found = READ_ONCE(lease->key);
		if (found == mark)
			return lease;
		if (!found) {
			if (!make)
				return NULL;
			found = __sync_val_compare_and_swap(&lease->key, 0, mark);
			if (!found || found == mark)
				return lease;
		}
		place = (place + 1) & (KMIND_LEASES - 1);
	}
	return NULL;
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
 */
static __always_inline bool km_lease_acquire(struct kmind_grant_key *key, struct km_claim *claim)
{
	__u64 now_ms = claim->now / 1000000;
	__u64 expires_ms = now_ms + claim->hold_ms + KMIND_LEASE_SLACK_MS;
	struct kmind_lease *lease;
	__u64 word = 0, want, until;
	__u32 holder;

	claim->holder = claim->previous = 0;
	lease = km_lease_of(key, true);
	if (!lease)
		return false;
	for (int turn = 0; turn < KM_LEASE_TURNS; turn++) {
		word = READ_ONCE(lease->word);
		holder = km_lease_holder(word);
		if (!km_lease_open(word, claim->slot, claim->priority, now_ms))
			break;
		until = expires_ms;
		if (holder == claim->slot && word >> 24 > until)
			until = word >> 24;
		want = km_lease_word(until, claim->priority, claim->slot);
		if (__sync_val_compare_and_swap(&lease->word, word, want) != word)
			continue;
		claim->holder = claim->slot;
		if (holder != claim->slot) {
			claim->previous = holder;
			km_lease_counted(holder, -1);
			km_lease_counted(claim->slot, 1);
		}
		return true;
	}
	/* Refused, or outrun by others at every turn: by whom, the word says. */
	claim->holder = km_lease_holder(word);
	__sync_fetch_and_add(&lease->denied, 1);
	return false;
}

/* Give a lease back, if it is that slot's. */
static __always_inline bool km_lease_release(struct kmind_lease *lease, __u32 slot)
{
	__u64 word;

	for (int turn = 0; turn < KM_LEASE_TURNS; turn++) {
		word = READ_ONCE(lease->word);
		if (!slot || km_lease_holder(word) != slot)
			return false;
		if (__sync_val_compare_and_swap(&lease->word, word, 0) == word) {
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
