{{- define "agent.labels" -}}
app.kubernetes.io/name: cluster-proxy-agent
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "agent.selector" -}}
app.kubernetes.io/name: cluster-proxy-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "agent.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag -}}
{{- printf "%s%s%s" .Values.image.repository (ternary "@" ":" (hasPrefix "sha256:" $tag)) $tag -}}
{{- end }}

{{- /* Objects outside of a namespace: one agent a namespace, so its name tells them apart. */ -}}
{{- define "agent.wide" -}}
cluster-proxy-agent-{{ .Release.Namespace }}
{{- end }}

{{- define "agent.container" -}}
image: {{ include "agent.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- /* How the hub is reached, for enrolling and afterwards. */ -}}
{{- define "agent.proxy" -}}
{{- with .Values.proxy }}
{{- if .urlSecret.name }}
- name: HTTPS_PROXY
  valueFrom:
    secretKeyRef: {name: {{ .urlSecret.name }}, key: {{ .urlSecret.key }}}
{{- else if .url }}
- {name: HTTPS_PROXY, value: {{ .url | quote }}}
{{- end }}
{{- if .noProxy }}
- {name: NO_PROXY, value: {{ .noProxy | quote }}}
{{- end }}
{{- if .caConfigMap }}
- {name: CLUSTER_PROXY_PROXY_CA, value: /etc/cluster-proxy/proxy/ca.crt}
{{- end }}
{{- end }}
{{- end }}

{{- define "agent.mounts" -}}
- {name: state, mountPath: /var/lib/cluster-proxy}
{{- if .Values.proxy.caConfigMap }}
- {name: proxy-ca, mountPath: /etc/cluster-proxy/proxy, readOnly: true}
{{- end }}
{{- end }}

{{- /* Users and groups that no prefix lets through, as flags. */ -}}
{{- define "agent.exact" -}}
{{- $prefixes := .Values.impersonation.prefixes }}
{{- range $kind := list "user" "group" }}
{{- range $name := get $.Values.impersonation (printf "%ss" $kind) }}
{{- $known := false }}
{{- range $prefixes }}
{{- if hasPrefix . $name }}{{ $known = true }}{{ end }}
{{- end }}
{{- if not $known }}
- {{ printf "--impersonation-%s=%s" $kind $name | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
