// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Cost of a push, compared with a BPF ring buffer; and a hook to measure round trips by. */
#include <kmind/agent.h>

#define UNROLL 16

const volatile __u32 param_pid = 0;
const volatile __u32 param_every = 16;

/* Room for more records than a shared ring has. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 * 1024 * 1024);
} bench_ringbuf SEC(".maps");

struct bench_args {
	__u32 what;
	__u32 turns; /* of UNROLL pushes */
	__u64 ns;
	__u64 failed;
};

enum bench_what {
	BENCH_EMPTY = 0,
	BENCH_SHARED = 1,
	BENCH_RINGBUF = 2,
};

struct bench_sample {
	__u64 word[4];
};

struct bench_state {
	__u64 failed;
};

static int turn_empty(__u32 index, struct bench_state *state)
{
	/* As many steps that cannot be left out as there are pushes in the others. */
	for (int i = 0; i < UNROLL; i++)
		asm volatile("" : "+r"(index));
	return 0;
}

static int turn_shared(__u32 index, struct bench_state *state)
{
	KM_USES_ARENA();
	for (int i = 0; i < UNROLL; i++)
		state->failed += !km_push(KMIND_KIND_MODULE, index, i, 0);
	return 0;
}

static int turn_ringbuf(__u32 index, struct bench_state *state)
{
	struct bench_sample *sample;

	for (int i = 0; i < UNROLL; i++) {
		sample = bpf_ringbuf_reserve(&bench_ringbuf, sizeof(*sample), 0);
		if (!sample) {
			state->failed++;
			continue;
		}
		sample->word[0] = KMIND_KIND_MODULE;
		sample->word[1] = index;
		sample->word[2] = 0;
		sample->word[3] = i;
		bpf_ringbuf_submit(sample, BPF_RB_NO_WAKEUP);
	}
	return 0;
}

SEC("syscall")
int bench_push(struct bench_args *args)
{
	struct bench_state state = {};
	__u64 start;

	KM_USES_ARENA();
	start = bpf_ktime_get_ns();
	switch (args->what) {
	case BENCH_SHARED:
		bpf_loop(args->turns, turn_shared, &state, 0);
		break;
	case BENCH_RINGBUF:
		bpf_loop(args->turns, turn_ringbuf, &state, 0);
		break;
	default:
		bpf_loop(args->turns, turn_empty, &state, 0);
	}
	args->ns = bpf_ktime_get_ns() - start;
	args->failed = state.failed;
	return 0;
}

/* System calls of one process stand for any hook: each answers, some push. */
static __u32 bench_calls;

SEC("tp_btf/sys_enter")
int KM_HOOK(on_call, void *regs, long number)
{
	if (bpf_get_current_pid_tgid() >> 32 != param_pid)
		return 0;
	if (++bench_calls % param_every == 0)
		km_push(KMIND_KIND_MODULE, bench_calls, 0, bpf_ktime_get_ns());
	return 0;
}
