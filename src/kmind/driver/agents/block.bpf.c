// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The ready agent of block drivers on the transport `loop`: accounts of the requests that the
 * driver is sent over its FUSE connection, and the watch over the oldest one.
 *
 * They are counted on the connection, not on the loop device. There both ends of a request run in
 * tasks, the kernel's worker and the driver, so no hook is ever interrupted by itself and passed
 * over: counts are exact. A completion of the loop device comes in an interrupt, some of which no
 * program sees. And the time between the two is the driver's own, without the kernel's queues.
 */
enum block_op {
	BLOCK_READ,
	BLOCK_WRITE,
	BLOCK_DISCARD,
	BLOCK_FLUSH,
	BLOCK_OTHER, /* of the file system: open, getattr, ... */
	BLOCK_OPS,
};

/* The columns of a window; block.toml says what each means. By operation, in their order. */
enum block_feature {
	BLOCK_READS,
	BLOCK_WRITES,
	BLOCK_DISCARDS,
	BLOCK_FLUSHES,
	BLOCK_OTHERS,
	BLOCK_READ_BYTES,
	BLOCK_WRITE_BYTES,
	BLOCK_DISCARD_BYTES,
	BLOCK_READ_ERRORS,
	BLOCK_WRITE_ERRORS,
	BLOCK_DISCARD_ERRORS,
	BLOCK_FLUSH_ERRORS,
	BLOCK_READ_NS,
	BLOCK_WRITE_NS,
	BLOCK_DISCARD_NS,
	BLOCK_FLUSH_NS,
	BLOCK_SENT,
	BLOCK_REPLAYS,
	BLOCK_UNTIMED,
	BLOCK_NO_ROOM,
	BLOCK_WITHDRAWN,
	BLOCK_IN_FLIGHT,
	BLOCK_OLDEST_US,
};

#define KM_GAUGES (1ULL << BLOCK_IN_FLIGHT | 1ULL << BLOCK_OLDEST_US)
#define KM_ON_WINDOW block_on_window
#define KM_ON_TICK block_on_tick
#define KM_ON_SHOW block_on_show
#define KM_WITHDRAWN BLOCK_WITHDRAWN
#define KM_ROWS_STAY
#include "fuse.h"
#include <kmind/table.h>

KM_FEATURES(block_feature);
const volatile __u32 param_stall_ms; /* the oldest request may wait for so long; 0: for ever */

#define BLOCK_LOW 10  /* the histograms go from 2^10 ns, a microsecond, */
#define BLOCK_HIGH 36 /* to 2^36 ns, a minute */
#define BLOCK_BUCKETS KM_BUCKETS(0, BLOCK_LOW, BLOCK_HIGH)

struct latency_key {
	__u32 operation;
};

struct latency_row {
	KM_ROW(struct latency_key);
	__u64 took[BLOCK_BUCKETS];
} KM_ROW_ALIGNED;

KM_TABLE(latency);

/* Each CPU counts for itself, and the tick adds it to the table's rows. */
struct block_cpu {
	__u64 scratch;
	__u64 took[BLOCK_OPS][BLOCK_BUCKETS];
} __attribute__((aligned(64)));

static struct block_cpu block_cpus[KMIND_MAX_CPUS];
static __u64 block_told[BLOCK_OPS][BLOCK_BUCKETS]; /* what the rows have got */
static __u64 block_seen[BLOCK_OPS];		   /* requests, as of then */

static __always_inline __u32 block_op_of(__u32 opcode)
{
	return opcode == FUSE_READ	? BLOCK_READ :
	       opcode == FUSE_WRITE	? BLOCK_WRITE :
	       opcode == FUSE_FALLOCATE ? BLOCK_DISCARD :
	       opcode == FUSE_FSYNC	? BLOCK_FLUSH :
					  BLOCK_OTHER;
}

static __always_inline void block_time(struct km_cpu *own, __u32 cpu, __u32 op, __u64 name)
{
	__u64 since = km_wait_end(name), took;
	__u32 bucket;

	if (!since) {
		km_count(own, BLOCK_UNTIMED, 1);
		return;
	}
	took = bpf_ktime_get_ns() - since;
	if (op < BLOCK_OTHER)
		km_count(own, BLOCK_READ_NS + op, took);
	bucket = km_bucket(took, 0, BLOCK_LOW, BLOCK_HIGH);
	asm volatile("" : "+r"(bucket)); /* for the verifier, which does not follow the sums */
	if (bucket < BLOCK_BUCKETS)
		block_cpus[cpu].took[op][bucket]++;
}

/* The driver has answered, or the connection was aborted. */
SEC("tp_btf/fuse_request_end")
int KM_HOOK(on_end, struct fuse_req *req)
{
	struct km_cpu *own;
	__u32 cpu, op;

	if (!fuse_is_ours(req))
		return 0;
	own = km_this_cpu(&cpu);
	op = block_op_of(req->in.h.opcode);
	asm volatile("" : "+r"(op));
	if (op >= BLOCK_OPS)
		return 0;
	block_time(own, cpu, op, fuse_name(req, &block_cpus[cpu].scratch));
	if (op == BLOCK_OTHER)
		; /* that a name is not there is no error */
	else if (req->out.h.error)
		km_count(own, BLOCK_READ_ERRORS + op, 1);
	else if (op < BLOCK_FLUSH)
		km_count(own, BLOCK_READ_BYTES + op, fuse_bytes(req));
	if (req->in.h.unique & FUSE_RESENT)
		km_count(own, BLOCK_REPLAYS, 1);
	km_count(own, BLOCK_READS + op, 1); /* last: who sees it sees the rest */
	return 0;
}

/* The driver is sent a request. */
SEC("tp_btf/fuse_request_send")
int KM_HOOK(on_send, struct fuse_req *req)
{
	struct km_cpu *own;
	__u32 cpu;

	if (!fuse_is_ours(req))
		return 0;
	own = km_this_cpu(&cpu);
	km_count(own, BLOCK_SENT, 1);
	if (!km_wait_begin(fuse_name(req, &block_cpus[cpu].scratch), bpf_ktime_get_ns()))
		km_count(own, BLOCK_NO_ROOM, 1);
	return 0;
}

/* What was answered or withdrawn is read first, or what comes meanwhile would be missed in it. */
static __noinline __u64 block_in_flight(void)
{
	__u64 ended = km_total(BLOCK_WITHDRAWN), sent;

	for (__u32 op = 0; op < BLOCK_OPS; op++)
		ended += km_total(BLOCK_READS + op);
	KM_ACQUIRE_FENCE();
	sent = km_total(BLOCK_SENT);
	return sent > ended ? sent - ended : 0;
}

static __noinline __u64 block_oldest_us(void)
{
	__u64 since = km_wait_since(), now = bpf_ktime_get_ns();

	return since && now > since ? (now - since) / 1000 : 0;
}

static __noinline int block_on_window(const __u64 *closing)
{
	km_set_gauge(BLOCK_IN_FLIGHT, block_in_flight());
	km_set_gauge(BLOCK_OLDEST_US, block_oldest_us());
	return 0;
}

struct block_fold {
	__u32 op;
	struct latency_row *row;
};

/* One bucket of an operation: what was counted since the last time goes into its row. */
static int block_fold(__u32 bucket, struct block_fold *fold)
{
	struct latency_row *row = fold->row;
	__u64 total = 0, told;
	__u32 op = fold->op;

	if (bucket >= BLOCK_BUCKETS || op >= BLOCK_OPS || !row)
		return 1;
	for (__u32 cpu = 0; cpu < km_geometry.nr_cpus && cpu < KMIND_MAX_CPUS; cpu++)
		total += READ_ONCE(block_cpus[cpu].took[op][bucket]);
	told = block_told[op][bucket];
	if (total != told)
		km_add(&row->took[bucket], total - told);
	block_told[op][bucket] = total;
	return 0;
}

/*
 * The row of an operation. All keys are known, so each has a place of its own from the first time
 * on: Linux 6.1 would not let the tick use the map of free places that other tables have.
 */
static __always_inline struct latency_row *block_row(__u32 op)
{
	__u32 head_at = 0, place = op + 1;
	struct kmind_table *head = bpf_map_lookup_elem(&km_table_latency, &head_at);
	struct latency_row *row = bpf_map_lookup_elem(&km_table_latency, &place);

	if (!head || !row)
		return NULL;
	WRITE_ONCE(row->row.updated_ns, READ_ONCE(km.now_ns));
	if (READ_ONCE(row->row.state) != KMIND_ROW_STATE_LIVE) {
		row->key.operation = op;
		row->row.created_ns = row->row.updated_ns;
		ARENA_RELEASE(row->row.state, KMIND_ROW_STATE_LIVE);
		head->used++;
		head->fresh = BLOCK_OPS;
	}
	return row;
}

/* One operation a tick, if any of its requests has ended since the last time. */
static __noinline int block_tell(void)
{
	__u32 op = km.ticks % 16;
	struct block_fold fold = {.op = op};
	__u64 requests;

	asm volatile("" : "+r"(op)); /* for the verifier: one register is checked and used */
	if (op >= BLOCK_OPS)
		return 0;
	requests = km_total(BLOCK_READS + op);
	if (requests == block_seen[op])
		return 0;
	KM_ACQUIRE_FENCE();
	fold.row = block_row(op);
	if (!fold.row)
		return 0;
	bpf_loop(BLOCK_BUCKETS, block_fold, &fold, 0);
	block_seen[op] = requests;
	return 0;
}

static __noinline bool block_on_tick(__u64 now)
{
	block_tell();
	if (km_wait_rests() && (km.ticks % 16 || !block_in_flight()))
		return false;
	km_wait_tick(now);
	return km_wait_is_over(now, param_stall_ms * 1000000ULL);
}

static const char block_names[][8] = {"read", "write", "discard", "flush", "other"};

struct block_show {
	struct seq_file *seq;
	__u32 op;
};

/* The buckets of an operation that have something in them, each by its upper bound. */
static int block_show_bucket(__u32 bucket, struct block_show *show)
{
	__u32 op = show->op;
	__u64 count;

	if (bucket >= BLOCK_BUCKETS || op >= BLOCK_OPS)
		return 1;
	count = block_told[op][bucket];
	if (count && bucket < BLOCK_BUCKETS - 1)
		BPF_SEQ_PRINTF(show->seq, "%s_within_ns_%llu %llu\n", block_names[op],
			       1ULL << (BLOCK_LOW + bucket), count);
	else if (count)
		BPF_SEQ_PRINTF(show->seq, "%s_longer %llu\n", block_names[op], count);
	return 0;
}

static __noinline int block_on_show(struct seq_file *seq)
{
	for (__u32 op = 0; op < BLOCK_OPS; op++) {
		struct block_show show = {.seq = seq, .op = op};

		BPF_SEQ_PRINTF(seq, "%s_requests %llu\n", block_names[op],
			       km_total(BLOCK_READS + op));
		if (op < BLOCK_FLUSH)
			BPF_SEQ_PRINTF(seq, "%s_bytes %llu\n", block_names[op],
				       km_total(BLOCK_READ_BYTES + op));
		if (op < BLOCK_OTHER)
			BPF_SEQ_PRINTF(seq, "%s_errors %llu\n%s_ns %llu\n", block_names[op],
				       km_total(BLOCK_READ_ERRORS + op), block_names[op],
				       km_total(BLOCK_READ_NS + op));
		bpf_loop(BLOCK_BUCKETS, block_show_bucket, &show, 0);
	}
	BPF_SEQ_PRINTF(seq, "sent %llu\nreplays %llu\nuntimed %llu\nno_room %llu\nwithdrawn %llu\n",
		       km_total(BLOCK_SENT), km_total(BLOCK_REPLAYS), km_total(BLOCK_UNTIMED),
		       km_total(BLOCK_NO_ROOM), km_total(BLOCK_WITHDRAWN));
	BPF_SEQ_PRINTF(seq, "in_flight %llu\noldest_us %llu\n", block_in_flight(),
		       block_oldest_us());
	return 0;
}
