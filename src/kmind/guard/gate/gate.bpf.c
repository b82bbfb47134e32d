// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The gate: sees each write to a sysctl before the kernel does.
 *
 * A sysctl that no instance holds is let through after one lookup. Of one that is
 * held, everybody but the owner may do with it what he likes, and the owner is told;
 * the owner himself gets only what was approved past it, or the value that stood
 * before. Anything else is refused: not every kernel takes the value that a program
 * puts in its place (6.1 and 6.12 were seen to write the first one). From an outsider's write on
 * the owner gets nothing past it at all, until he has settled with that write: so the admin's word
 * is the last, however the two race.
 */
#include <kmind/approved.h>
#include "gate.h"

#define REFUSE 0
#define PASS 1

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, GATE_FILES);
	__type(key, struct gate_name);
	__type(value, struct gate_file);
} km_gate_files SEC(".maps");

/* With no room left the event is lost; the owner then sees the value when he reads it. */
static void tell(struct bpf_sysctl *ctx, const struct gate_name *name, const struct gate_file *file)
{
	struct gate_event *event = begin_event(name, file);

	if (!event)
		return;
	bpf_sysctl_get_new_value(ctx, event->value, sizeof(event->value));
	bpf_ringbuf_submit(event, 0);
}

/* The decimal number that is to be written; not 0 if it is none. */
static int number(struct bpf_sysctl *ctx, __s64 *value)
{
	char text[GATE_VALUE] = {};
	long parsed = 0;
	int length, used;

	length = bpf_sysctl_get_new_value(ctx, text, sizeof(text));
	if (length <= 0 || length >= GATE_VALUE)
		return -1;
	used = bpf_strtol(text, length, 10, &parsed);
	if (used <= 0)
		return -1;
	for (int i = 0; i < GATE_VALUE; i++) {
		if (i >= used && text[i] != '\n' && text[i] != ' ' && text[i] != '\0')
			return -1;
	}
	*value = parsed;
	return 0;
}

SEC("cgroup/sysctl")
int gate(struct bpf_sysctl *ctx)
{
	struct kmind_approved approved = {};
	struct gate_name name = {};
	struct kmind_grant_key key;
	struct gate_file *file;
	struct gate_held *held;
	__s64 value = 0;

	if (!ctx->write)
		return PASS;
	/* A name that is too long for us is none that we gate. */
	if (bpf_sysctl_get_name(ctx, name.text, sizeof(name.text), 0) < 0)
		return PASS;
	file = bpf_map_lookup_elem(&km_gate_files, &name);
	if (!file)
		return PASS;
	key = file->key;
	held = bpf_map_lookup_elem(&km_gate_held, &key);
	if (!held)
		return PASS;
	if (!by_owner()) {
		held->noticed = 1;
		tell(ctx, &name, file);
		return PASS;
	}
	/* The kernel may take a write that does not start at 0 for none (sysctl_writes_strict). */
	if (!file->own || held->noticed || ctx->file_pos)
		return REFUSE;
	if (number(ctx, &value))
		return REFUSE;
	if (value == held->baseline)
		return PASS;
	return km_read_approved(&km_approved, &key, &approved) > 0 && value == approved.value;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
