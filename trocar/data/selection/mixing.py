"""Mixture weights of sources, and the cap on how often a small source may be repeated."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trocar.errors import ConfigError, nearest


def nominal_shares(sizes: Mapping[str, int], weights: str | Mapping[str, float]) -> dict[str, float]:
    """Share of the samples per source, summing to 1.

    `sqrt` weighs a source by the square root of its frames, `uniform` equally; a mapping gives weights per source.
    Raises ConfigError if the mapping misses a source, names one that isn't there, or holds a negative weight.
    """
    if isinstance(weights, str):
        raw = {s: math.sqrt(n) if weights == "sqrt" else 1.0 for s, n in sizes.items()}
    else:
        for name in weights:
            if name not in sizes:
                raise ConfigError(
                    f"weights: no selected source {name!r}{nearest(name, sizes)}; selected: {', '.join(sizes)}"
                )
        missing = [s for s in sizes if s not in weights]
        if missing or any(w < 0 for w in weights.values()) or not any(weights.values()):
            raise ConfigError(
                f"weights: every source needs a weight >= 0, one of them > 0; missing: {', '.join(missing)}"
            )
        raw = {s: float(weights[s]) for s in sizes}
    total = sum(raw.values())
    return {s: w / total for s, w in raw.items()}


def limit_repeats(
    sizes: Mapping[str, int], shares: Mapping[str, float], max_repeat: float, samples: int | None
) -> tuple[dict[str, float], list[str]]:
    """Cap each source at `max_repeat` epochs over a run of `samples`; the surplus goes to the others in proportion.

    Returns the new shares and a line per capped source that says where its surplus went. Raises ConfigError when
    all sources together can't fill the run.
    """
    if samples is None:
        raise ConfigError("max_repeat needs the length of the run (steps x batch), which is not known here")
    if max_repeat * sum(sizes[s] for s, w in shares.items() if w > 0) < samples:
        most = int(max_repeat * sum(sizes.values()))
        raise ConfigError(
            f"max_repeat {max_repeat:g}: the sources fill {most} samples at most, the run asks for {samples}"
        )
    cap = {s: max_repeat * n / samples for s, n in sizes.items()}
    result, capped = dict(shares), set[str]()
    while True:
        over = {s for s in result if s not in capped and result[s] > cap[s] + 1e-12}
        if not over:
            break
        capped |= over
        left = 1.0 - sum(cap[s] for s in capped)
        open_weight = sum(w for s, w in shares.items() if s not in capped)
        result = {s: cap[s] if s in capped else shares[s] / open_weight * left for s in shares}
    gained = [s for s in result if result[s] > shares[s] + 1e-12]
    notes = [
        f"{s}: {shares[s]:.3f} -> {result[s]:.3f} of the samples ({max_repeat:g} epochs at most); "
        f"the surplus goes to {', '.join(gained)}"
        for s in sorted(capped)
    ]
    return result, notes
