/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Tables: rows by key, for what has no place in a window of the whole instance.
 *
 *	#define KM_TABLES(table) table(disks)
 *	#include <kmind/agent.h>
 *	#include <kmind/table.h>
 *
 *	struct disks_key {
 *		__u32 device;
 *	};
 *	struct disks_row {
 *		KM_ROW(struct disks_key);
 *		__u64 requests;				   a counter
 *		__u64 depth;				   a gauge
 *		__u64 latency[KM_BUCKETS(0, 0, 24)];	   a histogram: scale, low, high
 *	} KM_ROW_ALIGNED;
 *	KM_TABLE(disks);
 *
 *	row = km_disks(&key);	the key's row, made if there is none; NULL: no room
 *	if (row) {
 *		km_add(&row->requests, 1);
 *		WRITE_ONCE(row->depth, depth);
 *		km_observe(row->latency, 0, 0, 24, us);
 *	}
 *	km_disks_leave(&key);	the key is gone, as a connection that closes
 *
 * The manifest's [[table]] says how many rows there are and when one is evicted. A module whose
 * rows all stay defines KM_ROWS_STAY, and may leave KM_TABLES out: the tick leaves them alone.
 *
 * Rows lie in an array map, which user space maps for reading only; a second map, which it
 * does not map at all, finds a key's row, and a third one keeps the places that are free. So
 * no index, count or key that is used here can be written from outside, and a kernel without
 * arenas has the same tables.
 *
 * Hooks of all CPUs update a row together, by atomic additions. A new key is settled by the
 * kernel's hash map: of several CPUs that insert it, one wins, and the others use its row. Only
 * the tick evicts. It takes the key's entry away first; the row's memory is used anew no sooner
 * than KMIND_TABLE_REST_MS after the last update, when hooks that still held it have ended.
 */
#ifndef KMIND_TABLE_H
#define KMIND_TABLE_H

#include <kmind/ring.h>

#define KM_BUCKETS(scale, low, high) (2 + (((high) - (low)) << (scale)))
#define KM_ROW_ALIGNED __attribute__((aligned(64)))
/* Head of a row. */
#define KM_ROW(key_type)      \
	struct kmind_row row; \
	key_type key

#define KM_TABLE_MS 1000000ULL

#ifdef KM_ROWS_STAY
#define KM_LOOK __noinline __attribute__((unused))
#else
#define KM_LOOK __noinline
#endif

/*
 * 2^(k/32) for k = 0..31, times 2^63: bounds of the buckets within a power of two. Between
 * two of them no whole number is equal to a bound, but for k = 0.
 */
static const __u64 km_bounds[1 << KMIND_HISTOGRAM_SCALE] = {
	0x8000000000000000, 0x82cd8698ac2ba1d7, 0x85aac367cc487b14, 0x88980e8092da8527,
	0x8b95c1e3ea8bd6e6, 0x8ea4398b45cd53c0, 0x91c3d373ab11c336, 0x94f4efa8fef70961,
	0x9837f0518db8a96f, 0x9b8d39b9d54e5538, 0x9ef5326091a111ad, 0xa27043030c496818,
	0xa5fed6a9b15138ea, 0xa9a15ab4ea7c0ef8, 0xad583eea42a14ac6, 0xb123f581d2ac258f,
	0xb504f333f9de6484, 0xb8fbaf4762fb9ee9, 0xbd08a39f580c36be, 0xc12c4cca66709456,
	0xc5672a115506dadd, 0xc9b9bd866e2f27a2, 0xce248c151f8480e3, 0xd2a81d91f12ae45a,
	0xd744fccad69d6af4, 0xdbfbb797daf23755, 0xe0ccdeec2a94e111, 0xe5b906e77c8348a8,
	0xeac0c6e7dd24392e, 0xefe4b99bdcdaf5cb, 0xf5257d152486cc2c, 0xfa83b2db722a033a,
};

/*
 * The bucket of a value in a base-2 exponential histogram, as OpenTelemetry and Prometheus
 * number them: bucket i covers (2^(i / 2^scale), 2^((i + 1) / 2^scale)]. The array holds those
 * from 2^low to 2^high, after one for all below and before one for all above. Scale 0 is log2.
 */
static __always_inline __u32 km_bucket(__u64 value, __u32 scale, __u32 low, __u32 high)
{
	__u32 power = 0, part = 0;
	__u64 rest = value;

	if (value <= 1ULL << low)
		return 0;
	if (value > 1ULL << high)
		return KM_BUCKETS(scale, low, high) - 1;
	for (__u32 step = 32; step; step >>= 1) {
		if (rest >> step) {
			rest >>= step;
			power += step;
		}
	}
	rest = value << (63 - power);
	if (rest == km_bounds[0]) /* a bound belongs to the bucket below it */
		return (power - low) << scale;
	for (__u32 step = 1 << scale >> 1; step; step >>= 1)
		if (rest > km_bounds[(part + step) << (KMIND_HISTOGRAM_SCALE - scale) & 31])
			part += step;
	return 1 + ((power - low) << scale) + part;
}

static __always_inline void km_add(__u64 *counter, __u64 by)
{
	__sync_fetch_and_add(counter, by);
}

/* Count a value in a histogram. The array has to be as long as scale, low and high say. */
/* clang-format off */
#define km_observe(buckets, scale, low, high, value)                                            \
	({                                                                                      \
		__u32 km_at_bucket = km_bucket((value), (scale), (low), (high));                \
												\
		_Static_assert(sizeof(buckets) == 8 * KM_BUCKETS(scale, low, high),             \
			       "the histogram has another number of buckets");                  \
		/* For the verifier, which does not follow the sums above. */                   \
		asm volatile("" : "+r"(km_at_bucket));                                          \
		if (km_at_bucket < KM_BUCKETS(scale, low, high))                                \
			km_add(&(buckets)[km_at_bucket], 1);                                    \
	})
/* clang-format on */

/* One table's maps, and the sizes of its key and row; constants wherever they are used. */
struct km_table_maps {
	void *rows;
	void *index;
	void *places;
	__u32 key_size;
	__u32 key_align;
	__u32 row_size;
};

static __always_inline struct kmind_table *km_table_head(struct km_table_maps table)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(table.rows, &zero);
}

static __always_inline void *km_row_key(struct kmind_row *row)
{
	return row + 1;
}

static __always_inline bool km_is_key(const void *one, const void *other, __u32 size, __u32 align)
{
	bool same = true;

	for (__u32 at = 0; at < size; at += align)
		same &= align == 8 ? *(__u64 *)(one + at) == *(__u64 *)(other + at) :
			align == 4 ? *(__u32 *)(one + at) == *(__u32 *)(other + at) :
			align == 2 ? *(__u16 *)(one + at) == *(__u16 *)(other + at) :
				     *(__u8 *)(one + at) == *(__u8 *)(other + at);
	return same;
}

static __always_inline void km_refuse_row(struct kmind_table *head)
{
	__sync_fetch_and_add(&head->refused, 1);
	WRITE_ONCE(head->wanted, 1);
}

/* A place that no key has; 0 if there is none. */
static __always_inline __u32 km_take_place(struct km_table_maps table, struct kmind_table *head)
{
	__u32 place = 0, places = head->rows + KMIND_TABLE_SPARE;

	if (!bpf_map_pop_elem(table.places, &place))
		return place;
	if (READ_ONCE(head->fresh) < places)
		place = __sync_fetch_and_add(&head->fresh, 1) + 1;
	return place <= places ? place : 0;
}

static __always_inline void km_give_place_back(struct km_table_maps table, struct kmind_row *row,
					       __u32 place)
{
	WRITE_ONCE(row->state, KMIND_ROW_STATE_FREE);
	bpf_map_push_elem(table.places, &place, 0);
}

/* Make a row anew for a key. Volatile, or it would become a call of memset. */
static __always_inline void km_clear_row(struct km_table_maps table, struct kmind_row *row,
					 const void *key)
{
	__u64 *words = (void *)row;

	for (__u32 at = sizeof(*row) / 8; at < table.row_size / 8; at++)
		WRITE_ONCE(words[at], 0);
	__builtin_memcpy(km_row_key(row), key, table.key_size);
	row->created_ns = bpf_ktime_get_ns();
	WRITE_ONCE(row->updated_ns, row->created_ns);
}

/*
 * The row of a key that has one. The map's entry may be another key's as soon as it was looked
 * up, so the row's own key decides.
 */
static __always_inline void *km_find_row(struct km_table_maps table, const void *key)
{
	__u64 now = READ_ONCE(km.now_ns);
	struct kmind_row *row;
	__u32 *place;

	place = bpf_map_lookup_elem(table.index, key);
	if (!place)
		return NULL;
	row = bpf_map_lookup_elem(table.rows, place);
	if (!row || !km_is_key(km_row_key(row), key, table.key_size, table.key_align))
		return NULL;
	/* Not at each update, or all CPUs would fight for the line. */
	if (READ_ONCE(row->updated_ns) < now)
		WRITE_ONCE(row->updated_ns, now);
	return row;
}

/*
 * The entry of a key that leads to another key's row: what is left where a program was held up for
 * milliseconds between two steps. Without it the key's next update makes a row again.
 */
static __always_inline void km_drop_stale_entry(struct km_table_maps table, const void *key)
{
	__u32 *entry = bpf_map_lookup_elem(table.index, key);
	struct kmind_row *row = entry ? bpf_map_lookup_elem(table.rows, entry) : NULL;

	if (row && !km_is_key(km_row_key(row), key, table.key_size, table.key_align))
		bpf_map_delete_elem(table.index, key);
}

/* The row that another CPU has just made for the key; without one the update is refused. */
static __always_inline void *km_find_or_refuse(struct km_table_maps table, struct kmind_table *head,
					       const void *key)
{
	struct kmind_row *row = km_find_row(table, key);

	if (!row) {
		km_drop_stale_entry(table, key);
		km_refuse_row(head);
	}
	return row;
}

/*
 * Make the key's row. Several CPUs may do so at once: each fills a place, and the index takes one
 * of them. The index has as many entries as the table has rows, so it also settles which of the
 * CPUs gets the last row; a CPU that finds the table full before looks for the key once more.
 */
static __always_inline void *km_insert_row(struct km_table_maps table, const void *key)
{
	struct kmind_table *head = km_table_head(table);
	struct kmind_row *row;
	__u32 place, seq;
	bool full;

	if (!head)
		return NULL;
	/* Signed: a row may leave before it was counted. */
	full = (__s32)READ_ONCE(head->used) >= (__s32)head->rows;
	KM_ACQUIRE_FENCE(); /* rows that are counted are found */
	place = full ? 0 : km_take_place(table, head);
	row = place ? bpf_map_lookup_elem(table.rows, &place) : NULL;
	if (!row)
		return km_find_or_refuse(table, head, key);
	seq = row->seq;
	ARENA_RELEASE(row->seq, seq + 1);
	WRITE_ONCE(row->state, KMIND_ROW_STATE_FILLING);
	km_clear_row(table, row, key);
	if (bpf_map_update_elem(table.index, key, &place, BPF_NOEXIST)) {
		/* Another CPU was first: its row is the key's. Or another key took the last row. */
		ARENA_RELEASE(row->seq, seq + 2);
		km_give_place_back(table, row, place);
		return km_find_or_refuse(table, head, key);
	}
	ARENA_RELEASE(row->seq, seq + 2);
	/* No sooner than the entry is there: a CPU that sees the table full finds the key. */
	__sync_fetch_and_add(&head->used, 1);
	/* Unless the key has left meanwhile. */
	__sync_val_compare_and_swap(&row->state, KMIND_ROW_STATE_FILLING, KMIND_ROW_STATE_LIVE);
	return row;
}

/*
 * Take a row from its key: whoever changes the state first, and nobody else. Then the key's entry
 * goes. Hooks may still hold the row, so it rests for a while.
 */
static __always_inline bool km_unlink_row(struct km_table_maps table, struct kmind_table *head,
					  struct kmind_row *row, __u32 place, __u64 now)
{
	__u32 *entry, state = READ_ONCE(row->state);

	if (state != KMIND_ROW_STATE_LIVE && state != KMIND_ROW_STATE_FILLING)
		return false;
	WRITE_ONCE(row->updated_ns, now);
	if (__sync_val_compare_and_swap(&row->state, state, KMIND_ROW_STATE_LEFT) != state)
		return false;
	__sync_fetch_and_add(&head->resting, 1);
	__sync_fetch_and_add(&head->used, -1);
	entry = bpf_map_lookup_elem(table.index, km_row_key(row));
	if (entry && *entry == place)
		bpf_map_delete_elem(table.index, km_row_key(row));
	return true;
}

static __always_inline void km_leave_row(struct km_table_maps table, const void *key)
{
	struct kmind_table *head = km_table_head(table);
	struct kmind_row *row;
	__u32 *entry, place;

	entry = bpf_map_lookup_elem(table.index, key);
	if (!entry || !head)
		return;
	place = *entry;
	row = bpf_map_lookup_elem(table.rows, &place);
	if (row && km_is_key(km_row_key(row), key, table.key_size, table.key_align))
		km_unlink_row(table, head, row, place, READ_ONCE(km.now_ns));
}

/* Result of one tick's search of the rows. */
struct km_look {
	__u64 now;
	__u64 oldest_ns;
	__u32 oldest;
	__u32 freed;
	__u32 cursor;
	__u32 count; /* rows that ever had a key */
};

/* One row; 1 ends the look. Called by bpf_loop: in a loop, the verifier would take 0.6 s. */
static __always_inline int km_look_at_row(struct km_table_maps table, struct km_look *look)
{
	struct kmind_table *head = km_table_head(table);
	struct kmind_row *row;
	__u64 updated, idle;
	__u32 state;

	look->cursor = look->cursor < look->count ? look->cursor + 1 : 1;
	row = bpf_map_lookup_elem(table.rows, &look->cursor);
	if (!head || !row)
		return 1;
	state = READ_ONCE(row->state);
	updated = READ_ONCE(row->updated_ns);
	idle = look->now > updated ? look->now - updated : 0;
	if (state == KMIND_ROW_STATE_LEFT && idle >= KMIND_TABLE_REST_MS * KM_TABLE_MS) {
		km_give_place_back(table, row, look->cursor);
		__sync_fetch_and_add(&head->resting, -1);
		look->freed++;
	} else if (state == KMIND_ROW_STATE_LIVE && idle >= KMIND_TABLE_GRACE_MS * KM_TABLE_MS) {
		if (head->evict_after_ns && idle >= head->evict_after_ns) {
			head->aged += km_unlink_row(table, head, row, look->cursor, look->now);
		} else if (updated < look->oldest_ns) {
			look->oldest_ns = updated;
			look->oldest = look->cursor;
		}
	}
	return 0;
}

typedef int (*km_look_fn)(__u32 turn, struct km_look *look);

/*
 * The tick's part: rows that have rested are free, rows that nobody updates leave, and where a
 * new key found no room, the oldest row of those that are looked at, but never more than a
 * sixteenth of all at once.
 */
static __always_inline int km_look_through(struct km_table_maps table, km_look_fn look_at,
					   __u64 now)
{
	struct kmind_table *head = km_table_head(table);
	struct km_look look = {.now = now, .oldest_ns = ~0ULL};
	struct kmind_row *row;
	__u32 wanted, places;

	if (!head)
		return 0;
	wanted = READ_ONCE(head->wanted);
	if (!wanted && !READ_ONCE(head->resting) && km.ticks % 16)
		return 0;
	WRITE_ONCE(head->wanted, 0);
	places = head->rows + KMIND_TABLE_SPARE;
	look.count = READ_ONCE(head->fresh) < places ? head->fresh : places;
	look.cursor = head->cursor;
	bpf_loop(look.count < KMIND_TABLE_SLICE ? look.count : KMIND_TABLE_SLICE, look_at, &look,
		 0);
	head->cursor = look.cursor;
	if (!wanted || look.freed || !look.oldest)
		return 0;
	row = bpf_map_lookup_elem(table.rows, &look.oldest);
	if (row && READ_ONCE(head->resting) <= head->rows / 16)
		head->displaced += km_unlink_row(table, head, row, look.oldest, now);
	return 0;
}

/* clang-format off */
#define KM_TABLE(name)                                                                          \
	struct {                                                                                \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                               \
		__uint(map_flags, BPF_F_MMAPABLE);                                              \
		__uint(max_entries, 2);                                                         \
		__type(key, __u32);                                                             \
		__type(value, struct name##_row);                                               \
	} km_table_##name SEC(".maps");                                                         \
	struct {                                                                                \
		__uint(type, BPF_MAP_TYPE_HASH);                                                \
		__uint(max_entries, 1);                                                         \
		__type(key, struct name##_key);                                                 \
		__type(value, __u32);                                                           \
	} km_index_##name SEC(".maps");                                                         \
	struct {                                                                                \
		__uint(type, BPF_MAP_TYPE_STACK);                                               \
		__uint(max_entries, 1);                                                         \
		__uint(value_size, sizeof(__u32));                                              \
	} km_places_##name SEC(".maps");                                                        \
	_Static_assert(sizeof(struct name##_row) % KMIND_ROW_ALIGN == 0,                        \
		       "a row ends with KM_ROW_ALIGNED");                                       \
	static __always_inline struct km_table_maps km_maps_##name(void)                        \
	{                                                                                       \
		return (struct km_table_maps){                                                  \
			.rows = &km_table_##name,                                               \
			.index = &km_index_##name,                                              \
			.places = &km_places_##name,                                            \
			.key_size = sizeof(struct name##_key),                                  \
			.key_align = _Alignof(struct name##_key),                               \
			.row_size = sizeof(struct name##_row),                                  \
		};                                                                              \
	}                                                                                       \
	static __noinline __attribute__((unused))                                               \
	struct name##_row *km_##name(const struct name##_key *key)                              \
	{                                                                                       \
		struct name##_row *row = km_find_row(km_maps_##name(), key);                    \
												\
		return row ?: km_insert_row(km_maps_##name(), key);                             \
	}                                                                                       \
	static __noinline __attribute__((unused))                                               \
	int km_##name##_leave(const struct name##_key *key)                                     \
	{                                                                                       \
		km_leave_row(km_maps_##name(), key);                                            \
		return 0;                                                                       \
	}                                                                                       \
	static int km_look_at_##name(__u32 turn, struct km_look *look)                          \
	{                                                                                       \
		return km_look_at_row(km_maps_##name(), look);                                  \
	}                                                                                       \
	static KM_LOOK int km_look_through_##name(__u64 now)                                    \
	{                                                                                       \
		return km_look_through(km_maps_##name(), km_look_at_##name, now);               \
	}                                                                                       \
	_Static_assert(offsetof(struct name##_row, key) == sizeof(struct kmind_row),            \
		       "a row begins with KM_ROW()")
/* clang-format on */

#endif
