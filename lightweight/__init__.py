"Train small, fast waste classifiers from annotated photos, and know how far to trust them."
import warnings
from importlib import import_module

__version__ = "0.1.0"

# The names that people import most, loaded when they are first used: `import lightweight` alone brings no PyTorch.
_MODULES = {
    "data.coco": ["read_coco"], "data.crops": ["read_manifest"], "data.splits": ["make_splits"],
    "models.build": ["build_network"], "models.complexity": ["count_macs", "count_parameters"],
    "metrics.metrics": ["competition_score", "compute_metrics"],
    "training.checkpoint": ["load_checkpoint"], "deploy.runtime": ["Predictor"],
    **{f"stages.{stage}": [stage, f"{stage.capitalize()}Settings"]
       for stage in ("crop", "train", "tune", "compress", "export", "evaluate", "compare")}}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = ["__version__", *_PLACES]


def __getattr__(name):
    if name not in _PLACES: raise AttributeError(f"module 'lightweight' has no attribute {name!r}")
    return getattr(import_module(f"lightweight.{_PLACES[name]}"), name)


def __dir__(): return sorted(__all__)


# Libraries that are imported here still use TorchScript, and PyTorch says so at every start; no user can change that.
warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
