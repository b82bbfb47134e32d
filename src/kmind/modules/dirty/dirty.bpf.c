// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The dirty agent: how fast files are written to, and how long writers are made to wait. */
/* The columns of a window; module.toml says what each means. */
enum dirty_feature {
	DT_DIRTIED_PAGES,
	DT_PAUSES,
	DT_PAUSE_NS,
	DT_BACKGROUND_PAGES,
	DT_LIMIT_PAGES,
	DT_DISK_PAGES_PER_S,
};

#define KM_GAUGES \
	(1ULL << DT_BACKGROUND_PAGES | 1ULL << DT_LIMIT_PAGES | 1ULL << DT_DISK_PAGES_PER_S)
#include <kmind/agent.h>
#include <bpf/bpf_core_read.h>

#define DT_JIFFIES_LEAST 64

KM_FEATURES(dirty_feature);

#define DT_KERNEL __attribute__((preserve_access_index))

/* A second view of struct folio: the order of a large one is in the low byte. */
struct folio___large {
	unsigned long _flags_1;
} DT_KERNEL;

struct backing_dev_info {
	atomic_long_t tot_write_bandwidth; /* pages a second, the kernel's own estimate */
} DT_KERNEL;

struct bdi_writeback {
	struct backing_dev_info *bdi;
} DT_KERNEL;

/* Since Linux 6.15 the tracepoint has other arguments, and its record this member. */
struct trace_event_raw_balance_dirty_pages {
	unsigned long wb_setpoint;
} DT_KERNEL;

static __u64 dt_first_ns;
static __u64 dt_first_jiffies;
static __u64 dt_fastest; /* the disk that DT_DISK_PAGES_PER_S is about */
static __u64 dt_fastest_pages;

/* How long a jiffy is: programs are not told, so both clocks are compared. 0: not yet. */
static __always_inline __u64 dt_jiffy_ns(void)
{
	__u64 now = bpf_ktime_get_ns(), jiffies = bpf_jiffies64();

	if (!dt_first_ns) {
		dt_first_jiffies = jiffies;
		dt_first_ns = now;
	}
	if (jiffies - dt_first_jiffies < DT_JIFFIES_LEAST)
		return 0;
	return (now - dt_first_ns) / (jiffies - dt_first_jiffies);
}

static __always_inline __u64 dt_folio_pages(struct folio *folio)
{
	struct folio___large *large = (void *)folio;
	unsigned long flags = 0, more = 0;

	/* Flags are the first word of a folio; the type around it has changed. */
	bpf_probe_read_kernel(&flags, sizeof(flags), folio);
	if (!(flags >> bpf_core_enum_value(enum pageflags, PG_head) & 1))
		return 1;
	bpf_core_read(&more, sizeof(more), &large->_flags_1);
	return 1ULL << (more & 31);
}

/* A page of a file becomes dirty. Runs for each: no clock, this CPU's lines only. */
SEC("tp_btf/writeback_dirty_folio")
int KM_TASK_HOOK(on_dirtied, struct folio *folio)
{
	__u32 cpu;

	km_count(km_this_cpu(&cpu), DT_DIRTIED_PAGES, dt_folio_pages(folio));
	return 0;
}

/* The kernel looks at where it stands, whenever some pages more are dirty. */
SEC("tp_btf/global_dirty_state")
int KM_HOOK(on_state, unsigned long background, unsigned long limit)
{
	km_set_gauge(DT_BACKGROUND_PAGES, background);
	km_set_gauge(DT_LIMIT_PAGES, limit);
	dt_jiffy_ns();
	return 0;
}

/* A round of writing begins: how fast is the disk? The fastest one is shown. */
SEC("tp_btf/writeback_start")
int KM_HOOK(on_writeback, struct bdi_writeback *wb)
{
	__u64 pages = wb->bdi->tot_write_bandwidth.counter, disk = (unsigned long)wb->bdi;

	if (disk == dt_fastest || pages > dt_fastest_pages) {
		dt_fastest = disk;
		dt_fastest_pages = pages;
		km_set_gauge(DT_DISK_PAGES_PER_S, pages);
	}
	return 0;
}

/* A writer is over half-way to the limit; if the pause is above 0 it has to wait. */
SEC("tp_btf/balance_dirty_pages")
int KM_TASK_HOOK(on_pause)
{
	struct km_cpu *own;
	long pause;
	__u32 cpu;

	/* The barriers keep two loads: the verifier takes constant offsets only. */
	if (bpf_core_field_exists(struct trace_event_raw_balance_dirty_pages, wb_setpoint)) {
		pause = (long)ctx[6];
		asm volatile("" : "+r"(pause));
	} else {
		pause = (long)ctx[10];
		asm volatile("" : "+r"(pause));
	}
	if (pause <= 0)
		return 0;
	own = km_this_cpu(&cpu);
	km_count(own, DT_PAUSES, 1);
	km_count(own, DT_PAUSE_NS, pause * dt_jiffy_ns());
	return 0;
}
