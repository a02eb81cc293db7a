"""Where a model's files come from: a folder, or the hub as far as it can be reached."""

import json
import ssl
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from transformers.utils.hub import cached_file

from ...domain.config import Config
from ...domain.refusal import Refusal

_PATIENCE_S = 5.0
_LFS = b"version https://git-lfs"


def source(config: Config) -> dict[str, Any]:
    """Returns what to tell each of transformers' from_pretrained about where a checkpoint comes from."""
    told: dict[str, Any] = {"trust_remote_code": False}
    if config.revision:
        told["revision"] = config.revision
    if not Path(config.model).is_dir() and not is_reachable():
        told["local_files_only"] = True
    return told


class Files:
    """The files of one checkpoint, by name."""

    def __init__(self, config: Config) -> None:
        """Raises Refusal for a model that is neither a folder nor could be a name on the hub."""
        _check_place(config.model)
        self.model = config.model
        self.source = {key: value for key, value in source(config).items() if key != "trust_remote_code"}
        """What to tell transformers about where they come from."""
        self.folder = Path(config.model) if Path(config.model).is_dir() else None
        """The folder; None for a name on the hub."""
        self.is_offline = "local_files_only" in self.source
        """Whether the hub cannot be asked."""

    def find(self, name: str) -> Path | None:
        """Returns a file, fetched from the hub if need be; None if there is none of that name.

        Raises OSError if the hub has no such model, or does not give it to us.
        """
        if self.folder:
            return self.folder / name if (self.folder / name).is_file() else None
        path = cached_file(self.model, name, _raise_exceptions_for_missing_entries=False, **self.source)
        return Path(path) if path else None

    def read_object(self, name: str) -> dict[str, Any] | None:
        """Returns the object that a JSON file holds; None if there is no such file. Raises Refusal if it holds none."""
        path = self.find(name)
        if path is None:
            return None
        text = path.read_bytes()
        if text.startswith(_LFS):
            raise Refusal(f"{name} is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`")
        try:
            value = json.loads(text.decode())
        except (ValueError, RecursionError) as error:
            raise Refusal(f"{name} is {'not JSON: ' + str(error) if text else 'empty'}: download it again") from error
        if not isinstance(value, dict):
            raise Refusal(f"{name} must hold a JSON object, and holds {kind_of(value)}: download it again")
        return value


def kind_of(value: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    """Returns what JSON calls a value, with its article."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _check_place(model: str) -> None:
    """Raises Refusal for what is neither a folder nor could be a name on the hub.

    Of what looks like a path transformers would say that it is no good name for the hub, or look for it there.
    """
    path = Path(model)
    if path.is_dir() and model:
        return
    if path.is_file() and path.suffix == ".gguf":
        raise Refusal("it is a GGUF file, which textserve does not read: give the folder of the model it was made from")
    if path.is_file():
        raise Refusal("it is a file: give the folder that it lies in")
    if model.startswith(("/", ".", "~")):
        raise Refusal("there is no such folder")
    try:
        validate_repo_id(model)
    except HFValidationError as error:
        raise Refusal("there is no such folder, and the hub has no such names") from error


def is_reachable() -> bool:
    """Returns whether the hub can be reached: asked once, with one request and no retry.

    transformers would ask for every file, and try again for half a minute each time.
    """
    return not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT)


@cache
def _answers(endpoint: str) -> bool:
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the operator's own setting
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE_S):  # noqa: S310 - the same
            return True
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        # Certificates are the business of whoever downloads; other errors are those of a connection.
        return isinstance(error.reason, ssl.SSLError) or not isinstance(error.reason, OSError)
    except OSError:
        return False


def unreachable(model: str) -> Refusal:
    """Returns why a model is refused of which this machine has no copy, while the hub cannot be reached."""
    place = "is switched off by HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "cannot be reached"
    return Refusal(
        f"there is no folder {Path.cwd() / model}, and {constants.ENDPOINT} {place}, "
        "nor is the model in its cache on this machine"
    )
