"""The private methods of Trainer that we override, as they are in the version of transformers named here."""

import inspect

from transformers import Trainer

from celluscan_hf.training.trainer import CellTrainer

CHECKED_WITH = "transformers 5.24.0"
SIGNATURES = {
    "_get_train_sampler": ["self", "train_dataset"],
    "_prepare_inputs": ["self", "inputs"],
    "_maybe_log_save_evaluate": [
        "self",
        "tr_loss",
        "grad_norm",
        "model",
        "trial",
        "epoch",
        "ignore_keys_for_eval",
        "start_time",
        "learning_rate",
    ],
}


def test_overridden_private_methods_are_those_that_were_checked() -> None:
    private = {name for name in vars(CellTrainer) if name.startswith("_") and not name.startswith("__")}
    overridden = {
        name: list(inspect.signature(getattr(Trainer, name)).parameters) for name in private & set(dir(Trainer))
    }
    assert overridden == SIGNATURES, f"read what changed since {CHECKED_WITH}, then update both"
