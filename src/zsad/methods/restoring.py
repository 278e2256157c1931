"""From the content of a checkpoint to a method: which options a file may set, and which the user decides.

A checkpoint comes from anywhere. It may set numbers, switches and words of a known list; it never sets what touches the
network, the environment, a path or a process, whatever it says. Those options are the user's to give again by hand.
"""

import collections.abc
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

from zsad.clip.loading import is_named
from zsad.prompts import list_prompts
from zsad.weights.checkpoints import CheckpointError, is_ours

_HARMLESS = {"cache_dir", "llm_cache"}  # where things are kept; they decide no number
_PLAIN = (bool, int, float, type(None))
_SHOWN = 60  # characters of a foreign value in a message

M = TypeVar("M")


def constructor_options(kind: type[Any]) -> dict[str, inspect.Parameter]:
    """Return all constructor arguments of a method or data module by name, those handed on to parents included.

    Annotations are resolved where that is possible.
    """
    found: dict[str, inspect.Parameter] = {}
    for parent in kind.__mro__:
        if "__init__" not in vars(parent) or parent.__module__.partition(".")[0] in ("torch", "lightning", "builtins"):
            continue
        function = vars(parent)["__init__"]
        try:
            hints = typing.get_type_hints(function)
        except Exception:  # a class from elsewhere may name types that are not there at run time
            hints = {}
        for name, value in list(inspect.signature(function).parameters.items())[1:]:
            if value.kind not in (value.VAR_KEYWORD, value.VAR_POSITIONAL) and name not in found:
                found[name] = value.replace(annotation=hints.get(name, Any))
    return found


def may_be_stored(annotation: Any) -> bool:
    """Whether a checkpoint may set an option of this type: numbers, switches, words of a list, and lists of these."""
    if annotation in _PLAIN:
        return True
    origin, inner = get_origin(annotation), [one for one in get_args(annotation) if one is not Ellipsis]
    if origin is Literal:
        return True
    if origin in (typing.Union, types.UnionType, list, tuple, collections.abc.Sequence):
        return all(map(may_be_stored, inner))
    return False


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of a type that :func:`may_be_stored`; lists and tuples are the same thing here."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin in (list, tuple, collections.abc.Sequence):
        if not isinstance(value, (list, tuple)):
            return False
        if origin is tuple and Ellipsis not in inner:
            return len(value) == len(inner) and all(map(fits, value, inner))
        return all(fits(one, inner[0]) for one in value)
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return annotation in _PLAIN and type(value) is annotation


def stored_options(kind: Any, saved: Mapping[str, Any], given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the constructor options that a checkpoint sets, without those given by hand.

    Args:
        kind: The method's class.
        saved: Content of the checkpoint.
        given: Options that the user gave; they win.
        source: What to call the checkpoint in messages.

    Raises:
        CheckpointError: The checkpoint is of another class, or was made with an option that is never taken from a file
            and that the user did not give again; or an option given by hand contradicts what was learned.
    """
    if not is_ours(dict(saved)):
        raise CheckpointError(f"'{source}' is not a checkpoint written by 'zsad fit' or a Trainer with a zsad method.")
    made_by = saved["zsad"].get("method", kind.__name__)
    if made_by != kind.__name__:
        raise CheckpointError(
            f"'{source}' was written by {_shown(made_by, '')}, not by {kind.__name__}: choose that method."
        )
    options = constructor_options(kind)
    hyper_parameters = saved.get("hyper_parameters") or {}
    if not isinstance(hyper_parameters, Mapping):
        raise CheckpointError(f"'{source}' holds no table of options, but {type(hyper_parameters).__name__}.")
    free = free_options(kind)
    result: dict[str, Any] = {}
    for name, value in hyper_parameters.items():
        # Lightning's command line adds notes of its own, with an underscore in front
        if str(name).startswith("_") or name == "backbone":
            continue
        if name not in options:
            raise CheckpointError(f"'{source}' sets '{_shown(name, '')}', which {kind.__name__} does not have.")
        parameter = options[name]
        allowed = _allowed(kind, name, value, parameter.annotation)
        if name in given:
            if allowed and free is not None and name not in free and _plain(given[name]) != _plain(value):
                raise CheckpointError(
                    f"'{source}' was trained with {name}={_shown(value)}, which decides what it learned: it cannot be "
                    f"used with {name}={_shown(given[name])}. Leave {name} out, or train with it."
                )
        elif allowed:
            result[name] = tuple(value) if isinstance(value, list) else value
        elif _plain(value) != _plain(parameter.default) and name not in _HARMLESS:
            raise CheckpointError(
                f"'{source}' was made with {name}={_shown(value)}. A file never sets {name}, since it may touch the "
                f"network, paths or other programs: give {name} again by hand, or {name}={_shown(parameter.default)} "
                f"for the default."
            )
    return result


def refuse_from_file(kind: Any, options: Mapping[str, Any], source: str, words: frozenset[str] = frozenset()) -> None:
    """See that options from a file are such as a file may set: no path, no endpoint, no program.

    Args:
        kind: A method or a data module.
        options: Constructor options that the file names.
        source: The file.
        words: Options that are names and nothing else.

    Raises:
        ValueError: One is not.
    """
    known = constructor_options(kind)
    for name, value in options.items():
        fine = name in words and _is_words(value)
        if name not in known or not (fine or _allowed(kind, name, value, known[name].annotation)):
            raise ValueError(
                f"'{source}' sets {name}={_shown(value)} for {kind.__name__}, which a file may not: it may touch the "
                f"network, paths or other programs. Run 'zsad benchmark' with it by hand instead."
            )


def free_options(kind: Any) -> frozenset[str] | None:
    """Return the options that decide nothing about what a class learned; None for all, where nothing is learned."""
    if not hasattr(kind, "training_stages") and not kind.learns():
        return None
    return frozenset(name for parent in kind.__mro__ for name in vars(parent).get("free_options", ()))


def stored_backbone(kind: Any, saved: Mapping[str, Any], source: str) -> str:
    """Return the name of the backbone that a checkpoint was made for.

    Raises:
        CheckpointError: It is a path or a place in the network, and not one of open_clip's names.
    """
    name = (saved.get("hyper_parameters") or {}).get("backbone") or saved["zsad"].get("backbone")
    if name is None:
        return str(kind.published_backbone)
    if not isinstance(name, str) or not is_named(name):
        raise CheckpointError(
            f"'{source}' was made for the backbone {_shown(name)}, which is none of open_clip's names. A file never "
            f"says where weights are read from: give the backbone again by hand."
        )
    return name


def restore(kind: type[M], saved: Mapping[str, Any], backbone: Any, given: Mapping[str, Any], source: str) -> M:
    """Return the method that a checkpoint holds.

    Args:
        kind: Its class.
        saved: Content of the checkpoint.
        backbone: Name or loaded one in place of the one that the checkpoint names; None for that one.
        given: Options given by hand.
        source: What to call the checkpoint in messages.

    Raises:
        CheckpointError: See :func:`stored_options` and :func:`stored_backbone`; or the parameters do not fit.
    """
    options = {**stored_options(kind, saved, given, source), **given}
    try:
        method: Any = kind(
            **{"backbone": stored_backbone(kind, saved, source) if backbone is None else backbone, **options}
        )
        method.on_load_checkpoint(dict(saved))
        method.load_state_dict(saved["state_dict"])
    except CheckpointError:
        raise
    except RuntimeError as error:
        raise CheckpointError(f"'{source}' does not fit {kind.__name__}: {error}") from error
    return method


def _allowed(kind: Any, name: str, value: Any, annotation: Any) -> bool:
    if may_be_stored(annotation):
        return fits(value, annotation)
    if name == "prompts":
        return value in list_prompts()  # a packaged list by its name, never a path
    words = {word for parent in kind.__mro__ for word in vars(parent).get("word_options", ())}
    return name in words and (value is None or _is_words(value))


def _is_words(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(one, str) for one in value)
    return isinstance(value, str)


def _plain(value: Any) -> Any:
    """Lists for tuples, so that what went through a file compares with what did not."""
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _shown(value: Any, quote: str = "'") -> str:
    text = repr(value) if quote or not isinstance(value, str) else repr(value)[1:-1]
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
