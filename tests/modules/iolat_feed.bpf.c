// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* iolat's features in the kernel, of events that a test hands over. */
#include <kmind/agent.h>
#include "iolat_feed.h"

static struct iol_history history;

SEC("syscall")
int feed(struct iol_event *event)
{
	iol_feed(&history, event);
	return 0;
}
