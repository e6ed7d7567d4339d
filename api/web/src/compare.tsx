/** Result and source (or another result of the same clip) in lock step, with a wipe to drag. */

import { useEffect, useRef, useState } from "preact/hooks";
import * as api from "./api";
import { spoken } from "./text";
import type { Job } from "./types";

interface Side {
  url: string;
  name: string;
  offset: number; // seconds of this clip at which the result begins
}

const label = (job: Job): string => job.metadata.studio?.target || spoken(job.method);

async function source(job: Job, signal: AbortSignal): Promise<Side | null> {
  const note = job.metadata.studio;
  if (!note) return null;
  return { url: await api.media(`v1/assets/${note.video}/content`, signal), name: "Source", offset: note.start };
}

async function result(job: Job, signal: AbortSignal): Promise<Side | null> {
  const output = job.outputs[0];
  return output ? { url: await api.media(output.url, signal), name: label(job), offset: 0 } : null;
}

/** Succeeded jobs of the same clip. */
async function siblings(job: Job): Promise<Job[]> {
  const page = await api.jobs(["succeeded"], null, 100);
  const note = job.metadata.studio;
  return page.data.filter((other) => other.id !== job.id && note && other.metadata.studio?.video === note.video);
}

export function Compare({ job, fail }: { job: Job; fail: (error: unknown) => void }) {
  const [shown, setShown] = useState<Side | null>(null);
  const [other, setOther] = useState<Side | null>(null);
  const [others, setOthers] = useState<Job[]>([]);
  const [against, setAgainst] = useState("");
  const output = job.outputs[0];
  const load = (find: Promise<Side | null>, put: (side: Side | null) => void, stop: AbortController) => {
    let url = "";
    find.then(
      (side) => {
        url = side?.url ?? "";
        if (!stop.signal.aborted) put(side);
      },
      (error) => stop.signal.aborted || fail(error),
    );
    return () => {
      stop.abort();
      if (url) URL.revokeObjectURL(url);
    };
  };
  useEffect(() => {
    siblings(job).then(setOthers, () => undefined);
    const stop = new AbortController();
    return load(result(job, stop.signal), setShown, stop);
  }, [job.id]);
  useEffect(() => {
    const stop = new AbortController();
    const found = others.find(({ id }) => id === against);
    return load(found ? result(found, stop.signal) : source(job, stop.signal), setOther, stop);
  }, [job.id, against]);
  if (!output) return null;
  if (!output.media_type.startsWith("video/")) return shown && <img class="still" src={shown.url} alt={label(job)} />;
  const rate = output.fps ?? 8;
  return (
    <section class="panel compare" aria-label="Compare">
      {shown ? <Player shown={shown} other={other} rate={rate} job={job} /> : <p class="quiet">Fetching the result…</p>}
      {others.length > 0 && (
        <label class="against">
          Compare with{" "}
          <select onChange={(event) => setAgainst((event.target as HTMLSelectElement).value)}>
            <option value="">the source</option>
            {others.map((entry) => (
              <option key={entry.id} value={entry.id}>
                {label(entry)} · {spoken(entry.method)}
              </option>
            ))}
          </select>
        </label>
      )}
    </section>
  );
}

function Player({ shown, other, rate, job }: { shown: Side; other: Side | null; rate: number; job: Job }) {
  const front = useRef<HTMLVideoElement>(null);
  const back = useRef<HTMLVideoElement>(null);
  const [wipe, setWipe] = useState(50);
  const [beside, setBeside] = useState(false);
  const [playing, setPlaying] = useState(!matchMedia("(prefers-reduced-motion: reduce)").matches);
  const [loops, setLoops] = useState(true);
  const [frame, setFrame] = useState(0);
  const [frames, setFrames] = useState(job.outputs[0]?.frames ?? 1);

  const place = (number: number) => {
    const time = (number + 0.5) / rate; // the middle of a frame: no rounding shows its neighbour
    if (front.current) front.current.currentTime = time;
    if (back.current) back.current.currentTime = time + (other?.offset ?? 0);
    setFrame(number);
  };
  const step = (by: number) => {
    setPlaying(false);
    place(Math.min(frames - 1, Math.max(0, frame + by)));
  };

  useEffect(() => {
    const [clock, follower] = [front.current, back.current];
    if (!clock) return;
    if (!playing) {
      clock.pause();
      follower?.pause();
      return;
    }
    let handle = 0;
    const tick = () => {
      const time = clock.currentTime + (other?.offset ?? 0);
      if (follower && Math.abs(follower.currentTime - time) > 0.6 / rate) follower.currentTime = time;
      setFrame(Math.min(frames - 1, Math.floor(clock.currentTime * rate)));
      handle = requestAnimationFrame(tick);
    };
    const begin = () => {
      if (clock.ended) clock.currentTime = 0;
      if (follower) follower.currentTime = clock.currentTime + (other?.offset ?? 0);
      void Promise.all([clock.play(), follower?.play()]).catch(() => undefined);
    };
    const again = () => (loops ? begin() : setPlaying(false));
    clock.addEventListener("ended", again);
    begin();
    tick();
    return () => {
      cancelAnimationFrame(handle);
      clock.removeEventListener("ended", again);
    };
  }, [playing, loops, other?.url, frames, rate]);

  const toggle = () => {
    if (playing) place(frame);
    setPlaying(!playing);
  };
  const keys = (event: KeyboardEvent) => {
    const target = event.target as HTMLElement;
    if (["INPUT", "SELECT", "BUTTON", "A"].includes(target.tagName)) return;
    const actions: Record<string, () => void> = {
      " ": toggle,
      ",": () => step(-1),
      ".": () => step(1),
      ArrowLeft: () => step(-1),
      ArrowRight: () => step(1),
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  };
  const known = () => {
    const clock = front.current;
    if (clock && !job.outputs[0]?.frames) setFrames(Math.max(1, Math.round(clock.duration * rate)));
    if (!playing) place(0);
  };
  const slide = (event: PointerEvent) => {
    const stage = event.currentTarget as HTMLElement;
    if (beside || !other || (event.type === "pointermove" && !event.buttons)) return;
    if (event.type === "pointerdown") stage.setPointerCapture(event.pointerId);
    const { left, width } = stage.getBoundingClientRect();
    setWipe(Math.round(Math.min(100, Math.max(0, (100 * (event.clientX - left)) / width))));
  };
  const cut = beside || !other ? undefined : `inset(0 0 0 ${wipe}%)`;
  const size = { aspectRatio: `${job.outputs[0]?.width ?? 1} / ${job.outputs[0]?.height ?? 1}` };
  const film = { muted: true, playsInline: true, preload: "auto" } as const;
  return (
    <div class="player" onKeyDown={keys} tabIndex={0} role="group" aria-label="Player: space plays, arrow keys step">
      <div class={`films ${beside ? "beside" : ""}`} onPointerDown={slide} onPointerMove={slide}>
        {other && (
          <div class="film" style={size}>
            <video ref={back} src={other.url} {...film} aria-label={other.name} />
            <span class="tag left">{other.name}</span>
          </div>
        )}
        <div class={other && !beside ? "film over" : "film"} style={{ ...size, clipPath: cut }}>
          <video ref={front} src={shown.url} {...film} onLoadedMetadata={known} aria-label={`Result: ${shown.name}`} />
          <span class="tag right">{against(other) ? shown.name : "Result"}</span>
        </div>
        {other && !beside && <span class="wipe-line" style={{ left: `${wipe}%` }} aria-hidden="true" />}
      </div>
      <div class="controls">
        <button type="button" class="play" onClick={toggle}>
          {playing ? "Pause" : "Play"}
        </button>
        <button type="button" onClick={() => step(-1)} aria-label="One frame back">
          ‹
        </button>
        <button type="button" onClick={() => step(1)} aria-label="One frame on">
          ›
        </button>
        <input
          type="range"
          class="seek"
          aria-label="Frame"
          min={0}
          max={frames - 1}
          value={frame}
          onInput={(event) => {
            setPlaying(false);
            place((event.target as HTMLInputElement).valueAsNumber);
          }}
        />
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
        <a class="button primary" href={shown.url} download={`${job.method}-${job.id}.mp4`}>
          Download
        </a>
      </div>
      {other && !beside && (
        <label class="wipe">
          Wipe{" "}
          <input type="range" min={0} max={100} value={wipe} onInput={(event) => setWipe((event.target as HTMLInputElement).valueAsNumber)} />
        </label>
      )}
    </div>
  );
}

/** Another result is on the left, so both need their names. */
const against = (other: Side | null): boolean => other !== null && other.name !== "Source";
