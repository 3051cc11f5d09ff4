{{/* The release's name, with the chart's unless it has it already: of Deployment, Service and ServiceAccount. */}}
{{- define "kafka-backup.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 26 | trimSuffix "-") .Chart.Name -}}
{{- end -}}
{{- end -}}

{{/* The same without "-operator": of what is not part of the operator itself. */}}
{{- define "kafka-backup.prefix" -}}
{{- include "kafka-backup.fullname" . | trimSuffix "-operator" -}}
{{- end -}}

{{/* A name that no other release has, in whichever namespace: of what belongs to the cluster or to a watched namespace. */}}
{{- define "kafka-backup.clusterName" -}}
{{- printf "%s.%s" (include "kafka-backup.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "kafka-backup.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "kafka-backup.fullname" .) -}}
{{- end -}}

{{/* What a selector may hold: it cannot be changed later. */}}
{{- define "kafka-backup.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end -}}

{{- define "kafka-backup.labels" -}}
{{ include "kafka-backup.selector" . }}
app.kubernetes.io/part-of: kafka-backup
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{/* The reference of an image: (list root image). */}}
{{- define "kafka-backup.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default $root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Where the page with the metrics is, without its path. */}}
{{- define "kafka-backup.url" -}}
{{- printf "http://%s.%s.svc:%v" (include "kafka-backup.fullname" .) .Release.Namespace .Values.metrics.port -}}
{{- end -}}

{{/* Where workers push. */}}
{{- define "kafka-backup.pushUrl" -}}
{{- if .Values.pushTls.existingSecret -}}
{{- printf "https://%s.%s.svc:%v" (include "kafka-backup.fullname" .) .Release.Namespace .Values.pushTls.port -}}
{{- else -}}
{{- include "kafka-backup.url" . -}}
{{- end -}}
{{- end -}}

{{/* What Pod Security "restricted" asks of a pod and of a container. */}}
{{- define "kafka-backup.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}
{{- define "kafka-backup.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
