"""One model that needs two GPUs or more, certified in one session: a 34B- or 72B-shaped one with random weights.

    python -m benchmarks.divided_model --shape 34b --folder /dev/shm     # 69 GB there
    python -m benchmarks.divided_model --shape 72b --folder /dev/shm     # 145 GB there, and GPUs of 80 GB or more
    python -m benchmarks.divided_model --shape 34b --gpu-memory 60 --only 'calibration or 4bit or tying'
    python -m benchmarks.divided_model --shape 72b --folder /dev/shm --keep      # writes them, and uses them again

Weights are random, so verdicts mean nothing: a model that guesses passes nowhere, every certificate fails
``baseline_acceptable`` and the session ends as FAIL. What fails besides, and how long it takes, does. They are made and
written in files of five layers each, so that the whole model is nowhere but in the folder and on the GPUs. Prints the
session's seconds by the wall clock and how busy every GPU was from start to end; for each certificate its seconds,
those of its forward passes, and the gates that failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pynvml
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.scaling import Watch
from pytest_proofpack.plan.suites import suites_directory

SHAPES: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "34b": ("01-ai/Yi-34B", "LlamaConfig", {
        "hidden_size": 7168, "intermediate_size": 20480, "num_hidden_layers": 60, "num_attention_heads": 56,
        "num_key_value_heads": 8, "vocab_size": 64000,
    }),
    "72b": ("Qwen/Qwen1.5-72B", "Qwen2Config", {
        "hidden_size": 8192, "intermediate_size": 24576, "num_hidden_layers": 80, "num_attention_heads": 64,
        "num_key_value_heads": 64, "vocab_size": 152064,
    }),
    "trial": ("Qwen/Qwen1.5-72B", "Qwen2Config", {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 32, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": 2048,
    }),
}  # fmt: skip
SUITE = """
schema = "proof_pack_suite_v1"
name = "divided"
[[models]]
id = "{name}"
path = "model"
[text]
provider = "synthetic"
documents = 12000
"""
SUITE_FILE = "divided.toml"
ONE_EACH = "calibration:1,clean:1,stress:1,error:1"
LAYERS_PER_FILE = 5
FILES_AT_A_TIME = 6
DEVIATION = 0.02


def build(folder: Path, shape: str, layers: int | None) -> None:
    """Write the weights file by file, with the embedded tokenizer, and a suite."""
    name, kind, values = SHAPES[shape]
    if layers is not None:
        values = {**values, "num_hidden_layers": layers}
    config = getattr(transformers, kind)(**values, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    files: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for parameter, values_of in model.state_dict().items():
        parts = parameter.split(".")
        layer = next((int(part) for part in parts if part.isdigit()), None)
        group = "rest" if layer is None else f"{layer // LAYERS_PER_FILE:03}"
        files[f"model-{group}.safetensors"][parameter] = tuple(values_of.shape)
    model_folder = folder / "model"
    model_folder.mkdir()
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def write(number: int, file: str) -> None:
        generator = torch.Generator(device).manual_seed(number)
        weights = {parameter: _random(parameter, size, generator) for parameter, size in files[file].items()}
        save_file(weights, model_folder / file, {"format": "pt"})

    with ThreadPoolExecutor(FILES_AT_A_TIME) as pool:
        list(pool.map(write, range(len(files)), files))
    index = {parameter: file for file, shapes in files.items() for parameter in shapes}
    text = json.dumps({"metadata": {}, "weight_map": index})
    (model_folder / "model.safetensors.index.json").write_text(text)
    config.architectures = [type(model).__name__]
    config.dtype = "bfloat16"
    config.save_pretrained(model_folder)
    AutoTokenizer.from_pretrained(suites_directory() / "tiny_model").save_pretrained(model_folder)
    (folder / SUITE_FILE).write_text(SUITE.format(name=name))


def _random(parameter: str, size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return what a freshly made model would hold: ones in norms, zeros in biases, small random numbers elsewhere."""
    if len(size) == 1:
        return (torch.zeros if parameter.endswith("bias") else torch.ones)(size, dtype=torch.bfloat16)
    values = torch.randn(size, generator=generator, device=generator.device, dtype=torch.bfloat16)
    return (values * DEVIATION).cpu()


def run_session(folder: Path, only: str, memory: float | None, gpus: int, *, verbose: bool) -> None:
    """Certify the model, one worker per GPU, and print what came out."""
    out = folder / f"run_{memory}"
    command = [sys.executable, "-m", "pytest", f"--proofpack-suite={folder / SUITE_FILE}", f"--proofpack-out={out}",
               f"--proofpack-runs={ONE_EACH}", "--proofpack-sign=off", "-q", "-p", "no:cacheprovider",
               f"-n{max(1, gpus)}", "-k", only]  # fmt: skip
    command += [] if memory is None else [f"--proofpack-gpu-memory={memory}"]
    environment = {**os.environ}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    with Watch(gpus) as watch:
        session = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    busy = " ".join(f"{share:.0f} %" for share in watch.shares)
    print(f"session: {time.perf_counter() - start:.1f} s, exit status {session.returncode}; GPUs busy {busy}")
    errors = session.stdout.partition("= FAILURES =")[2] or session.stdout[-2000:] if verbose else ""
    print(*(line for line in errors.splitlines() if line.startswith(("E ", "FAILED", "ERROR"))), sep="\n")
    for path in sorted(out.glob("*/certificates/**/evaluation.cert.json")):
        certificate = json.loads(path.read_text())
        seconds = certificate["volatile"]["seconds"]
        failed = certificate["outcome"]["failed_gates"]
        scenario = certificate["scenario"]["id"]
        passes = seconds.get("forward", 0.0)
        print(f"  {scenario:24}{sum(seconds.values()):7.1f} s{passes:7.1f} s forward  {' '.join(failed) or 'all hold'}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="34b")
    parser.add_argument("--layers", type=int, help="another number of layers than the shape's")
    parser.add_argument("--folder", type=Path, help="where the weights are written; a folder for temporary files else")
    parser.add_argument(
        "--gpu-memory", type=float, nargs="*", default=[None], help="GiB to use of each GPU, a session each"
    )
    parser.add_argument("--keep", action="store_true", help="leave the weights there, and use those that are")
    parser.add_argument("--no-session", action="store_true", help="write the weights, and certify nothing")
    parser.add_argument("--verbose", action="store_true", help="show what pytest says of items that failed")
    parser.add_argument("--only", default="", help="the certificates to make, as pytest's -k; all by default")
    options = parser.parse_args()
    gpus = 0
    if torch.cuda.is_available():
        pynvml.nvmlInit()
        gpus = pynvml.nvmlDeviceGetCount()
    with contextlib.ExitStack() as stack:
        if options.keep:
            folder = (options.folder or Path()) / f"divided_{options.shape}"
            folder.mkdir(exist_ok=True)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        start = time.perf_counter()
        if not (folder / SUITE_FILE).is_file():
            build(folder, options.shape, options.layers)
        print(f"{options.shape}: weights written in {time.perf_counter() - start:.1f} s; {gpus} GPUs", flush=True)
        for memory in () if options.no_session else options.gpu_memory:
            run_session(folder, options.only, memory, gpus, verbose=options.verbose)


if __name__ == "__main__":
    main()
