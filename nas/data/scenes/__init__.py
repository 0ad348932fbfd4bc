"""Scenes: generated clips and images of moving digits and shapes in color, with captions and exact labels."""

from nas.data.scenes.config import Combination, HeldOut, SceneConfig
from nas.data.scenes.labels import Background, Scene, SceneObject
from nas.data.scenes.source import Scenes

__all__ = ["Background", "Combination", "HeldOut", "Scene", "SceneConfig", "SceneObject", "Scenes"]
