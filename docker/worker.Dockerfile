# syntax=docker/dockerfile:1.7
# The worker, for GPUs and CPUs. torch's wheels bring the CUDA libraries, so a slim base is enough; the host needs the
# NVIDIA driver and its container runtime.
#   docker build -f docker/worker.Dockerfile -t refilm-worker .
#   docker build -f docker/worker.Dockerfile -t refilm-worker:cpu --build-arg TORCH_INDEX_URL=<index of CPU builds> .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_INDEX_URL=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/refilm
COPY pyproject.toml requirements.lock ./
# torch alone first: gigabytes that change rarely
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/refilm/bin/pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$(grep '^torch==' requirements.lock)"
RUN --mount=type=cache,target=/root/.cache/pip \
    touch README.md && /opt/refilm/bin/pip install --constraint requirements.lock ".[workers,otel,provenance]"
COPY jobs ./jobs
COPY models ./models
COPY workers ./workers
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/refilm/bin/pip install --no-deps --force-reinstall .

FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="refilm-worker" \
      org.opencontainers.image.description="Refilm's worker: runs video edits on one GPU or on the CPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 refilm \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin refilm \
    && install --directory --owner=10001 --group=10001 /data /models
COPY --from=build /opt/refilm /opt/refilm
COPY docker/tools /opt/refilm/tools
# everything that is written goes to /data and /tmp, so that the root file system can be read-only
ENV PATH=/opt/refilm/bin:$PATH \
    HOME=/data \
    HF_HOME=/models \
    HF_HUB_OFFLINE=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    OMP_WAIT_POLICY=PASSIVE \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    REFILM_DATA_DIR=/data
WORKDIR /data
VOLUME ["/data", "/models"]
USER 10001:10001
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "/opt/refilm/tools/probe.py", "worker"]
ENTRYPOINT ["python", "-m"]
CMD ["workers"]
