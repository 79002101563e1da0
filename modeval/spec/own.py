"""The user's own code: which file and name, its digest, and what was loaded of it.

One door for models, scorers and gatings: ``path/to/file.py:Name``. A specification holds the file's
own name, what is taken from it, and a digest of its text; a run folder keeps a copy. Text becomes
code in :func:`take` alone, and ``take`` is called for a file that the user named, or for one that
came with a run after the user consented. Whoever needs the code asks for it by its digest
(:func:`loaded`), so that nothing that was not consented to can run.
"""

import hashlib
import re
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from modeval.errors import CodeError, nearest
from modeval.spec.checks import check

if TYPE_CHECKING:  # settings are read where torch is not yet loaded
    from torch import Tensor

    from modeval.types import Noise

FORM = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)", re.DOTALL)
"""``path/to/file.py:Name``."""


@dataclass(frozen=True, slots=True)
class Code:
    """Something that a file of the user's defines.

    Attributes:
        code: the file, ``:`` and the name in it.
        digest: of the text of the file; empty until it was read.

    >>> Code("mine/routers.py:Rounded").name
    'Rounded'
    """

    code: str
    digest: str = ""

    def __post_init__(self) -> None:
        check(
            bool(FORM.fullmatch(self.code)),
            f"code = {self.code!r}: expected a Python file and a name in it, as "
            "path/to/file.py:ClassName.",
        )

    @property
    def path(self) -> Path:
        """Return the file."""
        return Path(self.code.rpartition(":")[0])

    @property
    def name(self) -> str:
        """Return what is taken from the file."""
        return self.code.rpartition(":")[2]


def is_code(text: str) -> bool:
    """Tell whether a text names something in a Python file.

    >>> is_code("mine.py:Router"), is_code("modular-op")
    (True, False)
    """
    return FORM.fullmatch(text) is not None


def with_own(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a model with files of the user's in the place of names of choices.

    >>> with_own({"gating": {"kind": "mine.py:hard"}, "width": 8})
    {'gating': {'kind': 'own', 'code': 'mine.py:hard'}, 'width': 8}
    """
    laid = dict(model)
    scorer, gating = laid.get("scorer"), laid.get("gating")
    if isinstance(scorer, str) and is_code(scorer):
        laid |= {"scorer": "own", "own_scorer": {"code": scorer}}
    if isinstance(gating, str):
        gating = {"kind": gating}
    if isinstance(gating, Mapping) and is_code(str(gating.get("kind", ""))):
        laid["gating"] = {**gating, "kind": "own", "code": gating["kind"]}
    return laid


@dataclass(frozen=True, slots=True)
class OwnGating:
    """A gating that a file of the user's defines: ``gating(logits) -> weights``.

    A function of logits ``(S, N, M)``, which treats each seed and each sample alone. What differs
    from that it says by attributes of its name, as the classes of :mod:`modeval.spec.gatings` do:
    ``logits``, ``chance``, ``batchwise``, ``sparse``; with ``chance`` it takes ``noise`` as well.

    Attributes:
        code: the file, ``:`` and the name in it.
        digest: of the text of the file; empty until it was read.
    """

    kind: Literal["own"] = "own"
    code: str = field(default="", metadata={"flag": False})
    digest: str = field(default="", metadata={"flag": False})
    usual: ClassVar[dict[str, Any]] = {
        "logits": 1, "chance": -1, "batchwise": False, "sparse": False, "anneals": False,
    }  # fmt: skip

    @property
    def source(self) -> Code:
        """Return where it is defined."""
        return Code(self.code, self.digest)

    def _said(self, fact: str) -> Any:
        return getattr(loaded(self.source), fact, self.usual[fact])

    @property
    def logits(self) -> int:
        """Numbers that a scorer gives for each module."""
        return int(self._said("logits"))

    @property
    def chance(self) -> int:
        """Uniform numbers for each sample and module in training; -1 for none."""
        return int(self._said("chance"))

    @property
    def batchwise(self) -> bool:
        """Whether a sample's weights depend on its batch."""
        return bool(self._said("batchwise"))

    @property
    def sparse(self) -> bool:
        """Whether modules with weight 0 were not chosen."""
        return bool(self._said("sparse"))

    @property
    def anneals(self) -> bool:
        """Whether it changes in the course of training."""
        return bool(self._said("anneals"))

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return weights."""
        gating = loaded(self.source)
        with blamed(self.source):
            weight: Tensor = gating(logits) if self.chance < 0 else gating(logits, noise)
        return weight


# --- from text to code ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """A file whose code was loaded.

    Attributes:
        text: of the file.
        names: what it defines.
    """

    text: bytes
    names: types.ModuleType


_LOADED: dict[str, Source] = {}
"""By digest: what the user named, or consented to, in this process."""


def digest_of_text(text: bytes) -> str:
    """Return the short name of a text."""
    return hashlib.sha256(text).hexdigest()[:16]


def take(path: Path, wanted: Code) -> Code:
    """Run a file that the user named or consented to; return its code with the digest.

    Args:
        path: the file.
        wanted: what is taken from it; a digest that it has already must be the file's.

    Raises:
        CodeError: there is no such file or name, it is another text, or it fails.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CodeError(
            f"{path}: {error.strerror or error}. Expected a Python file and a name in it, as "
            f"path/to/file.py:{wanted.name}."
        ) from None
    digest = digest_of_text(text)
    if wanted.digest not in ("", digest):
        raise CodeError(
            f"{path} was changed: its digest is {digest}, and the run was made with "
            f"{wanted.digest}. Put the text back, or train into another folder."
        )
    if digest not in _LOADED:
        _LOADED[digest] = Source(text, _executed(text, path, digest))
    code = Code(f"{path.name}:{wanted.name}", digest)
    loaded(code)
    return code


def loaded(code: Code) -> Any:
    """Return what a name stands for in a file that was loaded.

    Raises:
        CodeError: the file was not loaded in this process, or has no such name.
    """
    source = _LOADED.get(code.digest)
    if source is None:
        raise CodeError(
            f"{code.code} is code that comes with a run (digest {code.digest}), and code is run "
            f"only if you say so. Read {code.path.name} in the folder code/ of the run; to run it "
            "with your rights add --trust-code (in Python trust_code=True), or name your own file "
            "again."
        )
    names = vars(source.names)
    if code.name not in names:
        known = [name for name in names if not name.startswith("_")]
        raise CodeError(
            f"{code.path.name} defines no {code.name}{nearest(code.name, known)}. Name a class or "
            "a function of it, after the colon."
        )
    return names[code.name]


def text_of(code: Code) -> bytes:
    """Return the text of a file that was loaded."""
    return _LOADED[code.digest].text


def _executed(text: bytes, path: Path, digest: str) -> types.ModuleType:
    module = types.ModuleType(f"modeval_own_{digest}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)  # noqa: S102 - what the door is for
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise CodeError(f"{path} cannot be loaded: {_told(error, str(path))}") from error
    return module


class blamed:  # noqa: N801 - a context manager, used as a word
    """Turn what fails in the user's code into an error that names the line of the user's file."""

    def __init__(self, code: Code) -> None:
        self.code = code

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raise what the user can act on."""
        if not isinstance(error, Exception) or isinstance(error, CodeError):
            return
        file = getattr(_LOADED.get(self.code.digest), "names", None)
        place = getattr(file, "__file__", "") or self.code.path.name
        raise CodeError(f"{self.code.code} failed: {_told(error, place)}") from error


def _told(error: BaseException, file: str) -> str:
    """Return an error with the last line of the user's file that it went through."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        line = error.lineno or 0
    first = (str(error).strip() or type(error).__name__).partition("\n")[0]
    where = f"line {line}: " if line else ""
    return f"{where}{type(error).__name__}: {first}"
