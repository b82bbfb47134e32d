/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Access to the memory that agent and extension share, and the orderings that the rings need.
 *
 * It is called the arena. Where the kernel has BPF arenas (Linux 6.9), it is one. Elsewhere it is
 * an array map that both sides map (Linux 5.5). Each source is compiled in both shapes, the second
 * with KM_SHARED_ARRAY, and the loader picks. A module's source need not know.
 *
 * libbpf 1.1 has neither the arena's map type nor the helpers, so they are declared here. Values:
 * include/uapi/linux/bpf.h, Linux 6.9.
 */
#ifndef KMIND_ARENA_H
#define KMIND_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#ifndef __BPF_FEATURE_ADDR_SPACE_CAST
#error "this compiler does not know BPF address spaces: use clang 19 or newer"
#endif

#define KM_MAP_TYPE_ARENA 33
#ifdef KM_SHARED_ARRAY
#define __arena
#else
#define __arena __attribute__((address_space(1)))
#endif

/*
 * Two neighbouring constant stores through an arena pointer become a memset,
 * which loses the address space, and the verifier then refuses it: so every
 * access to shared memory is volatile.
 */
#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile typeof(x) *)&(x) = (v))

/*
 * Publish a word: everything stored before is seen by whoever sees the word.
 * x86 keeps stores in order, so a plain store does. Elsewhere an atomic
 * exchange, which is fully ordered in BPF on every architecture
 * (Documentation/bpf/standardization/instruction-set.rst, "Atomic operations").
 */
#if defined(__TARGET_ARCH_x86)
#define ARENA_RELEASE(x, v)                    \
	do {                                   \
		asm volatile("" ::: "memory"); \
		WRITE_ONCE(x, v);              \
	} while (0)
#else
#define ARENA_RELEASE(x, v) ((void)__sync_lock_test_and_set(&(x), (v)))
#endif

/*
 * A full barrier where loads may pass loads (after reading a reader's index,
 * before using what it guards). Not needed on x86. An exchange: clang makes an
 * addition whose result nobody uses one that fetches nothing, which is not
 * ordered.
 */
#if defined(__TARGET_ARCH_x86)
#define KM_ACQUIRE_FENCE() asm volatile("" ::: "memory")
#else
static __u64 km_fence_word;
#define KM_ACQUIRE_FENCE() ((void)__sync_lock_test_and_set(&km_fence_word, 0))
#endif

#endif
