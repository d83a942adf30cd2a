"""`pipeline("wbc-classification", model=…)`: one cell, and all that its model can say of it.

    classify = pipeline("wbc-classification", model="celluscan/vit-b16-wbc-handbuilt", trust_remote_code=True)
    classify("cell.png", coverage=0.95)
    {"label": "Neutrophil", "score": 0.93, "code": "NEU", "lineage": "granulocytic", "stage": None, "parent": None,
     "abnormal_in_blood": False, "abnormal": 0.01, "set": ["Band Neutrophil", "Segmented Neutrophil"], "abstain": True,
     "reason": "children of Neutrophil compete", "strangeness": 0.2, "top": [{"label": "Band Neutrophil", …}, …]}

With the package of CelluScan imported, the task is known for native checkpoints too, and needs no trust. This file is
shipped with every hand-built checkpoint as remote code, so it stands alone: it imports nothing of this package.
"""

from typing import Any

import torch
from transformers.image_utils import load_image
from transformers.pipelines.base import Pipeline

from .reliability_celluscan import COVERAGE, FACTS, find, forward

TASK = "wbc-classification"
_CALLED = ("coverage", "by_class", "top_k")


class WhiteBloodCellPipeline(Pipeline):
    """Images to answers: files, addresses, PIL images, or lists of them.

    Options of a call, or of the pipeline:
        coverage: How often the set is to hold the true class, above 0 and below 1 (0.9).
        by_class: Whether it is to do so for each class, not only over all cells (False); sets are then larger.
        top_k: How many classes `top` holds, likeliest first (5).

    Raises:
        ValueError: Nothing on reliability lies beside the weights, or an option is out of range.
    """

    _load_tokenizer = False
    _load_feature_extractor = False
    _load_processor = False
    _load_image_processor = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        found = find(self.model)
        if found is None:
            name = self.model.name_or_path or "the model"
            raise ValueError(
                f"{name} has no {FACTS}, so nothing is known of how far to trust it: run celluscan calibrate {name} "
                '--dataset FOLDER on a copy here, or use pipeline("image-classification")'
            )
        self.reliability = found

    def _sanitize_parameters(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown := sorted(set(given) - {*_CALLED, "timeout"}):
            raise ValueError(f"{TASK} has no option {', '.join(unknown)}; it has {', '.join(_CALLED)} and timeout")
        if not 0 < given.get("coverage", COVERAGE) < 1:
            raise ValueError(f"coverage must be above 0 and below 1, such as 0.9, got {given['coverage']}")
        if given.get("top_k", 1) < 1:
            raise ValueError(f"top_k must be at least 1, got {given['top_k']}")
        told = {name: given[name] for name in _CALLED if name in given}
        return {"timeout": given["timeout"]} if "timeout" in given else {}, {}, told

    def preprocess(self, image: Any, timeout: float | None = None) -> Any:
        opened = load_image(image, timeout=timeout)
        return self.image_processor(images=opened, return_tensors="pt").to(self.dtype)

    def _forward(self, model_inputs: Any) -> dict[str, torch.Tensor]:
        logits, features = forward(self.model, model_inputs["pixel_values"])  # (B, classes), (B, D + 9)
        return {"probabilities": logits.softmax(dim=-1), "features": features}

    def postprocess(self, model_outputs: dict[str, torch.Tensor], **told: Any) -> dict[str, Any]:
        probabilities, features = (model_outputs[name][0].numpy() for name in ("probabilities", "features"))
        return self.reliability.answer(probabilities, features, **told)
