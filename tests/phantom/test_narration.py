"""What is said follows from the script; what can be believed of it follows from the knobs."""

import numpy as np
import pytest

from trocar.phantom.narration import MISHEARD, narrate, transcribed
from trocar.phantom.spec import PHASES, TOOLS, Talk, make_bouts, make_timeline

FPS = 5.0
PLAIN = Talk(offset_s=0, omitted=0, off_topic=0, errors=0)


def operation(seed=0, frames=1500, procedure="cholecystectomy"):
    rng = np.random.default_rng(seed)
    segments = make_timeline(rng, procedure, frames)
    return segments, make_bouts(rng, procedure, segments, FPS)


def told(talk, seed=0, procedure="cholecystectomy"):
    return narrate(np.random.default_rng(1), procedure, *operation(seed, procedure=procedure), FPS, talk)


def test_without_doubts_every_phase_and_every_bout_is_told_at_its_time():
    segments, bouts = operation()
    said = told(PLAIN)
    assert said[0].level == "video"
    assert (said[0].start, said[0].end) == (0, segments[-1].end / FPS)
    phases = [(one.about, one.start, one.end) for one in said if one.level == "phase"]
    assert phases == [(PHASES[s.phase], s.start / FPS, s.end / FPS) for s in segments]
    clips = [(one.about, one.start) for one in said if one.level == "clip"]
    assert clips == [("none" if bout.main < 0 else TOOLS[bout.main], bout.start / FPS) for bout in bouts]


def test_words_are_those_of_the_procedure_and_no_template_is_left_open():
    for procedure, organ in (("cholecystectomy", "gallbladder"), ("hysterectomy", "uterus")):
        texts = " ".join(one.text for seed in range(5) for one in told(PLAIN, seed, procedure))
        assert organ in texts
        assert not set("{}|") & set(texts)
    assert "uterus" not in " ".join(one.text for one in told(PLAIN))


def test_omissions_strays_and_offsets_have_their_doses():
    everything = [one for seed in range(20) for one in told(PLAIN, seed) if one.level == "clip"]
    for omitted, off_topic in ((0.5, 0.0), (0.0, 0.4)):
        talk = Talk(offset_s=0, omitted=omitted, off_topic=off_topic, errors=0)
        clips = [one for seed in range(20) for one in told(talk, seed) if one.level == "clip"]
        assert len(clips) / len(everything) == pytest.approx(1 - omitted, abs=0.05)
        assert np.mean([one.about == "off_topic" for one in clips]) == pytest.approx(off_topic, abs=0.05)
    moved = [one for seed in range(20) for one in told(Talk(offset_s=3, omitted=0, off_topic=0), seed)]
    right = [one for seed in range(20) for one in told(PLAIN, seed)]
    by = [a.start - b.start for a, b in zip(sorted(moved, key=str), sorted(right, key=str), strict=False)]
    assert np.std(by) > 1
    assert all(0 <= one.start < one.end for one in moved)


def test_each_transcriber_errs_in_its_own_way():
    said = told(PLAIN)
    assert transcribed(np.random.default_rng(0), said, "recogniser", 0.0) == said
    typed = transcribed(np.random.default_rng(0), said, "typist", 0.0)
    assert [one.text for one in typed] == [one.text for one in said]
    assert all(one.start == round(one.start) for one in typed)
    heard = transcribed(np.random.default_rng(0), said, "recogniser", 1.0)
    words = {word for one in heard for word in one.text.split()}
    assert words & {word for wrong in MISHEARD.values() for word in wrong.split()}
    assert not words & {"clip", "duct", "cystic", "pedicle"}
    swapped = transcribed(np.random.default_rng(0), said, "typist", 1.0)
    assert all(sorted(a.text.split()[0]) == sorted(b.text.split()[0]) for a, b in zip(swapped, said, strict=True))
