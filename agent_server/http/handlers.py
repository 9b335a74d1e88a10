"""What MLflow's agent server calls: one handler for an answer as a whole, one for an answer as events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from mlflow.genai.agent_server import invoke, stream

if TYPE_CHECKING:
    from .events import Event, LegView
    from .front import Front
    from .views import Leg

__all__ = ["answer", "answer_events"]


@invoke()
async def answer(front: Front, leg: Leg) -> LegView:
    """The leg at its end, or at its pause."""
    return await front.wait(leg)


@stream()
async def answer_events(front: Front, leg: Leg, after: int) -> AsyncGenerator[Event, None]:
    """The leg's events, from after a number on."""
    async for event in front.events(leg, after):
        yield event
