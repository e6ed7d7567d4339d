"""The numbers and plots of scaling.md: capacity from FLOP counts, waiting from Erlang C and from a simulation.

    python docs/scaling_model.py          # prints the tables as Markdown, writes docs/images/scaling_*.png

Nothing here was measured on a GPU. FLOP counts are exact for the networks; how fast a card does them is an assumption
(a public peak times an efficiency), stated below and easy to replace.
"""

import heapq
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

IMAGES = Path(__file__).parent / "images"
FRAMES = 32

# TFLOP of one denoiser evaluation of one frame, latent 64 x 64, with k key frames in self-attention
UNET, KEY_FRAME, CONTROL, CONTROL_KEY_FRAME, TEMPORAL, VAE = 0.80327, 0.12249, 0.28329, 0.04901, 0.0512, 3.631
QKVO = 0.05117


def unet(keys: float = 1) -> float:
    """One frame through the denoiser."""
    return UNET + (keys - 1) * KEY_FRAME


def control(keys: float = 1) -> float:
    """One frame through a ControlNet."""
    return CONTROL + (keys - 1) * CONTROL_KEY_FRAME


def tokenflow(frames: int, inversion: int) -> float:
    """Keyframes are one in eight; the others take their features."""
    keys = max(1, frames // 8)
    rest = unet() - KEY_FRAME - QKVO
    return inversion * unet() + 50 * (3 * rest + KEY_FRAME + (unet() + 2 * unet(keys)) / 8)


METHODS: dict[str, Callable[[int], float]] = {
    "LCM, 4 steps": lambda n: 4 * unet(),
    "per-frame SDEdit": lambda n: 100 * unet(),
    "FateZero": lambda n: 150 * unet(),
    "TokenFlow, 50-step inversion": lambda n: tokenflow(n, 50),
    "RAVE 3x3": lambda n: 50 * (unet() + control()) + 100 * (unet(9) + control(9)),
    "vid2vid-zero, no null-text": lambda n: 50 * unet() + 100 * unet(n),
    "FLATTEN, duplicate-free": lambda n: 199 * unet(n),
    "Tune-A-Video, edit only": lambda n: 150 * (unet(2) + TEMPORAL),
    "Tune-A-Video, tuning + edit": lambda n: (150 + 1500) * (unet(2) + TEMPORAL),
}
"""TFLOP per frame without the VAE."""

# dense bf16 peak (TFLOP/s) as vendors state it, and the share of it that we plan with
CARDS = {"L4": 121.0, "A10G": 70.0, "L40S": 362.0, "A100": 312.0, "H100": 989.0}
EFFICIENCY = 0.4
OVERHEAD_SECONDS = 3.0  # per job: fetch, decode and encode the clip, upload; no card makes this faster


def petaflop(method: str, frames: int = FRAMES) -> float:
    """PFLOP of one clip, VAE both ways included."""
    return frames * (METHODS[method](frames) + VAE) / 1000


def seconds(method: str, card: str, frames: int = FRAMES) -> float:
    """Service time of one job on one card."""
    return petaflop(method, frames) * 1000 / (CARDS[card] * EFFICIENCY) + OVERHEAD_SECONDS


def erlang_c(servers: int, load: float) -> float:
    """Probability that a job has to wait; `load` in busy servers, below `servers`. In logarithms, for thousands."""
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def mean_wait(servers: int, utilisation: float) -> float:
    """Mean wait in service times, for service times with a coefficient of variation of 1 (M/M/n)."""
    return erlang_c(servers, servers * utilisation) / (servers * (1 - utilisation))


def highest_utilisation(servers: int, wait: float) -> float:
    """The utilisation at which the mean wait is `wait` service times."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_wait(servers, middle) < wait else (low, middle)
    return low


MIX = {"LCM, 4 steps": 0.3, "FateZero": 0.3, "TokenFlow, 50-step inversion": 0.25, "FLATTEN, duplicate-free": 0.1}
MIX["Tune-A-Video, tuning + edit"] = 0.05


def mix_seconds(card: str = "H100") -> float:
    """Mean service time of the mix."""
    return sum(share * seconds(method, card) for method, share in MIX.items())


def simulate(servers: int, utilisation: float, jobs: int, chance: random.Random, hits: float = 0.0) -> list[float]:
    """Waits in seconds of a first-come queue with the mix's real service times; `hits` is the share of cached clips.

    A cached clip skips inversion and tuning: here, half of its denoising.
    """
    methods, shares = list(MIX), list(MIX.values())
    rate = servers * utilisation / mix_seconds()
    free, now, waits = [0.0] * servers, 0.0, []
    for method in chance.choices(methods, shares, k=jobs):
        now += chance.expovariate(rate)
        begin = max(now, heapq.heappop(free))
        spent = seconds(method, "H100") * (0.5 if chance.random() < hits else 1.0)
        heapq.heappush(free, begin + spent)
        waits.append(begin - now)
    return waits[jobs // 5 :]


def percentile(values: list[float], share: float) -> float:
    """The value below which this share lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class Day:
    """A day with a wave of demand on workers that come and go by the chart's rule; time moves in steps of 15 s."""

    def __init__(self, chance: random.Random, start_seconds: float, per_worker: float) -> None:
        """`start_seconds` from the wish for a worker to its first job: a node, an image, weights."""
        self.chance, self.start_seconds, self.per_worker = chance, start_seconds, per_worker
        self.now = self.next_job = self.last_down = 0.0
        self.idle = 2
        self.queue: list[tuple[float, float]] = []
        self.ends: list[float] = []
        self.coming: list[float] = []
        self.waits: list[float] = []
        self.series: dict[str, list[float]] = {"hour": [], "workers": [], "wait": []}

    def run(self, hours: int) -> "Day":
        """Go through the day."""
        while self.now < hours * 3600:
            self._arrive()
            self._serve()
            workers = self._scale()
            recent = mean(self.waits[-50:] or [0.0])
            for name, value in zip(self.series, (self.now / 3600, workers, recent), strict=True):
                self.series[name].append(value)
            self.now += 15
        return self

    def _arrive(self) -> None:
        while self.next_job <= self.now:
            wave = 1 + 9 * max(0.0, math.sin(math.pi * (self.next_job / 3600 - 6) / 12))
            self.next_job += self.chance.expovariate(wave * 0.05)
            method = self.chance.choices(list(MIX), list(MIX.values()))[0]
            self.queue.append((self.next_job, seconds(method, "H100")))

    def _serve(self) -> None:
        self.idle += sum(at <= self.now for at in self.coming) + sum(end <= self.now for end in self.ends)
        self.coming = [at for at in self.coming if at > self.now]
        self.ends = [end for end in self.ends if end > self.now]
        while self.idle and self.queue and self.queue[0][0] <= self.now:
            came, spent = self.queue.pop(0)
            self.waits.append(self.now - came)
            self.ends.append(self.now + spent)
            self.idle -= 1

    def _scale(self) -> int:
        """Up at once, at most doubling; down one idle worker in five minutes."""
        demand = sum(spent for _, spent in self.queue) + sum(end - self.now for end in self.ends)
        workers = self.idle + len(self.ends) + len(self.coming)
        wanted = max(1, math.ceil(demand / self.per_worker))
        if wanted > workers:
            self.coming += [self.now + self.start_seconds] * min(wanted - workers, max(4, workers))
        elif wanted < workers and self.idle and self.now - self.last_down > 300:
            self.idle, self.last_down = self.idle - 1, self.now
        return workers


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def capacity_table() -> str:
    """Jobs per hour by method and card."""
    rows = []
    for method in METHODS:
        rates = [f"{3600 / seconds(method, card):.0f}" for card in CARDS]
        rows.append([method, f"{petaflop(method):.2f}", f"{seconds(method, 'H100'):.0f}", *rates])
    return table(["method", "PFLOP", "s on H100", *CARDS], rows)


SIZES = (1, 10, 100, 1000)


def waiting_table(chance: random.Random) -> str:
    """What a utilisation costs in waiting, by formula and by simulation, and what a target allows."""
    rows, usual = [], mix_seconds()
    for servers in SIZES:
        allowed = highest_utilisation(servers, 0.5)
        row = [f"{servers}", f"{100 * allowed:.1f} %", f"{allowed * servers * 3600 / usual:.0f}"]
        for busy in (0.7, 0.9):
            waits = simulate(servers, busy, 30_000, chance)
            row += [f"{usual * mean_wait(servers, busy):.1f}", f"{mean(waits):.1f} / {percentile(waits, 0.95):.1f}"]
        rows.append(row)
    head = [
        "GPUs",
        "busy for a mean wait of half a job",
        "jobs/h then",
        "M/M/n wait at 70 %, s",
        "simulated mean / p95",
    ]
    return table([*head, "at 90 %, s", "simulated mean / p95"], rows)


def plot_capacity(path: Path) -> None:
    """Bars of jobs per hour, logarithmic."""
    figure, axes = pyplot.subplots(figsize=(9, 4.5))
    width = 0.8 / len(CARDS)
    for i, card in enumerate(CARDS):
        rates = [3600 / seconds(method, card) for method in METHODS]
        axes.barh([row + i * width for row in range(len(METHODS))], rates, width, label=card)
    axes.set_yticks([row + 0.4 - width / 2 for row in range(len(METHODS))], METHODS)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel(f"jobs per hour and GPU, {FRAMES} frames of 512 x 512, {EFFICIENCY:.0%} of the peak")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    save(figure, path)


def plot_length(path: Path) -> None:
    """How service time grows with the clip."""
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    lengths = (8, 16, 32, 64, 128, 256)
    shown = ("LCM, 4 steps", "FateZero", "TokenFlow, 50-step inversion", "vid2vid-zero, no null-text")
    for method in (*shown, "FLATTEN, duplicate-free"):
        axes.plot(lengths, [seconds(method, "H100", n) for n in lengths], marker="o", label=method)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [str(n) for n in lengths])
    axes.set_xlabel("frames")
    axes.set_ylabel(f"seconds on an H100 at {EFFICIENCY:.0%} of its peak")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def plot_waiting(path: Path, chance: random.Random) -> None:
    """Wait against utilisation: lines by formula, dots by simulation."""
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    steps = [i / 100 for i in range(30, 100)]
    for servers in SIZES:
        formula = [mix_seconds() * mean_wait(servers, busy) for busy in steps]
        line = axes.plot(steps, formula, label=f"{servers} GPU" + "s" * (servers > 1))[0]
        dots = [0.5, 0.7, 0.8, 0.9, 0.95]
        waits = [mean(simulate(servers, busy, 20_000, chance)) for busy in dots]
        axes.plot(dots, waits, "o", color=line.get_color())
    axes.axhline(mix_seconds() / 2, color="grey", linestyle=":", label="half a mean job")
    axes.set_yscale("log")
    axes.set_ylim(0.01, 3000)
    axes.set_xlabel("utilisation")
    axes.set_ylabel("mean wait in seconds (lines M/M/n, dots simulated)")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    save(figure, path)


def plot_elastic(path: Path) -> str:
    """A day with KEDA's rule; returns rows about it."""
    figure, axes = pyplot.subplots(2, 1, figsize=(9, 6), sharex=True)
    rows = []
    for per_worker in (30, 60, 120, 300):
        day = Day(random.Random(7), 180.0, per_worker).run(24)  # noqa: S311 -- the same day for each
        axes[0].plot(day.series["hour"], day.series["workers"], label=f"{per_worker} s per worker")
        axes[1].plot(day.series["hour"], day.series["wait"], label=f"{per_worker} s per worker")
        hours, most, waits = mean(day.series["workers"]) * 24, max(day.series["workers"]), day.waits
        rows.append([f"{per_worker}", f"{hours:.0f}", f"{most:.0f}", f"{mean(waits):.0f}"])
        rows[-1].append(f"{percentile(waits, 0.95):.0f}")
    axes[0].set_ylabel("workers")
    axes[1].set_ylabel("wait of the last 50 jobs, s")
    axes[1].set_xlabel("hour")
    for part in axes:
        part.grid(alpha=0.3)
        part.legend()
    save(figure, path)
    return table(["secondsPerWorker", "GPU-hours in the day", "most workers", "mean wait, s", "p95 wait, s"], rows)


def save(figure: object, path: Path) -> None:
    """Write a plot small and free of dates, so that it is the same every time."""
    figure.tight_layout()  # type: ignore[attr-defined]
    figure.savefig(path, dpi=80, metadata={"Software": None})  # type: ignore[attr-defined]
    pyplot.close(figure)


def main() -> None:
    """Print the tables, write the plots."""
    chance = random.Random(1)  # noqa: S311 -- a simulation
    IMAGES.mkdir(exist_ok=True)
    plot_capacity(IMAGES / "scaling_capacity.png")
    plot_length(IMAGES / "scaling_length.png")
    plot_waiting(IMAGES / "scaling_waiting.png", chance)
    told = [capacity_table(), f"The mix takes {mix_seconds():.1f} s on an H100 on average.", waiting_table(chance)]
    told.append(plot_elastic(IMAGES / "scaling_elastic.png"))
    sys.stdout.write("\n\n".join(told) + "\n")


if __name__ == "__main__":
    main()
