/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Decisions by a model, inside a hook.
 *
 *	#define KM_MODEL_FEATURES 7		how many numbers it decides by
 *	#include <kmind/agent.h>
 *	#include <kmind/infer.h>
 *
 *	struct km_decision *decision = km_infer_begin();
 *
 *	if (decision) {
 *		decision->x[MY_FEATURE] = ...;	all of them
 *		if (!km_infer(decision))
 *			... decision->label, decision->score[0] ...
 *		km_infer_end(decision);
 *	}
 *
 * The integer model is that of kmind/infer/integer.py, and what is decided here
 * equals kmind/infer/reference.py bit for bit. Models lie in two slots of a map
 * that no program can write and no extension can map. Which of them decides is
 * one word, read once a decision; only km_model() below changes it, after it has
 * looked at the model. kmind/infer/packing/pack.py lays a model out as the walks here
 * want it.
 *
 * Offsets in a slot are masked, so a wrong one reads a wrong number and nothing
 * else. Loops start at `zero`, a word of the slot that the verifier does not
 * know: from a known number it would follow each turn by itself.
 */
#ifndef KMIND_INFER_H
#define KMIND_INFER_H

#include <kmind/infer_control.h>
#include <kmind/infer_decide.h>

/* Decide by decision->x; not 0 if there is no model. */
static __always_inline int km_infer(struct km_decision *decision)
{
	if (!KM_MODEL_IF)
		return -1;
	/* No slot: 2^32 - 1, which is not one. */
	return km_evaluate(READ_ONCE(km_model_state.active) - 1, decision);
}

#endif
