"""What is known of torch's own module classes: versions, and which write their own state dict.

The lists are those of torch 2.13; a test compares them with the classes themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.spec.index import Opaque

#: Where classes of older torch have moved to.
_MOVED = {
    f"torch.{old}.": f"torch.ao.{old}."
    for old in (
        *(f"nn.{kind}" for kind in ("quantized", "quantizable", "qat", "intrinsic")),
        "quantization",
    )
}


def _symbols(groups: Mapping[str, str]) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for module in groups for name in groups[module].split())


_CONVS = "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d"

#: Classes that change what goes into their state dict.
OVERRIDING = _symbols(
    {
        "torch.ao.nn.intrinsic.quantized.dynamic.modules.linear_relu": "LinearReLU",
        "torch.ao.nn.intrinsic.quantized.modules.conv_add": "ConvAdd2d ConvAddReLU2d",
        "torch.ao.nn.intrinsic.quantized.modules.conv_relu": "ConvReLU1d ConvReLU2d ConvReLU3d",
        "torch.ao.nn.intrinsic.quantized.modules.linear_relu": (
            "LinearLeakyReLU LinearReLU LinearTanh"
        ),
        "torch.ao.nn.quantized.dynamic.modules.conv": _CONVS,
        "torch.ao.nn.quantized.dynamic.modules.linear": "Linear",
        "torch.ao.nn.quantized.dynamic.modules.rnn": (
            "GRUCell LSTMCell PackedParameter RNNCell RNNCellBase"
        ),
        "torch.ao.nn.quantized.modules.conv": f"{_CONVS} _ConvNd _ConvTransposeNd",
        "torch.ao.nn.quantized.modules.embedding_ops": "EmbeddingPackedParams",
        "torch.ao.nn.quantized.modules.functional_modules": "QFunctional",
        "torch.ao.nn.quantized.modules.linear": "Linear LinearPackedParams",
        "torch.ao.nn.quantized.reference.modules.conv": f"{_CONVS} _ConvNd _ConvTransposeNd",
        "torch.ao.nn.quantized.reference.modules.linear": "Linear",
        "torch.ao.nn.quantized.reference.modules.sparse": "Embedding EmbeddingBag",
        "torch.ao.nn.quantized.reference.modules.utils": "ReferenceQuantizedModule",
        "torch.ao.nn.sparse.quantized.dynamic.linear": "Linear",
        "torch.ao.nn.sparse.quantized.linear": "Linear LinearPackedParams",
        "torch.ao.pruning._experimental.pruner.parametrization": "FakeStructuredSparsity",
        "torch.ao.pruning.sparsifier.utils": "FakeSparsity",
        "torch.ao.quantization.fake_quantize": (
            "FakeQuantize FixedQParamsFakeQuantize FusedMovingAvgObsFakeQuantize"
        ),
        "torch.ao.quantization.observer": "HistogramObserver",
        "torch.distributed.nn.api.remote_module": "RemoteModule _RemoteModule",
    }
)

_BATCH_NORMS = "BatchNorm1d BatchNorm2d BatchNorm3d"
_INSTANCE_NORMS = "InstanceNorm1d InstanceNorm2d InstanceNorm3d"
_QAT_CONVS = "ConvBn1d ConvBn2d ConvBn3d ConvBnReLU1d ConvBnReLU2d ConvBnReLU3d _ConvBnNd"

#: ``_version`` where it is not 1.
_VERSIONS = {
    symbol: version
    for version, groups in (
        (
            2,
            {
                "torch.nn.modules.batchnorm": (
                    f"{_BATCH_NORMS} LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d SyncBatchNorm "
                    "_BatchNorm _LazyNormBase _NormBase"
                ),
                "torch.nn.modules.instancenorm": (
                    f"{_INSTANCE_NORMS} LazyInstanceNorm1d LazyInstanceNorm2d LazyInstanceNorm3d "
                    "_InstanceNorm"
                ),
                "torch.ao.nn.intrinsic.qat.modules.conv_fused": _QAT_CONVS,
                "torch.ao.nn.intrinsic.quantized.modules.bn_relu": "BNReLU2d BNReLU3d",
                "torch.ao.nn.quantized.dynamic.modules.rnn": "GRU LSTM RNNBase",
                "torch.ao.nn.quantized.modules.batchnorm": "BatchNorm2d BatchNorm3d _BatchNorm",
                "torch.ao.nn.quantized.modules.normalization": _INSTANCE_NORMS,
            },
        ),
        (
            3,
            {
                "torch.ao.nn.intrinsic.quantized.modules.linear_relu": (
                    "LinearLeakyReLU LinearReLU LinearTanh"
                ),
                "torch.ao.nn.quantized.modules.linear": "Linear LinearPackedParams",
                "torch.ao.quantization.observer": (
                    "HistogramObserver MinMaxObserver MovingAverageMinMaxObserver "
                    "MovingAveragePerChannelMinMaxObserver PerChannelMinMaxObserver "
                    "UniformQuantizationObserverBase"
                ),
            },
        ),
        (
            4,
            {
                "torch.ao.nn.intrinsic.quantized.dynamic.modules.linear_relu": "LinearReLU",
                "torch.ao.nn.quantized.dynamic.modules.linear": "Linear",
            },
        ),
    )
    for symbol in _symbols(groups)
}


def todays_symbol(symbol: str) -> str:
    """The symbol under which today's torch has a class of an older torch."""
    for old, new in _MOVED.items():
        if symbol.startswith(old):
            return new + symbol.removeprefix(old)
    return symbol


def is_torchs_own(symbol: str) -> bool:
    """Whether a class is of torch itself, so that what it does is known."""
    return symbol.startswith("torch.")


def overrides_state_dict(symbol: str) -> bool:
    """Whether a class of torch is known to change what goes into its state dict."""
    return todays_symbol(symbol) in OVERRIDING


def version_of(node: Opaque, state: Mapping[str, Any]) -> int:
    """The version that a module's class writes beside its names.

    A class of somebody's own inherits that of the class it is derived from; only batch and instance
    norms have ``num_batches_tracked``, in use or not.
    """
    found = _VERSIONS.get(todays_symbol(node.symbol))
    if found is not None:
        return found
    buffers = state["_buffers"]
    return 2 if isinstance(buffers, Mapping) and "num_batches_tracked" in buffers else 1
