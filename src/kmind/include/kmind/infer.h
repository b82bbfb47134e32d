/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Decisions by a model, inside a hook.
 *
 *	#define KM_MODEL_FEATURES 7		how many numbers it decides by
 *	#include <kmind/agent.h>
 *	#include <kmind/infer.h>
 *
 *	struct km_decision *decision = km_infer_begin();
 *
 *	if (decision) {
 *		decision->x[MY_FEATURE] = ...;	all of them
 *		if (!km_infer(decision))
 *			... decision->label, decision->score[0] ...
 *		km_infer_end(decision);
 *	}
 *
 * The integer model is that of kmind/infer/integer.py, and what is decided here
 * equals kmind/infer/reference.py bit for bit. Models lie in two slots of a map
 * that no program can write and no extension can map. Which of them decides is
 * one word, read once a decision; only km_model() below changes it, after it has
 * looked at the model. kmind/infer/pack.py lays a model out as the walks here
 * want it.
 *
 * Offsets in a slot are masked, so a wrong one reads a wrong number and nothing
 * else. Loops start at `zero`, a word of the slot that the verifier does not
 * know: from a known number it would follow each turn by itself.
 */
#ifndef KMIND_INFER_H
#define KMIND_INFER_H

#include <kmind/arena.h>
#include <kmind/abi.h>

#define KM_MODEL_MAGIC 0x49444d4b /* "KMDI" */
#define KM_MODEL_ABI 3
#define KM_MODEL_BYTES (1 << 18)
#define KM_MODEL_SLACK (1 << 14) /* a masked offset, and the furthest from there */
#define KM_MODEL_INPUTS 256
#define KM_MODEL_WIDTH 1024
#define KM_MODEL_OUTPUTS 64
#define KM_SCRATCHES 4 /* as deep as decisions nest on one CPU: task, soft, hard, NMI */

#ifndef KM_MODEL_FEATURES
#error "define KM_MODEL_FEATURES before the include: how many numbers a decision goes by"
#endif
/* A constant of the module: false, and nothing decides, nor does the verifier look at how. */
#ifndef KM_MODEL_IF
#define KM_MODEL_IF true
#endif
_Static_assert(KM_MODEL_FEATURES <= KM_MODEL_INPUTS, "a decision has too many features");

enum km_model_kind {
	KM_MODEL_TREES = 1,
	KM_MODEL_NETWORK = 2,
};

enum km_model_output {
	KM_OUTPUT_VALUE = 0,
	KM_OUTPUT_THRESHOLD = 1,
	KM_OUTPUT_ARGMAX = 2,
};

/* clamp((v * mul + add) >> shift, lo, hi), and of that the table's entry, if there is one. */
struct km_step {
	__s64 add;
	__u32 mul;
	__u16 lo, hi;
	__u32 table; /* where in the slot */
	__u16 table_size;
	__u8 shift, pad;
};

/*
 * One feature of the input: ((clamp(x, lo, hi) - offset) * mul + round) >> shift.
 * With KM_INPUT_SEARCH, how many of the edges lie below x: s64[2 * round - 1] at
 * offset, sorted.
 */
#define KM_INPUT_SEARCH 63
struct km_input {
	__s64 lo, hi, offset, round;
	__u32 mul, shift;
};

/*
 * A slot begins with this. Counts of loops have 32 bits: a number that the
 * verifier knows to be small bounds the turns, and it would follow each.
 */
struct km_image {
	__u32 magic;
	__u16 abi, kind;
	__u32 size, zero;
	__u64 check;   /* kmind_mix over all words but this one */
	__u64 version; /* counts what was deployed to this agent */
	__u64 content[4], schema[4], quantisation[4];
	__s64 threshold;
	__u32 features, outputs;
	__u32 cost_ns;
	__u8 output, probability, raw, norm; /* raw: features need no more than 32 bits */
	struct km_step step;		     /* of the probability */
	__u32 input, body, layers;
	__u32 exact; /* struct km_exact of trees, or 0: no call is close */
};

struct km_decision {
	__u32 busy;
	__u32 label;
	__s64 probability;	  /* of label 1, 0 to 32767; -1: the model does not say */
	__u64 version;		  /* of the model that decided */
	__s64 x[KM_MODEL_INPUTS]; /* in; used up */
	/* Words of lanes are written whole, and the last ones may be of no neuron. */
	__s64 score[2 * KM_MODEL_OUTPUTS + 16];
	__u16 activation[2][2 * KM_MODEL_WIDTH + 16];
	__u64 exact[KM_MODEL_OUTPUTS]; /* doubles */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__uint(map_flags, BPF_F_RDONLY_PROG);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, KM_MODEL_BYTES + KM_MODEL_SLACK);
} km_models SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, KM_SCRATCHES);
	__type(key, __u32);
	__type(value, struct km_decision);
} km_scratches SEC(".maps");

/* What the module's features are: SHA-256 of their names and units. All 0: no model is taken. */
const volatile __u64 km_model_schema[4];
const volatile __u32 km_model_features = KM_MODEL_FEATURES;
const volatile __u32 km_model_budget_ns = 5000;

struct km_models_state {
	__u64 active; /* slot + 1, or 0 */
	__u64 missed; /* decisions that found no scratch */
};
static struct km_models_state km_model_state SEC(".data.models");

/* Linux 6.9: may_goto, a loop that the kernel ends if it does not end itself. */
/* clang-format off */
#define KM_CAN_LOOP                                                                             \
	({                                                                                      \
		__label__ out, on;                                                              \
		bool more = true;                                                               \
		asm volatile goto("1:.byte 0xe5; .byte 0;"                                      \
				  ".long ((%l[out] - 1b - 8) / 8) & 0xffff; .short 0"           \
				  :::: out);                                                    \
		goto on;                                                                        \
	out:                                                                                    \
		more = false;                                                                   \
	on:;                                                                                    \
		more;                                                                           \
	})
/* clang-format on */

/* What lies there in a slot. */
#define KM_IN_SLOT(model, offset) ((const void *)((model) + ((offset) & (KM_MODEL_BYTES - 8))))

static __always_inline __s64 km_step(const char *model, const struct km_step *step, __s64 value)
{
	__u32 at;

	value = (value * step->mul + step->add) >> (step->shift & 63);
	if (value < step->lo)
		value = step->lo;
	if (value > step->hi)
		value = step->hi;
	if (!step->table)
		return value;
	at = step->table + 2 * (__u32)value;
	return *(const __u16 *)(model + (at & (KM_MODEL_BYTES - 2)));
}

/* The first step of every model, for what is not just a number of 32 bits. */
static __always_inline __s64 km_input(const struct km_input *input, __s64 value)
{
	if (value < input->lo)
		value = input->lo;
	if (value > input->hi)
		value = input->hi;
	return ((value - input->offset) * input->mul + input->round) >> (input->shift & 63);
}

#include <kmind/infer_norm.h>
#include <kmind/infer_network.h>
#include <kmind/infer_trees.h>
#include <kmind/infer_exact.h>

static __always_inline void km_output(const char *model, __u32 slot, struct km_decision *decision)
{
	const struct km_image *image = (const void *)model;
	__u32 outputs = image->outputs, label = 0;
	__s64 best = decision->score[0], next;

	decision->probability = -1;
	if (image->output == KM_OUTPUT_ARGMAX) {
		for (__u32 i = image->zero + 1; i < outputs && KM_CAN_LOOP; i++) {
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
	if (image->exact)
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
		km_normalise(image, decision);
	if (image->kind == KM_MODEL_NETWORK)
		km_network(model, decision);
	else
		km_trees(model, decision);
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

/* Decide by decision->x; not 0 if there is no model. */
static __always_inline int km_infer(struct km_decision *decision)
{
	if (!KM_MODEL_IF)
		return -1;
	/* No slot: 2^32 - 1, which is not one. */
	return km_evaluate(READ_ONCE(km_model_state.active) - 1, decision);
}

#include <kmind/infer_control.h>

#endif
