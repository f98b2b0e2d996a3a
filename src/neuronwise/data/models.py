"""Models by name or folder, from safetensors only unless the user says otherwise."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from neuronwise.data.samples import bundled, is_bundled
from neuronwise.data.text import NO_LIMIT
from neuronwise.data.weights import CONVERT, PICKLES
from neuronwise.errors import DataError, InvalidArgumentError, UnsafeFileError, closest, require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LoadedModel", "load_model"]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model in evaluation mode, with what goes with it.

    Args:
        model: The model.
        tokenizer: Its tokenizer, or None where it has none. If it states no greatest length, it gets the model's.
        name: A short name for reports.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase | None
    name: str


def load_model(
    source: str | Path,
    *,
    task: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    allow_pickle: bool = False,
    local_files_only: bool | None = None,
) -> LoadedModel:
    """Load a transformers model and its tokenizer from a folder, or by its name on the Hugging Face hub.

    No code that comes with a model is ever run, and weights are read from safetensors.

    Args:
        source: A model folder, a name on the hub, or ``"stories260k"``, the small model that comes with the package.
        task: What the model is for, as transformers' auto classes name it, such as ``"CausalLM"``, ``"MaskedLM"`` or
            ``"SequenceClassification"``; None takes the class that the model's configuration names.
        device: Where to put the model.
        dtype: The type of the weights, such as ``torch.float32``; None takes the one they were saved in.
        allow_pickle: Also read weights saved by ``torch.save``, with torch's restricted (``weights_only``) reader.
        local_files_only: Do not ask the hub; None leaves it to the environment (``HF_HUB_OFFLINE``).

    Raises:
        UnsafeFileError: If there are weights, but only as pickles.
        DataError: If there is no model there, or it cannot be read.
        InvalidArgumentError: If there is no such device here.
        MissingExtraError: If transformers is not installed.

    Example:
        >>> loaded = load_model("stories260k")
        >>> loaded.name, type(loaded.model).__name__
        ('stories260k', 'LlamaForCausalLM')
    """
    transformers = require("transformers", "hf", "Loading a model by name or folder")
    _check_device(device)
    place, name = _place(source)
    if place.is_dir():
        _check_folder(place, allow_pickle)
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": bool(local_files_only)}
    address = str(place) if place.is_dir() else str(source)
    with _quiet(bars=not place.is_dir()):
        try:
            config = transformers.AutoConfig.from_pretrained(address, **options)
            model_class = _model_class(transformers, config, task)
            model, info = model_class.from_pretrained(
                address,
                config=config,
                dtype="auto" if dtype is None else dtype,
                use_safetensors=None if allow_pickle else True,
                weights_only=True,
                output_loading_info=True,
                **options,
            )
            tokenizer = _tokenizer(transformers, address, options)
        except Exception as error:
            # Configurations and weights are foreign, and can go wrong in any way; the cause is kept.
            raise _cannot_load(address, error, allow_pickle) from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        warnings.warn(
            f"{name} has no weights for {', '.join(missing[:5])} ({len(missing)} in all): "
            f"{type(model).__name__} has random ones there. Another task= may fit the weights better.",
            stacklevel=2,
        )
    _limit_length(tokenizer, model)
    return LoadedModel(model.to(device).eval(), tokenizer, name)


def _check_device(device: str | torch.device) -> None:
    """Raise before the weights are read if they cannot go there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = torch.accelerator.current_accelerator(check_available=True)
        here = [str(found)] if found is not None else []
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidArgumentError(
            f"The device {str(device)!r} cannot be used: {reason.rstrip('.')}. Here is: {', '.join(['cpu', *here])}."
        ) from error


def _place(source: str | Path) -> tuple[Path, str]:
    place = Path(source)
    if place.is_dir():
        return place, place.resolve().name
    if is_bundled(source):
        place = bundled(str(source))
        if not place.is_dir():
            raise DataError(f"{source!r} is a bundled corpus, not a model. Try load_model('stories260k').")
        return place, str(source)
    if place.is_file() or isinstance(source, Path) or str(source).startswith((".", "/", "~")):
        what = "is a file" if place.is_file() else "is not there"
        raise DataError(
            f"{source} {what}; a model is a folder with config.json and safetensors, or a name on the hub. "
            "For the weights of a model of your own there is load_weights(model, path)."
        )
    return place, str(source)


def _check_folder(folder: Path, allow_pickle: bool) -> None:
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    pickles = [file for file in files if Path(file).suffix in PICKLES and file != "training_args.bin"]
    if not any(file.endswith(".safetensors") for file in files):
        if pickles and not allow_pickle:
            raise UnsafeFileError(
                f"The weights in {folder} are only there as pickles ({', '.join(pickles[:3])}), and loading a pickle "
                f"can run any code. {CONVERT.format(out='model')} If you trust the files, pass allow_pickle=True: "
                "they are then read with torch's restricted reader (weights_only=True)."
            )
        if not pickles:
            raise DataError(
                f"The folder {folder} has no weights (*.safetensors). It has: {', '.join(files) or 'nothing'}."
            )
    if "config.json" not in files:
        raise DataError(
            f"The folder {folder} has no config.json, so it is not a transformers model. "
            "For the weights of a model of your own there is load_weights(model, path)."
        )


def _model_class(transformers: Any, config: Any, task: str | None) -> Any:
    if task is not None:
        auto = getattr(transformers, f"AutoModelFor{task}", None)
        if auto is None:
            known = [
                n.removeprefix("AutoModelFor") for n in dir(transformers) if n.startswith("AutoModelFor")
            ]
            raise DataError(f"There is no task {task!r}. {closest(task, known)}")
        return auto
    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, name, None)
        if found is not None and hasattr(found, "from_pretrained"):
            return found
    return transformers.AutoModel


def _tokenizer(transformers: Any, address: str, options: dict[str, Any]) -> Any:
    """Return the model's tokenizer, or None: models of images and sounds have none."""
    try:
        return transformers.AutoTokenizer.from_pretrained(address, **options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError):
        return None


def _limit_length(tokenizer: Any, model: nn.Module) -> None:
    """Give a tokenizer that states no greatest length that of the model's positions, where longer texts fail."""
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if tokenizer is None or tokenizer.model_max_length < NO_LIMIT or not isinstance(positions, int):
        return
    for name, module in model.named_modules():
        # Models of the RoBERTa kind count positions from behind the number that padding has.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            positions = min(positions, module.num_embeddings - skipped)
    if positions > 0:
        tokenizer.model_max_length = positions


def _cannot_load(address: str, error: Exception, allow_pickle: bool) -> DataError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if not allow_pickle and "safetensors" in str(error):
        return UnsafeFileError(
            f"{address} has no weights as safetensors ({reason}). If you trust its pickles, pass allow_pickle=True: "
            "they are then read with torch's restricted reader (weights_only=True)."
        )
    return DataError(f"Cannot load the model {address!r}: {reason}")


@contextmanager
def _quiet(*, bars: bool) -> Iterator[None]:
    """Keep transformers' warnings, and its progress bars unless wanted, off the screen; put everything back."""
    chatter: Any = importlib.import_module("transformers.utils.logging")
    level, shown = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chatter.set_verbosity_error()
        if not bars:
            chatter.disable_progress_bar()
        try:
            yield
        finally:
            chatter.set_verbosity(level)
            if shown:
                chatter.enable_progress_bar()
