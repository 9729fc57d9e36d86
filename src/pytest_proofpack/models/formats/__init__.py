"""The checkpoint formats that are known, in the order in which a directory is compared with them."""

from pytest_proofpack.models.formats.adapter import ADAPTER, ADAPTER_BESIDE_MODEL
from pytest_proofpack.models.formats.distributed import DISTRIBUTED
from pytest_proofpack.models.formats.named_weights import NAMED_WEIGHTS
from pytest_proofpack.models.formats.pickle import PICKLE
from pytest_proofpack.models.formats.quantized import FP8, MXFP4, QUANTIZED
from pytest_proofpack.models.formats.safetensors import SAFETENSORS

FORMATS = (ADAPTER_BESIDE_MODEL, ADAPTER, NAMED_WEIGHTS, DISTRIBUTED, PICKLE, FP8, MXFP4, QUANTIZED, SAFETENSORS)
