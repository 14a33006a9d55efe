{{/* Prefix of object names: the release's name, with the chart's unless it is already in it. */}}
{{- define "audit-operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that select Pods; they never change. Takes (list $ component). */}}
{{- define "audit-operator.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Kubernetes' recommended labels. Takes (list $ component). */}}
{{- define "audit-operator.labels" -}}
{{- $root := index . 0 -}}
{{ include "audit-operator.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: audit-operator
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The image, by digest when there is one. */}}
{{- define "audit-operator.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* Namespaces, beside the release's own, from which the controller reads ConfigMaps; as a JSON list. */}}
{{- define "audit-operator.configMapNamespaces" -}}
{{- without (uniq .Values.policyConfigMapNamespaces) .Release.Namespace | toJson -}}
{{- end -}}

{{/* Host and port of an address such as 127.0.0.1:9469 or [::]:8080, as JSON. No host when it is every one. */}}
{{- define "audit-operator.address" -}}
{{- $port := regexFind "[0-9]+$" . -}}
{{- $host := trimSuffix (printf ":%s" $port) . | trimPrefix "[" | trimSuffix "]" -}}
{{- dict "host" (has $host (list "0.0.0.0" "::") | ternary "" $host) "port" (int $port) | toJson -}}
{{- end -}}

{{/* Labels of a Pod. Takes (list $ component further-labels). */}}
{{- define "audit-operator.podLabels" -}}
{{ include "audit-operator.labels" . }}
{{- with index . 2 }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What every container of ours may do: nothing beyond its mounts. */}}
{{- define "audit-operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* A container's metrics port and probes. Takes (dict "address" ADDRESS "hostNetwork" BOOL). */}}
{{- define "audit-operator.probes" -}}
{{- $at := include "audit-operator.address" .address | fromJson -}}
ports:
  - name: metrics
    containerPort: {{ $at.port }}
    {{- if .hostNetwork }}
    hostPort: {{ $at.port }}
    {{- end }}
    protocol: TCP
{{- range $probe, $path := dict "livenessProbe" "/healthz" "readinessProbe" "/readyz" }}
{{ $probe }}:
  httpGet:
    path: {{ $path }}
    port: metrics
    scheme: HTTP
    {{- if $at.host }}
    # The kubelet asks from the node's own network.
    host: {{ $at.host | quote }}
    {{- end }}
  timeoutSeconds: 5
  periodSeconds: 10
  failureThreshold: {{ eq $probe "livenessProbe" | ternary 6 3 }}
{{- end }}
{{- end -}}
