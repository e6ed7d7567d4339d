/** The first picture of a job's result (the source's until there is one), fetched when it comes into view. */

import { useEffect, useRef, useState } from "preact/hooks";
import * as api from "./api";
import { isPicture, type Job } from "./types";

export function Thumbnail({ job }: { job: Job }) {
  const output = job.state === "succeeded" ? job.outputs.find(isPicture) : undefined;
  const path = output?.url ?? (job.metadata.studio ? `v1/assets/${job.metadata.studio.video}/content` : "");
  return <Still path={path} picture={output !== undefined && !output.media_type.startsWith("video/")} />;
}

export function Still({ path, picture = false }: { path: string; picture?: boolean }) {
  const place = useRef<HTMLSpanElement>(null);
  const [url, setUrl] = useState("");
  useEffect(() => {
    const stop = new AbortController();
    let made = "";
    const watcher = new IntersectionObserver((entries) => {
      if (!path || !entries.some((entry) => entry.isIntersecting)) return;
      watcher.disconnect();
      api.media(path, stop.signal).then(
        (found) => {
          made = found;
          if (!stop.signal.aborted) setUrl(found);
        },
        () => undefined, // expired or deleted: the card shows its plain face
      );
    });
    if (place.current) watcher.observe(place.current);
    return () => {
      stop.abort();
      watcher.disconnect();
      if (made) URL.revokeObjectURL(made);
    };
  }, [path]);
  return (
    <span class="thumb" ref={place}>
      {url && (picture ? <img src={url} alt="" /> : <video src={`${url}#t=0.01`} muted playsInline preload="auto" tabIndex={-1} aria-hidden="true" />)}
    </span>
  );
}
