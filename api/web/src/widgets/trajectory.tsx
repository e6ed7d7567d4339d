/** Paths drawn over time: a stroke becomes evenly spread places, the first on the first frame, the last on the last. */

import { useContext, useRef, useState } from "preact/hooks";
import type { Control } from "../fields";
import { spoken } from "../text";
import { ACROSS, arrow, between, COLOURS, down, Drawing, Frame, partOf, percent, placeOf, short, type Place } from "./drawing";

type Path = Place[];

const VERTICES = 6;
const FIRST: Path = [
  [0.3, 0.5],
  [0.5, 0.5],
  [0.7, 0.5],
];

const length = ([x, y]: Place, [u, v]: Place): number => Math.hypot(u - x, v - y);

/** A stroke as so many places, equally far from each other along it. */
export function resampled(stroke: Path, vertices: number): Path {
  const lengths = stroke.map((place, index) => (index ? length(stroke[index - 1] as Place, place) : 0));
  const total = lengths.reduce((sum, part) => sum + part, 0);
  return Array.from({ length: vertices }, (_, index) => {
    let rest = (total * index) / (vertices - 1);
    let at = 1;
    while (at < stroke.length - 1 && rest > (lengths[at] ?? 0)) rest -= lengths[at++] ?? 0;
    const [from, to] = [stroke[at - 1] as Place, (stroke[at] ?? stroke[at - 1]) as Place];
    const share = Math.min(1, rest / Math.max(1e-9, lengths[at] ?? 0));
    return [short(from[0] + (to[0] - from[0]) * share), short(from[1] + (to[1] - from[1]) * share)];
  });
}

export function Trajectory(props: Control) {
  const { field, set } = props;
  const form = useContext(Drawing);
  const paths = (props.value as Path[] | null | undefined) ?? [];
  const root = useRef<SVGSVGElement>(null);
  const held = useRef<{ path: number; vertex: number } | null>(null);
  const [stroke, setStroke] = useState<Path>([]);
  const [frame, setFrame] = useState(0);
  const most = field.schema.maxItems ?? 100;
  const vertices = Math.max(2, Math.min(VERTICES, field.schema.items?.maxItems ?? VERTICES));
  const { clip } = form;
  if (!clip) return <p class="undrawn">Choose a clip, then draw on its frames.</p>;

  const { frames } = partOf(clip);
  const fraction = frames > 1 ? Math.min(1, frame / (frames - 1)) : 0;
  const put = (path: number, vertex: number, place: Place) =>
    set(paths.map((old, other) => (other === path ? old.map((now, index) => (index === vertex ? place : now)) : old)));
  const add = (path: Path) => paths.length < most && set([...paths, path]);
  const remove = (path: number) => set(paths.filter((_, other) => other !== path));

  const hold = (event: PointerEvent, path: number, vertex: number) => {
    event.stopPropagation();
    root.current?.setPointerCapture(event.pointerId);
    held.current = { path, vertex };
  };
  const begin = (event: PointerEvent) => {
    if (!root.current || event.button !== 0 || paths.length >= most) return;
    root.current.setPointerCapture(event.pointerId);
    setStroke([placeOf(event, root.current)]);
  };
  const move = (event: PointerEvent) => {
    if (!root.current) return;
    const now = placeOf(event, root.current);
    if (held.current) put(held.current.path, held.current.vertex, now);
    else if (stroke.length) setStroke([...stroke, now]);
  };
  const end = () => {
    held.current = null;
    if (stroke.length > 1 && length(stroke[0] as Place, stroke[stroke.length - 1] as Place) + stroke.length / 500 > 0.02) add(resampled(stroke, vertices));
    setStroke([]);
  };
  const keys = (event: KeyboardEvent, path: number, vertex: number) => {
    const step = arrow(event);
    const [x, y] = paths[path]?.[vertex] ?? [0, 0];
    if (event.key === "Delete" || event.key === "Backspace") remove(path);
    else if (step) put(path, vertex, [short(x + step[0]), short(y + step[1])]);
    else return;
    event.preventDefault();
  };
  const height = down(clip);
  const line = (path: Path): string => path.map(([x, y]) => `${x * ACROSS},${y * height}`).join(" ");
  return (
    <div class="drawn" id={props.id} role="group" aria-labelledby={`${props.id}-name`} aria-describedby={props.described}>
      <Frame clip={clip} fraction={fraction}>
        <svg ref={root} class="over-frame" viewBox={`0 0 ${ACROSS} ${height}`} onPointerDown={begin} onPointerMove={move} onPointerUp={end} onPointerCancel={end}>
          {paths.map((path, index) => (
            <g key={index} class={`object c${index % COLOURS}`}>
              <polyline points={line(path)} vector-effect="non-scaling-stroke" />
              {path.map(([x, y], vertex) => (
                <circle
                  key={vertex}
                  class="point"
                  tabindex={0}
                  role="button"
                  aria-label={`Path ${index + 1}, place ${vertex + 1} of ${path.length}: ${percent(x)} across, ${percent(y)} down. Arrow keys move it, Delete removes the path.`}
                  cx={x * ACROSS}
                  cy={y * height}
                  r={vertex ? 14 : 22}
                  onPointerDown={(event) => hold(event, index, vertex)}
                  onKeyDown={(event) => keys(event, index, vertex)}
                />
              ))}
              <Now place={between(path, fraction)} height={height} />
            </g>
          ))}
          {stroke.length > 1 && <polyline class="sketch" points={line(stroke)} vector-effect="non-scaling-stroke" />}
        </svg>
      </Frame>
      <div class="drawn-side">
        <div class="moments">
          <label>
            Frame <input type="range" min={0} max={frames - 1} value={frame} aria-label={`Frame of ${spoken(field.name).toLowerCase()}`} aria-valuetext={`frame ${frame + 1} of ${frames}`} onInput={(event) => setFrame((event.target as HTMLInputElement).valueAsNumber)} />
          </label>
          <output class="frame-number">
            {frame + 1} / {frames}
          </output>
          <span class="quiet">The ring shows where a path is at this frame.</span>
        </div>
        <p class="quiet">Draw a stroke from where it begins to where it ends; drag its places to correct it. Arrow keys move a place, Delete removes its path.</p>
        <div class="buttons">
          <button type="button" class="add" data-invalid={props.invalid || undefined} disabled={paths.length >= most} onClick={() => add(FIRST)}>
            Add a path
          </button>
          {paths.length > 0 && (
            <button type="button" onClick={() => set([])}>
              Remove all {paths.length}
            </button>
          )}
        </div>
      </div>
    </div>
  );
}

function Now({ place: [x, y], height }: { place: Place; height: number }) {
  return <circle class="now" cx={x * ACROSS} cy={y * height} r={32} vector-effect="non-scaling-stroke" />;
}
