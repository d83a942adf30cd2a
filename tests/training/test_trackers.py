"""What trackers receive during training, and the errors for those that cannot be used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from celluscan_hf.errors import CelluScanError
from celluscan_hf.training.callbacks import check_trackers

Recipe = Callable[..., Path]
Trained = Callable[..., int]


class Recorder(TrainerCallback):
    """A tracker that records its calls, created without arguments like those of the library."""

    calls: list[str] = []

    def on_train_begin(self, *arguments: Any, **options: Any) -> None:
        self.calls.append("begin")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **options: Any) -> None:
        self.calls.append("evaluation" if "eval_macro_f1" in logs else "log")

    def on_train_end(self, *arguments: Any, **options: Any) -> None:
        self.calls.append("end")


def test_the_last_evaluation_is_logged_before_a_tracker_closes_its_run(
    recipe: Recipe, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recorder, "calls", [])
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "trackio", Recorder)
    monkeypatch.setattr(integration_utils, "get_available_reporting_integrations", lambda: ["trackio"])
    assert trained(recipe(num_train_epochs=1, logging_steps=100), tmp_path / "run", "--report_to", "trackio") == 0
    assert Recorder.calls == ["begin", "evaluation", "log", "evaluation", "end"]


@pytest.mark.slow
def test_mlflow_gets_one_run(recipe: Recipe, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert trained(recipe(max_steps=2), tmp_path / "run", "--report_to", "mlflow") == 0
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.status == "FINISHED"
    assert {"loss", "eval_macro_f1", "train_loss"} <= set(run.data.metrics)
    assert run.data.params["hidden_size"] == "32"


@pytest.mark.parametrize("tracker", ["wandb", "azure_ml", "kubeflow", "wandbb"])
def test_a_tracker_that_is_not_there_is_named_before_data_are_read(
    tracker: str,
    recipe: Recipe,
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("get_available_reporting_integrations", "is_azureml_available", "is_flytekit_available"):
        monkeypatch.setattr(integration_utils, name, list)
    assert trained(recipe(dataset="no such dataset"), tmp_path / "run", "--report_to", tracker) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --report_to {tracker}: ")
    assert not (tmp_path / "run").exists()


def test_none_and_what_is_installed_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integration_utils, "get_available_reporting_integrations", lambda: ["tensorboard", "mlflow"])
    check_trackers([])
    check_trackers(["mlflow", "tensorboard"])
    with pytest.raises(CelluScanError, match="pip install -U wandb"):
        check_trackers(["mlflow", "wandb"])
