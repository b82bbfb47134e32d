// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Decides for whoever asks: to test and to time models on the real kernel, without an agent. */
#define KM_MODEL_FEATURES 64
#define KM_MODEL_BATCH 1024

#include <kmind/infer.h>

char km_license[] SEC("license") = "Dual BSD/GPL";
