"""What the measurement on single pictures prints."""

import sys
from pathlib import Path

from leak_factory import operation

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import leak_stills


def test_copies_are_counted_apart_from_pictures_of_others(tmp_path, monkeypatch, capsys):
    for seed in range(5):
        folder = tmp_path / "data" / f"patient{seed}"
        folder.mkdir(parents=True)
        for k, image in enumerate(operation(seed, 4, (320, 240))):
            image.save(folder / f"{k:06d}.png")
    monkeypatch.setattr(leak_stills, "STILLS", 4)
    monkeypatch.setattr(sys, "argv", ["leak_stills.py", str(tmp_path / "out"), str(tmp_path / "data")])
    leak_stills.main()
    out = capsys.readouterr().out
    for label in ("JPEG", "half size", "squashed to 250 x 250", "brighter", "8 percent cut off", "mirrored"):
        assert f"| {label} | 4 | 4 |" in out
    assert "| others | 12 | 0 |" in out
    assert "80 pairs of pictures of different operations: 0 within 12, 0 within 24" in out
