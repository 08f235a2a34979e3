{{- define "vmflow.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "vmflow.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "vmflow.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "vmflow.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "vmflow.selector" -}}
app.kubernetes.io/name: {{ include "vmflow.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "vmflow.labels" -}}
{{ include "vmflow.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "vmflow.secret" -}}
{{- .Values.clickhouse.existingSecret | default (printf "%s-clickhouse" (include "vmflow.fullname" .)) }}
{{- end }}

{{/* Whether the web server speaks TLS. */}}
{{- define "vmflow.tls" -}}
{{- if dig "access" "certificate_file" "" .Values.config }}true{{ end }}
{{- end }}

{{/* vmflow.toml: the settings of the values, and those that the chart itself depends on.  The password comes as a variable. */}}
{{- define "vmflow.settings" -}}
{{- $addresses := list }}
{{- range .Values.exports.ports }}
{{- $addresses = append $addresses (printf "0.0.0.0:%d" (int .)) }}
{{- end }}
{{- $store := dict "url" .Values.clickhouse.url "user" .Values.clickhouse.user "database" .Values.clickhouse.database "spool_directory" "/var/lib/vmflow/spool" }}
{{- $own := dict
  "listen" (dict "addresses" $addresses)
  "decode" (dict "template_file" "/var/lib/vmflow/templates.json")
  "store" $store
  "rollup" (dict "service" (include "vmflow.fullname" .))
  "web" (dict "host" (ternary "0.0.0.0" "127.0.0.1" .Values.web.open) "port" (int .Values.web.port))
}}
{{- mergeOverwrite (deepCopy .Values.config) $own | toToml }}
{{- end }}

{{/* What cannot work, said before it is installed. */}}
{{- define "vmflow.check" -}}
{{- $access := .Values.config.access | default dict }}
{{- if and .Values.web.open (not $access.anonymous) (not $access.users) (not $access.tokens) }}
{{- fail "web.open: config.access needs tokens or users (vmflow passwd NAME --token), or anonymous: true where a NetworkPolicy keeps all others out" }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (not .Values.web.open) }}
{{- fail "serviceMonitor.enabled: Prometheus cannot reach the web server, set web.open" }}
{{- end }}
{{- if not (or .Values.exports.service.enabled .Values.exports.hostPort) }}
{{- fail "exports: nothing can reach the ports, enable exports.service or exports.hostPort" }}
{{- end }}
{{- end }}

{{- define "vmflow.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- define "vmflow.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* A command that gets /health from within the pod, as `answer`; an error ends it. */}}
{{- define "vmflow.ask" -}}
- /opt/vmflow/bin/python
- -c
{{- $port := int .root.Values.web.port }}
{{- if include "vmflow.tls" .root }}
- "import http.client, ssl, sys; ask = http.client.HTTPSConnection('127.0.0.1', {{ $port }}, timeout=4, context=ssl._create_unverified_context()); ask.request('GET', '/health'); answer = ask.getresponse(); {{ .code }}"
{{- else }}
- "import http.client, sys; ask = http.client.HTTPConnection('127.0.0.1', {{ $port }}, timeout=4); ask.request('GET', '/health'); answer = ask.getresponse(); {{ .code }}"
{{- end }}
{{- end }}
