from __future__ import annotations

from opensloth.jobs.results_file import named, table


def series(name: str, *points: tuple[int, float | None]) -> dict[str, object]:
    return {"name": name, "points": [{"step": step, "value": value, "time": ""} for step, value in points]}


def test_openais_columns_come_first_and_are_always_there() -> None:
    assert list(table([])) == [["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]]


def test_a_step_is_a_row_with_what_was_measured_at_it() -> None:
    found = list(
        table(
            [
                series("loss", (1, 2.0), (2, None)),
                series("mean_token_accuracy", (1, 0.5)),
                series("eval_loss", (2, 1.5)),
                series("grad_norm", (2, 3.0)),
            ]
        )
    )
    assert found[0][5:] == ["grad_norm"]
    assert found[1:] == [[1, 2.0, 0.5, "", "", ""], [2, "", "", 1.5, "", 3.0]]


def test_metrics_have_openais_names_or_are_left_out() -> None:
    assert named({"loss": 1.0, "eval_loss": 2.0, "grad_norm": 3.0}) == {
        "train_loss": 1.0,
        "full_valid_loss": 2.0,
        "valid_loss": 2.0,
    }
