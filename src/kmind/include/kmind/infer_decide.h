/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One decision: a vector through the model of a slot. */
#ifndef KMIND_INFER_DECIDE_H
#define KMIND_INFER_DECIDE_H

#include <kmind/infer_exact.h>
#include <kmind/infer_network.h>
#include <kmind/infer_norm.h>
#include <kmind/infer_slots.h>
#include <kmind/infer_trees.h>

static __always_inline void km_output(const char *model, __u32 slot, struct km_decision *decision)
{
	const struct km_image *image = (const void *)model;
	__u32 outputs = image->outputs, label = 0, left = KM_MODEL_OUTPUTS;
	__s64 best = decision->score[0], next;

	decision->probability = -1;
	if (image->output == KM_OUTPUT_ARGMAX) {
		for (__u32 i = image->zero + 1; i < outputs && KM_CAN_LOOP(left); i++) {
			next = decision->score[i & (KM_MODEL_OUTPUTS - 1)];
			if (next > best) {
				best = next;
				label = i;
			}
		}
	} else if (image->output == KM_OUTPUT_THRESHOLD) {
		label = best > image->threshold;
		if (image->probability)
			decision->probability = km_step(model, &image->step, best);
	}
	if (image->exact && km_is_close(slot, decision, label))
		label = km_exact(slot, decision, label);
	decision->label = label;
	decision->version = image->version;
}

/*
 * Not static: so it is verified once, by itself, whatever its callers' registers
 * hold, and a hook that decides loads as fast as another.
 */
__noinline int km_evaluate(__u32 slot, struct km_decision *decision)
{
	const char *model = bpf_map_lookup_elem(&km_models, &slot);
	const struct km_image *image = (const void *)model;

	if (!model || !decision)
		return -1;
	if (image->norm)
		km_normalise(slot, decision);
	if (image->kind == KM_MODEL_NETWORK)
		km_network(slot, model, decision);
	else
		km_trees(slot, model, decision);
	km_output(model, slot, decision);
	return 0;
}

/*
 * Room to decide in, or NULL. A hook may be interrupted by another that decides
 * too, and a task that was preempted in the middle may lie between them: so rooms
 * are taken by an exchange, not counted.
 */
static __always_inline struct km_decision *km_infer_begin(void)
{
	struct km_decision *decision;

	for (__u32 nest = 0; nest < KM_SCRATCHES; nest++) {
		__u32 key = nest;

		decision = bpf_map_lookup_elem(&km_scratches, &key);
		if (!decision)
			return NULL;
		if (!__sync_lock_test_and_set(&decision->busy, 1))
			return decision;
	}
	km_model_state.missed++;
	return NULL;
}

static __always_inline void km_infer_end(struct km_decision *decision)
{
	asm volatile("" ::: "memory");
	WRITE_ONCE(decision->busy, 0);
}

#endif
