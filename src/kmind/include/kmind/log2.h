/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Logarithms in whole numbers. kmind/extension/training.py has the same in numpy, as log_of. */
#ifndef KMIND_LOG2_H
#define KMIND_LOG2_H

#include <linux/types.h>

/* The logarithm to base 2 in sixteenths, with straight lines between the powers. */
static inline __u32 km_log2(__u64 value)
{
	__u32 power = 0;
	__u64 rest = value;

	if (value < 2)
		return 0;
	for (__u32 step = 32; step; step >>= 1) {
		if (rest >> step) {
			rest >>= step;
			power += step;
		}
	}
	rest = power < 4 ? value << (4 - power) : value >> (power - 4);
	return power << 4 | (rest & 15);
}

#endif
