"""Command line of the miniature family: `python -m models.miniature render|train|export|eval ...`."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
DataDir = Annotated[Path, typer.Option(help="Renders, latents and checkpoints are kept here.")]
TRAINING = Path("training")


class Part(StrEnum):
    """What can be trained."""

    VAE = "vae"
    CLIP = "clip"
    JUDGE = "judge"
    UNET = "unet"
    T2V = "t2v"
    GROUNDED = "grounded"
    CONTROL = "control"
    FINDER = "finder"


def _image() -> Any:
    from models.miniature import train_unet

    return train_unet


def _clips() -> Any:
    from models.miniature import train_t2v

    return train_t2v


def _boxes() -> Any:
    from models.miniature import train_grounded

    return train_grounded


def _edges() -> Any:
    from models.miniature import train_control

    return train_control


DENOISERS = {Part.UNET: _image, Part.T2V: _clips, Part.GROUNDED: _boxes, Part.CONTROL: _edges}
"""What trains and exports each denoiser and what steers it; imported when needed."""


@app.command()
def render(count: Annotated[int, typer.Option(help="Pictures.")] = 30_000, data_dir: DataDir = TRAINING) -> None:
    """Render the training pictures, or those still missing."""
    from models.miniature import data

    data.pictures(data_dir, count)


@app.command()
def train(
    part: Part,
    minutes: Annotated[float, typer.Option(help="How long to train.")] = 60.0,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint, or else from the shipped weights.")] = False,
    decoder_only: Annotated[bool, typer.Option(help="VAE: keep the encoder, and so the latents.")] = False,
    data_dir: DataDir = TRAINING,
) -> None:
    """Train one part and export its averaged weights at every checkpoint.

    Checkpoints, the loss curve (loss.png) and its points lie in DATA_DIR/PART. Threads: OMP_NUM_THREADS.
    """
    import torch

    torch.set_flush_denormal(True)
    if part is Part.VAE:
        from models.miniature import train_vae

        train_vae.train(data_dir, minutes, resume, decoder_only)
    elif part in DENOISERS:
        DENOISERS[part]().train(data_dir, minutes, resume)
    else:
        from models.miniature import train_clip, train_finder, train_judge

        trainers = {Part.CLIP: train_clip.train, Part.JUDGE: train_judge.train, Part.FINDER: train_finder.train}
        trainer: Any = trainers[part]
        sys.stdout.write(json.dumps(trainer(data_dir, minutes, resume)) + "\n")


@app.command()
def export(part: Part, data_dir: DataDir = TRAINING) -> None:
    """Write the averaged weights of a part's last checkpoint to the shipped folder, fp16."""
    if part is Part.VAE:
        from models.miniature import train_vae

        train_vae.export(data_dir)
    elif part in DENOISERS:
        DENOISERS[part]().export(data_dir)
    else:
        raise typer.BadParameter(f"{part} is exported by its training")


@app.command(name="eval")
def evaluation(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet (PNG) here.")] = None,
    quick: Annotated[bool, typer.Option(help="Fewer samples: minutes instead of an hour.")] = False,
    part: Annotated[
        list[str] | None, typer.Option(help="Only this part; may be repeated. The JSON keeps others.")
    ] = None,
) -> None:
    """Measure the shipped weights on held-out scenes and print the figures as JSON."""
    from models.miniature import evaluate

    evaluate.main(json_path, sheet, quick, part or ())


if __name__ == "__main__":
    app()
