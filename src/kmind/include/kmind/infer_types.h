/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A model in a slot, a decision, and the steps that all kinds of models share. */
#ifndef KMIND_INFER_TYPES_H
#define KMIND_INFER_TYPES_H

#include <kmind/abi.h>
#include <kmind/arena.h>

#define KM_MODEL_MAGIC 0x49444d4b /* "KMDI" */
#define KM_MODEL_ABI 3
#define KM_MODEL_BYTES (1 << 18)
#define KM_MODEL_SLACK (1 << 14) /* a masked offset, and the furthest from there */
#define KM_MODEL_INPUTS 256
#define KM_MODEL_WIDTH 1024
#define KM_MODEL_OUTPUTS 64

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

/*
 * Loops whose turns the verifier cannot count.
 *
 *	__u32 left = KM_MODEL_OUTPUTS;		more turns there are never
 *
 *	for (i = zero; i < outputs && KM_CAN_LOOP(left); i++)
 *
 * It follows each turn, a million instructions in all, and waits for the end of 8,192 branches at
 * most. Linux 6.9 has may_goto instead, which the kernel ends: but it holds its count in memory,
 *and until 6.18 the verifier found no end of these loops with it.
 */
#define KM_CAN_LOOP(left)                      \
	({                                     \
		asm volatile("" : "+r"(left)); \
		(left)-- != 0;                 \
	})

/* Content of a slot. */
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

#endif
