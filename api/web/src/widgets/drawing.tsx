/** What every drawn input shares: the clip's frame to draw on, its moments, and places as fractions of it. */

import { createContext, type ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { Clip } from "../clip";
import type { Field } from "../schema";

export type Place = [number, number];

export interface Drawn {
  clip: Clip | null;
  values: Record<string, unknown>;
  wrong: Record<string, string>;
  field: (name: string) => Field | undefined;
  set: (name: string, value: unknown) => void;
}

/** The form around a control, for one that fills in other fields too. */
export const Drawing = createContext<Drawn>({ clip: null, values: {}, wrong: {}, field: () => undefined, set: () => undefined });

export const COLOURS = 6;
export const NUDGE = 0.01;
export const short = (value: number): number => Math.round(Math.min(1, Math.max(0, value)) * 1000) / 1000;
export const percent = (value: number): string => `${Math.round(100 * value)} %`;

export interface Part {
  start: number;
  seconds: number;
  frames: number;
  fps: number;
}

/** The part of the clip that is edited. */
export function partOf(clip: Clip): Part {
  const { fps = 8, duration_seconds, frames: counted } = clip.asset.facts;
  const whole = duration_seconds ?? (counted ?? 1) / fps;
  const seconds = Math.max(1 / fps, (clip.end ?? whole) - clip.start);
  return { start: clip.start, seconds, frames: Math.max(1, Math.round(seconds * fps)), fps };
}

/** The middle of the frame at this fraction of the part: 0 is its first frame, 1 its last. */
export function timeAt({ start, frames, fps }: Part, fraction: number): number {
  return start + (Math.round(fraction * (frames - 1)) + 0.5) / fps;
}

export function placeOf(event: PointerEvent, root: Element): Place {
  const { left, top, width, height } = root.getBoundingClientRect();
  return [short((event.clientX - left) / width), short((event.clientY - top) / height)];
}

/** The step an arrow key asks for, in fractions of the frame. */
export function arrow(event: KeyboardEvent): Place | null {
  const step = event.ctrlKey || event.metaKey ? NUDGE / 4 : NUDGE;
  const steps: Record<string, Place> = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  return steps[event.key] ?? null;
}

/** The values at evenly spread moments, found between those there are: as the service spreads them over the clip. */
export function spread<T extends number[]>(track: T[], moments: number): T[] {
  return Array.from({ length: moments }, (_, index) => between(track, moments > 1 ? index / (moments - 1) : 0));
}

export function between<T extends number[]>(track: T[], fraction: number): T {
  const place = fraction * (track.length - 1);
  const before = Math.min(Math.floor(place), Math.max(0, track.length - 2));
  const [first, second] = [track[before] as T, (track[before + 1] ?? track[before]) as T];
  return first.map((value, axis) => short(value + ((second[axis] ?? value) - value) * (place - before))) as T;
}

interface FrameProps {
  clip: Clip;
  fraction: number; // of the part that is edited
  children: ComponentChildren;
}

/** One frame of the clip, and what is drawn over it. */
export function Frame({ clip, fraction, children }: FrameProps) {
  const video = useRef<HTMLVideoElement>(null);
  const time = timeAt(partOf(clip), fraction);
  useEffect(() => {
    if (video.current) video.current.currentTime = time;
  }, [time]);
  const { width = 1, height = 1 } = clip.asset.facts;
  const seek = () => video.current && (video.current.currentTime = time);
  return (
    <div class="frame" style={{ aspectRatio: `${width} / ${height}`, width: `min(100%, ${Math.round((380 * width) / height)}px)` }}>
      <video ref={video} src={clip.url} muted playsInline preload="auto" tabIndex={-1} aria-hidden="true" onLoadedMetadata={seek} />
      {children}
    </div>
  );
}

/** Units of drawings: a thousand across, as many down as the frame's shape asks for. */
export const ACROSS = 1000;
export const down = (clip: Clip): number => Math.round((ACROSS * (clip.asset.facts.height ?? 1)) / (clip.asset.facts.width ?? 1));

interface MomentsProps {
  clip: Clip;
  name: string;
  count: number;
  setCount: (count: number) => void;
  at: number;
  setAt: (index: number) => void;
  explain: (count: number) => string;
}

/** How many keyframes there are, and which one is drawn on. */
export function Moments({ clip, name, count, setCount, at, setAt, explain }: MomentsProps) {
  const { frames } = partOf(clip);
  const counts = [...new Set([1, 2, 3, 4, 5, 6, 8, 12, 16, count, frames > 16 ? 16 : frames])].filter((number) => number <= Math.max(frames, count));
  counts.sort((a, b) => a - b);
  const frameOf = (index: number) => Math.round((index / Math.max(1, count - 1)) * (frames - 1)) + 1;
  return (
    <div class="moments">
      <label>
        Keyframes{" "}
        <select onChange={(event) => setCount(Number((event.target as HTMLSelectElement).value))} aria-label={`Keyframes of ${name}`}>
          {counts.map((number) => (
            <option key={number} value={number} selected={number === count}>
              {number}
            </option>
          ))}
        </select>
      </label>
      {count > 1 && (
        <span class="buttons" role="group" aria-label={`Keyframe of ${name} to draw on`}>
          {Array.from({ length: count }, (_, index) => (
            <button key={index} type="button" class="moment" aria-pressed={index === at} onClick={() => setAt(index)}>
              <span class="hidden">frame </span>
              {frameOf(index)}
            </button>
          ))}
        </span>
      )}
      <span class="quiet">{explain(count)}</span>
    </div>
  );
}
