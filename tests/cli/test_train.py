"""`holdfast train`, as a user meets it: settings that are read, and mistakes that are named before any work."""

import json

import pytest

from holdfast.cli.main import main
from holdfast.cli.train import _build, _read_settings, train
from holdfast.errors import BadInput, BadOption
from holdfast.learn.kinds import Recipe
from holdfast.learn.loop import Training


def test_settings_come_from_a_file_and_options_go_before_it(tmp_path):
    (tmp_path / "run.toml").write_text('memory = 4\nrate = 1e-3\nepl = false\nschedule = "cosine"\n')
    given = _read_settings(tmp_path / "run.toml", ["rate=5e-4", "ratio=8"])
    assert _build(Recipe, given) == Recipe(memory=4, epl=False, ratio=8.0)
    assert _build(Training, given) == Training(rate=5e-4, schedule="cosine")


def test_train_then_compact_with_what_it_wrote(model, session, tmp_path, capsys):
    (tmp_path / "words.txt").write_text("the function read the file in order. " * 60)
    few = ["memory=4", "rank=2", "reconstruct=1", "steps=2", "batch=2", "judge_every=1"]
    main_of(["train", "icae", tmp_path / "words.txt", "-o", tmp_path / "run", "--model", model, *sets(few), "--json"])
    done = json.loads(capsys.readouterr().out)
    assert (done["kind"], done["step"], done["model"]) == ("icae", 2, model)
    path = tmp_path / "s.json"
    path.write_text(json.dumps([{"role": t.role.value, "content": t.text} for t in session.turns]))
    latent = f"icae:weights={tmp_path / 'run'}"
    out = tmp_path / "s.holdfast"
    main_of(["compact", path, "--latent", latent, "--ratio", 4, "--no-gate", "--model", model, "-o", out])
    assert out.stat().st_size > 0
    code = main_of(["train", "icae", path, "-o", tmp_path / "run", "--model", model, *sets(few)])
    assert code == 2
    assert "give the same settings, or another folder" in " ".join(capsys.readouterr().err.split())


def sets(settings):
    return [part for setting in settings for part in ("--set", setting)]


def main_of(arguments):
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    return done.value.code


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (["speed=3"], "there is no setting 'speed'"),
        (["rate=fast"], "rate must be of type float, got 'fast'"),
        (["epl=maybe"], "epl must be of type bool"),
        (["rate"], "--set needs NAME=VALUE"),
        (["targets=none"], "targets must be one of qv, qk, all"),
        (["schedule=steps"], "schedule must be one of"),
    ],
)
def test_a_wrong_setting_is_named_before_any_work(tmp_path, given, error):
    with pytest.raises(BadOption, match=error):
        train("icae", [tmp_path], tmp_path / "run", set_=given, model="no-such-model")


def test_a_settings_file_that_is_no_toml_is_refused(tmp_path):
    (tmp_path / "run.toml").write_text("memory: 4")
    with pytest.raises(BadInput, match=r"cannot read the settings in .*run.toml"):
        _read_settings(tmp_path / "run.toml", [])
