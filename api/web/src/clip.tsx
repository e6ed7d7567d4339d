/** The clip to edit: dropped, chosen or the bundled sample; and the part of it, by two handles on a film strip. */

import { useEffect, useRef, useState } from "preact/hooks";
import * as api from "./api";
import { bytes } from "./text";
import type { Asset } from "./types";

export interface Clip {
  asset: Asset;
  url: string;
  start: number;
  end: number | null;
}

export interface Sample {
  prompts: Record<string, string>;
}

const PICTURES = 10;

interface Props {
  clip: Clip | null;
  set: (clip: Clip) => void;
  sample: (words: Sample) => void;
  trims: boolean;
  fail: (error: unknown) => void;
}

export function ClipChooser({ clip, set, sample, trims, fail }: Props) {
  const [sent, setSent] = useState<number | null>(null);
  const [over, setOver] = useState(false);
  const bring = async (file: Blob, name: string) => {
    setSent(0);
    try {
      const asset = await api.upload(file, name, setSent);
      set({ asset, url: URL.createObjectURL(file), start: 0, end: null });
      return true;
    } catch (error) {
      fail(error);
      return false;
    } finally {
      setSent(null);
    }
  };
  const take = (list: FileList | null | undefined) => {
    const file = list?.[0];
    if (file) void bring(file, file.name);
  };
  const bundled = async () => {
    const [words, film] = await Promise.all([fetch("studio/sample.json"), fetch("studio/sample.mp4")]);
    if (await bring(await film.blob(), "sample.mp4")) sample((await words.json()) as Sample);
  };
  const drop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    take(event.dataTransfer?.files);
  };
  const drag = (event: DragEvent) => {
    event.preventDefault();
    setOver(true);
  };
  return (
    <div class={`clip ${over ? "over" : ""}`} onDragOver={drag} onDragLeave={() => setOver(false)} onDrop={drop}>
      {clip && <Preview key={clip.url} clip={clip} set={set} trims={trims} />}
      <div class={clip ? "drop small" : "drop"}>
        {!clip && <p class="drop-line">Drop a clip here</p>}
        <div class="buttons">
          <label class="button">
            {clip ? "Another file" : "Choose a file"}
            <input type="file" class="hidden" accept="video/*" onChange={(event) => take((event.target as HTMLInputElement).files)} />
          </label>
          <button type="button" onClick={() => bundled().catch(fail)}>
            Use the sample
          </button>
        </div>
        {sent !== null && (
          <div class="sending" role="status">
            <progress value={sent} aria-label="Upload" /> {sent < 1 ? `${Math.round(sent * 100)} %` : "checking"}
          </div>
        )}
      </div>
    </div>
  );
}

function Preview({ clip, set, trims }: { clip: Clip; set: (clip: Clip) => void; trims: boolean }) {
  const video = useRef<HTMLVideoElement>(null);
  const [duration, setDuration] = useState(0);
  const { facts } = clip.asset;
  const seen = (time: number) => video.current && (video.current.currentTime = time);
  const loop = () => {
    const player = video.current;
    if (!player || (player.currentTime >= clip.start && player.currentTime < (clip.end ?? Infinity))) return;
    player.currentTime = clip.start;
  };
  return (
    <>
      <video
        ref={video}
        src={clip.url}
        muted
        playsInline
        controls
        loop
        aria-label="The clip"
        onLoadedMetadata={() => setDuration(video.current?.duration ?? 0)}
        onTimeUpdate={loop}
      />
      <p class="facts">
        <span class="file-name">{clip.asset.name || "clip"}</span>
        <span>
          {facts.width}×{facts.height}
        </span>
        {facts.frames ? <span>{facts.frames} frames</span> : null}
        {facts.fps ? <span>{Number(facts.fps.toFixed(2))} fps</span> : null}
        <span>{bytes(clip.asset.size_bytes)}</span>
      </p>
      {trims && duration > 0 && <Trim clip={clip} set={set} duration={duration} seen={seen} />}
    </>
  );
}

interface TrimProps {
  clip: Clip;
  set: (clip: Clip) => void;
  duration: number;
  seen: (time: number) => void;
}

function Trim({ clip, set, duration, seen }: TrimProps) {
  const step = 1 / (clip.asset.facts.fps ?? 8);
  const end = clip.end ?? duration;
  const read = (event: Event) => (event.target as HTMLInputElement).valueAsNumber;
  const start = (event: Event) => {
    const value = Math.min(read(event), end - step);
    set({ ...clip, start: Math.max(0, value) });
    seen(value);
  };
  const finish = (event: Event) => {
    const value = Math.max(read(event), clip.start + step);
    set({ ...clip, end: value >= duration - step / 2 ? null : value });
    seen(Math.max(0, value - step));
  };
  const shade = (name: string, from: number, to: number) => (
    <span class={`shade ${name}`} style={{ left: `${(100 * from) / duration}%`, width: `${(100 * (to - from)) / duration}%` }} />
  );
  return (
    <div class="trim">
      <div class="strip">
        <Strip url={clip.url} />
        {shade("before", 0, clip.start)}
        {shade("after", end, duration)}
        <input type="range" class="handle" aria-label="Start of the part to edit, seconds" min={0} max={duration} step={step} value={clip.start} onInput={start} />
        <input type="range" class="handle" aria-label="End of the part to edit, seconds" min={0} max={duration} step={step} value={end} onInput={finish} />
      </div>
      <p class="facts">
        <span>
          {clip.start.toFixed(2)} – {end.toFixed(2)} s
        </span>
        <span>drag an end to edit only a part</span>
      </p>
    </div>
  );
}

/** Small pictures along the clip, drawn by a second, hidden player. */
function Strip({ url }: { url: string }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const film = document.createElement("video");
    let number = 0;
    film.muted = true;
    film.onloadeddata = () => (film.currentTime = film.duration / PICTURES / 2);
    film.onseeked = () => {
      const target = canvas.current;
      if (!target) return;
      const width = target.width / PICTURES;
      const scale = Math.max(width / film.videoWidth, target.height / film.videoHeight);
      const [w, h] = [width / scale, target.height / scale];
      const [x, y] = [(film.videoWidth - w) / 2, (film.videoHeight - h) / 2];
      target.getContext("2d")?.drawImage(film, x, y, w, h, number * width, 0, width, target.height);
      number += 1;
      if (number < PICTURES) film.currentTime = (film.duration * (number + 0.5)) / PICTURES;
    };
    film.src = url;
    return () => {
      film.onseeked = null;
      film.removeAttribute("src");
    };
  }, [url]);
  return <canvas ref={canvas} width={640} height={64} aria-hidden="true" />;
}
