/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The step before the first one, of models that divide each vector by its own size. */
#ifndef KMIND_INFER_NORM_H
#define KMIND_INFER_NORM_H

#include <kmind/infer_slots.h>

#define KM_NORM_L1 1  /* the sum of all numbers' sizes */
#define KM_NORM_L2 2  /* the root of the sum of their squares */
#define KM_NORM_MAX 3 /* the largest of their sizes */
#define KM_NORM_LIMIT 0x7fffffffULL
#define KM_NORM_SHIFT 30 /* bits behind the point */

/*
 * The largest number whose square is not above value, two bits of value a turn;
 * without branches, or the verifier would follow all 2^32 ways. After the first
 * turn what remains is below 2^63 on either side of what it is compared with.
 */
static __always_inline __u64 km_root(__u64 value)
{
	__u64 root = ((value >> 62 | value >> 63) & 1) << 62, next, more;

	value -= root;
	for (__u64 bit = 1ULL << 60; bit; bit >>= 2) {
		next = root + bit;
		more = ~(value - next);
		asm volatile("%0 s>>= 63\n" : "+r"(more));
		value -= next & more;
		root = (root >> 1) + (bit & more);
	}
	return root;
}

/* All ones if a is below b, both below 2^63, or differing by no more. */
static __always_inline __u64 km_norm_below(__u64 a, __u64 b)
{
	__u64 below = a - b;

	asm volatile("%0 s>>= 63\n" : "+r"(below));
	return below;
}

/*
 * A number's size; sign: all ones for one below 0. Signs come at random, and the verifier goes both
 * ways at each turn: no branches.
 */
static __always_inline __u64 km_norm_size(__s64 value, __u64 *sign)
{
	__u64 size = value;

	*sign = value;
	asm volatile("%0 s>>= 63\n" : "+r"(*sign));
	size = (size ^ *sign) - *sign;
	return size ^ ((size ^ KM_NORM_LIMIT) & km_norm_below(KM_NORM_LIMIT, size));
}

__noinline int km_normalise(__u32 slot, struct km_decision *decision)
{
	const struct km_image *image = bpf_map_lookup_elem(&km_models, &slot);
	__u32 features, norm, left = KM_MODEL_FEATURES, i;
	__u64 total = 0, size, sign;
	__s64 *x;

	if (!image || !decision)
		return 0;
	features = image->features;
	norm = image->norm;
	for (i = image->zero; i < features && KM_CAN_LOOP(left); i++) {
		size = km_norm_size(decision->x[i & (KM_MODEL_INPUTS - 1)], &sign);
		if (norm == KM_NORM_L1)
			total += size;
		else if (norm == KM_NORM_L2)
			total += size * size;
		else
			total ^= (total ^ size) & km_norm_below(total, size);
	}
	if (norm == KM_NORM_L2)
		total = km_root(total);
	left = KM_MODEL_FEATURES;
	for (i = image->zero; i < features && KM_CAN_LOOP(left); i++) {
		x = &decision->x[i & (KM_MODEL_INPUTS - 1)];
		/* A division by 0 gives 0 in BPF, as the model has it. */
		size = (km_norm_size(*x, &sign) << KM_NORM_SHIFT) / total;
		*x = (size ^ sign) - sign;
	}
	return 0;
}

#endif
