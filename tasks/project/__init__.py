"""The project file as strict, frozen models. tasks/project/reader.py reads it."""

from __future__ import annotations

from tasks.project.adaptation import Adapt
from tasks.project.base import Section
from tasks.project.curate import Curate, Review, SelfTraining
from tasks.project.data import Data
from tasks.project.evaluate import Evaluate, Perturbation, SliceRule
from tasks.project.generate import Budget, Endpoint, Generate, Price
from tasks.project.predict import Predict
from tasks.project.project import Project
from tasks.project.promote import Limits, Promote, Schedule
from tasks.project.train import Train
from tasks.project.tune import Tune

__all__ = [
    "Adapt",
    "Budget",
    "Curate",
    "Data",
    "Endpoint",
    "Evaluate",
    "Generate",
    "Limits",
    "Perturbation",
    "Predict",
    "Price",
    "Project",
    "Promote",
    "Review",
    "Schedule",
    "Section",
    "SelfTraining",
    "SliceRule",
    "Train",
    "Tune",
]
