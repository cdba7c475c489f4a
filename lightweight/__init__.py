"From annotated waste photos to one small, fast, honestly measured classifier."
import warnings

__version__ = "0.1.0"

# Libraries that are imported here still use TorchScript, and PyTorch says so at every start: nothing that a user could change.
warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
