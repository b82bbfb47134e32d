// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The readahead agent: how files of one disk are read, in integers.
 *
 * The hook on every buffered read must cost next to nothing, for it also runs
 * when the page is cached: it touches this CPU's lines only and reads no clock.
 */
/* The columns of a window; module.toml says what each means. */
enum readahead_feature {
	RA_READS,
	RA_READ_PAGES,
	RA_READ_SEQUENTIAL,
	RA_READ_MISSES,
	RA_FAULTS,
	RA_FAULT_SEQUENTIAL,
	RA_FAULT_MISSES,
	RA_FAULT_AROUND,
	RA_AROUND_SEQUENTIAL,
	RA_SYNC_READAHEAD,
	RA_ASYNC_READAHEAD,
	RA_STRIDES,
	RA_STRIDE_PAGES,
	RA_STRIDE_SPREAD,
	RA_ADDED_PAGES,
	RA_REMOVED_PAGES,
	RA_FILE_PAGES,
	RA_FILE_CACHED,
	RA_DEVICE_READS,
	RA_DEVICE_BYTES,
	RA_DEVICE_NS,
	RA_DEVICE_WRITES,
	RA_DEVICE_WRITE_BYTES,
	RA_MEMORY_LEFT,
	RA_CGROUP_LEFT,
	RA_READ_AHEAD_KB,
	RA_PROPOSAL,
};

#define KM_GAUGES                                                                     \
	(1ULL << RA_MEMORY_LEFT | 1ULL << RA_CGROUP_LEFT | 1ULL << RA_READ_AHEAD_KB | \
	 1ULL << RA_PROPOSAL)
#define KM_ON_WINDOW ra_propose
#define KM_MODEL_FEATURES 14
#define KM_MODEL_IF param_model
#include <kmind/agent.h>
#include <bpf/bpf_core_read.h>

const volatile bool param_model = false;

#include <kmind/infer.h>
#include "inputs.h"

_Static_assert(RA_INPUTS == KM_MODEL_FEATURES, "the manifest names other features");

struct backing_dev_info {
	unsigned long ra_pages;
} __attribute__((preserve_access_index));

#define RA_NEAR 32		/* pages: a fault so close behind the last goes on from it */
#define RA_STRIDE_MAX (1 << 20) /* pages: longer strides count as that */
#define RA_STREAMS 64
#define RA_FILES 256
#define RA_VM_FAULT_NOPAGE 0x100 /* VM_FAULT_NOPAGE: the touched page itself was mapped */
#define RA_NO_LIMIT (1UL << 40)	 /* pages: a cgroup's limit beyond that is none */

KM_FEATURES(readahead_feature);
const volatile bool param_events = false;

/* Position of the last read of one file, as seen from one CPU. Files go by inode number. */
struct ra_stream {
	unsigned long inode;
	unsigned long next;
};

/* Last request of the task on this CPU, until it is known if it was cached. */
struct ra_demand {
	unsigned long inode;
	unsigned long first;
	unsigned long last;
	bool fault;
};

struct ra_cpu {
	struct ra_demand demand;
	struct ra_stream streams[RA_STREAMS];
} __attribute__((aligned(64)));

/* Position of one file's last miss, seen from all CPUs. Races cost a sample, no more. */
struct ra_file {
	unsigned long inode;
	unsigned long last;
	long stride;
	__u64 window;
};

static struct ra_cpu ra_cpus[KMIND_MAX_CPUS];
static struct ra_file ra_files[RA_FILES];
static __u64 ra_memory_window;
static __u64 ra_kb; /* what stood at the last miss */

/*
 * Class that a deployed model predicts for a window, as the tick closes it: label + 1, or 0.
 * It reads neither files nor the arena, so that nobody can tell it other numbers.
 */
static __noinline int ra_propose(const __u64 *closing)
{
	struct km_decision *decision = NULL;
	__u32 said = 0;

	if (param_model && READ_ONCE(km_model_state.active))
		decision = km_infer_begin();
	if (decision) {
		ra_inputs(closing, READ_ONCE(ra_kb), decision->x);
		if (!km_infer(decision))
			said = decision->label + 1;
		km_infer_end(decision);
	}
	km_set_gauge(RA_READ_AHEAD_KB, READ_ONCE(ra_kb));
	km_set_gauge(RA_PROPOSAL, said);
	return 0;
}

static __always_inline __u32 ra_hash(unsigned long inode, __u32 buckets)
{
	return (inode * 0x9e3779b97f4a7c15ULL >> 40) & (buckets - 1);
}

/* Did this access go on where the last one of its file ended? Remember it. */
static __always_inline bool ra_follows(struct ra_cpu *own, unsigned long inode, unsigned long first,
				       unsigned long last, unsigned long near)
{
	struct ra_stream *stream = &own->streams[ra_hash(inode, RA_STREAMS)];
	bool follows = stream->inode == inode && first + 1 - stream->next <= near;

	stream->inode = inode;
	stream->next = last + 1;
	return follows;
}

/*
 * Under a large readahead folios are large, and mapped as a whole, huge pages together: of a
 * reader in order one touch in a thousand pages was seen under 4 MiB.
 */
static __always_inline unsigned long ra_near(struct inode *inode)
{
	unsigned long pages = inode->i_sb->s_bdi->ra_pages;

	return pages < RA_NEAR ? RA_NEAR : pages;
}

static __always_inline void ra_demanded(struct ra_cpu *own, unsigned long inode,
					unsigned long first, unsigned long last, bool fault)
{
	own->demand.inode = inode;
	own->demand.first = first;
	own->demand.last = last;
	own->demand.fault = fault;
}

/*
 * What hooks do, whether they stand on a tracepoint or, on a kernel that lacks it, on a function
 * (module.toml says what that loses).
 */
static __always_inline void ra_read(struct inode *inode, unsigned long first, unsigned long last)
{
	struct ra_cpu *ra;
	struct km_cpu *own;
	__u32 cpu;

	own = km_this_cpu(&cpu);
	ra = &ra_cpus[cpu];
	km_count(own, RA_READS, 1);
	km_count(own, RA_READ_PAGES, last - first + 1);
	/* A read may begin in the page where the last one ended. */
	if (ra_follows(ra, inode->i_ino, first, last, 1))
		km_count(own, RA_READ_SEQUENTIAL, 1);
	ra_demanded(ra, inode->i_ino, first, last, false);
}

static __always_inline void ra_fault(struct inode *inode, unsigned long index)
{
	struct ra_cpu *ra;
	struct km_cpu *own;
	__u32 cpu;

	if (!km_is_target(inode->i_sb->s_dev))
		return;
	own = km_this_cpu(&cpu);
	ra = &ra_cpus[cpu];
	km_count(own, RA_FAULTS, 1);
	if (ra_follows(ra, inode->i_ino, index, index, ra_near(inode)))
		km_count(own, RA_FAULT_SEQUENTIAL, 1);
	ra_demanded(ra, inode->i_ino, index, index, true);
}

static __always_inline void ra_fault_around(struct inode *inode, unsigned long first,
					    unsigned long last)
{
	struct km_cpu *own;
	__u32 cpu;

	if (!km_is_target(inode->i_sb->s_dev))
		return;
	own = km_this_cpu(&cpu);
	km_count(own, RA_FAULT_AROUND, 1);
	if (ra_follows(&ra_cpus[cpu], inode->i_ino, first, last, ra_near(inode)))
		km_count(own, RA_AROUND_SEQUENTIAL, 1);
}

static __always_inline void ra_count(struct inode *inode, __u32 feature)
{
	__u32 cpu;

	if (km_is_target(inode->i_sb->s_dev))
		km_count(km_this_cpu(&cpu), feature, 1);
}

/* A buffered read has looked its pages up, cached or not. */
SEC("tp_btf/mm_filemap_get_pages")
int KM_TASK_HOOK(on_read, struct address_space *mapping, unsigned long first, unsigned long last)
{
	struct inode *inode = mapping->host;

	if (km_is_target(inode->i_sb->s_dev))
		ra_read(inode, first, last);
	return 0;
}

/* A buffered read begins. */
SEC("fentry/filemap_read")
int KM_TASK_FUNCTION(on_read_entry, struct kiocb *iocb, struct iov_iter *iter)
{
	struct inode *inode = iocb->ki_filp->f_mapping->host;
	unsigned long long end, from;

	if (!km_is_target(inode->i_sb->s_dev))
		return 0;
	from = iocb->ki_pos;
	end = from + iter->count;
	if (end > (unsigned long long)inode->i_size)
		end = inode->i_size;
	if (from < end)
		ra_read(inode, from >> KM_PAGE_SHIFT, (end - 1) >> KM_PAGE_SHIFT);
	return 0;
}

/* A mapped page was touched that fault-around had not mapped. */
SEC("tp_btf/mm_filemap_fault")
int KM_TASK_HOOK(on_fault, struct address_space *mapping, unsigned long index)
{
	ra_fault(mapping->host, index);
	return 0;
}

SEC("fentry/filemap_fault")
int KM_TASK_FUNCTION(on_fault_entry, struct vm_fault *vmf)
{
	ra_fault(vmf->vma->vm_file->f_mapping->host, vmf->pgoff);
	return 0;
}

/* A mapped page was touched that is cached: its neighbours are mapped with it. */
SEC("tp_btf/mm_filemap_map_pages")
int KM_TASK_HOOK(on_fault_around, struct address_space *mapping, unsigned long first,
		 unsigned long last)
{
	ra_fault_around(mapping->host, first, last);
	return 0;
}

SEC("fexit/filemap_map_pages")
int KM_TASK_FUNCTION(on_fault_around_exit, struct vm_fault *vmf, unsigned long first,
		     unsigned long last, unsigned int result)
{
	if (result & RA_VM_FAULT_NOPAGE)
		ra_fault_around(vmf->vma->vm_file->f_mapping->host, first, last);
	return 0;
}

SEC("tp_btf/page_cache_sync_ra")
int KM_TASK_HOOK(on_sync, struct inode *inode, unsigned long index, struct file_ra_state *state,
		 unsigned long asked)
{
	ra_count(inode, RA_SYNC_READAHEAD);
	return 0;
}

SEC("fentry/page_cache_sync_ra")
int KM_TASK_FUNCTION(on_sync_entry, struct readahead_control *control)
{
	ra_count(control->mapping->host, RA_SYNC_READAHEAD);
	return 0;
}

SEC("tp_btf/page_cache_async_ra")
int KM_TASK_HOOK(on_async, struct inode *inode, unsigned long index, struct file_ra_state *state,
		 unsigned long asked)
{
	ra_count(inode, RA_ASYNC_READAHEAD);
	return 0;
}

SEC("fentry/page_cache_async_ra")
int KM_TASK_FUNCTION(on_async_entry, struct readahead_control *control)
{
	ra_count(control->mapping->host, RA_ASYNC_READAHEAD);
	return 0;
}

static __always_inline unsigned long ra_folio_pages(struct folio *folio)
{
	struct folio___before *before = (void *)folio;
	unsigned long flags = 0;

	/* Flags are the first word of a folio; the type around it has changed. */
	bpf_probe_read_kernel(&flags, sizeof(flags), folio);
	if (!(flags >> bpf_core_enum_value(enum pageflags, PG_head) & 1))
		return 1;
	if (bpf_core_field_exists(folio->_nr_pages))
		return folio->_nr_pages;
	if (bpf_core_field_exists(before->_folio_nr_pages))
		return BPF_CORE_READ(before, _folio_nr_pages);
	return 1;
}

/* Pages left: free on the node, and in the memory cgroup that was charged. */
static __noinline int ra_read_memory(unsigned long memcg_data)
{
	struct mem_cgroup *memcg = (void *)(memcg_data & ~7UL); /* MEMCG_DATA_* flags */
	struct mem_cgroup_per_node *node = NULL;
	struct pglist_data *pgdat = NULL;
	unsigned long left = RA_NO_LIMIT, max;
	struct page_counter *counter;
	long free = 0, sum = 0, usage;
	int zones;

	if (!memcg)
		return 0;
	node = BPF_CORE_READ(memcg, nodeinfo[0]);
	pgdat = BPF_CORE_READ(node, lruvec.pgdat);
	zones = BPF_CORE_READ(pgdat, nr_zones);
	for (int i = 0; i < 5 && i < zones; i++) {
		/* vm_stat[NR_FREE_PAGES], the first one */
		struct zone *zone = (void *)pgdat +
				    bpf_core_field_offset(struct pglist_data, node_zones) +
				    i * bpf_core_type_size(struct zone);

		bpf_core_read(&free, sizeof(free), &zone->vm_stat[0].counter);
		sum += free;
	}
	counter = &memcg->memory;
	for (int depth = 0; depth < 8 && counter; depth++) {
		max = BPF_CORE_READ(counter, max);
		usage = BPF_CORE_READ(counter, usage.counter);
		if (max < RA_NO_LIMIT && (long)max - usage < (long)left)
			left = (long)max > usage ? max - usage : 0;
		counter = BPF_CORE_READ(counter, parent);
	}
	km_set_gauge(RA_MEMORY_LEFT, sum);
	km_set_gauge(RA_CGROUP_LEFT, left);
	return 0;
}

/* A demanded page was not cached. Where from the last such page of its file? */
static __always_inline void ra_missed(struct km_cpu *own, struct inode *inode,
				      const struct ra_demand *demand)
{
	struct ra_file *file = &ra_files[ra_hash(inode->i_ino, RA_FILES)];
	long stride, spread;

	km_count(own, demand->fault ? RA_FAULT_MISSES : RA_READ_MISSES, 1);
	if (param_events)
		km_push(KMIND_KIND_MODULE, (__u32)inode->i_ino, demand->first, 0);
	if (file->inode != inode->i_ino) {
		file->inode = inode->i_ino;
		file->last = demand->first;
		file->stride = 0;
		file->window = 0;
	}
	stride = (long)(demand->first - file->last);
	spread = stride - file->stride;
	file->last = demand->first;
	file->stride = stride;
	stride = stride < 0 ? -stride : stride;
	spread = spread < 0 ? -spread : spread;
	km_count(own, RA_STRIDES, 1);
	km_count(own, RA_STRIDE_PAGES, stride < RA_STRIDE_MAX ? stride : RA_STRIDE_MAX);
	km_count(own, RA_STRIDE_SPREAD, spread < RA_STRIDE_MAX ? spread : RA_STRIDE_MAX);
	/* The first miss of a file in a window says how much of it is cached. */
	if (file->window != km.window_start_ns) {
		file->window = km.window_start_ns;
		km_count(own, RA_FILE_PAGES, (inode->i_size + 4095) >> KM_PAGE_SHIFT);
		km_count(own, RA_FILE_CACHED, inode->i_mapping->nrpages);
	}
}

SEC("tp_btf/mm_filemap_add_to_page_cache")
int KM_TASK_HOOK(on_added, struct folio *folio)
{
	struct inode *inode = folio->mapping->host;
	struct ra_demand *demand;
	struct km_cpu *own;
	unsigned long pages, index;
	__u32 cpu;

	if (!km_is_target(inode->i_sb->s_dev))
		return 0;
	own = km_this_cpu(&cpu);
	pages = ra_folio_pages(folio);
	km_count(own, RA_ADDED_PAGES, pages);
	demand = &ra_cpus[cpu].demand;
	index = folio->index;
	if (demand->inode == inode->i_ino && index <= demand->last &&
	    index + pages > demand->first) {
		ra_missed(own, inode, demand);
		demand->inode = 0;
		if (ra_memory_window != km.window_start_ns) {
			ra_memory_window = km.window_start_ns;
			WRITE_ONCE(ra_kb, inode->i_sb->s_bdi->ra_pages << (KM_PAGE_SHIFT - 10));
			ra_read_memory(folio->memcg_data);
		}
	}
	return 0;
}

SEC("tp_btf/mm_filemap_delete_from_page_cache")
int KM_TASK_HOOK(on_removed, struct folio *folio)
{
	__u32 cpu;

	if (km_is_target(folio->mapping->host->i_sb->s_dev))
		km_count(km_this_cpu(&cpu), RA_REMOVED_PAGES, ra_folio_pages(folio));
	return 0;
}

SEC("tp_btf/block_rq_complete")
int KM_HOOK(on_complete, struct request *rq, int error, unsigned int bytes)
{
	struct gendisk *disk = rq->q->disk;
	struct km_cpu *own;
	__u32 cpu, op;

	if (!disk || !km_is_target((__u32)disk->major << KM_MINOR_BITS | (__u32)disk->first_minor))
		return 0;
	own = km_this_cpu(&cpu);
	op = rq->cmd_flags & KM_REQ_OP_MASK;
	if (op == KM_REQ_OP_READ) {
		km_count(own, RA_DEVICE_READS, 1);
		km_count(own, RA_DEVICE_BYTES, bytes);
		if (rq->start_time_ns)
			km_count(own, RA_DEVICE_NS, bpf_ktime_get_ns() - rq->start_time_ns);
	} else if (op == KM_REQ_OP_WRITE) {
		km_count(own, RA_DEVICE_WRITES, 1);
		km_count(own, RA_DEVICE_WRITE_BYTES, bytes);
	}
	return 0;
}
