/** Figures frame by frame under the player: one line for each result, the frame that is shown marked. */

import { useState } from "preact/hooks";

export interface Series {
  key: string;
  title: string;
  help: string;
  better: "lower" | "higher" | "none";
  mean: number | null;
  values: (number | null)[];
}

export interface Figures {
  frames: number;
  series: Series[];
}

export interface Line {
  name: string;
  figures: Figures;
}

interface Props {
  lines: Line[];
  frame: number;
  frames: number;
  go: (frame: number) => void;
}

const [WIDE, HIGH, EDGE] = [1000, 150, 10];
const BETTER = { lower: "lower is better", higher: "higher is better", none: "" };

export function written(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return size >= 100 ? value.toFixed(0) : size >= 1 || size === 0 ? value.toFixed(2) : size >= 0.0001 ? Number(value.toPrecision(3)).toString() : value.toExponential(1);
}

export function Plot({ lines, frame, frames, go }: Props) {
  const known = new Map(lines.flatMap(({ figures }) => figures.series.map((one) => [one.key, one] as const)));
  const [chosen, setChosen] = useState("");
  const series = known.get(chosen) ?? [...known.values()][0];
  if (!series) return null;
  const drawn = lines.flatMap(({ name, figures }, index) => {
    const found = figures.series.find((one) => one.key === series.key);
    return found ? [{ name, index, values: found.values, mean: found.mean }] : [];
  });
  const all = drawn.flatMap(({ values }) => values.filter((value) => value !== null));
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  const x = (number: number): number => EDGE + (number / Math.max(1, frames - 1)) * (WIDE - 2 * EDGE);
  const y = (value: number): number => HIGH - ((value - low + room) / (high - low + 2 * room || 1)) * HIGH;
  const path = (values: (number | null)[]): string => {
    let begun = false;
    return values
      .map((value, index) => {
        const move = begun ? "L" : "M";
        begun = value !== null;
        return value === null ? "" : `${move}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
      })
      .join("");
  };
  const seek = (event: PointerEvent) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const { left, width } = (event.currentTarget as Element).getBoundingClientRect();
    const place = (((event.clientX - left) / width) * WIDE - EDGE) / (WIDE - 2 * EDGE);
    go(Math.round(Math.min(1, Math.max(0, place)) * (frames - 1)));
  };
  const now = drawn.map(({ name, values }) => `${name} ${written(values[frame])}`).join(", ");
  return (
    <section class="plot" aria-label="Figures frame by frame">
      <div class="plot-head">
        <select aria-label="Figure to plot" onChange={(event) => setChosen((event.target as HTMLSelectElement).value)}>
          {[...known.values()].map((one) => (
            <option key={one.key} value={one.key} selected={one.key === series.key}>
              {one.title}
            </option>
          ))}
        </select>
        <p class="quiet">
          {series.help}
          {BETTER[series.better] && `; ${BETTER[series.better]}`}.
        </p>
      </div>
      <div class="plot-area">
        <span class="plot-scale" aria-hidden="true">
          <span>{written(high)}</span>
          <span>{written(low)}</span>
        </span>
        <svg
          viewBox={`0 0 ${WIDE} ${HIGH}`}
          preserveAspectRatio="none"
          tabindex={0}
          role="slider"
          aria-label={`Frame on the plot of ${series.title.toLowerCase()}`}
          aria-valuemin={1}
          aria-valuemax={frames}
          aria-valuenow={frame + 1}
          aria-valuetext={`frame ${frame + 1}: ${now}`}
          onPointerDown={seek}
          onPointerMove={seek}
        >
          <line class="plot-now" x1={x(frame)} x2={x(frame)} y1={0} y2={HIGH} vector-effect="non-scaling-stroke" />
          {drawn.map(({ name, index, values }) => (
            <path key={name + index} class={`plot-line l${index % 4}`} d={path(values)} vector-effect="non-scaling-stroke" />
          ))}
        </svg>
      </div>
      <ul class="plot-legend">
        {drawn.map(({ name, index, values, mean }) => (
          <li key={name + index}>
            <span class={`plot-key l${index % 4}`} aria-hidden="true" />
            <span class="plot-name">{name}</span>
            <span class="plot-value">{written(values[frame])}</span>
            <span class="quiet">mean {written(mean)}</span>
          </li>
        ))}
      </ul>
      <details>
        <summary>{series.title} as a table</summary>
        <div class="plot-table" tabIndex={0} role="group" aria-label={`${series.title} of every frame`}>
          <table>
            <thead>
              <tr>
                <th scope="col">Frame</th>
                {drawn.map(({ name, index }) => (
                  <th scope="col" key={index}>
                    {name}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {Array.from({ length: frames }, (_, number) => (
                <tr key={number} aria-current={number === frame || undefined}>
                  <th scope="row">{number + 1}</th>
                  {drawn.map(({ index, values }) => (
                    <td key={index}>{written(values[number])}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
        <p class="quiet">{series.key}</p>
      </details>
    </section>
  );
}
