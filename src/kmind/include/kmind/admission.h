/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Admission: what becomes of a recommendation.
 *
 * Every byte of the completion queue is the extension's, and may change while
 * it is read: an entry is copied once, and only the copy is checked. What it
 * is checked against lives in maps that the extension cannot reach.
 */
#ifndef KMIND_ADMISSION_H
#define KMIND_ADMISSION_H

#include <kmind/ring.h>

#define KM_TELL_NS 5000000ULL /* actions a second that an instance may cause: 200 */
#define KM_TELL_BURST 64
#define KM_REFUSE_NS 50000000ULL /* and refusals among them: 20 */
#define KM_REFUSE_BURST 32
#define KM_ACTIONS_SIZE (256 * 1024) /* bytes of km_actions */

/* Of this instance in the core's maps; 0: none, and no leases. */
const volatile __u32 km_slot;

/*
 * A table with the keys in it, each in one of the places from km_place() on: for the lines
 * of memory that a verdict touches. Who has km.lock reads and writes it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, KMIND_GRANTS);
	__type(key, __u32);
	__type(value, struct kmind_grant);
} km_grants SEC(".maps");

/* The first of the places that a key may have; Fibonacci hashing (Knuth, volume 3, 6.4). */
static __always_inline __u32 km_place(const struct kmind_grant_key *key)
{
	__u32 hash = key->knob * 0x9e3779b1U ^ key->target * 0x85ebca6bU;

	return (hash ^ hash >> 15) * 0x9e3779b1U >> 8 & (KMIND_GRANTS - 1);
}

/*
 * What is granted for a key; with `make` the first free place, where nothing is. A free
 * place ends no search: what stood there may have been revoked.
 */
static __always_inline struct kmind_grant *km_grant_of(const struct kmind_grant_key *key, bool make)
{
	__u32 place = km_place(key), unused = KMIND_GRANTS; /* that is: none */
	__u64 mark = kmind_mark(key);
	struct kmind_grant *grant;

	if (!mark)
		return NULL;
#pragma clang loop unroll(disable)
	for (int probe = 0; probe < KMIND_PROBES; probe++) {
		grant = bpf_map_lookup_elem(&km_grants, &place);
		if (!grant || grant->key == mark)
			return grant;
		if (!grant->key && unused == KMIND_GRANTS)
			unused = place;
		place = (place + 1) & (KMIND_GRANTS - 1);
	}
	return make ? bpf_map_lookup_elem(&km_grants, &unused) : NULL;
}

/* A copy of what the extension wrote, on our stack. */
struct km_entry {
	__u32 commit, id;
	__u32 knob, target;
	__s64 value;
	__u64 expires_ns;
	__u32 model;
	__u16 type, flags;
	__u32 hold_ms, note;
	__u64 check;
};

static __always_inline void km_copy(struct km_entry *copy, __u32 position)
{
	struct kmind_recommendation __arena *entry =
		km_at(struct kmind_recommendation,
		      km_geometry.cq + (position & (KMIND_CQ_SLOTS - 1)) * sizeof(*entry));
	__u64 __arena *from = (__u64 __arena *)entry;
	__u64 *to = (__u64 *)copy;

	to[0] = READ_ONCE(from[0]);
	to[1] = READ_ONCE(from[1]);
	to[2] = READ_ONCE(from[2]);
	to[3] = READ_ONCE(from[3]);
	to[4] = READ_ONCE(from[4]);
	to[5] = READ_ONCE(from[5]);
	to[6] = READ_ONCE(from[6]);
}

static __always_inline bool km_whole(const struct km_entry *copy, __u32 position)
{
	const __u64 *word = (const __u64 *)copy;
	__u64 hash = KMIND_CHECK_SEED;

	hash = kmind_mix(hash, word[0]);
	hash = kmind_mix(hash, word[1]);
	hash = kmind_mix(hash, word[2]);
	hash = kmind_mix(hash, word[3]);
	hash = kmind_mix(hash, word[4]);
	hash = kmind_mix(hash, word[5]);
	return hash == copy->check && copy->commit == position + 1;
}

/* Distance of two values: no pair of them overflows it. */
static __always_inline __u64 km_distance(__s64 from, __s64 to)
{
	return to > from ? (__u64)to - (__u64)from : (__u64)from - (__u64)to;
}

/* Is a * x greater than b * y? In 96 bits, for values may be as large as they come. */
static __always_inline bool km_product_above(__u64 a, __u32 x, __u64 b, __u32 y)
{
	__u64 a_low = (a & 0xffffffff) * x, b_low = (b & 0xffffffff) * y;
	__u64 a_high = (a >> 32) * x + (a_low >> 32), b_high = (b >> 32) * y + (b_low >> 32);

	return a_high > b_high || (a_high == b_high && (__u32)a_low > (__u32)b_low);
}

static __always_inline bool km_ratio_too_large(__s64 before, __s64 after, __u32 percent)
{
	/* Ratios are taken from 1 upwards, so that a knob may leave 0. */
	before = before < 1 ? 1 : before;
	after = after < 1 ? 1 : after;
	return km_product_above(after, 100, before, percent) ||
	       km_product_above(before, 100, after, percent);
}

static __always_inline bool km_rule_broken(const struct kmind_rule *rule, __u32 target, __s64 value)
{
	struct kmind_grant_key key = {.knob = rule->knob, .target = target};
	struct kmind_grant *other;
	__s64 bound;

	if (rule->op == KMIND_RULE_NONE)
		return false;
	other = km_grant_of(&key, false);
	if (!other)
		return true; /* what cannot be checked is refused */
	if (__builtin_add_overflow(READ_ONCE(other->current), rule->offset, &bound))
		return true;
	switch (rule->op) {
	case KMIND_RULE_LT:
		return !(value < bound);
	case KMIND_RULE_LE:
		return !(value <= bound);
	case KMIND_RULE_GT:
		return !(value > bound);
	case KMIND_RULE_GE:
		return !(value >= bound);
	}
	return true;
}

/* Everything about the value itself; the caller knows that it is a change. */
static __always_inline __u32 km_check_change(const struct km_entry *copy,
					     const struct kmind_grant *grant, __u64 now)
{
	__s64 old = READ_ONCE(grant->current);

	if (grant->step && km_distance(old, copy->value) > (__u64)grant->step)
		return KMIND_VERDICT_STEP;
	if (grant->step_percent && km_ratio_too_large(old, copy->value, grant->step_percent))
		return KMIND_VERDICT_STEP;
	/* Generic cell rate algorithm, ITU-T I.371. */
	if (grant->interval_ns &&
	    grant->tat_ns > now + grant->interval_ns * (grant->burst ? grant->burst - 1 : 0))
		return KMIND_VERDICT_RATE;
	for (__u32 i = 0; i < KMIND_RULES && i < grant->nr_rules; i++)
		if (km_rule_broken(&grant->rules[i], copy->target, copy->value))
			return KMIND_VERDICT_RULE;
	return KMIND_VERDICT_APPROVED;
}

static __always_inline __u32 km_check(const struct km_entry *copy, struct kmind_grant *grant,
				      __u64 now)
{
	if (copy->type != grant->type || copy->flags)
		return KMIND_VERDICT_TYPE;
	if (copy->expires_ns <= now)
		return KMIND_VERDICT_EXPIRED;
	if (km.model && copy->model != km.model)
		return KMIND_VERDICT_MODEL;
	if (copy->value < grant->minimum || copy->value > grant->maximum)
		return KMIND_VERDICT_RANGE;
	/* The lease lasts as long: one request must not keep the others off for weeks. */
	if (grant->hold_ms && copy->hold_ms > grant->hold_ms)
		return KMIND_VERDICT_RANGE;
	if (grant->grid && km_distance(0, copy->value) % grant->grid)
		return KMIND_VERDICT_GRID;
	if (grant->type == KMIND_TYPE_ENUM &&
	    ((__u64)copy->value > 63 || !(grant->choices >> copy->value & 1)))
		return KMIND_VERDICT_GRID;
	/* Only who holds what stands prolongs it; for others it is a change, at a change's price.
	 */
	if (copy->value == READ_ONCE(grant->current) &&
	    (!km_slot || km_lease_held(grant->lease, km_slot, now)))
		return KMIND_VERDICT_RENEWED;
	return km_check_change(copy, grant, now);
}

static __always_inline bool km_passed(__u32 verdict)
{
	return verdict == KMIND_VERDICT_APPROVED || verdict == KMIND_VERDICT_RENEWED;
}

/* Apply the mode to a verdict that would let the value through. */
static __always_inline __u32 km_under_mode(__u32 verdict, __u32 mode)
{
	if (!km_passed(verdict))
		return verdict;
	switch (mode) {
	case KMIND_MODE_CANARY:
	case KMIND_MODE_AUTO:
		return verdict;
	case KMIND_MODE_OBSERVE:
		return KMIND_VERDICT_SHADOWED;
	case KMIND_MODE_ADVISE:
		return KMIND_VERDICT_ADVISED;
	}
	return KMIND_VERDICT_EMERGENCY;
}

/* Apply the leases of other instances to a verdict that lets the value through. */
static __always_inline __u32 km_among_others(__u32 verdict, struct kmind_grant_key *key,
					     const struct km_entry *copy,
					     const struct kmind_grant *grant, __u64 now,
					     struct km_claim *claim)
{
	struct kmind_approved approved = {
		.value = copy->value,
		.instance = km_slot,
		.id = copy->id,
		.time_ns = now,
	};
	struct kmind_lease *lease;
	__u32 others;

	if (km_owner_gone(now))
		return KMIND_VERDICT_OWNER;
	claim->slot = km_slot;
	claim->priority = grant->priority;
	claim->hold_ms = copy->hold_ms;
	claim->now = now;
	others = km_lease_acquire(grant->lease, claim);
	if (others != KMIND_VERDICT_APPROVED || verdict != KMIND_VERDICT_APPROVED)
		return others == KMIND_VERDICT_APPROVED ? verdict : others;
	approved.baseline = READ_ONCE(grant->current);
	others = km_approve(&km_approved, key, &approved);
	/* A lease taken from another one is kept until it expires: the owner has to undo its value.
	 */
	if (others != KMIND_VERDICT_APPROVED && claim->fresh && !claim->previous) {
		lease = km_lease_at(grant->lease);
		if (lease)
			km_lease_release(lease, km_slot);
	}
	return others;
}

/* Is so much of the ring to the owner taken, in quarters? */
static __always_inline bool km_ring_fuller(__u32 quarters)
{
	return bpf_ringbuf_query(&km_actions, BPF_RB_AVAIL_DATA) >
	       (__u64)KM_ACTIONS_SIZE / 4 * quarters;
}

/*
 * All instances share the ring to the owner: one that recommends without end must not fill
 * it. Renewals cost it nothing else. The last quarter is for modes alone.
 */
static __always_inline bool km_may_tell(__u64 now)
{
	if (km_ring_fuller(3))
		return false;
	if (!km_slot)
		return true;
	if (km.tell_tat_ns > now + KM_TELL_BURST * KM_TELL_NS)
		return false;
	km.tell_tat_ns = (km.tell_tat_ns > now ? km.tell_tat_ns : now) + KM_TELL_NS;
	return true;
}

/* Refusals are counted; so that the admin sees what they are about, some are told too. */
static __always_inline bool km_may_tell_refusal(__u64 now)
{
	if (!km_slot)
		return true;
	if (km.refuse_tat_ns > now + KM_REFUSE_BURST * KM_REFUSE_NS || km_ring_fuller(2))
		return false;
	km.refuse_tat_ns = (km.refuse_tat_ns > now ? km.refuse_tat_ns : now) + KM_REFUSE_NS;
	return true;
}

/*
 * Waking the owner interrupts this CPU: 6 us on a virtual machine, where all the
 * rest of a verdict takes 0.2. So hooks leave it to the tick.
 */
static __always_inline void km_wake_owner(void)
{
	void *nothing;

	if (!READ_ONCE(km.untold))
		return;
	nothing = bpf_ringbuf_reserve(&km_actions, sizeof(__u64), 0);
	if (!nothing)
		return;
	WRITE_ONCE(km.untold, 0);
	bpf_ringbuf_discard(nothing, BPF_RB_FORCE_WAKEUP);
}

/*
 * Global, so that the verifier goes through it once a program, and not again for each way
 * that leads to it: of 230,000 instructions in km_control 17,000 are left, and an agent
 * loads in 0.12 s where it took 0.40.
 */
__noinline __u32 km_admit_one(__u32 position)
{
	struct kmind_recommendation __arena *entry;
	struct kmind_grant *grant = NULL;
	struct kmind_action *action = NULL;
	struct kmind_grant_key key;
	__u32 verdict, mode = READ_ONCE(km.mode);
	__u64 now = bpf_ktime_get_ns();
	struct km_claim claim = {};
	struct km_entry copy;
	__s64 current = 0;

	KM_USES_ARENA();
	km_copy(&copy, position);
	key.knob = copy.knob;
	key.target = copy.target;
	if (!km_whole(&copy, position)) {
		verdict = KMIND_VERDICT_TORN;
	} else if (copy.id <= km.last_id) {
		verdict = KMIND_VERDICT_REPLAYED;
	} else {
		km.last_id = copy.id;
		grant = km_grant_of(&key, false);
		if (!grant) {
			verdict = KMIND_VERDICT_UNKNOWN;
		} else {
			current = READ_ONCE(grant->current);
			verdict = km_under_mode(km_check(&copy, grant, now), mode);
		}
		if (mode < KMIND_MODE_OBSERVE || mode > KMIND_MODE_AUTO)
			verdict = KMIND_VERDICT_EMERGENCY;
	}

	/* First the room to tell the owner, then the right to change. */
	if (km_may_tell(now))
		action = bpf_ringbuf_reserve(&km_actions, sizeof(*action), 0);
	if (!action) {
		if (verdict < KMIND_VERDICT_EMERGENCY)
			verdict = KMIND_VERDICT_BUSY;
		__sync_fetch_and_add(&km.actions_lost, 1);
	} else {
		if (km_slot && grant && km_passed(verdict))
			verdict = km_among_others(verdict, &key, &copy, grant, now, &claim);
	}
	if (action && verdict >= KMIND_VERDICT_EMERGENCY && !km_may_tell_refusal(now)) {
		bpf_ringbuf_discard(action, BPF_RB_NO_WAKEUP);
		__sync_fetch_and_add(&km.actions_lost, 1);
	} else if (action) {
		action->kind = KMIND_ACTION_VERDICT;
		action->verdict = verdict;
		action->id = copy.id;
		action->mode = mode;
		action->knob = copy.knob;
		action->target = copy.target;
		action->value = copy.value;
		action->current = current;
		action->time_ns = now;
		action->hold_ms = copy.hold_ms;
		action->slot = position & (KMIND_CQ_SLOTS - 1);
		action->note = copy.note;
		action->model = copy.model;
		action->instance = km_slot;
		action->holder = claim.holder;
		action->previous = claim.previous;
		bpf_ringbuf_submit(action, BPF_RB_NO_WAKEUP);
		WRITE_ONCE(km.untold, 1);
	}
	if (grant && verdict == KMIND_VERDICT_APPROVED) {
		grant->tat_ns = (grant->tat_ns > now ? grant->tat_ns : now) + grant->interval_ns;
		WRITE_ONCE(grant->current, copy.value);
	}
	if (verdict < KMIND_VERDICTS)
		__sync_fetch_and_add(&km.verdicts[verdict], 1);

	entry = km_at(struct kmind_recommendation,
		      km_geometry.cq + (position & (KMIND_CQ_SLOTS - 1)) * sizeof(*entry));
	/* Verdict and id in one store: the answer is whole or absent. */
	ARENA_RELEASE(*(__u64 __arena *)&entry->verdict, verdict | (__u64)copy.id << 32);
	return verdict;
}

/*
 * Answer up to `budget` recommendations. Cheap when there are none: one load.
 * Hooks call it with 1, the timer with more. Whoever finds the lock taken
 * leaves: the holder, or the next tick, does the work.
 */
static __always_inline void km_admit(__u32 budget)
{
	struct kmind_header __arena *header = km_header();
	__u32 head = READ_ONCE(km.cq_head), pending;

	pending = READ_ONCE(header->cq_tail) - head;
	if (!pending)
		return;
	if (__sync_val_compare_and_swap(&km.lock, 0, 1))
		return;
	for (__u32 i = 0; i < budget; i++) {
		head = READ_ONCE(km.cq_head);
		pending = READ_ONCE(header->cq_tail) - head;
		if (!pending)
			break;
		if (pending > KMIND_CQ_SLOTS) {
			/* No honest writer is that far ahead. Catch up; count it. */
			__sync_fetch_and_add(&km.bad_cq_tail, 1);
			WRITE_ONCE(km.cq_head, head + pending);
			WRITE_ONCE(header->cq_head, head + pending);
			break;
		}
		KM_ACQUIRE_FENCE();
		km_admit_one(head);
		WRITE_ONCE(km.cq_head, head + 1);
		WRITE_ONCE(header->cq_head, head + 1);
	}
	__sync_lock_test_and_set(&km.lock, 0);
}

/*
 * Grant a knob, or grant it anew. Not while a recommendation is judged, for then
 * it would be by half of the old bounds and half of the new; the owner asks again.
 */
static __always_inline int km_grant(const struct kmind_grant_key *key,
				    const struct kmind_control *args)
{
	/* Word by word: the verifier takes no pointer to a part of the context. */
	const volatile __u64 *from = (const volatile __u64 *)args;
	struct kmind_grant *grant;
	__u64 *to;

	if (__sync_val_compare_and_swap(&km.lock, 0, 1))
		return -KM_EBUSY;
	grant = km_grant_of(key, true);
	if (grant) {
		to = (__u64 *)grant;
#pragma clang loop unroll(full)
		for (__u32 i = 1; i < sizeof(*grant) / sizeof(*to); i++)
			to[i] = from[offsetof(struct kmind_control, grant) / sizeof(*from) + i];
		grant->key = kmind_mark(key);
	}
	__sync_lock_test_and_set(&km.lock, 0);
	return grant ? 0 : -KM_ENOSPC;
}

/* Grant a knob no more; its place is free. How many it were. */
static __always_inline int km_revoke(const struct kmind_grant_key *key)
{
	struct kmind_grant *grant;

	if (__sync_val_compare_and_swap(&km.lock, 0, 1))
		return -KM_EBUSY;
	grant = km_grant_of(key, false);
	if (grant)
		grant->key = 0;
	__sync_lock_test_and_set(&km.lock, 0);
	return grant ? 1 : 0;
}

/* Say what stands, where somebody else set it. */
static __always_inline int km_set_current(const struct kmind_grant_key *key, __s64 value)
{
	struct kmind_grant *grant;

	if (__sync_val_compare_and_swap(&km.lock, 0, 1))
		return -KM_EBUSY;
	grant = km_grant_of(key, false);
	if (grant)
		WRITE_ONCE(grant->current, value);
	__sync_lock_test_and_set(&km.lock, 0);
	return grant ? 0 : -KM_ENOENT;
}

#endif
