"""The checkpoint formats that are known, in the order in which a directory is compared with them."""

from pytest_proofpack.models.formats.adapter import ADAPTER, ADAPTER_BESIDE_MODEL
from pytest_proofpack.models.formats.auto_round import AUTO_ROUND
from pytest_proofpack.models.formats.awq import AWQ
from pytest_proofpack.models.formats.bitsandbytes import BITSANDBYTES
from pytest_proofpack.models.formats.compressed_tensors import COMPRESSED_TENSORS, COMPRESSED_TENSORS_ASYMMETRIC
from pytest_proofpack.models.formats.distributed import DISTRIBUTED
from pytest_proofpack.models.formats.gguf import GGUF
from pytest_proofpack.models.formats.gptq import GPTQ
from pytest_proofpack.models.formats.named_weights import NAMED_WEIGHTS
from pytest_proofpack.models.formats.pickle import PICKLE
from pytest_proofpack.models.formats.quantized import FP8, MXFP4, MXFP8, QUANTIZED
from pytest_proofpack.models.formats.safetensors import SAFETENSORS
from pytest_proofpack.models.formats.torchao import TORCHAO

FORMATS = (
    ADAPTER_BESIDE_MODEL,
    ADAPTER,
    NAMED_WEIGHTS,
    DISTRIBUTED,
    GGUF,
    PICKLE,
    FP8,
    MXFP8,
    MXFP4,
    COMPRESSED_TENSORS_ASYMMETRIC,
    COMPRESSED_TENSORS,
    BITSANDBYTES,
    TORCHAO,
    GPTQ,
    AWQ,
    AUTO_ROUND,
    QUANTIZED,
    SAFETENSORS,
)
