# SPDX-License-Identifier: Apache-2.0
"""Integer models as an agent's map holds them: slots, images, and what a decision costs."""
