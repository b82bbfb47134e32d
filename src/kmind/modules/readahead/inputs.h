/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Inputs of a model, from one window. recipe.py computes the same from
 * recordings, and the tests hold each against the other; so this needs nothing of
 * the kernel. The includer has named the columns (enum readahead_feature).
 */
#ifndef KMIND_READAHEAD_INPUTS_H
#define KMIND_READAHEAD_INPUTS_H

#include <kmind/log2.h>

/* In the manifest's order. */
enum ra_input {
	RA_X_IN_ORDER,
	RA_X_MAPPED,
	RA_X_MISSED,
	RA_X_REQUEST_PAGES,
	RA_X_ADDED_PAGES,
	RA_X_USED,
	RA_X_STRIDE,
	RA_X_SPREAD,
	RA_X_SYNC,
	RA_X_ASYNC,
	RA_X_DEVICE_PAGES,
	RA_X_DEVICE_US,
	RA_X_WRITES,
	RA_X_VALUE,
	RA_INPUTS,
};

#define RA_MOST (1 << 20)
#define RA_USED_MOST 8000 /* 1/1000 */

static inline __s64 ra_part(__u64 times, __u64 part, __u64 whole)
{
	part = whole ? times * part / whole : 0;
	return part < RA_MOST ? part : RA_MOST;
}

static inline __u64 ra_mean(__u64 sum, __u64 count)
{
	return count ? sum / count : 0;
}

static inline void ra_inputs(const __u64 *window, __u64 kb, __s64 *x)
{
	__u64 faults = window[RA_FAULTS] + window[RA_FAULT_AROUND];
	__u64 requests = window[RA_READS] + faults;
	__u64 ordered = window[RA_READ_SEQUENTIAL] + window[RA_FAULT_SEQUENTIAL] +
			window[RA_AROUND_SEQUENTIAL];
	__u64 asked = window[RA_READ_PAGES] + faults;
	__u64 done = window[RA_DEVICE_READS];
	__s64 used = ra_part(1000, asked, window[RA_ADDED_PAGES]);

	x[RA_X_IN_ORDER] = ra_part(1000, ordered, requests);
	x[RA_X_MAPPED] = ra_part(1000, faults, requests);
	x[RA_X_MISSED] = ra_part(1000, window[RA_READ_MISSES] + window[RA_FAULT_MISSES], requests);
	x[RA_X_REQUEST_PAGES] = ra_part(16, window[RA_READ_PAGES], window[RA_READS]);
	x[RA_X_ADDED_PAGES] = ra_part(16, window[RA_ADDED_PAGES], requests);
	x[RA_X_USED] = used < RA_USED_MOST ? used : RA_USED_MOST;
	x[RA_X_STRIDE] = km_log2(ra_mean(window[RA_STRIDE_PAGES], window[RA_STRIDES]));
	x[RA_X_SPREAD] = km_log2(ra_mean(window[RA_STRIDE_SPREAD], window[RA_STRIDES]));
	x[RA_X_SYNC] = ra_part(1000, window[RA_SYNC_READAHEAD], requests);
	x[RA_X_ASYNC] = ra_part(1000, window[RA_ASYNC_READAHEAD], requests);
	x[RA_X_DEVICE_PAGES] = ra_part(1, window[RA_DEVICE_BYTES] >> 8, done);
	x[RA_X_DEVICE_US] = km_log2(ra_mean(window[RA_DEVICE_NS], done) / 1000);
	x[RA_X_WRITES] = ra_part(1000, window[RA_DEVICE_WRITES], done + window[RA_DEVICE_WRITES]);
	x[RA_X_VALUE] = km_log2(kb);
}

#endif
