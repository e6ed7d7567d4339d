/** Clips in lock step: one over the other with a wipe to drag, or all beside each other. */

import { useEffect, useRef, useState } from "preact/hooks";
import { Plot, type Figures, type Line } from "./plot";

export interface Lane {
  id: string;
  url: string;
  name: string;
  offset: number; // seconds of this clip at which the result begins
  figures: Figures | null;
}

interface Props {
  lanes: Lane[]; // the result first
  beside: boolean;
  setBeside: (beside: boolean) => void;
  rate: number;
  counted: number | null;
  shape: string;
  file: string;
}

const ONE: Record<string, number> = { ",": -1, ".": 1, ArrowLeft: -1, ArrowRight: 1, PageUp: -5, PageDown: 5 };

export function Player({ lanes, beside, setBeside, rate, counted, shape, file }: Props) {
  const films = useRef<Record<string, HTMLVideoElement | null>>({});
  const [wipe, setWipe] = useState(50);
  const [playing, setPlaying] = useState(!matchMedia("(prefers-reduced-motion: reduce)").matches);
  const [loops, setLoops] = useState(true);
  const [frame, setFrame] = useState(0);
  const [frames, setFrames] = useState(counted ?? 1);
  const [main, other] = lanes;
  const urls = lanes.map(({ url }) => url).join(" ");

  const each = (act: (film: HTMLVideoElement, lane: Lane) => void) =>
    lanes.forEach((lane) => {
      const film = films.current[lane.id];
      if (film) act(film, lane);
    });
  const place = (number: number) => {
    const time = (number + 0.5) / rate; // the middle of a frame: no rounding shows its neighbour
    each((film, lane) => (film.currentTime = time + lane.offset));
    setFrame(number);
  };
  const go = (number: number) => {
    setPlaying(false);
    place(Math.min(frames - 1, Math.max(0, number)));
  };

  useEffect(() => {
    const clock = main && films.current[main.id];
    if (!clock) return;
    if (!playing) {
      each((film) => film.pause());
      return;
    }
    let handle = 0;
    const tick = () => {
      each((film, lane) => {
        const time = clock.currentTime + lane.offset;
        if (film !== clock && Math.abs(film.currentTime - time) > 0.6 / rate) film.currentTime = time;
      });
      setFrame(Math.min(frames - 1, Math.floor(clock.currentTime * rate)));
      handle = requestAnimationFrame(tick);
    };
    const begin = () => {
      if (clock.ended) clock.currentTime = 0;
      each((film, lane) => {
        if (film !== clock) film.currentTime = clock.currentTime + lane.offset;
        film.play().catch(() => undefined);
      });
    };
    const again = () => (loops ? begin() : setPlaying(false));
    clock.addEventListener("ended", again);
    begin();
    tick();
    return () => {
      cancelAnimationFrame(handle);
      clock.removeEventListener("ended", again);
    };
  }, [playing, loops, urls, beside, frames, rate]);
  useEffect(() => {
    if (!playing) place(frame);
  }, [urls, beside]);

  const toggle = () => {
    if (playing) place(frame);
    setPlaying(!playing);
  };
  const keys = (event: KeyboardEvent) => {
    if (["INPUT", "SELECT", "BUTTON", "A", "SUMMARY"].includes((event.target as HTMLElement).tagName)) return;
    const by = ONE[event.key];
    if (by) go(frame + by);
    else if (event.key === "Home") go(0);
    else if (event.key === "End") go(frames - 1);
    else if (event.key === " ") toggle();
    else return;
    event.preventDefault();
  };
  const known = () => {
    const clock = main && films.current[main.id];
    if (clock && !counted) setFrames(Math.max(1, Math.round(clock.duration * rate)));
    if (!playing) place(frame);
  };
  const wipes = !beside && other !== undefined;
  const slide = (event: PointerEvent) => {
    const stage = event.currentTarget as HTMLElement;
    if (!wipes || (event.type === "pointermove" && !event.buttons)) return;
    if (event.type === "pointerdown") stage.setPointerCapture(event.pointerId);
    const { left, width } = stage.getBoundingClientRect();
    setWipe(Math.round(Math.min(100, Math.max(0, (100 * (event.clientX - left)) / width))));
  };
  const film = (lane: Lane, tag: string, over: boolean) => (
    <div key={lane.id} class={over ? "film over" : "film"} style={{ aspectRatio: shape, clipPath: over && wipes ? `inset(0 0 0 ${wipe}%)` : undefined }}>
      <video
        ref={(made) => void (films.current[lane.id] = made)}
        src={lane.url}
        muted
        playsInline
        preload="auto"
        aria-label={lane === main ? `Result: ${lane.name}` : lane.name}
        onLoadedMetadata={known}
      />
      <span class={`tag ${tag}`}>{lane === main && wipes && other?.id === "source" ? "Result" : lane.name}</span>
    </div>
  );
  const shown = wipes ? [other, main as Lane] : beside && lanes.length > 1 ? [...lanes.slice(1), main as Lane] : [main as Lane];
  const lines: Line[] = lanes.flatMap(({ name, figures }) => (figures ? [{ name, figures }] : []));
  return (
    <div class="player" onKeyDown={keys} tabIndex={0} role="group" aria-label="Player: space plays, arrow keys step">
      <div class={`films ${beside && lanes.length > 1 ? `beside n${Math.min(4, lanes.length)}` : ""}`} onPointerDown={slide} onPointerMove={slide}>
        {shown.map((lane) => film(lane, wipes && lane === main ? "right" : "left", wipes && lane === main))}
        {wipes && <span class="wipe-line" style={{ left: `${wipe}%` }} aria-hidden="true" />}
      </div>
      <div class="controls">
        <button type="button" class="play" onClick={toggle}>
          {playing ? "Pause" : "Play"}
        </button>
        <button type="button" onClick={() => go(frame - 1)} aria-label="One frame back">
          ‹
        </button>
        <button type="button" onClick={() => go(frame + 1)} aria-label="One frame on">
          ›
        </button>
        <input type="range" class="seek" aria-label="Frame" min={0} max={frames - 1} value={frame} onInput={(event) => go((event.target as HTMLInputElement).valueAsNumber)} />
        <output class="frame-number">
          {frame + 1} / {frames}
        </output>
        <button type="button" aria-pressed={loops} onClick={() => setLoops(!loops)}>
          Loop
        </button>
        {other && (
          <button type="button" aria-pressed={beside} onClick={() => setBeside(!beside)}>
            Side by side
          </button>
        )}
        <a class="button primary" href={main?.url} download={file}>
          Download
        </a>
      </div>
      {wipes && (
        <label class="wipe">
          Wipe <input type="range" min={0} max={100} value={wipe} onInput={(event) => setWipe((event.target as HTMLInputElement).valueAsNumber)} />
        </label>
      )}
      {lines.length > 0 && <Plot lines={lines} frame={frame} frames={frames} go={go} />}
    </div>
  );
}
