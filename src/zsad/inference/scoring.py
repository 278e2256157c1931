"""The forward pass of a few pictures, in which one that fails does not take the others with it."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from zsad.inference.devices import to_device, to_host
from zsad.inference.opening import Opened
from zsad.inference.outcome import Outcome, Pending, ScoreError
from zsad.methods import CheckpointError, Method
from zsad.methods.memory import MissingReferencesError
from zsad.methods.musc import PanelError, Transductive

_OF_THE_RUN = (
    MissingReferencesError,
    PanelError,
    CheckpointError,
    torch.OutOfMemoryError,
)  # every other image would fail too


@torch.inference_mode()
def launch(method: Method, batch: Sequence[Opened], explain: bool = False) -> Pending:
    """Hand pictures to the method and return what waits for the outcomes, in order; a pass takes pictures of one size.

    On CUDA the device still computes when this returns, so that the next batch may be prepared meanwhile. A picture
    that is one of its class's references, that the method cannot take, or whose score or map is not finite has an
    outcome with an error.

    Raises:
        MissingReferencesError: A class lacks the references that the others have.
    """
    parts: list[Pending] = []
    compares = isinstance(method, Transductive)  # images of one class with each other
    kind = lambda one: (one.tensor is not None and one.tensor.shape, one.class_name if compares else "")  # noqa: E731
    for _, group in itertools.groupby(batch, key=kind):
        members = list(group)
        names = [one.class_name for one in members]
        if method.shots or method.references is not None or method.memory.classes:
            method.is_few_shot(names)  # fetches the references, to which the pictures are compared
        # an explanation of an image leaves references out, so it may be one
        refused = [refusal(method, one) for one in members]
        todo = [one for one, no in zip(members, refused, strict=True) if no is None]
        parts.append(_merged(_together_or_alone(method, todo, explain) if todo else [], refused))
    return lambda: [outcome for part in parts for outcome in part()]


def _merged(found: list[Pending], refused: list[Outcome | None]) -> Pending:
    def outcomes() -> list[Outcome]:
        scored = (outcome for part in found for outcome in part())
        return [next(scored) if no is None else no for no in refused]

    return outcomes


def refusal(method: Method, one: Opened) -> Outcome | None:
    """Return what is said of a picture that is one of the references; None of any other."""
    if not isinstance(method, Method):
        return None
    assert one.tensor is not None
    name = method.memory.class_of(one.tensor)
    if name is None:
        return None
    return _failed(
        f"'{one.called}' is one of the references of class '{name}': its score would compare it with itself. "
        f"Take references that are not scored."
    )


def _together_or_alone(method: Method, members: list[Opened], explain: bool) -> list[Pending]:
    try:
        return [_forward(method, members, explain)]
    except _OF_THE_RUN:
        raise
    except Exception as error:  # a method may refuse a shape, a library a value
        if len(members) == 1:
            reason = str(error).strip() or type(error).__name__
            failed = _failed(f"Cannot score '{members[0].called}': {reason}")
            return [lambda: [failed]]
    return [part for one in members for part in _together_or_alone(method, [one], explain)]


def _forward(method: Method, members: list[Opened], explain: bool) -> Pending:
    tensors = to_device(torch.stack([one.tensor for one in members if one.tensor is not None]), method.device)
    names = [one.class_name for one in members]
    prediction = method(tensors, names, [one.seed for one in members])
    reasons: list[tuple[tuple[str, float], ...]] = [()] * len(members)
    if explain:
        found = method.explain(tensors, names)  # type: ignore[operator]
        reasons = [tuple((one.descriptor, one.cosine) for one in best) for best in found]
    doubts: Sequence[str | None] = [None] * len(members)
    if isinstance(method, Transductive):
        doubts = method.doubts(names[0], tensors, [one.seed for one in members])
    arrived = to_host(prediction.anomaly_map.float(), prediction.pred_score)

    def outcomes() -> list[Outcome]:
        maps, scores = arrived()
        found = []
        for one, score, anomaly_map, reason, doubt in zip(members, scores.tolist(), maps, reasons, doubts, strict=True):
            wrong = not_finite(score, anomaly_map)
            found.append(
                Outcome(score, anomaly_map.numpy(), reason, None, doubt)
                if wrong is None
                else _failed(f"Cannot score '{one.called}': {wrong}; {_cause(method)}.")
            )
        return found

    return outcomes


def not_finite(score: float, anomaly_map: Tensor) -> str | None:
    """Return what is not finite about a score and its map, in words; None if all is."""
    if not torch.isfinite(torch.tensor(score)):
        return f"the score is {score}"
    bad = int((~torch.isfinite(anomaly_map)).sum())
    return f"{bad} of {anomaly_map.numel()} values of the map are not finite" if bad else None


def _cause(method: Method) -> str:
    for name, parameter in itertools.chain(method.named_parameters(), method.named_buffers()):
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            return f"the model's '{name}' holds values that are not finite: load its weights again"
    return "the model's weights are finite, so precision or the picture is the cause"


def _failed(message: str) -> Outcome:
    return Outcome.nothing(ScoreError(message))
