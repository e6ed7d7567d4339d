{{- define "refilm.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* What selects pods: (list root component) */}}
{{- define "refilm.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: refilm
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of every object: (list root component) */}}
{{- define "refilm.labels" -}}
{{- $root := index . 0 -}}
{{ include "refilm.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: refilm
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{/* An image: (list root values-of-the-image) */}}
{{- define "refilm.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}{{ else }}{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "refilm.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "refilm.fullname" .) }}{{ else }}{{ required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "refilm.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "refilm.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* One environment variable from a secret: (list NAME secret key) */}}
{{- define "refilm.secretEnv" -}}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef: {name: {{ index . 1 }}, key: {{ index . 2 }}}
{{- end }}

{{/* Where records are: what every part but the tools needs */}}
{{- define "refilm.redisEnv" -}}
{{ include "refilm.secretEnv" (list "REFILM_REDIS_URL" .Values.redis.existingSecret .Values.redis.urlKey) }}
{{- with .Values.redis.brokerUrlKey }}
{{ include "refilm.secretEnv" (list "REFILM_BROKER_URL" $.Values.redis.existingSecret .) }}
{{- end }}
- {name: REFILM_DATA_DIR, value: /data}
- {name: REFILM_LOG_LEVEL, value: {{ .Values.logLevel | quote }}}
{{- end }}

{{- define "refilm.storeEnv" -}}
- {name: REFILM_STORE, value: {{ .Values.store.url | quote }}}
- {name: REFILM_S3_REGION, value: {{ .Values.store.region | quote }}}
- {name: REFILM_S3_ADDRESSING_STYLE, value: {{ .Values.store.addressingStyle | quote }}}
{{- with .Values.store.endpointUrl }}
- {name: REFILM_S3_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.store.publicEndpointUrl }}
- {name: REFILM_S3_PUBLIC_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.store.existingSecret }}
{{ include "refilm.secretEnv" (list "REFILM_S3_ACCESS_KEY_ID" . $.Values.store.accessKeyIdKey) }}
{{ include "refilm.secretEnv" (list "REFILM_S3_SECRET_ACCESS_KEY" . $.Values.store.secretAccessKeyKey) }}
{{- end }}
{{- end }}

{{/* What API, scheduler and workers agree on */}}
{{- define "refilm.serviceEnv" -}}
{{ include "refilm.redisEnv" . }}
{{ include "refilm.storeEnv" . }}
{{ include "refilm.secretEnv" (list "REFILM_CACHE_SALT" .Values.secrets.existingSecret .Values.secrets.cacheSaltKey) }}
- {name: REFILM_CHECKPOINT, value: {{ .Values.checkpoint | quote }}}
- {name: REFILM_PROVENANCE, value: {{ .Values.provenance.mode | quote }}}
{{- with .Values.allowedModels }}
- {name: REFILM_ALLOWED_MODELS, value: {{ toJson . | quote }}}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: REFILM_{{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- with .Values.tracing }}{{ if .endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }}}
- {name: OTEL_TRACES_SAMPLER, value: {{ .sampler | quote }}}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ .samplerArg | quote }}}
{{- end }}{{ end }}
{{- end }}

{{/* A probe that runs a check of probe.py: (list check period timeout failures) */}}
{{- define "refilm.probe" -}}
exec: {command: [python, /opt/refilm/tools/probe.py, {{ index . 0 }}]}
periodSeconds: {{ index . 1 }}
timeoutSeconds: {{ index . 2 }}
failureThreshold: {{ index . 3 }}
{{- end }}

{{/* Where pods of a part run: (list root component values-of-the-part) */}}
{{- define "refilm.placement" -}}
{{- $part := index . 2 -}}
{{- with $part.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with $part.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with $part.affinity }}
affinity: {{ toJson . }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "refilm.selector" (list (index . 0) (index . 1)) | nindent 8 }}
{{- end }}

{{/* A pool with its defaults: (list root pool) as JSON */}}
{{- define "refilm.pool" -}}
{{- mergeOverwrite (deepCopy (index . 0).Values.workerDefaults) (deepCopy (index . 1)) | toJson -}}
{{- end }}

{{/* Things the schema cannot say */}}
{{- define "refilm.check" -}}
{{- $served := list -}}
{{- $names := list -}}
{{- range .Values.workerPools -}}
{{- $pool := include "refilm.pool" (list $ .) | fromJson -}}
{{- $served = concat $served $pool.queues -}}
{{- if has $pool.name $names }}{{ fail (printf "workerPools: two pools are named %q" $pool.name) }}{{ end -}}
{{- $names = append $names $pool.name -}}
{{- if and (eq $pool.device "cuda") (lt (int $pool.gpus) 1) }}{{ fail (printf "workerPools %q: device is cuda, but gpus is 0" $pool.name) }}{{ end -}}
{{- if and (gt (int $pool.gpus) 0) (not $pool.tolerations) }}{{ fail (printf "workerPools %q: GPU nodes are tainted; give tolerations (for %s)" $pool.name $pool.gpuResource) }}{{ end -}}
{{- if and $pool.scaling.enabled (gt (int $pool.scaling.minReplicas) (int $pool.scaling.maxReplicas)) }}{{ fail (printf "workerPools %q: scaling.minReplicas is above maxReplicas" $pool.name) }}{{ end -}}
{{- end -}}
{{- if not (has "default" $served) }}{{ fail "workerPools: no pool serves the queue `default`, which is where the API puts jobs" }}{{ end -}}
{{- if and (ne .Values.provenance.mode "off") (not .Values.provenance.existingSecret) }}{{ fail "provenance.existingSecret is needed: what workers sign with" }}{{ end -}}
{{- if and .Values.podCost.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.kubernetesApi.cidrs) }}{{ fail "podCost needs networkPolicy.kubernetesApi.cidrs: the address of the API server" }}{{ end -}}
{{- if and .Values.modelCache.sync.enabled (not .Values.modelCache.enabled) }}{{ fail "modelCache.sync needs modelCache.enabled" }}{{ end -}}
{{- if and (eq .Values.keda.trigger "prometheus") (not .Values.keda.prometheusUrl) }}{{ fail "keda.trigger prometheus needs keda.prometheusUrl" }}{{ end -}}
{{- end }}
