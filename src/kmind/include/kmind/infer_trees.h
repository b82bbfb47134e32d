/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Decision trees without branches.
 *
 * A node is compared by one subtraction, whose sign is the turn: threshold and
 * input stand in the same high bits, and what stands below the threshold (the
 * leaf, the feature) only makes "equal" count as "not above". In a complete tree
 * in the order of its leaves, a turn right from a node with r levels below it
 * adds 2^(r-1) places, and a turn left none: one register holds the walk, and at
 * the end it points at the leaf. Six trees walk at once, since each step of one
 * waits for memory. One that walks alone fetches both nodes below while it
 * compares, and takes one of them.
 *
 *	bits 63..31 threshold	30..8 leaf of this place	7..0 offset of x[feature]
 *
 * Trees that this does not fit (deep ones, large leaves, many features) have
 * nodes of two words with a pointer, four of them at a time, and turn in their
 * leaves until the deepest is down.
 */
#ifndef KMIND_INFER_TREES_H
#define KMIND_INFER_TREES_H

#include <kmind/infer_slots.h>

#define KM_TREE_SHIFT 31
#define KM_TREE_SIX 0  /* six complete trees of one depth, at most 10 */
#define KM_TREE_ONE 1  /* one of them */
#define KM_TREE_FOUR 2 /* four of the other kind */
#define KM_TREE_LEAF_SHIFT 11
#define KM_TREE_LEAF_MASK 0xfffff
#define KM_TREE_MOST 4096
#define KM_TREE_GROUPS                                                            \
	(KM_TREE_MOST / 4 + 2 * KM_MODEL_OUTPUTS) /* the last ones may be smaller \
						   */
/* By one call. With five, verifiers forget what they know of a turn: is_state_visited(). */
#define KM_TREE_AT_ONCE 4
#define KM_TREE_DEPTH 64
#define KM_TREE_SEARCH 16 /* bits of the number of edges */

struct km_trees {
	__u32 group, groups; /* where, how many */
	__u32 base;	     /* s64[outputs] */
	__u32 width;	     /* values in a leaf: where there are more than one, all outputs */
};

struct km_tree_group {
	__u32 root[6];
	__u32 depth;
	__u16 output, kind;
};

struct km_tree_node {
	__u64 test;  /* threshold << 31 | offset of x[feature]; in a leaf, its number << 11 */
	__u32 left;  /* the right one stands behind it; a leaf's left is itself */
	__u32 value; /* of a leaf, or where its values are */
};

/* clang-format off */
#define KM_TREE_STEP(tree, below)                                               \
	asm volatile("%[n] = *(u64 *)(%[p] + %[place])\n"                       \
		     "%[f] = %[n]\n"                                            \
		     "%[f] &= 0xf8\n"                                           \
		     "%[f] += %[x]\n"                                           \
		     "%[f] = *(u64 *)(%[f] + 0)\n"                              \
		     "%[n] -= %[f]\n"                                           \
		     "%[n] >>= 63\n"                                            \
		     "%[n] <<= %[turn]\n"                                       \
		     "%[p] += %[n]\n"                                           \
		     : [p] "+r"(tree), [n] "=&r"(node), [f] "=&r"(input)        \
		     : [x] "r"(x), [place] "i"(8 * ((1 << ((below) - 1)) - 1)), \
		       [turn] "i"(2 + (below)))
/* Positions of the nodes below one, from its first place; below the last there are none. */
#define KM_TREE_BELOW(below, quarters) ((below) > 1 ? 2 * (quarters) * (1 << (below)) - 8 : 0)
/*
 * The same, for node: both that may be next are on their way before the turn is known. The turn is
 * negated, not spread by s>>: of `s>>= 63` and `&= constant` verifiers since 6.18 make a branch.
 */
#define KM_TREE_LEVEL_ONE(below)                                                              \
	if (depth >= (below))                                                                 \
		asm volatile("%[l] = *(u64 *)(%[p] + %[left])\n"                              \
			     "%[r] = *(u64 *)(%[p] + %[right])\n"                             \
			     "%[f] = %[n]\n"                                                  \
			     "%[f] &= 0xf8\n"                                                 \
			     "%[f] += %[x]\n"                                                 \
			     "%[f] = *(u64 *)(%[f] + 0)\n"                                    \
			     "%[n] -= %[f]\n"                                                 \
			     "%[n] >>= 63\n"                                                  \
			     "%[f] = %[n]\n"                                                  \
			     "%[f] = -%[f]\n"                                                 \
			     "%[r] ^= %[l]\n"                                                 \
			     "%[r] &= %[f]\n"                                                 \
			     "%[n] <<= %[turn]\n"                                             \
			     "%[p] += %[n]\n"                                                 \
			     "%[n] = %[l]\n"                                                  \
			     "%[n] ^= %[r]\n"                                                 \
			     : [p] "+r"(p0), [n] "+r"(node), [f] "=&r"(input), [l] "=&r"(left), \
			       [r] "=&r"(right)                                               \
			     : [x] "r"(x), [left] "i"(KM_TREE_BELOW(below, 1)),               \
			       [right] "i"(KM_TREE_BELOW(below, 3)), [turn] "i"(2 + (below)));
/* clang-format on */
#define KM_TREE_LEVEL_SIX(below)         \
	if (depth >= (below)) {          \
		KM_TREE_STEP(p0, below); \
		KM_TREE_STEP(p1, below); \
		KM_TREE_STEP(p2, below); \
		KM_TREE_STEP(p3, below); \
		KM_TREE_STEP(p4, below); \
		KM_TREE_STEP(p5, below); \
	}
/* Not to be read anew, or the verifier would not see that a tree with ten levels has nine. */
#define KM_TREE_KEEP(depth) asm volatile("" : "+r"(depth))
#define KM_TREE_LEVELS(level) \
	level(10);            \
	level(9);             \
	level(8);             \
	level(7);             \
	level(6);             \
	level(5);             \
	level(4);             \
	level(3);             \
	level(2);             \
	level(1)

/* The leaf of the place where a walk ended. */
#define KM_TREE_LEAF(tree)                              \
	asm volatile("%[n] = *(u32 *)(%[p] + 0)\n"      \
		     "%[n] <<= 33\n"                    \
		     "%[n] s>>= 41\n"                   \
		     "%[sum] += %[n]\n"                 \
		     : [sum] "+r"(sum), [n] "=&r"(node) \
		     : [p] "r"(tree))

static __always_inline __s64 km_tree_six(const char *model, const struct km_tree_group *group,
					 const __s64 *x)
{
	const char *p0 = KM_IN_SLOT(model, group->root[0]);
	const char *p1 = KM_IN_SLOT(model, group->root[1]);
	const char *p2 = KM_IN_SLOT(model, group->root[2]);
	const char *p3 = KM_IN_SLOT(model, group->root[3]);
	const char *p4 = KM_IN_SLOT(model, group->root[4]);
	const char *p5 = KM_IN_SLOT(model, group->root[5]);
	__u32 depth = group->depth;
	__u64 node, input;
	__s64 sum = 0;

	KM_TREE_KEEP(depth);
	KM_TREE_LEVELS(KM_TREE_LEVEL_SIX);
	KM_TREE_LEAF(p0);
	KM_TREE_LEAF(p1);
	KM_TREE_LEAF(p2);
	KM_TREE_LEAF(p3);
	KM_TREE_LEAF(p4);
	KM_TREE_LEAF(p5);
	return sum;
}

static __always_inline __s64 km_tree_one(const char *model, const struct km_tree_group *group,
					 const __s64 *x)
{
	const char *p0 = KM_IN_SLOT(model, group->root[0]);
	__u32 depth = group->depth;
	__u64 node, input, left, right;
	__s64 sum = 0;

	KM_TREE_KEEP(depth);
	node = *(const __u64 *)KM_IN_SLOT(model, group->root[0] + (4U << (depth & 15)) - 8);
	KM_TREE_LEVELS(KM_TREE_LEVEL_ONE);
	KM_TREE_LEAF(p0);
	return sum;
}

static __always_inline __u32 km_tree_turn(const char *model, const __s64 *x, __u32 at)
{
	const struct km_tree_node *node = (const void *)(model + (at & (KM_MODEL_BYTES - 16)));
	__u64 turn = node->test;

	/* The compiler would make a branch of the comparison. */
	turn -= *(const __u64 *)((const char *)x + (turn & (8 * KM_MODEL_INPUTS - 8)));
	asm volatile("%0 >>= 63\n"
		     "%0 <<= 4\n"
		     : "+r"(turn));
	return node->left + turn;
}

static __always_inline void km_tree_add(const char *model, struct km_decision *decision,
					const struct km_tree_group *group, __u32 width, __u32 at)
{
	const struct km_tree_node *node = (const void *)(model + (at & (KM_MODEL_BYTES - 16)));
	__u32 value = node->value, left = KM_MODEL_OUTPUTS;

	if (width == 1) {
		decision->score[group->output & (KM_MODEL_OUTPUTS - 1)] += (__s32)value;
		return;
	}
	for (__u32 i = ((const struct km_image *)model)->zero; i < width && KM_CAN_LOOP(left);
	     i++) {
		decision->score[i & (KM_MODEL_OUTPUTS - 1)] +=
			*(const __s32 *)(model + (value & (KM_MODEL_BYTES - 4)));
		value += 4;
	}
}

__noinline int km_tree_four(__u32 slot, struct km_decision *decision, __u32 at)
{
	const char *model = bpf_map_lookup_elem(&km_models, &slot);
	__u32 a, b, c, d, depth, left = KM_TREE_DEPTH;
	const struct km_tree_group *group;
	const struct km_trees *trees;

	if (!model || !decision)
		return 0;
	group = KM_IN_SLOT(model, at);
	trees = KM_IN_SLOT(model, ((const struct km_image *)model)->body);
	a = group->root[0];
	b = group->root[1];
	c = group->root[2];
	d = group->root[3];
	depth = group->depth;
	for (__u32 level = ((const struct km_image *)model)->zero;
	     level < depth && KM_CAN_LOOP(left); level++) {
		a = km_tree_turn(model, decision->x, a);
		b = km_tree_turn(model, decision->x, b);
		c = km_tree_turn(model, decision->x, c);
		d = km_tree_turn(model, decision->x, d);
	}
	km_tree_add(model, decision, group, trees->width, a);
	km_tree_add(model, decision, group, trees->width, b);
	km_tree_add(model, decision, group, trees->width, c);
	km_tree_add(model, decision, group, trees->width, d);
	return 0;
}

static __always_inline __s64 km_tree_wide(__s64 value)
{
	return ((__s64)((__u64)value << 32) >> 32) ^ value;
}

static __always_inline __s64 km_tree_fit(__s64 value)
{
	if (value > 0x7fffffffLL)
		return 0x7fffffffLL;
	return value < -0x80000000LL ? -0x80000000LL : value;
}

/* Four numbers that are taken as they are; most fit in 32 bits, so look at all at once. */
static __always_inline void km_tree_raw(__s64 *x)
{
	__s64 a = x[0], b = x[1], c = x[2], d = x[3];

	if (km_tree_wide(a) | km_tree_wide(b) | km_tree_wide(c) | km_tree_wide(d)) {
		a = km_tree_fit(a);
		b = km_tree_fit(b);
		c = km_tree_fit(c);
		d = km_tree_fit(d);
	}
	x[0] = (__u64)a << KM_TREE_SHIFT;
	x[1] = (__u64)b << KM_TREE_SHIFT;
	x[2] = (__u64)c << KM_TREE_SHIFT;
	x[3] = (__u64)d << KM_TREE_SHIFT;
}

/* All ones if a is below b, else 0; without a branch, which the verifier would go both ways. */
static __always_inline __u64 km_tree_below(__s64 a, __s64 b)
{
	__u64 apart = (__u64)a - b;

	/* The sign of the difference, unless it does not fit. */
	apart ^= (a ^ b) & (apart ^ a);
	asm volatile("%0 s>>= 63\n" : "+r"(apart));
	return apart;
}

/* How many of a feature's edges lie below a value; half: of all, and one. */
__noinline __u32 km_tree_search(__u32 slot, __u32 edges, __u32 half, __s64 value)
{
	const char *model = bpf_map_lookup_elem(&km_models, &slot);
	__u32 place = 0, left = KM_TREE_SEARCH;

	if (!model)
		return 0;
	/* There is always one more edge than are left to look at: none lies outside. */
	for (; half && KM_CAN_LOOP(left); half >>= 1)
		place += half & km_tree_below(*(const __s64 *)KM_IN_SLOT(
						      model, edges + 8 * (place + half - 1)),
					      value);
	return place;
}

static __always_inline __s64 km_tree_feature(__u32 slot, const struct km_input *input, __s64 value)
{
	if (input->shift != KM_INPUT_SEARCH)
		return km_input(input, value);
	return km_tree_search(slot, input->offset, input->round, value);
}

/* Inputs as nodes are compared with them. */
static __always_inline void km_tree_input(__u32 slot, const char *model,
					  struct km_decision *decision)
{
	const struct km_image *image = (const void *)model;
	__u32 features = image->features, at = image->input, start = image->zero, i;
	__u32 left = KM_MODEL_FEATURES;
	__s64 *x = decision->x;

	if (image->raw) {
		left = (KM_MODEL_FEATURES + 7) / 8;
		for (i = start; i < features && KM_CAN_LOOP(left); i += 8) {
			km_tree_raw(x + (i & (KM_MODEL_INPUTS - 8)));
			km_tree_raw(x + (i & (KM_MODEL_INPUTS - 8)) + 4);
		}
		return;
	}
	for (i = start; i < features && KM_CAN_LOOP(left); i++) {
		__s64 *one = x + (i & (KM_MODEL_INPUTS - 1));

		*one = (__u64)km_tree_feature(slot, KM_IN_SLOT(model, at), *one) << KM_TREE_SHIFT;
		at += sizeof(struct km_input);
	}
}

/* The first groups of those from `at` to `end`. */
__noinline int km_tree_groups(__u32 slot, struct km_decision *decision, __u32 at, __u32 end)
{
	const char *model = bpf_map_lookup_elem(&km_models, &slot);
	const struct km_tree_group *group;
	__u32 left = KM_TREE_AT_ONCE;

	if (!model || !decision)
		return 0;
	for (; at < end && KM_CAN_LOOP(left); at += sizeof(*group)) {
		group = KM_IN_SLOT(model, at);
		if (group->kind == KM_TREE_FOUR)
			km_tree_four(slot, decision, at);
		else
			decision->score[group->output & (KM_MODEL_OUTPUTS - 1)] +=
				group->kind == KM_TREE_SIX ?
					km_tree_six(model, group, decision->x) :
					km_tree_one(model, group, decision->x);
	}
	return 0;
}

static __always_inline void km_trees(__u32 slot, const char *model, struct km_decision *decision)
{
	const struct km_image *image = (const void *)model;
	const struct km_trees *trees = KM_IN_SLOT(model, image->body);
	__u32 outputs = image->outputs, at = trees->base, left = KM_MODEL_OUTPUTS, end;

	km_tree_input(slot, model, decision);
	decision->score[0] = *(const __s64 *)KM_IN_SLOT(model, at);
	for (__u32 i = image->zero + 1; i < outputs && KM_CAN_LOOP(left); i++) {
		at += 8;
		decision->score[i & (KM_MODEL_OUTPUTS - 1)] = *(const __s64 *)KM_IN_SLOT(model, at);
	}
	at = trees->group;
	end = at + trees->groups * sizeof(struct km_tree_group);
	KM_IN_PARTS(at, end, KM_TREE_AT_ONCE * sizeof(struct km_tree_group),
		    KM_TREE_GROUPS / KM_TREE_AT_ONCE, km_tree_groups(slot, decision, at, end));
}

#endif
