"""One case from script to recorded frames and labels, in memory and in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trocar.phantom.director import Director
from trocar.phantom.motion import Moment
from trocar.phantom.picture.anatomy import make_anatomy
from trocar.phantom.picture.optics import Optics
from trocar.phantom.picture.render import Renderer
from trocar.phantom.picture.scene import make_scene
from trocar.phantom.picture.stage import Theatre
from trocar.phantom.picture.tools import draw_style
from trocar.phantom.planted import Event, Kind, OperatingRoom, plan_events
from trocar.phantom.sampling import stream
from trocar.phantom.spec import TOOLS, CasePlan, PhantomSpec

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Frame:
    """A recorded frame: picture uint8 [H, W, 3], class ids uint8 [H, W], and its labels."""

    picture: Bytes
    mask: Bytes
    tools: tuple[bool, ...]
    moment: Moment
    planted: Kind | None
    pedicle: bool
    """Whether the pedicle can be seen: without it no CVS criterion can be confirmed."""


def film(spec: PhantomSpec, plan: CasePlan) -> Iterator[Frame]:
    """All native frames of one case. A pure function of its arguments."""

    def rng(name: str) -> np.random.Generator:
        return stream(spec.seed, "case", plan.index, name)

    anatomy = make_anatomy(rng("anatomy"), plan.procedure)
    optics = Optics(spec, plan)
    scene = make_scene(rng("scene"), plan.procedure, anatomy, spec.size[1], optics.house.soften)
    stage = Theatre(scene, rng("brushes"))
    renderer = Renderer(spec, stage, optics, draw_style(rng("style"), plan.robotic), anatomy, rng("sprites"))
    room = OperatingRoom(rng("room"), spec.size)
    events = {i: e for e in plan_events(rng("events"), plan.frames, spec.fps, plan.cut) for i in range(e.start, e.end)}
    last: Frame | None = None
    for moment in Director(spec, plan, anatomy).moments():
        shot = renderer.draw(moment)
        event = events.get(moment.frame)
        if event is None:
            last = Frame(optics.develop(moment.frame, shot.linear), shot.mask, shot.present, moment, None, shot.pedicle)
        else:
            last = _planted(event, moment, optics, room, last)
        yield last


def _planted(event: Event, moment: Moment, optics: Optics, room: OperatingRoom, last: Frame | None) -> Frame:
    if event.kind == "duplicate" and last is not None:
        return Frame(last.picture, last.mask, last.tools, moment, "duplicate", last.pedicle)
    empty = np.zeros((optics.height, optics.width), dtype=np.uint8)
    nothing = (False,) * len(TOOLS)
    if event.kind == "black":
        return Frame(optics.blank(moment.frame), empty, nothing, moment, "black", False)
    view = room.view(moment.frame - event.start)
    return Frame(optics.develop(moment.frame, view), empty, nothing, moment, "out_of_body", False)
