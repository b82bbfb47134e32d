// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Approves one key on one CPU, while another one takes that back and approves another key. */
#pragma clang diagnostic ignored "-Wunused-parameter"

#include <kmind/lease.h>

char approvals_license[] SEC("license") = "Dual BSD/GPL";

struct approvals_work {
	__u32 key; /* of the agent; the owner's is one higher */
	__u32 turns;
	__u64 seen;
	__u64 wrong; /* times that an approval had another key's words */
};

static __always_inline void look(struct kmind_grant_key *key, struct approvals_work *work)
{
	struct kmind_approved found = {};

	if (km_read_approved(&km_approved, key, &found) != 1)
		return;
	work->seen++;
	work->wrong += found.value != key->knob || found.baseline != key->knob ||
		       found.instance != key->knob || found.id != key->knob;
}

static __always_inline void approve(struct kmind_grant_key *key)
{
	struct kmind_approved approved = {
		.value = key->knob,
		.baseline = key->knob,
		.instance = key->knob,
		.id = key->knob,
		.time_ns = bpf_ktime_get_ns(),
	};

	km_approve(&km_approved, key, &approved);
}

static int agent_turn(__u32 turn, struct approvals_work *work)
{
	struct kmind_grant_key key = {.knob = work->key};

	approve(&key);
	look(&key, work);
	return 0;
}

static int owner_turn(__u32 turn, struct approvals_work *work)
{
	struct kmind_grant_key key = {.knob = work->key};

	bpf_map_delete_elem(&km_approved, &key);
	key.knob++;
	approve(&key);
	look(&key, work);
	bpf_map_delete_elem(&km_approved, &key);
	return 0;
}

SEC("syscall")
int agent(struct approvals_work *args)
{
	struct approvals_work work = *args;

	bpf_loop(work.turns & 0xffffff, agent_turn, &work, 0);
	*args = work;
	return 0;
}

SEC("syscall")
int owner(struct approvals_work *args)
{
	struct approvals_work work = *args;

	bpf_loop(work.turns & 0xffffff, owner_turn, &work, 0);
	*args = work;
	return 0;
}
