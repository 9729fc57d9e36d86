"""The bytes that each step of a certificate takes on a device, from a model's shape.

Every constant is a count of tensors that are alive together in the module it names; tests measure them on real forward
passes and edits, and compare the sizes with the modules' own.
"""

from __future__ import annotations

import math

from pytest_proofpack.devices.shape import ModelShape
from pytest_proofpack.guards.direction import measurement_contract
from pytest_proofpack.guards.distribution import TOP_K, plan_cache
from pytest_proofpack.plan.records import WindowPlan

_CONTEXT = 2**30
_GAPS = 32


def reserved_bytes(device_bytes: int) -> int:
    """Return what the driver's context, workspaces of libraries and gaps between the allocator's blocks take.

    Of an accelerator: 1 GiB, and a share for the gaps, which grow with what lies between them. With 1 GiB alone a model
    of 80 GB on a device of 85 GB, planned to leave 1.5 GB, ran out of memory. How little would do is not known.
    """
    return _CONTEXT + device_bytes // _GAPS


def holding_bytes(occupied: int) -> int:
    """Return how large an accelerator has to be that holds so much beside what is reserved."""
    return -(-(occupied + _CONTEXT) * _GAPS // (_GAPS - 1))


_FLOAT = 4
# models/forward.py: in a batch of so many tokens ...
_BATCH_TOKENS = {"cpu": 1024, "cuda": 8192, "mps": 1024}
# ... logits exist for so many positions at a time, on an accelerator for more as long as the logits are so few
_CHUNK_POSITIONS = 512
_CHUNK_LOGITS = 2**26
# When a chunk has been computed, the logits and log-probabilities of the chunk before are still there, all in float32;
# logits in 16 bits are copied, and are there besides.
_LOGIT_BYTES = 3 * _FLOAT
# measures/sublayers.py: whitened outputs wait until they are so many elements, and are then joined, which copies
# them; meanwhile one more is converted, centred and scaled.
_QUEUED_ELEMENTS = {"cpu": 0, "cuda": 2**27, "mps": 2**27}
_QUEUE_COPIES = 2
_OUTPUT_COPIES = 3
# measures/responses.py: of every sublayer, so many cosines are kept.
_SKETCH: int = math.prod(measurement_contract({})[key] for key in ("tokens", "anchors"))
# measures/singular.py: matrices are stacked up to so many elements. A stack in 16 bits is copied to float32; on a CPU
# one in float32 is squared. Blocks of vectors come on top. Larger matrices are taken by slabs of so many elements.
_STACK_ELEMENTS = {"cpu": 2**20, "cuda": 2**28, "mps": 2**28}
_SPECTRA_BYTES = 2 * _FLOAT + 1
# edits/lowrank.py: the matrix in float32, its approximation, and factors. edits/prune.py takes no more: magnitudes and
# masks, and of 16-bit ones a copy in 32 bits.
_EDIT_BYTES = 2 * _FLOAT + 1
# models/slabs.py: everything else is done by slabs of so many elements, also to embeddings. The most, in 32 bits, takes
# rounding: the matrix, scaled, and rounded; and in a layer of one slab, pruning.
_SLAB_ELEMENTS = {"cpu": 2**20, "cuda": 2**26, "mps": 2**26}
_SLAB_BYTES = 3 * _FLOAT + 2


def batch_sizes(windows: WindowPlan, kind: str) -> list[int]:
    """Return the powers of two up to the usual batch of a kind of device, the largest first."""
    usual = max(1, _BATCH_TOKENS[kind] // windows.seq_len)
    return [2**power for power in range(usual.bit_length() - 1, -1, -1)]


def activation_bytes(shape: ModelShape, tokens: int, kind: str) -> int:
    """Return the bytes of a forward pass of the body, hooks included.

    Beside the embedded tokens, the layer's input, the residual and its normalized copy, there is the widest point of a
    sublayer (in an attention: queries, three steps of rotating them, the output; keys and values twice), or, once a
    sublayer is done, what the hooks hold.
    """
    stream = 4 * shape.hidden
    sublayer = max(5 * shape.queries + 4 * shape.keys, shape.feed_forward)
    output = tokens * shape.hidden
    queued = max(output, min(_QUEUED_ELEMENTS[kind], 2 * shape.layers * output))
    hooks = _FLOAT * (_QUEUE_COPIES * queued + _OUTPUT_COPIES * output)
    return shape.item_bytes * tokens * stream + max(shape.item_bytes * tokens * sublayer, hooks)


def logit_bytes(shape: ModelShape, tokens: int, kind: str) -> int:
    """Return the bytes of the head's work: the body's states, those that are scored, and a chunk of logits."""
    chunk = _CHUNK_POSITIONS if kind == "cpu" else max(_CHUNK_POSITIONS, _CHUNK_LOGITS // shape.vocabulary)
    per_logit = _LOGIT_BYTES + (shape.item_bytes if shape.item_bytes < _FLOAT else 0)
    return 2 * shape.item_bytes * tokens * shape.hidden + min(tokens, chunk) * shape.vocabulary * per_logit


def workspace_bytes(shape: ModelShape, kind: str) -> int:
    """Return the bytes of the largest step that works on weights; see the constants above."""
    return max(
        _SPECTRA_BYTES * min(_STACK_ELEMENTS[kind], shape.weights // shape.item_bytes),
        _EDIT_BYTES * shape.largest_in_layers,
        _SLAB_BYTES * min(_SLAB_ELEMENTS[kind], shape.largest),
        shape.fused,  # the experts apart and joined
    )


def kept_bytes(shape: ModelShape, windows: WindowPlan) -> int:
    """Return the bytes of what is kept of the baseline: norms and directions, whitening and sketches, distributions."""
    cache = plan_cache(windows.final, windows.seq_len - 1, max(TOP_K, shape.vocabulary))
    whitening, sketches = 2 * 2 * shape.layers * shape.hidden, 2 * shape.layers * _SKETCH
    return _FLOAT * (shape.norms + whitening + sketches) + cache.bytes
