"""Where the organ and the specimen bag are while the organ is held and packed."""

from __future__ import annotations

import numpy as np

from trocar.phantom.motion import SpritePose, ease
from trocar.phantom.picture.anatomy import Points, Shape


def point_on_organ(shape: Shape, organ: SpritePose, share: float) -> Points:
    """World position [2] on the organ's axis, `share` of its length from the neck."""
    reach = share * shape.length * organ.along
    bend = shape.bend * 4 * share * (1 - share) * organ.across
    c, s = np.cos(organ.angle), np.sin(organ.angle)
    return np.array([organ.x + c * reach - s * bend, organ.y + s * reach + c * bend])


def packing_poses(
    home: SpritePose, port: Points, bag_home: Points, packed: float, sway: float
) -> tuple[SpritePose, SpritePose]:
    """Poses of organ and bag when `packed` (0 to 1) of the packing is done.

    The bag comes in through the port, the organ goes into it, it is closed, and both leave through the port.
    """
    out = ease((packed - 0.72) / 0.28)
    arrive = ease(packed / 0.16) * (1 - out)
    bag_xy = port + (bag_home - port) * (0.15 + 0.85 * arrive)
    direction = float(np.arctan2(*(bag_home - port)[::-1])) + 0.06 * sway
    closed = ease((packed - 0.55) / 0.15)
    bag = SpritePose(float(bag_xy[0]), float(bag_xy[1]), direction, 1.0, 1 - 0.3 * closed)
    inside = ease((packed - 0.2) / 0.32)
    pocket = bag_xy - 0.2 * np.array([np.cos(direction), np.sin(direction)])
    x = home.x + inside * (pocket[0] - home.x)
    y = home.y + inside * (pocket[1] - home.y)
    turn = (direction - home.angle + np.pi) % (2 * np.pi) - np.pi
    size = 1 - 0.42 * inside
    angle = home.angle + inside * float(turn)
    return SpritePose(float(x), float(y), angle, home.along * size, home.across * size), bag
