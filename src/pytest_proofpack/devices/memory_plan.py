"""How much memory certificates of a model need, how many devices that takes, and how large batches can be.

Pure arithmetic on a model's tensors and configuration, done before anything is loaded. What stays in memory (weights,
what guards keep of the baseline, copies of what an edit replaces) is added up. Of what comes and goes (a forward pass,
logits, measuring spectra, editing a matrix) only the largest counts, because these follow each other. Every constant
below is a count of tensors that are alive together in the module it names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.guards.activations import activation_contract, calibration_windows
from pytest_proofpack.guards.distribution import TOP_K, plan_cache
from pytest_proofpack.plan.records import WindowPlan

DEVICE = "device"
FILES = "files"
BYTES_PER_PARAMETER = 2
"""Of a model whose files are not here: nearly all large checkpoints are in bfloat16 or float16."""

RESERVE = 2**30
"""Bytes of an accelerator that its driver's context (about half of it), workspaces of its libraries and gaps between
the allocator's blocks take."""

_FLOAT = 4
# losses.py: in a batch of so many tokens ...
_BATCH_TOKENS = {"cpu": 1024, "cuda": 8192, "mps": 1024}
# ... logits exist for so many positions at a time, on an accelerator for more as long as the logits are so few
_CHUNK_POSITIONS = 512
_CHUNK_LOGITS = 2**26
# When a chunk has been computed, the logits and log-probabilities of the chunk before are still there, all in float32;
# logits in 16 bits are copied, and are there besides.
_LOGIT_BYTES = 3 * _FLOAT
# measures/activations.py: whitened outputs wait until they are so many elements, and are then joined, which copies
# them; meanwhile one more is converted, centred and scaled.
_QUEUED_ELEMENTS = {"cpu": 0, "cuda": 2**27, "mps": 2**27}
_QUEUE_COPIES = 2
_OUTPUT_COPIES = 3
# measures/singular.py: matrices are stacked up to so many elements. A stack in 16 bits is copied to float32; on a CPU
# one in float32 is squared. Blocks of vectors come on top. Larger matrices are taken by slabs of so many elements.
_STACK_ELEMENTS = {"cpu": 2**20, "cuda": 2**28, "mps": 2**28}
_SPECTRA_BYTES = 2 * _FLOAT + 1
# edits/lowrank.py: the matrix in float32, its approximation, and factors. edits/prune.py takes no more: magnitudes and
# masks, and of 16-bit ones a copy in 32 bits.
_EDIT_BYTES = 2 * _FLOAT + 1
# edits/slabs.py: everything else is done by slabs of so many elements, also to embeddings. The most, in 32 bits, takes
# rounding: the matrix, scaled, and rounded; and in a layer of one slab, pruning.
_SLAB_ELEMENTS = {"cpu": 2**20, "cuda": 2**26, "mps": 2**26}
_SLAB_BYTES = 3 * _FLOAT + 2
_STEPWISE = ("gelu_new", "gelu_fast", "quick_gelu")
"""Activation functions that transformers computes in several steps, each with a tensor of its own."""
_SPARE_LANES = 1
"""models/pipeline.py: batches in flight beside one per device, of a model over several."""
_LEFT_FREE = 0.2
"""edits/target.py: share of a device that copies of what an edit replaces leave free."""

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 2, "F8_E5M2": 2, "I64": 8, "I32": 4, "I16": 2}
"""Bytes of a value once it is loaded, by safetensors' name of its type: 8-bit floats are loaded as bfloat16."""
_LOADED_AS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_MXFP4_BYTES = 4
"""A byte of a packed mxfp4 tensor holds two values, which are loaded as bfloat16."""
_IN_LAYER = re.compile(r"(?:^|\.)\d+\.")


class TensorHeader(NamedTuple):
    """What a safetensors header says of a tensor: its shape, and its type in safetensors' words (``BF16``)."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ModelShape:
    """What memory depends on. A matrix is a tensor of two dimensions, or one entry of a tensor of three (experts).

    Attributes:
        weights: bytes of all tensors as they are loaded.
        item_bytes: bytes of one value of the states that flow through the model.
        largest: elements of the largest matrix.
        largest_in_layers: elements of the largest matrix that is not an embedding or a head.
        norms: rows plus twice the columns, summed over all matrices: values that the spectral guard keeps.
        embedding: elements of the embedding.
        tied: whether the head is the embedding, because there is no other matrix of its size outside of the layers.
        layer: bytes of one layer.
        fused: bytes of the largest tensor of three dimensions; 0 without any.
        layers: how many there are.
        hidden: width of the states.
        queries, keys: width of all query heads and of all key heads together.
        feed_forward: values per token that are alive in a feed-forward branch.
        vocabulary: number of tokens.
    """

    weights: int
    item_bytes: int
    largest: int
    largest_in_layers: int
    norms: int
    embedding: int
    tied: bool
    layer: int
    fused: int
    layers: int
    hidden: int
    queries: int
    keys: int
    feed_forward: int
    vocabulary: int


@dataclass(frozen=True)
class MemoryPlan:
    """What a model's certificates need. Sizes in bytes; those that come and go are of one device.

    Attributes:
        weights: all weights.
        kept: what the guards keep of the baseline on the devices.
        originals: copies of what an edit replaces, as far as they are on the devices.
        untied: what an injected error gives a tied head: a copy of the embedding, which nothing else makes room for.
        activations: of one batch's forward pass with hooks.
        logits: of one batch's last step.
        workspace: to measure spectra, to edit the largest matrix, to join experts while they are loaded.
        reserve: of every device, see :data:`RESERVE`.
        batch_windows: windows per forward pass.
        devices: how many devices the model takes together.
        device_bytes: what each of them must have.
        keep_originals: where an edit's originals are kept: ``device``, or ``files`` where there is no room for all; the
            rest is read again from the checkpoint.
        lanes: batches whose forward passes are under way together, see models/pipeline.py: on a single device one; over
            several as many as find room in what weights and originals leave free anyway, up to one per device and a
            spare one.
    """

    weights: int
    kept: int
    originals: int
    untied: int
    activations: int
    logits: int
    workspace: int
    reserve: int
    batch_windows: int
    devices: int
    device_bytes: int
    keep_originals: str
    lanes: int = 1

    @property
    def evaluation(self) -> int:
        """What measuring a model takes on a device at most, by one batch."""
        return max(self.activations, self.logits)

    @property
    def left_free(self) -> int:
        """What weights and originals must leave free on each device."""
        return self.reserve + self.kept + max(self.untied + self.evaluation, self.workspace)

    @property
    def weights_per_device(self) -> int:
        """What each device may hold of the weights, for a device map."""
        return self.device_bytes - self.left_free

    @property
    def allocated_bytes(self) -> int:
        """Peak over all devices of what tensors take: on one, torch.cuda.max_memory_allocated."""
        measuring = self.lanes * self.evaluation
        edited = self.originals + self.devices * max(measuring, self.workspace)
        return self.weights + self.kept + max(edited, self.untied + self.devices * measuring)

    @property
    def total_bytes(self) -> int:
        """Peak over all devices, with what is reserved."""
        return self.allocated_bytes + self.devices * self.reserve


def model_shape(config: JsonObject, tensors: Mapping[str, TensorHeader]) -> ModelShape:
    """Return what memory depends on, of a model whose configuration and tensors are known.

    Args:
        config: its ``config.json``. A value that is missing there, or no number, is guessed from the size.
        tensors: by name; a stack of experts may be one tensor or many.
    """
    config = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "")
    sizes = {name: _loaded_bytes(header, dtype, config) for name, header in tensors.items()}
    parameters = sum(math.prod(header.shape) for header in tensors.values())
    weights, guess = sum(sizes.values()), guessed_shape(parameters)
    matrices = {name: header.shape for name, header in tensors.items() if len(header.shape) in {2, 3}}
    elements = {name: math.prod(shape[-2:]) for name, shape in matrices.items()}
    in_layers = {name: size for name, size in sizes.items() if _IN_LAYER.search(name)}
    layers = _value(config, ("num_hidden_layers", "n_layer", "num_layers"), guess.layers)
    hidden = _value(config, ("hidden_size", "n_embd", "d_model"), guess.hidden)
    heads = _value(config, ("num_attention_heads", "n_head"), max(1, hidden // 128))
    head = _value(config, ("head_dim",), max(1, hidden // heads))
    vocabulary = _value(config, ("vocab_size",), guess.vocabulary)
    item = _LOADED_AS.get(dtype) or (4 if any(header.dtype == "F32" for header in tensors.values()) else 2)
    return ModelShape(
        weights=weights,
        item_bytes=item,
        largest=max(elements.values(), default=guess.largest),
        largest_in_layers=max(
            (size for name, size in elements.items() if name in in_layers), default=guess.largest_in_layers
        ),
        norms=sum(_stacked(shape) * (shape[-2] + 2 * shape[-1]) for shape in matrices.values()),
        embedding=vocabulary * hidden,
        tied=sum(size == vocabulary * hidden for name, size in elements.items() if name not in in_layers) < 2,
        layer=sum(in_layers.values()) // layers,
        fused=_fused_bytes(config, tensors, sizes, layers),
        layers=layers,
        hidden=hidden,
        queries=heads * head,
        keys=_value(config, ("num_key_value_heads",), heads) * head,
        feed_forward=_feed_forward(config, hidden),
        vocabulary=vocabulary,
    )


def guessed_shape(parameters: int) -> ModelShape:
    """Return a likely shape of a dense model of so many parameters whose files are not here.

    A layer of width h has about 12 h^2 parameters, and models are about 128 times as wide as they are deep. The
    vocabulary is a large one of today. For models of 7 to 72 billion parameters the plan is right within a quarter.
    """
    hidden = max(64, round((128 * parameters / 12) ** (1 / 3)))
    layers = max(1, round(hidden / 128))
    inner, vocabulary = 7 * hidden // 2, min(152_064, max(1, parameters // (4 * hidden)))
    return ModelShape(
        weights=parameters * BYTES_PER_PARAMETER,
        item_bytes=BYTES_PER_PARAMETER,
        largest=max(vocabulary, inner) * hidden,
        largest_in_layers=inner * hidden,
        norms=layers * 7 * 3 * max(inner, hidden) + 2 * vocabulary,
        embedding=vocabulary * hidden,
        tied=False,
        layer=parameters * BYTES_PER_PARAMETER // layers,
        fused=0,
        layers=layers,
        hidden=hidden,
        queries=hidden,
        keys=hidden,
        feed_forward=3 * inner,
        vocabulary=vocabulary,
    )


def plan_memory(
    name: str, shape: ModelShape, windows: WindowPlan, device_bytes: Sequence[int], *, kind: str = "cuda"
) -> MemoryPlan:
    """Decide how many devices a model takes together and how it is evaluated there.

    As few devices as hold it with whatever batch; then the largest batch that fits, up to the usual one, as a power of
    two. More memory never leads to more devices.

    Args:
        name: of the model, for messages.
        shape: of the model.
        windows: how text is cut.
        device_bytes: size of every device there is. Those chosen together may differ: the smallest decides.
        kind: ``cuda``, ``mps``, or ``cpu``, where only one "device" counts, the host's memory.

    Raises:
        ConfigurationError: it fits nowhere; the message has the numbers.
    """
    sizes = sorted(device_bytes, reverse=True)[: 1 if kind == "cpu" else None]
    for devices, size in enumerate(sizes, start=1):
        # Layers are not divided, so all devices but the last may be filled up to one layer less.
        slack = max(shape.layer, shape.embedding * shape.item_bytes) if devices > 1 else 0
        for batch in _batches(windows, kind):
            plan = _plan(shape, windows, batch, kind, devices=devices, size=size)
            share = shape.weights // devices + slack
            if share <= plan.weights_per_device:
                return replace(plan, lanes=_lanes(plan, share))
    least = _plan(shape, windows, 1, kind, devices=1, size=0)
    held = ", ".join(gigabytes(size) for size in sizes) or "no device"
    raise ConfigurationError(
        f"{name}: does not fit. Its weights take {gigabytes(shape.weights)}, in layers of {gigabytes(shape.layer)}, "
        f"and each device needs {gigabytes(least.left_free)} besides its share of them. There is: {held}. Use more or "
        "larger devices, or a smaller model; --proofpack-gpu-memory may limit what is used."
    )


def _plan(shape: ModelShape, windows: WindowPlan, batch: int, kind: str, *, devices: int, size: int) -> MemoryPlan:
    """Return the plan for so many devices of a size, whether or not it fits them."""
    # The calibration windows go through the model in one batch, whatever the batch is.
    together = min(calibration_windows(activation_contract(), windows.seq_len), windows.preview)
    tokens = max(batch, together) * windows.seq_len
    plan = MemoryPlan(
        weights=shape.weights,
        kept=_kept(shape, windows),
        originals=0,
        untied=shape.embedding * shape.item_bytes if shape.tied else 0,
        activations=_activations(shape, tokens, kind),
        logits=_logits(shape, batch * windows.seq_len, kind),
        workspace=_workspace(shape, kind),
        reserve=0 if kind == "cpu" else RESERVE,
        batch_windows=batch,
        devices=devices,
        device_bytes=size,
        keep_originals=FILES,
    )
    usable = size - plan.reserve - plan.kept - max(plan.left_free, int(_LEFT_FREE * size))
    originals = min(shape.weights, max(0, devices * usable - shape.weights))
    place = DEVICE if kind != "cpu" and originals == shape.weights else FILES
    return replace(plan, originals=originals, keep_originals=place)


def _lanes(plan: MemoryPlan, share: int) -> int:
    """Return how many batches may be in flight on devices of which each holds a share of the weights."""
    left = min(plan.device_bytes - share, max(plan.left_free, int(_LEFT_FREE * plan.device_bytes)))
    fitting = (left - plan.reserve - plan.kept - plan.untied) // max(1, plan.evaluation)
    return max(1, min(fitting, plan.devices + _SPARE_LANES)) if plan.devices > 1 else 1


def _batches(windows: WindowPlan, kind: str) -> list[int]:
    """Return the powers of two up to the usual batch of a kind of device, the largest first."""
    usual = max(1, _BATCH_TOKENS[kind] // windows.seq_len)
    return [2**power for power in range(usual.bit_length() - 1, -1, -1)]


def _activations(shape: ModelShape, tokens: int, kind: str) -> int:
    """Return the bytes of a forward pass of the body, hooks included.

    Beside the embedded tokens, the layer's input, the residual and its normalized copy, there is the widest point of a
    branch (in an attention branch: queries, three steps of rotating them, the output; keys and values twice), or, once
    a branch is done, what the hooks hold.
    """
    stream = 4 * shape.hidden
    branch = max(5 * shape.queries + 4 * shape.keys, shape.feed_forward)
    output = tokens * shape.hidden
    queued = max(output, min(_QUEUED_ELEMENTS[kind], 2 * shape.layers * output))
    hooks = _FLOAT * (_QUEUE_COPIES * queued + _OUTPUT_COPIES * output)
    return shape.item_bytes * tokens * stream + max(shape.item_bytes * tokens * branch, hooks)


def _logits(shape: ModelShape, tokens: int, kind: str) -> int:
    """Return the bytes of the head's work: the body's states, those that are scored, and a chunk of logits."""
    chunk = _CHUNK_POSITIONS if kind == "cpu" else max(_CHUNK_POSITIONS, _CHUNK_LOGITS // shape.vocabulary)
    per_logit = _LOGIT_BYTES + (shape.item_bytes if shape.item_bytes < _FLOAT else 0)
    return 2 * shape.item_bytes * tokens * shape.hidden + min(tokens, chunk) * shape.vocabulary * per_logit


def _workspace(shape: ModelShape, kind: str) -> int:
    """Return the bytes of the largest step that works on weights; see the constants above."""
    return max(
        _SPECTRA_BYTES * min(_STACK_ELEMENTS[kind], shape.weights // shape.item_bytes),
        _EDIT_BYTES * shape.largest_in_layers,
        _SLAB_BYTES * min(_SLAB_ELEMENTS[kind], shape.largest),
        shape.fused,  # the experts apart and joined
    )


def _kept(shape: ModelShape, windows: WindowPlan) -> int:
    """Return the bytes of what is kept of the baseline: norms and directions, whitening, distributions."""
    cache = plan_cache(windows.final, windows.seq_len - 1, max(TOP_K, shape.vocabulary))
    return _FLOAT * (shape.norms + 2 * 2 * shape.layers * shape.hidden) + cache.bytes


def _feed_forward(config: JsonObject, hidden: int) -> int:
    """Return the values per token alive at the widest point: gate, up and product, of every expert it goes through.

    A token is copied for each of its experts, and comes back from each.
    """
    inner = _value(config, ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"), 4 * hidden)
    used = config.get("num_experts_per_tok")
    if not isinstance(used, int) or used < 1:
        function = config.get("hidden_act") or config.get("activation_function")
        return (5 if function in _STEPWISE else 3) * inner
    expert = _value(config, ("moe_intermediate_size",), inner)
    return max(3 * inner, used * (2 * hidden + 4 * expert))


def _fused_bytes(config: JsonObject, tensors: Mapping[str, TensorHeader], sizes: Mapping[str, int], layers: int) -> int:
    """Return the bytes of the largest tensor of a layer's experts as it is in memory, where they are one tensor.

    Gate and up of all experts are joined while they are loaded: two of three matrices.
    """
    joined = max((sizes[name] for name, header in tensors.items() if len(header.shape) == 3), default=0)
    apart = sum(size for name, size in sizes.items() if ".experts." in name)
    return max(joined, 2 * apart // (3 * layers) if isinstance(config.get("num_experts_per_tok"), int) else 0)


def _loaded_bytes(header: TensorHeader, dtype: str, config: JsonObject) -> int:
    values = math.prod(header.shape)
    if header.dtype in {"F64", "F32", "F16", "BF16"}:
        return values * _LOADED_AS.get(dtype, _BYTES[header.dtype])
    quantization = config.get("quantization_config")
    if header.dtype == "U8" and isinstance(quantization, dict) and quantization.get("quant_method") == "mxfp4":
        return values * _MXFP4_BYTES
    return values * _BYTES.get(header.dtype, 1)


def _stacked(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 3 else 1


def _value(config: JsonObject, keys: Sequence[str], default: int) -> int:
    """Return the first of these entries that is a positive number, or else the default."""
    found = (config.get(key) for key in keys)
    return next((value for value in found if isinstance(value, int) and value > 0), default)


def gigabytes(size: float) -> str:
    """Return a size for people: ``14.5 GB``, of 10^9 bytes."""
    return f"{size / 1e9:.1f} GB"
