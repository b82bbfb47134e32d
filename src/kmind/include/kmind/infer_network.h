/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Networks of integers, several neurons in one multiplication.
 *
 * A word holds the weights of up to four neurons for one input, each in a lane;
 * times the input, summed over the inputs, it holds their sums. That works as
 * long as no sum can leave its lane, which is proven for a model when it is
 * packed, and decides how many lanes there are: four of 16 bits, three of 21, two
 * of 32, one. Each lane starts at half its range (in the bias), so it is never
 * negative and never borrows from the next.
 *
 * Four words at a time go through the inputs (a block), and what remains one by
 * one (a single).
 */
#ifndef KMIND_INFER_NETWORK_H
#define KMIND_INFER_NETWORK_H

#include <kmind/infer_slots.h>

#define KM_NEURON_SCORE 0 /* the last layer: sums are the scores */
#define KM_NEURON_RELU 1  /* shift and clamp from 0 */
#define KM_NEURON_STEP 2  /* any step */

#define KM_NET_LAYERS 8
#define KM_NET_ACTIVATION (2 * KM_MODEL_WIDTH + 16)
#define KM_NET_BLOCKS 2 /* of one turn */
#define KM_NET_TURNS (KM_NET_LAYERS * (KM_MODEL_WIDTH / 4 / KM_NET_BLOCKS))
#define KM_NET_SINGLES 2 /* three would be a block */

struct km_layer {
	__u32 inputs; /* with zeros to a multiple of four */
	__u32 blocks, singles;
	__u32 lanes, bits, kind;
	__u64 half; /* where a lane starts */
	__u64 mask; /* one lane, after the shift */
	__u64 sign; /* the top bit of all lanes */
	__u32 weight, bias;
	__u32 shift, zero;
	struct km_step step;
};

#define KM_NET_INPUT(n)                                   \
	asm volatile("%[v] = *(u16 *)(%[x] + %[place])\n" \
		     : [v] "=r"(value)                    \
		     : [x] "r"(x), [place] "i"(2 * (n)))
#define KM_NET_ADD(sum, place)                           \
	asm volatile("%[t] = *(u64 *)(%[w] + %[at])\n"   \
		     "%[t] *= %[v]\n"                    \
		     "%[a] += %[t]\n"                    \
		     : [a] "+r"(sum), [t] "=&r"(product) \
		     : [w] "r"(w), [v] "r"(value), [at] "i"(place))
#define KM_NET_BLOCK(n)                       \
	do {                                  \
		KM_NET_INPUT(n);              \
		KM_NET_ADD(a, 32 * (n));      \
		KM_NET_ADD(b, 32 * (n) + 8);  \
		KM_NET_ADD(c, 32 * (n) + 16); \
		KM_NET_ADD(d, 32 * (n) + 24); \
	} while (0)
#define KM_NET_SINGLE(n)                \
	do {                            \
		KM_NET_INPUT(n);        \
		KM_NET_ADD(a, 8 * (n)); \
	} while (0)
/* All inputs, eight at a time and then four; size: bytes of weights for each. */
#define KM_NET_SUM(add, size)                                                                  \
	do {                                                                                   \
		left = KM_MODEL_WIDTH / 8;                                                     \
		end = weight + layer->inputs * (size);                                         \
		from = layer->zero;                                                            \
		for (; weight + 4 * (size) < end && KM_CAN_LOOP(left); weight += 8 * (size)) { \
			w = KM_IN_SLOT(model, weight);                                         \
			x = in + (from & (KM_MODEL_WIDTH - 4));                                \
			add(0);                                                                \
			add(1);                                                                \
			add(2);                                                                \
			add(3);                                                                \
			add(4);                                                                \
			add(5);                                                                \
			add(6);                                                                \
			add(7);                                                                \
			from += 8;                                                             \
		}                                                                              \
		if (weight < end) {                                                            \
			w = KM_IN_SLOT(model, weight);                                         \
			x = in + (from & (KM_MODEL_WIDTH - 4));                                \
			add(0);                                                                \
			add(1);                                                                \
			add(2);                                                                \
			add(3);                                                                \
		}                                                                              \
		weight = end;                                                                  \
	} while (0)

/* Lanes to scores; all four are written, and the next word's go over what is too much. */
static __always_inline void km_net_scores(const struct km_layer *layer, __u64 word, __s64 *out)
{
	__u32 bits = layer->bits & 63;
	__u64 half = layer->half, mask = layer->mask;

	out[0] = (word & mask) - half;
	word >>= bits;
	out[1] = (word & mask) - half;
	word >>= bits;
	out[2] = (word & mask) - half;
	word >>= bits;
	out[3] = (word & mask) - half;
}

static __always_inline __u64 km_net_clamp(__u64 value, __u64 hi)
{
	return value > hi ? hi : value;
}

/* Lanes to activations: those below their start become 0, all at once. */
static __always_inline void km_net_relu(const struct km_layer *layer, __u64 word, __u16 *out)
{
	__u64 sign = word & layer->sign, mask = layer->mask, hi = layer->step.hi;
	__u32 bits = layer->bits & 63;

	word &= sign - (sign >> ((bits - 1) & 63));
	word >>= layer->shift & 63;
	out[0] = km_net_clamp(word & mask, hi);
	word >>= bits;
	out[1] = km_net_clamp(word & mask, hi);
	word >>= bits;
	out[2] = km_net_clamp(word & mask, hi);
	word >>= bits;
	out[3] = km_net_clamp(word & mask, hi);
}

/* Lanes to activations by any step, one by one. */
static __always_inline void km_net_steps(const char *model, const struct km_layer *layer,
					 __u64 word, __u16 *out)
{
	__u32 bits = layer->bits & 63;
	__u64 half = layer->half, mask = layer->mask;

	out[0] = km_step(model, &layer->step, (word & mask) - half);
	word >>= bits;
	out[1] = km_step(model, &layer->step, (word & mask) - half);
	word >>= bits;
	out[2] = km_step(model, &layer->step, (word & mask) - half);
	word >>= bits;
	out[3] = km_step(model, &layer->step, (word & mask) - half);
}

static __always_inline void km_net_put(const char *model, const struct km_layer *layer,
				       struct km_decision *decision, __u16 *out, __u64 word,
				       __u32 neuron)
{
	/* Read anew each time, or the verifier would follow all that comes for each kind. */
	__u32 kind = READ_ONCE(layer->kind);

	if (kind == KM_NEURON_RELU)
		km_net_relu(layer, word, out + (neuron & (2 * KM_MODEL_WIDTH - 1)));
	else if (kind == KM_NEURON_SCORE)
		km_net_scores(layer, word, decision->score + (neuron & (2 * KM_MODEL_OUTPUTS - 1)));
	else
		km_net_steps(model, layer, word, out + (neuron & (2 * KM_MODEL_WIDTH - 1)));
}

/* Some blocks of a layer from `first` on, and behind the last one the singles: 0, or where to go
 * on. */
__noinline __u32 km_net_blocks(__u32 slot, struct km_decision *decision, __u32 at, __u32 turn,
			       __u32 first)
{
	const char *model = bpf_map_lookup_elem(&km_models, &slot), *w;
	__u32 weight, bias, end, from, lanes, neuron, blocks = KM_NET_BLOCKS, left;
	__u64 a, b, c, d, value, product;
	const struct km_layer *layer;
	const __u16 *in, *x;
	const __u64 *start;
	__u16 *out;

	if (!model || !decision)
		return 0;
	layer = KM_IN_SLOT(model, at);
	/* Not by a branch, or the verifier would follow all that comes twice. */
	turn &= 1;
	in = decision->activation[0] + turn * KM_NET_ACTIVATION;
	out = decision->activation[1] - turn * KM_NET_ACTIVATION;
	weight = layer->weight + first * layer->inputs * 32;
	bias = layer->bias + first * 32;
	lanes = layer->lanes;
	neuron = first * lanes * 4;
	for (; first < layer->blocks && KM_CAN_LOOP(blocks); first++) {
		start = KM_IN_SLOT(model, bias);
		a = start[0];
		b = start[1];
		c = start[2];
		d = start[3];
		bias += 32;
		KM_NET_SUM(KM_NET_BLOCK, 32);
		km_net_put(model, layer, decision, out, a, neuron);
		neuron += lanes;
		km_net_put(model, layer, decision, out, b, neuron);
		neuron += lanes;
		km_net_put(model, layer, decision, out, c, neuron);
		neuron += lanes;
		km_net_put(model, layer, decision, out, d, neuron);
		neuron += lanes;
	}
	if (first < layer->blocks)
		return first;
	blocks = KM_NET_SINGLES;
	for (__u32 i = layer->zero; i < layer->singles && KM_CAN_LOOP(blocks); i++) {
		start = KM_IN_SLOT(model, bias);
		a = start[0];
		bias += 8;
		KM_NET_SUM(KM_NET_SINGLE, 8);
		km_net_put(model, layer, decision, out, a, neuron);
		neuron += lanes;
	}
	return 0;
}

static __always_inline void km_network(__u32 slot, const char *model, struct km_decision *decision)
{
	const struct km_image *image = (const void *)model;
	__u32 features = image->features, layers = image->layers, at = image->input;
	__u32 turn = image->zero, first = image->zero, left = KM_MODEL_FEATURES, i;

	/* Up to three more than there are: what lies there is multiplied by 0. */
	for (i = image->zero; i < features && KM_CAN_LOOP(left); i++) {
		decision->activation[0][i & (KM_MODEL_WIDTH - 1)] =
			km_input(KM_IN_SLOT(model, at), decision->x[i & (KM_MODEL_INPUTS - 1)]);
		at += sizeof(struct km_input);
	}
	at = image->body;
	left = KM_NET_TURNS;
	while (turn < layers && KM_CAN_LOOP(left)) {
		first = km_net_blocks(slot, decision, at, turn, first);
		if (!first) {
			at += sizeof(struct km_layer);
			turn++;
		}
	}
}

#endif
