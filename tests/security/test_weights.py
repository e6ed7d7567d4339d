"""S12: weights that are programs in disguise are refused by their first bytes and header, before torch sees them."""

import ast
import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from models import weights
from models.errors import WeightsUnavailable

ROOT = Path(__file__).parents[2]
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


class Program:
    """Unpickling it would run a command."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('owned')",))


def zipped() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Program()))
    return held.getvalue()


def safetensors(header: object, body: bytes = b"\0" * 8, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


FILES = {
    "pickle": pickle.dumps(Program()),
    "zip with pickle": zipped(),
    "empty": b"",
    "header beyond the file": safetensors({"w": ENTRY}, length=1 << 62),
    "huge header": safetensors(b" " * (101 << 20)),
    "overlapping": safetensors({"w": ENTRY, "v": {**ENTRY, "data_offsets": [4, 12]}}, b"\0" * 12),
    "a hole": safetensors({"w": ENTRY, "v": {**ENTRY, "data_offsets": [16, 24]}}, b"\0" * 24),
    "negative": safetensors({"w": {**ENTRY, "data_offsets": [-8, 0]}}),
    "beyond the end": safetensors({"w": {**ENTRY, "data_offsets": [0, 1 << 40]}}),
    "twice": safetensors(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":1}'),
    "overflow": safetensors({"w": {**ENTRY, "shape": [1 << 32, 1 << 32, 1 << 32]}}),
    "deep": safetensors(b"[" * 100_000 + b"]" * 100_000),
}


@pytest.mark.parametrize("name", FILES)
def test_s12_what_is_no_sound_safetensors_is_refused(tmp_path, name):
    path = tmp_path / "model.safetensors"
    path.write_bytes(FILES[name])
    with pytest.raises(WeightsUnavailable) as refused:
        weights.check_header(path)
    assert refused.value.code == "model.integrity"


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt", "model.pt", "model.pth", "model.pkl"])
def test_s12_a_folder_without_safetensors_is_refused(tmp_path, name):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    (tmp_path / "unet" / name).write_bytes(pickle.dumps(Program()))
    with pytest.raises(WeightsUnavailable):
        weights.resolve(str(tmp_path), roles=("unet",))


def test_s12_headers_are_checked_without_torch():
    program = "import importlib.util, sys, types;import models.weights;sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_s12_nothing_here_unpickles_or_runs_code_of_others():
    """No pickle, no `torch.load` of objects, no remote code, no pipeline by name, in any room."""
    banned_names = {"custom_pipeline", "trust_remote_code"}
    for path in (path for room in ("api", "jobs", "models", "workers") for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.partition(".")[0] for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("numpy.load", "np.load", "eval", "exec"), (path, called)
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                # only what the training itself wrote, and without objects
                assert called != "torch.load" or given.get("weights_only") == "True", path
                assert all(given.get(name, "False") == "False" for name in banned_names), (path, called)
                if called.endswith(".from_pretrained") and "use_safetensors" in given:
                    assert given["use_safetensors"] == "True", path
