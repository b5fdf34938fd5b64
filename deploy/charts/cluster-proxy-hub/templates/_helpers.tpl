{{- define "hub.labels" -}}
app.kubernetes.io/name: cluster-proxy-hub
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "hub.selector" -}}
app.kubernetes.io/name: cluster-proxy-hub
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "hub.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag -}}
{{- printf "%s%s%s" .Values.image.repository (ternary "@" ":" (hasPrefix "sha256:" $tag)) $tag -}}
{{- end }}

{{- /* Objects outside of a namespace: one hub a namespace, so its name tells them apart. */ -}}
{{- define "hub.wide" -}}
cluster-proxy-hub-{{ .Release.Namespace }}
{{- end }}

{{- /* Names of the serving certificate, as flags. */ -}}
{{- define "hub.names" -}}
{{- $ns := .Release.Namespace -}}
{{- $names := list "cluster-proxy" (printf "cluster-proxy.%s" $ns) (printf "cluster-proxy.%s.svc" $ns) (printf "cluster-proxy-agents.%s.svc" $ns) "localhost" -}}
{{- range concat $names .Values.additionalNames | uniq }}
- --name={{ . }}
{{- end }}
{{- end }}

{{- /* The ConfigMap of exposed services: one of the chart's, or one of somebody else. */ -}}
{{- define "hub.exposed" -}}
{{- if and .Values.exposedServices .Values.exposedServicesConfigMap }}
{{- fail "exposedServices and exposedServicesConfigMap: the list is one or the other" }}
{{- end }}
{{- ternary "cluster-proxy-exposed-services" .Values.exposedServicesConfigMap (not (empty .Values.exposedServices)) }}
{{- end }}

{{- /* What --unprefixed-names reads; nothing without names. */ -}}
{{- define "hub.unprefixed" -}}
{{- with .Values.unprefixedNames }}
{{- if or .users .groups }}
{{- toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "hub.container" -}}
image: {{ include "hub.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
env:
# In the environment, so that what `kubectl exec` starts beside the hub finds its state.
- {name: CLUSTER_PROXY_STATE_NAMESPACE, value: {{ .Release.Namespace }}}
{{- end }}
