/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps that models and decisions lie in, and which model decides. */
#ifndef KMIND_INFER_SLOTS_H
#define KMIND_INFER_SLOTS_H

#include <kmind/infer_types.h>

#define KM_SCRATCHES 4 /* as deep as decisions nest on one CPU: task, soft, hard, NMI */

#ifndef KM_MODEL_FEATURES
#error "define KM_MODEL_FEATURES before the include: how many numbers a decision goes by"
#endif
/* A constant of the module: false, and nothing decides, nor does the verifier look at how. */
#ifndef KM_MODEL_IF
#define KM_MODEL_IF true
#endif
_Static_assert(KM_MODEL_FEATURES <= KM_MODEL_INPUTS, "a decision has too many features");

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

/* Schema of the module's features: SHA-256 of their names and units. All 0: no model is taken. */
const volatile __u64 km_model_schema[4];
const volatile __u32 km_model_features = KM_MODEL_FEATURES;
const volatile __u32 km_model_budget_ns = 5000;

/*
 * Where the verifier follows each turn of a loop it must not do so for each turn of the loop around
 * it, too. So what turns inside of a loop is a function of its own, not static: it is verified by
 * itself, once, whatever its callers' registers hold. It cannot be given a pointer into a map that
 * programs may not write, and looks its model up for itself.
 *
 * KM_IN_PARTS goes from `at` to `end` by such a function, `step` a call.
 */
#define KM_IN_PARTS(at, end, step, most, call)              \
	do {                                                \
		__u32 parts = (most);                       \
		do {                                        \
			call;                               \
			at += (step);                       \
		} while (at < (end) && KM_CAN_LOOP(parts)); \
	} while (0)

struct km_models_state {
	__u64 active; /* slot + 1, or 0 */
	__u64 missed; /* decisions that found no scratch */
};
static struct km_models_state km_model_state SEC(".data.models");

#endif
