// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Takes and gives back one lease as fast as the kernel can, on each CPU for another slot. */
#pragma clang diagnostic ignored "-Wunused-parameter"

#include <kmind/lease.h>

char leases_license[] SEC("license") = "Dual BSD/GPL";

#define KM_FIRST 1 /* a handle: the first place, in its first generation */

struct leases_work {
	__u32 slot;
	__u32 priority;
	__u32 turns;
	__u32 keep; /* give it back only every so many turns; 0: at each */
	__u64 taken;
	__u64 denied;
	__u64 handed_over;
	__u64 together; /* times that somebody else had it, too */
	__u64 misnamed; /* times that a refusal named nobody, or who asked */
};

static __u32 inside; /* who has it believes so */

static int one_turn(__u32 turn, struct leases_work *work)
{
	struct km_claim claim = {
		.slot = work->slot,
		.priority = work->priority,
		.hold_ms = 3600000,
		.now = bpf_ktime_get_ns(),
	};
	struct kmind_lease *lease;

	if (km_lease_acquire(KM_FIRST, &claim) != KMIND_VERDICT_APPROVED) {
		work->denied++;
		work->misnamed += !claim.holder || claim.holder == work->slot;
		return 0;
	}
	work->taken++;
	work->handed_over += claim.previous != 0;
	work->together += __sync_fetch_and_add(&inside, 1) != 0;
	__sync_fetch_and_add(&inside, -1);
	lease = km_lease_at(KM_FIRST);
	if (lease && !(work->keep && turn % work->keep))
		km_lease_release(lease, work->slot);
	return 0;
}

SEC("syscall")
int contend(struct leases_work *args)
{
	struct leases_work work = *args;

	/* The mask: clang loads `keep` along with it, and the kernel's loop compares 64 bits. */
	bpf_loop(work.turns & 0xffffff, one_turn, &work, 0);
	*args = work;
	return 0;
}
