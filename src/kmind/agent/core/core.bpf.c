// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The core object: it outlives the daemon, and is read with cat.
 *
 * It holds the maps that all agents share, the owner's way to the leases, and
 * the iterator that prints a line for each instance.
 */
/* Callbacks take the kernel's arguments, needed or not. */
#pragma clang diagnostic ignored "-Wunused-parameter"

#include <kmind/lease.h>
#include <kmind/vmlinux_types.h>
#include <kmind/pids.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define PAGE_KIB 4

char core_license[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KMIND_CLASSES);
	__type(key, __u32);
	__type(value, struct kmind_class);
} km_classes SEC(".maps");

/*
 * The owner gives places to keys and takes them back, one call at a time: agents know their
 * places by handles, and look for no key. The lock is held by a program that runs to its end.
 */
static __u32 changing;

struct search {
	__u64 mark;
	__u32 found, free; /* places, from 1 on */
};

static long look_for(void *map, __u32 *place, struct kmind_lease *lease, struct search *search)
{
	if (lease->key == search->mark) {
		search->found = *place + 1;
		return 1;
	}
	if (!lease->key && !search->free)
		search->free = *place + 1;
	return 0;
}

/* The place of a key, from 1 on; with `make` it gets one if it has none. 0: none. */
static __always_inline __u32 place_of(const struct kmind_grant_key *key, bool make)
{
	struct search search = {.mark = kmind_mark(key)};
	struct kmind_lease *lease;

	if (!search.mark)
		return 0;
	bpf_for_each_map_elem(&km_leases, look_for, &search, 0);
	if (search.found || !make || !search.free)
		return search.found;
	lease = km_lease_at(search.free);
	if (!lease)
		return 0;
	lease->denied = lease->users = 0;
	WRITE_ONCE(lease->key, search.mark);
	return search.free;
}

/* Take a place back that nobody is granted and nobody holds. */
static __always_inline void tidy(struct kmind_lease *lease)
{
	__u64 word = READ_ONCE(lease->word), next;

	if (!lease->key || lease->users || km_lease_holder(word))
		return;
	next = km_lease_word(0, 0, km_lease_generation(word) + 1, 0);
	if (__sync_val_compare_and_swap(&lease->word, word, next) == word)
		WRITE_ONCE(lease->key, 0);
}

static __always_inline bool leave(struct kmind_lease *lease, __u32 slot)
{
	struct kmind_instance *instance = bpf_map_lookup_elem(&km_instances, &slot);
	__u64 bit = 1ULL << (slot & (KMIND_INSTANCES - 1));

	if (!instance || !slot || !(lease->users & bit))
		return false;
	lease->users &= ~bit;
	instance->places--;
	return true;
}

static long release_one(void *map, __u32 *place, struct kmind_lease *lease,
			struct kmind_core_call *call)
{
	call->result += km_lease_release(lease, call->slot);
	tidy(lease);
	return 0;
}

static long leave_one(void *map, __u32 *place, struct kmind_lease *lease,
		      struct kmind_core_call *call)
{
	call->result += leave(lease, call->slot);
	return release_one(map, place, lease, call) & 0;
}

static __always_inline int acquire(struct kmind_core_call *call, struct kmind_grant_key *key)
{
	struct km_claim claim = {
		.slot = call->slot,
		.priority = call->priority,
		.hold_ms = call->hold_ms,
		.now = bpf_ktime_get_ns(),
	};
	struct kmind_lease *lease;
	__u32 place, verdict;

	if (!call->slot || call->slot >= KMIND_INSTANCES)
		return -1;
	place = place_of(key, true);
	lease = km_lease_at(place);
	if (!lease)
		return -KM_ENOSPC;
	verdict =
		km_lease_acquire(place | km_lease_generation(READ_ONCE(lease->word)) << 16, &claim);
	call->holder = claim.holder;
	call->previous = claim.previous;
	return verdict == KMIND_VERDICT_APPROVED ? 1 : -1;
}

static __always_inline int release(struct kmind_core_call *call, struct kmind_grant_key *key)
{
	struct kmind_lease *lease = km_lease_at(place_of(key, false));
	bool released;

	if (!lease)
		return 0;
	released = km_lease_release(lease, call->slot);
	tidy(lease);
	return released;
}

/* An instance is granted a key: from now on the key's place stays its own. */
static __always_inline int give_place(struct kmind_core_call *call, struct kmind_grant_key *key)
{
	struct kmind_instance *instance = bpf_map_lookup_elem(&km_instances, &call->slot);
	__u64 bit = 1ULL << (call->slot & (KMIND_INSTANCES - 1));
	struct kmind_lease *lease;
	__u32 place;

	if (!instance || !call->slot)
		return -1;
	place = place_of(key, true);
	lease = km_lease_at(place);
	if (!lease)
		return -KM_ENOSPC;
	if (!(lease->users & bit)) {
		lease->users |= bit;
		instance->places++;
	}
	call->lease = km_lease_handle(place - 1, READ_ONCE(lease->word));
	return 1;
}

static __always_inline int leave_place(struct kmind_core_call *call, struct kmind_grant_key *key)
{
	struct kmind_lease *lease = km_lease_at(place_of(key, false));
	bool left;

	if (!lease)
		return 0;
	left = leave(lease, call->slot);
	tidy(lease);
	return left;
}

extern struct task_struct *bpf_task_from_pid(__s32 pid) __weak __ksym;
extern void bpf_task_release(struct task_struct *task) __weak __ksym;
extern int bpf_iter_task_new(struct bpf_iter_task *it, struct task_struct *task,
			     unsigned int flags) __weak __ksym;
extern struct task_struct *bpf_iter_task_next(struct bpf_iter_task *it) __weak __ksym;
extern void bpf_iter_task_destroy(struct bpf_iter_task *it) __weak __ksym;
extern void bpf_rcu_read_lock(void) __weak __ksym;
extern void bpf_rcu_read_unlock(void) __weak __ksym;

/*
 * Loops over tasks came with Linux 6.7, after all else that is used of tasks here. A type tells of
 * them, for libbpf 1.1 cannot tell if a kernel function is there.
 */
static __always_inline bool can_iterate(void)
{
	return bpf_core_type_exists(struct bpf_iter_task);
}

/* The caller names a process by its own PID namespace: which one is it? 0: none, or not known. */
static __always_inline __u32 host_pid_of(__u32 pid)
{
	struct bpf_iter_task tasks;
	struct task_struct *task;
	__u32 found = 0;

	if (!km_pid_level())
		return pid;
	if (!can_iterate())
		return 0;
	bpf_rcu_read_lock();
	bpf_iter_task_new(&tasks, NULL, KM_ITER_ALL_PROCS);
	while (!found && (task = bpf_iter_task_next(&tasks)))
		if (km_pid_here(task) == pid)
			found = BPF_CORE_READ(task, pid);
	bpf_iter_task_destroy(&tasks);
	bpf_rcu_read_unlock();
	return found;
}

static __always_inline int set_process(struct kmind_core_call *call)
{
	struct kmind_instance *instance = bpf_map_lookup_elem(&km_instances, &call->slot);

	if (!instance || !call->slot)
		return -1;
	WRITE_ONCE(instance->pid, call->pid);
	WRITE_ONCE(instance->host_pid, call->pid ? host_pid_of(call->pid) : 0);
	WRITE_ONCE(instance->uid, call->uid);
	return 1;
}

/*
 * A new approval that comes in between is lost with the old one: the gate then
 * refuses its write, which is the safe side.
 */
static __always_inline int disapprove(struct kmind_core_call *call, struct kmind_grant_key *key)
{
	struct kmind_approved *approved = bpf_map_lookup_elem(&km_approved, key);

	if (!approved || (call->slot && approved->instance != call->slot))
		return 0;
	return !bpf_map_delete_elem(&km_approved, key);
}

static __always_inline int carry_out(struct kmind_core_call *call)
{
	struct kmind_grant_key key = {.knob = call->knob, .target = call->target};

	call->result = 0;
	switch (call->op) {
	case KMIND_CORE_ACQUIRE:
		return acquire(call, &key);
	case KMIND_CORE_RELEASE:
		return release(call, &key);
	case KMIND_CORE_RELEASE_ALL:
		bpf_for_each_map_elem(&km_leases, release_one, call, 0);
		return call->result;
	case KMIND_CORE_PROCESS:
		return set_process(call);
	case KMIND_CORE_DISAPPROVE:
		return disapprove(call, &key);
	case KMIND_CORE_PLACE:
		return give_place(call, &key);
	case KMIND_CORE_LEAVE:
		return leave_place(call, &key);
	case KMIND_CORE_LEAVE_ALL:
		bpf_for_each_map_elem(&km_leases, leave_one, call, 0);
		return call->result;
	}
	return -KM_EINVAL;
}

/* The owner's part in it, by the same code as the agents'. */
SEC("syscall")
int km_core(struct kmind_core_call *args)
{
	/* A copy: a callback cannot take the context along. */
	struct kmind_core_call call = *args;

	if (__sync_val_compare_and_swap(&changing, 0, 1)) {
		args->result = -KM_EBUSY;
		return 0;
	}
	args->result = carry_out(&call);
	__sync_lock_test_and_set(&changing, 0);
	WRITE_ONCE(args->holder, call.holder); /* one by one: no pointer into the context */
	WRITE_ONCE(args->previous, call.previous);
	WRITE_ONCE(args->lease, call.lease);
	return 0;
}

/* Text for `cat`: a line for each instance. */

struct usage {
	bool known;
	__u32 pid; /* as who reads this numbers it; 0: not at all */

	__u64 cpu_ns;
	__u64 rss_kib;
};

/* CPU time of a process with all its threads, ended ones too. */
static __always_inline void read_usage(struct task_struct *task, struct usage *usage)
{
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	struct bpf_iter_task threads;
	struct task_struct *thread;
	long pages = 0;

	usage->known = true;
	usage->pid = km_pid_here(task);
	usage->cpu_ns = BPF_CORE_READ(task, signal, sum_sched_runtime);
	bpf_iter_task_new(&threads, task, KM_ITER_PROC_THREADS);
	while ((thread = bpf_iter_task_next(&threads)))
		usage->cpu_ns += BPF_CORE_READ(thread, se.sum_exec_runtime);
	bpf_iter_task_destroy(&threads);
	if (!mm)
		return;
	/* File, anonymous and shared pages; not the batch that each CPU keeps back. */
	pages += BPF_CORE_READ(mm, rss_stat[0].count);
	pages += BPF_CORE_READ(mm, rss_stat[1].count);
	pages += BPF_CORE_READ(mm, rss_stat[3].count);
	usage->rss_kib = pages < 0 ? 0 : pages * PAGE_KIB;
}

static __always_inline void look_at(const struct kmind_instance *instance, struct usage *usage)
{
	struct task_struct *task;

	if (!instance->host_pid || !can_iterate())
		return;
	task = bpf_task_from_pid(instance->host_pid);
	if (!task)
		return;
	/* A number may be another process's by now: that has another uid. */
	if (BPF_CORE_READ(task, cred, uid.val) == instance->uid)
		read_usage(task, usage);
	bpf_task_release(task);
}

static const char mode_words[][12] = {[0] = "-", KMIND_MODES(KMIND_AS_WORD)};

SEC("iter/bpf_map_elem")
int km_stats(struct bpf_iter__bpf_map_elem *ctx)
{
	struct kmind_instance *instance = ctx->value;
	struct seq_file *seq = ctx->meta->seq;
	const struct kmind_account *account;
	__u64 now, age_ms = 0, refused = 0;
	struct usage usage = {};
	__u32 mode;

	if (!instance)
		return 0;
	if (ctx->meta->seq_num == 0) {
		BPF_SEQ_PRINTF(seq, "%-4s %-32s %-10s %-10s %5s %8s %10s %9s ", "slot", "name",
			       "class", "mode", "gen", "pid", "cpu_ms", "rss_kib");
		BPF_SEQ_PRINTF(seq, "%12s %14s %12s %9s %9s %9s ", "hooks", "hook_ns", "pushed",
			       "dropped", "approved", "refused");
		BPF_SEQ_PRINTF(seq, "%6s %5s %8s %7s %8s %8s\n", "places", "held", "applied",
			       "undone", "wakeups", "beat_ms");
	}
	if (!instance->slot)
		return 0;
	look_at(instance, &usage);
	account = &instance->account;
	now = bpf_ktime_get_ns();
	if (account->heartbeat_ns && now > account->heartbeat_ns)
		age_ms = (now - account->heartbeat_ns) / 1000000;
	for (int i = KMIND_VERDICT_EMERGENCY; i < KMIND_VERDICTS; i++)
		refused += account->verdicts[i];
	mode = instance->mode;
	if (mode >= sizeof(mode_words) / sizeof(mode_words[0]))
		mode = 0;
	BPF_SEQ_PRINTF(seq, "%-4u %-32s %-10s %-10s %5u ", instance->slot, instance->name,
		       instance->class_name, mode_words[mode], instance->generation);
	if (usage.known)
		BPF_SEQ_PRINTF(seq, "%8u %10llu %9llu ", usage.pid, usage.cpu_ns / 1000000,
			       usage.rss_kib);
	else
		BPF_SEQ_PRINTF(seq, "%8s %10s %9s ", "-", "-", "-");
	BPF_SEQ_PRINTF(seq, "%12llu %14llu %12llu %9llu %9llu %9llu ", account->hook_runs,
		       account->hook_ns, account->pushed, account->dropped,
		       account->verdicts[KMIND_VERDICT_APPROVED], refused);
	BPF_SEQ_PRINTF(seq, "%6d %5d %8llu %7llu %8llu %8llu\n", instance->places, instance->held,
		       account->applied, account->undone, account->wakeups, age_ms);
	return 0;
}
