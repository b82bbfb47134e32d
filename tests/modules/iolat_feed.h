/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* iolat's features, fed event by event: by a BPF program, and by C in user space. */
#ifndef KMIND_TEST_IOLAT_FEED_H
#define KMIND_TEST_IOLAT_FEED_H

#include "../../src/kmind/modules/iolat/iolat.h"

struct iol_event {
	__u64 done; /* 1: completed, 0: issued */
	__u64 now, took, depth, sectors, write, slow;
	__s64 x[IOL_INPUTS]; /* out, if issued */
};

static inline void iol_feed(struct iol_history *history, struct iol_event *event)
{
	if (event->done) {
		iol_done(history, event->took, event->depth, event->slow);
		return;
	}
	iol_inputs(history, event->now, event->depth, event->sectors, event->write, event->x);
	history->issued_ns = event->now;
}

#endif
