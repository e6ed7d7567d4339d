/** A brush for masks: white where the clip may change. One picture for the clip, or one at each of several keyframes. */

import { useContext, useEffect, useRef, useState } from "preact/hooks";
import type { FileField } from "../schema";
import { spoken } from "../text";
import { arrow, Drawing, Frame, Moments, placeOf, short, type Place } from "./drawing";

const LEAST_SIDE = 384; // small clips are painted on larger, so that strokes are smooth
const MOST_SIDE = 1024;
const UNDO = 20;

interface Props {
  file: FileField;
  painted: boolean;
  draft: (make: () => Promise<Blob[]>) => void;
  clear: () => void;
}

function sheet(width: number, height: number): HTMLCanvasElement {
  const made = document.createElement("canvas");
  [made.width, made.height] = [width, height];
  return made;
}

const pen = (canvas: HTMLCanvasElement): CanvasRenderingContext2D => canvas.getContext("2d", { willReadFrequently: true }) as CanvasRenderingContext2D;

/** Black and white at the clip's own size. */
function developed(layer: HTMLCanvasElement, width: number, height: number): Promise<Blob> {
  const made = sheet(width, height);
  const brush = pen(made);
  brush.fillRect(0, 0, width, height);
  brush.drawImage(layer, 0, 0, width, height);
  return new Promise((resolve, reject) => made.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The mask could not be written."))), "image/png"));
}

export function Mask({ file, painted, draft, clear }: Props) {
  const { clip } = useContext(Drawing);
  const screen = useRef<HTMLCanvasElement>(null);
  const layers = useRef<HTMLCanvasElement[]>([]);
  const past = useRef<{ at: number; picture: ImageData }[]>([]);
  const last = useRef<Place | null>(null);
  const [count, setCount] = useState(1);
  const [at, setAt] = useState(0);
  const [size, setSize] = useState(12);
  const [erases, setErases] = useState(false);
  const [cursor, setCursor] = useState<Place>([0.5, 0.5]);
  const [keyed, setKeyed] = useState(false);
  const { width = 64, height = 64 } = clip?.asset.facts ?? {};
  const scale = Math.max(LEAST_SIDE / Math.min(width, height), 1) * Math.min(1, MOST_SIDE / Math.max(width, height));
  const [across, high] = [Math.round(width * scale), Math.round(height * scale)];

  /** The layer of a keyframe; a new one goes on from the one before it. */
  const layer = (index: number): HTMLCanvasElement => {
    const known = layers.current[index];
    if (known) return known;
    const made = sheet(across, high);
    const before = layers.current.slice(0, index).findLast(Boolean);
    if (before) pen(made).drawImage(before, 0, 0);
    return (layers.current[index] = made);
  };
  const show = () => {
    const canvas = screen.current;
    if (!canvas) return;
    const brush = pen(canvas);
    brush.globalCompositeOperation = "copy";
    brush.drawImage(layer(at), 0, 0);
    brush.globalCompositeOperation = "source-in";
    brush.fillStyle = getComputedStyle(canvas).color;
    brush.fillRect(0, 0, across, high);
  };
  useEffect(() => {
    layers.current = [];
    past.current = [];
    show();
  }, [clip?.url]);
  useEffect(show, [at]);
  if (!clip) return <p class="undrawn">Choose a clip, then paint on its frames.</p>;

  const keep = () => {
    past.current.push({ at, picture: pen(layer(at)).getImageData(0, 0, across, high) });
    past.current.splice(0, past.current.length - UNDO);
  };
  const told = (moments = count) =>
    draft(() => Promise.all(Array.from({ length: moments }, (_, index) => developed(layer(index), width, height))));
  const line = (from: Place, to: Place) => {
    const brush = pen(layer(at));
    brush.globalCompositeOperation = erases ? "destination-out" : "source-over";
    brush.strokeStyle = "#fff";
    brush.lineCap = "round";
    brush.lineWidth = (size / 100) * across;
    brush.beginPath();
    brush.moveTo(from[0] * across, from[1] * high);
    brush.lineTo(to[0] * across, to[1] * high + 0.01);
    brush.stroke();
    show();
  };
  const begin = (event: PointerEvent) => {
    if (!screen.current || event.button !== 0) return;
    screen.current.setPointerCapture(event.pointerId);
    keep();
    last.current = placeOf(event, screen.current);
    line(last.current, last.current);
  };
  const move = (event: PointerEvent) => {
    if (!screen.current) return;
    const now = placeOf(event, screen.current);
    setCursor(now);
    setKeyed(false);
    if (last.current) line(last.current, now);
    if (last.current) last.current = now;
  };
  const end = () => {
    if (last.current) told();
    last.current = null;
  };
  const keys = (event: KeyboardEvent) => {
    const step = arrow(event);
    if (step) {
      const next: Place = [short(cursor[0] + 2 * step[0]), short(cursor[1] + 2 * step[1])];
      if (event.shiftKey) stroke(cursor, next);
      setCursor(next);
      setKeyed(true);
    } else if (event.key === " ") stroke(cursor, cursor);
    else if (event.key === "e") setErases(!erases);
    else if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
    else return;
    event.preventDefault();
  };
  const stroke = (from: Place, to: Place) => {
    keep();
    line(from, to);
    told();
  };
  const undo = () => {
    const before = past.current.pop();
    if (!before) return;
    pen(layer(before.at)).putImageData(before.picture, 0, 0);
    setAt(before.at);
    show();
    told();
  };
  const turn = (operation: GlobalCompositeOperation) => {
    keep();
    const brush = pen(layer(at));
    brush.globalCompositeOperation = operation;
    brush.fillStyle = "#fff";
    brush.fillRect(0, 0, across, high);
    show();
    told();
  };
  const anew = () => {
    layers.current = [];
    past.current = [];
    show();
    clear();
  };
  const keyframes = (wanted: number) => {
    for (let index = 0; index < wanted; index += 1) layer(index);
    setCount(wanted);
    setAt(Math.min(at, wanted - 1));
    if (painted) told(wanted);
  };
  const name = spoken(file.name);
  return (
    <div class="drawn" role="group" aria-label={`${name}: paint`}>
      <Frame clip={clip} fraction={count > 1 ? at / (count - 1) : 0}>
        <canvas
          ref={screen}
          class="over-frame paint"
          width={across}
          height={high}
          tabIndex={0}
          role="application"
          aria-label={`${name}. Arrow keys move the brush, Space paints, with Shift the arrow keys paint, E changes between painting and erasing.`}
          onPointerDown={begin}
          onPointerMove={move}
          onPointerUp={end}
          onPointerCancel={end}
          onKeyDown={keys}
        />
        <span class={`brush ${keyed ? "keyed" : ""}`} style={{ left: `${100 * cursor[0]}%`, top: `${100 * cursor[1]}%`, width: `${size}%` }} aria-hidden="true" />
      </Frame>
      <div class="drawn-side">
        <div class="moments">
          <span class="buttons" role="group" aria-label="Brush">
            <button type="button" aria-pressed={!erases} onClick={() => setErases(false)}>
              Paint
            </button>
            <button type="button" aria-pressed={erases} onClick={() => setErases(true)}>
              Erase
            </button>
          </span>
          <label class="brush-size">
            Size <input type="range" min={2} max={50} value={size} aria-valuetext={`${size} % of the width`} onInput={(event) => setSize((event.target as HTMLInputElement).valueAsNumber)} />
          </label>
          <span class="buttons">
            <button type="button" onClick={undo}>
              Undo
            </button>
            <button type="button" onClick={() => turn("source-out")}>
              Invert
            </button>
            <button type="button" onClick={() => turn("source-over")}>
              Fill
            </button>
            <button type="button" onClick={anew}>
              Clear
            </button>
          </span>
        </div>
        {file.list && (
          <Moments clip={clip} name={name.toLowerCase()} count={count} setCount={keyframes} at={at} setAt={setAt} explain={(number) => (number > 1 ? "Each mask holds until the next keyframe." : "One mask for the whole clip.")} />
        )}
      </div>
    </div>
  );
}
