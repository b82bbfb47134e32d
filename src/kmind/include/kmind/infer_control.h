/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The owner's way to the models: nothing else changes which one decides. */
#ifndef KMIND_INFER_CONTROL_H
#define KMIND_INFER_CONTROL_H

#include <kmind/infer_decide.h>

enum km_model_op {
	KM_MODEL_SHOW = 0,
	KM_MODEL_ACTIVATE = 1,
	KM_MODEL_CHECK = 2,
};

/* Reasons to refuse a model. */
enum km_model_refusal {
	KM_REFUSED_NOT = 0,
	KM_REFUSED_FORMAT = 1, /* no model of this version, or a damaged one */
	KM_REFUSED_CHECK = 2,  /* not what was written */
	KM_REFUSED_FEATURES = 3,
	KM_REFUSED_SCHEMA = 4,
	KM_REFUSED_COST = 5,
	KM_REFUSED_OFF = 6, /* see KM_MODEL_IF */
};

struct km_model_control {
	__u32 op;
	__u32 slot;
	__u32 result;	 /* out: km_model_refusal */
	__u32 budget_ns; /* out */
	__u64 active;	 /* out: slot + 1, or 0 */
	__u64 missed;	 /* out: decisions that found no room */
};

#define KM_WORDS_AT_ONCE 256 /* of one part */

/* Hash on over the words from `at` to `end`, or the first of them. */
__noinline __u64 km_model_hash(__u32 slot, __u64 hash, __u32 at, __u32 end)
{
	const char *model = bpf_map_lookup_elem(&km_models, &slot);
	__u32 left = KM_WORDS_AT_ONCE;

	if (!model)
		return 0;
	for (; at < end && KM_CAN_LOOP(left); at += 8)
		hash = kmind_mix(hash, *(const __u64 *)KM_IN_SLOT(model, at));
	return hash;
}

static __always_inline bool km_model_whole(__u32 slot, const char *model,
					   const struct km_image *image)
{
	/* Not a number that the verifier knows. */
	__u32 at = READ_ONCE(image->zero) + 24, size = image->size;
	__u64 hash = KMIND_CHECK_SEED;

	hash = kmind_mix(hash, *(const __u64 *)KM_IN_SLOT(model, 0));
	hash = kmind_mix(hash, *(const __u64 *)KM_IN_SLOT(model, 8));
	KM_IN_PARTS(at, size, 8 * KM_WORDS_AT_ONCE, KM_MODEL_BYTES / 8 / KM_WORDS_AT_ONCE,
		    hash = km_model_hash(slot, hash, at, size));
	return hash == image->check;
}

static __noinline __u32 km_model_refused(__u32 slot)
{
	const char *model = bpf_map_lookup_elem(&km_models, &slot);
	const struct km_image *image = (const void *)model;
	bool named = false;

	if (!KM_MODEL_IF)
		return KM_REFUSED_OFF;
	if (!model || image->magic != KM_MODEL_MAGIC || image->abi != KM_MODEL_ABI ||
	    image->size < sizeof(*image) || image->size > KM_MODEL_BYTES || image->size & 7 ||
	    image->zero || (image->kind != KM_MODEL_TREES && image->kind != KM_MODEL_NETWORK))
		return KM_REFUSED_FORMAT;
	if (!km_model_whole(slot, model, image))
		return KM_REFUSED_CHECK;
	if (image->features != km_model_features)
		return KM_REFUSED_FEATURES;
	for (int i = 0; i < 4; i++) {
		named |= !!km_model_schema[i];
		if (image->schema[i] != km_model_schema[i])
			return KM_REFUSED_SCHEMA;
	}
	if (!named)
		return KM_REFUSED_SCHEMA;
	return image->cost_ns > km_model_budget_ns ? KM_REFUSED_COST : KM_REFUSED_NOT;
}

SEC("syscall")
int km_model(struct km_model_control *args)
{
	if (args->op != KM_MODEL_SHOW)
		args->result = km_model_refused(args->slot);
	if (args->op == KM_MODEL_ACTIVATE && args->result == KM_REFUSED_NOT)
		WRITE_ONCE(km_model_state.active, (__u64)args->slot + 1);
	args->active = READ_ONCE(km_model_state.active);
	args->missed = km_model_state.missed;
	args->budget_ns = km_model_budget_ns;
	return 0;
}

/*
 * Vectors to decide on, before a model does so for good: the owner compares the
 * answers with its own. Also how long a decision takes: less the same without one.
 */
#ifndef KM_MODEL_BATCH
#define KM_MODEL_BATCH 256
#endif
#define KM_MODEL_VECTOR ((KM_MODEL_FEATURES + 3) / 4 * 4)

struct km_model_vector {
	__s64 x[KM_MODEL_VECTOR];
};

struct km_model_answer {
	__s64 label, probability;
	__s64 score[KM_MODEL_OUTPUTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KM_MODEL_BATCH);
	__type(key, __u32);
	__type(value, struct km_model_vector);
} km_model_vectors SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KM_MODEL_BATCH);
	__type(key, __u32);
	__type(value, struct km_model_answer);
} km_model_answers SEC(".maps");

struct km_model_trial {
	__u32 slot, count; /* vectors: from the first on, again after the last */
	__u32 zero;
	__u32 what;   /* km_model_trial_what */
	__u32 failed; /* out: decisions that there was no room for */
	__u32 pad;
	__u64 ns; /* out */
};

enum km_model_trial_what {
	KM_TRIAL_ANSWER = 0, /* write down what was decided */
	KM_TRIAL_TIME = 1,
	KM_TRIAL_EMPTY = 2, /* as TIME, without deciding */
};

#define KM_TRIAL_MOST 4096 /* decisions of one trial */

static __always_inline void km_trial_answer(struct km_decision *decision, __u32 which)
{
	struct km_model_answer *answer = bpf_map_lookup_elem(&km_model_answers, &which);

	if (!answer)
		return;
	answer->label = decision->label;
	answer->probability = decision->probability;
	for (int i = 0; i < KM_MODEL_OUTPUTS; i++)
		answer->score[i] = decision->score[i];
}

/* One decision: 0 if there was one. */
__noinline int km_trial_turn(__u32 slot, struct km_decision *decision, __u32 which, __u32 what)
{
	struct km_model_vector *vector = bpf_map_lookup_elem(&km_model_vectors, &which);
	int failed = 0;

	if (!vector || !decision)
		return 1;
	for (int feature = 0; feature < KM_MODEL_VECTOR; feature++)
		decision->x[feature] = vector->x[feature];
	if (what != KM_TRIAL_EMPTY)
		failed = !!km_evaluate(slot, decision);
	if (what == KM_TRIAL_ANSWER)
		km_trial_answer(decision, which);
	return failed;
}

SEC("syscall")
int km_model_try(struct km_model_trial *args)
{
	__u32 slot = args->slot, count = args->count, what = args->what, left = KM_TRIAL_MOST;
	struct km_decision *decision;
	__u64 start;

	decision = KM_MODEL_IF && count <= KM_TRIAL_MOST ? km_infer_begin() : NULL;
	if (!decision) {
		args->failed = count;
		return 0;
	}
	start = bpf_ktime_get_ns();
	for (__u32 i = args->zero; i < count && KM_CAN_LOOP(left); i++)
		args->failed += km_trial_turn(slot, decision, i % KM_MODEL_BATCH, what);
	args->ns = bpf_ktime_get_ns() - start;
	km_infer_end(decision);
	return 0;
}

#endif
