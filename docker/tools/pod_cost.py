"""Beside a worker: tells Kubernetes which pods to spare when it scales down or empties nodes.

A pod that runs a job costs 1000, one that has served jobs and is warm costs 100, a cold one 0; while busy it also asks
Karpenter and the cluster autoscaler to leave it alone. It reads the worker's data folder and patches its own pod, whose
name is the worker's id. Standard library only, and no access to Redis or the store.
"""

import json
import os
import ssl
import sys
import threading
import time
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
COST = "controller.kubernetes.io/pod-deletion-cost"
SPARE = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
BUSY, WARM, COLD = 1000, 100, 0
BUSY_SECONDS = 60.0
"""A worker with a job touches its busy file all the time; an older one was left by a process that was killed."""


def busy(data: Path, worker: str) -> bool:
    """Whether the worker has a job now."""
    try:
        return time.time() - (data / "run" / f"{worker}.busy").stat().st_mtime < BUSY_SECONDS
    except FileNotFoundError:
        return False


def cost(data: Path, worker: str) -> int:
    """What losing this pod would cost."""
    if busy(data, worker):
        return BUSY
    return WARM if any((data / "cache").glob("**/*.safetensors")) else COLD


def annotations(value: int) -> dict[str, str | None]:
    """The pod's annotations for a cost; None removes one."""
    return {COST: str(value)} | {name: word if value == BUSY else None for name, word in SPARE.items()}


def patch(url: str, value: int, account: Path) -> None:
    """Write the annotations to the pod at this URL. Raises OSError."""
    body = json.dumps({"metadata": {"annotations": annotations(value)}}).encode()
    headers = {"Content-Type": "application/merge-patch+json"}
    headers["Authorization"] = f"Bearer {(account / 'token').read_text().strip()}"
    request = urllib.request.Request(url, data=body, headers=headers, method="PATCH")  # noqa: S310 -- the cluster's own
    context = ssl.create_default_context(cafile=str(account / "ca.crt")) if url.startswith("https:") else None
    with urllib.request.urlopen(request, timeout=10, context=context):  # noqa: S310 -- see above
        return


def watch(data: Path, worker: str, url: str, account: Path, stop: threading.Event, every: float) -> None:
    """Patch whenever the cost has changed, until stopped."""
    told: int | None = None
    while True:
        value = cost(data, worker)
        try:
            if value != told:
                patch(url, value, account)
                told = value
        except OSError as error:
            sys.stderr.write(f"pod cost not written: {error}\n")
        if stop.wait(every):
            return


def main() -> None:
    """Run until the pod ends; the process is killed with it, nothing needs to be put back."""
    server = os.environ.get("KUBERNETES_API", "https://kubernetes.default.svc")
    pod, namespace = os.environ["REFILM_WORKER_ID"], os.environ["POD_NAMESPACE"]
    url = f"{server}/api/v1/namespaces/{namespace}/pods/{pod}"
    watch(Path(os.environ["REFILM_DATA_DIR"]), pod, url, ACCOUNT, threading.Event(), 5.0)


if __name__ == "__main__":
    main()
