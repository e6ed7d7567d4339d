"""A documentation page per method, generated from its docstring and the catalogue; never edited by hand."""

from pathlib import Path
from typing import Any

from models import catalogue

FOLDER = catalogue.PATH.parent.parent / "docs" / "methods"
PICTURES = FOLDER.parent / "images" / "methods"


def text(method: dict[str, Any]) -> str:
    """One method's page, from its entry in the catalogue."""
    paper = method["paper"]
    documentation = method["documentation"].split("\n", 1)
    lines = [f"# {method['title'].partition(':')[0]}", "", method["title"].partition(":")[2].strip().capitalize() + "."]
    lines += [
        "",
        f"*{paper['title']}*, {paper['venue']}, [arXiv:{paper['arxiv']}](https://arxiv.org/abs/{paper['arxiv']}).",
    ]
    if (PICTURES / f"{method['id']}.png").exists():
        lines += ["", f"![above the source, below its edit](../images/methods/{method['id']}.png)"]
    lines += ["", documentation[1].strip() if len(documentation) > 1 else "", ""]
    lines += [f"Family `{method['family']}`; stages {', '.join(method['stages'])}; id `{method['id']}`.", ""]
    return "\n".join(lines + _inputs(method) + _params(method)) + "\n"


def _inputs(method: dict[str, Any]) -> list[str]:
    required = method["inputs"].get("required", [])
    rows = [
        f"| `{name}` | {'yes' if name in required else 'no'} | {_cell(field['description'])} |"
        for name, field in method["inputs"]["properties"].items()
    ]
    return ["## Files", "", "| name | required | what |", "| --- | --- | --- |", *rows, ""]


def _params(method: dict[str, Any]) -> list[str]:
    """The parameters; the stage says from where an edit is computed again when the value changes."""
    required = method["params"].get("required", [])
    rows = [
        f"| `{name}` | {field['x-stage']} | {_default(name, field, required)} | {_cell(field['description'])} |"
        for name, field in method["params"]["properties"].items()
    ]
    head = "Changing a parameter computes the edit again from its stage; earlier stages come from the cache."
    return ["## Parameters", "", head, "", "| name | stage | default | what |", "| --- | --- | --- | --- |", *rows]


def _default(name: str, field: dict[str, Any], required: list[str]) -> str:
    if name in required:
        return "required"
    value = field.get("default")
    return "–" if value in (None, "", []) else f"`{value}`"


def _cell(description: str) -> str:
    return description.replace("\n", " ").replace("|", "\\|")


def index(methods: dict[str, Any]) -> str:
    """The list of all methods."""
    lines = ["# Methods", "", "| id | method | paper |", "| --- | --- | --- |"]
    for method_id, method in methods.items():
        arxiv = method["paper"]["arxiv"]
        lines.append(
            f"| [`{method_id}`]({method_id}.md) | {_cell(method['title'])} | [{arxiv}](https://arxiv.org/abs/{arxiv}) |"
        )
    return "\n".join(lines) + "\n"


def build() -> dict[str, str]:
    """All pages by file name."""
    methods = catalogue.build()["methods"]
    return {"README.md": index(methods), **{f"{key}.md": text(method) for key, method in methods.items()}}


def write() -> None:
    """Write all pages, and remove those of methods that are gone."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    pages = build()
    for path in FOLDER.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, page in pages.items():
        (FOLDER / name).write_text(page, encoding="utf-8")


def stale() -> bool:
    """Whether the committed pages differ from the code."""
    present: dict[str, str] = {path.name: _read(path) for path in FOLDER.glob("*.md")}
    return present != build()


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
