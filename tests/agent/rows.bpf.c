// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * An agent with tables: a test updates rows by hand, as often as it wants and on any CPU, and
 * each write(2) of a process that it names is counted by a hook.
 */
#define KM_TABLES(table) table(rows) table(calls)
#include <kmind/agent.h>
#include <kmind/table.h>

struct rows_key {
	__u64 number;
};

struct rows_row {
	KM_ROW(struct rows_key);
	__u64 count;
	__u64 level;
	__u64 size[KM_BUCKETS(3, 0, 16)];
	__u64 power[KM_BUCKETS(0, 0, 32)];
} KM_ROW_ALIGNED;

KM_TABLE(rows);

struct calls_key {
	__u32 pid;
	__u16 kind;
	__u8 name[6];
};

struct calls_row {
	KM_ROW(struct calls_key);
	__u64 calls;
} KM_ROW_ALIGNED;

KM_TABLE(calls);

struct rows_work {
	__u64 first;  /* key of the first update */
	__u32 keys;   /* each next update has one more, and then the first again */
	__u32 turns;  /* updates */
	__u64 value;  /* observed */
	__u32 leave;  /* 1: take the keys out instead; 2: afterwards, at once */
	__u32 missed; /* out: updates that found no row */
};

static int rows_update(__u32 turn, struct rows_work *work)
{
	struct rows_key key = {.number = work->first + turn % (work->keys ?: 1)};
	struct rows_row *row;

	if (work->leave == 1)
		return km_rows_leave(&key);
	row = km_rows(&key);
	if (!row) {
		work->missed++;
		return 0;
	}
	km_add(&row->count, 1);
	WRITE_ONCE(row->level, work->leave ? key.number : work->value);
	km_observe(row->size, 3, 0, 16, work->value);
	km_observe(row->power, 0, 0, 32, work->value);
	if (work->leave)
		km_rows_leave(&key);
	return 0;
}

SEC("syscall")
int rows_run(struct rows_work *work)
{
	struct rows_work copy = *work;

	copy.missed = 0;
	bpf_loop(copy.turns, rows_update, &copy, 0);
	work->missed = copy.missed;
	return 0;
}

/* The bucket of each of a few values, in the finest scale and in log2. */
struct rows_buckets {
	__u64 value[8];
	__u32 fine[8];
	__u32 log2[8];
};

SEC("syscall")
int rows_bucket(struct rows_buckets *work)
{
	/* A context is read and written at constant places only. */
#pragma unroll
	for (int i = 0; i < 8; i++) {
		work->fine[i] = km_bucket(work->value[i], 5, 0, 15);
		work->log2[i] = km_bucket(work->value[i], 0, 4, 63);
	}
	return 0;
}

const volatile __u32 param_pid;

SEC("tp_btf/sys_enter")
int KM_HOOK(rows_on_call, struct pt_regs *regs, long number)
{
	struct calls_key key = {.pid = bpf_get_current_pid_tgid() >> 32};
	struct calls_row *row;

	if (key.pid != param_pid || number != 1)
		return 0;
	key.kind = number;
	__builtin_memcpy(key.name, "write", 6);
	row = km_calls(&key);
	if (row)
		km_add(&row->calls, 1);
	return 0;
}
