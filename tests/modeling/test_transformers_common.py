"""The common tests that transformers runs on its own models pass on ours, with both stems."""

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import pytest

TESTERS = Path(__file__).with_name("common_testers.py")
STAND_INS = {  # what the common tests import and the distribution does not hold
    "exporters/test_export.py": "class ExportTesterMixin: pass",
    "generation/test_utils.py": "class GenerationTesterMixin: pass",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}",
}
NEEDED = {  # a few that must have run, of each stem
    "test_config",
    "test_can_init_all_missing_weights",
    "test_save_load",
    "test_training",
    "test_training_gradient_checkpointing",
    "test_attention_outputs",
    "test_hidden_states_output",
    "test_problem_types",
    "test_sdpa_can_dispatch_non_composite_models",
}


@pytest.fixture(scope="module")
def transformers_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a package `transformers_tests`: the `tests` of the installed version, from the package index."""
    folder = tmp_path_factory.mktemp("transformers")
    name = f"transformers=={version('transformers')}"
    download = ["download", "--no-deps", "--no-build-isolation", "--no-binary", "transformers", name]
    # pip in a process of its own, which the network guard of the tests does not reach
    done = subprocess.run(
        [sys.executable, "-m", "pip", *download, "--dest", str(folder), "--retries", "0", "--timeout", "20"],
        capture_output=True,
        text=True,
    )
    archives = list(folder.glob("*.tar.gz"))
    if not archives:
        reason = (done.stderr.strip() or "nothing was downloaded").splitlines()[-1]
        pytest.skip(f"no source distribution of {name}: {reason}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.glob("transformers-*/tests")
    package = unpacked.rename(folder / "transformers_tests")
    for path, content in STAND_INS.items():
        (package / path).parent.mkdir(exist_ok=True)
        (package / path).write_text(content)
    for directory in (package, *(package / path for path in {Path(path).parent for path in STAND_INS})):
        (directory / "__init__.py").touch()
    return folder


@pytest.mark.slow
def test_the_common_tests_of_transformers_pass(transformers_tests: Path, tmp_path: Path) -> None:
    pytest.importorskip("parameterized", reason="the common tests of transformers need parameterized")
    report = tmp_path / "report.xml"
    options = ["-o", "addopts=--import-mode=importlib", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    paths = [str(transformers_tests), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(TESTERS), *options],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    cases = list(ElementTree.parse(report).iter("testcase"))
    passed = [case for case in cases if not len(case)]
    assert len(passed) > 180 and len(cases) - len(passed) < len(passed)
    for stem in ("LinearStem", "ConvolutionStem"):
        names = {case.get("name") for case in passed if case.get("classname", "").endswith(stem)}
        assert not NEEDED - names
