/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The agent library. A module includes this, defines its features and hooks,
 * and ends each hook with km_hook_end().
 *
 *	#define KM_GAUGES (1ULL << MY_GAUGE)	features that are set, not added to
 *	#include "agent.h"
 *	KM_FEATURES(my_feature);		enum my_feature: the columns
 *
 * The tick, a kernel timer, does what must not depend on load or on user
 * space: it answers recommendations when no hook runs, closes feature windows,
 * wakes a reader that was missed, and moves the agent to emergency when the
 * extension's heart stops.
 */
#ifndef KMIND_AGENT_H
#define KMIND_AGENT_H

/* Hooks take the kernel's arguments, needed or not. */
#pragma clang diagnostic ignored "-Wunused-parameter"

#include "admission.h"
#include "kernel.h"
#include <bpf/bpf_tracing.h>

#ifndef KM_GAUGES
#define KM_GAUGES 0
#endif
/* Puts the names of the columns into the object, where tests can see them. */
#define KM_FEATURES(name) const volatile enum name km_features
#define KM_TICK_BUDGET 16
#define KM_CLOCK_MONOTONIC 1

char km_license[] SEC("license") = "Dual BSD/GPL";

const volatile __u64 km_gauges = KM_GAUGES; /* for tests, as km_features is */
const volatile __u64 km_tick_ns = 2000000;
const volatile __u64 km_window_ns = 100000000;
const volatile __u64 km_deadline_ns = 1000000000;
/* Block devices of the target: the disk and its partitions, as kernel dev_t. */
const volatile __u32 km_devices[8];
const volatile __u32 km_nr_devices;

struct km_timer {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct km_timer);
} km_timers SEC(".maps");

static __u32 km_running;
static __u32 km_heartbeat;
static __u64 km_heartbeat_ns;
static __u64 km_window_start_ns;
static __u64 km_ticks;
static __u64 km_windows;
static struct km_cpu km_window_ring; /* head of the window ring; its counters: gauges */
static __u64 km_window_last[KMIND_FEATURES];

static __always_inline bool km_is_target(__u32 device)
{
	for (__u32 i = 0; i < km_nr_devices && i < 8; i++)
		if (km_devices[i] == device)
			return true;
	return false;
}

static __always_inline void km_set_gauge(__u32 feature, __u64 value)
{
	WRITE_ONCE(km_window_ring.value[feature], value);
}

/* Each hook ends with this: it answers a recommendation that waits. */
static __always_inline int km_hook_end(void)
{
	km_admit(1);
	return 0;
}

static __noinline int km_enter_mode(__u32 mode, __u32 cause)
{
	struct kmind_action *action;

	KM_USES_ARENA();
	WRITE_ONCE(km_mode, mode);
	WRITE_ONCE(km_header()->mode, mode);
	km_push(KMIND_KIND_MODE, cause, mode, bpf_ktime_get_ns());
	action = bpf_ringbuf_reserve(&km_actions, sizeof(*action), 0);
	if (!action) {
		__sync_fetch_and_add(&km_actions_lost, 1);
		return 0;
	}
	__builtin_memset(action, 0, sizeof(*action));
	action->kind = KMIND_ACTION_MODE;
	action->verdict = cause;
	action->mode = mode;
	action->time_ns = bpf_ktime_get_ns();
	bpf_ringbuf_submit(action, BPF_RB_FORCE_WAKEUP);
	return 0;
}

/* A counter, all CPUs summed. */
static __always_inline __u64 km_total(__u32 feature)
{
	__u64 total = 0;

	if (feature >= KMIND_FEATURES)
		return 0;
	for (__u32 cpu = 0; cpu < km_geometry.nr_cpus && cpu < KMIND_MAX_CPUS; cpu++)
		total += READ_ONCE(km_cpus[cpu].value[feature]);
	return total;
}

static __noinline int km_close_window(__u64 now)
{
	struct kmind_window __arena *slot;
	struct kmind_ring __arena *ring;
	__u32 position, seq, cpus = km_geometry.nr_cpus;
	__u64 total, dropped = 0;

	KM_USES_ARENA();
	ring = km_at(struct kmind_ring, km_geometry.rings + cpus * sizeof(struct kmind_ring));
	/* No room: the counters run on, and the next window covers this one too. */
	if (km_window_ring.head - READ_ONCE(ring->tail) == KMIND_WINDOW_SLOTS ||
	    !km_reserve(&km_window_ring, ring, KMIND_WINDOW_SLOTS, &position, &seq))
		return 0;
	slot = km_at(struct kmind_window,
		     km_geometry.windows +
			     (position & (KMIND_WINDOW_SLOTS - 1)) * sizeof(struct kmind_window));
	for (__u32 feature = 0; feature < KMIND_FEATURES; feature++) {
		if (KM_GAUGES >> feature & 1) {
			WRITE_ONCE(slot->value[feature], READ_ONCE(km_window_ring.value[feature]));
			continue;
		}
		total = km_total(feature);
		WRITE_ONCE(slot->value[feature], total - km_window_last[feature]);
		km_window_last[feature] = total;
	}
	for (__u32 cpu = 0; cpu < cpus && cpu < KMIND_MAX_CPUS; cpu++)
		dropped += READ_ONCE(km_cpus[cpu].dropped);
	WRITE_ONCE(slot->seq, seq);
	WRITE_ONCE(slot->mode, km_mode);
	WRITE_ONCE(slot->dropped, (__u32)dropped);
	WRITE_ONCE(slot->start_ns, km_window_start_ns);
	WRITE_ONCE(slot->end_ns, now);
	ARENA_RELEASE(slot->commit, position + 1);
	WRITE_ONCE(ring->head, position + 1);
	km_window_start_ns = now;
	km_windows++;
	return 0;
}

/* Publish what pushes in progress left behind, and wake a reader that was missed. */
static __always_inline void km_sweep(void)
{
	struct kmind_ring __arena *ring;
	bool waiting = false;
	__u32 head;

	for (__u32 cpu = 0; cpu <= km_geometry.nr_cpus && cpu < KMIND_MAX_CPUS; cpu++) {
		ring = km_at(struct kmind_ring, km_geometry.rings + cpu * sizeof(*ring));
		head = cpu == km_geometry.nr_cpus ? READ_ONCE(km_window_ring.head) :
						    READ_ONCE(km_cpus[cpu].head);
		WRITE_ONCE(ring->head, head);
		waiting |= head != READ_ONCE(ring->tail);
	}
	if (waiting)
		km_ring_doorbell();
}

static int km_tick(void *map, __u32 *key, struct km_timer *timer)
{
	struct kmind_header __arena *header;
	__u64 now = bpf_ktime_get_ns();
	__u32 beat;

	KM_USES_ARENA();
	if (!READ_ONCE(km_running))
		return 0;
	header = km_header();
	km_ticks++;
	WRITE_ONCE(header->agent_ns, now);
	km_admit(KM_TICK_BUDGET);
	beat = READ_ONCE(header->heartbeat);
	if (beat != km_heartbeat) {
		km_heartbeat = beat;
		km_heartbeat_ns = now;
	} else if (now - km_heartbeat_ns > km_deadline_ns && km_mode != KMIND_MODE_EMERGENCY) {
		km_enter_mode(KMIND_MODE_EMERGENCY, KMIND_CAUSE_STALLED);
	}
	if (now - km_window_start_ns >= km_window_ns)
		km_close_window(now);
	km_sweep();
	bpf_timer_start(&timer->timer, km_tick_ns, 0);
	return 0;
}

static __always_inline int km_start(void)
{
	struct km_timer *timer;
	__u32 zero = 0;
	int err;

	timer = bpf_map_lookup_elem(&km_timers, &zero);
	if (!timer)
		return -1;
	km_heartbeat_ns = km_window_start_ns = bpf_ktime_get_ns();
	/* Volatile, or clang makes it a byte, which its BTF does not say. */
	WRITE_ONCE(km_running, 1);
	err = bpf_timer_init(&timer->timer, &km_timers, KM_CLOCK_MONOTONIC);
	if (err)
		return err;
	err = bpf_timer_set_callback(&timer->timer, km_tick);
	if (err)
		return err;
	return bpf_timer_start(&timer->timer, km_tick_ns, 0);
}

/* The daemon's way in. Only root can run it. */
SEC("syscall")
int km_control(struct kmind_control *args)
{
	struct kmind_grant_key key = {.knob = args->knob, .target = args->target};
	struct kmind_grant *grant;

	KM_USES_ARENA();
	switch (args->op) {
	case KMIND_CONTROL_START:
		args->result = km_start();
		break;
	case KMIND_CONTROL_MODE:
		/* The watchdog counts anew from here. */
		km_heartbeat_ns = bpf_ktime_get_ns();
		args->result = km_enter_mode(args->value, KMIND_CAUSE_ASKED);
		break;
	case KMIND_CONTROL_CURRENT:
		grant = bpf_map_lookup_elem(&km_grants, &key);
		if (grant)
			WRITE_ONCE(grant->current, args->value);
		args->result = grant ? 0 : -2;
		break;
	case KMIND_CONTROL_NOTICE:
		args->result =
			km_push(args->kind, args->id, args->value, bpf_ktime_get_ns()) ? 0 : -1;
		break;
	case KMIND_CONTROL_MODEL:
		WRITE_ONCE(km_model, args->value);
		args->result = 0;
		break;
	case KMIND_CONTROL_FEATURE:
		args->value = km_total(args->knob);
		args->result = 0;
		break;
	case KMIND_CONTROL_STOP:
		WRITE_ONCE(km_running, 0);
		args->result = 0;
		break;
	default:
		args->result = -22;
	}
	return 0;
}

/* The accounts, in one piece. */
SEC("syscall")
int km_account(struct kmind_account *account)
{
	KM_USES_ARENA();
	account->pushed = account->dropped = account->bad_tail = 0;
	for (__u32 cpu = 0; cpu < km_geometry.nr_cpus && cpu < KMIND_MAX_CPUS; cpu++) {
		account->pushed += km_cpus[cpu].head;
		account->dropped += km_cpus[cpu].dropped;
		account->bad_tail += km_cpus[cpu].bad_tail;
	}
	account->bad_tail += km_bad_cq_tail + km_window_ring.bad_tail;
	account->dropped += km_window_ring.dropped;
	account->windows = km_windows;
	account->wakeups = km_wakeups;
	account->ticks = km_ticks;
	account->actions_lost = km_actions_lost;
	account->heartbeat_ns = km_heartbeat_ns;
	for (int i = 0; i < KMIND_VERDICTS; i++)
		account->verdicts[i] = km_verdicts[i];
	return 0;
}

#endif
