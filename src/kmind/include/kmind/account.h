/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* An agent's accounts, summed over its CPUs. */
#ifndef KMIND_ACCOUNT_H
#define KMIND_ACCOUNT_H

#include <kmind/ring.h>

#define KM_SUM_UP(name) account->name = km.name;

/* The accounts, in one piece. */
static __always_inline void km_sum_up(struct kmind_account *account)
{
	__u64 pushed = 0, dropped = 0, bad_tail = 0, runs = 0, ns = 0;

	for (__u32 cpu = 0; cpu < km_geometry.nr_cpus && cpu < KMIND_MAX_CPUS; cpu++) {
		pushed += km.cpus[cpu].head;
		dropped += km.cpus[cpu].dropped;
		bad_tail += km.cpus[cpu].bad_tail;
		runs += km.cpus[cpu].hook_runs;
		ns += km.cpus[cpu].hook_ns;
	}
	account->pushed = pushed;
	account->dropped = dropped + km.window_ring.dropped;
	account->bad_tail = bad_tail + km.bad_cq_tail + km.window_ring.bad_tail;
	account->hook_runs = runs;
	account->hook_ns = ns;
	account->heartbeat_ns = km.heartbeat_ns;
	KMIND_COUNTERS(KM_SUM_UP)
	for (int i = 0; i < KMIND_VERDICTS; i++)
		account->verdicts[i] = km.verdicts[i];
}

#endif
