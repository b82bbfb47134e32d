/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Requests of a FUSE connection, as far as agents look into them (fs/fuse/fuse_i.h). */
#ifndef KMIND_DRIVER_FUSE_H
#define KMIND_DRIVER_FUSE_H

#include <kmind/unanswered.h>
#include <bpf/bpf_core_read.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct list_head {
	struct list_head *next, *prev;
};

struct fuse_in_header {
	__u32 len;
	__u32 opcode;
	__u64 unique;
};

struct fuse_out_header {
	__u32 len;
	__s32 error;
};

struct fuse_conn {
	__u32 dev;
};

struct fuse_mount {
	struct fuse_conn *fc;
};

struct fuse_in_arg {
	unsigned int size;
	const void *value;
};

struct fuse_args {
	struct fuse_in_arg in_args[3];
};

struct fuse_req {
	struct list_head list;
	struct fuse_args *args;
	struct {
		struct fuse_in_header h;
	} in;
	struct {
		struct fuse_out_header h;
	} out;
	struct fuse_mount *fm;
};

/* Seen in Linux 7.3: the channel leads to the connection. */
struct fuse_chan {
	struct fuse_conn *conn;
};

struct fuse_req___chan {
	struct fuse_chan *chan;
};

#pragma clang attribute pop

/* include/uapi/linux/fuse.h */
#define FUSE_READ 15
#define FUSE_WRITE 16
#define FUSE_FSYNC 20
#define FUSE_FALLOCATE 43
#define FUSE_IN_BYTES 40    /* struct fuse_in_header */
#define FUSE_OUT_BYTES 16   /* struct fuse_out_header */
#define FUSE_WRITE_BYTES 40 /* struct fuse_write_in */
#define FUSE_RESENT (1ULL << 63)

/* The part of struct fuse_fallocate_in that is looked at. */
struct fuse_range {
	__u64 fh, offset, length;
};

const volatile __u32 param_connection; /* its number in /sys/fs/fuse/connections */

/*
 * A request's address as a number, by way of this CPU's scratch word: the verifier allows no sums
 * with a pointer, and takes what is read from there for a number. By a helper it takes 15 ns more.
 */
static __always_inline __u64 fuse_name(const struct fuse_req *req, __u64 *scratch)
{
	WRITE_ONCE(*scratch, (__u64)req);
	return READ_ONCE(*scratch);
}

static __always_inline bool fuse_is_ours(const struct fuse_req *req)
{
	const struct fuse_req___chan *later = (const void *)req;

	if (bpf_core_field_exists(req->fm))
		return req->fm->fc->dev == param_connection;
	return later->chan->conn->dev == param_connection;
}

/* Its requests are all in a list, of those to be read or those that were, until they end. */
static bool km_waits_on(__u64 name)
{
	struct fuse_req *req = (void *)name;
	struct fuse_req___chan *later = (void *)name;
	struct list_head *next;

	/* Not known where FUSE is a module that is not loaded: then there are no requests. */
	if (!bpf_core_type_exists(struct fuse_req))
		return false;
	next = BPF_CORE_READ(req, list.next);
	if (BPF_CORE_READ(next, prev) != &req->list)
		return false;
	if (bpf_core_field_exists(req->fm))
		return BPF_CORE_READ(req, fm, fc, dev) == param_connection;
	return BPF_CORE_READ(later, chan, conn, dev) == param_connection;
}

/* Bytes of a READ, WRITE or FALLOCATE that has ended well: of the kernel's own numbers. */
static __always_inline __u64 fuse_bytes(const struct fuse_req *req)
{
	struct fuse_range range = {};

	switch (req->in.h.opcode) {
	case FUSE_READ:
		return req->out.h.len - FUSE_OUT_BYTES;
	case FUSE_WRITE:
		return req->in.h.len - FUSE_IN_BYTES - FUSE_WRITE_BYTES;
	case FUSE_FALLOCATE:
		bpf_probe_read_kernel(&range, sizeof(range), req->args->in_args[0].value);
		return range.length;
	default:
		return 0;
	}
}

#endif
