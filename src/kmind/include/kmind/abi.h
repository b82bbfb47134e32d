/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The layout that an agent (eBPF) and its extension (user space) share.
 *
 * It compiles for BPF and for the host. Python's dtypes in layout.py are
 * generated from the BTF of abi.bpf.c, which includes this header; so every
 * number that Python needs is an enumerator, not a macro.
 *
 * All positions in rings are free-running 32-bit counters, masked on use. A
 * record belongs to the reader when its `commit` equals its position plus one.
 */
#ifndef KMIND_ABI_H
#define KMIND_ABI_H

#include <linux/types.h>

enum kmind_limit {
	KMIND_ABI = 3,		   /* of arena, records and windows */
	KMIND_CORE_ABI = 7,	   /* of what the owner shares with agents: core, grants, control */
	KMIND_MAX_CPUS = 256,	   /* CPUs that one agent can serve */
	KMIND_FEATURES = 28,	   /* counters in one window */
	KMIND_WINDOW_SLOTS = 256,  /* windows kept for a slow reader */
	KMIND_CQ_SLOTS = 64,	   /* recommendations under way */
	KMIND_NOTE_SIZE = 1024,	   /* bytes of reason and evidence for each */
	KMIND_STATUS_SIZE = 4096,  /* bytes in which the extension describes itself */
	KMIND_MEMORY_SIZE = 65536, /* bytes that it wants to find again, their header included */
	KMIND_RULES = 4,	   /* cross-field rules for one knob */
	KMIND_INSTANCES = 64,	   /* slots; 0 is nobody's */
	KMIND_CLASSES = 16,
	KMIND_LEASES = 2048,	  /* (knob, target) pairs that can be granted, of all instances */
	KMIND_GRANTS = 512,	  /* places for the grants of one agent; a power of two */
	KMIND_PROBES = 32,	  /* places in which one key may stand, side by side */
	KMIND_GENERATIONS = 1024, /* of a place for leases, until its number comes again */
	/* A lease outlives the hold that it was taken for by that: time to undo. */
	KMIND_LEASE_SLACK_MS = 2000,
	KMIND_OWNER_MS = 5000, /* an owner that gives no sign for so long applies nothing */
	KMIND_IDLE_MS = 2000,  /* a window in which nothing happened runs on for so long */
	/*
	 * The user ids of extensions, of every kmind on a machine. systemd's table (UIDS-GIDS.md)
	 * gives them as unused: between homed's and those of DynamicUser=.
	 */
	KMIND_FIRST_UID = 60706,
	KMIND_UIDS = 478,
	KMIND_TABLE_ABI = 2,	       /* of struct kmind_table and struct kmind_row */
	KMIND_TABLES = 8,	       /* of one module */
	KMIND_TABLE_BYTES = 16 << 20,  /* of kernel memory, for all tables of a module */
	KMIND_TABLE_ROWS = 4096,       /* of one table */
	KMIND_TABLE_SPARE = 16,	       /* places beyond its rows, for CPUs that race */
	KMIND_TABLE_KEY = 32,	       /* bytes of a key */
	KMIND_TABLE_COLUMNS = 60,      /* counters and gauges of a row */
	KMIND_TABLE_HISTOGRAMS = 8,    /* of a row */
	KMIND_ROW_SIZE = 8192,	       /* bytes of a row, its key included */
	KMIND_ROW_ALIGN = 64,	       /* rows begin on cache lines of their own */
	KMIND_TABLE_SLICE = 256,       /* rows that one tick looks at */
	KMIND_TABLE_GRACE_MS = 100,    /* a row updated so lately is not taken from its key */
	KMIND_TABLE_REST_MS = 4,       /* between a key's leaving and the next one's coming */
	KMIND_HISTOGRAM_SCALE = 5,     /* finest: 32 buckets for each power of two */
	KMIND_HISTOGRAM_BUCKETS = 512, /* of one histogram */
};

/*
 * Lists of which an enum and its words are made, in C and in Python: what is added here is
 * everywhere. X(name, number, word).
 */
#define KMIND_AS_MODE(name, number, word) KMIND_MODE_##name = (number),
#define KMIND_AS_VERDICT(name, number, word) KMIND_VERDICT_##name = (number),
#define KMIND_AS_WORD(name, number, word) [number] = (word),

/* Modes: the limits of an instance's freedom to act. Zero is never set: it fails closed. */
#define KMIND_MODES(X)           \
	X(OBSERVE, 1, "observe") \
	X(ADVISE, 2, "advise")   \
	X(CANARY, 3, "canary")   \
	X(AUTO, 4, "auto")       \
	X(EMERGENCY, 5, "emergency")

enum kmind_mode { KMIND_MODES(KMIND_AS_MODE) };

/* Verdicts of admission on a recommendation. */
#define KMIND_VERDICT_LIST(X)                                                          \
	X(PENDING, 0, "pending")                                                       \
	X(APPROVED, 1, "approved")                                                     \
	X(RENEWED, 2, "renewed")     /* the value stands already: held for longer */   \
	X(SHADOWED, 3, "shadowed")   /* would be approved; mode observe */             \
	X(ADVISED, 4, "advised")     /* kept as advice; mode advise */                 \
	X(EMERGENCY, 5, "emergency") /* refused: the agent is in emergency */          \
	X(TORN, 6, "torn")	     /* refused: its words do not belong together */   \
	X(REPLAYED, 7, "replayed")   /* refused: id not above the last one */          \
	X(EXPIRED, 8, "expired")                                                       \
	X(UNKNOWN, 9, "unknown") /* refused: no such knob on that target is granted */ \
	X(TYPE, 10, "type")                                                            \
	X(RANGE, 11, "range")                                                          \
	X(GRID, 12, "grid") /* refused: between two values that the knob takes */      \
	X(STEP, 13, "step")                                                            \
	X(RATE, 14, "rate")                                                            \
	X(RULE, 15, "rule")   /* refused: against a rule over several knobs */         \
	X(MODEL, 16, "model") /* refused: not from the model that was admitted */      \
	X(BUSY, 17, "busy")   /* refused: the actuator has fallen behind */            \
	X(OWNER, 18, "owner") /* refused: nobody is there who would apply it */        \
	X(LEASE, 19, "lease") /* refused: another instance holds the knob */           \
	X(ROOM, 20, "room")   /* refused: a table of the core has no room for it */

enum kmind_verdict { KMIND_VERDICT_LIST(KMIND_AS_VERDICT) KMIND_VERDICTS };

enum kmind_type {
	KMIND_TYPE_INT = 1,
	KMIND_TYPE_ENUM = 2, /* index into the knob's choices */
};

enum kmind_rule_op {
	KMIND_RULE_NONE = 0,
	KMIND_RULE_LT = 1,
	KMIND_RULE_LE = 2,
	KMIND_RULE_GT = 3,
	KMIND_RULE_GE = 4,
};

/* Kinds of 32-byte records. Modules number theirs from KMIND_KIND_MODULE. */
enum kmind_kind {
	KMIND_KIND_NONE = 0,
	KMIND_KIND_MODE = 1,	/* value: the mode that the agent is in now */
	KMIND_KIND_APPLIED = 2, /* subject: id of the recommendation; value: as set */
	KMIND_KIND_UNDONE = 3,	/* subject: id; value: what stands now */
	KMIND_KIND_YIELDED = 4, /* subject: id; somebody else set the knob; value: theirs */
	KMIND_KIND_FAILED = 5,	/* subject: id; the kernel did not take it */
	KMIND_KIND_KEPT = 6,	/* subject: id; an experiment measured a gain; value: as set */
	KMIND_KIND_DROPPED = 7, /* subject: id; put back after an experiment; value: its outcome */
	KMIND_KIND_OBJECTIVE = 8,    /* subject: time that it spans, in ms; value: in millionths */
	KMIND_KIND_NO_OBJECTIVE = 9, /* subject: as above; value: why, enum kmind_gap */
	KMIND_KIND_MEASURING = 10,   /* value: 1 while the owner compares the setting, then 0 */
	KMIND_KIND_MODULE = 64,
};

/* Results of an experiment. */
enum kmind_outcome {
	KMIND_OUTCOME_GAIN = 1, /* and put back none the less: the mode keeps nothing */
	KMIND_OUTCOME_LOSS = 2,
	KMIND_OUTCOME_NO_CHANGE = 3,
	KMIND_OUTCOME_ABORTED = 4,
};

/* Reasons for a missing value of the objective. */
enum kmind_gap {
	KMIND_GAP_FAILED = 1,  /* it could not be asked, or said that it failed */
	KMIND_GAP_TIMEOUT = 2, /* no answer in time */
	KMIND_GAP_EMPTY = 3,   /* it said nothing */
	KMIND_GAP_TEXT = 4,    /* what it said is not a number */
	KMIND_GAP_RANGE = 5,   /* no finite number, too large, or below zero */
};

/* Reasons for an agent's change of mode. */
enum kmind_cause {
	KMIND_CAUSE_ASKED = 0,	    /* by the admin, through the daemon */
	KMIND_CAUSE_STALLED = 1,    /* no heartbeat within the deadline */
	KMIND_CAUSE_UNANSWERED = 2, /* a request to the driver waits for longer than stall_ms */
};

/* One entry of a per-CPU submission ring: kernel to user. */
struct kmind_record {
	__u32 commit;
	__u32 seq; /* counts attempts: a gap is a record that was dropped */
	__u16 kind;
	__u16 cpu;
	__u32 subject;
	__u64 time_ns; /* CLOCK_MONOTONIC, or 0 if the module records no time */
	__u64 value;
};

/* One closed feature window, all CPUs summed. The timer pushes it. */
struct kmind_window {
	__u32 commit;
	__u32 seq;
	__u32 mode;
	__u32 dropped; /* records dropped so far, all CPUs */
	__u64 start_ns;
	__u64 end_ns;
	__u64 value[KMIND_FEATURES];
};

/* One entry of the completion queue: user to kernel. One cache line. */
struct kmind_recommendation {
	__u32 commit;
	__u32 id; /* strictly increasing */
	__u32 knob;
	__u32 target;
	__s64 value;
	__u64 expires_ns; /* CLOCK_MONOTONIC; not acted on afterwards */
	__u32 model;	  /* identity of the model that made it */
	__u16 type;
	__u16 flags;   /* none defined: must be 0 */
	__u32 hold_ms; /* undone after that, unless recommended again */
	__u32 note;    /* bytes used in the note of this slot */
	__u64 check;   /* kmind_check() of the six words above */
	/* The agent's answer: valid once `answered` equals `id`. */
	__u32 verdict;
	__u32 answered;
};

/* Both ends of a submission ring, on cache lines of their own. */
struct kmind_ring {
	__u32 head; /* agent: a hint; `commit` decides */
	__u32 seq;
	__u64 dropped;
	__u64 pad[6];
	__u32 tail; /* extension */
	__u32 pad_reader[15];
};

/* Layout of the arena, as offsets in bytes. */
struct kmind_geometry {
	__u32 abi;
	__u32 size;
	__u32 nr_cpus;
	__u32 sq_slots; /* each CPU's; a power of two */
	__u32 rings;	/* struct kmind_ring[nr_cpus + 1]; the last: windows */
	__u32 cq;
	__u32 notes;
	__u32 windows;
	__u32 sq;
	__u32 status; /* text of the extension's, shown to the admin; after it: kmind_memory */
};

/* Memory of the extension: JSON, after this header. The agent ignores it. */
struct kmind_memory {
	__u32 seq; /* odd while it is written */
	__u32 length;
	__u32 check; /* CRC-32 of the text */
	__u32 pad;
};

struct kmind_header {
	/* Written by the agent's loader, then by the agent. */
	__u64 magic; /* KMIND_MAGIC */
	struct kmind_geometry geometry;
	__u32 mode;
	__u32 cq_head;	/* recommendations answered */
	__u64 agent_ns; /* last tick */
	/* Written by the extension; the agent trusts none of it. */
	__u32 cq_tail;
	__u32 need_wakeup; /* not 0: asleep; a new number each time */
	__u32 heartbeat;   /* any change says: alive */
	__u32 pad_reader[13];
};

/* Kernel to daemon, through a BPF ring buffer that the extension cannot map. */
enum kmind_action_kind {
	KMIND_ACTION_VERDICT = 1,
	KMIND_ACTION_MODE = 2,
};

struct kmind_action {
	__u32 kind;
	__u32 verdict; /* or the cause, for KMIND_ACTION_MODE */
	__u32 id;
	__u32 mode;
	__u32 knob;
	__u32 target;
	__s64 value;
	__s64 current; /* the value that the agent took to stand before */
	__u64 time_ns;
	__u32 hold_ms;
	__u32 slot; /* of the completion queue, for the note */
	__u32 note;
	__u32 model;
	__u32 instance; /* slot of the instance that it is about */
	__u16 holder;	/* instance that holds the lease now, or 0 */
	__u16 previous; /* instance that it was taken from, or 0 */
};

struct kmind_rule {
	__u32 op;
	__u32 knob;
	__s64 offset; /* value <op> other + offset */
};

struct kmind_grant_key {
	__u32 knob;
	__u32 target;
};

/*
 * What one instance may do with one knob on one target, and where it stands. A
 * verdict that breaks no rule touches two cache lines of it.
 */
struct kmind_grant {
	__u64 key; /* kmind_mark() */
	__s64 minimum;
	__s64 maximum;
	__s64 step;	    /* largest change; 0: any */
	__u32 step_percent; /* largest ratio of new to old, either way; 0: any */
	__u32 grid;	    /* values are multiples of it; 0: any */
	__u64 choices;	    /* bit mask of the choices that the target has; enum only */
	__u64 interval_ns;  /* between changes in the long run; 0: any */
	__u32 burst;	    /* changes that may come at once */
	__u32 type;
	__u32 priority; /* of the lease: the higher takes it over */
	__u32 hold_ms;	/* longest hold that may be asked for; 0: any */
	__u32 nr_rules;
	__u32 lease; /* its place among the leases, as KMIND_CORE_PLACE gave it; 0: none */
	/* The agent's own. */
	__s64 current;
	__u64 tat_ns; /* theoretical arrival time of the rate limiter (GCRA) */
	struct kmind_rule rules[KMIND_RULES];
	__u64 pad_line[4];
};

/* Argument of the control program, the daemon's only way in. */
enum kmind_control_op {
	KMIND_CONTROL_START = 1,   /* arm the tick */
	KMIND_CONTROL_MODE = 2,	   /* value: mode */
	KMIND_CONTROL_CURRENT = 3, /* knob, target, value: what stands now */
	KMIND_CONTROL_NOTICE = 4,  /* kind, id, value: tell the extension */
	KMIND_CONTROL_MODEL = 5,   /* value: identity; 0: any */
	KMIND_CONTROL_STOP = 6,	   /* cancel the tick */
	KMIND_CONTROL_FEATURE = 7, /* knob: a feature; value, out: its total so far */
	KMIND_CONTROL_ACTIVE = 8,  /* value: generation that hooks work for, and its phase */
	KMIND_CONTROL_GRANT = 9,   /* knob, target, grant */
	KMIND_CONTROL_REVOKE = 10, /* knob, target; value, out: 1 if it was granted */
	KMIND_CONTROL_LOOK = 11,   /* value, out: the mode; kind, out: its cause */
};

struct kmind_control {
	__u32 op;
	__u32 kind;
	__u32 knob;
	__u32 target;
	__s64 value;
	__u32 id;
	__s32 result;
	struct kmind_grant grant;
};

/*
 * Counters of an agent, in `km.NAME`. A name that is added here is in its state and account, in
 * what `cat` shows, in the API, in simulated agents, and with its comment in docs/output.md.
 */
#define KMIND_COUNTERS(X)                                             \
	X(windows)	/* feature windows that were closed */        \
	X(wakeups)	/* times that the doorbell was rung */        \
	X(ticks)	/* runs of the tick */                        \
	X(actions_lost) /* verdicts that the owner was not told of */ \
	X(applied)	/* changes that were set */                   \
	X(undone)	/* changes that were put back */              \
	X(busy) /* times that a window was due and a counter had moved since the last time */
#define KMIND_AS_FIELD(name) __u64 name;

/* Kernel-side accounts of one agent: of its CPUs, and what it counts. */
struct kmind_account {
	__u64 pushed;
	__u64 dropped;
	__u64 bad_tail; /* times that a reader's index made no sense */
	__u64 hook_runs;
	__u64 hook_ns; /* a sample of the runs, scaled up */
	__u64 heartbeat_ns;
	KMIND_COUNTERS(KMIND_AS_FIELD)
	__u64 verdicts[KMIND_VERDICTS];
};

/* Handles by which an agent's programs find the state of an earlier generation. */
struct kmind_state {
	__u32 abi;
	__u32 active; /* generation that hooks work for, and a phase */
	__u64 base;   /* of the arena */
	struct kmind_geometry geometry;
	__u32 running; /* the tick is armed */
	__u32 pad;
};

/*
 * While one generation of programs follows another; see km_is_active(). Forward: 1,
 * 1 | LEAVING, 2 | ENTERING, 2. Back: 2, 2 | ENTERING, 1 | LEAVING | ENTERING, 1.
 */
enum kmind_phase {
	KMIND_PHASE_LEAVING = 0x40000000,  /* the old one takes events, and notes that */
	KMIND_PHASE_ENTERING = 0x80000000, /* the new one takes what the old one did not */
};

/*
 * Tables: rows by key. User space maps them for reading only, so nothing here is hostile.
 */
enum kmind_row_state {
	KMIND_ROW_STATE_FREE = 0,    /* never used, or waits for its next key */
	KMIND_ROW_STATE_FILLING = 1, /* has a key; not to be read yet */
	KMIND_ROW_STATE_LIVE = 2,
	KMIND_ROW_STATE_LEFT = 3, /* its key is gone; rests before the next one comes */
};

/* At the start of each row; the key and the columns follow. */
struct kmind_row {
	__u32 state;
	__u32 seq; /* odd while the row is made anew for another key */
	__u64 created_ns;
	__u64 updated_ns; /* CLOCK_MONOTONIC, to one tick */
};

/* In the first place of a table; the rows follow. */
struct kmind_table {
	/* Written by the loader. */
	__u16 abi; /* KMIND_TABLE_ABI */
	__u16 row_size;
	__u32 layout; /* check over names and kinds of key and columns */
	__u32 rows;
	/* Written by the agent. */
	__u32 used;   /* rows that have a key */
	__u32 fresh;  /* places that ever were taken */
	__u32 cursor; /* the next row that the tick looks at */
	__u32 resting;
	__u32 wanted;	      /* a new key found no room since the last tick */
	__u64 evict_after_ns; /* the loader's, too; 0: never by age */
	__u64 aged;	      /* rows that left as nothing updated them for so long */
	__u64 displaced;      /* rows that left for a new key, the oldest first */
	__u64 refused;	      /* updates of a new key that found no room */
};

/*
 * The core object's maps: what all agents share.
 */

/*
 * One word, which changes by compare-and-exchange only. The owner gives a place to a key when
 * that is granted, and takes it back when nobody is granted it; the generation in the word
 * goes up then, so that who still knows the place as another key's finds it changed.
 */
struct kmind_lease {
	__u64 key;  /* kmind_mark(); 0: a free place. The owner's, as are the users */
	__u64 word; /* expires_ms << 24 | priority << 16 | generation << 6 | holder; 0: free */
	__u64 denied;
	__u64 users; /* a bit for each slot that is granted it */
};

/* Values that the owner may write now. The gate lets nothing else through. */
struct kmind_approved {
	__s64 value;
	__s64 baseline;
	__u32 instance;
	__u32 id;
	__u64 time_ns;
};

struct kmind_owner {
	__u64 beat_ns; /* CLOCK_MONOTONIC; 0: nobody promised to beat */
	__u32 pid;
	__u32 abi; /* KMIND_CORE_ABI */
};

struct kmind_class {
	char name[16];
	__u32 instances;
};

struct kmind_instance {
	char name[48];
	char module[32];
	char class_name[16];
	__u32 slot;	/* 0: free */
	__u32 pid;	/* of the extension, as its owner's PID namespace numbers it */
	__u32 host_pid; /* as the initial one does; 0: not known */
	__u32 uid;
	__u32 generation;
	__u32 mode;
	__s32 held;   /* leases */
	__s32 places; /* for leases, as many as grants */
	__u64 started_ns;
	__u64 published_ns;
	struct kmind_account account;
};

/* Argument of the core's program: the owner takes part through the same code. */
enum kmind_core_op {
	KMIND_CORE_ACQUIRE = 1,	    /* slot, knob, target, priority, hold_ms */
	KMIND_CORE_RELEASE = 2,	    /* slot, knob, target */
	KMIND_CORE_RELEASE_ALL = 3, /* slot */
	KMIND_CORE_PROCESS = 4,	    /* slot, pid as the caller numbers it, uid */
	KMIND_CORE_DISAPPROVE = 5,  /* slot, or 0: anybody's; knob, target */
	KMIND_CORE_PLACE = 6,	    /* slot, knob, target; lease, out: its place for that key */
	KMIND_CORE_LEAVE = 7,	    /* slot, knob, target: it is not granted that any more */
	KMIND_CORE_LEAVE_ALL = 8,   /* slot: nor anything else */
};

struct kmind_core_call {
	__u32 op;
	__u32 slot;
	__u32 knob;
	__u32 target;
	__u32 priority;
	__u32 hold_ms;
	__u32 pid;
	__u32 uid;
	/* Out. */
	__s32 result; /* below 0: refused, or an error's number; else how many */
	__u32 holder;
	__u32 previous;
	__u32 lease;
};

enum kmind_magic {
	KMIND_MAGIC = 0x646e696d6b, /* "kmind" */
};

/*
 * How a knob on a target stands in a table: never 0, which is a free place. The
 * key of all ones has no place.
 */
static inline __u64 kmind_mark(const struct kmind_grant_key *key)
{
	return ~((__u64)key->target << 32 | key->knob);
}

#define KMIND_CHECK_SEED 0x9e3779b97f4a7c15ULL

/* One step of the check over a recommendation: multiply and fold. */
static inline __u64 kmind_mix(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * KMIND_CHECK_SEED;
	return hash ^ (hash >> 32);
}

#endif
