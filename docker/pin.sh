#!/bin/sh
# Pin base images by digest: tags move, a digest does not. Asks the registries and writes docker/pins.env, all or nothing.
# Every NAME_IMAGE that the Dockerfiles and compose files default to becomes NAME_IMAGE=repository:tag@sha256:…, which
# `docker compose --env-file` and `docker build --build-arg` take. Needs Docker with buildx and a way to the registries.
set -eu
here=$(dirname "$0")
new=$(mktemp)
trap 'rm -f "$new"' EXIT
sed -n -e 's/^ARG \([A-Z]*_IMAGE\)=\(.*\)/\1 \2/p' -e 's/.*\${\([A-Z]*_IMAGE\):-\([^}]*\)}.*/\1 \2/p' \
    "$here"/*.Dockerfile "$here"/compose*.yaml | sort -u |
    while read -r name image; do
        digest=$(docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}')
        case $digest in
        sha256:????????????????????????????????????????????????????????????????) echo "$name=$image@$digest" ;;
        *) echo "nothing was pinned: $image has no digest but '$digest'" >&2 && exit 1 ;;
        esac
    done >"$new"
cat "$new" >"$here/pins.env"
