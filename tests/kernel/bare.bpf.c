// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * An agent without hooks: a test does by hand what a hook would do, as often as it wants.
 */
#define KM_GAUGES (1ULL << 1)
#include <kmind/agent.h>

struct bare_work {
	__u32 pushes;
	__u32 admits; /* times that a hook ends */
	__u32 kind;
	__u32 subject;
	__u64 value; /* of the first record; each next one has one more */
	__u64 count; /* added to feature 0 */
	__u64 gauge; /* what feature 1 is set to */
	__u64 pushed;
};

struct bare_timer {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bare_timer);
} bare_timers SEC(".maps");

const volatile __u64 param_interrupt_ns = 20000;

static __u32 bare_left; /* records that the timer is still to push */
static __u64 bare_next;

static int bare_push_one(__u32 turn, struct bare_work *work)
{
	KM_USES_ARENA();
	if (km_push(work->kind, work->subject, work->value + turn, 0))
		work->pushed++;
	return 0;
}

static int bare_admit_one(__u32 turn, struct bare_work *work)
{
	KM_USES_ARENA();
	km_hook_end(km_hook_begin());
	return 0;
}

SEC("syscall")
int bare_run(struct bare_work *work)
{
	struct bare_work copy = *work;
	__u32 cpu;

	KM_USES_ARENA();
	copy.pushed = 0;
	km_count(km_this_cpu(&cpu), 0, copy.count);
	km_set_gauge(1, copy.gauge);
	bpf_loop(copy.pushes, bare_push_one, &copy, 0);
	bpf_loop(copy.admits, bare_admit_one, &copy, 0);
	work->pushed = copy.pushed;
	return 0;
}

/* A producer that interrupts others on its CPU: each time one record of kind 66. */
static int bare_interrupt(void *map, __u32 *key, struct bare_timer *timer)
{
	KM_USES_ARENA();
	if (!bare_left)
		return 0;
	bare_left--;
	km_push(66, 0, bare_next++, 0);
	bpf_timer_start(&timer->timer, param_interrupt_ns, 0);
	return 0;
}

/* Let the timer push that many records, one after the other. */
SEC("syscall")
int bare_interrupts(struct bare_work *work)
{
	struct bare_timer *timer;
	__u32 zero = 0;

	KM_USES_ARENA();
	timer = bpf_map_lookup_elem(&bare_timers, &zero);
	if (!timer)
		return -1;
	WRITE_ONCE(bare_left, work->pushes);
	bpf_timer_init(&timer->timer, &bare_timers, KM_CLOCK_MONOTONIC);
	bpf_timer_set_callback(&timer->timer, bare_interrupt);
	return bpf_timer_start(&timer->timer, param_interrupt_ns, 0);
}

/* What a hook asks first: is the event for this generation? */
SEC("syscall")
int bare_asks(struct bare_work *work)
{
	KM_USES_ARENA();
	work->pushed = km_is_active();
	return 0;
}
