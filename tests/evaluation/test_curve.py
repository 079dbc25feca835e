"""A training's curve: a value a round, and its best step."""

import edgenas.files as files
from edgenas.evaluation.curve import Curve


def test_a_curve_grows_by_a_round_and_knows_its_best_step() -> None:
    curve = Curve("fold 1, light")
    for done, held_out in ((100, 0.5), (200, 0.8), (250, 0.8), (400, 0.7)):
        before, curve = curve, curve.and_then(done, {"loss": 1 / done, "accuracy": 0.25, "held_out": held_out})
        assert len(before.steps) == len(curve.steps) - 1, "the one before stays as it was"
    assert curve == Curve(
        "fold 1, light", (100, 200, 250, 400), (0.01, 0.005, 0.004, 0.0025), (0.25,) * 4, (0.5, 0.8, 0.8, 0.7)
    )
    assert curve.best == (200, 0.8), "the first of the highest"
    assert files.from_mapping(Curve, files.as_mapping(curve), "here") == curve


def test_the_last_training_has_nothing_held_out() -> None:
    curve = Curve("last training").and_then(100, {"loss": 0.5, "accuracy": 1.0})
    assert (curve.steps, curve.loss, curve.accuracy, curve.held_out) == ((100,), (0.5,), (1.0,), ())
