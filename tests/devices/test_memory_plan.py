"""Memory plans of the models of ``full`` and of real small ones, for devices that are not there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.integrations.accelerate import get_balanced_memory, infer_auto_device_map

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.devices import memory_factors, memory_plan
from pytest_proofpack.devices.memory_plan import MemoryPlan, plan_memory
from pytest_proofpack.devices.model_shapes import read_shape
from pytest_proofpack.devices.shape import ModelShape, guessed_shape, model_shape
from pytest_proofpack.edits import target
from pytest_proofpack.edits.apply import edited
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.measures import singular, sublayers
from pytest_proofpack.measures.spectra import measure_spectra
from pytest_proofpack.models import forward as losses
from pytest_proofpack.models import slabs
from pytest_proofpack.models.forward import window_losses
from pytest_proofpack.models.layout import analyze_layout
from pytest_proofpack.models.safetensors_files import TensorHeader
from pytest_proofpack.plan.records import ModelSpec, WindowPlan
from pytest_proofpack.plan.suites import load_suite
from tests.support.faults import injected
from tests.support.published_models import MISTRAL_7B, PUBLISHED
from tests.support.small_models import ARCHITECTURES, edit_spec, small_model

GIB = 2**30
WINDOWS = WindowPlan(512, 100, 100, 1)


@cache
def model_of(name: str) -> transformers.PreTrainedModel:
    """Return a model of ``full``, built without memory for its weights."""
    kind, values = PUBLISHED[name]
    config = getattr(transformers, kind)(**values, dtype="bfloat16")
    with torch.device("meta"):
        model: transformers.PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    return model


@cache
def shape_of(name: str) -> ModelShape:
    """Return the shape of a model of ``full``."""
    model = model_of(name)
    tensors = {name: TensorHeader(tuple(own.shape), "BF16") for name, own in model.named_parameters()}
    return model_shape(model.config.to_dict(), tensors)


def plan(name: str, gib: float, count: int) -> MemoryPlan:
    return plan_memory(name, shape_of(name), WINDOWS, [int(gib * GIB)] * count)


def test_the_models_are_those_of_the_suite() -> None:
    suite = load_suite("full")
    assert {model.id: model.parameters for model in suite.models} == {
        name: shape_of(name).weights // 2 for name in PUBLISHED
    }


# Devices for each model on 1, 2, 4 and 8 GPUs of 24, 80 and 141 GiB; "-" is refused.
TABLE = {
    "mistralai/Mistral-7B-v0.1": ("1 1 1 1", "1 1 1 1", "1 1 1 1"),
    "Qwen/Qwen2.5-14B": ("- 2 2 2", "1 1 1 1", "1 1 1 1"),
    "Qwen/Qwen2.5-32B": ("- - 4 4", "1 1 1 1", "1 1 1 1"),
    "01-ai/Yi-34B": ("- - 4 4", "1 1 1 1", "1 1 1 1"),
    "mistralai/Mixtral-8x7B-v0.1": ("- - - 6", "- 2 2 2", "1 1 1 1"),
    "Qwen/Qwen1.5-72B": ("- - - 8", "- 2 2 2", "- 2 2 2"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_devices_for_every_model_of_full(name: str) -> None:
    found = []
    for size in (24, 80, 141):
        row = []
        for count in (1, 2, 4, 8):
            try:
                made = plan(name, size, count)
            except ConfigurationError:
                row.append("-")
                continue
            row.append(str(made.devices))
            assert made.total_bytes <= made.devices * size * GIB
            assert made.weights_per_device * made.devices >= made.weights
            assert made.batch_windows == 16
            assert made.lanes == (1 if made.devices == 1 else min(made.lanes, made.devices + 1))
            assert size < 80 or made.devices == 1 or made.lanes > 1  # where a device has room, batches overlap
        found.append(" ".join(row))
    assert tuple(found) == TABLE[name]


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("size", [24, 48, 80, 141])
def test_a_device_map_within_the_plan_keeps_every_layer_on_a_gpu(name: str, size: int) -> None:
    """What transformers does with ``max_memory``, as :func:`pytest_proofpack.models.load.load_model` gives it."""
    try:
        made = plan(name, size, 8)
    except ConfigurationError:
        assert size == 24
        return
    model = model_of(name)
    share: dict[int | str, int | str] = dict.fromkeys(range(made.devices), made.weights_per_device)
    rules: dict[str, Any] = {"no_split_module_classes": model._no_split_modules}
    places = infer_auto_device_map(model, max_memory=get_balanced_memory(model, dict(share), **rules), **rules)
    held: Counter[int | str] = Counter()
    for module, device in places.items():
        held[device] += sum(parameter.nbytes for parameter in model.get_submodule(module).parameters())
    assert set(held) == set(share)
    assert max(held.values()) <= made.weights_per_device


@pytest.mark.parametrize("name", PUBLISHED)
def test_more_memory_never_needs_more_devices_or_smaller_batches(name: str) -> None:
    before: MemoryPlan | None = None
    for size in range(16, 200, 3):
        try:
            made = plan(name, size, 8)
        except ConfigurationError:
            assert before is None
            continue
        if before is not None:
            assert made.devices <= before.devices
            if made.devices == before.devices:
                assert made.batch_windows >= before.batch_windows
                assert made.originals >= before.originals
        before = made
    assert before is not None


@pytest.mark.parametrize("name", PUBLISHED)
def test_more_devices_never_make_it_worse(name: str) -> None:
    needed = [plan(name, 141, count).devices for count in range(2, 9)]
    assert len(set(needed)) == 1


def test_what_fits_nowhere_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigurationError) as caught:
        plan("Qwen/Qwen1.5-72B", 24, 2)
    assert "Qwen/Qwen1.5-72B: does not fit. Its weights take 134.6 GiB" in str(caught.value)
    assert "There is: 24.0 GiB, 24.0 GiB." in str(caught.value)
    with pytest.raises(ConfigurationError, match="There is: no device"):
        plan_memory("any", shape_of("mistralai/Mistral-7B-v0.1"), WINDOWS, [])


@pytest.mark.parametrize("occupied", [0, 1, 31, 14 * GIB, 140 * GIB + 7])
def test_the_smallest_device_that_holds_something(occupied: int) -> None:
    size = memory_factors.holding_bytes(occupied)
    assert occupied <= size - memory_factors.reserved_bytes(size) <= occupied + 1


def test_of_different_devices_as_few_as_possible_are_taken() -> None:
    shape = shape_of("01-ai/Yi-34B")
    made = plan_memory("yi", shape, WINDOWS, [24 * GIB, 80 * GIB, 24 * GIB])
    assert (made.devices, made.device_bytes) == (1, 80 * GIB)
    made = plan_memory("yi", shape, WINDOWS, [60 * GIB, 24 * GIB, 48 * GIB])
    assert (made.devices, made.device_bytes) == (2, 48 * GIB)


def test_originals_stay_on_the_device_where_there_is_room() -> None:
    name = "mistralai/Mistral-7B-v0.1"
    roomy, tight = plan(name, 80, 1), plan(name, 24, 1)
    assert roomy.originals == roomy.weights
    assert 0 <= tight.originals < tight.weights


def test_batches_shrink_before_a_model_is_refused() -> None:
    # So wide a model that activations outweigh everything, and no calibration windows that ask for a batch of eight.
    shape = replace(shape_of("mistralai/Mistral-7B-v0.1"), feed_forward=6_400_000)
    windows = WindowPlan(512, 1, 1, 1)
    sizes = range(16 * GIB, 160 * GIB, 2 * GIB)
    batches = []
    for size in sizes:
        try:
            batches.append(plan_memory("wide", shape, windows, [size]).batch_windows)
        except ConfigurationError:
            assert not batches
    assert sorted(set(batches)) == [1, 2, 4, 8, 16]
    assert batches == sorted(batches)


@pytest.mark.parametrize("seq_len", [128, 100, 512, 9000])
def test_batches_are_powers_of_two_up_to_the_usual_size(seq_len: int) -> None:
    made = plan_memory("any", shape_of("mistralai/Mistral-7B-v0.1"), WindowPlan(seq_len, 8, 8, 1), [900 * GIB])
    assert made.batch_windows == {128: 64, 100: 64, 512: 16, 9000: 1}[seq_len]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_guess_from_the_size_alone_is_close(name: str) -> None:
    shape = shape_of(name)
    guess = guessed_shape(shape.weights // 2)
    assert guess.weights == shape.weights
    known, guessed = (plan_memory(name, own, WINDOWS, [141 * GIB] * 8) for own in (shape, guess))
    assert guessed.total_bytes == pytest.approx(known.total_bytes, rel=0.25)
    assert guessed.devices == known.devices


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_shape_of_a_saved_model_is_read_from_its_files(architecture: str, tmp_path: Path) -> None:
    model = small_model(architecture, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    shape = read_shape(ModelSpec("small", tmp_path))
    parameters = dict(model.named_parameters())
    matrices = [own[0] if own.ndim == 3 else own for own in parameters.values() if own.ndim > 1]
    assert shape.weights == sum(own.nbytes for own in parameters.values())
    assert shape.item_bytes == 2
    assert shape.embedding == model.get_input_embeddings().get_parameter("weight").numel()
    assert shape.largest <= max(own.numel() for own in matrices)
    assert shape.layer <= shape.weights // shape.layers
    assert shape.tied == analyze_layout(model).head_tied
    assert shape.queries == 4 * (16 if architecture in {"qwen3", "gpt_oss", "gemma"} else 8)
    assert shape.keys <= shape.queries


def test_a_float32_model_and_an_eight_bit_one_count_as_they_are_loaded() -> None:
    tensors = {"layers.0.w": TensorHeader((100, 10), "F8_E4M3"), "layers.0.n": TensorHeader((10,), "F32")}
    assert model_shape({}, tensors).weights == 2 * 1000 + 40
    assert model_shape({"dtype": "bfloat16"}, tensors).weights == 2 * 1000 + 20
    assert model_shape({"torch_dtype": "float32"}, {"w": TensorHeader((8, 8), "BF16")}).weights == 256
    packed = {"layers.0.blocks": TensorHeader((4, 8, 16), "U8")}
    assert model_shape({"quantization_config": {"quant_method": "mxfp4"}}, packed).weights == 4 * 512


def test_a_tied_head_that_may_be_untied_needs_room_of_its_own() -> None:
    shape = shape_of("Qwen/Qwen2.5-14B")
    plain, tied = (plan_memory("any", replace(shape, tied=own), WINDOWS, [80 * GIB]) for own in (False, True))
    assert plain.left_free == plain.reserve + plain.kept + plain.workspace
    assert tied.left_free == tied.reserve + tied.kept + tied.evaluation + shape.item_bytes * shape.embedding


@pytest.mark.parametrize("value", [None, "many", -3, 0, 1.5, [2], {"a": 1}])
def test_a_configuration_that_says_nothing_useful_is_replaced_by_a_guess(value: Any) -> None:
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "num_experts_per_tok", "head_dim")
    shape = model_shape(dict.fromkeys(keys, value), {"layers.0.w": TensorHeader((4096, 4096), "BF16")})
    assert all(getattr(shape, name) > 0 for name in ("hidden", "layers", "queries", "vocabulary", "feed_forward"))
    assert plan_memory("odd", shape, WINDOWS, [GIB * 20]).devices == 1


class Peak:
    """Counts the bytes of tensors alive on the CPU, by torch's own record of allocations."""

    def __init__(self) -> None:
        self.bytes = 0

    def measure(self, work: Any) -> int:
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            work()
        total = 0
        for change in self._changes(profile):
            total += change
            self.bytes = max(self.bytes, total)
        return self.bytes

    @staticmethod
    def _changes(profile: Any) -> Iterator[int]:
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                yield event.nbytes()


@pytest.mark.parametrize("vocabulary", [500, 20_000])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_the_peak_of_a_real_forward_pass_is_as_planned(architecture: str, vocabulary: int) -> None:
    torch.set_num_threads(1)
    wide: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 896, "num_hidden_layers": 2}
    wide = {"n_embd": 256, "n_inner": 896, "n_layer": 2} if architecture == "gpt2" else wide
    model = small_model(architecture, vocab_size=vocabulary, **wide)
    tensors = {name: TensorHeader(tuple(own.shape), "F32") for name, own in model.named_parameters()}
    tokens = torch.randint(vocabulary, (8, 128), generator=torch.Generator().manual_seed(0)).numpy()
    made = plan_memory(
        "small", model_shape(model.config.to_dict(), tensors), WindowPlan(128, 8, 8, 1), [GIB * 100], kind="cpu"
    )
    assert made.batch_windows == len(tokens)
    assert (made.logits > made.activations) == (vocabulary == 20_000)
    peak = Peak().measure(lambda: window_losses(model, tokens, batch_size=len(tokens)))
    assert peak == pytest.approx(made.evaluation, rel=0.15)


EDITS = (
    "quant_rtn:4:32:ffn",
    "quant_rtn:2:100:ffn",
    "fp8_quant:e5m2:ffn",
    "magnitude_prune:0.5:ffn",
    "lowrank_svd:9:ffn",
)


def work_on(model: transformers.PreTrainedModel) -> Iterator[tuple[str, Callable[[], object], int]]:
    """Yield all kinds of work on a model's weights, each with the bytes of the originals that it keeps."""
    layout, contract = analyze_layout(model), resolve_policy("balanced").section("spectral")["measurement_contract"]
    baseline = measure_spectra(model, layout, contract, baseline=None, changed=None)

    def edit(text: str) -> None:
        with edited(model, layout, edit_spec(text), seed=0):
            pass

    def fault(name: str) -> None:
        with injected(model, layout, name, seed=0):
            pass

    yield "baseline", lambda: measure_spectra(model, layout, contract, baseline=None, changed=None), 0
    yield "subject", lambda: measure_spectra(model, layout, contract, baseline=baseline, changed=None), 0
    sizes = {name: own.nbytes for name, own in model.named_parameters() if own.ndim > 1}
    for text in EDITS:
        yield text, partial(edit, text), sum(size for name, size in sizes.items() if "mlp" in name)
    yield "extreme_quant", partial(fault, "extreme_quant"), sum(sizes.values())
    yield "rank_collapse", partial(fault, "rank_collapse"), sum(size for name, size in sizes.items() if "attn" in name)
    largest = max(size for name, size in sizes.items() if "mlp" in name)
    yield "scale_explosion", partial(fault, "scale_explosion"), largest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("hidden", "vocabulary"), [(512, 500), (512, 16_000), (1024, 500)])
def test_the_peak_of_work_on_weights_stays_within_what_is_planned(
    hidden: int, vocabulary: int, dtype: torch.dtype
) -> None:
    """An embedding of eight slabs needs no more than one of half a slab; layers of one slab and of four decide."""
    torch.set_num_threads(1)
    wide = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": 1, "num_attention_heads": 8}
    model = small_model("llama", dtype=dtype, vocab_size=vocabulary, **wide)
    kind = "F32" if dtype == torch.float32 else "BF16"
    tensors = {name: TensorHeader(tuple(own.shape), kind) for name, own in model.named_parameters()}
    shape = model_shape(model.config.to_dict(), tensors)
    workspace = plan_memory("small", shape, WINDOWS, [GIB * 100], kind="cpu").workspace
    measured = {name: Peak().measure(work) - kept for name, work, kept in work_on(model)}
    assert max(measured.values()) <= 1.001 * workspace, measured
    assert dtype != torch.float32 or max(measured.values()) == pytest.approx(workspace, rel=0.15), measured
    spectra = memory_factors._SPECTRA_BYTES * memory_factors._STACK_ELEMENTS["cpu"]
    assert max(measured["baseline"], measured["subject"]) <= spectra
    assert hidden == 512 or measured["baseline"] == pytest.approx(spectra, rel=0.15)
    by_slabs = [measured[name] for name in (*EDITS[:3], "extreme_quant", "scale_explosion")]
    assert max(by_slabs) <= memory_factors._SLAB_BYTES * memory_factors._SLAB_ELEMENTS["cpu"]


@pytest.mark.gpu
def test_the_peak_of_work_on_weights_on_a_gpu_stays_within_what_is_planned() -> None:
    """A layer of Mistral-7B between an embedding and a head of 152,064 tokens: 2.7 GiB."""
    values = {**MISTRAL_7B, "vocab_size": 152_064, "num_hidden_layers": 1, "tie_word_embeddings": False}
    config = transformers.MistralConfig(**values, dtype="bfloat16")
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    model.eval().requires_grad_(requires_grad=False)
    tensors = {name: TensorHeader(tuple(own.shape), "BF16") for name, own in model.named_parameters()}
    made = plan_memory("one layer", model_shape(config.to_dict(), tensors), WINDOWS, [80 * GIB])
    measured = {}
    for name, work, kept in work_on(model):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        measured[name] = torch.cuda.max_memory_allocated() - before - kept
    print(made.workspace, measured)  # noqa: T201 - numbers for who runs it
    assert max(measured.values()) <= made.workspace + made.kept


def test_the_plan_counts_by_the_numbers_of_the_modules_it_plans_for() -> None:
    for kind in ("cpu", "cuda"):
        assert memory_factors._BATCH_TOKENS[kind] == losses._BATCH_TOKENS[kind]
    assert (memory_factors._CHUNK_POSITIONS, memory_factors._CHUNK_LOGITS) == (
        losses.CHUNK_POSITIONS,
        losses.CHUNK_LOGITS,
    )
    assert memory_factors._QUEUED_ELEMENTS["cuda"] == sublayers._KRYLOV_ELEMENTS
    for kind in ("cpu", "mps", "cuda"):
        assert memory_factors._STACK_ELEMENTS[kind] == singular.batch_elements(torch.device(kind))
    assert (memory_factors._SLAB_ELEMENTS["cpu"], memory_factors._SLAB_ELEMENTS["cuda"]) == (
        slabs.CPU_SLAB_ELEMENTS,
        slabs.SLAB_ELEMENTS,
    )
    assert memory_plan._LEFT_FREE == target.WORKSPACE_SHARE
