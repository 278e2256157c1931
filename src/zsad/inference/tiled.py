"""Large pictures through a model: tiles of several fill a pass, and a picture's outcome is made of its tiles'."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from zsad.images.tiling import Box, Merge, Size, Tiles, named
from zsad.inference.ahead import ahead_of, in_batches, one_behind
from zsad.inference.opening import Opened
from zsad.inference.outcome import Outcome, Pending


@dataclass
class _Picture:
    """A picture of which some parts are still to be scored."""

    opened: Opened
    missing: int
    merges: list[Merge]
    found: list[Outcome] = field(default_factory=list)

    def add(self, box: Box, outcome: Outcome) -> None:
        self.missing -= 1
        self.found.append(replace(outcome, map=outcome.map[:0]) if self.merges else outcome)  # merged, not kept
        if outcome.error is None:
            for merge in self.merges:
                merge.add(box, outcome.map)

    def outcome(self, tiles: Tiles) -> Outcome:
        failed = next((one for one in self.found if one.error is not None), None)
        if failed is not None or not self.found:
            return failed or Outcome.nothing()
        first = self.found[0]
        if not self.merges:
            return first
        score = self.merges[-1].maximum if tiles.score == "map" else tiles.score_of([one.score for one in self.found])
        full = self.merges[-1].map if len(self.merges) > 1 else None
        return Outcome(score, self.merges[0].map, first.explanation, None, first.warning, full, len(self.found))


@dataclass(frozen=True)
class Tiler:
    """How opened pictures become outcomes, a part at a time.

    Args:
        tiles: How they are cut.
        prepare: Makes a part what the model sees, (3, height, width).
        launch: Begins with parts and returns what waits for their outcomes, in order.
        batch_size: Parts per pass.
        num_workers: Threads that prepare parts.
        behind: Whether parts are launched before the outcomes of the last ones are read.
        refusal: What is said of a picture that is not scored; None if it is.
        full: Whether the map is needed at the picture's own size as well.
    """

    tiles: Tiles
    prepare: Callable[[Image.Image], Any]
    launch: Callable[[Sequence[Opened]], Pending]
    batch_size: int
    num_workers: int
    behind: bool
    refusal: Callable[[Opened], Outcome | None]
    full: Callable[[Opened], bool]

    def __call__(self, opened: Iterable[Opened]) -> Iterator[tuple[Opened, Outcome]]:
        """Yield pictures in order with what the model says of them; the last pass may be a short one."""
        waiting: deque[_Picture] = deque()
        parts = ahead_of(self._prepared, self._parts(opened, waiting), self.num_workers, self.batch_size)
        launched = (
            (batch, self.launch([part for _, _, part in batch])) for batch in in_batches(parts, self.batch_size)
        )
        for batch, pending in one_behind(launched, self.behind):
            for (picture, box, _), outcome in zip(batch, pending(), strict=True):
                picture.add(box, outcome)
            while waiting and not waiting[0].missing:
                done = waiting.popleft()
                yield done.opened, done.outcome(self.tiles)
        for picture in waiting:  # the last ones could not be read
            yield picture.opened, picture.outcome(self.tiles)

    def _parts(
        self, opened: Iterable[Opened], waiting: "deque[_Picture]"
    ) -> Iterator[tuple[_Picture, Box, Image.Image]]:
        for one in opened:
            region = one.region
            kept = replace(one, region=None)
            if region is None:
                waiting.append(_Picture(kept, 0, []))
                continue
            if not self.tiles.whole and (refused := self.refusal(one)) is not None:  # else the whole is refused
                waiting.append(_Picture(kept, 0, [], [refused]))
                continue
            source = (region.height, region.width)
            boxes = self.tiles.boxes(source)
            picture = _Picture(kept, len(boxes), [] if len(boxes) == 1 else self._merges(one, source))
            waiting.append(picture)
            for box in boxes:
                yield picture, box, region

    def _merges(self, one: Opened, source: Size) -> list[Merge]:
        left, top, right, bottom = one.inside((one.picture.height, one.picture.width))
        shown = (bottom - top, right - left)
        sizes = [shown]
        if shown != source and (self.tiles.score == "map" or self.full(one)):
            sizes.append(source)
        return [Merge(self.tiles, source, size) for size in sizes]

    def _prepared(self, part: tuple[_Picture, Box, Image.Image]) -> tuple[_Picture, Box, Opened]:
        picture, box, region = part
        one = picture.opened
        left, top, right, bottom = box
        if (right - left, bottom - top) == region.size:
            return picture, box, one
        across, down = one.box[:2]
        seed = named(one.seed, (left + across, top + down, right + across, bottom + down))
        return picture, box, replace(one, seed=seed, path=None, tensor=self.prepare(region.crop(box)))
