/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Close calls of trees, decided as the library does that trained them.
 *
 * Leaves of the fast walks are rounded, and libraries round each sum. Where scores
 * lie too close to be sure, all trees are walked again, one after the other in the
 * library's order, and their leaves added in its own floats, bit for bit (IEEE 754,
 * to nearest, ties to even; in double precision, or in single, whose numbers are
 * held as doubles that lack 29 bits). No number is tiny, infinite or none: user
 * space sees to that, and a wrong image gives a wrong label and nothing else.
 */
#ifndef KMIND_INFER_EXACT_H
#define KMIND_INFER_EXACT_H

#include <kmind/infer_slots.h>
#include <kmind/infer_trees.h>

#define KM_FLOAT_ONE (1ULL << 52) /* the bit that a double does not store */
#define KM_FLOAT_SIGN (1ULL << 63)

struct km_exact {
	__s64 close;	      /* scores no further apart than this */
	__u64 tie, threshold; /* doubles */
	__u32 tree, trees;    /* struct km_exact_tree, in the library's order */
	__u32 sums, width;
	__u32 base, last;   /* double[sums]: before the first tree, after the last */
	__u32 drop;	    /* bits that a sum lacks: 29, or 0 */
	__u16 divide, bits; /* of the divisor, less one */
};

struct km_exact_tree {
	__u32 root, leaf; /* double[leaves][width] */
	__u16 depth, output;
	__u32 kind; /* as km_tree_group's */
};

/* A double whose highest bit is bit 63 of mantissa: the rest is rounded away. */
static __always_inline __u64 km_float(__u64 sign, __s64 exponent, __u64 mantissa, __u32 drop)
{
	__u32 shift = (11 + drop) & 63;
	__u64 half = 1ULL << (shift - 1), rest = mantissa & (2 * half - 1);

	mantissa >>= shift;
	if (rest > half || (rest == half && mantissa & 1))
		mantissa++;
	mantissa <<= drop & 63;
	/* A carry makes the next exponent. */
	return sign + ((__u64)exponent << 52) + (mantissa - KM_FLOAT_ONE);
}

/* Not static, as km_evaluate: verified once. */
__noinline __u64 km_float_add(__u64 a, __u64 b, __u32 drop)
{
	__u64 large, small, sum;
	__s64 exponent;
	__u32 apart;

	if (a << 1 < b << 1) {
		sum = a;
		a = b;
		b = sum;
	}
	if (!(b << 1))
		return a;
	exponent = (a >> 52) & 0x7ff;
	apart = exponent - ((b >> 52) & 0x7ff);
	large = ((a & (KM_FLOAT_ONE - 1)) | KM_FLOAT_ONE) << 10;
	small = ((b & (KM_FLOAT_ONE - 1)) | KM_FLOAT_ONE) << 10;
	if (apart > 63)
		apart = 63;
	/* The bits shifted out still tell a tie from a larger value. */
	sum = small >> apart;
	if (sum << apart != small)
		sum |= 1;
	sum = (a ^ b) >> 63 ? large - sum : large + sum;
	if (!sum)
		return 0;
	exponent++;
	if (!(sum >> 32)) {
		sum <<= 32;
		exponent -= 32;
	}
	if (!(sum >> 48)) {
		sum <<= 16;
		exponent -= 16;
	}
	if (!(sum >> 56)) {
		sum <<= 8;
		exponent -= 8;
	}
	if (!(sum >> 60)) {
		sum <<= 4;
		exponent -= 4;
	}
	if (!(sum >> 62)) {
		sum <<= 2;
		exponent -= 2;
	}
	if (!(sum >> 63)) {
		sum <<= 1;
		exponent -= 1;
	}
	return km_float(a & KM_FLOAT_SIGN, exponent, sum, drop);
}

static __always_inline __u64 km_float_divide(__u64 a, const struct km_exact *exact)
{
	__u64 divide = exact->divide, quotient, rest;
	__s64 exponent = (a >> 52) & 0x7ff;
	__u32 bits = exact->bits & 15;

	if (divide < 2 || !(a << 1))
		return a;
	/* In two steps, for 64 bits do not hold the whole dividend. */
	quotient = ((a & (KM_FLOAT_ONE - 1)) | KM_FLOAT_ONE) << 11;
	rest = quotient % divide << bits;
	quotient = (quotient / divide << bits) + rest / divide;
	exponent -= bits;
	if (!(quotient >> 63)) {
		quotient <<= 1;
		exponent--;
	}
	if (rest % divide)
		quotient |= 1;
	return km_float(a & KM_FLOAT_SIGN, exponent, quotient, exact->drop);
}

/* Integers in the same order as the floats. */
static __always_inline __s64 km_float_order(__u64 a)
{
	__s64 size = a & ~KM_FLOAT_SIGN;

	return a & KM_FLOAT_SIGN ? -size : size;
}

#define KM_EXACT_AT_ONCE 64 /* trees */
#define KM_EXACT_SUM(decision, i) ((decision)->exact[(i) & (KM_MODEL_OUTPUTS - 1)])

/* Position of the leaf that a tree ends in. */
__noinline __u32 km_exact_leaf(__u32 slot, const struct km_decision *decision, __u32 place,
			       __u32 width)
{
	__u32 at, below, left = KM_TREE_DEPTH, zero, leaf;
	const char *model = bpf_map_lookup_elem(&km_models, &slot);
	const struct km_exact_tree *tree;
	const struct km_tree_node *last;
	const __s64 *x;
	__u64 node;

	if (!model || !decision)
		return 0;
	x = decision->x;
	tree = KM_IN_SLOT(model, place);
	at = tree->root;
	below = tree->depth;
	zero = ((const struct km_image *)model)->zero;
	if (tree->kind == KM_TREE_FOUR) {
		for (; below > zero && KM_CAN_LOOP(left); below--)
			at = km_tree_turn(model, x, at);
		last = (const void *)(model + (at & (KM_MODEL_BYTES - 16)));
		leaf = (last->test >> KM_TREE_LEAF_SHIFT) & KM_TREE_LEAF_MASK;
		return tree->leaf + 8 * leaf * width;
	}
	for (; below > zero && KM_CAN_LOOP(left); below--) {
		node = *(const __u64 *)KM_IN_SLOT(model, at + (4U << (below & 15)) - 8);
		node -= *(const __u64 *)((const char *)x + (node & 0xf8));
		at += (__u32)(node >> 63) << ((2 + below) & 15);
	}
	return tree->leaf + (at - tree->root) * width;
}

/* Not 0 if rounded leaves cannot tell: another score, or the threshold, lies close to the best. */
__noinline int km_is_close(__u32 slot, const struct km_decision *decision, __u32 label)
{
	const char *model = bpf_map_lookup_elem(&km_models, &slot);
	const struct km_image *image = (const void *)model;
	__u32 left = KM_MODEL_OUTPUTS, near = 0;
	const struct km_exact *exact;
	__s64 close, best;

	if (!model || !decision)
		return 0;
	exact = KM_IN_SLOT(model, image->exact);
	close = exact->close;
	if (image->output == KM_OUTPUT_THRESHOLD) {
		best = decision->score[0] - image->threshold;
		return best <= close && best >= -close;
	}
	best = decision->score[label & (KM_MODEL_OUTPUTS - 1)] - close;
	/* The best one is counted too. A difference of scores fits. */
	for (__u32 i = image->zero; i < image->outputs && KM_CAN_LOOP(left); i++)
		near += 1 + km_tree_below(decision->score[i & (KM_MODEL_OUTPUTS - 1)], best);
	return near > 1;
}

/* Which of the sums is the largest; the first of those. */
__noinline __u32 km_exact_top(__u32 slot, const struct km_decision *decision)
{
	const char *model = bpf_map_lookup_elem(&km_models, &slot);
	const struct km_image *image = (const void *)model;
	__u32 left = KM_MODEL_OUTPUTS, top, sums, i;
	__s64 best, next;
	__u64 above;

	if (!model || !decision)
		return 0;
	sums = ((const struct km_exact *)KM_IN_SLOT(model, image->exact))->sums;
	best = km_float_order(decision->exact[0]);
	top = image->zero;
	for (i = image->zero + 1; i < sums && KM_CAN_LOOP(left); i++) {
		next = km_float_order(KM_EXACT_SUM(decision, i));
		above = km_tree_below(best, next);
		best ^= (best ^ next) & above;
		top ^= (top ^ i) & above;
	}
	return top;
}

/* Add the values of a leaf. */
__noinline int km_exact_add(__u32 slot, struct km_decision *decision, __u32 output, __u32 leaf)
{
	const char *model = bpf_map_lookup_elem(&km_models, &slot);
	const struct km_image *image = (const void *)model;
	__u32 left = KM_MODEL_OUTPUTS, width, i;
	const struct km_exact *exact;

	if (!model || !decision)
		return 0;
	exact = KM_IN_SLOT(model, image->exact);
	width = exact->width;
	for (i = image->zero; i < width && KM_CAN_LOOP(left); i++) {
		KM_EXACT_SUM(decision, output) =
			km_float_add(KM_EXACT_SUM(decision, output),
				     *(const __u64 *)KM_IN_SLOT(model, leaf), exact->drop);
		output++;
		leaf += 8;
	}
	return 0;
}

/* Add the leaves of the first trees of those from `at` to `end`. */
__noinline int km_exact_trees(__u32 slot, struct km_decision *decision, __u32 at, __u32 end)
{
	const char *model = bpf_map_lookup_elem(&km_models, &slot);
	const struct km_image *image = (const void *)model;
	__u32 left = KM_EXACT_AT_ONCE, width, leaf;
	const struct km_exact_tree *tree;

	if (!model || !decision)
		return 0;
	width = ((const struct km_exact *)KM_IN_SLOT(model, image->exact))->width;
	for (; at < end && KM_CAN_LOOP(left); at += sizeof(*tree)) {
		tree = KM_IN_SLOT(model, at);
		leaf = km_exact_leaf(slot, decision, at, width);
		km_exact_add(slot, decision, tree->output, leaf);
	}
	return 0;
}

/* The label of a close call. */
__noinline int km_exact(__u32 slot, struct km_decision *decision, __u32 label)
{
	const char *model = bpf_map_lookup_elem(&km_models, &slot);
	const struct km_image *image = (const void *)model;
	__u32 at, end, i, sums, zero, left = KM_MODEL_OUTPUTS;
	const struct km_exact *exact;
	__s64 next;
	__u64 top;

	if (!model || !decision)
		return label;
	exact = KM_IN_SLOT(model, image->exact);
	sums = exact->sums;
	zero = image->zero;
	for (i = zero; i < sums && KM_CAN_LOOP(left); i++)
		KM_EXACT_SUM(decision, i) = *(const __u64 *)KM_IN_SLOT(model, exact->base + 8 * i);
	at = exact->tree;
	end = at + exact->trees * sizeof(struct km_exact_tree);
	KM_IN_PARTS(at, end, KM_EXACT_AT_ONCE * sizeof(struct km_exact_tree),
		    KM_TREE_MOST / KM_EXACT_AT_ONCE, km_exact_trees(slot, decision, at, end));
	left = KM_MODEL_OUTPUTS;
	for (i = zero; i < sums && KM_CAN_LOOP(left); i++)
		KM_EXACT_SUM(decision, i) = km_float_divide(
			km_float_add(KM_EXACT_SUM(decision, i),
				     *(const __u64 *)KM_IN_SLOT(model, exact->last + 8 * i),
				     exact->drop),
			exact);
	top = decision->exact[0];
	if (sums < 2)
		return km_float_order(top) > km_float_order(exact->threshold);
	top = KM_EXACT_SUM(decision, km_exact_top(slot, decision));
	left = KM_MODEL_OUTPUTS;
	for (i = zero; i < sums && KM_CAN_LOOP(left); i++) {
		next = km_float_order(
			km_float_add(top, KM_EXACT_SUM(decision, i) ^ KM_FLOAT_SIGN, exact->drop));
		if (next <= km_float_order(exact->tie))
			return i & (KM_MODEL_OUTPUTS - 1);
	}
	return 0;
}

#endif
