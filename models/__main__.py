"""The engine without any server: ``python -m models list | describe | catalogue | edit | bench``."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from models import catalogue, engine, pages, video
from models.backbones import sd
from models.bench import measure, plots, proofs, report, sheets, suite
from models.bench.cases import cases, source_file
from models.digest import digest_file
from models.engine import Progress
from models.errors import EditError, InvalidInput
from models.method import validated
from models.types import File

OK, FAILED, USAGE = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 done, 2 wrong usage or input, 1 failed. Errors go to stderr."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except EditError as error:
        sys.stderr.write(f"{error.code}: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        wrong = error.code.startswith(("input.", "validation", "unknown", "missing"))
        return USAGE if wrong else FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = commands.add_parser("list", help="ids, papers, families and checkpoints of all methods")
    add.add_argument("--json", action="store_true", help="as JSON")
    add.set_defaults(run=_list)
    add = commands.add_parser("describe", help="one method with all its parameters")
    add.add_argument("method")
    add.set_defaults(run=_describe)
    add = commands.add_parser("catalogue", help="write jobs/catalogue.json and docs/methods")
    add.add_argument("--check", action="store_true", help="write nothing; fail when the committed file is stale")
    add.set_defaults(run=_catalogue)
    add = commands.add_parser("edit", help="edit one clip")
    add.add_argument("method")
    add.add_argument("clip", type=Path)
    add.add_argument("out", type=Path, help=".mp4, .gif, .webp, or a folder name for PNG frames")
    _edit_options(add)
    add.set_defaults(run=_edit)
    add = commands.add_parser("bench", help="frame-evals, FLOPs, peak memory and seconds per stage")
    _bench_options(add)
    _edit_options(add)
    add.set_defaults(run=_bench)
    return parser


def _bench_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", nargs="?", help="left out with --suite")
    parser.add_argument(
        "--suite", choices=["miniature"], help="all methods against the exact edits of the miniature world"
    )
    parser.add_argument("--methods", help="with --suite: only these, comma-separated")
    parser.add_argument("--quick", action="store_true", help="with --suite: one clip of each kind instead of six")
    parser.add_argument(
        "--clips", type=int, choices=range(1, 7), help="with --suite: so many clips of each kind (default 6)"
    )
    parser.add_argument("--steps", type=int, default=20, help="with --suite: denoising steps")
    parser.add_argument("--fit-steps", type=int, default=30, help="with --suite: tuning steps at most")
    parser.add_argument("--clip", type=Path, help="the clip to edit; left out, one of the miniature world")
    parser.add_argument("--second-prompt", default="a photo of a green fish in the ocean")
    parser.add_argument(
        "--picture", type=Path, metavar="PNG", help="with a method: frames of the clip above its first edit"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--done", action="store_true", help="with --suite: run nothing, report what has been run")
    parser.add_argument("--proof", choices=sorted(proofs.PROOFS), help="measure what a method promises beside quality")
    parser.add_argument(
        "--report", type=Path, metavar="PAGE", help="with --suite: write tables and pictures for this page"
    )


def _edit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", help="what the result shows")
    parser.add_argument("--source-prompt", help="what the clip shows")
    parser.add_argument("--negative-prompt", help="what the result must not show")
    parser.add_argument("--seed", type=int)
    parser.add_argument("-p", "--param", action="append", default=[], metavar="NAME=VALUE", help="any other parameter")
    parser.add_argument("-i", "--input", action="append", default=[], metavar="NAME=FILE", help="any other input file")
    parser.add_argument(
        "--checkpoint", default="miniature", help="preset, hub id@revision, or folder (default: miniature)"
    )


def _params(options: argparse.Namespace) -> dict[str, Any]:
    named = {name: getattr(options, name) for name in ("prompt", "source_prompt", "negative_prompt", "seed")}
    params = {name: value for name, value in named.items() if value is not None}
    for item in options.param:
        name, value = _split(item)
        params[name] = _value(value)
    return params


def _split(item: str) -> tuple[str, str]:
    name, separator, value = item.partition("=")
    if not separator:
        raise InvalidInput(f"expected NAME=VALUE, got {item!r}")
    return name, value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def file(path: Path) -> File:
    """A file given by path; InvalidInput when there is none."""
    if not path.is_file():
        raise InvalidInput(f"there is no file {str(path)!r}", hint="check the path")
    return File(path, digest_file(path), path.name)


def _inputs(options: argparse.Namespace) -> dict[str, Any]:
    given: dict[str, Any] = {"video": file(options.clip)}
    for item in options.input:
        name, value = _split(item)
        given[name] = file(Path(value))
    return given


def _list(options: argparse.Namespace) -> int:
    keys = ("id", "title", "paper", "family", "backbones")
    rows = [{key: catalogue.describe(method_id)[key] for key in keys} for method_id in engine.method_ids()]
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        return OK
    for row in rows:
        sys.stdout.write(f"{row['id']:20} {row['family']:10} arXiv:{row['paper']['arxiv']:12} {row['title']}\n")
    return OK


def _describe(options: argparse.Namespace) -> int:
    sys.stdout.write(json.dumps(catalogue.describe(options.method), indent=1, ensure_ascii=False) + "\n")
    return OK


def _catalogue(options: argparse.Namespace) -> int:
    if not options.check:
        catalogue.write()
        pages.write()
    elif catalogue.stale() or pages.stale():
        sys.stderr.write("jobs/catalogue.json or docs/methods is stale: run `make catalogue` and commit them\n")
        return FAILED
    return OK


def _show(progress: Progress) -> None:
    place = f" {progress.step}/{progress.steps}" if progress.steps else ""
    sys.stderr.write(f"\r\033[K{progress.stage}: {progress.state}{place}")
    sys.stderr.flush()


def _edit(options: argparse.Namespace) -> int:
    inputs = _inputs(options)
    kind = engine.find(options.method)
    validated(kind, _params(options), inputs)
    backbone = sd.load(options.checkpoint, family=kind.backbone.family)
    result = engine.run(kind, _params(options), inputs, backbone, progress=_show)
    sys.stderr.write("\n")
    for warning in result.warnings:
        sys.stderr.write(f"warning: {warning.code}: {warning.message}\n")
    start = _params(options).get("start_seconds", 0.0)
    edited = result.video
    size = (edited.width, edited.height)
    video.write(options.out, edited.frames, edited.fps, audio_from=options.clip, start_seconds=start, size=size)
    sys.stdout.write(f"{options.out}\n")
    return OK


def _bench(options: argparse.Namespace) -> int:
    if options.suite:
        return _suite(options)
    if options.proof:
        return _proof(options)
    if not options.method:
        raise InvalidInput("expected a method or --suite", hint="`python -m models list` names the methods")
    case = cases("colour", 1)[0]
    given = {"prompt": case.prompt, "source_prompt": case.source_prompt, **_params(options)}
    kind = engine.find(options.method)
    known = kind.Params.model_fields
    params = {name: value for name, value in given.items() if name in known or name in _params(options)}
    backbone = sd.load(options.checkpoint, family=kind.backbone.family)
    with tempfile.TemporaryDirectory() as folder:
        clip = file(options.clip) if options.clip else source_file(case, Path(folder))
        runs = measure.first_and_second(options.method, params, clip, backbone, options.second_prompt)
        if options.picture:
            edited = runs[0].video
            source = video.read(clip.path, max_frames=len(edited.frames), width=edited.width, height=edited.height)
            sheets.pair(source.frames, edited.frames, options.picture)
    sys.stdout.write(measure.table(options.method, backbone.checkpoint, runs) + "\n")
    if options.json:
        figures = measure.as_json(options.method, backbone.checkpoint, runs)
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return OK


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")


def _proof(options: argparse.Namespace) -> int:
    figures = proofs.PROOFS[options.proof](options.checkpoint, options.clips or 1)
    text = json.dumps(figures, indent=1) + "\n"
    if options.json:
        options.json.write_text(text)
    sys.stdout.write(text)
    return OK


def _suite(options: argparse.Namespace) -> int:
    methods = tuple(options.methods.split(",")) if options.methods else tuple(engine.method_ids())
    for method_id in methods:
        engine.find(method_id)
    out = options.json or Path("suite.json")
    clips = 1 if options.quick else options.clips or suite.CLIPS_PER_KIND
    plan = suite.Plan(methods, clips, options.steps, options.fit_steps, out.with_suffix(".edits.json"), options.done)
    found = suite.run(plan, options.checkpoint, _tell)
    out.write_text(json.dumps(found, indent=1) + "\n")
    if options.report:
        report.write(options.report, found)
        plots.draw(options.report.parent / "images", found)
        for name in methods:
            sheets.write(plan.pictures, options.report.parent / "images" / "bench" / f"{name}.jpg", name)
    sys.stdout.write(suite.table(found))
    return OK


if __name__ == "__main__":
    raise SystemExit(main())
