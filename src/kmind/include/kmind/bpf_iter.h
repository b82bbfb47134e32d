/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Text for `cat` about one agent: its accounts as they are now, a name and a
 * value on each line. An iterator over all instances that prints its own.
 */
#ifndef KMIND_BPF_ITER_H
#define KMIND_BPF_ITER_H

#include <kmind/account.h>
#include <kmind/admission.h>
#include <kmind/vmlinux_types.h>
#include <bpf/bpf_tracing.h>

static const char km_verdict_words[][12] = {KMIND_VERDICT_LIST(KMIND_AS_WORD)};
static const char km_mode_words[][12] = {[0] = "-", KMIND_MODES(KMIND_AS_WORD)};

static __always_inline void km_show_instance(struct seq_file *seq, struct kmind_instance *instance)
{
	__u32 mode = km.mode;

	if (mode >= sizeof(km_mode_words) / sizeof(km_mode_words[0]))
		mode = 0;
	BPF_SEQ_PRINTF(seq, "name %s\nmodule %s\nclass %s\nmode %s\n", instance->name,
		       instance->module, instance->class_name, km_mode_words[mode]);
	BPF_SEQ_PRINTF(seq, "slot %u\ngeneration %u\npid %u\nhost_pid %u\nuid %u\nheld %d\n",
		       instance->slot, km_generation, instance->pid, instance->host_pid,
		       instance->uid, instance->held);
}

#define KM_SHOW_COUNTER(name) BPF_SEQ_PRINTF(seq, #name " %llu\n", account.name);

static __always_inline void km_show_account(struct seq_file *seq)
{
	struct kmind_account account;

	km_sum_up(&account);
	BPF_SEQ_PRINTF(seq, "hook_runs %llu\nhook_ns %llu\npushed %llu\ndropped %llu\n",
		       account.hook_runs, account.hook_ns, account.pushed, account.dropped);
	BPF_SEQ_PRINTF(seq, "bad_tail %llu\nheartbeat_ms %llu\n", account.bad_tail,
		       (bpf_ktime_get_ns() - account.heartbeat_ns) / 1000000);
	KMIND_COUNTERS(KM_SHOW_COUNTER)
	for (int i = KMIND_VERDICT_APPROVED; i < KMIND_VERDICTS; i++)
		BPF_SEQ_PRINTF(seq, "verdict_%s %llu\n", km_verdict_words[i], account.verdicts[i]);
}

#ifdef KM_ON_SHOW
static int KM_ON_SHOW(struct seq_file *seq);
#endif

SEC("iter/bpf_map_elem")
int km_show(struct bpf_iter__bpf_map_elem *ctx)
{
	struct kmind_instance *instance = ctx->value;
	struct seq_file *seq = ctx->meta->seq;

	if (!instance || instance->slot != km_slot || !km_slot)
		return 0;
	km_show_instance(seq, instance);
	km_show_account(seq);
#ifdef KM_ON_SHOW
	KM_ON_SHOW(seq);
#endif
	return 0;
}

#endif
