/** Boxes on frames: drawn, moved, sized and named, at as many keyframes as an object's way needs. */

import { useContext, useRef, useState } from "preact/hooks";
import type { Control } from "../fields";
import { spoken } from "../text";
import { ACROSS, arrow, COLOURS, down, Drawing, Frame, Moments, percent, placeOf, short, spread, type Place } from "./drawing";

type Box = [number, number, number, number];
type Track = Box[];

const LEAST = 0.02;
const FIRST: Box = [0.3, 0.3, 0.7, 0.7];

function moved(box: Box, [x, y]: Place): Box {
  const [left, top, right, bottom] = box;
  const dx = Math.min(1 - right, Math.max(-left, x));
  const dy = Math.min(1 - bottom, Math.max(-top, y));
  return [short(left + dx), short(top + dy), short(right + dx), short(bottom + dy)];
}

function sized(box: Box, [x, y]: Place): Box {
  const [left, top, right, bottom] = box;
  return [left, top, short(Math.max(left + LEAST, right + x)), short(Math.max(top + LEAST, bottom + y))];
}

const spanned = ([x, y]: Place, [u, v]: Place): Box => [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)];
const large = ([left, top, right, bottom]: Box): boolean => right - left >= LEAST && bottom - top >= LEAST;

interface Drag {
  index: number; // of the track; -1 draws a new one
  from: Place;
  box: Box;
  corner: Place | null; // the corner that stays
}

export function Boxes(props: Control) {
  const { field, set } = props;
  const form = useContext(Drawing);
  const tracks = (props.value as Track[] | null | undefined) ?? [];
  const [count, setCount] = useState(() => Math.max(1, ...tracks.map((track) => track.length)));
  const [at, setAt] = useState(0);
  const [sketch, setSketch] = useState<Box | null>(null);
  const drag = useRef<Drag | null>(null);
  const root = useRef<SVGSVGElement>(null);
  const labels = field.schema["x-labels"] ?? [];
  const most = field.schema.maxItems ?? 100;
  const { clip } = form;
  if (!clip)
    return (
      <>
        <p class="undrawn">Choose a clip, then draw on its frames.</p>
        <Labels names={labels} />
      </>
    );

  const wordsOf = (name: string): string[] => (form.values[name] as string[] | null | undefined) ?? [];
  const say = (name: string, texts: string[]) => {
    const nothing = texts.every((text) => text === "") && !form.field(name)?.required;
    form.set(name, nothing ? (form.field(name)?.initial ?? null) : texts);
  };
  const put = (index: number, box: Box) =>
    set(tracks.map((track, other) => (other === index ? spread(track, count).map((old, moment) => (moment === at ? box : old)) : track)));
  const add = (box: Box) => {
    if (tracks.length >= most) return;
    set([...tracks, Array.from({ length: count }, () => box)]);
    labels.forEach((name) => say(name, [...tracks.map((_, index) => wordsOf(name)[index] ?? ""), ""]));
  };
  const remove = (index: number) => {
    set(tracks.filter((_, other) => other !== index));
    labels.forEach((name) => say(name, tracks.map((_, other) => wordsOf(name)[other] ?? "").filter((_, other) => other !== index)));
  };
  const keyframes = (wanted: number) => {
    setCount(wanted);
    setAt(Math.min(at, wanted - 1));
    set(tracks.map((track) => spread(track, wanted)));
  };
  const boxAt = (track: Track): Box => spread(track, count)[at] ?? FIRST;

  const start = (event: PointerEvent, index: number, corner: Place | null) => {
    if (!root.current || event.button !== 0) return;
    event.stopPropagation();
    root.current.setPointerCapture(event.pointerId);
    const track = tracks[index];
    drag.current = { index, from: placeOf(event, root.current), box: track ? boxAt(track) : FIRST, corner };
  };
  const drawn = (event: PointerEvent): Box | null => {
    if (!drag.current || !root.current) return null;
    const { index, from, box, corner } = drag.current;
    const now = placeOf(event, root.current);
    if (index < 0 || corner) return spanned(corner ?? from, now).map(short) as Box;
    return moved(box, [now[0] - from[0], now[1] - from[1]]);
  };
  const move = (event: PointerEvent) => {
    const box = drawn(event);
    if (!box || !drag.current) return;
    if (drag.current.index < 0) setSketch(box);
    else if (large(box)) put(drag.current.index, box);
  };
  const end = (event: PointerEvent) => {
    const box = drawn(event);
    if (box && drag.current?.index === -1 && large(box)) add(box);
    drag.current = null;
    setSketch(null);
  };
  const keys = (event: KeyboardEvent, index: number, box: Box) => {
    const step = arrow(event);
    if (event.key === "Delete" || event.key === "Backspace") remove(index);
    else if (step) put(index, event.shiftKey ? sized(box, step) : moved(box, step));
    else return;
    event.preventDefault();
  };
  const height = down(clip);
  const nameOf = (index: number): string => labels.map((name) => wordsOf(name)[index]).filter(Boolean).join(" to ");
  return (
    <div class="drawn" id={props.id} role="group" aria-labelledby={`${props.id}-name`} aria-describedby={props.described}>
      <Frame clip={clip} fraction={count > 1 ? at / (count - 1) : 0}>
        <svg
          ref={root}
          class="over-frame"
          viewBox={`0 0 ${ACROSS} ${height}`}
          onPointerDown={(event) => start(event, -1, null)}
          onPointerMove={move}
          onPointerUp={end}
          onPointerCancel={end}
        >
          {tracks.map((track, index) => (
            <BoxOver
              key={index}
              box={boxAt(track)}
              height={height}
              index={index}
              name={nameOf(index)}
              start={start}
              keys={keys}
            />
          ))}
          {sketch && <Rectangle box={sketch} height={height} class="sketch" />}
        </svg>
      </Frame>
      <div class="drawn-side">
        <Moments clip={clip} name={spoken(field.name).toLowerCase()} count={count} setCount={keyframes} at={at} setAt={setAt} explain={(number) => (number > 1 ? "Boxes move evenly from one to the next." : "One place for the whole clip.")} />
        <p class="quiet">Drag on the picture to draw a box. Drag a box to move it, a corner to size it; arrow keys move it, with Shift they size it.</p>
        <Objects tracks={tracks} labels={labels} wordsOf={wordsOf} say={say} remove={remove} />
        <button type="button" class="add" data-invalid={props.invalid || undefined} disabled={tracks.length >= most} onClick={() => add(FIRST)}>
          Add a box
        </button>
      </div>
    </div>
  );
}

function Rectangle({ box: [left, top, right, bottom], height, class: look }: { box: Box; height: number; class: string }) {
  return <rect class={look} x={left * ACROSS} y={top * height} width={(right - left) * ACROSS} height={(bottom - top) * height} vector-effect="non-scaling-stroke" />;
}

interface BoxProps {
  box: Box;
  height: number;
  index: number;
  name: string;
  start: (event: PointerEvent, index: number, corner: Place | null) => void;
  keys: (event: KeyboardEvent, index: number, box: Box) => void;
}

function BoxOver({ box, height, index, name, start, keys }: BoxProps) {
  const [left, top, right, bottom] = box;
  const corners: [Place, Place][] = [
    [[left, top], [right, bottom]],
    [[right, top], [left, bottom]],
    [[left, bottom], [right, top]],
    [[right, bottom], [left, top]],
  ];
  const place = `left ${percent(left)}, top ${percent(top)}, right ${percent(right)}, bottom ${percent(bottom)}`;
  return (
    <g
      class={`object c${index % COLOURS}`}
      tabindex={0}
      role="button"
      aria-label={`Box ${index + 1}${name && `, ${name}`}: ${place}. Arrow keys move it, with Shift they size it, Delete removes it.`}
      onPointerDown={(event) => start(event, index, null)}
      onKeyDown={(event) => keys(event, index, box)}
    >
      <Rectangle box={box} height={height} class="box" />
      <text x={left * ACROSS + 14} y={top * height + 50}>
        {index + 1}
      </text>
      {corners.map(([[x, y], opposite], corner) => (
        <circle key={corner} class="grip" cx={x * ACROSS} cy={y * height} r={16} onPointerDown={(event) => start(event, index, opposite)} />
      ))}
    </g>
  );
}

/** What the texts of a box mean. */
function Labels({ names }: { names: string[] }) {
  const form = useContext(Drawing);
  return (
    <>
      {names.map((name) => (
        <p class="help" key={name} data-field={name}>
          <strong>{spoken(name)}</strong> {form.field(name)?.help}
          {form.wrong[name] && <strong class="wrong"> {form.wrong[name]}</strong>}
        </p>
      ))}
    </>
  );
}

interface ObjectsProps {
  tracks: Track[];
  labels: string[];
  wordsOf: (name: string) => string[];
  say: (name: string, texts: string[]) => void;
  remove: (index: number) => void;
}

/** A row for each box with its words, one for each list of texts that belongs to the boxes. */
function Objects({ tracks, labels, wordsOf, say, remove }: ObjectsProps) {
  const form = useContext(Drawing);
  const type = (name: string, index: number, text: string) => say(name, tracks.map((_, other) => (other === index ? text : (wordsOf(name)[other] ?? ""))));
  return (
    <div class="objects">
      <Labels names={labels} />
      <ul>
        {tracks.map((_, index) => (
          <li key={index}>
            <span class={`swatch c${index % COLOURS}`}>{index + 1}</span>
            {labels.map((name) => (
              <input
                key={name}
                type="text"
                aria-label={`${spoken(name)} of box ${index + 1}`}
                aria-invalid={Boolean(form.wrong[name]) && !wordsOf(name)[index]}
                placeholder={spoken(name)}
                maxLength={form.field(name)?.schema.items?.maxLength}
                value={wordsOf(name)[index] ?? ""}
                onInput={(event) => type(name, index, (event.target as HTMLInputElement).value)}
              />
            ))}
            <button type="button" aria-label={`Remove box ${index + 1}`} onClick={() => remove(index)}>
              ×
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
