"""Multi-view source separation with diffusion priors, learned from mixtures alone  (arXiv 2510.05205).

model = mvss.SourceSeparator("vectors").fit([alone, both])      draws = model.separate(both, draws=10)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mvss.presets.estimation import AscentConfig, MixtureEMConfig, Noisier2NoiseConfig
from mvss.presets.posterior import (
    AmortisedConfig,
    AutoConfig,
    CGConfig,
    ExactConfig,
    GibbsConfig,
    MomentMatchingConfig,
    SamplerConfig,
    SplitGibbsConfig,
)
from mvss.presets.settings import EMConfig, PriorConfig, Settings
from mvss.presets.training import NetworkConfig, TrainingConfig
from mvss.runtime.errors import MvssError

if TYPE_CHECKING:
    from mvss.problem.image_operators import BlockAverage, Convolve
    from mvss.problem.noise import Diagonal, Isotropic, Noise, Stationary
    from mvss.problem.operators import Composition, Dense, Identity, LinearOperator, Mask, Scale
    from mvss.problem.stack import Stack, Sum
    from mvss.problem.views import View
    from mvss.separator import SourceSeparator

__version__ = "0.1.0"

__all__ = [
    "SourceSeparator",
    "View",
    "MvssError",
    "LinearOperator",
    "Dense",
    "Identity",
    "Scale",
    "Mask",
    "BlockAverage",
    "Convolve",
    "Composition",
    "Stack",
    "Sum",
    "Noise",
    "Isotropic",
    "Diagonal",
    "Stationary",
    "Settings",
    "AscentConfig",
    "MixtureEMConfig",
    "Noisier2NoiseConfig",
    "PriorConfig",
    "NetworkConfig",
    "TrainingConfig",
    "EMConfig",
    "ExactConfig",
    "MomentMatchingConfig",
    "GibbsConfig",
    "SplitGibbsConfig",
    "AmortisedConfig",
    "AutoConfig",
    "SamplerConfig",
    "CGConfig",
]

_LATER = {
    "mvss.problem.image_operators": (
        "BlockAverage",
        "Convolve",
    ),
    "mvss.problem.noise": (
        "Diagonal",
        "Isotropic",
        "Noise",
        "Stationary",
    ),
    "mvss.problem.operators": (
        "Composition",
        "Dense",
        "Identity",
        "LinearOperator",
        "Mask",
        "Scale",
    ),
    "mvss.problem.stack": ("Stack", "Sum"),
    "mvss.problem.views": ("View",),
    "mvss.separator": ("SourceSeparator",),
}
"""Names by the module that has them: all that need torch, which takes seconds to import."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the names above
    """Import what is asked for first now."""
    for module, names in _LATER.items():
        if name in names:
            found = globals()[name] = getattr(import_module(module), name)
            return found
    raise AttributeError(f"module 'mvss' has no attribute {name!r}")
