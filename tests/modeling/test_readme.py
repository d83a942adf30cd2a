"""The page that explains the model runs as it stands, and its links point at the lines they name."""

import doctest
import re
from pathlib import Path

from celluscan_hf.modeling import modeling_celluscan

FOLDER = Path(modeling_celluscan.__file__).parent
README = FOLDER / "README.md"
LINK = re.compile(r"\[`?([^\]`]+)`?\]\(([\w.]+)#L(\d+)\)")

# links whose text is a word of the sentence, and the code that stands on their line
IN_WORDS = {
    "weights": "softmax(scores",
    "merged": "mixed.flatten(2)",
    "here": "ALL_ATTENTION_FUNCTIONS.get_interface",
    "attention": "self.attention(self.layernorm_before(hidden_states)",
    "MLP": "self.mlp(self.layernorm_after(hidden_states))",
    "classifier": "logits = self.classifier(pooled",
}


def test_every_snippet_gives_what_the_page_says() -> None:
    result = doctest.testfile(str(README), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 40
    assert result.failed == 0


def test_every_link_points_at_the_line_it_names() -> None:
    links = LINK.findall(README.read_text("utf-8"))
    assert len(links) >= 15
    for text, file, number in links:
        line = (FOLDER / file).read_text("utf-8").splitlines()[int(number) - 1]
        assert IN_WORDS.get(text, text) in line, f"[{text}] points at line {number}: {line.strip()}"
