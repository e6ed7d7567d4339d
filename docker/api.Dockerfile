# syntax=docker/dockerfile:1.7
# API, scheduler, exporter and the one-shot tools: everything that needs no torch.
#   docker build -f docker/api.Dockerfile -t refilm-api .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/refilm
# the packages first: this layer changes only with the lock
COPY pyproject.toml requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    touch README.md && /opt/refilm/bin/pip install --constraint requirements.lock ".[api,otel]"
COPY jobs ./jobs
COPY api ./api
COPY workers ./workers
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/refilm/bin/pip install --no-deps --force-reinstall .

FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="refilm-api" \
      org.opencontainers.image.description="Refilm's API and scheduler: accepts video edits and keeps jobs going" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 refilm \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin refilm \
    && install --directory --owner=10001 --group=10001 /data
COPY --from=build /opt/refilm /opt/refilm
COPY docker/tools /opt/refilm/tools
ENV PATH=/opt/refilm/bin:$PATH \
    HOME=/data \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    REFILM_DATA_DIR=/data
WORKDIR /data
VOLUME ["/data"]
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "/opt/refilm/tools/probe.py", "api"]
ENTRYPOINT ["python", "-m"]
CMD ["api.serve", "--host", "0.0.0.0", "--port", "8000"]
