// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* An agent that decides when it is asked to, as a hook would. */
#define KM_MODEL_FEATURES 3

#include <kmind/agent.h>
#include <kmind/infer.h>

/* So that the object describes them. */
struct {
	struct km_image image;
	struct km_layer layer;
	struct km_input input;
	struct km_trees trees;
	struct km_tree_group group;
	struct km_tree_node node;
	struct km_exact exact;
	struct km_exact_tree exact_tree;
	struct km_model_control control;
	struct km_model_trial trial;
	struct km_model_answer answer;
} layouts;

struct decide_args {
	__s64 x[3];
	__s64 label, score;
	__u64 version; /* 0: there was no model */
};

SEC("syscall")
int decide(struct decide_args *args)
{
	struct km_decision *decision = km_infer_begin();

	args->version = 0;
	if (!decision)
		return 0;
	for (int i = 0; i < 3; i++)
		decision->x[i] = args->x[i];
	if (!km_infer(decision)) {
		args->label = decision->label;
		args->score = decision->score[0];
		args->version = decision->version;
	}
	km_infer_end(decision);
	return 0;
}

/* All rooms taken: a decision is missed, and counted. */
SEC("syscall")
int crowd(struct decide_args *args)
{
	struct km_decision *taken[KM_SCRATCHES];

	for (int i = 0; i < KM_SCRATCHES; i++)
		taken[i] = km_infer_begin();
	args->version = !km_infer_begin();
	for (int i = 0; i < KM_SCRATCHES; i++)
		if (taken[i])
			km_infer_end(taken[i]);
	return 0;
}
