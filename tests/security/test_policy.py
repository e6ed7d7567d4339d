"""S19: the content policy judges texts before an edit and pictures before and after it, and keeps no picture."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from jobs.assets import digest_of
from jobs.schema import StageProgress
from jobs.settings import Settings
from workers.failures import PolicyRefused, explain
from workers.policy import Subject, Verdict, policed, sampled
from workers.work import Edit, Fetched, Hooks, Made, MadeFile

SAMPLE = Path(__file__).parents[2] / "api" / "sample.mp4"
asked: list[Subject] = []


def strict(subject: Subject) -> Verdict:
    """A list of words, and a classifier that dislikes red pictures."""
    asked.append(subject)
    if any("forbidden" in text for text in subject.texts.values()):
        return Verdict(False, "word_list")
    red = any(picture[..., 0].mean() > 200 > picture[..., 1].mean() for picture in subject.pictures)
    return Verdict(not red, "too_red" if red else "")


def broken(subject: Subject) -> Verdict:
    raise RuntimeError("the classifier has no memory left")


@pytest.fixture
def judged(monkeypatch, tmp_path):
    """Run an edit whose result is of this colour under a policy; what the engine was given is kept too."""
    asked.clear()
    monkeypatch.setitem(__import__("sys").modules, "operators_policy", __import__("types").SimpleNamespace(**globals()))
    given = []

    def engine(task: Edit, hooks: Hooks, settings: object) -> Made:
        given.append(task)
        path = tmp_path / "output.gif"
        Image.new("RGB", (32, 32), task.params["colour"]).save(path)
        return Made((MadeFile(path, "image/gif"),), stages=(StageProgress(name="edit"),), receipt={"checkpoint": "x"})

    def run(
        prompt: str = "a cat",
        colour: str = "green",
        policy: str = "strict",
        more: tuple[Path, ...] = (),
        params: dict[str, object] | None = None,
        **settings: object,
    ):
        files = {"video": SAMPLE} | {f"pictures/{number}": path for number, path in enumerate(more)}
        task = Edit(
            method="echo",
            checkpoint="x",
            params={"prompt": prompt, "colour": colour} | (params or {}),
            inputs={name: Fetched(path, digest_of(path), path.name) for name, path in files.items()},
            container="gif",
            folder=tmp_path,
            salt="",
        )
        chosen = Settings(policy=policy and f"operators_policy:{policy}", data_dir=tmp_path, **settings)
        return policed(engine, chosen)(task, Hooks(None, None, None, None, None), chosen)

    run.given = given
    return run


def test_s19_without_a_policy_nothing_is_judged(judged):
    assert judged(prompt="forbidden", colour="red", policy="").receipt == {"checkpoint": "x"} and not asked


def test_s19_a_forbidden_text_is_refused_before_anything_is_made(judged):
    with pytest.raises(PolicyRefused) as refused:
        judged(prompt="a forbidden cat")
    told = explain(refused.value, stage="fetch")
    assert (told.code, told.detail, told.retryable) == ("policy.input.text", "word_list", False)
    assert judged.given == [] and "forbidden" not in told.model_dump_json()


def test_s19_a_forbidden_result_is_refused_and_not_kept(judged, caplog):
    with pytest.raises(PolicyRefused) as refused:
        judged(colour="red")
    assert explain(refused.value).code == "policy.output.video"
    assert [subject.kind for subject in asked] == ["input.text", "input.video", "output.video"]


def test_s19_what_is_allowed_is_decided_on_record(judged):
    decisions = judged().receipt["policy"]
    assert [(item["kind"], item["allowed"]) for item in decisions] == [
        ("input.text", True),
        ("input.video", True),
        ("output.video", True),
    ]
    pictures = asked[1].pictures
    assert 1 < len(pictures) <= 8 and pictures[0].dtype == np.uint8 and pictures[0].shape[2] == 3


def test_s19_every_text_and_every_picture_of_the_request_is_judged(judged, tmp_path):
    for params in ({"later_prompts": ["a cat", "forbidden"]}, {"boxes": [{"phrase": "forbidden", "x": 0.5}]}):
        with pytest.raises(PolicyRefused, match="text"):
            judged(params=params)
    assert asked[0].texts["later_prompts/1"] == asked[1].texts["boxes/0/phrase"] == "forbidden"
    green, red = tmp_path / "green.png", tmp_path / "named-wrongly.mp4"
    Image.new("RGB", (32, 32), "green").save(green)
    Image.new("RGB", (32, 32), "red").save(red, "png")
    with pytest.raises(PolicyRefused, match="video"):
        judged(more=(green, red))
    assert [(subject.name, subject.kind) for subject in asked[-3:]] == [
        (name, "input.video") for name in ("video", "pictures/0", "pictures/1")
    ]
    assert not judged.given


def test_s19_log_only_lets_pass_and_writes_down(judged):
    made = judged(prompt="forbidden", colour="red", policy_mode="log")
    assert [item["allowed"] for item in made.receipt["policy"]] == [False, True, False]


@pytest.mark.parametrize(("mode", "passes"), [("enforce", False), ("log", True)])
def test_s19_a_policy_that_fails_forbids_where_it_is_enforced(judged, mode, passes):
    if passes:
        assert judged(policy="broken", policy_mode=mode).files
        return
    with pytest.raises(PolicyRefused, match=r"policy\.input\.text"):
        judged(policy="broken", policy_mode=mode)


def test_s19_a_policy_that_is_not_there_is_told_at_the_start(tmp_path):
    for name, problem in (("nowhere", ValueError), ("no.such:judge", ImportError), ("json:judge", AttributeError)):
        with pytest.raises(problem):
            policed(lambda *_: None, Settings(policy=name))


def test_s19_pictures_are_spread_over_the_clip(tmp_path):
    path = tmp_path / "clip.gif"
    shades = [Image.new("L", (8, 8), 10 * number) for number in range(20)]
    shades[0].save(path, save_all=True, append_images=shades[1:], duration=50)
    found = [int(picture.mean()) for picture in sampled(path, 5)]
    assert len(found) == 5 and found[0] == 0 and found[-1] == 190 and found == sorted(found)
    assert list(sampled(SAMPLE, 1))


def test_s19_sound_has_no_pictures(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44_100, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4_096), np.float32), "fltp", "mono")
        silence.sample_rate = 44_100
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    assert list(sampled(path, 4)) == []
