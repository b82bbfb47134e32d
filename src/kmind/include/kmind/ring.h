/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The agent's half of the rings.
 *
 * Each CPU has one submission ring. Its producers are whatever runs on that
 * CPU: a task, an interrupt on top of it, a timer. They reserve a slot with a
 * compare-and-exchange on a head that only the agent can write, fill it, and
 * set `commit` last; so a producer that was interrupted half-way hides its own
 * record and no other. When the reader's index leaves no room, the newest
 * record is dropped and counted: a hook never waits.
 */
#ifndef KMIND_RING_H
#define KMIND_RING_H

#include <kmind/lease.h>

/* Set by the loader. Constants for the verifier. */
const volatile struct kmind_geometry km_geometry;
const volatile __u64 km_base; /* of the arena, in every process */

/* The loader says how large it is. */
struct {
#ifdef KM_SHARED_ARRAY
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u64));
#else
	__uint(type, KM_MAP_TYPE_ARENA);
#endif
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
} km_arena SEC(".maps");

/* Wakes the extension. It may map this: nothing in it is ever read back. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} km_doorbell SEC(".maps");

/* One CPU's counters, out of the extension's reach. */
struct km_cpu {
	__u32 head;
	__u32 bad_tail;
	__u64 dropped;
	__u64 hook_runs;
	__u64 hook_ns;
	__u64 value[KMIND_FEATURES];
} __attribute__((aligned(256)));

/*
 * All that the library remembers, in a section of its own: a later generation
 * of the programs takes it over, whatever else a module keeps.
 */
struct km_state {
	struct kmind_state head;
	/* The doorbell. */
	__u32 rung; /* the sleep that it was last rung for */
	/* Admission. */
	__u32 mode;    /* 0 until the owner sets one: refuses all */
	__u32 lock;    /* one CPU admits at a time */
	__u32 cq_head; /* recommendations answered */
	__u32 last_id;
	__u32 model;
	__u32 untold; /* actions wait that the owner was not woken for */
	__u64 bad_cq_tail;
	__u64 tell_tat_ns;   /* theoretical arrival time of the next action (GCRA) */
	__u64 refuse_tat_ns; /* and of the next refusal that is told */
	__u64 verdicts[KMIND_VERDICTS + 1];
	/* The tick. */
	__u32 heartbeat;
	__u64 heartbeat_ns;
	__u64 window_start_ns;
	__u64 window_due_ns;
	__u64 published_ns;
	__u64 now_ns;	/* of the last tick */
	__u64 clock_ns; /* what a reading of the clock costs */
	KMIND_COUNTERS(KMIND_AS_FIELD)
	__u64 counted;	      /* sum of all counters when a window was last due */
	__u64 window_counted; /* and when the last one was closed */
	__u64 window_last[KMIND_FEATURES];
	struct km_cpu window_ring; /* head of the window ring; its counters: gauges */
	struct km_cpu cpus[KMIND_MAX_CPUS];
	__u32 marks[KMIND_MAX_CPUS]; /* see km_is_active() */
};

/* Not zero, or it would not be written into the object file. */
struct km_state km SEC(".data.kmind") = {.head = {.abi = KMIND_ABI}};

const volatile __u32 km_generation = 1; /* of these programs; see km_is_active() */

#ifdef KM_SHARED_ARRAY
#define KM_USES_ARENA()

/*
 * A place in the array map. The verifier wants to see that it lies inside, and that the map's only
 * value is there. Offsets are the agent's own, so no honest one is moved. The value is always
 * there; with a branch that ends the program at once the verifier has no second path to follow.
 */
static __always_inline void *km_in_array(__u64 offset, __u32 size)
{
	__u64 last = km_geometry.size - size;
	__u32 zero = 0;
	void *base = bpf_map_lookup_elem(&km_arena, &zero);

	if (!base) {
		asm volatile("r0 = 0; exit" ::: "r0");
		__builtin_unreachable();
	}
	asm volatile("" : "+r"(offset));
	if (offset > last)
		offset = last;
	asm volatile("" : "+r"(offset));
	return base + offset;
}

#define km_at(type, offset) ((type *)km_in_array(offset, sizeof(type)))
#else
/* A program may only touch the arena that it names: every program needs this. */
#define KM_USES_ARENA() asm volatile("" ::"r"(&km_arena))

#define km_at(type, offset) ((type __arena *)(unsigned long)(km_base + (offset)))
#endif
#define km_header() km_at(struct kmind_header, 0)

static __always_inline struct km_cpu *km_this_cpu(__u32 *cpu)
{
	/* The mask is for the verifier; the loader refuses more CPUs than that. */
	*cpu = bpf_get_smp_processor_id() & (KMIND_MAX_CPUS - 1);
	return &km.cpus[*cpu];
}

static __always_inline void km_ring_doorbell(void)
{
	__u32 asleep = READ_ONCE(km_header()->need_wakeup);
	__u32 rung = READ_ONCE(km.rung);
	__u64 word = 0;

	if (!asleep || asleep == rung)
		return;
	if (__sync_val_compare_and_swap(&km.rung, rung, asleep) != rung)
		return;
	__sync_fetch_and_add(&km.wakeups, 1);
	bpf_ringbuf_output(&km_doorbell, &word, sizeof(word), BPF_RB_FORCE_WAKEUP);
}

/*
 * Claim the next slot of a ring: true, its position and its number, or false
 * when full. The loop turns again only if an interrupt on this CPU pushed in
 * between. What was dropped is read first, so that numbers rise with positions
 * even if an interrupt drops records before this one is written.
 */
static __always_inline bool km_reserve(struct km_cpu *own, struct kmind_ring __arena *ring,
				       __u32 slots, __u32 *position, __u32 *seq)
{
	__u32 head, used, dropped;

	for (int turn = 0; turn < 4; turn++) {
		dropped = (__u32)READ_ONCE(own->dropped);
		head = READ_ONCE(own->head);
		used = head - READ_ONCE(ring->tail);
		if (used >= slots) {
			/* An index beyond what was ever written is not ours. */
			if (used > slots)
				own->bad_tail++;
			break;
		}
		if (__sync_val_compare_and_swap(&own->head, head, head + 1) == head) {
			KM_ACQUIRE_FENCE();
			*position = head;
			*seq = head + dropped;
			return true;
		}
	}
	__sync_fetch_and_add(&own->dropped, 1);
	return false;
}

/* Push one record. `time` may be 0 where the hook need not know it. */
static __always_inline bool km_push(__u16 kind, __u32 subject, __u64 value, __u64 time)
{
	struct kmind_record __arena *slot;
	struct kmind_ring __arena *ring;
	struct km_cpu *own;
	__u32 cpu, position, seq;

	own = km_this_cpu(&cpu);
	ring = km_at(struct kmind_ring, km_geometry.rings + cpu * sizeof(struct kmind_ring));
	if (!km_reserve(own, ring, km_geometry.sq_slots, &position, &seq))
		return false;
	slot = km_at(struct kmind_record,
		     km_geometry.sq + (cpu * km_geometry.sq_slots +
				       (position & (km_geometry.sq_slots - 1))) *
					      sizeof(struct kmind_record));
	WRITE_ONCE(slot->seq, seq);
	WRITE_ONCE(slot->kind, kind);
	WRITE_ONCE(slot->cpu, cpu);
	WRITE_ONCE(slot->subject, subject);
	WRITE_ONCE(slot->time_ns, time);
	WRITE_ONCE(slot->value, value);
	ARENA_RELEASE(slot->commit, position + 1);
	WRITE_ONCE(ring->head, READ_ONCE(own->head));
	km_ring_doorbell();
	return true;
}

/*
 * Add to a counter of this CPU. Not atomic: a counter belongs to one context
 * (tasks, or interrupts), so that nothing comes between load and store.
 */
static __always_inline void km_count(struct km_cpu *own, __u32 feature, __u64 by)
{
	own->value[feature] += by;
}

#endif
