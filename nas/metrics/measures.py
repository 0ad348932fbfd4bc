"""Measures the clips of a case: every number with its interval, beside that of held-out real clips."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from nas.data.scenes import Scene
from nas.metrics import detection, label_free, statistics
from nas.metrics.clip_score import CLIPScore
from nas.metrics.fvd import FVD
from nas.metrics.judges import Judges
from nas.metrics.results import JUDGED, TITLES, Measure
from nas.metrics.scene_scores import ClipScore, score
from nas.metrics.statistics import Estimate

Features = Mapping[str, Sequence[np.ndarray]]
MIN_CLIPS = 20
"""Least number of clips on each side of a Frechet distance, and for which networks are loaded on data without labels."""


@dataclass(frozen=True)
class Networks:
    """What measures need beyond pixels; None leaves their measures out."""

    judges: Judges | None = None
    fvd: FVD | None = None
    clip_score: CLIPScore | None = None


@dataclass
class Collected:
    """What is measured of each clip, one row per clip.

    Attributes:
        rows: numbers by measure; NaN for a clip that has none.
        scores: against the labels, where there are any.
        features: for Frechet distances, by measure.
        seeds: the noise seed of each clip.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    scores: list[ClipScore | None] = field(default_factory=list)
    features: dict[str, list[np.ndarray]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def add(
        self,
        clip: Tensor,
        caption: str,
        fps: float,
        networks: Networks,
        scene: Scene | None,
        on_scenes: bool,
        seed: int = 0,
    ) -> None:
        """Measure a clip `(C, T, H, W)` in [-1, 1].

        Args:
            scene: that its caption describes; None if it has no labels.
            on_scenes: whether the clip is of a model of scenes, whose objects can be told from the background.
        """
        clip, judges = clip.float().cpu(), networks.judges
        pixels = clip.numpy()
        behind = detection.background(pixels) if on_scenes and len(pixels) == 3 else None
        row = {}
        if clip.shape[1] > 1:
            row = dataclasses.asdict(label_free.measure(clip, fps, behind))
            del row["speed"]
            row["drift"] = drift(pixels, behind)
        scored = score(pixels, scene, judges) if scene is not None and judges is not None else None
        if scored is not None:
            row["subject"] = scored.subject
        elif judges is not None and on_scenes:
            found = detection.find(pixels)
            row["found"] = float(sum(one.parts for one in found))
            similar = [label_free.consistency(judges.classify(one.crops)[1]) for one in found]
            row["subject"] = float(np.mean(similar)) if similar else np.nan
        elif judges is not None:
            row["subject"] = label_free.frame_consistency(clip, judges.features)
        self.rows.append(row)
        self.scores.append(scored)
        self.seeds.append(seed)
        if networks.clip_score is not None:
            row["clip_score"] = networks.clip_score(clip, caption)
        if judges is not None:
            self.features.setdefault("frechet", []).append(judges.features(clip[None])[0])
        if networks.fvd is not None:
            self.features.setdefault("fvd", []).append(
                networks.fvd.batch_features(clip[None])[0].double().cpu().numpy()
            )

    def of(self, seed: int) -> Collected:
        """The clips of one noise seed."""
        mine = [i for i, other in enumerate(self.seeds) if other == seed]
        features = {name: [values[i] for i in mine] for name, values in self.features.items()}
        return Collected([self.rows[i] for i in mine], [self.scores[i] for i in mine], features, [seed] * len(mine))

    def estimates(self, reference: Features) -> dict[str, Estimate]:
        """Every measure; `reference`: features of held-out real clips, by measure."""
        found: dict[str, Estimate] = {}
        scores = [one for one in self.scores if one is not None]
        for name in JUDGED if scores else ():
            found[name] = statistics.share([one.right[name] for one in scores], [one.total[name] for one in scores])
        for name in dict.fromkeys(name for row in self.rows for name in row):
            found[name] = statistics.share([row.get(name, np.nan) for row in self.rows])
        for name, values in self.features.items():
            if min(len(values), len(reference.get(name, ()))) >= MIN_CLIPS:
                found[name] = statistics.distance(np.stack(values), np.stack(list(reference[name])))
        return {name: found[name] for name in TITLES if name in found and found[name].known}


def compare(generated: Collected, real: Collected | None, reference: Features) -> dict[str, Measure]:
    """The measures of generated clips beside those of real ones.

    Args:
        reference: features of further real clips, to which Frechet distances are.
    """
    beside: Mapping[str, Estimate] = real.estimates(reference) if real is not None and len(real) else {}
    seeds = sorted(set(generated.seeds))
    each = [generated.of(seed).estimates(reference) for seed in seeds] if len(seeds) > 1 else []
    return {
        name: Measure(
            one.value,
            one.low,
            one.high,
            one.count,
            beside[name].value if name in beside else None,
            tuple(other[name].value for other in each if name in other),
        )
        for name, one in generated.estimates(reference).items()
    }


def drift(clip: np.ndarray, background: np.ndarray | None) -> float:
    """By how much the background's tone and contrast change from the first to the last fifth, in shares of the range."""
    length = max(1, clip.shape[1] // 5)
    levels = []
    for part in (slice(None, length), slice(-length, None)):
        inside = np.ones(clip[0, part].shape, bool) if background is None else background[part]
        pixels = clip[:, part][:, inside] if inside.any() else clip[:, part].reshape(len(clip), -1)
        levels.append(np.append(pixels.mean(1), pixels.std()))
    return float(abs(levels[1] - levels[0]).mean() / 2)
