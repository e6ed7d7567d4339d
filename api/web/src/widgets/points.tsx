/** Points on one frame, each of which may be dragged to where it should go. */

import { useContext, useRef, useState } from "preact/hooks";
import type { Control } from "../fields";
import { spoken } from "../text";
import { ACROSS, arrow, COLOURS, down, Drawing, Frame, partOf, percent, placeOf, short, type Place } from "./drawing";

type Point = number[]; // x, y, and where it goes when there is such a thing

const ENDS = 4;
const sum = ([x, y]: Place, [u, v]: Place): Place => [short(x + u), short(y + v)];

export function Points(props: Control) {
  const { field, set } = props;
  const form = useContext(Drawing);
  const points = (props.value as Point[] | null | undefined) ?? [];
  const root = useRef<SVGSVGElement>(null);
  const held = useRef<{ index: number; end: boolean; all: Point[] } | null>(null);
  const [own, setOwn] = useState(0);
  const drags = (field.schema.items?.prefixItems?.length ?? field.schema.items?.minItems ?? 2) === ENDS;
  const most = field.schema.maxItems ?? 100;
  const { clip } = form;
  const keyframe = field.schema["x-keyframe"];
  if (!clip)
    return (
      <p class="undrawn" data-field={keyframe}>
        Choose a clip, then draw on its frames.
      </p>
    );

  const { frames } = partOf(clip);
  const frame = Math.min(frames - 1, keyframe ? Number(form.values[keyframe] ?? 0) : own);
  const show = (number: number) => (keyframe ? form.set(keyframe, number) : setOwn(number));
  const put = (all: Point[], index: number, end: boolean, place: Place) =>
    set(all.map((point, other) => (other !== index ? point : end ? [point[0], point[1], ...place] : [...place, ...point.slice(2)])));
  const made = (place: Place): Point => (drags ? [...place, ...place] : [...place]);
  const add = (place: Place) => points.length < most && set([...points, made(place)]);
  const remove = (index: number) => set(points.filter((_, other) => other !== index));

  const start = (event: PointerEvent, index: number, end: boolean) => {
    if (!root.current || event.button !== 0) return;
    event.stopPropagation();
    root.current.setPointerCapture(event.pointerId);
    if (index >= 0) held.current = { index, end, all: points };
    else if (points.length < most) {
      const all = [...points, made(placeOf(event, root.current))];
      set(all);
      held.current = { index: points.length, end: drags, all };
    }
  };
  const move = (event: PointerEvent) => {
    if (held.current && root.current) put(held.current.all, held.current.index, held.current.end, placeOf(event, root.current));
  };
  const keys = (event: KeyboardEvent, index: number) => {
    const step = arrow(event);
    const [x = 0, y = 0, u = x, v = y] = points[index] ?? [];
    const end = drags && event.shiftKey;
    if (event.key === "Delete" || event.key === "Backspace") remove(index);
    else if (step) put(points, index, end, sum(end ? [u, v] : [x, y], step));
    else return;
    event.preventDefault();
  };
  const height = down(clip);
  return (
    <div class="drawn" id={props.id} role="group" aria-labelledby={`${props.id}-name`} aria-describedby={props.described}>
      <Frame clip={clip} fraction={frames > 1 ? frame / (frames - 1) : 0}>
        <svg
          ref={root}
          class="over-frame"
          viewBox={`0 0 ${ACROSS} ${height}`}
          onPointerDown={(event) => start(event, -1, false)}
          onPointerMove={move}
          onPointerUp={() => (held.current = null)}
          onPointerCancel={() => (held.current = null)}
        >
          {points.map((point, index) => (
            <PointOver key={index} point={point} height={height} index={index} drags={drags} start={start} keys={keys} />
          ))}
        </svg>
      </Frame>
      <div class="drawn-side">
        <div class="moments">
          <label>
            Frame <input type="range" min={0} max={frames - 1} value={frame} aria-label={`Frame of ${spoken(field.name).toLowerCase()}`} aria-valuetext={`frame ${frame + 1} of ${frames}`} onInput={(event) => show((event.target as HTMLInputElement).valueAsNumber)} />
          </label>
          <output class="frame-number">
            {frame + 1} / {frames}
          </output>
          {keyframe && (
            <span class="quiet" data-field={keyframe}>
              {form.field(keyframe)?.help}
            </span>
          )}
        </div>
        <p class="quiet">
          {drags ? "Press on the picture to set a point and drag to where it should go; Shift drags a new target. " : "Press on the picture to set a point. "}
          Arrow keys move a point{drags ? ", with Shift its target" : ""}; Delete removes it.
        </p>
        <div class="buttons">
          <button type="button" class="add" data-invalid={props.invalid || undefined} disabled={points.length >= most} onClick={() => add([0.5, 0.5])}>
            Add a point
          </button>
          {points.length > 0 && (
            <button type="button" onClick={() => set([])}>
              Remove all {points.length}
            </button>
          )}
        </div>
      </div>
    </div>
  );
}

interface PointProps {
  point: Point;
  height: number;
  index: number;
  drags: boolean;
  start: (event: PointerEvent, index: number, end: boolean) => void;
  keys: (event: KeyboardEvent, index: number) => void;
}

function PointOver({ point, height, index, drags, start, keys }: PointProps) {
  const [x = 0, y = 0, u = x, v = y] = point;
  const target = drags && (u !== x || v !== y);
  const where = `${percent(x)} across, ${percent(y)} down${drags ? `, goes to ${percent(u)}, ${percent(v)}` : ""}`;
  return (
    <g
      class={`object c${index % COLOURS}`}
      tabindex={0}
      role="button"
      aria-label={`Point ${index + 1}: ${where}. Arrow keys move it${drags ? ", with Shift its target" : ""}, Delete removes it.`}
      onPointerDown={(event) => start(event, index, drags && event.shiftKey)}
      onKeyDown={(event) => keys(event, index)}
    >
      {target && <line x1={x * ACROSS} y1={y * height} x2={u * ACROSS} y2={v * height} vector-effect="non-scaling-stroke" />}
      {target && <circle class="target" cx={u * ACROSS} cy={v * height} r={20} onPointerDown={(event) => start(event, index, true)} />}
      <circle class="point" cx={x * ACROSS} cy={y * height} r={22} />
      <text x={x * ACROSS + 30} y={y * height - 16}>
        {index + 1}
      </text>
    </g>
  );
}
