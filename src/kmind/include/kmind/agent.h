/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The agent library. A module includes this, and defines its features and hooks.
 *
 *	#define KM_GAUGES (1ULL << MY_GAUGE)	features that are set, not added to
 *	#define KM_ON_WINDOW my_function	optional: gets a window's counters, as the tick
 *						closes it, and may set gauges of it
 *	#define KM_ON_TICK my_tick		optional: runs at each tick; true: emergency, as
 *						a request has waited for too long
 *	#define KM_ON_SHOW my_show		optional: prints more lines of the account
 *	#define KM_TABLES(table) table(disks)	the tables by key, each made by KM_TABLE (table.h)
 *	#include <kmind/agent.h>
 *	KM_FEATURES(my_feature);		enum my_feature: the columns
 *
 *	SEC("tp_btf/some_tracepoint")
 *	int KM_HOOK(on_it, struct some *argument)
 *	{
 *		...
 *		return 0;
 *	}
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

#include <kmind/account.h>
#include <kmind/admission.h>
#include <kmind/bpf_iter.h>
#include <kmind/vmlinux_types.h>
#include <bpf/bpf_tracing.h>

#ifndef KM_GAUGES
#define KM_GAUGES 0
#endif
/* Puts the names of the columns into the object, where tests can see them. */
#define KM_FEATURES(name) const volatile enum name km_features
#define KM_TICK_BUDGET 16
#define KM_CLOCK_MONOTONIC 1
#define KM_PUBLISH_NS 100000000ULL

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

/* When the mode was last set: the watchdogs count anew from there. And why it is this one. */
static __u64 km_mode_ns;
static __u32 km_cause;

static __always_inline bool km_is_target(__u32 device)
{
	for (__u32 i = 0; i < km_nr_devices && i < 8; i++)
		if (km_devices[i] == device)
			return true;
	return false;
}

static __always_inline void km_set_gauge(__u32 feature, __u64 value)
{
	WRITE_ONCE(km.window_ring.value[feature], value);
}

/*
 * An agent is upgraded while it works: the new programs are attached behind the
 * old ones, so that for a while both run at each event, the old one first. Which
 * of them works is one word. An event during which that word changes would be
 * taken twice; so around the change the old one notes, in a stack of bits for
 * each CPU, whether it took the event, and the new one looks. A stack, because
 * events nest as interrupts do. An upgrade that fails goes back by the same way,
 * the old one still being the first to run. Between two changes of the word the
 * owner waits for a grace period of RCU. (Where a task may be preempted between two
 * programs of one event, as in sys_enter, one event a CPU can still be taken twice.)
 */
static __noinline bool km_is_taking_over(__u32 active)
{
	__u32 cpu, taken, phase = active & (KMIND_PHASE_LEAVING | KMIND_PHASE_ENTERING);
	bool own = (active & ~phase) == km_generation;

	if (!phase)
		return false;
	km_this_cpu(&cpu);
	taken = km.marks[cpu];
	if (own == !!(phase & KMIND_PHASE_LEAVING)) { /* the old one */
		km.marks[cpu] = taken << 1 | own;
		return own;
	}
	km.marks[cpu] = taken >> 1;
	return phase & KMIND_PHASE_ENTERING && !(taken & 1);
}

static __always_inline bool km_leaves_first(__u32 active)
{
	return active & KMIND_PHASE_LEAVING && !(active & KMIND_PHASE_ENTERING);
}

/* Is it for the programs of this generation to take the event? */
static __always_inline bool km_is_active(void)
{
	__u32 active = READ_ONCE(km.head.active);

	return active == km_generation || km_is_taking_over(active);
}

/*
 * The same for a program at a function. The kernel runs the latest of these first
 * (bpf_trampoline_link_prog(), kernel/bpf/trampoline.c), so the notes above would be read before
 * they are written. Without them, events that run during the change may be lost, one a CPU at
 * most, and none is taken twice.
 */
static __always_inline bool km_is_named(void)
{
	__u32 active = READ_ONCE(km.head.active);

	return (active & ~(KMIND_PHASE_LEAVING | KMIND_PHASE_ENTERING)) == km_generation;
}

/*
 * Is the current task an extension's, of any kmind on this machine? Its user id says so, which
 * it cannot change, and threads and children share. Only where a hook runs on behalf of the current
 * task: in an interrupt that is whoever was interrupted, and in a kernel thread nobody. Read from
 * the task: 13 ns, and 31 by the helper.
 */
static __always_inline bool km_is_extension(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->cred->uid.val - KMIND_FIRST_UID < KMIND_UIDS;
}

/*
 * Around what a hook does: runs are counted, not atomically, and about one in 64
 * is timed. The product spreads the sample, or hooks that come in turns would
 * always be timed at the same one.
 */
static __always_inline __u64 km_hook_begin(void)
{
	struct km_cpu *own;
	__u32 cpu;

	own = km_this_cpu(&cpu);
	return ++own->hook_runs * 0x9e3779b97f4a7c15ULL >> 58 ? 0 : bpf_ktime_get_ns();
}

/* Each hook ends with this: it answers a recommendation that waits. */
static __always_inline int km_hook_end(__u64 start)
{
	struct km_cpu *own;
	__u64 ns;
	__u32 cpu;

	km_admit(1);
	if (start) {
		own = km_this_cpu(&cpu);
		ns = bpf_ktime_get_ns() - start;
		own->hook_ns += ns > km.clock_ns ? (ns - km.clock_ns) * 64 : 0;
	}
	return 0;
}

/*
 * A hook: SEC("tp_btf/NAME") int KM_HOOK(program, arguments of the tracepoint) { ... }
 * Its own part need not think of generations, accounts and admission.
 *
 * KM_TASK_HOOK is one for tracepoints that the current task itself runs into, as it reads, writes
 * or needs memory: what extensions do there is passed over, for else an extension could do by
 * itself what the values that it recommends are judged by. A completion runs in interrupts: there
 * it is KM_HOOK.
 *
 * KM_TASK_FUNCTION is KM_TASK_HOOK for SEC("fentry/NAME") and SEC("fexit/NAME"): for a kernel that
 * has no tracepoint there. Its arguments are the function's first ones; at fexit all of
 * them, and then what it returned.
 */
/* clang-format off */
#define KM_HOOK(name, args...) KM_HOOK_IF(km_is_active(), name, ##args)
#define KM_TASK_HOOK(name, args...) \
	KM_HOOK_IF(km_is_active() && !km_is_extension(), name, ##args)
#define KM_TASK_FUNCTION(name, args...) \
	KM_HOOK_IF(km_is_named() && !km_is_extension(), name, ##args)
#define KM_HOOK_IF(own_event, name, args...)                                    \
	name(unsigned long long *ctx);                                          \
	static __always_inline int name##_own(unsigned long long *ctx, ##args); \
	int name(unsigned long long *ctx)                                       \
	{                                                                       \
		__u64 start;                                                    \
										\
		KM_USES_ARENA();                                                \
		if (!(own_event))                                               \
			return 0;                                               \
		start = km_hook_begin();                                        \
		_Pragma("GCC diagnostic push")                                  \
		_Pragma("GCC diagnostic ignored \"-Wint-conversion\"")          \
		name##_own(___bpf_ctx_cast(args));                              \
		_Pragma("GCC diagnostic pop")                                   \
		return km_hook_end(start);                                      \
	}                                                                       \
	static __always_inline int name##_own(unsigned long long *ctx, ##args)
/* clang-format on */

static __noinline int km_enter_mode(__u32 mode, __u32 cause)
{
	struct kmind_instance *instance;
	struct kmind_action *action;
	__u32 slot = km_slot;

	KM_USES_ARENA();
	WRITE_ONCE(km_cause, cause);
	WRITE_ONCE(km.mode, mode);
	WRITE_ONCE(km_header()->mode, mode);
	/* The owner compares it each second, should the ring have no room for the word of it. */
	instance = slot ? bpf_map_lookup_elem(&km_instances, &slot) : NULL;
	if (instance)
		WRITE_ONCE(instance->mode, mode);
	km_push(KMIND_KIND_MODE, cause, mode, bpf_ktime_get_ns());
	action = bpf_ringbuf_reserve(&km_actions, sizeof(*action), 0);
	if (!action) {
		__sync_fetch_and_add(&km.actions_lost, 1);
		return 0;
	}
	__builtin_memset(action, 0, sizeof(*action));
	action->kind = KMIND_ACTION_MODE;
	action->verdict = cause;
	action->mode = mode;
	action->instance = km_slot;
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
		total += READ_ONCE(km.cpus[cpu].value[feature]);
	return total;
}

/* The sum of all counters, which only grow: the same as before if none has moved. */
static __noinline __u64 km_sum_counters(void)
{
	__u64 sum = 0;

	for (__u32 feature = 0; feature < KMIND_FEATURES; feature++)
		if (!(KM_GAUGES >> feature & 1))
			sum += km_total(feature);
	return sum;
}

#ifdef KM_ON_WINDOW
/* The counters of the window that is being closed, where no extension can write. */
static __u64 km_closing[KMIND_FEATURES];

static int KM_ON_WINDOW(const __u64 *closing);
#endif

static __noinline int km_close_window(__u64 now)
{
	struct kmind_window __arena *slot;
	struct kmind_ring __arena *ring;
	__u32 position, seq, cpus = km_geometry.nr_cpus;
	__u64 total, counted, dropped = 0;

	KM_USES_ARENA();
	km.window_due_ns = now + km_window_ns;
	/*
	 * Whether there is anything to see is counted here, where no extension can say otherwise: a
	 * reader that never reads lets no window be closed.
	 */
	counted = km_sum_counters();
	km.busy += counted != km.counted;
	km.counted = counted;
	/* Nothing to tell: let the reader sleep on. */
	if (now - km.window_start_ns < KMIND_IDLE_MS * 1000000ULL && counted == km.window_counted)
		return 0;
	ring = km_at(struct kmind_ring, km_geometry.rings + cpus * sizeof(struct kmind_ring));
	/* No room: the counters run on, and the next window covers this one too. */
	if (km.window_ring.head - READ_ONCE(ring->tail) == KMIND_WINDOW_SLOTS ||
	    !km_reserve(&km.window_ring, ring, KMIND_WINDOW_SLOTS, &position, &seq))
		return 0;
	slot = km_at(struct kmind_window,
		     km_geometry.windows +
			     (position & (KMIND_WINDOW_SLOTS - 1)) * sizeof(struct kmind_window));
	for (__u32 feature = 0; feature < KMIND_FEATURES; feature++) {
		if (KM_GAUGES >> feature & 1)
			continue;
		total = km_total(feature);
		WRITE_ONCE(slot->value[feature], total - km.window_last[feature]);
#ifdef KM_ON_WINDOW
		km_closing[feature] = total - km.window_last[feature];
#endif
		km.window_last[feature] = total;
	}
#ifdef KM_ON_WINDOW
	KM_ON_WINDOW(km_closing);
#endif
	for (__u32 feature = 0; feature < KMIND_FEATURES; feature++)
		if (KM_GAUGES >> feature & 1)
			WRITE_ONCE(slot->value[feature], READ_ONCE(km.window_ring.value[feature]));
	for (__u32 cpu = 0; cpu < cpus && cpu < KMIND_MAX_CPUS; cpu++)
		dropped += READ_ONCE(km.cpus[cpu].dropped);
	WRITE_ONCE(slot->seq, seq);
	WRITE_ONCE(slot->mode, km.mode);
	WRITE_ONCE(slot->dropped, (__u32)dropped);
	WRITE_ONCE(slot->start_ns, km.window_start_ns);
	WRITE_ONCE(slot->end_ns, now);
	ARENA_RELEASE(slot->commit, position + 1);
	WRITE_ONCE(ring->head, position + 1);
	km.window_start_ns = now;
	km.window_counted = counted;
	km.windows++;
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
		head = cpu == km_geometry.nr_cpus ? READ_ONCE(km.window_ring.head) :
						    READ_ONCE(km.cpus[cpu].head);
		WRITE_ONCE(ring->head, head);
		waiting |= head != READ_ONCE(ring->tail);
	}
	if (waiting)
		km_ring_doorbell();
}

/* For `stats`, which shows all instances. */
static __noinline int km_publish(__u64 now)
{
	struct kmind_instance *instance;
	__u32 slot = km_slot;

	km.published_ns = now;
	if (!slot)
		return 0;
	instance = bpf_map_lookup_elem(&km_instances, &slot);
	if (!instance)
		return 0;
	km_sum_up(&instance->account);
	instance->mode = km.mode;
	instance->generation = km_generation;
	WRITE_ONCE(instance->published_ns, now);
	return 0;
}

#ifdef KM_ON_TICK
static bool KM_ON_TICK(__u64 now);
#endif

#ifdef KM_TABLES
#define KM_TABLE_LOOK(name) static int km_look_through_##name(__u64 now);
KM_TABLES(KM_TABLE_LOOK)
#undef KM_TABLE_LOOK
#define KM_TABLE_LOOK(name) km_look_through_##name(now);
#else
#define KM_TABLES(table)
#endif

static int km_tick(void *map, __u32 *key, struct km_timer *timer)
{
	struct kmind_header __arena *header;
	__u64 now = bpf_ktime_get_ns();
	__u32 beat, active;

	KM_USES_ARENA();
	/* Each generation has a timer of its own, and one watches at any phase. */
	active = READ_ONCE(km.head.active) & ~(KMIND_PHASE_LEAVING | KMIND_PHASE_ENTERING);
	if (!READ_ONCE(km.head.running) || active != km_generation)
		return 0;
	header = km_header();
	km.ticks++;
	WRITE_ONCE(km.now_ns, now);
	WRITE_ONCE(header->agent_ns, now);
	km_admit(KM_TICK_BUDGET);
	km_wake_owner();
	beat = READ_ONCE(header->heartbeat);
	if (beat != km.heartbeat) {
		km.heartbeat = beat;
		km.heartbeat_ns = now;
	} else if (now - km.heartbeat_ns > km_deadline_ns && km.mode != KMIND_MODE_EMERGENCY) {
		km_enter_mode(KMIND_MODE_EMERGENCY, KMIND_CAUSE_STALLED);
	}
#ifdef KM_ON_TICK
	if (KM_ON_TICK(now) && km.mode != KMIND_MODE_EMERGENCY)
		km_enter_mode(KMIND_MODE_EMERGENCY, KMIND_CAUSE_UNANSWERED);
#endif
	if (now >= km.window_due_ns)
		km_close_window(now);
	if (now - km.published_ns >= KM_PUBLISH_NS)
		km_publish(now);
	KM_TABLES(KM_TABLE_LOOK)
	km_sweep();
	bpf_timer_start(&timer->timer, km_tick_ns, 0);
	return 0;
}

/* The shortest of a few readings of the clock, one right after the other. */
static __always_inline __u64 km_time_clock(void)
{
	__u64 start, ns, best = 1000;

	for (int turn = 0; turn < 16; turn++) {
		start = bpf_ktime_get_ns();
		ns = bpf_ktime_get_ns() - start;
		best = ns < best ? ns : best;
	}
	return best;
}

static __always_inline int km_start(void)
{
	struct km_timer *timer;
	__u32 zero = 0;
	int err;

	timer = bpf_map_lookup_elem(&km_timers, &zero);
	if (!timer)
		return -1;
	if (!km.head.running) {
		km.heartbeat_ns = km.window_start_ns = km.now_ns = bpf_ktime_get_ns();
		km.window_due_ns = km.window_start_ns + km_window_ns;
		km.clock_ns = km_time_clock();
		WRITE_ONCE(km.head.running, 1);
	}
	err = bpf_timer_init(&timer->timer, &km_timers, KM_CLOCK_MONOTONIC);
	if (err && err != -KM_EBUSY) /* armed before, by an owner that is gone */
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

	KM_USES_ARENA();
	switch (args->op) {
	case KMIND_CONTROL_START:
		args->result = km_start();
		break;
	case KMIND_CONTROL_MODE:
		/* The watchdog counts anew from here. */
		km.heartbeat_ns = km_mode_ns = bpf_ktime_get_ns();
		args->result = km_enter_mode(args->value, KMIND_CAUSE_ASKED);
		break;
	case KMIND_CONTROL_CURRENT:
		args->result = km_set_current(&key, args->value);
		break;
	case KMIND_CONTROL_GRANT:
		args->result = km_grant(&key, args);
		break;
	case KMIND_CONTROL_REVOKE:
		args->result = km_revoke(&key);
		args->value = args->result;
		break;
	case KMIND_CONTROL_LOOK:
		args->value = READ_ONCE(km.mode);
		args->kind = READ_ONCE(km_cause);
		args->result = 0;
		break;
	case KMIND_CONTROL_NOTICE:
		km.applied += args->kind == KMIND_KIND_APPLIED || args->kind == KMIND_KIND_KEPT;
		km.undone += args->kind == KMIND_KIND_UNDONE;
		args->result =
			km_push(args->kind, args->id, args->value, bpf_ktime_get_ns()) ? 0 : -1;
		break;
	case KMIND_CONTROL_MODEL:
		WRITE_ONCE(km.model, args->value);
		args->result = 0;
		break;
	case KMIND_CONTROL_FEATURE:
		args->value = km_total(args->knob);
		args->result = 0;
		break;
	case KMIND_CONTROL_ACTIVE:
		/* Once, before the first note: on the way back, notes wait to be read. */
		for (int cpu = 0; km_leaves_first(args->value) && cpu < KMIND_MAX_CPUS; cpu++)
			km.marks[cpu] = 0;
		WRITE_ONCE(km.head.active, args->value);
		args->result = 0;
		break;
	case KMIND_CONTROL_STOP:
		WRITE_ONCE(km.head.running, 0);
		args->result = 0;
		break;
	default:
		args->result = -22;
	}
	return 0;
}

SEC("syscall")
int km_account(struct kmind_account *account)
{
	km_sum_up(account);
	return 0;
}

#endif
