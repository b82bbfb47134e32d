// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The I/O latency agent: will this request be slow? Said when the disk is given
 * it, by the deployed model; held against what it took when it is done.
 *
 * A prediction is of use only where it says more than the last request's latency
 * does. Both are scored here, side by side; until the model has shown that it is
 * better, and as soon as it no longer is, the agent abstains: it goes on
 * predicting and scoring, and publishes nothing.
 */
/* The columns of a window; module.toml says what each means. */
enum iolat_feature {
	IOL_FAST,
	IOL_SLOW,
	IOL_UNTIMED,
	IOL_FAST_AS_FAST,
	IOL_FAST_AS_SLOW,
	IOL_SLOW_AS_FAST,
	IOL_SLOW_AS_SLOW,
	IOL_LAST_FAST_AS_SLOW,
	IOL_LAST_SLOW_AS_SLOW,
	IOL_SAID_0,
	IOL_SAID_1,
	IOL_SAID_2,
	IOL_SAID_3,
	IOL_SAID_4,
	IOL_HITS_0,
	IOL_HITS_1,
	IOL_HITS_2,
	IOL_HITS_3,
	IOL_HITS_4,
	IOL_FAST_DEPTH,
	IOL_SLOW_DEPTH,
	IOL_READS,
	IOL_SLOW_READS,
	IOL_READS_BESIDE,
	IOL_SLOW_READS_BESIDE,
	IOL_PUBLISHED,
	IOL_ABSTAINING,
	IOL_PREDICTED,
};

#define KM_GAUGES (1ULL << IOL_ABSTAINING | 1ULL << IOL_PREDICTED)
#define KM_MODEL_FEATURES 12
#include <kmind/blk_inflight.h>
#include <kmind/infer.h>
#include "iolat.h"

_Static_assert(IOL_INPUTS == KM_MODEL_FEATURES, "the manifest names other features");

KM_FEATURES(iolat_feature);
const volatile __u32 param_slow_us = 1000;
const volatile __u32 param_min_slow = 10;
const volatile __u32 param_min_accuracy = 750;
const volatile __u32 param_judge_every = 2048;
const volatile __u32 param_records = 0;

#define IOL_BINS 5
#define IOL_SHARE_SHIFT 6 /* the share of predictions is one of some 64 */
#define IOL_NS_PER_S 1000000000ULL

/* A flight's note: the depth below, and what was said. */
#define IOL_NOTE_DECIDED (1ULL << 16)
#define IOL_NOTE_SLOW (1ULL << 17)
#define IOL_NOTE_LAST (1ULL << 18) /* what the last latency would have said */
#define IOL_NOTE_BIN 20
#define IOL_NO_BIN 7
#define IOL_NOTE_BESIDE (1ULL << 24) /* a read, and the disk had writes too */

static struct iol_history iol_history;

static struct iol_recent iol_recent;

/* For others to read: who admits I/O, and where it goes. All 0: nothing is said. */
struct iol_state {
	__u32 publishing; /* 0: the agent abstains */
	__u32 predicted;  /* share of the latest requests predicted slow, in 1/65536 */
	__u64 slow_ns;	  /* what takes longer is slow */
	__u64 updated_ns; /* CLOCK_MONOTONIC: older than it should be, if the disk rests */
	__u64 version;	  /* of the model */
	__u32 accuracy;	  /* balanced, in 1/1000, lately */
	__u32 last_accuracy;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct iol_state);
} iolat_state SEC(".maps");

static __u64 iol_version; /* of the model that decided last */
static __u32 iol_publishing, iol_share;
static __u64 iol_second, iol_pushed;
static __s64 iol_writes; /* in the disk; what was there before us may make it less than 0 */

/* May what is predicted be believed? Once a round. */
static __noinline int iol_judge(void)
{
	__u32 zero = 0;
	struct iol_state *state = bpf_map_lookup_elem(&iolat_state, &zero);

	iol_publishing =
		iol_believed(&iol_recent, iol_publishing, param_min_slow, param_min_accuracy);
	if (state) {
		state->accuracy = iol_accuracy(&iol_recent);
		state->last_accuracy = iol_last_accuracy(&iol_recent);
		WRITE_ONCE(state->publishing, iol_publishing);
		if (!iol_publishing)
			WRITE_ONCE(state->predicted, 0);
	}
	iol_recent.decided >>= 1;
	iol_recent.slow >>= 1;
	iol_recent.slow_right >>= 1;
	iol_recent.fast_right >>= 1;
	iol_recent.last_slow_right >>= 1;
	iol_recent.last_fast_right >>= 1;
	return 0;
}

/* Another model has to show anew what it is worth. */
static __noinline int iol_begin_anew(__u64 version)
{
	__u32 zero = 0;
	struct iol_state *state = bpf_map_lookup_elem(&iolat_state, &zero);

	iol_version = version;
	iol_publishing = 0;
	iol_share = 0;
	__builtin_memset(&iol_recent, 0, sizeof(iol_recent));
	if (state)
		__builtin_memset(state, 0, sizeof(*state));
	return 0;
}

/* At most so many a second: is this one among them? */
static __always_inline bool iol_may_push(__u64 now)
{
	if (!param_records)
		return false;
	if (now - iol_second >= IOL_NS_PER_S) {
		iol_second = now;
		iol_pushed = 0;
	}
	return iol_pushed++ < param_records;
}

/* Results of predictions */
static __always_inline void iol_publish(__u64 now, bool slow, __u64 depth, __u64 sectors,
					bool write, __s64 probability)
{
	__u32 zero = 0, cpu, share = READ_ONCE(iol_share);
	struct iol_state *state;

	share += (slow ? 65536 >> IOL_SHARE_SHIFT : 0) - (share >> IOL_SHARE_SHIFT);
	WRITE_ONCE(iol_share, share);
	state = bpf_map_lookup_elem(&iolat_state, &zero);
	if (!state)
		return;
	state->slow_ns = param_slow_us * 1000ULL;
	state->version = iol_version;
	WRITE_ONCE(state->updated_ns, now);
	if (!READ_ONCE(iol_publishing))
		return;
	WRITE_ONCE(state->predicted, share);
	if (!slow)
		return;
	km_count_atomic(km_this_cpu(&cpu), IOL_PUBLISHED, 1);
	if (iol_may_push(now))
		km_push(KMIND_KIND_MODULE, depth | sectors << 16,
			(probability < 0 ? 0xffff : probability) | (write ? 1ULL << 16 : 0), now);
}

/* The prediction, as a flight's note; 0 without a model. */
static __noinline __u64 iol_predict(__u64 now, __u64 depth, __u64 sectors, bool write)
{
	struct km_decision *decision;
	__s64 probability;
	__u64 note = 0, version;
	bool slow;

	KM_USES_ARENA();
	if (!READ_ONCE(km_model_state.active))
		return 0;
	decision = km_infer_begin();
	if (!decision)
		return 0;
	iol_inputs(&iol_history, now, depth, sectors, write, decision->x);
	if (km_infer(decision)) {
		km_infer_end(decision);
		return 0;
	}
	slow = decision->label == 1;
	probability = decision->probability;
	version = decision->version;
	km_infer_end(decision);
	if (version != READ_ONCE(iol_version))
		iol_begin_anew(version);
	note = IOL_NOTE_DECIDED | (slow ? IOL_NOTE_SLOW : 0);
	if (iol_past(&iol_history, 0) & IOL_WAS_SLOW)
		note |= IOL_NOTE_LAST;
	/* 32767 is certain. */
	note |= (probability < 0 ? IOL_NO_BIN : (__u64)probability * IOL_BINS >> 15)
		<< IOL_NOTE_BIN;
	iol_publish(now, slow, depth, sectors, write, probability);
	return note;
}

/* Result of a prediction. */
static __noinline int iol_score(__u64 note, bool slow)
{
	bool said = note & IOL_NOTE_SLOW, last = note & IOL_NOTE_LAST;
	__u32 cpu, bin = note >> IOL_NOTE_BIN & 7;
	struct km_cpu *own;

	KM_USES_ARENA();
	own = km_this_cpu(&cpu);
	if (slow)
		km_count_atomic(own, said ? IOL_SLOW_AS_SLOW : IOL_SLOW_AS_FAST, 1);
	else
		km_count_atomic(own, said ? IOL_FAST_AS_SLOW : IOL_FAST_AS_FAST, 1);
	if (last)
		km_count_atomic(own, slow ? IOL_LAST_SLOW_AS_SLOW : IOL_LAST_FAST_AS_SLOW, 1);
	if (bin < IOL_BINS) {
		km_count_atomic(own, IOL_SAID_0 + bin, 1);
		if (slow)
			km_count_atomic(own, IOL_HITS_0 + bin, 1);
	}
	if (slow) {
		__sync_fetch_and_add(&iol_recent.slow, 1);
		__sync_fetch_and_add(&iol_recent.slow_right, said);
		__sync_fetch_and_add(&iol_recent.last_slow_right, last);
	} else {
		__sync_fetch_and_add(&iol_recent.fast_right, !said);
		__sync_fetch_and_add(&iol_recent.last_fast_right, !last);
	}
	/* Only the one that makes the round full judges. */
	if (__sync_fetch_and_add(&iol_recent.decided, 1) + 1 == param_judge_every)
		iol_judge();
	return 0;
}

/* Reads that were done, and those among them that had writes beside them when they came. */
static __always_inline void iol_count_read(struct km_cpu *own, __u64 note, bool slow)
{
	bool beside = note & IOL_NOTE_BESIDE;

	km_count_atomic(own, beside ? IOL_READS_BESIDE : IOL_READS, 1);
	if (slow)
		km_count_atomic(own, beside ? IOL_SLOW_READS_BESIDE : IOL_SLOW_READS, 1);
}

SEC("tp_btf/block_rq_complete")
int KM_HOOK(on_complete, struct request *rq, int error, unsigned int bytes)
{
	__u32 cpu, op = rq->cmd_flags & KM_REQ_OP_MASK;
	struct km_flight flight;
	struct km_cpu *own;
	__u64 took, depth;
	bool slow;

	if (op > KM_REQ_OP_WRITE || !bytes || !km_is_targets(rq))
		return 0;
	if (bytes < rq->__data_len)
		return 0; /* a part of it: the rest follows */
	own = km_this_cpu(&cpu);
	if (op == KM_REQ_OP_WRITE)
		__sync_fetch_and_sub(&iol_writes, 1);
	if (!km_flight_end(km_flight_name(ctx), &flight)) {
		km_count_atomic(own, IOL_UNTIMED, 1);
		return 0;
	}
	if (!READ_ONCE(km_in_flight))
		WRITE_ONCE(iol_writes, 0); /* whatever was miscounted is put right */
	took = bpf_ktime_get_ns() - flight.issued_ns;
	depth = flight.note & IOL_MOST;
	slow = took > param_slow_us * 1000ULL;
	iol_done(&iol_history, took, depth, slow);
	km_count_atomic(own, slow ? IOL_SLOW : IOL_FAST, 1);
	km_count_atomic(own, slow ? IOL_SLOW_DEPTH : IOL_FAST_DEPTH, depth);
	if (op != KM_REQ_OP_WRITE)
		iol_count_read(own, flight.note, slow);
	if (flight.note & IOL_NOTE_DECIDED)
		iol_score(flight.note, slow);
	return 0;
}

SEC("tp_btf/block_rq_issue")
int KM_HOOK(on_issue, struct request *rq)
{
	__u32 op = rq->cmd_flags & KM_REQ_OP_MASK, bytes = rq->__data_len;
	__u64 now, depth, note;

	if (op > KM_REQ_OP_WRITE || !bytes || !km_is_targets(rq))
		return 0;
	now = bpf_ktime_get_ns();
	depth = iol_most(READ_ONCE(km_in_flight) + 1);
	note = iol_predict(now, depth, iol_most(bytes >> 9), op == KM_REQ_OP_WRITE);
	WRITE_ONCE(iol_history.issued_ns, now);
	km_set_gauge(IOL_ABSTAINING, !READ_ONCE(iol_publishing));
	km_set_gauge(IOL_PREDICTED,
		     READ_ONCE(iol_publishing) ? READ_ONCE(iol_share) * 1000ULL >> 16 : 0);
	if (op == KM_REQ_OP_WRITE)
		__sync_fetch_and_add(&iol_writes, 1);
	else if (READ_ONCE(iol_writes) > 0)
		note |= IOL_NOTE_BESIDE;
	km_flight_begin(km_flight_name(ctx), depth | note);
	return 0;
}
