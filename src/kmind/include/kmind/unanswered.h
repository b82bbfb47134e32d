/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Requests that wait for an answer, each with its time: the oldest is known at any moment.
 *
 *	#define KM_WITHDRAWN MY_WITHDRAWN	the counter of those whose end nobody saw
 *	#include <kmind/unanswered.h>
 *
 *	static bool km_waits_on(__u64 name)	does the kernel still have this request?
 *
 *	km_wait_begin(name, now);		a hook: it waits from now on
 *	since = km_wait_end(name);		a hook: it is answered
 *	km_wait_tick(now);			the tick's part (KM_ON_TICK of agent.h)
 *
 * A request is named by its address. It has its place in a set of four, which is one line of
 * memory, or in the neighbour of that set; so with up to 1,000 of 8,192 places taken each finds
 *one. What finds none is not timed, and the module counts it. The earlier ones stay: the oldest is
 *what matters here. One CPU sends a request and another ends it, so lines that they touch are what
 *it costs, and the kernel's hash map touches several.
 *
 * Only for hooks that see each request's end, but for the few that are withdrawn before the server
 * has read them, as their client was killed: the tick asks after those that have waited for long.
 */
#ifndef KMIND_UNANSWERED_H
#define KMIND_UNANSWERED_H

#include <kmind/agent.h>

#define KM_WAIT_WAYS 4
#define KM_WAIT_SETS 2048 /* a power of two */
#define KM_WAIT_SLICE 128 /* sets that one tick looks at */
#define KM_WAIT_LONG_NS 500000000ULL
#define KM_WAIT_DOUBTED 1ULL /* in since_ns: it was asked after, and was not there */

struct km_wait {
	__u64 name;	/* 0: free */
	__u64 since_ns; /* 0: not set yet */
};

struct km_wait_set {
	struct km_wait ways[KM_WAIT_WAYS];
} __attribute__((aligned(64)));

static struct km_wait_set km_waits[KM_WAIT_SETS];
static __u32 km_wait_cursor;		   /* the set that the tick looks at next */
static __u64 km_wait_oldest, km_wait_name; /* of this round so far: since when, and whose */
static __u64 km_oldest_ns, km_oldest_name; /* of the last whole round; 0: none waits */

static __always_inline void km_withdraw(void)
{
	__u32 cpu;

	__sync_fetch_and_add(&km_this_cpu(&cpu)->value[KM_WITHDRAWN], 1);
}

static bool km_waits_on(__u64 name);

/* The places that a request may have, the best first. */
static __always_inline struct km_wait *km_wait_way(__u64 name, __u32 way)
{
	__u32 set = name * 0x9e3779b97f4a7c15ULL >> 40;

	return &km_waits[(set ^ way / KM_WAIT_WAYS) & (KM_WAIT_SETS - 1)].ways[way % KM_WAIT_WAYS];
}

/* A request begins to wait: false if there is no room to time it. */
static __always_inline bool km_wait_begin(__u64 name, __u64 now)
{
	struct km_wait *way;

	now &= ~KM_WAIT_DOUBTED;
	/* Another request had this address, and its end was not seen: it was withdrawn. */
#pragma unroll
	for (__u32 i = 0; i < KM_WAIT_WAYS; i++) {
		way = km_wait_way(name, i);
		if (READ_ONCE(way->name) == name) {
			WRITE_ONCE(way->since_ns, now);
			km_withdraw();
			return true;
		}
	}
#pragma unroll
	for (__u32 i = 0; i < 2 * KM_WAIT_WAYS; i++) {
		way = km_wait_way(name, i);
		if (!READ_ONCE(way->name) && !__sync_val_compare_and_swap(&way->name, 0, name)) {
			WRITE_ONCE(way->since_ns, now);
			return true;
		}
	}
	return false;
}

/* Its place; NULL if it has none. */
static __always_inline struct km_wait *km_wait_find(__u64 name)
{
	struct km_wait *way;

#pragma unroll
	for (__u32 i = 0; i < 2 * KM_WAIT_WAYS; i++) {
		way = km_wait_way(name, i);
		if (READ_ONCE(way->name) == name)
			return way;
	}
	return NULL;
}

/* It is answered: since when it waited, or 0 if its beginning was not seen, or not timed. */
static __always_inline __u64 km_wait_end(__u64 name)
{
	struct km_wait *way = km_wait_find(name);
	__u64 since;

	if (!way)
		return 0;
	since = READ_ONCE(way->since_ns) & ~KM_WAIT_DOUBTED;
	/* No next one may be seen with this one's time. */
	WRITE_ONCE(way->since_ns, 0);
	ARENA_RELEASE(way->name, 0);
	return since;
}

/*
 * One that has waited for long, and that the kernel seems not to have any more. It may have been on
 * its way from one list to the next, so it goes only when it is not there at the next round either,
 * and was not seen in between: each is on its way twice, as it is read and as it ends.
 */
static __noinline int km_wait_doubt(struct km_wait *way, __u64 name, __u64 since)
{
	if (!way)
		return 0;
	if (!(since & KM_WAIT_DOUBTED)) {
		__sync_val_compare_and_swap(&way->since_ns, since, since | KM_WAIT_DOUBTED);
		return 0;
	}
	if (__sync_val_compare_and_swap(&way->since_ns, since, 0) != since)
		return 0;
	if (__sync_val_compare_and_swap(&way->name, name, 0) == name)
		km_withdraw();
	return 1;
}

/* Does one that has waited for long not wait any more? */
static __noinline int km_wait_is_gone(struct km_wait *way, __u64 name, __u64 since)
{
	if (!way)
		return 0;
	if (!km_waits_on(name))
		return km_wait_doubt(way, name, since);
	if (since & KM_WAIT_DOUBTED) /* it was on its way: the next doubt is a first one again */
		__sync_val_compare_and_swap(&way->since_ns, since, since & ~KM_WAIT_DOUBTED);
	return 0;
}

/* One set of a round; called by bpf_loop. */
static int km_wait_look(__u32 turn, __u64 *now)
{
	struct km_wait_set *set = &km_waits[(km_wait_cursor + turn) & (KM_WAIT_SETS - 1)];

	for (int i = 0; i < KM_WAIT_WAYS; i++) {
		__u64 name = READ_ONCE(set->ways[i].name);
		__u64 since = READ_ONCE(set->ways[i].since_ns);

		if (!name || !since)
			continue;
		if (*now > since + KM_WAIT_LONG_NS && km_wait_is_gone(&set->ways[i], name, since))
			continue;
		if (since < km_wait_oldest) {
			km_wait_oldest = since;
			km_wait_name = name;
		}
	}
	return 0;
}

/* Is it time for another round, should anything be in flight? */
static __always_inline bool km_wait_rests(void)
{
	return !km_wait_cursor;
}

/* The tick's part: a slice of a round. */
static __always_inline void km_wait_tick(__u64 now)
{
	if (!km_wait_cursor)
		km_wait_oldest = ~0ULL;
	bpf_loop(KM_WAIT_SLICE, km_wait_look, &now, 0);
	km_wait_cursor = (km_wait_cursor + KM_WAIT_SLICE) & (KM_WAIT_SETS - 1);
	if (!km_wait_cursor) {
		km_oldest_ns = km_wait_oldest == ~0ULL ? 0 : km_wait_oldest;
		km_oldest_name = km_wait_name;
	}
}

/* Since when the oldest request of the last round waits, if it still does; else 0. */
static __always_inline __u64 km_wait_since(void)
{
	__u64 since = km_oldest_ns & ~KM_WAIT_DOUBTED;
	struct km_wait *way = since ? km_wait_find(km_oldest_name) : NULL;

	return way && (READ_ONCE(way->since_ns) & ~KM_WAIT_DOUBTED) == since ? since : 0;
}

/*
 * Has a request waited for longer than that? Anew from each change of the mode: after a restart
 * what waits for long already gets its time again. 0: there is no limit.
 */
static __always_inline bool km_wait_is_over(__u64 now, __u64 limit_ns)
{
	__u64 since = limit_ns ? km_wait_since() : 0;

	if (!since)
		return false;
	if (since < km_mode_ns)
		since = km_mode_ns;
	return now > since && now - since > limit_ns;
}

#endif
