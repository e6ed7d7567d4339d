/** What the edit looks like while it is made. */

import { useEffect, useState } from "preact/hooks";
import * as api from "./api";
import { ended, type Job } from "./types";

export function Preview({ job }: { job: Job }) {
  const [url, setUrl] = useState("");
  const shown = ended(job) ? null : (job.preview ?? null);
  const path = shown?.url ?? "";
  useEffect(() => {
    if (!path) return;
    const stop = new AbortController();
    api.media(path, stop.signal).then(
      (made) =>
        setUrl((old) => {
          if (old) URL.revokeObjectURL(old);
          return made;
        }),
      () => undefined, // a newer one has taken its place
    );
    return () => stop.abort();
  }, [path]);
  if (!shown || !url) return null;
  return (
    <section class="panel preview" aria-label="Preview">
      <img src={url} alt="The edit so far" width={shown.width} height={shown.height} />
      <p class="quiet">
        The edit so far, after step {shown.step} of {shown.steps}
      </p>
    </section>
  );
}
