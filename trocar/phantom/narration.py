"""What is said during an operation: the script as sentences, and what two transcribers make of them.

Sentences are made from templates with synonyms, on three levels: `clip` says what an instrument does, `phase` what the
work is for, `video` what the whole recording shows. How far they can be trusted is set by `Talk`: they come too early
or too late, are left out, or are about something else; and each transcriber errs in a way of its own. What was really
done is in the labels of phases and tools.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from trocar.phantom.materials import Rng
from trocar.phantom.spec import (
    BIPOLAR,
    CLEANING,
    CLIPPER,
    CLIPPING,
    DISSECTION,
    GRASPER,
    HOOK,
    IRRIGATOR,
    NONE,
    PACKAGING,
    PEDICLE,
    PHASES,
    PREPARATION,
    SCISSORS,
    TOOLS,
    Bout,
    Segment,
    Talk,
)

Level = Literal["clip", "phase", "video"]
TRANSCRIBERS = ("recogniser", "typist")


@dataclass(frozen=True)
class Utterance:
    """A sentence on seconds [start, end) of an operation. `about`: the phase or tool that it is on, or `off_topic`."""

    start: float
    end: float
    level: Level
    text: str
    about: str


NAMES: Mapping[str, Mapping[str, str]] = {
    "cholecystectomy": {"organ": "gallbladder", "bed": "liver bed", "tube": "cystic duct", "vessel": "cystic artery"},
    "sleeve_gastrectomy": {"organ": "stomach", "bed": "greater curve", "tube": "short vessel", "vessel": "artery"},
    "hysterectomy": {"organ": "uterus", "bed": "broad ligament", "tube": "round ligament", "vessel": "uterine artery"},
}
"""What the pieces of the phantom stand for in a procedure."""

ON_PHASES: Mapping[int, Sequence[str]] = {
    PREPARATION: (
        "first we {look around|survey the abdomen} and {take down|release} the adhesions",
        "{the adhesions come off|we free} the {organ} before the {real work|dissection} starts",
    ),
    PEDICLE: (
        "now we {open|dissect} the pedicle to {see|expose} the {tube} and the {vessel}",
        "we {clear|free} the {tube} of fat until {two structures are seen|both structures stand alone}",
    ),
    CLIPPING: (
        "the {tube} and the {vessel} are {clipped|closed with clips} and {divided|cut}",
        "{time for clips|now the clips}, then we {cut|divide} between them",
    ),
    DISSECTION: (
        "the {organ} is {peeled|dissected} off the {bed}",
        "we {take|free} the {organ} from the {bed} {step by step|from neck to fundus}",
    ),
    PACKAGING: (
        "the {organ} {goes|is put} into the bag",
        "{bag please|we open the bag}, and the {organ} is {packed|retrieved}",
    ),
    CLEANING: (
        "we {rinse|irrigate} and {look for bleeding|check that it is dry}",
        "{some washing|suction and irrigation}, and every bleeder is {coagulated|sealed}",
    ),
}
ON_TOOLS: Mapping[int, Sequence[str]] = {
    GRASPER: ("the grasper {holds|retracts} the {organ}", "{pull|lift} with the grasper"),
    BIPOLAR: ("the bipolar {seals|coagulates} the {small vessels|bleeder}",),
    HOOK: ("the hook {divides|burns through} the tissue", "{gently|slowly} with the hook"),
    SCISSORS: ("the scissors {cut|divide} the {tube}", "{scissors now|cutting with the scissors}"),
    CLIPPER: ("{one more clip|a clip goes} on the {tube}", "the clip applier {closes|fires}"),
    IRRIGATOR: ("{suction|suck} the {blood|fluid}", "the irrigator {rinses|washes} the field"),
    NONE: ("{we only look|the camera looks around}",),
}
OFF_TOPIC_NAME = "off_topic"
OFF_TOPIC = (
    "could somebody {dim|turn down} the lights",
    "{who|which ward} is next on the list",
    "the {camera|lens} has to be cleaned later",
    "please {move|tilt} the table a little",
    "did the laboratory {call|answer}",
)
TITLES = {
    "cholecystectomy": "laparoscopic cholecystectomy",
    "sleeve_gastrectomy": "laparoscopic sleeve gastrectomy",
    "hysterectomy": "laparoscopic hysterectomy",
}
STEPS = {
    PREPARATION: "taking down adhesions",
    PEDICLE: "dissection of the pedicle",
    CLIPPING: "clipping and cutting",
    DISSECTION: "dissection of the {organ}",
    PACKAGING: "packaging of the specimen",
    CLEANING: "cleaning and coagulation",
}


def narrate(
    rng: Rng, procedure: str, segments: Sequence[Segment], bouts: Sequence[Bout], fps: float, talk: Talk
) -> list[Utterance]:
    """What is said of one operation, in the order of time; the sentence on the whole video comes first."""
    names, end = NAMES[procedure], segments[-1].end / fps
    steps = ", ".join(_filled(rng, STEPS[segment.phase], names) for segment in segments)
    said = [Utterance(0.0, end, "video", f"this is a {TITLES[procedure]} with {steps}", procedure)]
    for segment in segments:
        if rng.random() >= talk.omitted:
            text = _filled(rng, _one_of(rng, ON_PHASES[segment.phase]), names)
            said.append(Utterance(segment.start / fps, segment.end / fps, "phase", text, PHASES[segment.phase]))
    for bout in bouts:
        if rng.random() < talk.omitted:
            continue
        strays = rng.random() < talk.off_topic
        text = _filled(rng, _one_of(rng, OFF_TOPIC if strays else ON_TOOLS[bout.main]), names)
        about = OFF_TOPIC_NAME if strays else "none" if bout.main == NONE else TOOLS[bout.main]
        said.append(Utterance(bout.start / fps, bout.end / fps, "clip", text, about))
    moved = [said[0], *(_moved(rng, one, talk.offset_s, end) for one in said[1:])]
    return sorted(moved, key=lambda one: (one.level != "video", one.start, one.end))


def _one_of(rng: Rng, templates: Sequence[str]) -> str:
    return templates[int(rng.integers(len(templates)))]


def _filled(rng: Rng, template: str, names: Mapping[str, str]) -> str:
    """The template with one of the words of each {one|other}, and with the procedure's names."""

    def chosen(found: re.Match[str]) -> str:
        words = found[1].split("|")
        word = words[int(rng.integers(len(words)))]
        return names.get(word, word)

    return re.sub(r"\{([^{}]+)\}", chosen, template)


def _moved(rng: Rng, one: Utterance, offset_s: float, end: float) -> Utterance:
    by = float(rng.normal(0, offset_s)) if offset_s > 0 else 0.0
    start = min(max(0.0, one.start + by), max(0.0, end - 0.5))
    return replace(one, start=start, end=min(max(start + 0.5, one.end + by), end))


MISHEARD = {
    "clip": "click", "clips": "clicks", "duct": "duck", "cystic": "sister", "artery": "ardent tree", "hook": "look",
    "pedicle": "particle", "uterus": "you tourists", "bag": "back", "bleeder": "leader", "fat": "that",
    "grasper": "grass per", "suction": "section", "bipolar": "by polar", "scissors": "seasons", "liver": "river",
}  # fmt: skip
"""What a speech recogniser makes of the words of a theatre."""


def transcribed(rng: Rng, said: Sequence[Utterance], transcriber: str, errors: float) -> list[Utterance]:
    """What one writes down: the recogniser mishears and loses words, the typist swaps letters and stops early.

    Times of the recogniser are those of the voice; the typist's are whole seconds.
    """
    out = []
    for one in said:
        words = one.text.split()
        if transcriber == "recogniser":
            text = " ".join(_misheard(rng, words, errors))
            out.append(replace(one, text=text or words[0]))
        else:
            kept = words[: max(3, len(words) // 2)] if rng.random() < errors else words
            text = " ".join(_mistyped(rng, word, errors) for word in kept)
            start = float(round(one.start))
            out.append(replace(one, start=start, end=max(start + 1, float(round(one.end))), text=text))
    return out


def _misheard(rng: Rng, words: Sequence[str], errors: float) -> list[str]:
    heard = []
    for word in words:
        if rng.random() >= errors:
            heard.append(word)
        elif rng.random() < 0.7:
            heard.append(MISHEARD.get(word, word))
    return heard


def _mistyped(rng: Rng, word: str, errors: float) -> str:
    if len(word) < 4 or rng.random() >= errors:
        return word
    at = int(rng.integers(len(word) - 1))
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
