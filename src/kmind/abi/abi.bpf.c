// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Names every shared type once, so that its BTF holds them all. Never loaded. */
#include <linux/types.h>
#include <kmind/abi.h>

#define NAME2(type, line) type *name_##line
#define NAME1(type, line) NAME2(type, line)
#define NAME(type) NAME1(type, __LINE__)

NAME(struct kmind_record);
NAME(struct kmind_window);
NAME(struct kmind_recommendation);
NAME(struct kmind_ring);
NAME(struct kmind_memory);
NAME(struct kmind_header);
NAME(struct kmind_action);
NAME(struct kmind_grant_key);
NAME(struct kmind_grant);
NAME(struct kmind_control);
NAME(struct kmind_account);
NAME(struct kmind_state);
NAME(struct kmind_row);
NAME(struct kmind_table);
NAME(struct kmind_lease);
NAME(struct kmind_approved);
NAME(struct kmind_owner);
NAME(struct kmind_class);
NAME(struct kmind_instance);
NAME(struct kmind_core_call);
NAME(enum kmind_limit);
NAME(enum kmind_mode);
NAME(enum kmind_verdict);
NAME(enum kmind_type);
NAME(enum kmind_rule_op);
NAME(enum kmind_kind);
NAME(enum kmind_outcome);
NAME(enum kmind_gap);
NAME(enum kmind_cause);
NAME(enum kmind_action_kind);
NAME(enum kmind_control_op);
NAME(enum kmind_phase);
NAME(enum kmind_row_state);
NAME(enum kmind_core_op);
NAME(enum kmind_magic);
